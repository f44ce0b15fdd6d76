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
from explorer.errors import (
    CheckpointError,
    StackError,
    TrainingError,
    UnknownNameError,
    UsageError,
)
from explorer.inventory.store import checkpoint_file
from explorer.training import train as train_module
from explorer.training.loop import Trainer, cross_entropy, measured
from explorer.training.recipe import Recipe
from explorer.training.recipes import BUNDLED, EXPERIMENTS, find_experiment
from explorer.training.settings import with_settings
from explorer.weights.folder import LOG_FILE, STATE_FILE
from explorer.weights.stack import epoch_numbers, open_stack, read_epoch

NAME = "fcn3x256-digits"
CPU = torch.device("cpu")
STEPS = 12
"""Optimiser steps per epoch: 1,437 examples in batches of 128."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Folder of an uninterrupted run of three epochs."""
    return lx.train(
        NAME, out=tmp_path_factory.mktemp("run"), epochs=3, device="cpu", progress=False
    )


def trained(out, epochs=1, **settings):
    """Folder of a short run with settings."""
    return lx.train(NAME, out=out, epochs=epochs, device="cpu", progress=False, settings=settings)


def state(folder, number):
    """Tensors of one checkpoint."""
    return read_epoch(open_stack(folder), number)


def trainer(**settings):
    """Network, optimiser and examples, nothing trained yet."""
    return Trainer(with_settings(find_experiment(NAME), settings), CPU)


def log_of(folder):
    """Rows of the log, without the speed, which is never the same twice."""
    rows = list(csv.DictReader((folder / LOG_FILE).open()))
    return [{k: v for k, v in row.items() if k != "examples_per_second"} for row in rows]


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
    assert list(rows[0]) == [
        *("epoch", "step", "rate", "train_loss", "train_error", "test_loss", "test_error"),
        "examples_per_second",
    ]
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert [row["step"] for row in rows] == ["12", "24", "36"]
    for column in ("train_loss", "test_loss"):
        assert float(rows[0][column]) > float(rows[2][column])
    assert all(float(row["examples_per_second"]) > 0 for row in rows)


def test_the_log_is_there_after_every_epoch(tmp_path, monkeypatch):
    monkeypatch.setattr(train_module._Run, "_finish", lambda run: None)
    trained(tmp_path)
    assert len(log_of(tmp_path)) == 1


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


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"optimiser": "adam", "learning_rate": 1e-3, "weight_decay": 0.1},
        {"optimiser": "adamw", "learning_rate": 1e-3, "batchnorm": 1, "frozen": "layer2"},
        {"steps": [1, 2, 30]},
    ],
)
def test_an_interrupted_run_goes_on_to_the_same_bytes(settings, tmp_path, monkeypatch):
    whole = trained(tmp_path / "whole", epochs=3, **settings)
    original = Trainer.epoch

    def interrupted(self, epoch, after_step):
        if epoch == 3:
            raise KeyboardInterrupt
        return original(self, epoch, after_step)

    monkeypatch.setattr(Trainer, "epoch", interrupted)
    with pytest.raises(KeyboardInterrupt, match=r"^$"):
        trained(tmp_path, epochs=3, **settings)
    assert not (tmp_path / "stack.json").exists()
    monkeypatch.setattr(Trainer, "epoch", original)
    again = trained(tmp_path, epochs=3, **settings)
    files = sorted(path.name for path in whole.glob("*.safetensors"))
    assert len(files) >= 4
    assert sorted(path.name for path in again.glob("*.safetensors")) == files
    assert all((again / name).read_bytes() == (whole / name).read_bytes() for name in files)
    assert log_of(again) == log_of(whole)


