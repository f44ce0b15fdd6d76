"""Numbers that a caller passes: which are read, and that the others are refused in one way."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import explorer as lx
from explorer.arguments import draws_and_seed, fraction, fractions, numbers, whole_number
from explorer.engine.evaluator import Evaluator
from explorer.errors import ExplorerError, UsageError

NO_NUMBERS = ["7", b"7", None, [7], True, 7 + 0j, object()]


@pytest.mark.parametrize(
    "value", [7, 7.0, np.int64(7), np.float32(7), np.array(7), torch.tensor(7)]
)
def test_whatever_stands_for_a_whole_number_is_one(value):
    found = whole_number("draws", value, "Leave it out.", least=7)
    assert (type(found), found) == (int, 7)


@pytest.mark.parametrize("value", [*NO_NUMBERS, 7.5, math.nan, math.inf, 6])
def test_what_is_no_whole_number_or_too_small_is_refused_with_what_came(value):
    with pytest.raises(UsageError) as refused:
        whole_number("draws", value, "Leave it out.", least=7)
    assert refused.value.came == f"draws is {value!r}."
    assert (refused.value.accepted, refused.value.advice) == (
        "A whole number from 7 on is needed.",
        "Leave it out.",
    )


def test_without_a_least_one_any_whole_number_will_do():
    assert whole_number("seed", -(2**80), "") == -(2**80)
    with pytest.raises(UsageError, match=r"A whole number is needed\."):
        whole_number("seed", 0.5, "")


def test_there_may_be_no_draws_unless_one_is_needed():
    assert draws_and_seed(0, -3) == (0, -3)
    for draws, seed, least in ((-1, 0, 0), (0, 0, 1), (1, None, 0)):
        with pytest.raises(UsageError, match=r"(draws|seed) is"):
            draws_and_seed(draws, seed, least)


@pytest.mark.parametrize("value", [0, 1, 0.25, np.float32(0.25), torch.tensor(0.25)])
def test_a_fraction_lies_between_nothing_and_all(value):
    assert fraction("level", value, "0.05 is the usual one") == float(value)


@pytest.mark.parametrize("value", [*NO_NUMBERS, -0.001, 1.001, math.nan, 10**400])
def test_what_is_no_fraction_is_refused(value):
    with pytest.raises(UsageError, match=r"level is (.|\n)*0\.05 is the usual one"):
        fraction("level", value, "0.05 is the usual one")


def test_fractions_are_counted_or_named():
    assert fractions("alphas", 3) == fractions("alphas", np.array([1, 0.5, 0, 0.5])) == (0, 0.5, 1)
    assert fractions("alphas", iter([0.5])) == (0.5,)


@pytest.mark.parametrize("values", ["01", None, [], 1, 0, -2, [0.5, "1"], [0.5, math.nan], [2]])
def test_what_are_no_fractions_are_refused(values):
    with pytest.raises(UsageError, match=r"alphas is (.|\n)*Fractions from 0 to 1"):
        fractions("alphas", values)


def test_numbers_have_to_fit_together():
    assert numbers("sigmas", (2, 1), lambda every: every[0] > 0, "Positive.", "") == (1, 2)
    with pytest.raises(UsageError, match=r"sigmas is \(0, 1\)"):
        numbers("sigmas", (0, 1), lambda every: every[0] > 0, "Positive.", "")


STACK = "fcn3x256-digits"


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda s: lx.reinitialise("layer1", 0.5), "epoch is 0.5"),
        (lambda s: lx.reinitialise("layer1", "0"), "epoch is '0'"),
        (lambda s: lx.rerandomise("layer1", draw=-1), "draw is -1"),
        (lambda s: lx.rerandomise("layer1", seed=None), "seed is None"),
        (lambda s: lx.sweep(s, draws=1.5), "draws is 1.5"),
        (lambda s: lx.sweep(s, seed="a"), "seed is 'a'"),
        (lambda s: lx.sweep(s, tolerance="0.1"), "tolerance is '0.1'"),
        (lambda s: lx.sweep(s, tolerance=1), "tolerance is 1"),
        (lambda s: Evaluator(s, batch_size="8"), "batch_size is '8'"),
        (lambda s: Evaluator(s, memory="1GB"), "memory is '1GB'"),
        (lambda s: Evaluator(s, device=None), "device is None"),
        (lambda s: lx.outputs(s, draws="x"), "draws is 'x'"),
        (lambda s: lx.effective_parameters(s, draws="x"), "draws is 'x'"),
        (lambda s: lx.effective_parameters(s, epoch=0.5), "epoch is 0.5"),
        (lambda s: lx.reset_order(s, threshold="x"), "threshold is 'x'"),
        (lambda s: lx.criticality(s, draws="x"), "draws is 'x'"),
        (lambda s: lx.criticality(s, sigmas=3), "sigmas is 3"),
        (lambda s: lx.criticality(s, factor="x"), "factor is 'x'"),
        (lambda s: lx.paths(s, shares="ab"), "shares is 'ab'"),
        (lambda s: lx.compare(s, draws=None), "draws is None"),
        (lambda s: lx.compare(s, margin="x"), "margin is 'x'"),
        (lambda s: lx.distances(s, draws=-1), "draws is -1"),
        (lambda s: lx.check(STACK, seed="x"), "seed is 'x'"),
        (lambda s: lx.Explorer(s, draws="x"), "draws is 'x'"),
        (lambda s: lx.open_stack(STACK, every="2"), "every is '2'"),
        (lambda s: lx.open_stack([{"a.weight": torch.ones(1)}], epochs=["a"]), "epochs is 'a'"),
        (lambda s: lx.verdicts(None), "judged is None"),
        (lambda s: lx.verdicts([3]), "judged is 3"),
        (lambda s: lx.open_sweep(3), "int 3"),
    ],
)
def test_every_public_function_refuses_them(bundled, call, match):
    with pytest.raises(ExplorerError, match=match):
        call(bundled)
