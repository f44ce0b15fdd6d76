"""What the explorer's thread can be asked for, whom it tells, and what a job works on.

Everything is written while the session's lock is held, and only by the newest job.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

import xarray as xr

from explorer.ui.background import Order
from explorer.ui.changes import Changes
from explorer.ui.grid import Cell, Grid
from explorer.ui.measured import Measured
from explorer.ui.results import Counts
from explorer.ui.selection import Choice
from explorer.ui.studies import Progress, Study


@dataclass(frozen=True)
class Fill:
    """Measure these cells, layer by layer."""

    cells: tuple[Cell, ...]
    """What is still to be measured."""

    total: int
    """How many cells the reader asked for."""


@dataclass(eq=False)
class FindOrder:
    """Find in which order layers can be reset together; after a click it goes on where it was."""

    epoch: int | None
    """Checkpoint to which they are reset; None for a fresh draw."""

    threshold: float
    """Share of the way from the final error to chance that is allowed."""

    orders: Iterator[Order] | None = None
    """What is left of the search; None before it has begun."""

    latest: Order | None = None
    """The last that was found, which nobody may have been told."""


Job = Choice | Fill | FindOrder | Study | None
"""What the thread can be asked for; None for the error of the intact network."""


class Listener(Protocol):
    """Who is told; every method is called with the session's lock held."""

    def on_ready(self, device: str, idle: bool) -> None:
        """The network is loaded; the number of examples and chance are known."""

    def on_estimates(self, choice: Choice, estimates: Sequence[Counts]) -> None:
        """A run has come further; these are all of its estimates so far."""

    def on_recorded(self) -> None:
        """The results have changed."""

    def on_finished(self, choice: Choice, last: Counts) -> None:
        """All numbers of a choice are known."""

    def on_changes(self, changes: Changes) -> None:
        """What the last choice changed, answer by answer."""

    def on_filled(self, done: int, total: int, seconds_left: float) -> None:
        """A sweep has come further, or to its end; NaN while the time left is not known."""

    def on_order(self, job: FindOrder, order: Order) -> None:
        """The order of resets that was asked for has come further, or to its end."""

    def on_distances(self) -> None:
        """The distances are known."""

    def on_study(self, study: Study, progress: Progress) -> None:
        """A study has come further, or to its end."""

    def on_stopped(self, job: Study | FindOrder) -> None:
        """A study, or the search for an order, will not go on."""

    def on_failure(self, asked: Job, error: Exception) -> None:
        """Something went wrong; the cell of a choice is marked, if there is one."""


class Desk(Protocol):
    """The part of the session that a job works on."""

    grid: Grid
    results: xr.Dataset
    measured: list[Measured]
    seed: int
    listener: Listener

    def turn(self, number: int) -> AbstractContextManager[bool]:
        """Hold the lock, and tell whether the job of this number may still write."""


class OpenDesk(Desk, Protocol):
    """The part of the session that works on it beside its thread."""

    def open_turn(self) -> AbstractContextManager[bool]:
        """Hold the lock, and tell whether the session is still open."""

    def reported(
        self,
        number: int | None = None,
        asked: Job = None,
        wanted: Callable[[], bool] | None = None,
    ) -> AbstractContextManager[None]:
        """Hand an exception to the listener and the log."""
