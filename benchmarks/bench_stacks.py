"""How fast a stack opens and is read, and how much memory its distances need.

    python benchmarks/bench_stacks.py               1,000 checkpoints, and distances over 2 GB
    python benchmarks/bench_stacks.py --gb 2 20     the same, and distances over 20 GB
    python benchmarks/bench_stacks.py --files 100 --gb 0.2    a short trial

Every time is taken in a fresh interpreter. `explorer.distances` and a plain read of the same files
from the first byte to the last take turns, the order changing from round to round; nothing is
dropped from the system's cache, so that a stack smaller than free memory is read from there after
the first round, and a larger one mostly from the disk. Peak memory is the process's own (VmHWM),
with everything it imports. The files lie in a temporary folder (TMPDIR) and are removed.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import safetensors
import xarray as xr
from safetensors.numpy import save_file

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # a checkout that is not installed

from benchmarks.bench_distances import processor  # noqa: E402

LAYERS, SIDE = 200, 32
"""Of the many small checkpoints: layers of a weight and a bias each, 400 tensors."""
CHECKPOINTS, LARGE_LAYERS, COLUMNS = 20, 2, 4096
"""Of the few large ones."""
ROUNDS, LARGE_ROUNDS = 5, 3

START = """
import sys, time
from pathlib import Path
import explorer as lx
from explorer.weights import stack as stacks
folder = Path(sys.argv[1])
def timed(call):
    start = time.perf_counter()
    call()
    return time.perf_counter() - start
def both(call):
    start = time.process_time()
    return timed(call), time.process_time() - start
"""

OPENING = """
import numpy as np
times = [both(lambda: lx.open_stack([{"a": np.zeros(1)}]))]
times += [both(lambda: lx.open_stack(folder)), both(lambda: lx.open_stack(folder))]
stack = lx.open_stack(folder)
times += [both(lambda: repr(stack)), both(stack._repr_html_)]
layer = stack["layers.7"].to_dataset()
times += [both(layer.load), both(lambda: stack["layers.9"]["weight"][:, 3].values)]
print(*(number for pair in times for number in pair))
"""

DISTANCES = """
import numpy as np
lx.distances(lx.open_stack([{"a.weight": np.full(9, k, np.float32)} for k in range(2)]))
stack = lx.open_stack(folder)
seconds = timed(lambda: lx.distances(stack))
"""

PLAIN = """
buffer = memoryview(bytearray(2**20))
def read():
    for file in sorted(folder.iterdir()):
        with file.open("rb", buffering=0) as stream:
            while stream.readinto(buffer):
                pass
seconds = timed(read)
"""

PEAK = """
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(seconds, int(status["VmHWM"].split()[0]) * 1024)
"""


def measured(code: str, folder: Path) -> list[float]:
    """Numbers that a fresh interpreter prints."""
    command = [sys.executable, "-c", code, str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return [float(word) for word in done.stdout.split()]


def make_many(folder: Path, count: int) -> None:
    random = np.random.default_rng(0)
    state = {}
    for layer in range(LAYERS):
        weight, bias = (random.standard_normal(n, np.float32) for n in ((SIDE, SIDE), SIDE))
        state |= {f"layers.{layer}.weight": weight, f"layers.{layer}.bias": bias}
    for step in range(count):
        save_file(state, folder / f"step-{step:06d}.safetensors", metadata={"step": str(step)})


def make_large(folder: Path, gigabytes: float) -> int:
    """Checkpoints of random weights that drift; bytes of all."""
    rows = max(1, int(gigabytes * 1e9 / CHECKPOINTS / LARGE_LAYERS / COLUMNS / 4))
    random = np.random.default_rng(0)
    state = {
        f"layer{k}.weight": random.standard_normal((rows, COLUMNS), np.float32)
        for k in range(LARGE_LAYERS)
    }
    for epoch in range(CHECKPOINTS):
        save_file(state, folder / f"epoch-{epoch:04d}.safetensors")
        for weight in state.values():
            weight *= np.float32(1.001)
    return sum(file.stat().st_size for file in folder.iterdir())


def opening(count: int) -> list[str]:
    with tempfile.TemporaryDirectory() as name:
        make_many(Path(name), count)
        runs = [measured(START + OPENING, Path(name)) for _ in range(ROUNDS)]
    labels = (
        "what xarray imports with its first variable (dask)",
        *("open the folder", "open it again", "repr", "HTML"),
        *(f"one layer of two tensors, all {count:,} epochs", "one row of a matrix, all epochs"),
    )
    lines = [
        f"{count:,} checkpoints of {2 * LAYERS} tensors, median (fastest–slowest) of {ROUNDS} "
        "interpreters, in the system's cache",
        "",
        "| | seconds | processor seconds |",
        "|---|---|---|",
    ]
    columns = list(zip(*runs, strict=True))
    for label, *pair in zip(labels, columns[::2], columns[1::2], strict=True):
        cells = [
            f"{statistics.median(taken):.3f} ({min(taken):.3f}–{max(taken):.3f})" for taken in pair
        ]
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    return [*lines, ""]


def distances(gigabytes: float) -> str:
    """One row: distances over so many GB, and a plain read of them."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        size = make_large(folder, gigabytes)
        codes = {"ours": START + DISTANCES + PEAK, "plain": START + PLAIN + PEAK}
        found: dict[str, list[list[float]]] = {"ours": [], "plain": []}
        for round_ in range(LARGE_ROUNDS):
            for which in ("plain", "ours") if round_ % 2 == 0 else ("ours", "plain"):
                found[which].append(measured(codes[which], folder))
    rates = {which: [size / 1e9 / one[0] for one in runs] for which, runs in found.items()}
    ratios = [a / b for a, b in zip(rates["ours"], rates["plain"], strict=True)]
    cells = [
        f"{size / 1e9:.1f} GB, {CHECKPOINTS} × {LARGE_LAYERS} layers of "
        f"{size / 1e9 / CHECKPOINTS / LARGE_LAYERS:.2f} GB",
        f"{max(one[1] for one in found['ours']) / 1e9:.2f} GB",
        *(" ".join(f"{rate:.2f}" for rate in rates[which]) for which in ("ours", "plain")),
        f"**{statistics.median(ratios):.0%}** ({' '.join(f'{ratio:.0%}' for ratio in ratios)})",
    ]
    return "| " + " | ".join(cells) + " |"


def header() -> str:
    return (
        f"{datetime.date.today()} · {processor()}, {os.cpu_count()} cores, "
        f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 1e9:.0f} GB of memory · "
        f"Python {platform.python_version()}, numpy {np.__version__}, xarray {xr.__version__}, "
        f"safetensors {safetensors.__version__}\n"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gb", type=float, nargs="*", default=[2.0], help="sizes of the stacks")
    parser.add_argument("--files", type=int, default=1000, help="checkpoints that are opened")
    given = parser.parse_args(arguments)
    print(header(), flush=True)
    if given.files:
        print("\n".join(opening(given.files)), flush=True)
    print("| stack | peak memory | distances, GB/s | plain read, GB/s | of the plain read |")
    print("|---|---|---|---|---|")
    for gigabytes in given.gb:
        print(distances(gigabytes), flush=True)


if __name__ == "__main__":
    main()
