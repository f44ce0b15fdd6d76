"""Interventions are values, and bad ones are refused by name."""

from __future__ import annotations

import pytest

import explorer as lx
from explorer.engine.interventions import Epoch, FreshDraw, Intervention
from explorer.errors import InterventionError, UsageError


def test_an_intervention_says_what_it_does():
    assert str(lx.reinitialise("layer1", 0)) == "layer1 ← epoch 0"
    assert str(lx.rerandomise(["a", "b"], draw=2)) == "a ← fresh draw 2, b ← fresh draw 2"
    assert str(Intervention(())) == "intact network"


def test_equal_interventions_are_equal_and_hashable():
    assert lx.reinitialise(["a"], 3) == lx.reinitialise("a", 3)
    assert (
        len({lx.rerandomise("a", 0), lx.rerandomise("a", 0, seed=0), lx.rerandomise("a", 1)}) == 2
    )


def test_layers_can_come_from_different_sources():
    joint = Intervention((("a", Epoch(0)), ("b", FreshDraw(1, seed=7))))
    assert joint.layers == ("a", "b")


@pytest.mark.parametrize("layers", [[], ["a", "a"]])
def test_no_layer_or_one_twice_is_refused(layers):
    with pytest.raises(InterventionError, match=r"layers of an intervention were \["):
        lx.reinitialise(layers, 0)


@pytest.mark.parametrize("given", ["layer1", None, ("layer1", Epoch(0))])
def test_what_is_no_intervention_is_refused_with_how_to_make_one(bundled, given):
    with pytest.raises(UsageError, match=r"intervention is (.|\n)*reinitialise\('layer1', 0\)"):
        next(lx.evaluate(bundled, given))
