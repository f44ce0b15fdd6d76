"""A sweep that was stopped or killed goes on, and ends with the same numbers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest
import xarray as xr

import explorer as lx
from explorer.engine.estimate import Estimate
from explorer.engine.evaluator import Evaluator
from explorer.engine.interventions import Intervention
from explorer.engine.journal import Journal
from explorer.errors import CheckpointError, UsageError
from tests.test_sweep import interrupt_count

ORIGIN = {"content_hash": "abc", "device": "CPU"}
ONE = Estimate(10, 10, 3, 0.1 + 0.2, 7, 0)


def sweep(stack, store=None):
    return lx.sweep(stack, device="cpu", draws=1, progress=False, store=store)


@pytest.fixture(scope="module")
def uninterrupted(bundled):
    return sweep(bundled)


@pytest.fixture
def counted(monkeypatch):
    """Record the number of cells of every group that is measured."""
    seen = []
    original = Evaluator.count
    monkeypatch.setattr(
        Evaluator, "count", lambda s, r, t: seen.append(len(r)) or original(s, r, t)
    )
    return seen


def test_a_finished_journal_gives_the_same_result_without_measuring(
    bundled, uninterrupted, tmp_path, counted
):
    path = tmp_path / "new" / "cells.jsonl"
    xr.testing.assert_identical(sweep(bundled, path), uninterrupted)
    assert sum(counted) == 1 + 4 * 7 + 4 + 7
    counted.clear()
    xr.testing.assert_identical(sweep(bundled, path), uninterrupted)
    assert counted == []


def test_a_stopped_sweep_fills_only_what_is_missing(
    bundled, uninterrupted, tmp_path, monkeypatch, counted
):
    def act(_position, replacements):
        if "layer3.weight" in replacements[0]:
            raise KeyboardInterrupt

    path = tmp_path / "cells.jsonl"
    with monkeypatch.context() as patch:
        interrupt_count(patch, act)
        assert sweep(bundled, path).attrs["complete"] == 0
    counted.clear()
    xr.testing.assert_identical(sweep(bundled, path), uninterrupted)
    assert sum(counted) == 2 * 8 + 7


KILLED = """
import sys, time
import explorer as lx
from explorer.engine.journal import Journal
original = Journal.add
def slow(self, outcomes):
    original(self, outcomes)
    print("added", flush=True)
    time.sleep(0.3)
Journal.add = slow
lx.sweep(lx.open_stack("fcn3x256-digits"), device="cpu", draws=1, progress=False, store=sys.argv[1])
"""


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL exists on POSIX systems only")
def test_a_killed_sweep_ends_with_the_same_bits(bundled, uninterrupted, tmp_path):
    path = tmp_path / "cells.jsonl"
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(path)], stdout=subprocess.PIPE, text=True
    )
    for _ in range(2):
        assert process.stdout.readline() == "added\n"
    time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert 2 < len(path.read_bytes().splitlines()) < 41
    xr.testing.assert_identical(sweep(bundled, path), uninterrupted)


def test_a_line_that_a_crash_cut_short_is_dropped(tmp_path):
    path = tmp_path / "cells.jsonl"
    first = lx.reinitialise("layer1", 0)
    Journal(path, ORIGIN).add({first: ONE, lx.rerandomise("layer1", 1, 2): ONE})
    path.write_bytes(path.read_bytes()[:-9])
    again = Journal(path, ORIGIN)
    assert list(again.finished.values()) == [ONE]
    again.add({Intervention(()): ONE})
    assert len(Journal(path, ORIGIN).finished) == 2


def test_a_finished_cell_is_on_the_disk_when_it_has_been_added(tmp_path, monkeypatch):
    path, flushed, original = tmp_path / "cells.jsonl", [], os.fsync
    journal = Journal(path, ORIGIN)

    def flush(handle):
        original(handle)
        flushed.append(path.read_bytes().count(b"\n"))

    monkeypatch.setattr(os, "fsync", flush)
    journal.add({Intervention(()): ONE})
    assert flushed == [2]  # the header, and the cell


def test_numbers_come_back_bit_for_bit(tmp_path):
    path = tmp_path / "cells.jsonl"
    Journal(path, ORIGIN).add({Intervention(()): ONE})
    assert list(Journal(path, ORIGIN).finished.values()) == [ONE]


def test_cells_of_another_stack_are_refused_and_kept(tmp_path):
    path = tmp_path / "cells.jsonl"
    Journal(path, ORIGIN).add({Intervention(()): ONE})
    before = path.read_bytes()
    with pytest.raises(UsageError, match=r"content_hash is 'abc'(.|\n)*'xyz'(.|\n)*another path"):
        Journal(path, {**ORIGIN, "content_hash": "xyz"})
    assert path.read_bytes() == before


def test_cells_of_another_layer_scheme_are_refused(bundled, tmp_path):
    sweep(bundled, tmp_path / "cells.jsonl")
    halves = lx.open_stack("fcn3x256-digits", layers={"layer1": "layer[12]", "layer3": "layer[34]"})
    with pytest.raises(UsageError, match="holds cells whose layers_hash"):
        sweep(halves, tmp_path / "cells.jsonl")


@pytest.mark.parametrize("content", [b"hello\n", b"[1]\n", b'{"format": "else"}\n', b"cut short"])
def test_a_file_that_is_no_journal_is_refused_and_kept(tmp_path, content):
    path = tmp_path / "notes.txt"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=r"notes.txt is not the journal of a sweep"):
        Journal(path, ORIGIN)
    assert path.read_bytes() == content


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match=r"cells.jsonl cannot be used(.|\n)*may write to"):
        Journal(tmp_path / "file" / "cells.jsonl", ORIGIN)
