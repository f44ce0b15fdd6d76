"""A measurement under way: how far it has come, and what is known by then."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from operator import attrgetter
from typing import Generic, TypeVar

import xarray as xr
from tqdm.auto import tqdm

Found = TypeVar("Found", bound=xr.Dataset | xr.DataTree)
Known = TypeVar("Known")


@dataclass(frozen=True)
class Part(Generic[Found]):
    """How far a measurement has come."""

    done: int
    """Units of work that are done."""
    total: int
    """Units at most; a search may end with fewer."""
    dataset: Callable[[], Found]
    """Makes the result as it is known now, before the next part is asked for: a Dataset, or the
    DataTree of a comparison; its attribute ``complete`` says whether it is all."""


Parts = Iterator[Part[xr.Dataset]]
"""To stop, do not ask for the next."""


def last_dataset(parts: Iterator[Part[Found]], about: str, unit: str, progress: bool) -> Found:
    """Follow a measurement with a progress bar to its end; Ctrl-C keeps what is known.

    Parameters
    ----------
    parts : iterator of Part
        The first comes before anything is measured.
    about, unit : str
        What the bar says.
    progress : bool
        Whether there is one.
    """
    return last_of(parts, attrgetter("done", "total"), about, unit, progress).dataset()


def last_of(
    stream: Iterator[Known],
    counts: Callable[[Known], tuple[int, int]],
    about: str,
    unit: str,
    progress: bool,
) -> Known:
    """Follow a stream with a progress bar to its last element; Ctrl-C ends it with the newest.

    Parameters
    ----------
    stream : iterator
        Each element holds all that is known by then; the first comes before anything is measured.
    counts : callable
        Element → units of work that are done, and units at most.
    about, unit, progress
        As for `last_dataset`.
    """
    known = None
    try:
        with tqdm(desc=about, unit=unit, unit_scale=True, disable=not progress) as bar:
            for known in stream:
                done, bar.total = counts(known)
                bar.update(done - bar.n)
    except KeyboardInterrupt:
        if known is None:
            raise
    assert known is not None  # a measurement begins with one
    return known
