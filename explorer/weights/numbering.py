"""The numbers of a stack's checkpoints: what they count, that they rise, which ones to keep."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from typing import Any

from explorer.arguments import whole_number
from explorer.errors import StackError, UsageError, unknown_name
from explorer.weights.readers.when import MOST, When

UNITS = ("epoch", "step")

# what the network before training and the trained one are called where no number is in a name
_BEGINNING = re.compile(
    r"before|begin(ning)?|first|init(ial(i[sz](ed|ation))?)?|start|random|untrained"
)
_END = re.compile(r"after|end|final|last|trained")

Choice = range | slice | Sequence[int]
"""Numbers to keep: those in a range; those from the start of a slice to its end, both included
as in xarray's ``sel``; or exactly these."""


def check_unit(unit: str | None) -> None:
    """Refuse a unit that is not known."""
    if unit is not None and unit not in UNITS:
        raise UsageError(
            f"The unit is {unit!r}.", "'epoch' and 'step' are understood.", "Choose one of them."
        )


def number_in(mark: When, unit: str) -> int | None:
    """The number in a unit; one of which nothing says what it counts is taken for an epoch."""
    value = mark.step if unit == "step" else mark.epoch
    bare = mark.epoch is None and mark.step is None and unit == "epoch"
    return mark.number if bare else value


def place_in_words(name: str) -> int:
    """Read where in training a name puts a network: -1 at its beginning, 1 at its end, else 0."""
    words = {word.lower() for word in re.findall(r"[A-Z]?[a-z]+|[A-Z]+", name)}
    return any(map(_END.fullmatch, words)) - any(map(_BEGINNING.fullmatch, words))


def numbered(
    marks: Sequence[When], labels: Sequence[str], unit: str | None
) -> tuple[list[int], str]:
    """Choose what a stack counts, and count it.

    Parameters
    ----------
    marks, labels : sequence
        How far training had come at each checkpoint, and how to call it in an error.
    unit : str, optional
        ``"epoch"`` or ``"step"``; default steps where all checkpoints have them, since they are
        finer, else epochs.

    Raises
    ------
    StackError
        Some checkpoints count epochs and some steps, or some have no number.
    """
    chosen = unit or _unit_of(marks, labels)
    values = [number_in(mark, chosen) for mark in marks]
    lacking = [label for label, value in zip(labels, values, strict=True) if value is None]
    if lacking:
        raise StackError(
            f"{lacking[0]} does not say its {chosen}"
            + (f", nor do {len(lacking) - 1} more." if lacking[1:] else "."),
            "Each checkpoint needs a number of the same kind.",
            "Leave it out, pass epochs=[…] in the order of the checkpoints, or another unit=.",
        )
    return [value for value in values if value is not None], chosen


def check_epochs(epochs: Sequence[int], labels: Sequence[str]) -> list[int]:
    """Refuse epochs that are not one per checkpoint, rising."""
    advice = "Pass one whole number per checkpoint, rising."
    epochs = [whole_number("One of epochs", epoch, advice) for epoch in epochs]
    if max(epochs, default=0) > MOST:
        label = labels[list(epochs).index(max(epochs))] if len(epochs) == len(labels) else "One"
        raise StackError(
            f"{label} has the number {max(epochs)}.",
            f"Numbers up to {MOST:.3g} fit into a coordinate.",
            "Correct the name, or pass epochs=[…] in the order of the checkpoints.",
        )
    twice = [k for k, (a, b) in enumerate(itertools.pairwise(epochs)) if a == b]
    rising = all(a < b for a, b in itertools.pairwise(epochs))
    if len(epochs) != len(labels) or not rising:
        same = f" {labels[twice[0]]} and {labels[twice[0] + 1]} have the same." if twice else ""
        raise StackError(
            f"The epochs of the {len(labels)} checkpoints are {list(epochs)}."
            + (same if len(epochs) == len(labels) else ""),
            "One epoch per checkpoint is needed, rising, without duplicates.",
            "Leave duplicates out, or pass epochs=[…] in the order of the checkpoints.",
        )
    return epochs


def kept_positions(numbers: Sequence[int], every: int, only: Choice | None) -> list[int]:
    """Positions of the checkpoints to keep, the last one always: it is the trained network.

    Raises
    ------
    UsageError
        `every` is not a whole number from 1 on.
    UnknownNameError, StackError
        A number that is asked for does not exist, or none of a range does.
    """
    advice = "every=10 keeps each tenth checkpoint; leave it out to keep all of them."
    every = whole_number("every", every, advice, least=1)
    within = _within(numbers, only)
    kept = [k for k, number in enumerate(numbers) if number in within]
    if numbers and not kept:
        raise StackError(
            f"None of the {len(numbers)} checkpoints, {numbers[0]} to {numbers[-1]}, is in {only}.",
            "At least one is needed.",
            "Choose a wider range, or leave only= out.",
        )
    return [k for at, k in enumerate(kept) if at % every == 0 or at == len(kept) - 1]


def _within(numbers: Sequence[int], only: Any) -> set[int]:
    """Those of the numbers that are asked for."""
    if only is None:
        return set(numbers)
    if isinstance(only, slice):
        chosen = [
            n
            for n in numbers
            if (only.start is None or n >= only.start) and (only.stop is None or n <= only.stop)
        ]
        return set(chosen[:: only.step or 1])
    for number in () if isinstance(only, range) else only:
        if number not in numbers:
            raise unknown_name("checkpoint", number, numbers)
    return set(numbers) & set(only)


def _unit_of(marks: Sequence[When], labels: Sequence[str]) -> str:
    """Steps where all have them and they differ, or nothing else is there; else epochs."""
    with_step = [n for n, mark in zip(labels, marks, strict=True) if mark.step is not None]
    with_epoch = [n for n, mark in zip(labels, marks, strict=True) if mark.epoch is not None]
    if len(with_step) == len(marks):
        distinct = len({mark.step for mark in marks}) == len(marks)
        return "step" if distinct or len(with_epoch) < len(marks) else "epoch"
    if with_step and len(with_epoch) < len(marks):
        other = next(label for label in labels if label not in with_step)
        raise StackError(
            f"There are {with_step[0]} and {other} among the checkpoints.",
            "A stack counts either completed epochs or optimiser steps.",
            "Pass the files of one kind as a list, or say which with unit=.",
        )
    return "epoch"
