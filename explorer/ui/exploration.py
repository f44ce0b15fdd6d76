"""All views of one stack, tied together: what is selected, clicked, measured and shown.

`grid`, `selection`, `results`, `painting`, `relations` and `wording` decide what is shown, without
a browser or a thread; `session` finds it out and `announcer` says so; `views`, `curves` and
`elements` show it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import ipywidgets as widgets
import xarray as xr

from explorer.ui import exports
from explorer.ui.announcer import Announcer
from explorer.ui.beyond import Beyond
from explorer.ui.carried import Carried, Look
from explorer.ui.controls import Controls, SettingsPane, Views
from explorer.ui.grid import Cell
from explorer.ui.jobs import Fill, FindOrder
from explorer.ui.measured import measured_html
from explorer.ui.panes import OrderPane, StatusPane, close_all_inside, side_by_side
from explorer.ui.pictures import Pictures
from explorer.ui.presence import SIGNS, Presence
from explorer.ui.results import read
from explorer.ui.selection import Choice, Selection, joined
from explorer.ui.session import Session
from explorer.ui.settings import Settings
from explorer.ui.verdict_pane import VerdictPane
from explorer.ui.wording import error_tip, how_to


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
    carried : Carried
        What earlier sessions have found.
    look : Look, optional
        How the reader looked at what this exploration replaces.
    """

    _built = False

    def __init__(
        self,
        stack: xr.DataTree,
        settings: Settings,
        opened: str,
        apply: Callable[[Settings], None],
        carried: Carried,
        look: Look | None = None,
    ) -> None:
        self._announcer = Announcer(self)
        self.session = Session(stack, settings, self._announcer)
        carried.put_into(self.session, stack, settings)
        self._settings, self._opened = settings, opened
        grid = self.session.grid
        self.controls, self.shown = Controls(grid), Views(look.menus if look else ())
        self.pictures = Pictures(
            stack, grid, self.shown, self.session.lock, self._tapped, self._layer_tapped
        )
        self.status, self.heading = StatusPane(), widgets.HTML()
        self.changed = widgets.HTML("<p>Measure a cell: what it turned wrong is shown here.</p>")
        self.order, self.measured = OrderPane(), widgets.HTML(measured_html(()))
        self._settings_pane = SettingsPane(settings, apply)
        self._tested = VerdictPane(self.session, lambda: self.shown.share)
        self.beyond = Beyond(self._around)
        self._presence = Presence(self.pictures.cells.send, self.session.lock, self.session.rest)
        before = look.selected(grid) if look else None
        self._select(before or Selection(grid.cell(grid.layers[0], grid.start)))
        self._announcer.on_recorded()
        self._announcer.on_distances()
        self.status.say(how_to(grid.unit))
        self._listen()
        self._arrange(look.tab if look else 0)
        self._built = True
        self.pictures.on_drawn(self._drawn)
        self.session.start()

    @property
    def present(self) -> bool:
        """Whether a page shows it."""
        return self._presence.present

    @property
    def look(self) -> Look:
        """How the reader looks at it, for an exploration that replaces this one."""
        menus = tuple(int(menu.index) for menu in self.shown.menus)
        return Look(self.selection, menus, int(self.tabs.selected_index or 0))

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
        for menu in shown.menus:
            menu.observe(self._guarded(self._repaint), "index")
        for button, act in (
            (controls.compute, self._measure),
            (controls.stop, self._stop),
            (controls.sweep, self._sweep_all),
            (controls.sweep_row, self._sweep_selection),
            (self.order.find, self._find_order),
        ):
            button.on_click(self._guarded(act))

    def _arrange(self, tab: int) -> None:
        tabs = widgets.Tab(
            [
                *(self.changed, self.order, self._tested, self.beyond),
                *(self.measured, self._settings_pane, self.pictures.exports),
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
        super().__init__([self.heading, strip, heatmaps, self.controls, self.status, curves, tabs])
        tabs.selected_index = tab

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
                if not self.controls.following:
                    act()

        return handle

    def _select(self, selection: Selection, by_keys: bool = False) -> None:
        """Mark cells in the pictures and name them in the menus."""
        self.selection = selection
        self.controls.follow(selection)
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
            if kind in SIGNS:
                self._presence.note(kind)
            elif kind == "stop":
                self._stop()
            else:
                self._key_on(kind, self.session.grid.table[line][column])

    def _key_on(self, kind: str, cell: Cell | None) -> None:
        if cell is None:
            return
        if kind == "toggle":
            self._select(self.selection.toggled(cell, self.session.grid), by_keys=True)
            self._say_ticked("Enter")
        elif kind == "compute":
            if cell not in self.selection.cells:
                self._select(Selection(cell), by_keys=True)
            self._measure()
        elif cell != self.selection.active:
            self._select(Selection(cell, self.selection.cells), by_keys=True)

    def _ticked(self, layer: str, _ticked: bool) -> None:
        with self.session.reported(), self.session.lock:
            epoch = self.selection.active.epoch
            cell = self.session.grid.cell(layer, epoch)
            mine = [one for one in self.selection.cells if one.layer == layer]
            self._select(self.selection.toggled(mine[0] if mine else cell, self.session.grid))
            self._say_ticked("Compute")

    def _layer_changed(self) -> None:
        self.session.forget_click()
        layer = self.controls.chosen_layer
        epoch, draw, other = self.controls.chosen_source
        self._select(Selection(self.session.grid.cell(layer, epoch), (), draw, other))
        self._say_known()

    def _source_changed(self) -> None:
        self.session.forget_click()
        self._select(self.selection.put_to(*self.controls.chosen_source))
        self._say_known()

    def _preset_changed(self) -> None:
        layers = self.controls.chosen_preset
        if not layers:
            self._select(replace(self.selection, cells=()))
            self._say_known()
            return
        epoch, draw, other = self.controls.chosen_source
        self._select(joined(layers, epoch, self.session.grid).put_to(epoch, draw, other))
        self._say_known()

    def _repaint(self) -> None:
        self._announcer.on_recorded()
        self._announcer.on_distances()
        self.pictures.arrange()
        self.pictures.select(self.selection, self.session)
        self._tested.follow()
        self.beyond.follow()

    def _stop(self) -> None:
        self._announcer.forget_answer()
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
            self._announce_run()
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
        where = "" if self._settings.client is None else " on the cluster"
        self._announcer.forget_answer()
        self.status.say(f"Measuring {len(wanted)} cells{where} …")
        self.session.request(Fill(wanted, len(wanted)))

    def _find_order(self) -> None:
        self.status.complain("")
        self.status.say("Looking for the layers that can be put back together …")
        self.order.begin()
        self.session.request(FindOrder(self.selection.active.epoch, self.shown.share))

    def _file_asked(self, kind: str) -> None:
        with self.session.reported():
            exports.hand_over(kind, self.session, self.pictures.exports, self.shown.share)

    def _say_ticked(self, key: str) -> None:
        choice = self._announce_run()
        self._announcer.answer(f"Put back together: {choice}. {key} measures it.")

    def _announce_run(self) -> Choice:
        """Head the curve with what would be measured next."""
        self.pictures.curve.show(f"{self.selection.choice} (not run yet)", ())
        return self.selection.choice

    def _say_known(self) -> None:
        """Say what is known about the selection before it is measured."""
        choice = self._announce_run()
        if choice.cell is None:
            self._announcer.answer(f"{choice}. Press Compute to measure it.")
            return
        facts = error_tip(read(self.session.results, choice.cell)).replace("\n", ", ")
        self._announcer.answer(f"{choice.cell}: {facts}. Press Compute to measure {choice}.")
