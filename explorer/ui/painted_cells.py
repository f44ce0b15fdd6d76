"""Painted cells in a heatmap figure that does not change: ground, hatch, text, hover."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bokeh.core.properties import value
from bokeh.models import ColumnDataSource, Rect, Text

from explorer.ui.figures import CROWDED, FONT, draw
from explorer.ui.grid import Grid

COLUMNS = ("x", "y", "fill", "ink", "hatch", "text", "where", "tip")
"""What `draw_cells` takes of each cell."""


def draw_cells(plot: Any, grid: Grid, columns: Mapping[str, Sequence[Any]]) -> None:
    """Draw cells, with their texts where there is room.

    Parameters
    ----------
    plot : bokeh.plotting.figure
        From `explorer.ui.figures.heatmap_figure` for this grid.
    grid : Grid
        Where the cells lie.
    columns : mapping
        `COLUMNS`, an entry per cell.
    """
    source = ColumnDataSource(dict(columns))
    cell = Rect(
        width=1,
        height=1,
        fill_color="fill",
        line_color="#d5d5d5",
        hatch_pattern="hatch",
        hatch_color="#8a8a8a",
        hatch_scale=7,
    )
    cells = draw(plot, cell, source)
    if len(grid.epochs) < CROWDED:
        number = Text(
            text_color="ink",
            text_align="center",
            text_baseline="middle",
            text_font=value(FONT),
            text_font_size="10px",
        )
        draw(plot, number, source)
    plot.hover[0].renderers = [cells]
