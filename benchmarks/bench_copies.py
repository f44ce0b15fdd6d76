"""How large copies of the bundled stacks are, and whether the differences of epochs are smaller.

    python benchmarks/bench_copies.py

First every tensor at every epoch sorted by bytes and compressed by zstd, as `save_stack` does for
zarr: by itself; its exclusive or with the epoch before; its difference from it as integers, the
sign folded into the last bit. Of the last two, whichever of it and the plain tensor is smaller
counts. Then the three forms of `save_stack`: size, and processor time of writing and of reading
everything again.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numcodecs.blosc import SHUFFLE, compress

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # a checkout that is not installed

import explorer as lx  # noqa: E402
from explorer.inventory.manifest import load_manifest  # noqa: E402
from explorer.weights.stack import epoch_numbers, layer_names, layer_variables, read_epoch  # noqa: E402


def size(bits: np.ndarray) -> int:
    return len(compress(bits, b"zstd", 3, SHUFFLE, 0))


def difference(now: np.ndarray, before: np.ndarray) -> np.ndarray:
    delta = (now - before).view(f"i{now.dtype.itemsize}")
    return (delta << 1) ^ (delta >> (8 * delta.dtype.itemsize - 1))


def sizes(stack: object) -> Iterator[tuple[int, int, int, int]]:
    """Bytes of each tensor at each epoch: plain, compressed, and with each of two differences."""
    for layer in layer_names(stack):
        for variable in layer_variables(stack, layer).values():
            values = variable.values
            rows = values.reshape(len(values), -1).view(f"u{values.dtype.itemsize}")
            for k, now in enumerate(rows):
                alone = size(now)
                xor, delta = alone, alone
                if k:
                    xor = min(alone, size(now ^ rows[k - 1]))
                    delta = min(alone, size(difference(now, rows[k - 1])))
                yield now.nbytes, alone, xor, delta


def row(name: str, totals: np.ndarray) -> str:
    raw, *others = totals
    shares = " | ".join(f"{one / raw:.3f}" for one in others)
    return f"| {name} | {raw / 1e6:.1f} MB | {shares} | {others[2] / others[0]:.2f} |"


def seconds(call: Callable[[], object]) -> float:
    start = time.process_time()
    call()
    return time.process_time() - start


def read_all(path: Path) -> None:
    stack = lx.open_stack(path)
    for epoch in epoch_numbers(stack):
        read_epoch(stack, epoch)


def form(name: str, suffix: str, raw: int) -> str:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"copy{suffix}"
        stack = lx.open_stack(name)
        write = seconds(lambda: lx.save_stack(stack, path))
        read = min(seconds(lambda: read_all(path)) for _ in range(3))
        files = [path] if path.is_file() else [f for f in path.rglob("*") if f.is_file()]
        total = sum(file.stat().st_size for file in files)
    return f"{total / raw:.3f}, {write:.2f} s, {read:.2f} s"


def main() -> None:
    print("| stack | plain | zstd | exclusive or | difference | difference of zstd |")
    print("|---|---|---|---|---|---|")
    found = {
        name: np.sum(list(sizes(lx.open_stack(name))), axis=0) for name in load_manifest().stacks
    }
    for name, totals in found.items():
        print(row(name, totals))
    print(row("all", np.sum(list(found.values()), axis=0)))
    print("\n| stack | folder: size, write, read | zarr | netCDF |\n|---|---|---|---|")
    for name in ("fcn3x256-digits", "vgg11-digits"):
        cells = [form(name, suffix, found[name][0]) for suffix in ("", ".zarr", ".nc")]
        print(f"| {name} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
