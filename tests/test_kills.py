"""SIGKILL at random moments: what was finished is there, and what was not is taken up again."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys

import pytest

from tests.long_works import WORKS
from tests.writers import WRITERS

pytestmark = pytest.mark.skipif(os.name != "posix", reason="SIGKILL and fork are POSIX's")

FEW, MANY, LONG = 1, 30, 20
"""Kills of each writer: by default; when there is time; and of each of the long works."""

QUICK = ("checkpoints", "states", "texts", "netcdf", "journals")
"""Writers that are killed by default; the others import more, or do as these."""

MISSING = {"zarr": "zarr", "hub": "huggingface_hub"}


def there(names):
    return [n for n in names if n not in MISSING or importlib.util.find_spec(MISSING[n])]


def told_by(*arguments, module="tests.writers"):
    done = subprocess.run(
        [sys.executable, "-m", module, *map(str, arguments)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_writer_that_is_killed_leaves_what_it_had_finished(tmp_path):
    told = told_by("kill", tmp_path, FEW, 0, *QUICK)
    assert {count["killed"] for count in told.values()} == {FEW}


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", there(WRITERS))
def test_a_writer_that_is_killed_often_leaves_what_it_had_finished(tmp_path, name):
    told = told_by("kill", tmp_path, MANY, 1, name)[name]
    assert told["killed"] == MANY
    assert told["amid"] > MANY / 2  # most of them while it was writing


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", there(WORKS))
def test_work_that_is_killed_often_ends_as_if_it_had_not_been(tmp_path, name):
    told = told_by(tmp_path, LONG, 2, name, module="tests.long_works")[name]
    assert told["killed"] == LONG
    assert told["ended"] > 0


def test_a_disk_that_is_full_leaves_what_was_there_and_is_told_by_every_writer(tmp_path):
    """The system itself refuses to write more, to Python and to libraries in C and Rust alike."""
    messages = told_by("full", tmp_path)
    assert set(messages) == set(WRITERS)
    for name, message in messages.items():
        first, accepted, advice = message.split("\n")
        assert "File too large" in first, name
        assert "on a disk with room, is needed" in accepted
        assert "is as it was" in advice or "is kept" in advice
