"""What interventions share with each other: the same bits, computed once, and few values kept."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

import explorer as lx
from explorer.engine import sources
from explorer.engine.evaluator import Evaluator
from explorer.engine.measuring import measure
from explorer.engine.prepared import turns
from explorer.engine.program import Operation
from explorer.engine.recording import record
from explorer.engine.replay import Replay
from explorer.errors import InterventionError
from tests import toy
from tests.test_replay import KINDS, RandomNet, perturbed, small_ones_in_tiles, state_of

LAYERS = 16


def recorded(module, inputs):
    state = state_of(module.eval())
    return Replay(record(module, state, inputs), state), state


@pytest.fixture
def chain():
    """A chain of layers, and one other tensor for each of its own."""
    torch.manual_seed(0)
    module = nn.Sequential(*(nn.Sequential(nn.Linear(8, 8), nn.ReLU()) for _ in range(LAYERS)))
    inputs = torch.randn(4, 8)
    with torch.no_grad():
        replay, state = recorded(module, inputs)
    return replay, inputs, perturbed(state, list(state))


@pytest.fixture
def ran(monkeypatch):
    """Count the operations that run, by number of their results."""
    found = Counter()
    original = Operation.run
    monkeypatch.setattr(
        Operation, "run", lambda self, v: found.update([self.value]) or original(self, v)
    )
    return found


def of(new, *layers):
    """Replace some layers of the chain."""
    return {name: t for name, t in new.items() if int(name.split(".")[0]) in layers}


@pytest.mark.parametrize("tiles", [False, True])
@settings(max_examples=25, suppress_health_check=list(HealthCheck))
@given(
    st.lists(KINDS, min_size=1, max_size=3),
    st.booleans(),
    st.lists(st.dictionaries(st.integers(0, 20), st.integers(0, 1), min_size=1), max_size=6),
    st.integers(0, 99),
)
@torch.no_grad()
def test_what_is_shared_has_the_bits_it_has_alone(tiles, kinds, shared, choices, seed):
    """Each choice says which modules are taken from which of two networks."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = RandomNet(kinds, shared, 2)
        inputs = torch.randn(5, 1, 6, 6)
    with small_ones_in_tiles(tiles):
        replay, state = recorded(module, inputs)
    modules = sorted({name.rpartition(".")[0] for name in state})
    new = [perturbed(state, list(state), seed=k) for k in (1, 2)]
    replacements = [new[0], new[1]]
    for choice in choices:
        chosen = {modules[k % len(modules)]: new[source] for k, source in choice.items()}
        replacements.append(
            {n: t[n] for m, t in chosen.items() for n in t if n.startswith(f"{m}.")}
        )
    prepared = [replay.prepare(replacement) for replacement in replacements]
    together = {k: logits.clone() for k, logits in replay.run(inputs, prepared, intact=False)}
    assert together.keys() == set(range(len(prepared)))
    for k, one in enumerate(prepared):
        ((_, alone),) = replay.run(inputs, [one], intact=False)
        assert torch.equal(together[k], alone)


@torch.no_grad()
def test_a_layer_and_the_whole_network_from_one_epoch_run_the_first_layer_once(chain, ran):
    replay, inputs, new = chain
    prepared = [replay.prepare(of(new, 0)), replay.prepare(new)]
    first = prepared[0].plan.rerun[0].value
    ran.clear()
    list(replay.run(inputs, prepared, intact=False))
    assert ran[first] == 1
    assert sum(ran.values()) == sum(len(one.plan.rerun) for one in prepared) - 2  # with its ReLU


@torch.no_grad()
def test_interventions_that_are_the_same_run_once(chain, ran):
    replay, inputs, new = chain
    prepared = [replay.prepare(of(new, 3)) for _ in range(3)]
    ran.clear()
    found = dict(replay.run(inputs, prepared, intact=False))
    assert {ran[operation.value] for operation in prepared[0].plan.rerun} == {1}
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


