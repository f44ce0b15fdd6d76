"""The heatmap of cells, in Bokeh.

Only this file and `curves` change a Bokeh document. Whoever calls them holds the session's lock.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from bokeh.events import DoubleTap, Tap
from bokeh.models import ColumnDataSource, CustomJS, LinearColorMapper, Rect

from explorer.colours import Ramp, palette
from explorer.ui.figures import (
    colour_bar,
    draw,
    heatmap_figure,
    put_columns,
)
from explorer.ui.fitting import fit_to_width
from explorer.ui.grid import Cell, Grid
from explorer.ui.painted_cells import draw_cells
from explorer.ui.painting import Columns, Scale

_MARK_HOVERED_CELL = """
const [at] = cb_data.index.indices
const {x, y} = cells.data
marker.data = at == null ? {x: [], y: []} : {x: [x[at]], y: [y[at]]}
"""


_MARK_TAPPED_CELL = """
const {x, y, modifiers = {}} = cb_obj
const {data} = cells
const near = at => Math.abs(data.x[at] - x) < 0.5 && Math.abs(data.y[at] - y) < 0.5
const at = [...data.x.keys()].find(near)
if (at != null && !modifiers.ctrl && !modifiers.shift && !modifiers.alt) {
  marker.data = {x: [data.x[at]], y: [data.y[at]]}
}
"""


class Heatmap:
    """A heatmap of layers by checkpoints in the paper's form, with one marked cell.

    Parameters
    ----------
    grid : Grid
        Rows and columns.
    ramp : Ramp
        Colours of the colour bar.
    description : str
        What a screen reader says.
    whole_network : bool
        Whether the row `fullmodel` has cells here.
    number_size : int
        Height of the numbers in the cells, in pixels, where there is room.
    widest : str
        A number as wide as any that stands in a cell.
    marker : bokeh.models.ColumnDataSource, optional
        Place of the marked cell; share one to mark the same cell in several heatmaps of a page.
    """

    def __init__(
        self,
        grid: Grid,
        ramp: Ramp,
        description: str,
        *,
        whole_network: bool = True,
        number_size: int = 11,
        widest: str = "100",
        marker: ColumnDataSource | None = None,
    ) -> None:
        self._grid = grid
        self._painted = {cell for cell in grid.cells if whole_network or cell.layer is not None}
        self._shown: Columns = {}
        self._cells = ColumnDataSource()
        self._marker = marker or ColumnDataSource({"x": [], "y": []})
        self._cursor = ColumnDataSource({"x": [], "y": []})
        self._ramp = ramp
        self._mapper = LinearColorMapper(palette=palette(ramp), low=0, high=1)  # shares of the ramp
        self._bar = colour_bar(self._mapper)
        self.figure = heatmap_figure(grid, description, whole_network)
        self.figure.add_layout(self._bar, "below")
        fit_to_width(self.figure, self._draw_glyphs(number_size), widest, number_size)

    def paint(self, columns: Columns, scale: Scale) -> None:
        """Show these cells; only what differs from before is sent to the browser."""
        if not self._shown:
            self._cells.data = {name: list(values) for name, values in columns.items()}
        else:
            changes = {
                name: [
                    (at, new)
                    for at, (old, new) in enumerate(zip(self._shown[name], values, strict=True))
                    if old != new
                ]
                for name, values in columns.items()
            }
            changes = {name: patches for name, patches in changes.items() if patches}
            if changes:
                self._cells.patch(changes)
        self._shown = {name: list(values) for name, values in columns.items()}
        self._scale(scale)

    def mark(self, cells: Sequence[Cell], cursor: Cell | None = None) -> None:
        """Put the mark around these cells, and a dashed one around the cursor elsewhere."""
        elsewhere = [cursor] if cursor is not None and cursor not in cells else []
        for source, marked in ((self._marker, cells), (self._cursor, elsewhere)):
            shown = [cell for cell in marked if cell in self._painted]
            places = [self._grid.place(cell) for cell in shown]
            put_columns(source, {"x": [x for x, _ in places], "y": [y for _, y in places]})

    @property
    def marked(self) -> tuple[list[float], list[float]]:
        """Centres of the marked cells, or two empty lists."""
        return list(self._marker.data["x"]), list(self._marker.data["y"])

    def on_tap(self, handler: Callable[[float | None, float | None, bool], None]) -> None:
        """Call the handler with the place of every click, and whether a modifier key was held.

        A second click within 300 ms arrives as a double tap *instead of* a tap, so fast clicks
        on different cells would be lost without it.
        """
        for event in (Tap, DoubleTap):
            self.figure.on_event(event, lambda tap: handler(tap.x, tap.y, _adds(tap)))

    def mark_what_is_tapped(self) -> None:
        """Let the page mark a clicked cell at once, before Python answers, which then need not."""
        for event in (Tap, DoubleTap):
            self.figure.on_event(event, self._note_page_s_mark)
        code = CustomJS(args={"marker": self._marker, "cells": self._cells}, code=_MARK_TAPPED_CELL)
        for event in (Tap, DoubleTap):
            self.figure.js_on_event(event, code)

    def mark_what_is_hovered(self) -> None:
        """Let the page itself mark the cell under the pointer, without Python."""
        code = CustomJS(
            args={"marker": self._marker, "cells": self._cells}, code=_MARK_HOVERED_CELL
        )
        self.figure.hover[0].callback = code

    def _note_page_s_mark(self, tap: Any) -> None:
        cell = None if _adds(tap) else self._grid.cell_at(tap.x, tap.y)
        if cell in self._painted:
            x, y = self._grid.place(cell)
            put_columns(self._marker, {"x": [x], "y": [y]}, setter=self)

    def _scale(self, scale: Scale) -> None:
        labels = {scale.share(at): label.replace(" ", "\n", 1) for at, label in scale.ticks}
        if self._ramp != scale.ramp:
            self._ramp = scale.ramp
            self._mapper.palette = palette(scale.ramp)
        if self._bar.major_label_overrides != labels:
            self._bar.ticker.ticks = list(labels)
            self._bar.major_label_overrides = labels

    def _draw_glyphs(self, number_size: int) -> Any:
        """Draw cells and mark; return the numbers, or None if the heatmap has none."""
        _, numbers = draw_cells(self.figure, self._grid, self._cells, number_size)
        lines = (
            ("mark", self._marker, "#111111", 4.0, "solid"),
            ("mark", self._marker, "#ffffff", 1.5, "solid"),
            ("cursor", self._cursor, "#ffffff", 3.0, "solid"),
            ("cursor", self._cursor, "#111111", 3.0, [5, 3]),
        )
        for name, source, colour, width, dash in lines:
            frame = Rect(
                width=1,
                height=1,
                fill_alpha=0,
                line_color=colour,
                line_width=width,
                line_dash=dash,
            )
            draw(self.figure, frame, source, name=name)
        return numbers


def _adds(tap: Any) -> bool:
    """Tell whether a key was held that adds to a selection."""
    held = tap.modifiers or {}
    return any(held.get(key) for key in ("ctrl", "shift", "alt"))
