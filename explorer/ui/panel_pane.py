"""One panel beyond the paper on the page: its menus, buttons, figures, table and files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from html import escape
from typing import Any

import ipywidgets as widgets
from bokeh.events import DoubleTap, Tap

from explorer.ui import asking, exports
from explorer.ui.across_panel import code_of_comparison, hand_over_comparison
from explorer.ui.controls import button, menu
from explorer.ui.elements import Exports
from explorer.ui.following import bring_up_to_date
from explorer.ui.linked import layer_near
from explorer.ui.live import LiveBokeh
from explorer.ui.panel import Asked, Menu, Panel, Shown, code_of
from explorer.ui.panes import alert, close_all_inside, side_by_side, under
from explorer.ui.selection import Selection
from explorer.ui.session import Session
from explorer.ui.settings import Settings
from explorer.ui.studies import Progress, Study
from explorer.ui.wording import time_left

FILES = (("nc", "netCDF"), ("csv", "CSV"))
"""Kinds of file that a panel's Dataset is saved as, and their buttons."""


@dataclass(frozen=True)
class Around:
    """What all panels of an exploration share."""

    session: Session
    """Measures, and keeps what was found."""

    settings: Settings
    """How the network is run."""

    opened: str
    """Python expression that opens the stack."""

    share: Callable[[], float]
    """ε as it is chosen now."""

    selection: Callable[[], Selection]
    """What is selected now."""

    picked: Callable[[str], None]
    """Called with the layer whose part of a figure was clicked."""


