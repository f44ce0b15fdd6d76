"""How cells are shared out among workers, and devices among the workers of a machine."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from explorer.engine.interventions import Intervention, reinitialise, rerandomise
from explorer.engine.shares import assign_devices, share_out

LAYERS = [f"layer{k}" for k in range(6)]


def cells(layers=LAYERS, epochs=8, draws=2):
    """All that a sweep measures: the intact network, every layer's cells, and the full model."""
    alone = [reinitialise(layer, e) for layer in layers for e in range(epochs)]
    drawn = [rerandomise(layer, k) for layer in layers for k in range(draws)]
    return [Intervention(()), *alone, *drawn, *(reinitialise(layers, e) for e in range(epochs))]


def runs_again(group):
    """Cells, each weighted with the share of the network that runs again."""
    first = [min((LAYERS.index(n) for n in i.layers), default=len(LAYERS)) for i in group]
    return sum(1 - k / (len(LAYERS) + 1) for k in first)


@given(st.integers(2, 6), st.integers(1, 9), st.integers(0, 3), st.integers(1, 20), st.randoms())
def test_every_cell_is_in_exactly_one_group(layers, epochs, draws, workers, random):
    wanted = cells(LAYERS[:layers], epochs, draws)
    random.shuffle(wanted)
    groups = share_out(wanted, LAYERS[:layers], workers)
    shared = [intervention for group in groups for intervention in group]
    assert len(shared) == len(wanted)
    assert set(shared) == set(wanted)
    assert all(groups)


def test_cells_of_a_layer_follow_each_other_in_forward_order():
    groups = share_out(cells(), LAYERS, 2)
    order = [i.layers for group in groups for i in group]
    assert list(dict.fromkeys(order)) == [tuple(LAYERS), *((layer,) for layer in LAYERS), ()]
    assert len(set(order)) == sum(a != b for a, b in zip(order, [None, *order], strict=False))


def test_two_layers_together_are_a_joint_intervention_and_come_before_any_single_one():
    joint, single = reinitialise(LAYERS[-2:], 0), reinitialise(LAYERS[0], 0)
    assert [i for group in share_out([single, joint], LAYERS, 1) for i in group] == [joint, single]


@pytest.mark.parametrize("workers", [1, 2, 8])
def test_groups_become_smaller_and_none_holds_up_the_end(workers):
    wanted = cells(epochs=40)
    sizes = [runs_again(group) for group in share_out(wanted, LAYERS, workers)]
    total = runs_again(wanted)
    assert sizes[0] <= total / (2 * workers) < sizes[0] + 1
    assert sum(sizes) == pytest.approx(total)
    assert sizes[-1] <= total / workers / 8
    # few enough that the walks along the intact pass, one a group, do not add up
    assert len(sizes) <= 12 * workers


def test_few_cells_for_many_workers_go_one_by_one():
    assert [len(group) for group in share_out(cells(epochs=1, draws=0), LAYERS, 50)] == [1] * 8


def test_nothing_to_measure_makes_no_groups():
    assert share_out([], LAYERS, 4) == []


@pytest.mark.parametrize(
    ("visible", "chosen"),
    [
        ({"a": ["x", "y"], "b": ["x", "y"]}, {"a": 0, "b": 1}),  # all see all: they take turns
        ({"a": ["x", "y"], "b": ["y", "x"]}, {"a": 0, "b": 0}),  # each sees its own first
        ({"a": ["x"], "b": ["y"]}, {"a": 0, "b": 0}),  # each sees its own only
        ({"a": ["x"], "b": ["x"], "c": ["x"]}, {"a": 0, "b": 0, "c": 0}),  # more workers than cards
        ({"a": ["x", "y"], "b": ["x", "y"], "c": ["x", "y"]}, {"a": 0, "b": 1, "c": 0}),
        ({"a": [], "b": ["x"]}, {"b": 0}),  # a worker without a card computes on the CPU
        ({"a": ["x", "y"], "b": ["u", "v"]}, {"a": 0, "b": 0}),  # two machines
    ],
)
def test_each_worker_gets_a_device_of_its_own_as_far_as_they_go(visible, chosen):
    assert assign_devices(visible) == chosen
