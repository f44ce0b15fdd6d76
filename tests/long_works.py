"""Long work that is killed at random moments and taken up again until it is done.

``python -m tests.long_works FOLDER TIMES SEED WORK…`` kills each so many times, by SIGKILL, in a
process that is forked off, since to import torch takes longer than most of the work.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import pickle
import random
import shutil
import signal
import sys
import time
import traceback
from pathlib import Path

import psutil
from safetensors import safe_open
from safetensors.numpy import save

import explorer as lx
from explorer.inventory.hub import Hub
from explorer.inventory.placing import placed
from explorer.weights.stack import epoch_numbers, read_epoch
from tests.hub_server import hub_server
from tests.writers import number_of, state

SIZES = {"width": 16, "batch_size": 256}
"""So small that importing and reading the data set takes most of the time."""


class Train:
    """A training run: checkpoints, its state, log and stack.json."""

    def do(self, folder, _):
        lx.train(
            "fcn3x256-digits",
            out=folder / "run",
            epochs=6,
            settings={**SIZES, "keep": [0, 1, 2, 3, 4, 5, 6]},
            device="cpu",
            progress=False,
        )
        names = sorted(path.name for path in (folder / "run").iterdir())
        files = {name: (folder / "run" / name).read_bytes() for name in names}
        rows = files.pop("log.csv").splitlines()
        assert rows[0].endswith(b",examples_per_second")  # which is another each time
        return files, [row.rpartition(b",")[0] for row in rows]

    def look(self, folder, whole):
        """Count the checkpoints, each of which must be the one of the undisturbed run."""
        found = sorted((folder / "run").glob("epoch-*.safetensors"))
        for path in found:
            assert path.read_bytes() == (whole / "run" / path.name).read_bytes(), path.name
        if found:
            stack = lx.open_stack(folder / "run")
            assert len(epoch_numbers(stack)) == len(found)
            read_epoch(stack, epoch_numbers(stack)[-1])
        return len(found)


class Sweep:
    """A sweep whose finished cells are kept."""

    def do(self, folder, _):
        stack = lx.open_stack("fcn3x256-digits")
        options = {"device": "cpu", "draws": 1, "progress": False, "batch_size": 900}
        found = lx.sweep(stack, epochs=[0, 2, 90], store=folder / "cells", **options)
        return found.to_netcdf(engine="h5netcdf").tobytes()

    def look(self, folder, whole):
        """Count the finished cells, each of which must be as in the undisturbed sweep."""
        if not (folder / "cells").exists():
            return 0
        content = (folder / "cells").read_bytes()
        lines = content[: content.rfind(b"\n") + 1].splitlines()
        wanted = (whole / "cells").read_bytes().splitlines()
        assert lines[0] == wanted[0]
        assert set(lines) <= set(wanted)
        assert len(set(lines)) == len(lines)
        return len(lines) - 1


class Save:
    """Stacks that are saved in every form, one over another."""

    FORMS = ("copy", "copy.nc", "copy.zarr")

    def do(self, folder, _):
        for number in (1, 2, 3):
            for form in self.FORMS:
                stack = lx.open_stack([state(number), state(number + 1)])
                lx.save_stack(stack, folder / form)
        return [self._numbers(folder / form) for form in self.FORMS]

    def look(self, folder, _whole):
        """Count the stacks that are there: each opens, and is of one piece."""
        found = 0
        for form in self.FORMS:
            with contextlib.suppress(*MISSING):
                first, second = self._numbers(folder / form)
                assert second == first + 1
                found += 1
        return found

    def _numbers(self, path):
        stack = lx.open_stack(path)
        return [number_of(read_epoch(stack, epoch)) for epoch in epoch_numbers(stack)]


class Cache:
    """The cache of a hub, filled with one checkpoint after the other."""

    STEPS = 6

    def do(self, folder, server):
        here = Hub(folder=folder / "hub", endpoint=server.address, progress=False)
        stack = lx.open_stack("hub:a/b", hub=here, layers="fine")
        return [read_epoch(stack, epoch)["w"].tobytes() for epoch in epoch_numbers(stack)]

    def look(self, folder, whole):
        """Count the files, each of which must be as in the cache that nobody disturbed."""
        found = sorted((folder / "hub").glob("models--*/snapshots/*/*.safetensors"))
        for path in found:
            assert path.read_bytes() == (whole / path.relative_to(folder)).read_bytes()
            with safe_open(path, framework="numpy") as file:
                number_of({name: file.get_tensor(name) for name in "wv"})
        return len(found)


MISSING = (FileNotFoundError, KeyError)
"""How opening says that nothing is there yet."""

WORKS = {"train": Train, "sweep": Sweep, "save": Save, "hub": Cache}


def forked(work):
    """Begin work in a process of its own; returns its number."""
    child = os.fork()
    if child:
        return child
    try:
        work()
        os._exit(0)
    except BaseException:
        traceback.print_exc()
    os._exit(1)


def wait_for(child, seconds):
    """Wait until a process has used so much processor time, however busy the machine, or ends."""
    process = psutil.Process(child)
    while process.status() != psutil.STATUS_ZOMBIE:
        used = process.cpu_times()
        if used.user + used.system >= seconds:
            return
        time.sleep(0.002)


def resume(folder, name, times, seed):
    """Kill work at random moments, look at what is there, and take it up again until it is done.

    What comes out must be, byte for byte, what comes out of work that nobody disturbed. Returns
    how often it was killed, how often it came to its end, and how much was there after the kills.
    """
    chance, work = random.Random(seed), WORKS[name]()
    for module in ("sklearn.datasets", "explorer.training.train", "explorer.engine.sweep"):
        importlib.import_module(module)  # once, and not in every process that is killed
    with hub_server() as server:
        for step in range(Cache.STEPS):
            server.put("a/b", f"step{step}", {"model.safetensors": save(state(step))})

        def do(into):
            result = pickle.dumps(work.do(into, server))
            with placed(into / "result") as temporary:
                temporary.write_bytes(result)

        whole = folder / "whole"
        child = forked(lambda: do(whole))
        _, status, used = os.wait4(child, 0)
        assert status == 0
        takes = used.ru_utime + used.ru_stime
        wanted = (whole / "result").read_bytes()
        there, killed, ended = [], 0, 0
        while killed < times or ended == 0 or (folder / f"{ended}").exists():
            into = folder / f"{ended}"
            child = forked(lambda: do(into))  # noqa: B023 - it has forked before the next turn
            if killed < times:
                wait_for(child, chance.uniform(0, takes))
                time.sleep(chance.uniform(0, 0.02))
                os.kill(child, signal.SIGKILL)
            status = os.waitpid(child, 0)[1]
            if os.WIFSIGNALED(status):
                killed += 1
                into.mkdir(exist_ok=True)
                there.append(work.look(into, whole))
            else:
                assert status == 0, "the work failed"
                assert (into / "result").read_bytes() == wanted, "it is another result"
                shutil.rmtree(into)
                ended += 1
    half_way = sum(0 < count < work.look(whole, whole) for count in there)
    return {"killed": killed, "ended": ended, "half_way": half_way}


def main():
    folder, times, seed, *names = sys.argv[1:]
    told = {}
    for name in names:
        inside = Path(folder) / name
        inside.mkdir()
        told[name] = resume(inside, name, int(times), int(seed))
    print(json.dumps(told))


if __name__ == "__main__":
    main()
