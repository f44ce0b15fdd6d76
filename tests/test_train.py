"""Training: the recipe's numbers, resumable, the same every time."""

from __future__ import annotations

import csv
import dataclasses
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch

import explorer as lx
from explorer.errors import CheckpointError, TrainingError, UnknownNameError, UsageError
from explorer.inventory.store import checkpoint_file
from explorer.training import train as train_module
from explorer.training.recipes import Recipe, find_experiment
from explorer.weights.folder import LOG_FILE, STATE_FILE
from explorer.weights.stack import epoch_numbers, read_epoch

NAME = "fcn3x256-digits"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Folder of an uninterrupted run of three epochs."""
    return lx.train(
        NAME, out=tmp_path_factory.mktemp("run"), epochs=3, device="cpu", progress=False
    )


def same_files(a, b, epochs):
    return all(
        (a / checkpoint_file(e)).read_bytes() == (b / checkpoint_file(e)).read_bytes()
        for e in epochs
    )


def test_a_trained_folder_opens_as_a_stack_that_can_be_swept(folder):
    stack = lx.open_stack(folder)
    assert epoch_numbers(stack) == [0, 1, 2, 3]
    result = lx.sweep(stack, draws=0, device="cpu", progress=False)
    written = json.loads((folder / "stack.json").read_text())["stacks"][0]["final"]["test_error"]
    assert result.attrs["final_error"] == written
    assert not (folder / STATE_FILE).exists()


def test_the_log_has_a_line_per_epoch(folder):
    rows = list(csv.DictReader((folder / LOG_FILE).open()))
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert float(rows[0]["train_loss"]) > float(rows[2]["train_loss"])


def test_the_same_seed_gives_the_same_bytes_and_another_seed_does_not(folder, tmp_path):
    again = lx.train(NAME, out=tmp_path / "a", epochs=3, device="cpu", progress=False)
    assert same_files(folder, again, range(4))
    other = lx.train(NAME, out=tmp_path / "b", epochs=1, seed=1, device="cpu", progress=False)
    assert not same_files(folder, other, [0])


def test_the_number_of_threads_of_the_session_does_not_change_the_bytes(folder, tmp_path):
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        again = lx.train(NAME, out=tmp_path, epochs=3, device="cpu", progress=False)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
    assert same_files(folder, again, range(4))


def test_the_bundled_stack_starts_from_the_recipes_initial_values(bundled, folder):
    start = read_epoch(lx.open_stack(folder), 0)
    for name, array in read_epoch(bundled, 0).items():
        np.testing.assert_array_equal(array, start[name])


def test_an_interrupted_run_goes_on_to_the_same_bytes(folder, tmp_path, monkeypatch):
    original = train_module._Run._epoch

    def interrupted(self, epoch):
        if epoch == 3:
            raise KeyboardInterrupt
        return original(self, epoch)

    monkeypatch.setattr(train_module._Run, "_epoch", interrupted)
    with pytest.raises(KeyboardInterrupt, match=r"^$"):
        lx.train(NAME, out=tmp_path, epochs=3, device="cpu", progress=False)
    assert not (tmp_path / "stack.json").exists()
    monkeypatch.setattr(train_module._Run, "_epoch", original)
    lx.train(NAME, out=tmp_path, epochs=3, device="cpu", progress=False)
    assert same_files(folder, tmp_path, range(4))
    assert (tmp_path / LOG_FILE).read_text() == (folder / LOG_FILE).read_text()


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL exists on POSIX systems only")
def test_a_killed_run_goes_on_to_the_same_bytes(folder, tmp_path):
    command = [sys.executable, "-m", "explorer", "train", NAME, "--out", str(tmp_path)]
    command += ["--epochs", "40", "--device", "cpu"]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not (tmp_path / checkpoint_file(3)).exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert (tmp_path / STATE_FILE).exists()
    assert not (tmp_path / "stack.json").exists()
    whole = lx.train(NAME, out=tmp_path / "whole", epochs=40, device="cpu", progress=False)
    lx.train(NAME, out=tmp_path, epochs=40, device="cpu", progress=False)
    assert same_files(whole, tmp_path, [0, 1, 2, 3, 8, 40])


def test_a_finished_run_is_not_trained_again(folder, monkeypatch):
    monkeypatch.setattr(train_module._Run, "go", lambda *_: pytest.fail("trained again"))
    assert lx.train(NAME, out=folder, epochs=3, progress=False) == folder


def test_a_folder_of_another_run_is_refused(folder):
    with pytest.raises(TrainingError, match=r"holds a run whose seed is 0(.|\n)*resume=False"):
        lx.train(NAME, out=folder, epochs=3, seed=5)


def test_beginning_anew_replaces_a_finished_run(tmp_path):
    lx.train(NAME, out=tmp_path, epochs=2, seed=5, device="cpu", progress=False)
    lx.train(NAME, out=tmp_path, epochs=1, device="cpu", resume=False, progress=False)
    assert epoch_numbers(lx.open_stack(tmp_path)) == [0, 1]
    assert not (tmp_path / checkpoint_file(2)).exists()


def test_a_loss_that_explodes_stops_with_the_epoch_and_what_to_try(tmp_path):
    wild = dataclasses.replace(find_experiment(NAME), recipe=Recipe(learning_rate=1e30))
    with pytest.raises(TrainingError, match=r"loss is (nan|inf) in epoch 1(.|\n)*Lower"):
        lx.train(wild, out=tmp_path, epochs=2, device="cpu", progress=False)


def test_a_folder_below_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="could not be written"):
        lx.train(NAME, out=tmp_path / "file" / "run", epochs=1, device="cpu", progress=False)


def test_a_damaged_state_is_refused_with_the_way_out(tmp_path):
    (tmp_path / STATE_FILE).write_bytes(b"half")
    with pytest.raises(CheckpointError, match=r"cannot be read(.|\n)*resume=False"):
        lx.train(NAME, out=tmp_path, epochs=1, device="cpu", progress=False)


@pytest.mark.parametrize(
    ("name", "epochs", "error", "match"),
    [
        ("fcn3x256-digit", 1, UnknownNameError, r"Did you mean 'fcn3x256-digits'"),
        (NAME, 0, UsageError, "epochs is 0"),
    ],
)
def test_what_cannot_be_trained_is_refused(name, epochs, error, match, tmp_path):
    with pytest.raises(error, match=match):
        lx.train(name, out=tmp_path, epochs=epochs)


def test_a_device_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"device 'abacus' cannot be used(.|\n)*'auto', 'cpu'"):
        lx.train(NAME, out=tmp_path, epochs=1, device="abacus")


def test_the_learning_rate_falls_to_a_fifth_after_30_60_and_90_percent():
    recipe = Recipe(epochs=100, learning_rate=1.0)
    rates = [recipe.rate(epoch) for epoch in (1, 30, 31, 60, 61, 90, 91, 100)]
    assert rates == pytest.approx([1, 1, 0.2, 0.2, 0.04, 0.04, 0.008, 0.008])


@pytest.mark.slow
def test_the_bundled_stack_comes_from_its_recipe(bundled, tmp_path):
    """Errors agree everywhere, bytes only on the platform it was made on."""
    again = lx.open_stack(lx.train(NAME, out=tmp_path, device="cpu", progress=False))
    old, new = (lx.sweep(s, draws=0, device="cpu", progress=False) for s in (bundled, again))
    np.testing.assert_allclose(new.error.sel(epoch=100), old.error.sel(epoch=100), atol=0.01)
    np.testing.assert_allclose(new.error.sel(epoch=0), old.error.sel(epoch=0), atol=0.06)
