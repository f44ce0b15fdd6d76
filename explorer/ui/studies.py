"""The measurements beyond a sweep: what can be asked for, and how the thread follows one.

A study that a click has interrupted keeps its generator and goes on where it was.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import xarray as xr

Kind = Literal["effective", "criticality", "paths", "motion", "outputs", "across"]
"""Which measurement; the names of the commands."""

REPORT_EVERY = 0.1
"""Seconds between two reports of how far a study is."""

DRAWING_SHARE, LONGEST_WAIT = 0.2, 2.0
"""Of the time of a study, so much may go into results that are not complete yet, unless nothing
new has been seen for so many seconds."""


class Part(Protocol):
    """The part of `explorer.engine.parts.Part` that the widget shows."""

    @property
    def done(self) -> int: ...
    @property
    def total(self) -> int: ...
    @property
    def dataset(self) -> Callable[[], Any]: ...


@dataclass(eq=False)
class Study:
    """One measurement that a reader has asked for."""

    kind: Kind
    """Which."""

    arguments: Mapping[str, Any] = field(default_factory=dict)
    """Keyword arguments of the public function."""

    labelled: bool = True
    """Whether the test examples have labels."""

    parts: Iterator[Part] | None = None
    """What is left of it; None before it has begun."""

    seconds: float = 0.0
    """Time that it has taken so far, without interruptions."""


@dataclass(frozen=True)
class Progress:
    """How far a study is."""

    done: int
    """Units of work done."""

    total: int
    """Units at most."""

    seconds_left: float
    """Time that the rest will take at this pace; NaN while it is not known."""

    found: Any
    """What is known, where that is told anew: a Dataset, or the DataTree of a comparison."""

    finished: bool = False
    """Whether the study has come to its end."""


def follow(
    study: Study,
    turn: Callable[[], AbstractContextManager[bool]],
    tell: Callable[[Study, Progress], None],
) -> bool:
    """Measure until the end, or until somebody else's turn; return whether the end was reached.

    Parameters
    ----------
    study : Study
        Begun already; what is left of it stays in it.
    turn : callable
        Holds the lock, and tells whether this study may still write.
    tell : callable
        Called, with the lock held, with what is new.
    """
    assert study.parts is not None
    began, before = time.monotonic(), study.seconds
    reported, drawn, drawing = -math.inf, -math.inf, 0.0
    last = None
    for part in study.parts:
        last, now = part, time.monotonic()
        study.seconds = before + now - began
        found = None
        if now - drawn >= min(drawing / DRAWING_SHARE, LONGEST_WAIT):
            found = part.dataset()
        with turn() as mine:
            if not mine:
                return False
            if found is not None or now - reported >= REPORT_EVERY:
                left = (
                    study.seconds / part.done * (part.total - part.done) if part.done else math.nan
                )
                tell(study, Progress(part.done, part.total, left, found))
                reported = now
        if found is not None:
            drawn = time.monotonic()
            drawing = max(drawn - now, REPORT_EVERY)
    if last is None:
        return True
    complete = last.dataset()
    with turn() as mine:
        if mine:
            tell(study, Progress(last.total, last.total, 0.0, complete, finished=True))
        return mine


def why_not(kind: Kind, stack: xr.DataTree, data: Any) -> str:
    """Say why a measurement does not apply to a stack and its examples; empty where it does.

    Parameters
    ----------
    kind : str
        Which measurement.
    stack : xarray.DataTree
        From `explorer.open_stack`.
    data : object
        The reader's own examples, or None.
    """
    alone = stack.sizes["epoch"] == 1
    if alone and kind in ("criticality", "paths", "motion"):
        about = {
            "criticality": "Criticality looks at the way from an earlier checkpoint",
            "paths": "A path leads from one checkpoint to another",
            "motion": "Motion is what happens between checkpoints",
        }
        return (
            f"{about[kind]}, and this stack has one checkpoint, the trained network. Open a stack "
            "with at least two checkpoints of one training run."
        )
    if kind in ("effective", "criticality", "paths", "across") and unlabelled(data):
        return (
            "The examples have no labels, so that there is no error to measure. Pass a pair of "
            "inputs and labels as data=; outputs can be compared without."
        )
    return ""


def unlabelled(data: Any) -> bool:
    """Tell whether the reader's examples are inputs alone: a tensor or an array."""
    return hasattr(data, "shape") and hasattr(data, "dtype")
