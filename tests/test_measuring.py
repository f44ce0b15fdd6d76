"""Many interventions as a stream: what comes when, and what stopping leaves undone."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

import explorer as lx
from explorer.engine import counting, measuring
from explorer.engine.counting import Counting
from explorer.engine.estimate import Estimate
from explorer.engine.evaluator import Evaluator
from explorer.engine.execution import Execution
from explorer.engine.intact_labels import IntactLabels
from explorer.engine.interventions import reinitialise, rerandomise
from explorer.engine.measuring import measure
from explorer.engine.replay import Replay
from explorer.errors import CheckpointError, DataError, OutOfMemoryError
from tests import toy


@pytest.fixture
def evaluator(bundled):
    return Evaluator(bundled, device="cpu", batch_size=600)


CELLS = [
    reinitialise("layer4", 0),
    reinitialise("layer4", 8),
    rerandomise("layer4"),
    reinitialise("layer3", 0),
]


def test_everything_under_way_comes_after_every_slice_and_the_last_is_exact(evaluator):
    stream = list(measure(evaluator, CELLS))
    assert [[one.examples for one in some.values()] for some in stream] == [
        [600] * 4,
        [1200] * 4,
        [1800] * 4,
    ]
    for intervention, outcome in stream[-1].items():
        assert outcome == evaluator.result(intervention)


def test_by_layer_one_layer_is_finished_before_the_next_is_begun(evaluator):
    stream = list(measure(evaluator, CELLS, by_layer=True))
    assert [list(some) for some in stream] == [CELLS[:3]] * 3 + [CELLS[3:]] * 3
    assert stream[2] | stream[5] == dict(list(measure(evaluator, CELLS))[-1])


def test_what_is_not_asked_for_is_not_measured(evaluator, monkeypatch):
    counted = []
    original = Evaluator.count
    monkeypatch.setattr(Evaluator, "count", lambda s, r, t: counted.append(r) or original(s, r, t))
    stream = measure(evaluator, CELLS, by_layer=True)
    next(stream)
    stream.close()
    assert [len(replacements) for replacements in counted] == [3]


def test_an_intervention_without_tensors_gives_its_reason_and_the_others_go_on():
    stack = lx.open_stack(toy.switch_states(), model=toy.Switch(), layers={"all": ".*"})
    evaluator = Evaluator(stack, model=toy.Switch(), data=toy.one_hot_examples(), device="cpu")
    skipped = lx.reinitialise("all", 0), lx.reinitialise("all", 1)

    def broken(intervention, known):
        if intervention == skipped[0]:
            raise CheckpointError("It is gone.", "A file is needed.", "Put it back.")
        return original(intervention, known)

    original = evaluator.network.replacement
    evaluator.network.replacement = broken
    first, *others = measure(evaluator, skipped)
    assert first == {skipped[0]: "It is gone.\nA file is needed.\nPut it back."}
    assert isinstance(others[-1][skipped[1]], Estimate)


def test_out_of_memory_in_a_group_is_tried_one_by_one(evaluator, monkeypatch):
    original = Evaluator.count

    def short_of_memory(self, replacements, tolerance):
        if len(replacements) > 1 or "layer3.weight" in replacements[0]:
            raise MemoryError
        return original(self, replacements, tolerance)

    monkeypatch.setattr(Evaluator, "count", short_of_memory)
    found = {}
    for some in measure(evaluator, CELLS):
        found |= some
    assert [isinstance(found[cell], Estimate) for cell in CELLS] == [True, True, True, False]
    assert "out of memory on CPU" in found[CELLS[3]]


def test_other_errors_are_not_taken_for_a_lack_of_memory(evaluator, monkeypatch):
    def broken(*_arguments):
        raise RuntimeError("shapes do not fit")

    monkeypatch.setattr(Evaluator, "count", broken)
    with pytest.raises(RuntimeError, match="shapes do not fit"):
        list(measure(evaluator, CELLS))


def test_small_groups_give_the_same_outcomes(evaluator, monkeypatch):
    whole = dict(list(measure(evaluator, CELLS))[-1])
    monkeypatch.setattr(measuring, "GROUP_BYTES", 1)
    again = {}
    for some in measure(evaluator, CELLS):
        again |= some
    assert again == whole


@pytest.fixture
def alone(monkeypatch):
    """Starts of the slices that the intact network is run on by itself."""
    found = []
    original = IntactLabels.run
    monkeypatch.setattr(
        IntactLabels, "run", lambda self, start: found.append(start) or original(self, start)
    )
    return found


MANY = [reinitialise(layer, epoch) for layer in ("layer2", "layer3") for epoch in (0, 1, 2, 3, 8)]


def test_the_intact_network_takes_part_in_the_walk_of_the_others(bundled, alone, monkeypatch):
    whole = dict(list(measure(Evaluator(bundled, device="cpu", batch_size=600), MANY))[-1])
    assert alone == [0]  # at once, in case the labels are of other networks
    alone.clear()
    run = Evaluator(bundled, device="cpu", batch_size=600)
    monkeypatch.setattr(run._counting.execution, "first_logits", None)
    few = dict(list(measure(run, MANY[:2]))[-1])
    assert (alone, few) == ([], {one: whole[one] for one in MANY[:2]})
    monkeypatch.setattr(counting, "CHUNK_BYTES", 3 * 600 * 10 * 4)
    again = dict(list(measure(Evaluator(bundled, device="cpu", batch_size=600), MANY))[-1])
    assert alone == [0, 600, 1200]  # where too many logits would have to wait for it
    assert again == whole


def test_the_first_slice_is_known_from_the_comparison_with_the_plain_pass(bundled, monkeypatch):
    """A first click runs what comes before its layer, and not the rest of the intact network."""
    run = Evaluator(bundled, device="cpu", batch_size=600)
    asked = []
    original = Execution.run
    monkeypatch.setattr(
        Execution,
        "run",
        lambda self, inputs, prepared, intact, *a, **b: (
            asked.append(intact) or original(self, inputs, prepared, intact, *a, **b)
        ),
    )
    known = run.result(CELLS[0])
    assert asked == [False, True, True]
    again = Evaluator(bundled, device="cpu", batch_size=600)
    monkeypatch.setattr(again._counting.execution, "first_logits", None)
    assert again.result(CELLS[0]) == known


def test_labels_of_another_network_are_refused_before_many_cells_are_computed(monkeypatch):
    model = toy.Switch()
    stack = lx.open_stack(toy.switch_states(), model=model)
    inputs, labels = toy.one_hot_examples()
    run = Evaluator(stack, model=model, data=(inputs, labels + 1), device="cpu")
    monkeypatch.setattr(Replay, "_rerun", _refuse)
    cells = [rerandomise("first", draw) for draw in range(9)]
    with pytest.raises(DataError, match="label 3"):
        list(measure(run, cells))


def _refuse(*_):
    raise AssertionError("a cell was computed")


def test_half_the_interval_is_what_a_tolerance_is_compared_with():
    """Wilson's interval of 50 of 100 is 0.4038…0.5962; of all examples nothing is left open."""
    some = Estimate(100, 1000, 50, 0.0, 0, 0)
    assert some.half_width == pytest.approx(0.0962, abs=5e-5)
    assert Estimate(100, 100, 50, 0.0, 0, 0).half_width == 0