def test_an_interrupted_run_does_not_go_on_as_another(tmp_path, monkeypatch):
    monkeypatch.setattr(train_module._Run, "_finish", lambda run: None)
    trained(tmp_path)
    with pytest.raises(TrainingError, match=r"recipe.momentum is 0.9(.|\n)*This run's is 0.5"):
        trained(tmp_path, momentum=0.5)


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL exists on POSIX systems only")
@pytest.mark.parametrize(
    ("settings", "wait_for"),
    [
        ({"optimiser": "adam", "steps": "1,2,20"}, checkpoint_file(20, "step")),
        pytest.param({}, checkpoint_file(3), marks=pytest.mark.slow),
    ],
)
def test_a_killed_run_goes_on_to_the_same_bytes(settings, wait_for, tmp_path):
    command = [sys.executable, "-m", "explorer", "train", NAME, "--epochs", "12", "--device", "cpu"]
    for key, value in settings.items():
        command += ["--set", f"{key}={value}"]
    process = subprocess.Popen(
        [*command, "--out", str(tmp_path)], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 60
    while not (tmp_path / wait_for).exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert (tmp_path / STATE_FILE).exists()
    assert not (tmp_path / "stack.json").exists()
    whole = trained(tmp_path / "whole", epochs=12, **settings)
    trained(tmp_path, epochs=12, **settings)
    files = sorted(path.name for path in whole.glob("*.safetensors"))
    assert wait_for in files
    assert all((tmp_path / name).read_bytes() == (whole / name).read_bytes() for name in files)


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
    expected = r"loss is (nan|inf) in epoch 1, step 2 of 12, at rate 1e\+30(.|\n)*Lower learning"
    with pytest.raises(TrainingError, match=expected):
        lx.train(wild, out=tmp_path, epochs=2, device="cpu", progress=False)
    assert epoch_numbers(open_stack([tmp_path / checkpoint_file(0)])) == [0]


def test_weights_that_a_last_step_has_ruined_are_not_kept(tmp_path):
    """The loss of the only step is that of the initial values and finite."""
    with pytest.raises(TrainingError, match=r"loss is nan in epoch 1, step 1 of 1"):
        trained(tmp_path, learning_rate=1e38, batch_size=2000)
    assert [path.name for path in tmp_path.glob("epoch-*")] == [checkpoint_file(0)]


def test_a_step_with_an_infinite_loss_before_it_is_not_kept(tmp_path):
    with pytest.raises(TrainingError, match=r"loss is nan in epoch 1, step 2"):
        trained(tmp_path, learning_rate=1e38, steps=[5])
    assert not (tmp_path / checkpoint_file(5, "step")).exists()


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


def test_other_checkpoints_than_a_runs_own_are_refused(folder, tmp_path):
    with pytest.raises(TrainingError, match=r"holds a run whose keep is \[0, 1, 2, 3\]"):
        lx.train(NAME, out=folder, epochs=3, settings={"keep": [3]})
    with pytest.raises(TrainingError, match=r"unit is not given\.\nThis run's is 'step'"):
        lx.train(NAME, out=folder, epochs=3, settings={"steps": [1]})
    with pytest.raises(TrainingError, match=r"recipe.weight_decay is 0.0\.\nThis run's is 0.1"):
        lx.train(NAME, out=folder, epochs=3, settings={"weight_decay": 0.1})


def test_a_negative_seed_is_refused_before_anything_is_trained(tmp_path):
    with pytest.raises(UsageError, match=r"seed is -1(.|\n)*from 0"):
        lx.train(NAME, out=tmp_path, seed=-1)


# --- each setting does what it says ----------------------------------------------------------


@pytest.mark.parametrize(
    "setting",
    [
        *({"momentum": 0.5}, {"weight_decay": 0.1}, {"batch_size": 100}, {"optimiser": "adam"}),
        *({"schedule": "cosine"}, {"warmup": 1}, {"clip_norm": 0.01}, {"augment": 0}),
        *({"label_noise": 0.5}, {"frozen": "layer2"}, {"batchnorm": 1}, {"width": 100}),
    ],
    ids=str,
)
def test_a_setting_changes_what_is_trained(setting, folder, tmp_path):
    plain, other = state(folder, 1), state(trained(tmp_path, **setting), 1)
    assert not np.array_equal(plain["layer4.bias"], other["layer4.bias"])


def test_without_a_setting_the_first_epoch_is_the_same_however_many_follow(folder, tmp_path):
    assert same_files(folder, trained(tmp_path), [0, 1])


def test_frozen_layers_keep_their_initial_bits_and_the_others_learn(tmp_path):
    folder = trained(tmp_path, epochs=2, batchnorm=1, weight_decay=0.1, frozen="layer2,layer3")
    first, last = state(folder, 0), state(folder, 2)
    still = {name for name in first if np.array_equal(first[name], last[name])}
    assert still == {n for n in first if n.split(".")[0] in {"layer2", "norm2", "layer3", "norm3"}}
    assert {"norm2.running_mean", "norm3.num_batches_tracked", "layer2.weight"} <= still


def test_a_frozen_normalisation_trains_with_the_statistics_it_is_tested_with():
    one = trainer(batchnorm=1, frozen="layer2")
    one._pass(1, lambda step: None)
    modes = {name: m.training for name, m in one.network.named_modules() if "norm" in name}
    assert modes == {"norm1": True, "norm2": False, "norm3": True}


def test_a_layer_that_is_not_there_cannot_be_frozen_nor_can_all_layers(tmp_path):
    with pytest.raises(UnknownNameError, match=r"no layer 'layer9'(.|\n)*layer1, layer2"):
        trained(tmp_path, frozen="layer9")
    with pytest.raises(UsageError, match=r"All 4 layers are frozen(.|\n)*At least one"):
        trained(tmp_path, frozen="layer1,layer2,layer3,layer4")
    assert list(tmp_path.iterdir()) == []


def test_with_random_labels_the_true_ones_are_not_learnt(tmp_path):
    settings = {"epochs": 5, "optimiser": "adam", "learning_rate": 1e-3}
    true = trained(tmp_path / "true", **settings)
    noisy = trained(tmp_path / "noisy", label_noise=1, **settings)
    assert float(log_of(true)[-1]["test_error"]) < 0.6
    assert float(log_of(noisy)[-1]["test_error"]) > 0.8


def test_without_augmentation_every_epoch_has_the_same_images():
    def images(one, epoch):
        return {x.numpy().tobytes() for inputs, _ in one._seen(epoch) for x in inputs}

    assert images(trainer(augment=0), 1) == images(trainer(augment=0), 2)
    assert images(trainer(), 1) != images(trainer(), 2)


def test_accumulated_gradients_are_those_of_the_whole_batch(folder, tmp_path):
    parts = trained(tmp_path / "parts", accumulate=5)
    for name, array in state(folder, 1).items():
        np.testing.assert_allclose(state(parts, 1)[name], array, atol=1e-5)


def test_accumulation_passes_parts_of_a_batch(tmp_path):
    """Seen from what depends on the batch: the statistics of batch normalisation."""
    one, seen = trainer(accumulate=3), []
    one.network.register_forward_hook(lambda net, given, out: seen.append(len(given[0])))
    one._step(torch.zeros(10, 784), torch.zeros(10, dtype=torch.int64))
    assert seen == [4, 4, 2]


def test_the_first_step_of_adam_moves_every_weight_by_the_rate(tmp_path):
    folder = trained(tmp_path, optimiser="adam", learning_rate=1e-3, steps=[1])
    moved = np.abs(state(folder, 1)["layer4.weight"] - state(folder, 0)["layer4.weight"])
    assert np.median(moved) == pytest.approx(1e-3, rel=0.01)
    assert moved.max() < 1.01e-3


def test_the_betas_are_adams(tmp_path):
    plain, other = (
        state(trained(tmp_path / betas, optimiser="adam", betas=betas), 1)
        for betas in ("0.9,0.999", "0.5,0.999")
    )
    assert not np.array_equal(plain["layer4.bias"], other["layer4.bias"])


def test_weight_decay_is_part_of_adams_gradient_but_not_of_adamws(tmp_path):
    settings = {"learning_rate": 1e-3, "weight_decay": 10.0, "steps": [1]}
    moved = {}
    for optimiser in ("adam", "adamw"):
        folder = trained(tmp_path / optimiser, optimiser=optimiser, **settings)
        before, after = state(folder, 0)["layer1.weight"], state(folder, 1)["layer1.weight"]
        moved[optimiser] = np.abs(after - before * (0.99 if optimiser == "adamw" else 1.0))
    assert moved["adam"].max() < 1.01e-3
    assert np.median(moved["adamw"]) == pytest.approx(1e-3, rel=0.01)


def test_a_clipped_gradient_is_no_longer_than_its_norm(tmp_path):
    folder = trained(tmp_path, learning_rate=1.0, momentum=0.0, clip_norm=0.01, steps=[1])
    before, after = state(folder, 0), state(folder, 1)
    length = sum(float(((after[n] - before[n]) ** 2).sum()) for n in before) ** 0.5
    assert length == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize("precision", ["bf16", "tf32"])
def test_a_precision_that_the_cpu_lacks_is_refused_before_anything_is_removed(
    precision, folder, tmp_path
):
    (tmp_path / checkpoint_file(0)).write_bytes((folder / checkpoint_file(0)).read_bytes())
    with pytest.raises(UsageError, match=rf"'{precision}' on the device 'cpu'(.|\n)*CUDA"):
        lx.train(NAME, out=tmp_path, device="cpu", resume=False, settings={"precision": precision})
    assert (tmp_path / checkpoint_file(0)).exists()


def test_chance_within_an_epoch_depends_on_seed_and_epoch_only():
    """As dropout draws it; the caller's generator is left as it was."""

    def drawn(epoch):
        found = []
        trainer().epoch(epoch, lambda step: found.append(float(torch.rand(1))))
        return found

    torch.manual_seed(1)
    first = drawn(1)
    torch.manual_seed(2)
    assert drawn(1) == first
    assert drawn(2) != first
    here = float(torch.rand(1))
    torch.manual_seed(2)
    assert float(torch.rand(1)) == here


# --- checkpoints within an epoch -------------------------------------------------------------


def test_with_checkpoints_within_an_epoch_the_stack_counts_steps(folder, tmp_path):
    run = trained(tmp_path, epochs=3, keep=[1, 3], steps=[1, 2, 4, 8, STEPS])
    stack = lx.open_stack(run)
    assert epoch_numbers(stack) == [0, 1, 2, 4, 8, STEPS, 3 * STEPS]
    assert stack.attrs["checkpoint_unit"] == "step"
    assert json.loads((run / "stack.json").read_text())["stacks"][0]["unit"] == "step"
    assert [path.name for path in run.glob("epoch*")] == []
    for epoch in (0, 1, 3):  # what is kept at the end of an epoch is the same either way
        for name, array in state(folder, epoch).items():
            np.testing.assert_array_equal(state(run, epoch * STEPS)[name], array)
    assert trained(tmp_path, epochs=3, keep=[1, 3], steps=[1, 2, 4, 8, STEPS]) == run


def test_a_run_without_them_counts_epochs(folder):
    assert lx.open_stack(folder).attrs["checkpoint_unit"] == "epoch"
    assert "unit" not in json.loads((folder / "stack.json").read_text())["stacks"][0]


def test_a_step_beyond_the_run_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"steps holds 13(.|\n)*has 12 optimiser steps, 12 per"):
        trained(tmp_path, steps=[1, 13])


