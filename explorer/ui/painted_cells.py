"""Painted cells in a heatmap figure: ground, hatch, and a text where there is room."""

from __future__ import annotations

from typing import Any

from bokeh.core.properties import value
from bokeh.models import CDSView, ColumnDataSource, GroupFilter, Rect, Text

from explorer.ui.figures import CROWDED, FONT, draw
from explorer.ui.grid import Grid
from explorer.ui.painting import HATCHES

COLUMNS = ("x", "y", "fill", "ink", "hatch", "text", "where", "tip")
"""What `draw_cells` takes of each cell."""

PATTERNS = tuple(pattern for pattern in HATCHES.values() if pattern != "blank")
"""What may be hatched over a cell."""


def draw_cells(
    plot: Any, grid: Grid, source: ColumnDataSource, text_size: int = 10
) -> tuple[Any, Any]:
    """Draw cells, with their texts where there is room.

    Parameters
    ----------
    plot : bokeh.plotting.figure
        From `explorer.ui.figures.heatmap_figure` for this grid.
    grid : Grid
        Where the cells lie.
    source : ColumnDataSource
        `COLUMNS`, an entry per cell.
    text_size : int
        Height of the texts, pixels.

    Returns
    -------
    tuple
        Renderers of the cells, which are what hovering tells about, and of the texts; None for
        these where there is no room.
    """
    cell = Rect(
        width=1,
        height=1,
        fill_color="fill",
        line_color="#d5d5d5",
    )
    cells, texts = draw(plot, cell, source), None
    if len(grid.epochs) < CROWDED:
        text = Text(
            text_color="ink",
            text_align="center",
            text_baseline="middle",
            text_font=value(FONT),
            text_font_size=f"{text_size}px",
        )
        texts = draw(plot, text, source)
    hatch(plot, cells, 0.8)
    plot.hover[0].renderers = [cells]
    return cells, texts


def hatch(plot: Any, cells: Any, alpha: float) -> None:
    """Draw hatches over cells, below their texts, where the column ``hatch`` says so.

    A column of patterns for the cells themselves would be simpler, but BokehJS makes a canvas for
    each of them at every change: with two explorers that was two thirds of a page's time, and
    collecting those canvases kept it busy for 22 s in one piece.

    Parameters
    ----------
    plot : bokeh.plotting.figure
        Of the cells.
    cells : bokeh.models.GlyphRenderer
        Rectangles; they go to the level below all other glyphs.
    alpha : float
        Opacity of the hatches.
    """
    cells.level = "underlay"
    for pattern in PATTERNS:
        over = Rect(
            width=cells.glyph.width,
            height=cells.glyph.height,
            fill_color=None,
            line_color=None,
            hatch_pattern=pattern,
            hatch_color="#8a8a8a",
            hatch_alpha=alpha,
            hatch_scale=7,
            hatch_weight=1,
        )
        chosen = CDSView(filter=GroupFilter(column_name="hatch", group=pattern))
        draw(plot, over, cells.data_source, view=chosen, level="underlay")
