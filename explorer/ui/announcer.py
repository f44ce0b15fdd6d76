"""What the session finds out, said on the page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from explorer.engine.intact import doubt_about
from explorer.ui.background import Order
from explorer.ui.beyond import Beyond
from explorer.ui.changes import Changes, changes_html
from explorer.ui.controls import Controls, Views
from explorer.ui.jobs import Fill, FindOrder, Job
from explorer.ui.measured import measured_html
from explorer.ui.panes import OrderPane, StatusPane, heading
from explorer.ui.pictures import Pictures
from explorer.ui.relations import verdict_words
from explorer.ui.results import Counts, read
from explorer.ui.selection import Choice, Selection, presets
from explorer.ui.session import Session
from explorer.ui.studies import Progress, Study
from explorer.ui.wording import (
    can_be_put_back,
    complaint,
    draws_outcome,
    how_to,
    outcome,
    time_left,
    title_of,
)


class Page(Protocol):
    """The parts of an exploration that show what was found out."""

    session: Session
    selection: Selection
    pictures: Pictures
    controls: Controls
    shown: Views
    status: StatusPane
    order: OrderPane
    beyond: Beyond
    heading: Any
    changed: Any
    measured: Any
    """These three have HTML as their value."""


class Announcer:
    """Listens to a session, which calls it with the lock held.

    Parameters
    ----------
    page : Page
        Where to say it; its parts need to be there when the session starts.
    """

    def __init__(self, page: Page) -> None:
        self._page = page
        self._answer = ""
        """What the reader was told last, which stands before what is said of a sweep."""
        self._held = ""
        """What is said of a sweep once the click has been answered during which it ended."""

    def answer(self, said: str) -> None:
        """Say what the reader has asked for; a sweep that goes on does not speak over it."""
        self._answer = said
        self._page.status.say(said)

    def forget_answer(self) -> None:
        """Let the next sweep speak for itself."""
        self._answer = ""

    def _say_of_sweep(self, said: str) -> None:
        before = f"{self._answer.rstrip('.')}. " if self._answer else ""
        self._page.status.say(f"{before}{said}")

    def on_ready(self, device: str, idle: bool) -> None:
        """Say that clicks are answered at once from now on."""
        self._page.pictures.complete()  # where no page has said that it drew the errors
        self.on_recorded()
        if idle:
            self._page.status.say(f"Ready on {device}. {how_to(self._page.session.grid.unit)}")

    def on_recorded(self) -> None:
        """Paint what depends on the errors."""
        results, grid = self._page.session.results, self._page.session.grid
        final, chance = (float(results.attrs[name]) for name in ("final_error", "chance_error"))
        self._page.pictures.paint_errors(self._page.session, self._page.selection)
        doubt = doubt_about(results.attrs)
        self._page.heading.value = heading(title_of(results.attrs), final, chance, grid.unit, doubt)
        self._page.measured.value = measured_html(self._page.session.measured)
        words = verdict_words(results, self._page.shown.share)
        self._page.controls.offer(presets(grid.layers, words))

    def on_estimates(self, choice: Choice, estimates: Sequence[Counts]) -> None:
        """Draw a run so far."""
        self._page.pictures.curve.show(str(choice), estimates)
        self._page.status.advance(estimates[-1].examples, estimates[-1].total)

    def on_finished(self, choice: Choice, last: Counts) -> None:
        """Say what was measured."""
        cell, session = choice.cell, self._page.session
        if last.failure:
            self._say_failed(choice, last.failure)
            return
        if cell is not None and cell.epoch is None and choice.draw is None:
            said = draws_outcome(cell, read(session.results, cell), session.device)
        else:
            said = outcome(str(choice), last, session.device)
        self.answer(said)
        if self._held:
            self._say_of_sweep(self._held)
            self._answer = self._held = ""

    def on_changes(self, changes: Changes) -> None:
        """Show what a choice turned wrong and right."""
        self._page.changed.value = changes_html(changes)

    def on_filled(self, done: int, total: int, seconds_left: float) -> None:
        """Say how far a sweep has come, after what the reader has asked for meanwhile.

        While a click is being answered, one on a cluster is quiet.
        """
        complete = f"{total} cells measured, {self._page.session.swept_on}."
        if self._page.session.answering:
            self._held = complete if done == total else ""
            return
        self._page.status.advance(done, total)
        if done == total:
            self._say_of_sweep(complete)
            self._answer = ""
        else:
            self._say_of_sweep(f"Sweep: {done} of {total} cells, {time_left(seconds_left)}.")

    def on_order(self, job: FindOrder, order: Order) -> None:
        """Show how far layers can be put back together."""
        unit, epoch = self._page.session.grid.unit, job.epoch
        source = "fresh values" if epoch is None else f"{unit} {epoch}"
        self._page.order.show(order, job.threshold, source)
        self._page.status.advance(order.tried, max(order.to_try, 1))
        if order.finished:
            self.answer(f"{can_be_put_back(len(order.steps), source)}.")

    def on_distances(self) -> None:
        """Paint what depends on the distances."""
        self._page.pictures.paint_distances(self._page.session)

    def on_study(self, study: Study, progress: Progress) -> None:
        """Show how far a panel's measurement is."""
        self._page.beyond.advance(study, progress)
        if progress.finished:
            self.answer(f"{self._page.beyond.name(study)}: measured.")

    def on_stopped(self, job: Study | FindOrder) -> None:
        """Say in its panel that a measurement will not go on."""
        if isinstance(job, FindOrder):
            self._page.order.end("Stopped")
        else:
            self._page.beyond.stopped(job)

    def on_failure(self, asked: Job, error: Exception) -> None:
        """Show an error, and in which cell or panel it happened."""
        self.on_recorded()
        if isinstance(asked, Study):
            self._page.beyond.failed(asked, complaint(error))
            self.answer(f"{self._page.beyond.name(asked)} could not be measured.")
        else:
            self._say_failed(asked, complaint(error))

    def _say_failed(self, asked: Choice | Fill | FindOrder | None, reason: str) -> None:
        self._page.status.complain(reason)
        if isinstance(asked, FindOrder):
            self._page.order.end("Failed")
        if asked is not None:
            what = {Fill: "The sweep", FindOrder: "The order of resets"}.get(type(asked), asked)
            self.answer(f"{what} could not be measured.")
