"""All views of one stack, tied together: what is selected, clicked, measured and shown.

`grid`, `selection`, `results`, `painting`, `relations` and `wording` decide what is shown, without
a browser or a thread; `session` and `jobs` find it out; `views`, `curves` and `elements` show it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import ipywidgets as widgets
import xarray as xr

from explorer.engine.intact import doubt_about
from explorer.ui import exports
from explorer.ui.background import Order
from explorer.ui.beyond import Beyond
from explorer.ui.changes import Changes, changes_html
from explorer.ui.controls import Controls, SettingsPane, Views
from explorer.ui.grid import Cell
from explorer.ui.jobs import Fill, FindOrder
from explorer.ui.measured import measured_html
from explorer.ui.panes import (
    OrderPane,
    StatusPane,
    close_all_inside,
    heading,
    order_html,
    side_by_side,
)
from explorer.ui.pictures import Pictures
from explorer.ui.relations import verdict_words
from explorer.ui.results import Counts, read
from explorer.ui.selection import Choice, Selection, joined, presets
from explorer.ui.session import Session, Settings
from explorer.ui.studies import Progress, Study
from explorer.ui.verdict_pane import VerdictPane
from explorer.ui.wording import (
    complaint,
    counted,
    draws_outcome,
    error_tip,
    how_to,
    outcome,
    time_left,
    title_of,
)

GONE = 2.0
"""Seconds that a page has to say that it is still there, when another one has gone."""


class Exploration(widgets.VBox):
    """The pictures, menus and panes of one stack, and the session behind them.

    Parameters
    ----------
    stack : xarray.DataTree
        From `explorer.open_stack`.
    settings : Settings
        How cells are measured.
    opened : str
        Python arguments that open the stack, for the code that a reader can copy.
    apply : callable
        Called with new settings that the reader wants.
    results : xarray.Dataset, optional
        What is known already under these settings.
    """

    _built = False

    def __init__(
        self,
        stack: xr.DataTree,
        settings: Settings,
        opened: str,
        apply: Callable[[Settings], None],
        results: xr.Dataset | None = None,
    ) -> None:
        self.session = Session(stack, settings, self, results)
        self._settings, self._opened = settings, opened
        self._following = False
        self._present = True
        grid = self.session.grid
        self.controls, self.shown = Controls(grid), Views()
        self.pictures = Pictures(
            stack, grid, self.shown, self.session.lock, self._tapped, self._layer_tapped
        )
        self.status, self._heading = StatusPane(), widgets.HTML()
        self._changed = widgets.HTML("<p>Measure a cell: what it turned wrong is shown here.</p>")
        self._order, self._list = OrderPane(), widgets.HTML(measured_html(()))
        self._settings_pane = SettingsPane(settings, apply)
        self._tested = VerdictPane(self.session, lambda: self.shown.share)
        self.beyond = Beyond(self._around)
        self._select(Selection(grid.cell(grid.layers[0], grid.start)))
        self.on_recorded()
        self.on_distances()
        self.status.say(how_to(grid.unit))
        self._listen()
        self._arrange()
        self._built = True
        self.pictures.on_drawn(self._drawn)
        self.session.start()

    def close(self) -> None:
        """Stop what runs, end the thread and take the views off the page."""
        if self._built:  # ipywidgets closes every object that goes, also one that never opened
            self.session.close()
            self.pictures.close()
            self.beyond.close()
            close_all_inside(self)
        super().close()

    # What is on the page

    def _listen(self) -> None:
        controls, shown, pictures = self.controls, self.shown, self.pictures
        pictures.cells.on_key(self._key)
        pictures.strip.on_tick(self._ticked)
        pictures.exports.on_ask(self._file_asked)
        controls.layer.observe(self._guarded(self._layer_changed), "index")
        controls.source.observe(self._guarded(self._source_changed), "index")
        controls.preset.observe(self._guarded(self._preset_changed), "index")
        for menu in (shown.error, shown.measure, shown.picture, shown.threshold):
            menu.observe(self._guarded(self._repaint), "index")
        for button, act in (
            (controls.compute, self._measure),
            (controls.stop, self._stop),
            (controls.sweep, self._sweep_all),
            (controls.sweep_row, self._sweep_selection),
            (self._order.find, self._find_order),
        ):
            button.on_click(self._guarded(act))

    def _arrange(self) -> None:
        tabs = widgets.Tab(
            [
                *(self._changed, self._order, self._tested, self.beyond),
                *(self._list, self._settings_pane, self.pictures.exports),
            ],
            titles=[
                *("What changed", "How far can we go?", "How sure?", "Beyond the paper"),
                *("Measured", "Settings", "Export"),
            ],
        )
        tabs.observe(self._guarded(self._tab_turned), "selected_index")
        self.tabs = tabs
        heatmaps, curves = self.pictures.lay_out()
        strip = side_by_side(self.pictures.strip, self.shown.threshold)
        super().__init__([self._heading, strip, heatmaps, self.controls, self.status, curves, tabs])

    def _tab_turned(self) -> None:
        self.beyond.turn(seen=self.tabs.children[self.tabs.selected_index] is self.beyond)

    def _around(self) -> Any:
        from explorer.ui.panel_pane import Around  # what only the panels need

        return Around(
            self.session,
            self._settings,
            self._opened,
            lambda: self.shown.share,
            lambda: self.selection,
            self._layer_picked,
        )

    def _guarded(self, act: Callable[[], None]) -> Callable[[Any], None]:
        """Return a handler that shows what goes wrong, and does nothing while menus follow."""

        def handle(_event: Any) -> None:
            with self.session.reported(), self.session.lock:
                if not self._following:
                    act()

        return handle

    def _select(self, selection: Selection, by_keys: bool = False) -> None:
        """Mark cells in the pictures and name them in the menus."""
        self.selection = selection
        self._following = True
        self.controls.follow(selection)
        self._following = False
        self.pictures.select(selection, self.session, by_keys)
        intervention = exports.intervention_of(selection.choice, self.session)
        self.pictures.exports.code = exports.code_of(intervention, self._opened, self._settings)
        self.beyond.follow()

    def _drawn(self) -> None:
        """The page has the errors: now the other pictures, and then the network."""
        with self.session.reported(), self.session.lock:
            self.pictures.complete()
        self.session.hurry()

    # What the reader does

    def _tapped(self, x: float | None, y: float | None, adds: bool) -> None:
        with self.session.reported(), self.session.lock:
            cell = self.session.grid.cell_at(x, y)
            if cell is not None:
                self.selection = self.selection.clicked(cell, self.session.grid, adds)
                self._measure()  # the number is on its way while the menus follow
                self._select(self.selection)

    def _layer_tapped(self, layer: str) -> None:
        with self.session.reported(), self.session.lock:
            self._select(Selection(self.session.grid.cell(layer, self.session.grid.start)))
            self._measure()

    def _layer_picked(self, layer: str) -> None:
        """Select a layer that was clicked in a panel; nothing is measured."""
        with self.session.reported(), self.session.lock:
            self._select(Selection(self.session.grid.cell(layer, self.selection.active.epoch)))
            self._say_known()

    def _key(self, kind: str, line: int, column: int) -> None:
        with self.session.reported(), self.session.lock:
            if kind in ("shown", "here", "gone"):
                self._page(kind)
            elif kind == "stop":
                self._stop()
            else:
                self._key_on(kind, self.session.grid.table[line][column])

    def _key_on(self, kind: str, cell: Cell | None) -> None:
        if cell is None:
            return
        if kind == "toggle":
            self._select(self.selection.toggled(cell, self.session.grid), by_keys=True)
            self.status.say(f"Put back together: {self.selection.choice}. Enter measures it.")
        elif kind == "compute":
            if cell not in self.selection.cells:
                self._select(Selection(cell), by_keys=True)
            self._measure()
        elif cell != self.selection.active:
            self._select(Selection(cell, self.selection.cells), by_keys=True)

    def _page(self, kind: str) -> None:
        """Note that a page shows the explorer; when one has gone, ask whether another does."""
        self._present = kind != "gone"
        if not self._present:
            self.pictures.cells.send({"ask": "here"})
            waiting = threading.Timer(GONE, self._rest_unless_present)
            waiting.daemon = True
            waiting.start()

    def _rest_unless_present(self) -> None:
        with self.session.lock:
            if not self._present:
                self.session.rest()

    def _ticked(self, layer: str, _ticked: bool) -> None:
        with self.session.reported(), self.session.lock:
            epoch = self.selection.active.epoch
            cell = self.session.grid.cell(layer, epoch)
            mine = [one for one in self.selection.cells if one.layer == layer]
            self._select(self.selection.toggled(mine[0] if mine else cell, self.session.grid))
            self.status.say(f"Put back together: {self.selection.choice}. Compute measures it.")

    def _layer_changed(self) -> None:
        self.session.stop()
        layer = self.controls.chosen_layer
        epoch, draw, other = self.controls.chosen_source
        self._select(Selection(self.session.grid.cell(layer, epoch), (), draw, other))
        self._say_known()

    def _source_changed(self) -> None:
        self.session.stop()
        self._select(self.selection.put_to(*self.controls.chosen_source))
        self._say_known()

    def _preset_changed(self) -> None:
        epoch, draw, other = self.controls.chosen_source
        grid = self.session.grid
        at = self.controls.preset.index
        if at == 0:
            self._select(Selection(self.selection.active))
            return
        chosen = list(self._presets().values())[at - 1]
        self._select(joined(chosen, epoch, grid).put_to(epoch, draw, other))
        self._say_known()

    def _presets(self) -> dict[str, tuple[str, ...]]:
        words = verdict_words(self.session.results, self.shown.share)
        return presets(self.session.grid.layers, words)

    def _repaint(self) -> None:
        self.on_recorded()
        self.on_distances()
        self.pictures.arrange()
        self.pictures.select(self.selection, self.session)
        self._tested.follow()
        self.beyond.follow()

    def _stop(self) -> None:
        stopped = "Stopped. What was measured so far is kept."
        self.status.say(stopped if self.session.stop() else "Nothing is running.")

    def _measure(self) -> None:
        choice = self.selection.choice
        self.status.complain("")
        self.status.advance(0, 1)
        if self.session.device:  # the first estimate is there at once
            self.status.say(f"Measuring {choice} …")
        else:
            self.status.say(f"Measuring {choice}, once the network is loaded …")
            self.pictures.curve.show(f"{choice} (not run yet)", ())
        self.session.request(choice)

    def _sweep_all(self) -> None:
        self._sweep(self.session.grid.cells)

    def _sweep_selection(self) -> None:
        layers = self.selection.layers or (self.selection.active.layer,)
        self._sweep([cell for cell in self.session.grid.cells if cell.layer in layers])

    def _sweep(self, cells: Sequence[Cell]) -> None:
        """Measure what of these cells is not known exactly; if all is, measure all anew."""
        results = self.session.results
        missing = [cell for cell in cells if read(results, cell).state != "measured"]
        wanted = tuple(missing or cells)
        self.status.complain("")
        self.status.say(f"Measuring {len(wanted)} cells …")
        self.session.request(Fill(wanted, len(wanted)))

    def _find_order(self) -> None:
        self.status.complain("")
        self.status.say("Looking for the layers that can be put back together …")
        self.session.request(FindOrder(self.selection.active.epoch, self.shown.share))

    def _file_asked(self, kind: str) -> None:
        with self.session.reported():
            exports.hand_over(kind, self.session, self.pictures.exports)

    # What the session finds out; it calls these with the lock held

    def on_ready(self, device: str, idle: bool) -> None:
        """Say that clicks are answered at once from now on."""
        self.pictures.complete()  # where no page has said that it drew the errors
        self.on_recorded()
        if idle:
            self.status.say(f"Ready on {device}. {how_to(self.session.grid.unit)}")

    def on_recorded(self) -> None:
        """Paint what depends on the errors."""
        results, grid = self.session.results, self.session.grid
        final, chance = (float(results.attrs[name]) for name in ("final_error", "chance_error"))
        self.pictures.paint_errors(self.session, self.selection)
        doubt = doubt_about(results.attrs)
        self._heading.value = heading(title_of(results.attrs), final, chance, grid.unit, doubt)
        self._list.value = measured_html(self.session.measured)
        self.controls.offer(self._presets())

    def on_estimates(self, choice: Choice, estimates: Sequence[Counts]) -> None:
        """Draw a run so far."""
        self.pictures.curve.show(str(choice), estimates)
        self.status.advance(estimates[-1].examples, estimates[-1].total)

    def on_finished(self, choice: Choice, last: Counts) -> None:
        """Say what was measured."""
        cell, device = choice.cell, self.session.device
        if last.failure:
            self._say_failed(choice, last.failure)
        elif cell is not None and cell.epoch is None and choice.draw is None:
            self.status.say(draws_outcome(cell, read(self.session.results, cell), device))
        else:
            self.status.say(outcome(str(choice), last, device))

    def on_changes(self, changes: Changes) -> None:
        """Show what a choice turned wrong and right."""
        self._changed.value = changes_html(changes)

    def on_filled(self, done: int, total: int, seconds_left: float) -> None:
        """Say how far a sweep has come."""
        self.status.advance(done, total)
        if done == total:
            self.status.say(f"{total} cells measured, {self.session.device}.")
        else:
            self.status.say(f"Sweep: {done} of {total} cells, {time_left(seconds_left)}.")

    def on_order(self, job: FindOrder, order: Order) -> None:
        """Show how far layers can be put back together."""
        unit, epoch = self.session.grid.unit, job.epoch
        source = "fresh values" if epoch is None else f"{unit} {epoch}"
        self._order.text.value = order_html(order, job.threshold, source)
        self.status.advance(order.tried, max(order.to_try, 1))
        if order.finished:
            layers = counted(len(order.steps), "layer")
            self.status.say(f"{layers} can be put back together to {source}.")

    def on_distances(self) -> None:
        """Paint what depends on the distances."""
        self.pictures.paint_distances(self.session)

    def on_study(self, study: Study, progress: Progress) -> None:
        """Show how far a panel's measurement is."""
        self.beyond.advance(study, progress)
        if progress.finished:
            self.status.say(f"{self.beyond.name(study)}: measured.")

    def on_stopped(self, study: Study) -> None:
        """Say in its panel that a measurement will not go on."""
        self.beyond.stopped(study)

    def on_failure(self, asked: Choice | Study | None, error: Exception) -> None:
        """Show an error, and in which cell or panel it happened."""
        self.on_recorded()
        if isinstance(asked, Study):
            self.beyond.failed(asked, complaint(error))
            self.status.say(f"{self.beyond.name(asked)} could not be measured.")
        else:
            self._say_failed(asked, complaint(error))

    def _say_failed(self, choice: Choice | None, reason: str) -> None:
        self.status.complain(reason)
        if choice is not None:
            self.status.say(f"{choice} could not be measured.")

    def _say_known(self) -> None:
        """Say what is known about the selection before it is measured."""
        choice = self.selection.choice
        self.pictures.curve.show(f"{choice} (not run yet)", ())
        if choice.cell is None:
            self.status.say(f"{choice}. Press Compute to measure it.")
            return
        facts = error_tip(read(self.session.results, choice.cell)).replace("\n", ", ")
        self.status.say(f"{choice.cell}: {facts}. Press Compute to measure {choice}.")