@torch.no_grad()
def test_equal_tensors_that_are_not_the_same_are_not_taken_for_it(chain, ran):
    """Only what is the same object: comparing every number would cost more than it saves."""
    replay, inputs, new = chain
    other = {name: tensor.clone() for name, tensor in new.items()}
    prepared = [replay.prepare(of(new, 0)), replay.prepare(other)]
    ran.clear()
    list(replay.run(inputs, prepared, intact=False))
    assert ran[prepared[0].plan.rerun[0].value] == 2


@torch.no_grad()
@pytest.mark.parametrize("order", ["forwards", "backwards", "mixed"])
def test_few_values_wait_however_many_interventions_there_are(chain, order):
    """One layer and each of the others: all have a part in common, and part one by one."""
    replay, _, new = chain
    sets = [(0, other) for other in range(1, LAYERS)]
    sets = {"forwards": sets, "backwards": sets[::-1], "mixed": sets[::2] + sets[1::2]}[order]
    prepared = [replay.prepare(of(new, *some)) for some in sets]
    shelf, most, run = set(), 0, 0
    for turn in turns(prepared, range(len(prepared)), replay.program.output):
        assert shelf.issuperset(turn.takes.values())
        shelf -= {turn.takes[value] for value in turn.last}
        shelf |= set(turn.leaves.values())
        most, run = max(most, len(shelf)), run + len(turn.operations)
    assert not shelf
    assert most == 1
    assert run < 0.6 * sum(len(one.plan.rerun) for one in prepared)


@torch.no_grad()
def test_of_many_that_part_in_pairs_no_more_than_the_logarithm_wait(chain):
    """All sets of the first four layers, from two networks: a tree of 16 leaves."""
    replay, _, new = chain
    other = {name: tensor + 1 for name, tensor in new.items()}
    prepared = [
        replay.prepare({n: t for k, one in enumerate(some) for n, t in of(one, k).items()})
        for some in itertools.product((new, other), repeat=4)
    ]
    shelf, most = set(), 0
    for turn in turns(prepared, range(16), replay.program.output):
        shelf -= {turn.takes[value] for value in turn.last}
        shelf |= set(turn.leaves.values())
        most = max(most, len(shelf))
    assert not shelf
    assert most == 3


def test_a_sweep_reads_every_layer_of_every_epoch_once(bundled, monkeypatch):
    read = Counter()
    original = sources.read_layer
    monkeypatch.setattr(
        sources,
        "read_layer",
        lambda stack, layer, epoch: read.update([(layer, epoch)]) or original(stack, layer, epoch),
    )
    lx.sweep(bundled, draws=0, epochs=[0, 8], device="cpu", progress=False)
    assert read == {
        (layer, e): 1 for layer in ("layer1", "layer2", "layer3", "layer4") for e in (0, 8)
    }


def test_a_sweep_has_the_counts_of_cells_that_are_measured_alone(bundled):
    run = Evaluator(bundled, device="cpu")
    cells = [
        lx.reinitialise(layers, epoch)
        for layers in ("layer1", ["layer1", "layer2"], run.network.layers)
        for epoch in (0, 1)
    ]
    outcomes = {}
    for some in measure(run, cells):
        outcomes |= some
    for cell in cells:
        alone = Evaluator(bundled, device="cpu").result(cell)
        assert outcomes[cell] == alone


def test_what_is_refused_or_changes_nothing_is_not_held(switch, monkeypatch):
    run = Evaluator(switch, model=toy.Switch(), data=toy.one_hot_examples(), device="cpu")
    held = []
    original = run.network.replacement
    monkeypatch.setattr(
        run.network,
        "replacement",
        lambda one, known: held.append(dict(known)) or original(one, known),
    )
    monkeypatch.setattr("explorer.engine.network.refuse_nonfinite", _refuse)
    layers, epochs = run.network.layers, run.network.epochs
    list(measure(run, [lx.reinitialise(layers[0], epoch) for epoch in epochs[:-1]]))
    assert held[-1] == {}
    assert len(held) > 1


def _refuse(_found):
    raise InterventionError("It is NaN.", "Numbers are needed.", "Take another.")
