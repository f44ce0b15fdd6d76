"""Every writer there is, one function each: they write into a folder, and check what is there.

Run as a program it writes with a limit on the size of files, as on a disk that is full:
``python -m tests.writers full FOLDER``. Or it kills writers at random moments, so many times each:
``python -m tests.writers kill FOLDER TIMES SEED WRITER…``. They are killed in processes that are
forked off, since to import torch takes longer than most writers.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import numpy as np

import explorer as lx
from explorer.api import save_netcdf
from explorer.engine.estimate import Estimate
from explorer.engine.interventions import reinitialise
from explorer.engine.journal import Journal
from explorer.engine.results import open_sweep
from explorer.errors import CheckpointError
from explorer.inventory.placing import placed
from explorer.weights.checkpoints import SafetensorsCheckpoint, write_checkpoint
from explorer.weights.folder import load_state, save_state
from explorer.weights.stack import read_epoch

ORIGIN = {"content_hash": "abc"}
BIG = 60_000
"""Numbers in the tensor of a checkpoint; enough that writing it takes longer than renaming it."""


def state(number):
    """Tensors that tell the number they were made from, and that no compression makes small."""
    noise = np.random.default_rng(number).random(BIG, np.float32)
    return {"w": noise, "v": np.full(3, number, np.float32)}


def number_of(arrays):
    """The number of tensors of `state`, all of which must be of the same."""
    number = int(arrays["v"][0])
    for name, array in state(number).items():
        np.testing.assert_array_equal(arrays[name], array)
    return number


class Checkpoints:
    """Checkpoints of a training run."""

    def write(self, folder, number):
        write_checkpoint(folder / "epoch-0001.safetensors", state(number), number)

    def read(self, folder):
        checkpoint = SafetensorsCheckpoint(folder / "epoch-0001.safetensors")
        return number_of({name: checkpoint.read(name) for name in "wv"})


class States:
    """Where training stands."""

    def write(self, folder, number):
        save_state(folder, state(number), {"epoch": number})

    def read(self, folder):
        arrays, notes = load_state(folder)
        assert number_of(arrays) == notes["epoch"]
        return notes["epoch"]


class Results:
    """Results in netCDF."""

    def __init__(self):
        self.sweep = open_sweep("fcn3x256-digits")

    def write(self, folder, number):
        save_netcdf(self.sweep.assign_attrs(number=number), folder / "sweep.nc")

    def read(self, folder):
        found = open_sweep(folder / "sweep.nc")
        assert found.equals(self.sweep)
        return int(found.attrs["number"])


class Texts:
    """Reports, manifests, notes on the hub: texts."""

    def write(self, folder, number):
        with placed(folder / "report.html") as temporary:
            temporary.write_text(f"{number}\n" * 20_000, encoding="utf-8")

    def read(self, folder):
        lines = (folder / "report.html").read_text(encoding="utf-8").splitlines()
        assert len(lines) == 20_000
        assert len(set(lines)) == 1
        return int(lines[0])


class Copies:
    """Saved stacks of one form."""

    def __init__(self, name):
        self.name = name

    def write(self, folder, number):
        stack = lx.open_stack([state(number), state(number)])
        lx.save_stack(stack, folder / self.name)

    def read(self, folder):
        stack = lx.open_stack(folder / self.name)
        first, second = (number_of(read_epoch(stack, epoch)) for epoch in (0, 1))
        assert first == second
        return first


class Journals:
    """Finished cells of a sweep: each number adds one, and none may be lost again."""

    def write(self, folder, number):
        layers = [f"layer{k}" for k in range(30)]
        estimate = Estimate(10, 10, 3, float(number), 7, 0)
        journal = Journal(folder / "cells.jsonl", ORIGIN)
        journal.add({reinitialise(layer, number): estimate for layer in layers})

    def read(self, folder):
        journal = Journal(folder / "cells.jsonl", ORIGIN)
        numbers = [int(estimate.loss_sum) for estimate in journal.finished.values()]
        assert numbers == sorted(numbers)
        whole = [number for number in set(numbers) if numbers.count(number) == 30]
        assert set(numbers) - set(whole) <= {max(numbers)}
        return max(whole)


WRITERS = {
    "checkpoints": Checkpoints,
    "states": States,
    "results": Results,
    "texts": Texts,
    "folders": lambda: Copies("copy"),
    "netcdf": lambda: Copies("copy.nc"),
    "zarr": lambda: Copies("copy.zarr"),
    "journals": Journals,
}


def digest(folder):
    found = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        found.update(str(path.relative_to(folder)).encode() + path.read_bytes())
    return found.hexdigest()


def full(folder):
    """Name → message of each writer when nothing above 20 kB fits; what was there must stay."""
    import resource

    made = {name: make() for name, make in WRITERS.items()}
    before = {}
    for name, writer in made.items():
        (folder / name).mkdir()
        for number in range(1, 3 if name == "journals" else 2):
            writer.write(folder / name, number)
        before[name] = digest(folder / name)
    limit = (folder / "journals" / "cells.jsonl").stat().st_size + 100
    messages = {}
    for name, writer in made.items():
        most = limit if name == "journals" else 20_000
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, resource.RLIM_INFINITY))
        try:
            writer.write(folder / name, 7)
            messages[name] = "it was written all the same"
        except CheckpointError as error:
            messages[name] = str(error)
        finally:
            unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
            resource.setrlimit(resource.RLIMIT_FSIZE, unlimited)
        same = digest(folder / name) == before[name]
        messages[name] += "" if same else "\nand what was there is another"
    return messages


def kill(folder, name, times, seed):
    """Kill a writer at random moments; what it finished must be there, whole and readable.

    Returns how often it was killed, and while it wrote (a temporary, or a lock, was left behind).
    """
    writer, chance = WRITERS[name](), random.Random(seed)
    writer.write(folder, 1)  # which imports what is needed
    started = time.perf_counter()
    for number in (2, 3):
        writer.write(folder, number)
    takes = (time.perf_counter() - started) / 2
    number, amid = 3, 0
    for _ in range(times):
        read_end, write_end = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(read_end)
            with contextlib.suppress(BaseException):
                for k in range(number + 1, number + 1000):
                    os.write(write_end, b"b")
                    writer.write(folder, k)
                    os.write(write_end, b"e")
            os._exit(1)
        os.close(write_end)
        time.sleep(chance.uniform(0, 4 * takes))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status), "the writer ended by itself"
        with os.fdopen(read_end, "rb") as stream:
            told = stream.read()
        begun, ended = number + told.count(b"b"), number + told.count(b"e")
        amid += begun > ended
        found = writer.read(folder)
        assert ended <= found <= begun, f"{found} is there; {ended} was finished, {begun} begun"
        number = max(begun, number)
        writer.write(folder, number)
        assert writer.read(folder) == number
    return {"killed": times, "amid": amid}


def main():
    order, folder, *rest = sys.argv[1:]
    if order == "full":
        print(json.dumps(full(Path(folder))))
        return
    times, seed, *names = rest
    told = {}
    for name in names:
        inside = Path(folder) / name
        inside.mkdir()
        told[name] = kill(inside, name, int(times), int(seed))
    print(json.dumps(told))


if __name__ == "__main__":
    main()
