"""Fixtures shared by the tests."""

from __future__ import annotations

import gc
import json
import logging
import os
import shutil

# Before torch is imported. Its threads wait for each other in a spin: at a load of 12 on two cores
# a test of a small network took 28 s of wall time with two of them, 9 s with one.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
from hypothesis import settings

from explorer.inventory.manifest import load_manifest
from explorer.inventory.store import manifest_path
from explorer.weights.stack import open_stack
from tests import toy

BUNDLED = "fcn3x256-digits"

# No test is timed: on a busy machine an example of 2 ms took 254.
settings.register_profile("untimed", parent=settings(), deadline=None)
settings.load_profile("untimed")

# torch writes down what it traces, thousands of lines a test, and pytest would keep them all.
logging.getLogger("torch.__trace").propagate = False


@pytest.hookimpl(optionalhook=True)  # of pytest-xdist
def pytest_xdist_make_scheduler(config, log):
    """Let each file be run by one process, where whole files are asked for."""
    if config.getoption("dist") != "loadfile":
        return None
    from tests.workers import WholeFiles

    return WholeFiles(config, log)


def pytest_collection_finish():
    """Take what has been imported out of the reach of the collector: it stays to the end.

    Looking through it again took a second each time, and a test may ask for that.
    """
    gc.collect()
    gc.freeze()


def pytest_unconfigure():
    """Give it back at the end: some libraries count what they leave behind, and complain."""
    gc.unfreeze()


@pytest.fixture(scope="session")
def bundled():
    """Return the bundled stack."""
    return open_stack(BUNDLED)


@pytest.fixture
def copied(tmp_path):
    """Copy the bundled stack into a folder with its stack.json, to be damaged."""
    return copy_bundled(tmp_path / "copy")


def copy_bundled(folder):
    """Copy the bundled stack into a new folder with its stack.json; return the folder."""
    entry = load_manifest()[BUNDLED]
    shutil.copytree(entry.folder, folder)
    raw = json.loads(manifest_path().read_text(encoding="utf-8"))["stacks"]
    (raw,) = [stack for stack in raw if stack["name"] == BUNDLED]
    content = {"schema_version": 1, "stacks": [{**raw, "folder": "."}]}
    (folder / "stack.json").write_text(json.dumps(content), encoding="utf-8")
    return folder


@pytest.fixture
def switch():
    """Return a hand-computable stack of three epochs."""
    return open_stack(toy.switch_states(), model=toy.Switch())


@pytest.fixture
def on_bench(monkeypatch, tmp_path):
    """Return a function that puts an explorer of the tiny stack on the bench."""
    from tests.bench import workbench  # bokeh and ipywidgets, which few tests need

    yield from workbench(monkeypatch, tmp_path)
