"""The ten exercises of ``notebooks/06-exercises.ipynb``: whether an answer is right.

Every right answer is computed from the bundled stacks and their sweeps when it is asked for, so
that it cannot differ from what a reader measures.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import xarray as xr

from explorer.api import distances
from explorer.course.feedback import (
    Feedback,
    NumberSlips,
    names_fault,
    number_fault,
    one_name_each_fault,
)
from explorer.course.practice import EPOCHS, misfiled_epochs, recorded_run
from explorer.engine.evaluate import evaluate
from explorer.engine.interventions import reinitialise
from explorer.engine.judging import verdicts as tested_verdicts
from explorer.engine.overview import mean_of_draws
from explorer.engine.results import open_sweep
from explorer.engine.verdicts import damage, recovery, verdicts
from explorer.errors import unknown_name
from explorer.weights.stack import open_stack

FCN, VGG, BN = "fcn3x256-digits", "vgg11-digits", "resnet18bn-digits"
RESNET, MIXER = "resnet18-digits", "mixer-digits"

MEASURES = ("l2", "l2_per_sqrt_m", "l2_relative")
"""Distances that exercise 6 compares."""

ALIASED = (
    "Several entries hold the same numbers. state_dict() shows the network's own tensors, and "
    "training goes on changing them: what was put into the list changes as well. Put a copy there "
    "whose tensors are copied too."
)


def check(number: int, answer: Any) -> Feedback:
    """Look at the answer to an exercise.

    Parameters
    ----------
    number : int
        Of the exercise, from 1.
    answer : object
        What the exercise asks for; ``...`` stands for no answer yet.

    Returns
    -------
    Feedback
        Whether it is right, and what is off or what it shows. A notebook shows it as a line.

    Raises
    ------
    UnknownNameError
        There is no exercise of this number.
    """
    if number not in EXERCISES:
        raise unknown_name("exercise", number, EXERCISES)
    if answer is ... or answer is None:
        return Feedback(False, f"Put your answer to exercise {number} in the place of the dots.")
    fault = EXERCISES[number].fault(answer)
    return Feedback(not fault, fault or EXERCISES[number].learnt)


def one_cell(answer: Any) -> str:
    """Look at exercise 1: read one cell of a sweep."""
    sweep, at = _sweep(FCN), {"layer": "layer1", "epoch": 8}
    slips = [
        (sweep["fullmodel_error"].sel(epoch=8), "That is fullmodel: every layer went back."),
        (sweep["error"].sel(epoch=8), "That is the cell of another layer."),
        (sweep["error"].sel(layer="layer1"), "That is another epoch of this layer."),
        (sweep["rerandomized_error"].sel(layer="layer1"), "That is a fresh draw, ReRnd."),
        (sweep["loss"].sel(at), "That is the loss. The error is the share of wrong answers."),
        (1 - sweep["error"].sel(at), "That is the share of right answers."),
    ]
    expected = float(sweep["error"].sel(at))
    return number_fault(answer, expected, slips, "This number is not in the row or the column.")


def threshold(answer: Any) -> str:
    """Look at exercise 2: the error at which a layer begins to be critical."""
    sweep = _sweep(VGG)
    final, chance = sweep.attrs["final_error"], sweep.attrs["chance_error"]
    slips = [
        (0.1, "That is a tenth. A tenth of which way?"),
        (0.1 * chance, "The way does not begin at 0: even the trained network errs."),
        (0.1 * (chance - final), "That is how long a tenth of the way is. Where does it begin?"),
        (final + 0.1, "That is a tenth more. A tenth of which way?"),
        (final + 0.1 * (1 - final), "The way does not end at 1: guessing is right at times."),
        ([final, chance], "That is one end of the way."),
    ]
    expected = final + 0.1 * (chance - final)
    return number_fault(answer, expected, slips, "Begin at final_error; the way ends at chance.")


def looser(answer: Any) -> str:
    """Look at exercise 3: which layers are critical where more is allowed."""
    sweep = _sweep(BN)
    words, first = verdicts(sweep, 0.4), sweep["error"].isel(epoch=0)
    slips = [
        (_where(verdicts(sweep) == "critical"), "Those are critical at a tenth of the way."),
        (_where(first > 0.4), "You compared with 0.4. The way begins at the trained error."),
        (_where(words != "critical"), "Those are the others."),
        (_where(words == "robust"), "Those are the robust ones."),
    ]
    hint = "Compare the column of epoch 0 with your threshold for two fifths."
    return names_fault(answer, _where(words == "critical"), _layers(sweep), slips, hint)


def since_when(answer: Any) -> str:
    """Look at exercise 4: from which epoch on a layer is good enough and stays so."""
    sweep, layer = _sweep(VGG), "stage1.block1"
    expected = float(recovery(sweep).sel(layer=layer))
    within = damage(sweep).sel(layer=layer) <= 0.1
    epochs = sweep["epoch"]
    slips = [
        (epochs[within & (epochs < expected)], "Good enough then, but not at the next one."),
        (epochs[within], "Good enough, but it has been so for a while."),
        (epochs, "At that epoch the error is still above the threshold."),
    ]
    return number_fault(answer, expected, slips, "No checkpoint was kept then. Name a column.")


def own_but_not_fresh(answer: Any) -> str:
    """Look at exercise 5: robust to its own early values, and not to fresh ones."""
    sweep = _sweep(MIXER)
    final, chance = sweep.attrs["final_error"], sweep.attrs["chance_error"]
    lost = mean_of_draws(sweep) > final + 0.1 * (chance - final)
    robust = verdicts(sweep) == "robust"
    slips = [
        (_where(lost), "Some of these do not stand their own first values either."),
        (_where(robust), "These are all robust ones. Some of them stand fresh values as well."),
        (_where(robust & ~lost), "These stand both. Which stand only the one?"),
        (_where(~robust), "Those are critical: they do not stand their own first values."),
    ]
    hint = "Two conditions: robust in the last column, and ReRnd above the threshold."
    return names_fault(answer, _where(robust & lost), _layers(sweep), slips, hint)


def moved_farthest(answer: Any) -> str:
    """Look at exercise 6: which layer moved farthest, by three measures."""
    moved = _moved()
    farthest = {m: str(moved[m].isel(epoch=-1).idxmax("layer").item()) for m in MEASURES}
    if isinstance(answer, dict):
        least = {m: str(moved[m].isel(epoch=-1).idxmin("layer").item()) for m in MEASURES}
        if answer == least:
            return "Those moved least."
    hint = "Take the last epoch of that measure, and the layer with the largest number."
    return one_name_each_fault(answer, farthest, hint)


def together(answer: Any) -> str:
    """Look at exercise 7: the error when two robust layers go back together."""
    sweep, pair = _sweep(FCN), ["layer3", "layer4"]
    single, final = sweep["error"].sel(layer=pair, epoch=0), sweep.attrs["final_error"]
    slips = [
        (single.sum(), "That is the sum of both errors. It was not measured."),
        (single.sum() - final, "Those are both increases added. It was not measured."),
        (single, "That is one of the two alone."),
        (single.mean(), "That is the mean of both errors. It was not measured."),
        (final, "That is the trained network: nothing was put back."),
        (sweep["fullmodel_error"].sel(epoch=0), "That is fullmodel: every layer went back."),
        (sweep["error"].sel(epoch=0), "That is a single layer, and another one."),
    ]
    hint = "Give both names in one intervention, reinitialise([…, …], 0), and take the last error."
    return number_fault(answer, _both(), slips, hint)


def recorded(answer: Any) -> str:
    """Look at exercise 8: the checkpoints of a run, recorded as they should be."""
    if not isinstance(answer, list) or not all(isinstance(one, dict) for one in answer):
        return "A list of state dicts is asked for."
    expected = _recorded()
    if any(_shapes(one) != _shapes(expected[0]) for one in answer):
        return "An entry is not a state dict of this network: its names or shapes differ."
    pairs = itertools.combinations(answer, 2)
    if any(all(torch.equal(one[name], other[name]) for name in one) for one, other in pairs):
        return ALIASED
    if len(answer) == EPOCHS and _alike(answer[0], expected[1]):
        return "The start is missing: record once before the first epoch. It is epoch 0."
    if len(answer) != EPOCHS + 1:
        return f"There are {len(answer)} entries: one for the start and one for each epoch?"
    if not _alike(answer[0], expected[0]):
        return "The first entry is not the start. Make a new network before you train again."
    wrong = [k for k, pair in enumerate(zip(answer, expected, strict=True)) if not _alike(*pair)]
    return f"Entry {wrong[0]} is not the network after epoch {wrong[0]}." if wrong else ""


def misfiled(answer: Any) -> str:
    """Look at exercise 9: which checkpoint lies under a wrong number."""
    wrong, holds = misfiled_epochs()
    slips: NumberSlips = [
        (holds, "It is one of the two that are equal, but this one is where it should be."),
        ([0, 100], "Neither the start nor the end is wrong."),
    ]
    hint = "Two epochs are equal bit for bit; lx.check says which. One of them has a wrong number."
    return number_fault(answer, wrong, slips, hint)


def undecided(answer: Any) -> str:
    """Look at exercise 10: of which layers the test images do not tell."""
    sweep = _sweep(RESNET)
    tested = _tested()
    words = verdicts(sweep)
    slips = [
        (_where(tested == words), "Those are the ones of which both say the same."),
        (_where(words == "mixed"), "Mixed is a verdict, and here a tested one."),
        (_where(words == "critical"), "Those are critical by the threshold alone."),
    ]
    hint = "Set the verdict of lx.verdicts beside the last column of the sweep's table."
    return names_fault(answer, _where(tested != words), _layers(sweep), slips, hint)


@dataclass(frozen=True)
class Exercise:
    """How an answer is looked at."""

    fault: Callable[[Any], str]
    """Answer → what is off; empty if nothing is."""
    learnt: str
    """What a right answer shows."""


EXERCISES = {
    1: Exercise(one_cell, "One network, one layer put back, one number between 0 and 1."),
    2: Exercise(
        threshold, "The rule is ours, not the paper's: with another share it is another number."
    ),
    3: Exercise(looser, "The same numbers, other words: say the threshold with every verdict."),
    4: Exercise(
        since_when, "A later epoch can be worse than an earlier one, so look along the whole row."
    ),
    5: Exercise(
        own_but_not_fresh,
        "Their own first values fit the layers around them, which were trained beside them. Fresh "
        "ones do not. Robust does not mean unneeded.",
    ),
    6: Exercise(
        moved_farthest,
        "Three measures, three layers. Who chooses the measure after looking at the errors can "
        "find a law in any network.",
    ),
    7: Exercise(
        together,
        "Far more than both increases added: robust one by one is not robust together.",
    ),
    8: Exercise(recorded, "These checkpoints are a stack: lx.open_stack(states) opens them."),
    9: Exercise(
        misfiled, "That has happened to public stacks too. Check a stack before you believe it."
    ),
    10: Exercise(
        undecided,
        "They lie so near the threshold that another 1,800 images could turn the word. A verdict "
        "is about this test set unless a test says more.",
    ),
}
"""Number → exercise; the questions, hints and solutions stand in the notebook."""


# What the checks compare with is measured once; no reader gets hold of it.
_sweep = functools.cache(open_sweep)
_recorded = functools.cache(recorded_run)


@functools.cache
def _moved() -> xr.Dataset:
    return distances(open_stack(VGG))


@functools.cache
def _both() -> float:
    """Error with layers 3 and 4 of the fully connected network put back to epoch 0 together."""
    *_, last = evaluate(open_stack(FCN), reinitialise(["layer3", "layer4"], 0), device="cpu")
    return last.error


@functools.cache
def _tested() -> xr.DataArray:
    return tested_verdicts(_sweep(RESNET))["verdict"]


def _layers(sweep: xr.Dataset) -> list[str]:
    return [str(layer) for layer in sweep["layer"].values]


def _where(holds: xr.DataArray) -> set[str]:
    """Names of the layers of which something holds."""
    return {str(layer) for layer in holds["layer"].values[holds.values]}


def _shapes(state: dict[str, Any]) -> dict[str, Any]:
    """Shape of each tensor; of what is none, None."""
    return {name: getattr(tensor, "shape", None) for name, tensor in state.items()}


def _alike(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    """Say whether two state dicts hold the same numbers but for the order of additions."""
    return all(np.allclose(one[name], other[name], atol=1e-4) for name in other)
