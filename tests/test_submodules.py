"""Networks that cannot be recorded: their unchanged submodules are not run again."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import nn

import explorer as lx
from explorer.engine.evaluator import Evaluator
from explorer.engine.interventions import Intervention
from tests import naive, toy

INTACT = Intervention(())


class Deciding(nn.Module):
    """A chain of modules whose order depends on the data, with pieces that write in place."""

    def __init__(self):
        super().__init__()
        self.first = nn.Sequential(nn.Linear(3, 6), nn.ReLU(inplace=True))
        self.second = nn.Linear(6, 6)
        self.third = nn.Linear(6, 6)
        self.norm = nn.LayerNorm(6)
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        x = self.first(x)
        y = self.second(x) if bool(x.sum() > 3.0) else self.third(x)
        y += x  # writes to what a submodule gave
        return self.head(self.norm(y))


def states(module, count=3):
    found = []
    for seed in range(count):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            found.append(module().state_dict())
    return found


def examples(count=50):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, 3, generator=generator), torch.arange(count) % 3


@pytest.fixture
def calls(monkeypatch):
    """Rows that went through each linear layer, by its number of outputs."""
    seen = []
    original = nn.functional.linear
    monkeypatch.setattr(
        nn.functional, "linear", lambda x, w, b=None: seen.append(w.shape) or original(x, w, b)
    )
    return seen


def predicted(run, intervention):
    execution, inputs = run._counting.execution, run._counting._inputs
    prepared = [execution.prepare(run.network.replacement(intervention))]
    parts = inputs.split(run.batch_size)
    found = [dict(execution.run(p, prepared, False))[0].argmax(1) for p in parts]
    return torch.cat(found)[: run.total]


@pytest.mark.parametrize("batch_size", [1, 7, 64])
def test_labels_are_those_of_copying_the_model_for_every_cell(batch_size, caplog):
    all_states, (inputs, labels) = states(Deciding), examples()
    stack = lx.open_stack(all_states, model=Deciding())
    with caplog.at_level(logging.WARNING, logger="explorer"):
        run = Evaluator(
            stack, model=Deciding(), data=(inputs, labels), device="cpu", batch_size=batch_size
        )
    assert "reuses the results of unchanged submodules only" in run.execution
    assert len([r for r in caplog.records if r.name.startswith("explorer")]) == 1
    ordered = run._inputs
    for layer in ("first.0", "second", "third", "norm", "head"):
        for epoch in (0, 1, 2):
            replaced = {n: t for n, t in all_states[epoch].items() if n.startswith(f"{layer}.")}
            expected = naive.labels(Deciding(), all_states[-1], replaced, ordered, batch_size)
            found = predicted(run, lx.reinitialise(layer, epoch))[: len(ordered)]
            assert torch.equal(found, expected)


def test_what_comes_before_the_changed_layer_is_not_run_again(calls):
    stack = lx.open_stack(states(Deciding), model=Deciding())
    run = Evaluator(stack, model=Deciding(), data=examples(), device="cpu", batch_size=50)
    calls.clear()
    run.result(lx.reinitialise("head", 0))
    # once each by the intact pass, and only the head again
    assert sorted(map(tuple, calls)) == [(3, 6), (3, 6), (6, 3), (6, 6)]


class PeekingHead(nn.Linear):
    """Reads a tensor of another module."""

    def forward(self, x):
        return super().forward(x) + self.other[0].bias[:3]


class Peeking(Deciding):
    """Its head always gets the same inputs, and depends on the first layer all the same."""

    def __init__(self):
        super().__init__()
        self.head = PeekingHead(6, 3)
        self.head.other = [self.first[0]]  # in a list, so that it does not become a submodule

    def forward(self, x):
        return self.head(torch.ones(len(x), 6) * float(bool(x.sum() > -1e9)))


def test_a_submodule_that_depends_on_another_ones_tensors_is_found_out():
    model = Peeking()
    stack = lx.open_stack(states(Deciding), model=model)
    run = Evaluator(stack, model=model, data=examples(), device="cpu")
    assert "runs the whole network for every cell" in run.execution


class TiedDeciding(Deciding):
    def __init__(self):
        super().__init__()
        self.third.weight = self.second.weight


def test_a_submodule_with_a_tied_tensor_is_run_again():
    model = TiedDeciding()
    stack = lx.open_stack(states(TiedDeciding), model=model)
    inputs, labels = examples()
    inputs = -inputs.abs()  # the third layer is taken
    run = Evaluator(stack, model=model, data=(inputs, labels), device="cpu")
    assert "submodules only" in run.execution
    changed = run.result(lx.reinitialise("second", 0))
    assert changed.agreements < run.result(INTACT).agreements


def test_the_network_is_as_before():
    model = Deciding()
    stack = lx.open_stack(states(Deciding), model=model)
    run = Evaluator(stack, model=model, data=examples(), device="cpu")
    before = {n: t.clone() for n, t in run.network._module.state_dict().items()}
    run.result(lx.reinitialise("first.0", 0))
    after = run.network._module.state_dict()
    assert all(torch.equal(before[n], after[n]) for n in before)
    assert "forward" not in vars(model.first)
    assert "forward" not in vars(run.network._module.first)


def test_toy_network_with_decisions_is_right():
    class Branching(toy.Switch):
        def forward(self, x):
            y = self.first(x)
            return self.second(y if bool((y.sum() > 0).item()) else -y)

    stack = lx.open_stack(toy.switch_states(), model=Branching())
    run = Evaluator(stack, model=Branching(), data=toy.one_hot_examples(), device="cpu")
    assert [run.result(lx.reinitialise("second", e)).errors for e in (0, 1, 2)] == [0, 8, 0]


class Adding(nn.Module):
    """Writes to what it is given."""

    def forward(self, x):
        x.add_(1.0)
        return x * 0.5


class Writing(nn.Module):
    """Depends on a submodule's writing to its inputs."""

    def __init__(self):
        super().__init__()
        self.first, self.adding, self.head = nn.Linear(3, 3), Adding(), nn.Linear(3, 3)

    def forward(self, x):
        x = self.first(x) * float(bool(x.sum() > -1e9))
        return self.head(x + self.adding(x))


def test_a_submodule_that_writes_to_its_inputs_is_run_again():
    all_states, (inputs, labels) = states(Writing), examples()
    stack = lx.open_stack(all_states, model=Writing())
    run = Evaluator(stack, model=Writing(), data=(inputs, labels), device="cpu")
    assert "submodules only" in run.execution
    replaced = {n: t for n, t in all_states[0].items() if n.startswith("head.")}
    expected = naive.labels(Writing(), all_states[-1], replaced, run._inputs, run.batch_size)
    assert torch.equal(predicted(run, lx.reinitialise("head", 0)), expected)
