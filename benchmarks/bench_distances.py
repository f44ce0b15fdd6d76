"""How fast `explorer.stats` measures distances, beside numpy and beside merely reading the weights.

    python benchmarks/bench_distances.py            the whole table, minutes
    python benchmarks/bench_distances.py --quick    two sizes, five checkpoints: under 30 seconds
    python benchmarks/bench_distances.py --device cuda    tensors that lie on a GPU

All of them run in this process on the same arrays, one thread each, in turns: a round calls every
one once, ours and the sums five times; a ratio is the median over rounds of the ratio within a
round, so that what else the machine does hits both sides. The plain sum is the faster of numba's
and numpy's. Of a small size there are as many different tensors as make up 10⁷ weights, as in a
stack, so that they come from memory; the row "in cache" takes one again and again.
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
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import llvmlite
import numba
import numpy as np
from threadpoolctl import threadpool_limits

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # a checkout that is not installed

from explorer.stats.distances import tensor_statistics  # noqa: E402

SIZES = (100_000, 1_000_000, 10_000_000, 50_000_000)
QUICK_SIZES = (100_000, 10_000_000)
CACHED = 100_000
CHECKPOINTS, QUICK_CHECKPOINTS = 9, 5
ROUNDS, QUICK_ROUNDS = 7, 3
TURNS = 5
QUICK_ONES = ("ours", "sum", "numpy sum")
"""These take so many turns within a round, of which the median counts."""
TOGETHER = 10_000_000
"""Weights of one checkpoint that one timed sample takes, in tensors of the size in question."""

GOALS = {"numpy": 30.0, "lean": 6.0, "read": 0.75}
"""Issue 3, Distances: times as fast, the first from 10⁷ weights on; share of the bandwidth."""

FIRST_CALL = """
from time import perf_counter
import numpy as np
from explorer.stats.tensors import tensor_statistics
weights = np.ones((2, 1000), np.float32)
start = perf_counter()
tensor_statistics(weights[0], [weights[1]])
print(perf_counter() - start)
"""

TRIVIAL = """
import numba
@numba.njit(cache=True)
def one_more(number):
    return number + 1