def test_beginning_anew_removes_checkpoints_of_steps_too(tmp_path):
    trained(tmp_path, steps=[1])
    lx.train(NAME, out=tmp_path, epochs=1, device="cpu", resume=False, progress=False)
    assert list(tmp_path.glob("step-*")) == []


def test_the_files_of_an_unfinished_run_say_what_they_count(folder, tmp_path):
    run = trained(tmp_path / "run", steps=[1, 2])
    (run / "stack.json").unlink()
    assert lx.open_stack(run).attrs["checkpoint_unit"] == "step"
    files = [folder / checkpoint_file(1), run / checkpoint_file(2, "step")]
    assert lx.open_stack(files[:1]).attrs["checkpoint_unit"] == "epoch"
    with pytest.raises(StackError, match=r"step-000002\S* and epoch-0001\S* among(.|\n)*either"):
        lx.open_stack(files)


# --- other families --------------------------------------------------------------------------


@pytest.mark.parametrize("name", BUNDLED)
def test_an_experiment_that_is_to_be_bundled_makes_its_first_step(name):
    one = Trainer(EXPERIMENTS[name], CPU)
    [(inputs, labels), *_] = one._tested()
    before = {name: array.copy() for name, array in one.arrays().items()}
    loss = float(one._step(inputs[:4], labels[:4]))
    classes = one.network(inputs[:1]).shape[-1]
    assert loss == pytest.approx(np.log(classes), rel=0.25)  # near chance, as initial values are
    assert any(not np.array_equal(a, before[n]) for n, a in one.arrays().items())