# --- not even one example fits --------------------------------------------------------------------

REFUSED = "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"
NO_ROOM = r"out of memory on CPU, even with one example at a time: (.|\n)*One example has to fit"


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("CUDA out of memory\nand more"), MemoryError(), RuntimeError(REFUSED)],
)
def test_where_not_one_example_fits_a_click_says_so_and_the_next_one_is_answered(
    evaluator, monkeypatch, error
):
    before = {name: tensor.clone() for name, tensor in evaluator.network._state.items()}
    expected = evaluator.result(CELLS[0])
    evaluator._remembered.clear()

    def short_of_memory(*_arguments):
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(Counting, "_slice", short_of_memory)
        with pytest.raises(OutOfMemoryError, match=NO_ROOM) as told:
            evaluator.result(CELLS[0])
    assert isinstance(told.value, MemoryError)
    assert "and more" not in told.value.came
    assert told.value.__cause__ is error
    assert evaluator.batch_size == 1
    assert all(torch.equal(evaluator.network._state[n], t) for n, t in before.items())
    assert evaluator.result(CELLS[0]).errors == expected.errors


def test_where_not_one_example_fits_an_evaluation_does_not_begin(bundled, monkeypatch):
    tried = []

    def short_of_memory(self, network, inputs, batch_size, memory, screen):
        tried.append(batch_size)
        raise RuntimeError(REFUSED)

    monkeypatch.setattr(Execution, "__init__", short_of_memory)
    with pytest.raises(OutOfMemoryError, match=NO_ROOM):
        next(lx.evaluate(bundled, CELLS[0], device="cpu"))
    assert tried == [None, 32, 16, 8, 4, 2, 1]


def test_where_not_one_example_fits_a_sweep_marks_the_cell_and_measures_the_others(
    evaluator, monkeypatch
):
    original = Counting._slice

    def short_of_memory(self, *arguments):
        if any("layer3.weight" in one for one in self.seen):
            raise RuntimeError(REFUSED)
        return original(self, *arguments)

    count = Counting.count

    def watched(self, replacements, *rest):
        self.seen = replacements
        return count(self, replacements, *rest)

    monkeypatch.setattr(Counting, "_slice", short_of_memory)
    monkeypatch.setattr(Counting, "count", watched)
    found = {}
    for some in measure(evaluator, CELLS):
        found |= some
    assert [isinstance(found[cell], Estimate) for cell in CELLS] == [True, True, True, False]
    assert "out of memory on CPU, even with one example" in found[CELLS[3]]


@pytest.mark.parametrize(("dtype", "most"), [(torch.float32, 128), (torch.int64, 64)])
def test_the_first_recording_is_no_larger_than_a_trial_may_be(dtype, most):
    """Of tokens nothing is known of how large the values inside are."""
    network = SimpleNamespace(device=torch.device("cpu"))
    execution = SimpleNamespace(_network=network, _budget=10**9)
    assert Execution._most_examples(execution, torch.zeros(10_000, 16, dtype=dtype)) == most
