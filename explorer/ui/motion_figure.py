"""How layers move over the checkpoints, and how far that goes along with the error."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Any

import xarray as xr
from bokeh.layouts import column
from bokeh.models import ColumnDataSource, HoverTool, NumeralTickFormatter, Range1d

from explorer.ui.figures import BLUE, profile_figure, relation_figure
from explorer.ui.grid import unit_of
from explorer.ui.linked import LAYER, ring_points
from explorer.ui.titles import put_title, without_formulae
from explorer.ui.wording import percent, short_number

CURVE_COLOURS = (
    *("#0072b2", "#d55e00", "#009e73", "#cc79a7"),
    *("#8c6d00", "#7a6ad8", "#7f7f7f", "#2a8bc4"),
)
"""Of curves; each stands out by 3 : 1 from white and from near-black (WCAG 2.2, 1.4.11). The first
four are of Okabe & Ito, whose yellow, orange and sky blue do not."""

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


@dataclass(frozen=True)
class Curves:
    """One quantity over the checkpoints."""

    words: str
    """What it is, for a title."""
    axis: str
    """How it is written beside the axis."""
    beside: str
    """Which of `WORDS` sums it up, to be set beside the error."""
    short: str
    """Its name in a menu."""


CURVES: Mapping[str, Curves] = {
    "rotation": Curves(
        "Rotation of each layer from the first checkpoint, 1\u00a0−\u00a0cos",
        "1 − cos",
        "rotation",
        "rotation from the start",
    ),
    "step_per_epoch": Curves(
        "Length of each layer's step, per epoch", "step per epoch", "way", "step lengths"
    ),
    "sign_flips": Curves(
        "Share of weights with another sign than at the start",
        "share",
        "sign_flips",
        "changed signs",
    ),
    "spectral_norm": Curves(
        "Spectral norm of each matrix",
        "largest singular value",
        "spectral_norm_change",
        "spectral norm",
    ),
    "stable_rank": Curves(
        "Stable rank of each matrix, ‖W‖_F² / ‖W‖₂²",
        "stable rank",
        "stable_rank_change",
        "stable rank",
    ),
    "dead_in": Curves(
        "Share of units whose incoming weights are all 0", "share", "rotation", "dead units"
    ),
}
"""Variables of `explorer.motion` that can be drawn over the checkpoints."""


def rotation_figure(found: xr.Dataset) -> Any:
    """Draw how far each layer has rotated at each checkpoint; checkpoints are evenly spaced."""
    return curves_figure(found, "rotation")


def curves_figure(found: xr.Dataset, quantity: str, selected: str | None = None) -> Any:
    """Draw one quantity of each layer, or of each matrix, over the checkpoints.

    Parameters
    ----------
    found : xarray.Dataset
        As `explorer.motion` returns it.
    quantity : str
        One of `CURVES`.
    selected : str, optional
        Layer whose curves are thick.

    Returns
    -------
    bokeh.plotting.figure
        Checkpoints are evenly spaced.
    """
    shown, values = CURVES[quantity], found[quantity]
    epochs = [str(int(epoch)) for epoch in found["epoch"].values]
    names = list(map(str, values[values.dims[0]].values))
    layers = names if "layer" in values.dims else list(map(str, found["of_layer"].values))
    unit = unit_of(found.attrs)
    ends = zip(names, values.values[:, -1].tolist(), strict=True)
    said = ", ".join(f"{name} {short_number(end)}" for name, end in ends if math.isfinite(end))
    plot = profile_figure(
        {float(at): name for at, name in enumerate(epochs)},
        unit,
        f"Curves: {shown.words}; at the end: {said}",
    )
    plot.height = max(320, 21 * len(names) + 60)
    put_title(plot, shown.words)
    _scale(plot, values.values, shown.axis)
    colours = islice(cycle(CURVE_COLOURS), len(names))
    drawn = []
    for k, (name, layer, colour) in enumerate(zip(names, layers, colours, strict=True)):
        row = [float(number) for number in values.values[k]]
        source = ColumnDataSource(
            {
                "x": list(range(len(epochs))),
                "y": row,
                "where": [f"{name}, {unit} {epoch}" for epoch in epochs],
                "tip": _tips(found, quantity, layer, row),
                LAYER: [layer] * len(epochs),
            }
        )
        dash = DASHES[k // 8 % len(DASHES)]
        style = {"source": source, "legend_label": without_formulae(name)}
        width, size = (4, 9) if layer == selected else (2, 5)
        plot.line("x", "y", line_color=colour, line_dash=dash, line_width=width, **style)
        drawn.append(plot.scatter("x", "y", color=colour, size=size, **style))
    plot.select_one(HoverTool).renderers = drawn
    if names:
        plot.add_layout(plot.legend[0], "right")
        plot.legend.label_text_font_size = "11px"
        plot.legend.spacing = 0
    return plot


def _tips(found: xr.Dataset, quantity: str, layer: str, row: list[float]) -> list[str]:
    """What is said of each point of a curve."""
    own = found.sel(layer=layer)
    if quantity not in ("rotation", "step_per_epoch", "sign_flips"):
        return [f"{CURVES[quantity].axis} {value:.4g}" for value in row]
    numbers = (own[name].values for name in ("rotation", "step", "sign_flips"))
    return [
        f"rotation {turned:.3g}\nstep {step:.3g}\nsigns changed {percent(flips)}"
        for turned, step, flips in zip(*numbers, strict=True)
    ]


def _scale(plot: Any, values: Any, axis: str) -> None:
    """Give the axis upwards the range of the numbers, from 0."""
    high = max((float(one) for one in values.ravel() if math.isfinite(one)), default=1.0) or 1.0
    plot.y_range = Range1d(start=-0.02 * high, end=1.05 * high)
    plot.yaxis.axis_label = axis
    plot.yaxis.formatter = NumeralTickFormatter(format="0.[000]" if high < 1 else "0.[00]")
    plot.yaxis.ticker.ticks = [round(high * k / 4, 3) for k in range(5)]


def error_figure(found: xr.Dataset, quantity: str, selected: str | None = None) -> Any:
    """Draw a quantity of each layer against the error when it is put back to the first checkpoint.

    Parameters
    ----------
    found : xarray.Dataset
        As `explorer.motion` returns it with a sweep.
    quantity : str
        One of `WORDS`.
    selected : str, optional
        Layer whose point is ringed.

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
            LAYER: layers,
        }
    )
    if selected is not None:
        own = [at for at, layer in enumerate(layers) if layer == selected]
        ring_points(plot, [moved[at] for at in own], [errors[at] for at in own])
    points = plot.scatter("x", "y", source=source, size=9, color=BLUE, line_color="white")
    plot.select_one(HoverTool).renderers = [points]
    plot.xaxis.axis_label = WORDS[quantity]
    put_title(plot, said)
    return plot


def correlation_words(one: xr.Dataset) -> str:
    """Say a rank correlation, its interval and the number of layers."""
    rho, low, high = (float(one[f"rank_{name}"]) for name in ("correlation", "low", "high"))
    over = f"over {int(one['layers_compared'])} layers"
    if math.isnan(rho):
        return f"No rank correlation {over}"
    between = "no interval" if math.isnan(low) else f"95 % interval {low:+.2f} to {high:+.2f}"
    return f"Rank correlation with the error {rho:+.2f} {over}, {between}"
