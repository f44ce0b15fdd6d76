"""Fill the heatmap: many cells, those of a layer together, as they become known."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from explorer.engine.interventions import Intervention
from explorer.ui import background
from explorer.ui.background import Evaluates
from explorer.ui.grid import Cell
from explorer.ui.jobs import Desk, Fill
from explorer.ui.pace import Pace
from explorer.ui.results import Counts, fail, record, record_estimate
from explorer.ui.selection import Choice, steps


def fill(desk: Desk, number: int, job: Fill, evaluator: Evaluates) -> None:
    """Measure many cells; those of a layer come together, first as estimates."""
    places = _places(desk, job.cells)
    remaining = _Remaining(job, places)
    for outcomes in background.measure_many(evaluator, list(places)):
        if not remaining.note(outcomes):
            continue
        with desk.turn(number) as mine:
            if not mine:
                return
            _write(desk, outcomes, places)
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

    def report(self, desk: Desk) -> None:
        """Say how far the sweep has come."""
        left = list(self._left)
        desk.remain(left, self._total)
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