"""

FIRST_TRIVIAL_CALL = """
from time import perf_counter
from trivial import one_more
start = perf_counter()
one_more(1.0)
print(perf_counter() - start)
"""

Arrays = Sequence[np.ndarray]


def ours(arrays: Arrays) -> np.ndarray:
    return tensor_statistics(arrays[0], arrays[1:])


def numpy_one_at_a_time(arrays: Arrays) -> np.ndarray:
    """Each statistic as one writes it down, in float64."""
    reference, *others = arrays
    return np.array([_written_down(reference, current) for current in others])


def _written_down(r: np.ndarray, c: np.ndarray) -> list[float]:
    return [
        np.abs(c.astype(np.float64) - r.astype(np.float64)).sum(),
        np.square(c.astype(np.float64) - r.astype(np.float64)).sum(),
        np.abs(c.astype(np.float64) - r.astype(np.float64)).max(),
        np.square(r.astype(np.float64)).sum(),
        np.square(c.astype(np.float64)).sum(),
        np.count_nonzero(~(np.isfinite(r) & np.isfinite(c))),
    ]


def numpy_lean(arrays: Arrays, buffer: np.ndarray, block: int) -> np.ndarray:
    """Numpy at its best: one buffer made before, nothing computed twice, so many weights at once.

    Not finite is counted only where the maximum says that there is something to count.
    """
    reference, *others = arrays
    total = np.zeros((len(others), 6))
    for start in range(0, reference.size, block):
        r = reference[start : start + block]
        d = buffer[: r.size]
        np.copyto(d, r)
        total[:, 3] += np.dot(d, d)
        for row, other in zip(total, others, strict=True):
            c = other[start : start + block]
            np.copyto(d, c)
            row[4] += np.dot(d, d)
            np.subtract(c, r, out=d, dtype=np.float64)
            row[1] += np.dot(d, d)
            np.abs(d, out=d)
            row[0] += d.sum()
            row[2] = max(row[2], d.max())
    if not np.isfinite(total).all():
        raise ValueError("the benchmark's weights are finite")
    return total


@numba.njit(nogil=True, fastmath=True)
def plain_sum(values):
    """The least one can do with weights: read them."""
    total = np.float32(0)
    for i in range(values.size):
        total += values[i]
    return total


def contestants(size: int) -> dict[str, Callable[[Arrays], object]]:
    whole, part = np.zeros(size), np.zeros(min(size, 16_384))
    return {
        "ours": ours,
        "sum": lambda arrays: [plain_sum(array) for array in arrays],
        "numpy sum": lambda arrays: [array.sum() for array in arrays],
        "lean": lambda arrays: numpy_lean(arrays, whole, whole.size),
        "lean, blocks": lambda arrays: numpy_lean(arrays, part, part.size),
        "numpy": numpy_one_at_a_time,
    }


def seconds(call: Callable[[Arrays], object], tensors: Sequence[Arrays]) -> float:
    """Per tensor."""
    start = time.perf_counter()
    for arrays in tensors:
        call(arrays)
    return (time.perf_counter() - start) / len(tensors)


def times(size: int, checkpoints: int, rounds: int, cached: bool) -> dict[str, list[float]]:
    """Contestant → seconds per tensor of each round."""
    random = np.random.default_rng(0)
    count = max(1, TOGETHER // size)
    tensors = [
        [random.standard_normal(size, dtype=np.float32) for _ in range(checkpoints)]
        for _ in range(1 if cached else count)
    ] * (count if cached else 1)
    calls = contestants(size)
    for name in ("numpy", "lean", "lean, blocks"):  # also the warm-up
        np.testing.assert_allclose(ours(tensors[0]), calls[name](tensors[0]), rtol=1e-11)
    found: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            if name not in QUICK_ONES:
                found[name].append(seconds(call, tensors))
        taken = [[seconds(calls[name], tensors) for name in QUICK_ONES] for _ in range(1 + TURNS)]
        for name, values in zip(QUICK_ONES, zip(*taken[1:], strict=True), strict=True):
            found[name].append(statistics.median(values))  # the first turn warms up
    return found


def ratio(top: Sequence[float], bottom: Sequence[float]) -> float:
    return statistics.median(t / b for t, b in zip(top, bottom, strict=True))


def line(label: str, size: int, checkpoints: int, found: dict[str, list[float]]) -> str:
    one = found["ours"]
    read = min(("sum", "numpy sum"), key=lambda name: statistics.median(found[name]))
    gigabytes = 4e-9 * size * checkpoints
    cells = [
        label,
        f"{1e3 * statistics.median(one):.3g}",
        f"{gigabytes / statistics.median(one):.1f}",
        f"{gigabytes / statistics.median(found[read]):.1f} ({read})",
        f"**{ratio(found[read], one):.0%}**",
        f"**{ratio(found['numpy'], one):.0f}×**",
        f"**{ratio(found['lean'], one):.1f}×**",
        f"{ratio(found['lean, blocks'], one):.1f}×",
    ]
    return "| " + " | ".join(cells) + " |"


def first_call(code: str, times: int, folder: Path = ROOT) -> float:
    """Median of the seconds that so many fresh interpreters print, once the cache is warm."""
    runs = []
    for _ in range(1 + times):
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=True
        )
        runs.append(float(done.stdout))
    return statistics.median(runs[1:])  # the first one may have had to compile


def processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor() or platform.machine()
    names = [row.split(":")[1].strip() for row in text.splitlines() if row.startswith("model name")]
    return names[0] if names else platform.machine()


def header(checkpoints: int, rounds: int) -> list[str]:
    return [
        f"{datetime.date.today()} · {processor()}, {os.cpu_count()} cores · 1 thread each · "
        f"Python {platform.python_version()}, numpy {np.__version__}, numba {numba.__version__}, "
        f"llvmlite {llvmlite.__version__} · "
        f"{checkpoints} checkpoints (one is the reference), medians of {rounds} rounds, "
        f"of sums and ours {TURNS} turns in each",
        "",
        "| weights per tensor | ours, ms | ours, GB/s | plain sum, GB/s | of that bandwidth | "
        "against numpy, a statistic at a time | against lean numpy, whole arrays | "
        "against lean numpy, blocks of 16,384 |",
        "|---|---|---|---|---|---|---|---|",
    ]


def footer(rounds: int) -> list[str]:
    before = ("", "import scipy.linalg", "import torch")
    bare, with_scipy, with_torch = (first_call(each + FIRST_CALL, rounds) for each in before)
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "trivial.py").write_text(TRIVIAL, encoding="utf-8")
        floor, with_scipy_floor = (
            first_call(each + FIRST_TRIVIAL_CALL, rounds, Path(folder)) for each in before[:2]
        )
    return [
        f"Goals: {GOALS['numpy']:.0f}× from 1e7 weights on, {GOALS['lean']:.0f}×, "
        f"{GOALS['read']:.0%}; first call in a fresh interpreter with a warm cache 0.2 s.",
        f"First call, numba imported: {bare:.3f} s; {with_scipy:.3f} s where scipy.linalg, which "
        f"numba loads, is loaded already; {with_torch:.3f} s where torch is. The same of a cached "
        f"function that adds 1: {floor:.3f} s; {with_scipy_floor:.3f} s with scipy.linalg.",
    ]


def device_table(device: str, sizes: Sequence[int], checkpoints: int, rounds: int) -> list[str]:
    """Distances of torch tensors on a device, beside a plain sum there and copying them here."""
    import torch

    from explorer.stats import torch_kernels

    def elapsed(call: Callable[[], object]) -> float:
        start = time.perf_counter()
        call()
        if device != "cpu":
            torch.accelerator.synchronize()
        return time.perf_counter() - start

    name = processor() if device == "cpu" else torch.cuda.get_device_name(device)
    lines = [
        f"{datetime.date.today()} · {name} · torch {torch.__version__} · {checkpoints} "
        f"checkpoints (one is the reference), medians of {rounds} rounds",
        "",
        "| weights per tensor | ours, ms | ours, GB/s | plain sums, GB/s | against a copy to the "
        "CPU and the kernel there |",
        "|---|---|---|---|---|",
    ]
    for size in sizes:
        there = [torch.randn(size, device=device) for _ in range(checkpoints)]
        calls = {
            "ours": lambda there=there: torch_kernels.tensor_statistics(there[0], there[1:]),
            "sum": lambda there=there: [tensor.sum() for tensor in there],
            "copy": lambda there=there: ours([tensor.cpu().numpy() for tensor in there]),
        }
        np.testing.assert_allclose(calls["ours"](), calls["copy"](), rtol=1e-12)
        taken = [{name: elapsed(call) for name, call in calls.items()} for _ in range(1 + rounds)]
        found = {name: [one[name] for one in taken[1:]] for name in calls}
        one, plain = (statistics.median(found[name]) for name in ("ours", "sum"))
        gigabytes = 4e-9 * size * checkpoints
        lines.append(
            f"| {short(size)} | {1e3 * one:.3g} | {gigabytes / one:.1f} | {gigabytes / plain:.1f} "
            f"| **{ratio(found['copy'], found['ours']):.1f}×** |"
        )
    return lines


def short(size: int) -> str:
    return f"{size:.0e}".replace("e+0", "e")


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="two sizes, under 30 seconds")
    parser.add_argument("--device", help="measure torch tensors there, such as cuda")
    given = parser.parse_args(arguments)
    quick = given.quick
    sizes = QUICK_SIZES if quick else SIZES
    checkpoints = QUICK_CHECKPOINTS if quick else CHECKPOINTS
    rounds = QUICK_ROUNDS if quick else ROUNDS
    if given.device:
        print("\n".join(device_table(given.device, sizes, checkpoints, rounds)))
        return
    print("\n".join(header(checkpoints, rounds)), flush=True)
    with threadpool_limits(1):  # numpy's dot would take every core
        for size in sizes:
            found = times(size, checkpoints, rounds, cached=False)
            print(line(short(size), size, checkpoints, found), flush=True)
        found = times(CACHED, checkpoints, rounds, cached=True)
        print(line(f"{short(CACHED)}, in cache", CACHED, checkpoints, found), flush=True)
    print("\n" + "\n".join(footer(2 if quick else rounds)))


if __name__ == "__main__":
    main()
