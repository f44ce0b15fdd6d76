"""Numbers that a caller passes: read in one way, and refused in the same words everywhere."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable
from typing import Any

from explorer.errors import UsageError


def whole_number(name: str, value: Any, advice: str, least: int | None = None) -> int:
    """Read a whole number: an int, what stands for one, or a float without a fraction.

    Parameters
    ----------
    name : str
        What the caller knows it by.
    value : object
        What was passed.
    advice : str
        What to do instead, the last part of the error.
    least : int, optional
        The smallest that will do; default any.

    Raises
    ------
    UsageError
        It is something else, or smaller.
    """
    number = _whole(value)
    if number is None or (least is not None and number < least):
        from_on = "" if least is None else f" from {least} on"
        raise UsageError(f"{name} is {value!r}.", f"A whole number{from_on} is needed.", advice)
    return number


def draws_and_seed(draws: Any, seed: Any, least: int = 0) -> tuple[int, int]:
    """Read how many draws are wanted, and their seed.

    Raises
    ------
    UsageError
        One is no whole number, or there are fewer draws than the least.
    """
    return (
        whole_number("draws", draws, "Leave it out to get the default.", least),
        whole_number("seed", seed, "Use 0, 1, 2, …"),
    )


def number(
    name: str, value: Any, fits: Callable[[float], bool], accepted: str, advice: str
) -> float:
    """Read a number that fits.

    Parameters
    ----------
    name : str
        What the caller knows it by.
    value : object
        What was passed.
    fits : function
        Whether a number will do.
    accepted, advice : str
        Which numbers will do, and what to do instead: the end of the error.

    Raises
    ------
    UsageError
        It is no number, or does not fit.
    """
    found = _real(value)
    if found is None or not fits(found):
        raise UsageError(f"{name} is {value!r}.", accepted, advice)
    return found


def numbers(
    name: str,
    values: Any,
    fits: Callable[[tuple[float, ...]], bool],
    accepted: str,
    advice: str,
) -> tuple[float, ...]:
    """Read at least one number, each once and rising; otherwise as `number`."""
    several = isinstance(values, Iterable) and not isinstance(values, (str, bytes))
    found = [_real(value) for value in values] if several else []
    known = tuple(sorted({one for one in found if one is not None}))
    if not found or None in found or not fits(known):
        raise UsageError(f"{name} is {values!r}.", accepted, advice)
    return known


def fraction(name: str, value: Any, example: str) -> float:
    """Read a number from 0 to 1, of which an example says what it stands for.

    Raises
    ------
    UsageError
        It is something else.
    """
    accepted = f"A fraction from 0 to 1 is needed: {example}."
    return number(name, value, lambda v: 0 <= v <= 1, accepted, "Divide a percentage by 100.")


def fractions(name: str, values: Any) -> tuple[float, ...]:
    """Read numbers from 0 to 1, or how many of them at even distances.

    Raises
    ------
    UsageError
        There are none, or other ones; or a number below 2, which has no distances.
    """
    count = _whole(values)
    every = [k / (count - 1) for k in range(count)] if count is not None and count > 1 else values
    return numbers(
        name,
        every,
        lambda v: all(0 <= one <= 1 for one in v),
        "Fractions from 0 to 1 are needed, or how many of them at even distances: 2 or more.",
        "Leave it out to take 0, 0.1, …, 1.",
    )


def _whole(value: Any) -> int | None:
    if isinstance(value, bool):
        return None
    try:
        return operator.index(value)
    except TypeError:
        number = _real(value)
        return int(number) if number is not None and number.is_integer() else None


def _real(value: Any) -> float | None:
    """The number as a float; a text is none, even where it could be read as one."""
    if isinstance(value, (bool, str, bytes, bytearray)):
        return None
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):  # torch and numpy: of several values
        return None
