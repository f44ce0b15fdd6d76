"""A sweep that was stopped or killed goes on, and ends with the same numbers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest
import torch
import xarray as xr
from torch import nn

import explorer as lx
from explorer.engine.estimate import Estimate
from explorer.engine.evaluator import Evaluator
from explorer.engine.interventions import Intervention
from explorer.engine.journal import Journal, _agree
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


# --- what a file of counts is of ------------------------------------------------------------------


@pytest.fixture
def store(tmp_path):
    return tmp_path / "cells.jsonl"


def small(activation):
    return nn.Sequential(nn.Linear(4, 8), activation, nn.BatchNorm1d(8), nn.Linear(8, 3))


def small_sweep(network, states, store, **options):
    stack = lx.open_stack(states, model=network)
    data = (torch.eye(4).repeat(5, 1), torch.arange(20) % 3)
    measuring = {"model": network, "data": data, "draws": 0, "progress": False, "device": "cpu"}
    return lx.sweep(stack, store=store, **measuring, **options)


def small_states():
    network = small(nn.ReLU())
    return [{n: t + k * 0.1 for n, t in network.state_dict().items()} for k in range(3)]


@pytest.mark.filterwarnings("ignore::explorer.errors.NumbersWarning")
def test_counts_of_another_forward_pass_are_not_taken_for_this_ones(store):
    states = small_states()
    small_sweep(small(nn.ReLU()), states, store)
    small_sweep(small(nn.ReLU()), states, store)  # the same network, built again
    with pytest.raises(UsageError, match=r"cells whose first_logits"):
        small_sweep(small(nn.Sigmoid()), states, store)


@pytest.mark.filterwarnings("ignore::explorer.errors.NumbersWarning")
def test_counts_of_other_training_examples_are_not_taken_for_these(store):
    states, inputs = small_states(), torch.randn(30, 4)
    anew = {"batchnorm": "recalibrate"}
    small_sweep(small(nn.ReLU()), states, store, calibration=inputs, **anew)
    small_sweep(small(nn.ReLU()), states, store, calibration=inputs.clone(), **anew)
    with pytest.raises(UsageError, match=r"cells whose calibration_hash"):
        small_sweep(small(nn.ReLU()), states, store, calibration=3 * inputs, **anew)


def test_counts_of_another_final_network_are_not_taken_for_this_ones(bundled, store):
    options = {"draws": 0, "progress": False, "device": "cpu", "epochs": [0], "store": store}
    lx.sweep(bundled, **options)
    with pytest.raises(UsageError, match=r"cells whose final_epoch"):
        lx.sweep(bundled.sel(epoch=slice(0, 3)), **options)


def test_numbers_of_a_header_agree_up_to_rounding():
    assert _agree("1 -20.001 0", "1.001 -20 0.0001")
    assert not _agree("1 -20", "1 -19.9")
    assert not _agree("1 2", "1 2 3")
    assert not _agree("float32", "float16")
    assert not _agree(None, "1 2")
    assert _agree("", "")
    assert _agree(0.0, 0.0)
    assert not _agree("nan", "1")
