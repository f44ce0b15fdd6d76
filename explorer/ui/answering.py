"""Answer a reader: measure a choice, say what it changed, find the order of resets."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator

from explorer.engine.intact import not_measured
from explorer.engine.interventions import Intervention
from explorer.engine.margins import margin_of_resets
from explorer.errors import InterventionError, UsageError
from explorer.ui import background
from explorer.ui.background import Evaluates, Order
from explorer.ui.changes import Changes, showcase
from explorer.ui.jobs import Desk, FindOrder
from explorer.ui.measured import Measured
from explorer.ui.pace import Pace
from explorer.ui.results import Counts, record, record_estimate
from explorer.ui.selection import Choice, Step, source_of, steps


def measure(desk: Desk, number: int, choice: Choice, evaluator: Evaluates) -> Step | None:
    """Measure a choice, draw by draw; return the last of its steps that was, or None."""
    last, step = None, None
    for step in steps(choice, desk.grid, desk.seed):
        part = Choice(choice.cells, step.draw, choice.other)
        last = _run(desk, number, part, evaluator.estimates(step.intervention))
        with desk.turn(number) as mine:
            if last is None or not mine:
                return None
            if part.cell is not None:
                record(desk.results, part.cell, part.draw, last)
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
    pace = Pace(1)
    for estimate in estimates:
        seen.append(estimate)
        last = estimate.examples == estimate.total
        if not (pace.due() or last):
            continue
        with desk.turn(number) as mine:
            if not mine:
                return None
            desk.listener.on_estimates(part, seen)
            if not last and _write_part(desk, part, estimate):
                desk.listener.on_recorded()
    return seen[-1]


def _write_part(desk: Desk, part: Choice, counts: Counts) -> bool:
    single = part.cell is not None and part.draw is None
    return single and record_estimate(desk.results, part.cells[0], counts)


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


def find_order(desk: Desk, number: int, job: FindOrder, evaluator: Evaluates) -> None:
    """Reset layers together, the least harmful first, as far as the allowed error goes."""
    if job.orders is None:
        with desk.turn(number) as mine:
            if not mine:  # the reader went on before the trained network had been measured
                return
            job.orders = _orders(desk, job, evaluator)
    pace = Pace(1)
    interrupted = () if job.latest is None else (job.latest,)
    for order in itertools.chain(interrupted, job.orders):
        job.latest = order
        if not order.finished and not pace.due():
            continue
        with desk.turn(number) as mine:
            if not mine:
                return
            desk.listener.on_order(job, order)


def _orders(desk: Desk, job: FindOrder, evaluator: Evaluates) -> Iterator[Order]:
    final, chance = (float(desk.results.attrs[f"{end}_error"]) for end in ("final", "chance"))
    if not math.isfinite(final):
        raise UsageError(
            "The error of the trained network is not known.",
            "It is where the way to chance begins.",
            "Choose a stack whose trained network can be measured.",
        )
    source = source_of(job.epoch, None, 0, desk.seed)
    allowed = final + margin_of_resets(job.threshold, None, final, chance)
    return background.find_order(evaluator, dict.fromkeys(desk.grid.layers, source), allowed)