def test_a_language_model_is_trained_on_every_position(tmp_path):
    text = tmp_path / "abc.txt"
    text.write_text("abc" * 400)
    sizes = {"depth": 1, "heads": 1, "width": 0.25, "vocabulary": 256, "positions": 8}
    experiment = dataclasses.replace(
        find_experiment("transformer-text"), sizes=sizes, dataset=f"text:{text},length=8", keep=(0,)
    )
    run = lx.train(experiment, out=tmp_path / "run", epochs=6, device="cpu", progress=False)
    errors = [float(row["test_error"]) for row in log_of(run)]
    assert errors[-1] < 0.05 < errors[0]
    assert epoch_numbers(lx.open_stack(run)) == [0, 6]


def test_errors_and_losses_are_means_over_all_positions():
    """Two texts of two positions, three classes; one of four predictions is wrong."""
    logits = torch.tensor([[[5.0, 0, 0], [0, 5, 0]], [[0, 0, 5], [5, 0, 0]]])
    labels = torch.tensor([[0, 1], [2, 2]])
    loss = cross_entropy(logits, labels)
    assert float(loss) == pytest.approx(float(np.log(np.exp(5) + 2)) - 15 / 4)
    error, mean_loss = measured(torch.nn.Identity(), [(logits[:1], labels[:1]), (logits, labels)])
    assert error == 1 / 6
    assert mean_loss == pytest.approx(float(np.log(np.exp(5) + 2)) - 25 / 6)


@pytest.mark.slow
def test_the_bundled_stack_comes_from_its_recipe(bundled, tmp_path):
    """Errors agree everywhere, bytes only on the platform it was made on."""
    again = lx.open_stack(lx.train(NAME, out=tmp_path, device="cpu", progress=False))
    old, new = (lx.sweep(s, draws=0, device="cpu", progress=False) for s in (bundled, again))
    np.testing.assert_allclose(new.error.sel(epoch=100), old.error.sel(epoch=100), atol=0.01)
    np.testing.assert_allclose(new.error.sel(epoch=0), old.error.sel(epoch=0), atol=0.06)
