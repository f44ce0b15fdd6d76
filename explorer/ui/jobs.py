"""What the explorer's thread does: measure a choice, fill the heatmap, find an order.

Everything is written while the session's lock is held, and only by the newest job.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import xarray as xr

from explorer.engine.intact import not_measured
from explorer.engine.interventions import Intervention
from explorer.errors import InterventionError, UsageError
from explorer.ui import background
from explorer.ui.background import Evaluates, Order
from explorer.ui.changes import Changes, showcase
from explorer.ui.grid import Cell, Grid
from explorer.ui.measured import Measured
from explorer.ui.results import Counts, fail, read, record
from explorer.ui.selection import Choice, Step, source_of, steps
from explorer.ui.studies import Progress, Study

PAINT_EVERY = 0.1
"""Seconds between two reports of a running estimate; at 50 Hz the browser falls behind."""


@dataclass(frozen=True)
class Fill:
    """Measure these cells, layer by layer."""

    cells: tuple[Cell, ...]
    """What is still to be measured."""

    total: int
    """How many cells the reader asked for."""


@dataclass(frozen=True)
class FindOrder:
    """Find in which order layers can be reset together."""

    epoch: int | None
    """Checkpoint to which they are reset; None for a fresh draw."""

    threshold: float
    """Share of the way from the final error to chance that is allowed."""


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

    def on_stopped(self, study: Study) -> None:
        """A study will not go on."""

    def on_failure(self, asked: Choice | Study | None, error: Exception) -> None:
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

    def remain(self, cells: Sequence[Cell], total: int) -> None:
        """Remember what of a sweep is still to be done, should a click come before."""


def measure(desk: Desk, number: int, choice: Choice, evaluator: Evaluates) -> Step | None:
    """Measure a choice, draw by draw; return the last of its steps that was, or None."""
    last, step = None, None
    for step in steps(choice, desk.grid, desk.seed):
        part = Choice(choice.cells, step.draw, choice.other)
        last = _run(desk, number, part, evaluator.estimates(step.intervention))
        with desk.turn(number) as mine:
            if last is None or not mine:
                return None
            _write(desk, part, last)
            desk.measured.append(Measured.of(part, step.intervention, last))
            desk.listener.on_recorded()
    if last is None:
        return None
    with desk.turn(number) as mine:
        if not mine:
            return None
        desk.listener.on_finished(choice, last)
    return None if last.failure else step


def compare(desk: Desk, number: int, choice: Choice, step: Step, evaluator: Evaluates) -> None:
    """Find what a measured step of a choice changed, answer by answer."""
    title = str(Choice(choice.cells, step.draw, choice.other))
    changes = _changes(title, step.intervention, evaluator)
    with desk.turn(number) as mine:
        if mine:
            desk.listener.on_changes(changes)


def _run(desk: Desk, number: int, part: Choice, estimates: Iterator[Counts]) -> Counts | None:
    """Report a run at most every tenth of a second; None when it may not go on."""
    seen: list[Counts] = []
    reported = -math.inf
    for estimate in estimates:
        seen.append(estimate)
        last = estimate.examples == estimate.total
        if not last and time.monotonic() - reported < PAINT_EVERY:
            continue
        with desk.turn(number) as mine:
            if not mine:
                return None
            desk.listener.on_estimates(part, seen)
            if not last and _write_part(desk, part, estimate):
                desk.listener.on_recorded()
        reported = time.monotonic()
    return seen[-1]


def _write(desk: Desk, part: Choice, counts: Counts) -> None:
    if part.cell is not None:
        record(desk.results, part.cell, part.draw, counts)


def _write_part(desk: Desk, part: Choice, counts: Counts) -> bool:
    """Write an estimate where there is no better number; tell whether that was so."""
    cell = part.cell
    if cell is None or part.draw is not None or read(desk.results, cell).state == "measured":
        return False
    record(desk.results, cell, None, counts)
    return True


def _changes(title: str, intervention: Intervention, evaluator: Evaluates) -> Changes:
    answers = evaluator.predictions(intervention)
    positions = 1 if answers.labels.ndim == 1 else answers.labels.shape[1]
    labels, intact, patched = (
        answers.labels.ravel(),
        answers.intact.ravel(),
        answers.patched.ravel(),
    )
    turned = itertools.chain.from_iterable(showcase(labels, intact, patched))
    numbers = [number // positions for number in turned]
    examples = list(dict.fromkeys(numbers))
    inputs = dict(zip(examples, evaluator.inputs_of(examples), strict=True)) if examples else {}
    return Changes(title, labels, intact, patched, evaluator.class_names, positions, inputs)


def measure_intact(desk: Desk, number: int, evaluator: Evaluates) -> None:
    """Find the final error of a stack that comes without a sweep, or why it has none."""
    try:
        for estimate in evaluator.estimates(Intervention(())):
            with desk.turn(number) as mine:
                if not mine:
                    return
                if estimate.examples == estimate.total:
                    _write_intact(desk, estimate)
    except InterventionError as error:  # its weights are not finite; what was asked for goes on
        with desk.turn(number) as mine:
            if mine:
                _doubt(desk, error.came)


def _write_intact(desk: Desk, counts: Counts) -> None:
    if counts.failure:
        _doubt(desk, counts.failure)
        return
    desk.results.attrs["final_error"] = counts.error
    desk.listener.on_recorded()


def _doubt(desk: Desk, reason: str) -> None:
    desk.results.attrs["doubt"] = not_measured(reason)
    desk.listener.on_recorded()


def fill(desk: Desk, number: int, job: Fill, evaluator: Evaluates) -> None:
    """Measure many cells; those of a layer come together, first as estimates."""
    places = _places(desk, job.cells)
    left = dict.fromkeys(job.cells)
    clock = _Clock(len(job.cells))
    for outcomes in background.measure_many(evaluator, list(places)):
        exact = [key for key, outcome in outcomes.items() if _final(outcome)]
        if len(exact) < len(outcomes) and not clock.due():
            continue
        for choice in itertools.chain.from_iterable(places[key] for key in exact):
            left.pop(choice.cells[0], None)
        with desk.turn(number) as mine:
            if not mine:
                return
            _write_outcomes(desk, outcomes, places)
            desk.remain(list(left), job.total)
            desk.listener.on_recorded()
            desk.listener.on_filled(job.total - len(left), job.total, clock.seconds_left(left))


def _places(desk: Desk, cells: Iterable[Cell]) -> dict[Intervention, list[Choice]]:
    """Return each intervention with the cells, and draws, that it belongs to."""
    places: dict[Intervention, list[Choice]] = {}
    for cell in cells:
        for step in steps(Choice((cell,)), desk.grid, desk.seed):
            places.setdefault(step.intervention, []).append(Choice((cell,), step.draw))
    return places


def _final(outcome: Counts | str) -> bool:
    return isinstance(outcome, str) or outcome.examples == outcome.total


def _write_outcomes(
    desk: Desk,
    outcomes: Mapping[Intervention, Counts | str],
    places: Mapping[Intervention, Iterable[Choice]],
) -> None:
    for intervention, outcome in outcomes.items():
        for choice in places[intervention]:
            if isinstance(outcome, str):
                fail(desk.results, choice.cells[0], choice.draw, outcome)
            elif _final(outcome):
                _write(desk, choice, outcome)
            elif outcome.examples:
                _write_part(desk, choice, outcome)


class _Clock:
    """When to report, and how long the rest will take."""

    def __init__(self, cells: int) -> None:
        self._cells = cells
        self._started = time.monotonic()
        self._reported = -math.inf  # the first news are reported at once

    def due(self) -> bool:
        """Tell whether a tenth of a second has passed since this was last so."""
        now = time.monotonic()
        if now - self._reported < PAINT_EVERY:
            return False
        self._reported = now
        return True

    def seconds_left(self, left: Mapping[Cell, Any]) -> float:
        """Return the time that the cells left will take at the pace so far."""
        done = self._cells - len(left)
        return (time.monotonic() - self._started) / done * len(left) if done else math.nan


def find_order(desk: Desk, number: int, job: FindOrder, evaluator: Evaluates) -> None:
    """Reset layers together, the least harmful first, as far as the allowed error goes."""
    final, chance = (float(desk.results.attrs[f"{end}_error"]) for end in ("final", "chance"))
    if not math.isfinite(final):
        raise UsageError(
            "The error of the trained network is not known.",
            "It is where the way to chance begins.",
            "Choose a stack whose trained network can be measured.",
        )
    source = source_of(job.epoch, None, 0, desk.seed)
    allowed = final + job.threshold * (chance - final)
    clock = _Clock(1)
    found = background.find_order(evaluator, dict.fromkeys(desk.grid.layers, source), allowed)
    for order in found:
        if not order.finished and not clock.due():
            continue
        with desk.turn(number) as mine:
            if not mine:
                return
            desk.listener.on_order(job, order)