class PanelPane(widgets.VBox):
    """What one panel shows; figures are made when there is something to draw.

    Parameters
    ----------
    panel : Panel
        Which.
    around : Around
        Where it stands.
    """

    def __init__(self, panel: Panel, around: Around) -> None:
        self._panel, self._around, self._session = panel, around, around.session
        self._asks = list(panel.asks(self._asked))
        self.asks = [asking.ask(one) for one in self._asks]
        self.measure, self.stop = button("Measure", primary=True), button("Stop measuring")
        self.stop.disabled = True
        self._progress, self._alert, self.note = (widgets.HTML() for _ in range(3))
        self._shows: Menu | None = None
        self.show = menu("Show", ["–"])
        self._pictures, self.table = side_by_side(), widgets.HTML()
        self._live: list[LiveBokeh] = []
        self.exports: Exports | None = None
        self._study: Study | None = None
        self._done_with: Mapping[str, Any] | None = None  # arguments of what is shown
        head = widgets.HTML(f"<p>{escape(panel.sentence)} {_page(panel)}</p>")
        self._below = widgets.VBox()
        self._reason = self._session.why_not(panel.kind)
        if self._reason:
            super().__init__([head, widgets.HTML(f"<p><b>{escape(self._reason)}</b></p>")])
            return
        row = widgets.Box([*self.asks, self.measure, self.stop])
        row.layout.flex_flow, row.layout.align_items = "row wrap", "center"
        super().__init__([head, row, self._progress, self.note, self._alert, self._below])
        for one in self.asks:
            asking.on_choice(one, self._guarded(self._follow_menus))
        self.show.observe(self._guarded(self.paint), "index")
        self.measure.on_click(self._guarded(self.begin))
        self.stop.on_click(self._guarded(self._stop))

    def close(self) -> None:
        """Take the figures off the page."""
        for view in self._live:
            view.close()
        close_all_inside(self)
        super().close()

    @property
    def title(self) -> str:
        """Name of the panel."""
        return self._panel.title

    @property
    def arguments(self) -> dict[str, Any]:
        """Keyword arguments of the public function, as the menus and ε say."""
        pairs = zip(self._asks, self.asks, strict=True)
        return self._panel.arguments(self._asked, [asking.chosen(*pair) for pair in pairs])

    @property
    def found(self) -> Any:
        """What has been measured, complete or not; None where nothing was."""
        return self._session.found.get(self._panel.kind)

    @property
    def figures(self) -> list[Any]:
        """The figures that are shown."""
        return [view._model for view in self._live]

    # What the reader does

    def enter(self) -> None:
        """Show what is known; motion is measured at once, where nothing has to be downloaded."""
        if self._panel.kind == "motion" and self._reason == "" and self._untried:
            if self._session.all_here:
                self.begin()
                return
            self.note.value = "<p>Some checkpoints are not on this machine: Measure reads all.</p>"
        self.follow()

    @property
    def _untried(self) -> bool:
        return self._study is None and self.found is None and not self._alert.value

    def begin(self) -> None:
        """Measure, from the beginning."""
        study = Study(self._panel.kind, self.arguments)
        self._alert.value = self.note.value = ""
        self._advance("Loading the network …" if not self._session.device else "Measuring …", 0, 1)
        if self._panel.kind == "motion":
            self._session.begin_beside(study)
        else:
            self._session.request(study)
        self._study = study  # what was under way has been told to stop by now
        self.stop.disabled = False

    def _stop(self) -> None:
        self._session.stop()

    def _follow_menus(self) -> None:
        changed = self._done_with not in (None, self.arguments)
        self.note.value = (
            "<p>What is shown was measured with other choices: press Measure to follow them.</p>"
            if changed and self._study is None
            else ""
        )

    def follow(self) -> None:
        """Show another selection, and say where ε is another one."""
        if self.found is not None:
            self._follow_menus()
            self.paint()

    def _guarded(self, act: Callable[[], None]) -> Callable[[Any], None]:
        def handle(_event: Any) -> None:
            with self._session.reported(), self._session.lock:
                act()

        return handle

    # What the session tells, with the lock held

    def advance(self, study: Study, progress: Progress, seen: bool) -> None:
        """Show how far a measurement is, and draw what is known by now if somebody looks."""
        if progress.found is not None:
            self._done_with = study.arguments
            if seen:
                self.paint()
        unit, total = self._panel.unit, f"{progress.total:,}"
        said = f"{progress.done:,} of {total} {unit}, {time_left(progress.seconds_left)}"
        self._advance(said, progress.done, progress.total)
        if progress.finished:
            self._ended(f"Measured in {study.seconds:.1f} s.")

    def stopped(self) -> None:
        """Say that what is shown is all there will be."""
        known = self.found is not None
        self._ended("Stopped: what is shown is not complete." if known else "Stopped.")

    def failed(self, reason: str) -> None:
        """Show why a measurement came to no end."""
        self._alert.value = alert(reason)
        self._ended("")

    def _ended(self, said: str) -> None:
        self._progress.value = f"<p>{escape(said)}</p>" if said else ""
        self.stop.disabled = True
        self._study = None

    def _advance(self, said: str, done: int, total: int) -> None:
        label = f"{self._panel.title}: {self._panel.unit}"
        self._progress.value = (
            f"<p>{escape(said)}</p>"
            f'<progress aria-label="{escape(label)}" max="{total}" value="{done}"></progress>'
        )

    # What is on the page

    @property
    def _asked(self) -> Asked:
        settings = self._around.settings
        name = str(self._session.results.attrs.get("stack", ""))
        return Asked(self._session.grid, self._around.share(), settings.draws, settings.seed, name)

    def paint(self) -> None:
        """Draw what is known, with the selected layer marked."""
        found = self.found
        if found is None or not all(found.sizes[dim] for dim in self._panel.csv):
            return
        self._offer(found)
        active = self._around.selection().active
        first = self._session.grid.epochs[0]
        by = None if self._shows is None else list(self._shows.entries.values())[self.show.index]
        epoch = first if active.epoch is None else active.epoch
        shown = Shown(found, by, active.layer or "", epoch)
        figures = self._panel.figures(shown)
        del self._live[len(figures) :]
        for at, made in enumerate(figures):
            if at >= len(self._live):
                self._live.append(self._watched(made))
            elif not bring_up_to_date(self._live[at]._model, made):
                self._live[at] = self._watched(made)
        self.table.value = self._panel.table(shown)
        self._arrange()

    def _offer(self, found: Any) -> None:
        """Offer what can be shown of this result."""
        wanted = self._panel.show(found)
        if wanted != self._shows:
            self._shows = wanted
            if wanted is not None:
                self.show.options = [(name, at) for at, name in enumerate(wanted.entries)]
                self.show.index = 0

    def _watched(self, figure: Any) -> LiveBokeh:
        def tapped(tap: Any) -> None:
            layer = layer_near(figure, tap.x, tap.y)
            if layer in self._session.grid.layers:  # of another stack it may be another's
                self._around.picked(layer)

        for event in (Tap, DoubleTap):
            figure.on_event(event, tapped)
        return LiveBokeh(figure, self._session.lock)

    def _arrange(self) -> None:
        """Put the figures on the page, the table below and what can be saved."""
        names = self._panel.names(self.found)
        pictures = tuple(zip((one._model.id for one in self._live), names, strict=True))
        if self.exports is None:
            files = FILES if self._panel.csv else (*FILES, ("html", "HTML page"))
            self.exports = Exports(pictures, files, f"{self._panel.title} in Python")
            self.exports.on_ask(self._file_asked)
        self.exports.pictures = [list(one) for one in pictures]
        self.exports.code = self._code()
        columns = {one.children[-1]: one for one in self._pictures.children}
        if list(columns) != self._live:
            wanted = [columns.pop(view, None) or under([], view) for view in self._live]
            self._pictures.children = tuple(wanted)
            for gone in columns.values():  # from outside: a page that is reloaded meanwhile would
                gone.close()  # find no state of a box around what is closed
                close_all_inside(gone)
        if not self._below.children:
            above = [self.show] if self._shows is not None else []
            self._below.children = (*above, self._pictures, self.table, self.exports)

    def _code(self) -> str:
        arguments = dict(self._done_with or self.arguments)
        options = exports.options_of(self._around.settings, screen=False)
        if self._panel.kind == "motion":
            options = exports.sweep_of(self._session.results.attrs)
        if self._panel.kind == "across":
            return code_of_comparison(arguments, self._asked.stack, self._around.opened, options)
        return code_of(self._panel, arguments, self._around.opened, options)

    def _file_asked(self, kind: str) -> None:
        found = self.found
        if found is not None and self.exports is not None:
            with self._session.reported():
                if self._panel.kind == "across":
                    hand_over_comparison(kind, found, self.exports)
                    return
                write = partial(exports.hand_over_found, csv=self._panel.csv)
                write(kind, found, self._panel.kind, self.exports)


PAGES = {"effective": "verdicts", "across": "across-models"}
"""Kind of panel → page of the docs where that has another name."""


def _page(panel: Panel) -> str:
    """Return where the formula, its source and the pitfalls are written, as HTML."""
    said = f"docs/{PAGES.get(panel.kind, panel.kind)}.md"
    address = exports.page_address(said)
    about = "Formula, source and pitfalls"
    if not address:
        return f"{about}: <code>{said}</code>."
    return f'{about}: <a href="{escape(address)}" target="_blank" rel="noopener">{said}</a>.'
