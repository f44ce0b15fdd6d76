"""Empty Bokeh figures in one style: for a heatmap, and for a curve of the error."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from bokeh.models import (
    BasicTicker,
    ColumnDataSource,
    DataRange1d,
    FixedTicker,
    HoverTool,
    LinearAxis,
    LinearColorMapper,
    NumeralTickFormatter,
    Range1d,
)
from bokeh.models.annotations import ColorBar, Label
from bokeh.models.glyph import Glyph
from bokeh.plotting import figure

from explorer.ui.grid import Grid
from explorer.ui.titles import without_formulae

FONT = "system-ui, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"
INK = "#222222"
QUIET_INK = "#555555"
RED = "#a50f15"
BLUE = "#1864aa"

_TIP = """
<div style="max-width: 19rem; font: 12px/1.45 system-ui, sans-serif; color: #222">
  <div style="font-weight: 600">@where</div>
  <div style="white-space: pre-line">@tip</div>
</div>
"""
"""Bokeh escapes what it puts in place of @where and @tip."""

CROWDED = 16
"""More columns than this get no number in the cell, and not every label."""

LONG = 16
"""Characters of a layer's name above which all names are smaller, to leave room for the cells."""


def heatmap_figure(grid: Grid, description: str, whole_network: bool) -> Any:
    """Return a figure with the rows and columns of a grid, layer 1 on top."""
    sources = grid.source_labels
    layers = {at: without_formulae(_shortened(name)) for at, name in grid.layer_labels.items()}
    across, down = (layers, sources) if grid.sideways else (sources, layers)
    cell = min(36, max(16, 290 // (len(down) - 1)))  # up to 18 rows are no taller than 8
    plot = figure(
        height=round(cell * (max(down) - min(down) + 1.2)) + 96,
        min_width=270,
        sizing_mode="stretch_width",
        x_range=Range1d(start=min(across) - 0.58, end=max(across) + 0.58),
        y_range=Range1d(start=max(down) + 0.6, end=min(down) - 0.6),
        tools=[HoverTool(tooltips=_TIP, point_policy="follow_mouse", show_arrow=False)],
        toolbar_location=None,
        x_axis_label="layer" if grid.sideways else f"{grid.unit} the layer is put back to",
        y_axis_label=f"{grid.unit} the layer is put back to" if grid.sideways else None,
        x_axis_location="above",
        html_attributes={"role": "img", "aria-label": description},
    )
    shown = layers if whole_network else dict(list(layers.items())[:-1])
    across, down = (shown, sources) if grid.sideways else (_thinned(sources), shown)
    for axis, labels in ((plot.xaxis, across), (plot.yaxis, down)):
        axis.ticker = FixedTicker(ticks=list(labels))
        axis.major_label_overrides = dict(labels)
    _plain(plot)
    if max(map(len, down.values())) > LONG:
        plot.yaxis.major_label_text_font_size = "11px"
    plot.xgrid.visible = plot.ygrid.visible = False
    plot.axis.axis_line_color = None
    plot.axis.major_tick_line_color = None
    plot.axis.major_label_standoff = 0
    plot.min_border_left, plot.min_border_right = 66, 20
    return plot


def _thinned(labels: Mapping[float, str]) -> dict[float, str]:
    """Leave out labels of many checkpoints, but not that of ReRnd."""
    every = math.ceil(len(labels) / CROWDED)
    numbered = [(at, label) for at, label in labels.items() if at >= 0]
    return {at: label for at, label in labels.items() if at < 0} | dict(numbered[::every])


def curve_figure(description: str) -> Any:
    """Return a figure of the test error against the test examples seen."""
    plot = _error_figure(description, "test examples seen", Range1d(start=0, end=1), "vline")
    plot.xaxis.formatter = NumeralTickFormatter(format="0,0")
    plot.xaxis.ticker = BasicTicker(desired_num_ticks=4)  # "30,000" has to fit beside its like
    plot.min_border_right = 58  # "trained", right of the frame
    return plot


def profile_figure(places: Mapping[float, str], axis: str, description: str) -> Any:
    """Return a figure of the test error against the labelled places of sources."""
    along = Range1d(start=min(places) - 0.58, end=max(places) + 0.58)
    plot = _error_figure(description, axis, along, "mouse")
    plot.height += 16  # a second line of the title
    shown = _thinned(places)
    plot.xaxis.ticker = FixedTicker(ticks=list(shown))
    plot.xaxis.major_label_overrides = dict(shown)
    return plot


def relation_figure(description: str) -> Any:
    """Return a figure of the test error against a distance."""
    plot = _error_figure(description, " ", DataRange1d(range_padding=0.12), "mouse")
    plot.height = 290
    plot.x_range.start = 0
    return plot


def _error_figure(description: str, axis: str, along: Any, hover: str) -> Any:
    """Return a figure with the test error upwards."""
    plot = figure(
        height=185,
        min_width=270,
        sizing_mode="stretch_width",
        title=" ",
        x_range=along,
        y_range=Range1d(start=-0.02, end=1.02),
        tools=[HoverTool(tooltips=_TIP, mode=hover, show_arrow=False)],
        toolbar_location=None,
        x_axis_label=axis,
        y_axis_label="test error",
        html_attributes={"role": "img", "aria-label": description},
    )
    plot.yaxis.formatter = NumeralTickFormatter(format="0 %")
    plot.yaxis.ticker = FixedTicker(ticks=[0, 0.25, 0.5, 0.75, 1])
    _plain(plot)
    plot.grid.grid_line_color = "#ececec"
    plot.axis.axis_line_color = "#bbbbbb"
    plot.axis.major_tick_line_color = "#bbbbbb"
    plot.min_border_left, plot.min_border_right = 66, 20
    return plot


def table_figure(
    across: Sequence[str], down: Sequence[str], axes: tuple[str, str], description: str
) -> Any:
    """Return a figure for cells in labelled columns and rows, the first row on top.

    Parameters
    ----------
    across, down : sequence of str
        Labels of the columns, which lie at 0, 1, 2, …, and of the rows.
    axes : tuple of str
        What the columns and the rows are.
    description : str
        What a screen reader says.
    """
    cell = min(36, max(20, 290 // max(len(down), 1)))
    plot = figure(
        height=cell * len(down) + 130,
        min_width=270,
        sizing_mode="stretch_width",
        title=" ",
        x_range=Range1d(start=-0.58, end=len(across) - 0.42),
        y_range=Range1d(start=len(down) - 0.4, end=-0.6),
        tools=[HoverTool(tooltips=_TIP, point_policy="follow_mouse", show_arrow=False)],
        toolbar_location=None,
        x_axis_label=axes[0],
        y_axis_label=axes[1],
        html_attributes={"role": "img", "aria-label": description},
    )
    columns = _thinned({float(at): label for at, label in enumerate(across)})
    rows = {float(at): _shortened(label) for at, label in enumerate(down)}
    for axis, labels in ((plot.xaxis, columns), (plot.yaxis, rows)):
        axis.ticker = FixedTicker(ticks=list(labels))
        axis.major_label_overrides = dict(labels)
    _plain(plot)
    plot.grid.visible = False
    plot.axis.axis_line_color = plot.axis.major_tick_line_color = None
    plot.axis.major_label_standoff = 0
    return plot


def line_figure(description: str, axis: str, upwards: str) -> Any:
    """Return a figure of a quantity, which is an error or has a range of its own, from 0 to 1."""
    plot = _error_figure(description, axis, Range1d(start=-0.02, end=1.02), "mouse")
    plot.height = 290
    if upwards != "test error":
        plot.y_range = DataRange1d(range_padding=0.1)
        plot.yaxis.axis_label = upwards
        plot.yaxis.ticker, plot.yaxis.formatter = (
            BasicTicker(),
            NumeralTickFormatter(format="0.[00]"),
        )
    return plot


def _plain(plot: Any) -> None:
    """One typeface, no frame, no minor ticks."""
    plot.outline_line_color = None
    plot.background_fill_color = plot.border_fill_color = "#ffffff"
    plot.axis.minor_tick_line_color = None
    plot.axis.major_label_text_font = plot.axis.axis_label_text_font = FONT
    plot.axis.major_label_text_font_size = "12px"
    plot.axis.axis_label_text_font_size = "12px"
    plot.axis.axis_label_text_font_style = "normal"
    plot.axis.major_label_text_color = INK
    plot.axis.axis_label_text_color = QUIET_INK
    plot.title.text_font, plot.title.text_font_size = FONT, "13px"
    plot.title.text_color, plot.title.text_font_style = INK, "bold"


def colour_bar(mapper: LinearColorMapper) -> ColorBar:
    """Return a horizontal colour bar without ticks."""
    return ColorBar(
        color_mapper=mapper,
        ticker=FixedTicker(ticks=[]),
        height=9,
        padding=4,
        label_standoff=4,
        bar_line_color="#bbbbbb",
        major_tick_line_color="#777777",
        major_tick_in=0,
        major_tick_out=4,
        major_label_text_font=FONT,
        major_label_text_font_size="11px",
        major_label_text_color=QUIET_INK,
    )


def line_label() -> Label:
    """Return a label that ends where it is put."""
    return Label(
        x=0,
        y=0,
        text="",
        text_align="right",
        text_font=FONT,
        text_font_size="11px",
        text_color=QUIET_INK,
        background_fill_color="white",
        background_fill_alpha=0.8,
    )


def line_names() -> LinearAxis:
    """Return an axis right of the frame that names lines, so that no name hides what is drawn."""
    return LinearAxis(
        ticker=FixedTicker(ticks=[]),
        axis_line_color=None,
        major_tick_line_color=None,
        minor_tick_line_color=None,
        major_label_standoff=0,
        major_label_text_font=FONT,
        major_label_text_font_size="11px",
        major_label_text_line_height=1.1,
        major_label_text_color=QUIET_INK,
    )


def draw(plot: Any, glyph: Glyph, source: ColumnDataSource, **options: Any) -> Any:
    """Draw a glyph and return its renderer.

    What `plot.rect` and its like draw besides, for glyphs that are selected or muted, is never
    seen here and triples the time that a figure takes to be made.
    """
    return plot.add_glyph(source, glyph, **options)


def put_columns(
    source: ColumnDataSource, columns: Mapping[str, Sequence[Any]], setter: Any = None
) -> None:
    """Give a source these columns, and say nothing to the page if it has them already.

    With a setter, the page has done so itself; see `explorer.ui.live.LiveBokeh`.
    """
    if dict(source.data) != columns:
        put = {name: list(values) for name, values in columns.items()}
        source.lookup("data").__set__(source, put, setter=setter)


def _shortened(name: str, longest: int = 20) -> str:
    """Return a name that fits beside a heatmap; the end of a module path tells more."""
    return name if len(name) <= longest else "…" + name[1 - longest :]
