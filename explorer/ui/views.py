"""What the reader sees in Bokeh: a heatmap of cells, and the curve of a running estimate.

The only file that changes a Bokeh document. Whoever calls it holds the session's lock.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from bokeh.core.properties import value
from bokeh.events import DoubleTap, Tap
from bokeh.models import ColumnDataSource, CustomJS, HoverTool, LinearColorMapper
from bokeh.models.annotations import Span

from explorer.colours import Ramp, palette
from explorer.ui.figures import (
    CROWDED,
    FONT,
    INK,
    RED,
    colour_bar,
    curve_figure,
    fit_to_width,
    heatmap_figure,
    line_label,
    put_label,
)
from explorer.ui.grid import Cell, Grid
from explorer.ui.painting import Columns, Scale
from explorer.ui.results import Counts
from explorer.ui.wording import interval, percent, tick

CLOSE = 0.25
"""Nearer than this to chance, the trained network's line has its label below."""

HIGHEST = 0.9
"""Up to this error there is room for a label above its line."""

_MARK_HOVERED_CELL = """
const [at] = cb_data.index.indices
const {x, y} = cells.data
marker.data = at == null ? {x: [], y: []} : {x: [x[at]], y: [y[at]]}
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
        self._whole_network = whole_network
        self._shown: Columns = {}
        self._cells = ColumnDataSource()
        self._marker = marker or ColumnDataSource({"x": [], "y": []})
        self._mapper = LinearColorMapper(palette=palette(ramp), low=0, high=1)
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

    def mark(self, cell: Cell | None) -> None:
        """Put the mark around a cell, or take it away."""
        shown = cell is not None and (cell.layer is not None or self._whole_network)
        if cell is not None and shown:
            x, y = [self._grid.x(cell.epoch)], [self._grid.y(cell.layer)]
        else:
            x, y = [], []
        if self.marked != (x, y):
            self._marker.data = {"x": x, "y": y}

    @property
    def marked(self) -> tuple[list[float], list[float]]:
        """Centre of the marked cell, or two empty lists."""
        return list(self._marker.data["x"]), list(self._marker.data["y"])

    def on_tap(self, handler: Callable[[float | None, float | None], None]) -> None:
        """Call the handler with the place of every click on the figure.

        A second click within 300 ms arrives as a double tap *instead of* a tap, so fast clicks
        on different cells would be lost without it.
        """
        for event in (Tap, DoubleTap):
            self.figure.on_event(event, lambda tap: handler(tap.x, tap.y))

    def mark_what_is_hovered(self) -> None:
        """Let the page itself mark the cell under the pointer, without Python."""
        code = CustomJS(
            args={"marker": self._marker, "cells": self._cells}, code=_MARK_HOVERED_CELL
        )
        self.figure.select_one(HoverTool).callback = code

    def _scale(self, scale: Scale) -> None:
        labels = {at: label.replace(" ", "\n", 1) for at, label in scale.ticks}
        if (self._mapper.low, self._mapper.high) != (scale.low, scale.high):
            self._mapper.update(low=scale.low, high=scale.high)
        if self._bar.major_label_overrides != labels:
            self._bar.ticker.ticks = list(labels)
            self._bar.major_label_overrides = labels

    def _draw_glyphs(self, number_size: int) -> Any:
        """Draw cells and mark; return the numbers, or None if the heatmap has none."""
        cells = self.figure.rect(
            "x",
            "y",
            width=1,
            height=1,
            source=self._cells,
            fill_color="fill",
            line_color="#d5d5d5",
            line_width=1,
            hatch_pattern="hatch",
            hatch_color="#8a8a8a",
            hatch_alpha=0.8,
            hatch_scale=7,
            hatch_weight=1,
        )
        numbers = None
        if len(self._grid.epochs) < CROWDED:
            numbers = self.figure.text(
                "x",
                "y",
                text="text",
                source=self._cells,
                text_color="ink",
                text_align="center",
                text_baseline="middle",
                text_font=value(FONT),
                text_font_size=f"{number_size}px",
            )
        for colour, width in (("#111111", 4.0), ("#ffffff", 1.5)):
            self.figure.rect(
                "x",
                "y",
                width=1,
                height=1,
                source=self._marker,
                fill_alpha=0,
                line_color=colour,
                line_width=width,
            )
        hover = self.figure.select_one(HoverTool)
        hover.renderers = [cells]
        return numbers


class Curve:
    """The running estimate against the test examples seen, with its interval.

    Parameters
    ----------
    description : str
        What a screen reader says.
    """

    def __init__(self, description: str) -> None:
        self._points = ColumnDataSource(data=_curve_columns(()))
        self._intact = Span(
            dimension="width", line_color=INK, line_dash="dashed", line_width=1.5, visible=False
        )
        self._chance = Span(
            dimension="width", line_color="#8a8a8a", line_dash="dotted", line_width=1.5
        )
        self._intact_label, self._chance_label = line_label(), line_label()
        self.figure = curve_figure(description)
        for line in (self._intact, self._chance, self._intact_label, self._chance_label):
            line.visible = False
            self.figure.add_layout(line)
        self._draw_glyphs()

    def baseline(self, final_error: float, chance_error: float, total: int) -> None:
        """Draw the lines of the trained network and of chance, for `total` test examples."""
        self.figure.x_range.end = max(total, 1)
        apart = not abs(chance_error - final_error) < CLOSE
        lines = (
            (self._intact, self._intact_label, final_error, "trained network", apart),
            (self._chance, self._chance_label, chance_error, "chance", chance_error <= HIGHEST),
        )
        for line, label, error, name, above in lines:
            if math.isfinite(error):
                line.update(location=error, visible=True)
                put_label(label, above)
                label.update(x=max(total, 1), y=error, visible=True, text=f"{name} {tick(error)}")

    def show(self, heading: str, estimates: Sequence[Counts]) -> None:
        """Show a run so far; some twenty points, so they are sent whole."""
        if self.figure.title.text != heading:
            self.figure.title.text = heading
        self._points.data = _curve_columns(estimates)

    def _draw_glyphs(self) -> None:
        self.figure.varea(
            "examples", "low", "high", source=self._points, fill_color=RED, fill_alpha=0.18
        )
        self.figure.line("examples", "error", source=self._points, line_color=RED, line_width=2)
        dots = self.figure.scatter(
            "examples", "error", source=self._points, color=RED, size=5, line_color="white"
        )
        self.figure.select_one(HoverTool).renderers = [dots]


def _curve_columns(estimates: Sequence[Counts]) -> dict[str, Any]:
    return {
        "examples": [int(one.examples) for one in estimates],
        "error": [float(one.error) for one in estimates],
        "low": [float(one.error_low) for one in estimates],
        "high": [float(one.error_high) for one in estimates],
        "where": [f"after {one.examples:,} test examples" for one in estimates],
        "tip": [
            f"test error {percent(one.error)}\n"
            f"95 % interval {interval(one.error_low, one.error_high)}"
            for one in estimates
        ],
    }
