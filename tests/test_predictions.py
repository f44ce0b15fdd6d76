"""Answers example by example: the labels that the counts are made of."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import xarray as xr

import explorer as lx
from explorer.api import save_netcdf
from explorer.data.datasets import as_examples
from explorer.data.tokenizers import ByteTokenizer
from explorer.engine import counting
from explorer.engine import screen as screen_module
from explorer.engine.counting import Counting
from explorer.engine.evaluator import Evaluator
from explorer.engine.interventions import Intervention
from explorer.engine.predictions import Remembered
from explorer.engine.provenance import open_journal
from explorer.errors import InterventionError, UnknownNameError
from explorer.weights.families.known import build_network
from explorer.weights.stack import read_epoch, read_layer
from tests import toy

LAYER1 = lx.reinitialise("layer1", 0)


@pytest.fixture
def evaluator(bundled):
    return Evaluator(bundled, device="cpu", batch_size=700)


def network_at(stack, replaced=()):
    """A plain copy of the final network, with some layers as they were at epoch 0."""
    network = build_network(stack.attrs["family"], stack.attrs["sizes"]).eval()
    state = {name: torch.from_numpy(a) for name, a in read_epoch(stack, 100).items()}
    for layer in replaced:
        state |= {n: torch.from_numpy(a) for n, a in read_layer(stack, layer, 0).items()}
    network.load_state_dict(state)
    return network


def test_answers_are_those_of_a_plain_copy_in_the_order_of_the_dataset(bundled):
    found = lx.predictions(bundled, LAYER1, device="cpu")
    examples = as_examples("digits28")
    assert (found["label"].values == examples.labels.numpy()).all()
    for name, replaced in (("intact", ()), ("patched", ["layer1"])):
        with torch.inference_mode():
            plain = network_at(bundled, replaced)(examples.inputs).argmax(1)
        assert (found[name].values == plain.numpy()).all()
    assert found.attrs["class_names"] == [str(digit) for digit in range(10)]
    assert found.attrs["intervention"] == "layer1 ← epoch 0"
    assert found.attrs["content_hash"] == bundled.attrs["content_hash"]


@pytest.mark.parametrize("screen", [False, True])
def test_the_counts_are_those_of_the_answers(bundled, screen):
    evaluator = Evaluator(bundled, device="cpu", screen=screen)
    for intervention in (LAYER1, lx.rerandomise("layer4"), lx.reinitialise("layer3", 8)):
        counts = evaluator.result(intervention)
        found = evaluator.predictions(intervention)
        was_right, is_right = found.intact == found.labels, found.patched == found.labels
        assert counts.errors == (~is_right).sum()
        assert counts.turned_wrong == (was_right & ~is_right).sum()
        assert counts.turned_right == (~was_right & is_right).sum()
        assert counts.agreements == (found.intact == found.patched).sum()


@pytest.fixture
def screened(bundled, monkeypatch):
    """A screen in bfloat16, whether or not this processor is faster with it."""
    monkeypatch.setattr("explorer.engine.execution.low_precision", lambda _device: torch.bfloat16)
    return Evaluator(bundled, device="cpu", screen=True)


THIN = [lx.reinitialise("layer1", 0), lx.rerandomise("layer2"), lx.rerandomise("layer1", 1)]
"""Under these bfloat16 alone gets some labels wrong."""


def labels_under(evaluator, interventions):
    return np.stack([evaluator.predictions(i).patched for i in interventions])


def test_with_a_screen_the_labels_are_those_of_float32(evaluator, screened):
    np.testing.assert_array_equal(labels_under(screened, THIN), labels_under(evaluator, THIN))


def test_without_its_checks_a_screen_gives_other_labels(evaluator, screened, monkeypatch):
    """The tests of the screen can fail."""
    monkeypatch.setattr(screen_module, "SAFETY", 0.0)
    found, exact = labels_under(screened, THIN), labels_under(evaluator, THIN)
    assert (found != exact).any(1).all()


def test_labels_that_are_counted_again_are_those_of_float32(evaluator, screened, monkeypatch):
    monkeypatch.setattr(screen_module, "SAFETY", 0.0)
    monkeypatch.setattr(screen_module.Watch, "failed", property(lambda self: True))
    np.testing.assert_array_equal(labels_under(screened, THIN), labels_under(evaluator, THIN))


def test_a_screen_that_is_given_up_after_the_first_slice_leaves_labels_of_float32(
    evaluator, screened, monkeypatch
):
    monkeypatch.setattr(counting, "HOPELESS", -1.0)
    np.testing.assert_array_equal(labels_under(screened, THIN), labels_under(evaluator, THIN))


def test_after_a_click_the_answers_need_no_further_pass(evaluator, monkeypatch):
    evaluator.result(LAYER1)
    monkeypatch.setattr(Evaluator, "count", lambda *_a, **_o: pytest.fail("another pass"))
    assert evaluator.predictions(LAYER1).patched.shape == (1800,)


def test_without_a_click_before_they_are_counted(evaluator):
    found = evaluator.predictions(LAYER1)
    assert (found.patched != found.labels).mean() == evaluator.result(LAYER1).error


def test_the_intact_network_turns_nothing(evaluator):
    found = evaluator.predictions(Intervention(()))
    assert (found.intact == found.patched).all()


def test_of_many_answers_the_oldest_are_forgotten_and_counted_again(evaluator):
    evaluator._predicted = Remembered(most=2 * 4 * 1800)
    cells = [lx.reinitialise(f"layer{number}", 0) for number in (1, 2, 3)]
    first = [evaluator.predictions(cell).patched for cell in cells]
    assert evaluator._predicted.get(cells[0]) is None
    again = [evaluator.predictions(cell).patched for cell in cells]
    np.testing.assert_array_equal(first, again)


def test_what_was_remembered_is_compared_with_the_intact_network_also_in_smaller_slices(
    evaluator, monkeypatch
):
    """Where memory runs out, everything is set up anew with slices of half the size."""
    before = evaluator.predictions(LAYER1)
    original, calls = Counting._slice, []

    def short_of_memory_once(self, *arguments):
        calls.append(arguments)
        if len(calls) == 1:
            raise MemoryError
        return original(self, *arguments)

    monkeypatch.setattr(Counting, "_slice", short_of_memory_once)
    stream = evaluator.estimates(lx.reinitialise("layer2", 0))
    next(stream)
    stream.close()
    assert evaluator.batch_size == 350
    again = evaluator.predictions(LAYER1)
    np.testing.assert_array_equal(again.intact, before.intact)
    np.testing.assert_array_equal(again.patched, before.patched)


def test_a_run_that_was_stopped_leaves_no_answers_behind(evaluator):
    stream = evaluator.estimates(LAYER1)
    next(stream)
    stream.close()
    assert evaluator._predicted.get(LAYER1) is None
    assert (evaluator.predictions(LAYER1).patched != evaluator.predictions(LAYER1).intact).any()


def test_the_journal_holds_each_cell_once_though_its_answers_are_counted_again(evaluator, tmp_path):
    evaluator.journal = open_journal(tmp_path / "cells.journal", evaluator)
    evaluator.result(LAYER1)
    evaluator._predicted = Remembered()
    evaluator.predictions(LAYER1)
    evaluator.predictions(lx.reinitialise("layer2", 0))
    assert len((tmp_path / "cells.journal").read_text(encoding="utf-8").splitlines()) == 1 + 2


def test_logits_that_are_not_finite_give_no_answers():
    states = toy.switch_states()
    states[0]["first.bias"][0] = states[0]["first.weight"][0] = 3e38  # twice as much is not finite
    stack = lx.open_stack(states, model=toy.Switch())
    evaluator = Evaluator(
        stack, model=toy.Switch(), data=toy.one_hot_examples(), device="cpu", batch_size=5
    )
    first = lx.reinitialise("first", 0)
    match = r"no answers under first ← epoch 0: NaN or infinite logits for 12 of 12(.|\n)*finite"
    for _ in range(2):
        with pytest.raises(InterventionError, match=match):
            evaluator.predictions(first)
        assert evaluator.result(first).failure


def test_answers_can_be_saved_and_read_back(bundled, tmp_path):
    found = lx.predictions(bundled, LAYER1, device="cpu")
    found.attrs["class_names"] = list(ByteTokenizer().names)  # the least likely to be storable
    with xr.open_dataset(save_netcdf(found, tmp_path / "answers.nc"), engine="h5netcdf") as again:
        xr.testing.assert_equal(again, found)
        assert list(again.attrs["class_names"]) == found.attrs["class_names"]


def test_one_answer_is_kept_however_large_it_is():
    kept = Remembered(most=1)
    kept.put(LAYER1, torch.zeros(100))
    assert kept.get(LAYER1) is not None


def test_inputs_are_found_by_their_number_in_the_dataset(evaluator):
    inputs = as_examples("digits28").inputs
    found = evaluator.inputs_of([17, 3])
    np.testing.assert_array_equal(found, inputs[[17, 3]].numpy())


def test_of_a_text_every_position_has_its_answer():
    stack = lx.open_stack("transformer-text")
    found = lx.predictions(stack, lx.reinitialise("embedding", 0), device="cpu")
    assert found["patched"].dims == ("example", "position")
    names = found.attrs["class_names"]
    assert "".join(names[number] for number in found["label"].values[0]).isascii()
    evaluator = Evaluator(stack, device="cpu")
    windows = evaluator.inputs_of([0, 5])
    # what a position is asked for is what the next one shows
    np.testing.assert_array_equal(windows[:, 1:], found["label"].values[[0, 5], :-1])


def test_a_network_that_cannot_be_recorded_answers_too():
    class Branching(toy.Switch):
        def forward(self, x):
            return super().forward(x if float(x.sum()) > -1 else -x)

    states = toy.switch_states()
    stack = lx.open_stack(states, model=Branching())
    data = toy.one_hot_examples()
    found = lx.predictions(
        stack, lx.reinitialise("first", 0), model=Branching(), data=data, device="cpu"
    )
    assert found["patched"].values.tolist() == [0] * 12
    assert found["intact"].values.tolist() == data[1].tolist()
    assert found.attrs["class_names"] == []


def test_names_come_from_a_dataset_that_has_them():
    inputs, labels = toy.one_hot_examples()

    class Named(torch.utils.data.TensorDataset):
        classes: list[str] = ["red", "green", "blue"]  # noqa: RUF012  # as torchvision has it

    assert as_examples(Named(inputs, labels)).class_names == ("red", "green", "blue")
    unnamed = torch.utils.data.TensorDataset(inputs, labels)
    assert as_examples(copy.copy(unnamed)).class_names == ()


def test_an_unknown_layer_is_refused(bundled):
    with pytest.raises(UnknownNameError, match="no layer 'layer9'"):
        lx.predictions(bundled, lx.reinitialise("layer9", 0), device="cpu")
