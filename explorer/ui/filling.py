"""Fill the heatmap: many cells, those of a layer together, as they become known."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager

from explorer.engine.interventions import Intervention
from explorer.ui.grid import Cell
from explorer.ui.jobs import Desk, Fill
from explorer.ui.pace import Pace
from explorer.ui.results import Counts, fail, record, record_estimate
from explorer.ui.selection import Choice, steps

Stream = Generator[Mapping[Intervention, Counts | str], None, None]
"""Interventions → their counts so far, or why there are none; to stop, it is closed."""


def fill(
    desk: Desk,
    job: Fill,
    measure: Callable[[Sequence[Intervention]], Stream],
    turn: Callable[[], AbstractContextManager[bool]],
    remain: Callable[[Fill], None] = lambda _job: None,
) -> None:
    """Measure many cells; each is written as soon as it is known, some as estimates before.

    Parameters
    ----------
    desk : Desk
        Where they are written and told.
    job : Fill
        Which cells.
    measure : callable
        Interventions → what is known of some of them, again and again; nothing of any where it
        has waited in vain and somebody else might want a turn.
    turn : callable
        Holds the lock, and tells whether this job may still write.
    remain : callable, optional
        Called with what is still to be done, for a job that a click interrupts.
    """
    places = _places(desk, job.cells)
    remaining = _Remaining(job, places)
    with contextlib.closing(measure(list(places))) as stream:
        for outcomes in stream:
            if not remaining.note(outcomes):
                continue
            with turn() as mine:
                if not mine:
                    return
                if outcomes:
                    _write(desk, outcomes, places)
                    remain(remaining.job)
                    remaining.report(desk)


class _Remaining:
    """What of a sweep is still to be measured, and when to say so."""

    def __init__(self, job: Fill, places: Mapping[Intervention, Iterable[Choice]]) -> None:
        self._total = job.total
        self._left: dict[Cell, set[Intervention]] = {cell: set() for cell in job.cells}
        for intervention, choices in places.items():
            for choice in choices:
                self._left[choice.cells[0]].add(intervention)
        self._pace = Pace(len(self._left))

    def note(self, outcomes: Mapping[Intervention, Counts | str]) -> bool:
        """Strike off what is final, if it is time to write and to report; tell whether it is."""
        final = {key for key, outcome in outcomes.items() if _final(outcome)}
        if len(final) < len(outcomes) and not self._pace.due():
            return False  # they will be among the next outcomes as well
        for cell in [cell for cell, wanted in self._left.items() if wanted & final]:
            self._left[cell] -= final
            if not self._left[cell]:
                del self._left[cell]
        return True

    @property
    def job(self) -> Fill:
        """What is still to be done."""
        return Fill(tuple(self._left), self._total)

    def report(self, desk: Desk) -> None:
        """Say how far the sweep has come."""
        left = list(self._left)
        desk.listener.on_recorded()
        desk.listener.on_filled(self._total - len(left), self._total, self._pace.seconds_left(left))


def _places(desk: Desk, cells: Iterable[Cell]) -> dict[Intervention, list[Choice]]:
    """Return each intervention with the cells, and draws, that it belongs to."""
    places: dict[Intervention, list[Choice]] = {}
    for cell in cells:
        for step in steps(Choice((cell,)), desk.grid, desk.seed):
            places.setdefault(step.intervention, []).append(Choice((cell,), step.draw))
    return places


def _final(outcome: Counts | str) -> bool:
    return isinstance(outcome, str) or outcome.examples == outcome.total


def _write(
    desk: Desk,
    outcomes: Mapping[Intervention, Counts | str],
    places: Mapping[Intervention, Iterable[Choice]],
) -> None:
    for intervention, outcome in outcomes.items():
        for choice in places[intervention]:
            cell = choice.cells[0]
            if isinstance(outcome, str):
                fail(desk.results, cell, choice.draw, outcome)
            elif _final(outcome):
                record(desk.results, cell, choice.draw, outcome)
            elif outcome.examples and choice.draw is None:
                record_estimate(desk.results, cell, outcome)
