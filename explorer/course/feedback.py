"""What is off in an answer, in words that lead on; the right answer is never among them.

Each function returns a sentence about what is off, and an empty text for a right answer. Slips
are answers that come from a known misunderstanding: each has its own sentence.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

NEAR = 5e-4
"""How far a number may be off: it is right to three decimal places."""

NumberSlips = Sequence[tuple[ArrayLike, str]]
"""Numbers that come from one misunderstanding, and what to say about it."""

NameSlips = Sequence[tuple[Collection[str], str]]
"""Names that come from one misunderstanding, and what to say about it."""


@dataclass(frozen=True, repr=False)
class Feedback:
    """What is said about an answer."""

    right: bool
    """Whether the answer is right."""
    says: str
    """What is off, or what a right answer shows; plain text."""

    def __repr__(self) -> str:
        return f"{self._word}. {self.says}"

    def _repr_html_(self) -> str:
        side = "#1b7837" if self.right else "#b35806"  # the word says it; colour only repeats it
        return (
            f'<p role="status" style="border-left:5px solid {side};padding:2px 10px;margin:4px 0">'
            f"<b>{self._word}.</b> {escape(self.says)}</p>"
        )

    @property
    def _word(self) -> str:
        return "Right" if self.right else "Not yet"


def number_fault(answer: Any, expected: float, slips: NumberSlips, otherwise: str) -> str:
    """Say what is off in a number.

    Parameters
    ----------
    answer : object
        What came: a number, or anything that NumPy reads as one.
    expected : float
        The right number.
    slips : sequence of (numbers, str)
        Looked through in their order; a number of theirs that is right is no slip.
    otherwise : str
        What to say about any other number.

    Returns
    -------
    str
        Empty if the answer is within `NEAR` of the right one.
    """
    value, complaint = _as_number(answer)
    if complaint:
        return complaint
    if abs(value - expected) <= NEAR:
        return ""
    for numbers, sentence in slips:
        if np.any(np.abs(np.asarray(numbers, float) - value) <= NEAR):
            return sentence
    if abs(value - 100 * expected) <= 100 * NEAR:
        return "That is in percent. An error is a fraction here, from 0 to 1."
    if abs(value - expected) <= 10 * NEAR:
        return "Nearly. Give it to three decimal places, or better as the computer has it."
    return otherwise


def names_fault(
    answer: Any, expected: Collection[str], known: Iterable[str], slips: NameSlips, otherwise: str
) -> str:
    """Say what is off in a collection of names, whose order does not matter.

    Parameters
    ----------
    answer : object
        What came: a list, set, array or index of texts.
    expected : collection of str
        The right names.
    known : iterable of str
        Names that there are.
    slips : sequence of (names, str)
        Looked through in their order.
    otherwise : str
        What to say about any other names, after a sentence on whether some are missing or do not
        belong.

    Returns
    -------
    str
        Empty if exactly the right names are there.
    """
    names, complaint = _as_names(answer)
    if complaint:
        return complaint
    there = list(known)
    for name in sorted(names - set(there)):
        return f"There is no {name!r} here. The names are {', '.join(there)}."
    if names == set(expected):
        return ""
    for wrong, sentence in slips:
        if names == set(wrong):
            return sentence
    some = [
        *(["a name is missing"] if set(expected) - names else []),
        *(["a name does not belong"] if names - set(expected) else []),
    ]
    return f"At least {' and at least '.join(some)}. {otherwise}"


def one_name_each_fault(answer: Any, expected: Mapping[str, str], otherwise: str) -> str:
    """Say what is off in a mapping that has one name under each key; which keys, not which names.

    Parameters
    ----------
    answer : object
        What came.
    expected : mapping of str to str
        The right name under each key.
    otherwise : str
        What to say after the number of wrong ones.

    Returns
    -------
    str
        Empty if the right name is under every key.
    """
    if not isinstance(answer, Mapping):
        keys = ", ".join(f'"{key}": "…"' for key in expected)
        return f"A dict is needed here: {{{keys}}}."
    missing = [key for key in expected if answer.get(key) is None or answer[key] is ...]
    if missing:
        return f"There is no answer under {missing[0]!r}."
    wrong = sum(not (isinstance(answer[k], str) and answer[k] == v) for k, v in expected.items())
    return f"{wrong} of {len(expected)} are wrong. {otherwise}" if wrong else ""


def _as_number(answer: Any) -> tuple[float, str]:
    """Return an answer as a number, or what to say of one that is none."""
    if isinstance(answer, str):
        return math.nan, "That is text. Leave the quotation marks away."
    if isinstance(answer, bool | np.bool_):
        return math.nan, "That is yes or no, and a number is asked for."
    if hasattr(answer, "error") and hasattr(answer, "examples"):
        return math.nan, "That is a whole estimate. Its test error is its attribute .error."
    try:
        values = np.asarray(answer, float)
    except (TypeError, ValueError):
        kind = type(answer).__name__
        also = " list(…)[-1] takes the last thing it gives." if kind == "generator" else ""
        return math.nan, f"One number is asked for, and this is a {kind}.{also}"
    if values.size != 1:
        return math.nan, (
            f"One number is asked for, and these are {values.size}. Choose one, for example with "
            ".sel(layer=…, epoch=…)."
        )
    value = float(values.item())
    return value, "" if math.isfinite(value) else "This is no number: nothing was measured there."


def _as_names(answer: Any) -> tuple[set[str], str]:
    """Return an answer as names, or what to say of one that holds none."""
    if isinstance(answer, str):
        return set(), f"Names are asked for in a list, also a single one: [{answer!r}]."
    try:
        items = [] if isinstance(answer, Mapping) else list(answer)
    except TypeError:
        items = []
    given = [
        item.item() if np.ndim(item) == 0 and hasattr(item, "item") else item for item in items
    ]
    if not given:
        return set(), "A list of names is asked for, with at least one in it."
    if not all(isinstance(item, str) for item in given):
        return set(), (
            "Names are asked for, as text, and these are numbers, True or False. The names where "
            "something holds: list(layers[holds])."
        )
    return set(given), ""
