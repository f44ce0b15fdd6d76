"""Whether the trained network does on these examples what it did when it was trained.

Test examples that are normalised otherwise than in training, labels in another order or weights of
another network give numbers that look like any others; the trained network's own error tells.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from typing import Any

from explorer.engine.intervals import wilson_interval
from explorer.errors import NumbersWarning

RECORDED = "recorded_error"
"""Attribute of a stack, and of what is measured with it: the trained network's test error as it
was found in training, a fraction; missing where nobody has written it down."""

CHECK = (
    "Check that the inputs are normalised as in training, that the labels are in the same order, "
    "and that the weights are those of this network."
)


def recorded_error(attrs: Mapping[Any, Any], final_epoch: int) -> dict[str, float]:
    """Return the error that a stack records of its final network, as an attribute.

    Parameters
    ----------
    attrs : mapping
        Attributes of the stack; where recorded_epoch is among them, the error is that epoch's.
    final_epoch : int
        The last epoch that the stack has, perhaps after a selection.

    Returns
    -------
    dict
        Empty where none is recorded of this epoch.
    """
    known = float(attrs.get(RECORDED, math.nan))
    its_own = int(attrs.get("recorded_epoch", final_epoch)) == final_epoch
    return {RECORDED: known} if its_own and math.isfinite(known) else {}


def doubt_about(attrs: Mapping[Any, Any]) -> str:
    """Say why the numbers of a result are not to be trusted.

    Parameters
    ----------
    attrs : mapping
        Attributes of a sweep or of another result: final_error (fraction), examples or, where it
        was measured on fewer, final_examples, chance_error, dataset, recorded_error if known.

    Returns
    -------
    str
        The attribute ``caution``, if there is one. Besides nothing where the recorded error lies
        within the 95 % Wilson interval of the measured one; where no error is recorded, where the
        measured one is better than chance.
    """
    caution, doubt = str(attrs.get("caution", "")), _doubt_about_error(attrs)
    return doubt if caution in doubt else f"{caution} {doubt}".rstrip()


def _doubt_about_error(attrs: Mapping[Any, Any]) -> str:
    error = float(attrs.get("final_error", math.nan))
    examples = int(attrs.get("final_examples", attrs.get("examples", 0)))
    if not math.isfinite(error) or examples < 1:
        return str(attrs.get("doubt", ""))
    low, high = wilson_interval(min(max(error, 0.0), 1.0) * examples, examples)
    measured = (
        f"The trained network's test error is {error:.1%} (95 % interval {low:.1%} to {high:.1%}, "
        f"{examples:,} examples of {attrs.get('dataset') or 'the test set'})"
    )
    known = float(attrs.get(RECORDED, math.nan))
    if math.isfinite(known):
        agrees = low <= known <= high
        return "" if agrees else f"{measured}, but its stack records {known:.1%}. {CHECK}"
    chance = float(attrs.get("chance_error", math.nan))
    if high >= chance and error > chance / 2:
        always = f"no better than always giving the most frequent answer ({chance:.1%})"
        return f"{measured}, {always}. {CHECK}"
    return ""


def not_measured(reason: str) -> str:
    """Say that the trained network itself has no error, and why."""
    return f"The trained network could not be measured: {reason}"


def warn_of(doubt: str, stacklevel: int = 3) -> None:
    """Warn whoever called the public function; nothing where there is no doubt."""
    if doubt:
        warnings.warn(doubt, NumbersWarning, stacklevel=stacklevel)
