"""How layers move over the checkpoints, and how far that goes along with the error."""

from __future__ import annotations

import math
from itertools import cycle, islice
from typing import Any

import xarray as xr
from bokeh.layouts import column
from bokeh.models import ColumnDataSource, HoverTool, NumeralTickFormatter, Range1d
from bokeh.palettes import Colorblind

from explorer.ui.figures import BLUE, profile_figure, relation_figure
from explorer.ui.grid import unit_of
from explorer.ui.wording import percent, short_number

DASHES = ("solid", "dashed", "dotted", "dotdash")
"""Of every eight layers another, so that colours may come again."""

WORDS = {
    "rotation": "rotation 1 − cos from the first checkpoint",
    "way": "length of the whole way",
    "sign_flips": "share of weights that changed sign",
    "spectral_norm_change": "|log change| of the spectral norm",
    "stable_rank_change": "|log change| of the stable rank",
}
"""Quantities of `explorer.stats.rank_correlation`, in words."""


def motion_figure(found: xr.Dataset) -> Any:
    """Draw the rotation curves; below them, where a sweep was given, rotation against the error.

    Parameters
    ----------
    found : xarray.Dataset
        As `explorer.motion` returns it.

    Returns
    -------
    bokeh.plotting.figure or bokeh.models.Column
    """
    curves = rotation_figure(found)
    if "quantity" not in found.dims:
        return curves
    beside = error_figure(found, "rotation")
    return column(curves, beside, sizing_mode="stretch_width")


def rotation_figure(found: xr.Dataset) -> Any:
    """Draw how far each layer has rotated at each checkpoint; checkpoints are evenly spaced."""
    epochs = [str(int(epoch)) for epoch in found["epoch"].values]
    layers = list(map(str, found["layer"].values))
    unit = unit_of(found.attrs)
    said = ", ".join(
        f"{layer} {short_number(float(found['rotation'].sel(layer=layer)[-1]))}"
        for layer in layers
        if math.isfinite(float(found["rotation"].sel(layer=layer)[-1]))
    )
    places = dict(enumerate(epochs))
    plot = profile_figure(
        {float(at): name for at, name in places.items()},
        unit,
        f"Curves of the rotation of each layer; at the end: {said}",
    )
    plot.height = max(320, 21 * len(layers) + 60)
    plot.title.text = "Rotation of each layer from the first checkpoint, 1 − cos"
    high = float(found["rotation"].max())
    plot.y_range = Range1d(start=-0.02 * high, end=1.05 * high or 1)
    plot.yaxis.axis_label, plot.yaxis.formatter = "1 − cos", NumeralTickFormatter(format="0.00")
    plot.yaxis.ticker.ticks = [round(high * k / 4, 3) for k in range(5)]
    colours = islice(cycle(Colorblind[8]), len(layers))
    drawn = []
    for k, (layer, colour) in enumerate(zip(layers, colours, strict=True)):
        row = found.sel(layer=layer)
        values = row["rotation"].values.tolist()
        source = ColumnDataSource(
            {
                "x": list(range(len(epochs))),
                "y": values,
                "where": [f"{layer}, {unit} {epoch}" for epoch in epochs],
                "tip": [
                    f"rotation {value:.3g}\nstep {step:.3g}\nsigns changed {percent(flips)}"
                    for value, step, flips in zip(
                        values, row["step"].values, row["sign_flips"].values, strict=True
                    )
                ],
            }
        )
        dash = DASHES[k // 8 % len(DASHES)]
        style = {"source": source, "legend_label": layer}
        plot.line("x", "y", line_color=colour, line_dash=dash, line_width=2, **style)
        drawn.append(plot.scatter("x", "y", color=colour, size=5, **style))
    plot.select_one(HoverTool).renderers = drawn
    plot.add_layout(plot.legend[0], "right")
    plot.legend.label_text_font_size = "11px"
    plot.legend.spacing = 0
    return plot


def error_figure(found: xr.Dataset, quantity: str) -> Any:
    """Draw a quantity of each layer against the error when it is put back to the first checkpoint.

    Parameters
    ----------
    found : xarray.Dataset
        As `explorer.motion` returns it with a sweep.
    quantity : str
        One of `WORDS`.

    Returns
    -------
    bokeh.plotting.figure
    """
    one = found.sel(quantity=quantity)
    said = correlation_words(one)
    plot = relation_figure(f"Test error against the {WORDS[quantity]}, by layer. {said}")
    moved, errors = one["moved"].values.tolist(), found["error_when_put_back"].values.tolist()
    layers = list(map(str, found["layer"].values))
    source = ColumnDataSource(
        {
            "x": moved,
            "y": errors,
            "where": layers,
            "tip": [
                f"test error {percent(error)}\n{WORDS[quantity]}: {value:.3g}"
                for value, error in zip(moved, errors, strict=True)
            ],
        }
    )
    points = plot.scatter("x", "y", source=source, size=9, color=BLUE, line_color="white")
    plot.select_one(HoverTool).renderers = [points]
    plot.xaxis.axis_label, plot.title.text = WORDS[quantity], said
    return plot


def correlation_words(one: xr.Dataset) -> str:
    """Say a rank correlation, its interval and the number of layers."""
    rho, low, high = (float(one[f"rank_{name}"]) for name in ("correlation", "low", "high"))
    over = f"over {int(one['layers_compared'])} layers"
    if math.isnan(rho):
        return f"No rank correlation {over}"
    between = "no interval" if math.isnan(low) else f"95 % interval {low:+.2f} to {high:+.2f}"
    return f"Rank correlation with the error {rho:+.2f} {over}, {between}"
