"""What is kept of the intact pass for the next intervention: less work, the same bits."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import explorer as lx
from explorer.engine.evaluator import Evaluator
from explorer.engine.kept import Kept
from explorer.engine.program import Operation
from explorer.weights.stack import layer_names
from tests import toy


@pytest.fixture
def operations(monkeypatch):
    """Names of the operations that are run."""
    names = []
    run = Operation.run

    def counted(self, values):
        names.append(self.name)
        return run(self, values)

    monkeypatch.setattr(Operation, "run", counted)
    return names


def forgetful(run):
    """Have an evaluator keep nothing."""
    run._counting.execution.kept.most = 0
    return run


def products_of(run, intervention, operations):
    """Matrix products that an exact count takes."""
    operations.clear()
    run._remembered.clear()
    run.result(intervention)
    return operations.count("aten.addmm")


def test_the_second_click_on_a_layer_computes_nothing_before_it(bundled, operations):
    run = Evaluator(bundled, device="cpu")
    run.result(lx.reinitialise("layer1", 0))  # the intact labels are known from here on
    slices = -(-run.total // run.batch_size)
    last = lx.reinitialise("layer4", 0)
    assert products_of(run, last, operations) == 4 * slices
    assert products_of(run, last, operations) == slices
    assert products_of(run, lx.reinitialise("layer4", 1), operations) == slices
    # and a layer before it goes on from what it needs itself
    assert products_of(run, lx.reinitialise("layer3", 0), operations) == 4 * slices
    assert products_of(run, lx.reinitialise("layer3", 1), operations) == 2 * slices
    assert products_of(run, last, operations) == slices


def test_counts_are_bit_for_bit_those_without_anything_kept(bundled):
    keeping, fresh = Evaluator(bundled, device="cpu"), forgetful(Evaluator(bundled, device="cpu"))
    layers = layer_names(bundled)
    for layer in (*layers, *reversed(layers)):
        for epoch in (0, 2):
            for run in (keeping, fresh):
                run._remembered.clear()
            intervention = lx.reinitialise(layer, epoch)
            assert keeping.result(intervention) == fresh.result(intervention)
    assert fresh._counting.execution.kept._bytes == 0


@pytest.mark.parametrize("screen", [False, True])
def test_networks_with_normalisation_and_branches_keep_the_same_bits(screen, monkeypatch):
    monkeypatch.setattr("explorer.engine.execution.low_precision", lambda _device: torch.bfloat16)
    stack = lx.open_stack(toy.conv_states(), model=toy.ConvNet())
    keeping, fresh = (
        Evaluator(stack, model=toy.ConvNet(), data=toy.conv_examples(), device="cpu", screen=screen)
        for _ in range(2)
    )
    forgetful(fresh)
    for layer in ("head", "norm", "conv", "norm", "head"):
        for run in (keeping, fresh):
            run._remembered.clear()
        found = keeping.result(lx.reinitialise(layer, 1))
        assert found == fresh.result(lx.reinitialise(layer, 1))
    assert keeping._counting.execution.kept._bytes > 0


def test_a_stream_that_is_stopped_keeps_only_whole_values(bundled):
    run, fresh = Evaluator(bundled, device="cpu"), forgetful(Evaluator(bundled, device="cpu"))
    for layer in ("layer4", "layer2", "layer3"):
        stream = run.estimates(lx.reinitialise(layer, 0))
        next(stream)
        stream.close()
    for layer in ("layer3", "layer4"):
        assert run.result(lx.reinitialise(layer, 1)) == fresh.result(lx.reinitialise(layer, 1))


def test_a_sweep_layer_by_layer_walks_the_prefix_once(bundled, operations, tmp_path):
    """With a store one layer is finished before the next: each goes on from the one before."""
    names = layer_names(bundled)
    lx.sweep(bundled, device="cpu", draws=0, epochs=[0], store=tmp_path / "s", progress=False)
    batch = Evaluator(bundled, device="cpu").batch_size
    operations.clear()
    lx.sweep(bundled, device="cpu", draws=0, epochs=[0], store=tmp_path / "t", progress=False)
    passes = operations.count("aten.addmm") - 4 * 4  # recording compares with the plain pass
    slices = -(-1800 // batch)
    # intact 4; then dirty 4, 3, 2, 1 and before each of the later three what the one before kept
    assert passes <= slices * (4 + (4 + 3 + 2 + 1) + 4 + len(names))


def value(count):
    return torch.zeros(count, dtype=torch.uint8)


def test_the_longest_unused_goes_first_and_no_more_is_kept_than_fits():
    kept = Kept(most=10)
    kept.keep(0, {1: value(4)})
    kept.keep(0, {2: value(4)})
    kept.keep(8, {1: value(2)})  # used again, and another slice of it
    assert set(kept.known(0)) == {1, 2}
    kept.keep(0, {3: value(4)})
    assert set(kept.known(0)) == {1, 3}
    assert set(kept.known(8)) == {1}
    assert kept._bytes == 10
    kept.keep(16, {3: value(11)})  # too much by itself: what is there of it stays
    assert kept.known(16) == {}
    assert set(kept.known(0)) == {3}
    kept.forget()
    assert kept.known(0) == {}
    assert kept._bytes == 0


def test_several_results_of_one_operation_are_counted_whole():
    kept = Kept(most=10)
    kept.keep(0, {1: [value(4), (value(3), None)]})
    assert kept._bytes == 7
    kept.keep(0, {1: [value(4), (value(3), None)]})  # the same again
    assert kept._bytes == 7


def test_a_view_counts_the_memory_that_it_keeps():
    kept = Kept(most=100)
    kept.keep(0, {1: torch.zeros(50)[:2]})  # 8 bytes of 200
    assert kept.known(0) == {}
    kept.keep(0, {1: torch.zeros(20)[:2]})
    assert kept.known(0)[1].shape == (2,)


def test_views_of_the_inputs_are_not_kept_since_they_take_no_memory(bundled):
    """Each would count the memory of the whole test set, and push out what is worth keeping."""
    run = Evaluator(bundled, device="cpu")
    kept = run._counting.execution.kept
    run.result(lx.reinitialise("layer4", 0))
    before = {number: len(slices) for number, slices in kept._values.items()}
    assert before
    run.result(lx.reinitialise("layer1", 0))  # reads the images as rows
    assert {number: len(slices) for number, slices in kept._values.items()} == before


def test_memory_that_runs_out_lets_go_of_what_was_kept(bundled, monkeypatch):
    run = Evaluator(bundled, device="cpu")
    run.result(lx.reinitialise("layer4", 0))
    execution = run._counting.execution
    assert execution.kept._bytes > 0

    def refused(*_, **__):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: 1 bytes")

    monkeypatch.setattr(execution, "run", refused)
    run._remembered.clear()
    assert run.result(lx.reinitialise("layer4", 0)).exact
    assert run._counting.execution is not execution
    assert execution.kept._bytes == 0


def test_a_network_that_is_cut_at_submodules_keeps_nothing(caplog):
    class Branching(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3)

        def forward(self, x):
            x = self.first(x)
            return self.second(x) if x.sum() > 0 else self.second(-x)

    states = [Branching().state_dict() for _ in range(2)]
    stack = lx.open_stack(states, model=Branching())
    run = Evaluator(stack, model=Branching(), data=toy.one_hot_examples(), device="cpu")
    run.result(lx.reinitialise("second", 0))
    assert "submodules" in run.execution
    assert run._counting.execution.kept._bytes == 0
