"""A measurement under way: how far it has come, and what is known by then."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

import xarray as xr
from tqdm.auto import tqdm

Found = TypeVar("Found", bound=xr.Dataset | xr.DataTree)


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
    part = None
    try:
        with tqdm(desc=about, unit=unit, unit_scale=True, disable=not progress) as bar:
            for part in parts:
                bar.total = part.total
                bar.update(part.done - bar.n)
    except KeyboardInterrupt:
        if part is None:
            raise
    assert part is not None  # a measurement begins with one
    return part.dataset()
