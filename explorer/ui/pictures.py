"""The pictures of one stack: heatmaps, curves, network strip, and what they show of a session."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import ipywidgets as widgets
import xarray as xr
from bokeh.events import DocumentReady

from explorer.colours import BLUES, REDS
from explorer.ui.controls import Views
from explorer.ui.curves import Curve, ProfileView, RelationView
from explorer.ui.elements import CellTable, Exports, Strip
from explorer.ui.grid import Grid
from explorer.ui.live import LiveBokeh
from explorer.ui.painting import difference_scale, distance_columns, error_columns, error_scale
from explorer.ui.panes import close_all_inside, side_by_side, under
from explorer.ui.relations import profile, relation, verdict_words
from explorer.ui.results import readings
from explorer.ui.selection import Selection
from explorer.ui.sending import SendingLock
from explorer.ui.session import Session
from explorer.ui.views import Heatmap
from explorer.ui.wording import MEASURES, WIDEST_DISTANCE, size_of, spoken
from explorer.weights.stack import layer_sizes


class Pictures:
    """Every figure of an exploration, and the elements that go with them.

    Parameters
    ----------
    stack : xarray.DataTree
        From `explorer.open_stack`; only shapes are read.
    grid : Grid
        Its cells.
    shown : Views
        How the reader wants the numbers shown.
    lock : SendingLock
        Held by everyone who changes a figure.
    tapped : callable
        Called with the place of a click on a heatmap, and whether it adds to the selection.
    layer_tapped : callable
        Called with the layer whose point was clicked.
    """

    def __init__(
        self,
        stack: xr.DataTree,
        grid: Grid,
        shown: Views,
        lock: SendingLock,
        tapped: Callable[[float | None, float | None, bool], None],
        layer_tapped: Callable[[str], None],
    ) -> None:
        self._grid, self._shown = grid, shown
        self._sizes = layer_sizes(stack)
        size = size_of(grid)
        self.errors = Heatmap(grid, REDS, f"Heatmap of the test error, {size}.")
        self.moved = Heatmap(
            grid,
            BLUES,
            f"Heatmap of the distance from the start, {size}.",
            whole_network=False,
            number_size=10,
            widest=WIDEST_DISTANCE,
        )
        self.relation = RelationView("Distance of each layer against its test error")
        self.curve = Curve("Curve of the running estimate of the test error")
        self.profile = ProfileView(grid, "Test error of the selected layer by checkpoint")
        self.cells = CellTable(label=f"Test errors, {size}. Enter measures a cell, Space adds it.")
        self.strip = Strip()
        for heatmap in (self.errors, self.moved):  # Bokeh wants to know before it is drawn
            heatmap.on_tap(tapped)
            heatmap.mark_what_is_tapped()
        self.relation.on_tap(layer_tapped)
        self._named: dict[str, Any] = {
            "Error heatmap": self.errors,
            "Distance heatmap": self.moved,
            "Distance against error": self.relation,
            "Live estimate": self.curve,
            "Layer profile": self.profile,
        }
        self.exports = Exports([(view.figure.id, name) for name, view in self._named.items()])
        self._lock = lock
        self._live: dict[str, LiveBokeh] = {}
        self._second = under([shown.measure, shown.picture], _room_for(self.moved.figure))
        self._curves = {
            name: under([], _room_for(self._named[name].figure))
            for name in ("Live estimate", "Layer profile")
        }

    def lay_out(self) -> tuple[widgets.Widget, widgets.Widget]:
        """Return the heatmaps and the curves, to be shown; so far with the errors alone."""
        errors = under([self._shown.error], self.cells, self._view("Error heatmap"))
        return side_by_side(errors, self._second), side_by_side(*self._curves.values())

    def complete(self) -> None:
        """Show what is beside the errors, once they are drawn: it takes as long as they do."""
        self.arrange()
        for name, column in self._curves.items():
            if name not in self._live:
                room, column.children = column.children[0], (self._view(name),)
                _give_up(room)

    def close(self) -> None:
        """Take the figures off the page."""
        for view in self._live.values():
            view.close()

    def arrange(self) -> None:
        """Show the distances by checkpoint or against the error, as the menu says."""
        name = ("Distance heatmap", "Distance against error")[self._shown.picture.index]
        (titles, shown), view = self._second.children, self._view(name)
        if shown is not view:
            self._second.children = (titles, view)
            if shown not in self._live.values():
                _give_up(shown)

    def on_drawn(self, handler: Callable[[], None]) -> None:
        """Call the handler whenever a page has drawn the errors."""
        self.errors.figure.document.on_event(DocumentReady, lambda _event: handler())

    def _view(self, name: str) -> LiveBokeh:
        """Return a figure as a widget, made when it is first wanted: a tenth of a second each."""
        if name not in self._live:
            first = name in ("Error heatmap", "Live estimate")  # what answers a click
            self._live[name] = LiveBokeh(self._named[name].figure, self._lock, patient=not first)
        return self._live[name]

    def select(self, selection: Selection, session: Session, by_keys: bool = False) -> None:
        """Mark what is selected in every picture; keys have moved the cursor already, and on."""
        for heatmap in (self.errors, self.moved):
            heatmap.mark(selection.choice.cells, selection.active)
        places = {
            cell: [r, c] for r, line in enumerate(self._grid.table) for c, cell in enumerate(line)
        }
        if selection.active in places and not by_keys:
            self.cells.active = places[selection.active]
        self.cells.selected = [places[cell] for cell in selection.cells if cell in places]
        self.relation.mark(selection.active.layer or "")
        self._show_layer(selection, session)
        self._show_strip(selection, session)

    def paint_errors(self, session: Session, selection: Selection) -> None:
        """Show what has been measured, as it stands."""
        results, grid = session.results, self._grid
        final, chance = (float(results.attrs[name]) for name in ("final_error", "chance_error"))
        scale = error_scale(final, chance)
        if self._shown.difference:
            found = [one.value for one in readings(results, grid.cells)]
            lowest = min((value for value in found if math.isfinite(value)), default=math.nan)
            scale = difference_scale(final, chance, lowest)
        measure = self._shown.chosen_measure
        self.errors.paint(error_columns(results, grid, scale, session.distances, measure), scale)
        self.curve.baseline(final, chance, int(results.attrs["examples"]))
        words = verdict_words(results, self._shown.share)
        self.cells.names = [
            [
                "" if cell is None else spoken(cell, reading, words.get(cell.layer or "", ""))
                for cell, reading in zip(line, _read(results, line), strict=True)
            ]
            for line in grid.table
        ]
        self._show_layer(selection, session)
        self._show_strip(selection, session)
        self._show_relation(session)

    def paint_distances(self, session: Session) -> None:
        """Show the distances in the chosen measure."""
        measure = self._shown.chosen_measure
        self.moved.paint(*distance_columns(session.distances, self._grid, measure))
        self._show_relation(session)

    def _show_relation(self, session: Session) -> None:
        measure = self._shown.chosen_measure
        found = relation(session.results, session.distances, self._grid, measure)
        self.relation.show(found, f"distance that the layer moved, {MEASURES[measure]}")

    def _show_layer(self, selection: Selection, session: Session) -> None:
        results, share = session.results, self._shown.share
        found = profile(results, self._grid, selection.active.layer, share)
        final, chance = (float(results.attrs[f"{end}_error"]) for end in ("final", "chance"))
        self.profile.show(found, final, chance, share)

    def _show_strip(self, selection: Selection, session: Session) -> None:
        words = verdict_words(session.results, self._shown.share)
        self.strip.layers = [
            {
                "name": layer,
                "size": f"{count:,}",
                "verdict": words[layer],
                "tip": f"{layer}: {count:,} parameters. Tick it to put it back with others.",
                "ticked": layer in selection.layers,
            }
            for layer, count in self._sizes.items()
        ]


def _room_for(figure: Any) -> widgets.Box:
    """Return the place of a figure that is still to come, so that nothing moves when it does."""
    return widgets.Box(layout=widgets.Layout(height=f"{figure.height}px"))


def _give_up(room: widgets.Box) -> None:
    """Close a place that its figure has taken; nothing else would ever."""
    close_all_inside(room)
    room.close()


def _read(results: xr.Dataset, line: Any) -> list[Any]:
    cells = [cell for cell in line if cell is not None]
    found = iter(readings(results, cells))
    return [None if cell is None else next(found) for cell in line]
