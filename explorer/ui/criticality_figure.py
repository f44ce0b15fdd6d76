"""The criticality of every layer on one axis, 0 and ∞ among them."""

from __future__ import annotations

import math
from typing import Any

import xarray as xr
from bokeh.models import ColumnDataSource, FixedTicker, HoverTool, Range1d

from explorer.ui.between import criticality_words, of_layer
from explorer.ui.figures import BLUE, table_figure
from explorer.ui.linked import LAYER, frame_row
from explorer.ui.titles import put_title
from explorer.ui.wording import short_number

EDGE = 0.5
"""Factors of ten beyond the numbers at which 0 and ∞ are drawn."""


def criticality_figure(found: xr.Dataset, selected: str | None = None) -> Any:
    """Draw the criticality μ of each layer, layers from the top, μ to the right by factors of ten.

    Parameters
    ----------
    found : xarray.Dataset
        As `explorer.criticality` returns it.
    selected : str, optional
        Layer whose row is framed.

    Returns
    -------
    bokeh.plotting.figure
        0 and ∞ have places of their own at the edges; a layer without a number has no point.
    """
    layers = list(map(str, found["layer"].values))
    numbers = [float(number) for number in found["criticality"].values]
    finite = [math.log10(number) for number in numbers if 0 < number < math.inf]
    low, high = math.floor(min(finite, default=0)), math.ceil(max(finite, default=1))
    high = max(high, low + 1)
    together = network_words(found)
    plot = table_figure(
        [""] * (high - low + 1),
        layers,
        ("criticality μ", " "),
        f"Criticality of {len(layers)} layers. {together}.",
    )
    put_title(plot, together)
    plot.x_range = Range1d(start=low - 2 * EDGE, end=high + 2 * EDGE)
    ticks = list(range(low, high + 1))
    ends = {low - EDGE: "0", high + EDGE: "∞"}
    plot.xaxis.ticker = FixedTicker(ticks=[*ticks, *ends])
    plot.xaxis.major_label_overrides = {at: short_number(10.0**at) for at in ticks} | ends
    plot.xgrid.visible, plot.xgrid.grid_line_color = True, "#ececec"
    if selected is not None:
        frame_row(plot, layers.index(selected) if selected in layers else None)
    places = [_place(number, low, high) for number in numbers]
    columns = {
        "x": places,
        "y": list(range(len(layers))),
        "start": [low - EDGE] * len(layers),
        "where": layers,
        "tip": [f"criticality {criticality_words(of_layer(found, layer))}" for layer in layers],
        LAYER: layers,
    }
    source = ColumnDataSource(columns)
    plot.segment("start", "y", "x", "y", source=source, line_color=BLUE, line_width=2)
    dots = plot.scatter("x", "y", source=source, size=10, color=BLUE, line_color="white")
    plot.select_one(HoverTool).renderers = [dots]
    plot.select_one(HoverTool).point_policy = "snap_to_data"
    return plot


def network_words(found: xr.Dataset) -> str:
    """Say the sum over the layers, or how many of them are known."""
    total = float(found.attrs["network_criticality"])
    known = sum(not math.isnan(float(number)) for number in found["criticality"].values)
    if math.isnan(total):
        return f"Criticality μ: {known} of {found.sizes['layer']} layers known"
    return f"Criticality μ: sum over the network {'∞' if total == math.inf else f'{total:.3g}'}"


def _place(number: float, low: float, high: float) -> float:
    """Where on the axis a criticality lies."""
    if math.isnan(number):
        return math.nan
    if number == 0:
        return low - EDGE
    return high + EDGE if number == math.inf else math.log10(number)
