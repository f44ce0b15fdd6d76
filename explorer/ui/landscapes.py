"""Pictures of what lies between checkpoints: valleys of criticality, paths, their barriers.

Each function takes a Dataset of `explorer.criticality` or `explorer.paths` and returns a figure.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr
from bokeh.core.properties import value
from bokeh.models import ColumnDataSource, HoverTool, LinearColorMapper

from explorer.colours import REDS, palette
from explorer.errors import unknown_name
from explorer.ui.between import (
    LEAST_BARRIER,
    MOVING,
    NAMES,
    WHOLE,
    Quantity,
    barrier_columns,
    between,
    criticality_words,
    of_layer,
    valley_columns,
    worded,
)
from explorer.ui.figures import BLUE, FONT, INK, RED, colour_bar, line_figure, table_figure
from explorer.ui.grid import moment
from explorer.ui.linked import LAYER, frame_row
from explorer.ui.painted_cells import hatch
from explorer.ui.painting import Columns
from explorer.ui.titles import put_title


def valley_figure(found: xr.Dataset, layer: str, quantity: Quantity = "loss") -> Any:
    """Draw a layer's valley: α upwards, σ to the right, and where the criticality is.

    Parameters
    ----------
    found : xarray.Dataset
        As `explorer.criticality` returns it; with ``every_cell=True`` no cell is hatched.
    layer : str
        One of its layers.
    quantity : {"loss", "error"}
        What the colours and numbers stand for.

    Returns
    -------
    bokeh figure
        Blue frames are good enough; the ring is the point that the criticality comes from.

    Raises
    ------
    UnknownNameError
        There is no such layer.
    """
    here = of_layer(found, layer)
    title = f"{layer}: criticality {criticality_words(here)}"
    across = [f"{sigma:.3g}" for sigma in here["sigma"].values]
    down = [f"{alpha:.3g}" for alpha in here["alpha"].values[::-1]]
    description = f"Heatmap of the {NAMES[quantity]}, {len(down)} α by {len(across)} σ. {title}."
    plot = table_figure(across, down, ("σ, deviation of the noise", "α"), description)
    put_title(plot, f"{title}\n{NAMES[quantity]}; blue frames: good enough")
    plot.xaxis.major_label_orientation = 0.8  # "0.00464" has to fit beside its like
    plot.height += 20
    _draw_cells(plot, valley_columns(found, layer, quantity))
    best = float(here["alpha_best"]), float(here["sigma_best"])
    if all(map(math.isfinite, best)):
        row = here["alpha"].values.tolist().index(best[0])
        column = here["sigma"].values.tolist().index(best[1])
        _ring(plot, column, len(down) - 1 - row)
    return plot


def barrier_figure(
    found: xr.Dataset,
    quantity: Quantity = "error",
    selected: str | None = None,
    prefix: str = "",
) -> Any:
    """Draw the barriers of all layers to all epochs, and those of the whole network.

    Parameters
    ----------
    found : xarray.Dataset
        As `explorer.paths` returns it.
    quantity : {"error", "loss"}
        Whose barriers.
    selected : str, optional
        Layer whose row is framed.
    prefix : {"", "upto_", "from_"}
        Of the paths on which one layer moves, or of cumulative ones.

    Returns
    -------
    bokeh figure
    """
    across = [str(epoch) for epoch in found["epoch"].values]
    down = [*map(str, found["layer"].values), WHOLE]
    columns = barrier_columns(found, quantity, prefix)
    highest = float(np.nanmax([LEAST_BARRIER, found[f"{prefix}{quantity}_barrier"].max().item()]))
    highest = float(np.nanmax([highest, found[f"whole_{quantity}_barrier"].max().item()]))
    description = (
        f"Heatmap of the barriers of the {NAMES[quantity]}, {len(down)} rows by {len(across)} "
        f"epochs; the highest is {worded(highest, quantity)}."
    )
    unit = str(found.attrs.get("checkpoint_unit", "epoch"))
    plot = table_figure(across, down, (f"{unit} of B", " "), description)
    moving = f"\n{MOVING[prefix]} move" if prefix else ""
    put_title(plot, f"Barriers of the {NAMES[quantity]}\n{between(found)}{moving}")
    rows = np.repeat([*down[:-1], ""], len(across)).tolist()
    _draw_cells(plot, {**columns, LAYER: rows})
    if selected is not None:
        frame_row(plot, down.index(selected) if selected in down[:-1] else None)
    mapper = LinearColorMapper(palette=palette(REDS), low=0, high=highest)
    bar = colour_bar(mapper)
    bar.ticker.ticks = [0, highest]
    bar.major_label_overrides = {0: "none", highest: worded(highest, quantity)}
    plot.add_layout(bar, "below")
    return plot


def path_figure(
    found: xr.Dataset,
    epoch: int,
    layer: str | None = None,
    quantity: Quantity = "error",
    prefix: str = "",
) -> Any:
    """Draw error or loss along the way to an epoch, with the line between the ends and the barrier.

    Parameters
    ----------
    found : xarray.Dataset
        As `explorer.paths` returns it.
    epoch : int
        Epoch of B.
    layer : str, optional
        Layer that moves, drawn in red beside the whole network in blue dashes; default the whole
        network alone.
    quantity : {"error", "loss"}
        What is drawn.
    prefix : {"", "upto_", "from_"}
        Whether the layer moves alone, or all up to it, or all from it on.

    Returns
    -------
    bokeh figure
        A thick upright line marks each barrier.

    Raises
    ------
    UnknownNameError
        There is no such layer or epoch.
    """
    if epoch not in found["epoch"].values:
        raise unknown_name("epoch", epoch, [int(one) for one in found["epoch"].values])
    at: dict[str, Any] = {"epoch": epoch}
    paths = {WHOLE: ("whole_", at, BLUE, "dashed")}
    if layer is not None:
        of_layer(found, layer)
        name = f"{layer}, {MOVING[prefix]}" if prefix else layer
        paths = {name: (prefix, {**at, "layer": layer}, RED, "solid"), **paths}
    heights = {
        name: float(found[f"{prefix}{quantity}_barrier"].sel(at))
        for name, (prefix, at, _, _) in paths.items()
    }
    said = "; ".join(f"{name}: barrier {worded(h, quantity)}" for name, h in heights.items())
    plot = line_figure(
        f"Curves along the path to epoch {epoch}. {said}.", "λ, share of B", NAMES[quantity]
    )
    put_title(plot, "\n".join([_way(found, epoch), *said.split("; ")]))
    dots = [_draw_path(plot, found, name, quantity, *path) for name, path in paths.items()]
    plot.select_one(HoverTool).renderers = dots
    plot.legend.location = "top_left"
    plot.legend.background_fill_alpha = 0.8
    plot.legend.label_text_font = FONT
    return plot


def _way(found: xr.Dataset, epoch: int) -> str:
    """Say from where to where a path leads."""
    to = moment(found.attrs.get("checkpoint_unit", "epoch"), epoch)
    own = found.attrs["other_hash"] == found.attrs["content_hash"]
    return f"{between(found)} to {to}" if own else f"{between(found)}, {to}"


def _draw_path(
    plot: Any,
    found: xr.Dataset,
    name: str,
    quantity: str,
    prefix: str,
    at: Mapping[str, Any],
    colour: str,
    dash: str,
) -> Any:
    """Draw one path, its interval, the line between its ends and its barrier; return its points."""
    shares = found["share"].values.astype(float)
    heights = found[prefix + quantity].sel(at).values.astype(float)
    if quantity == "error":
        ends = (found[f"{prefix}error_{end}"].sel(at).values for end in ("low", "high"))
        plot.varea(shares, *ends, fill_color=colour, fill_alpha=0.12)
    plot.line(shares, heights, line_color=colour, line_width=2, line_dash=dash, legend_label=name)
    plot.line([0, 1], heights[[0, -1]], line_color=INK, line_width=1, line_dash="dotted")
    top = float(found[f"{prefix}{quantity}_barrier_at"].sel(at))
    if math.isfinite(top):
        where = int(np.argmin(np.abs(shares - top)))
        chord = (1 - top) * heights[0] + top * heights[-1]
        plot.segment([top], [chord], [top], [heights[where]], line_color=colour, line_width=4)
    source = ColumnDataSource(
        {
            "x": shares.tolist(),
            "y": heights.tolist(),
            "where": [f"{name}, λ = {share:.2g}" for share in shares],
            "tip": [f"{NAMES[quantity]} {worded(height, quantity)}" for height in heights],
        }
    )
    return plot.scatter("x", "y", source=source, color=colour, size=6, line_color="white")


def _draw_cells(plot: Any, columns: Columns) -> None:
    source = ColumnDataSource({name: list(values) for name, values in columns.items()})
    cells = plot.rect(
        "x",
        "y",
        width=0.94,
        height=0.9,
        source=source,
        fill_color="fill",
        line_color="edge",
        line_width="wide",
    )
    hatch(plot, cells, 0.4)
    plot.text(
        "x",
        "y",
        text="text",
        source=source,
        text_color="ink",
        text_align="center",
        text_baseline="middle",
        text_font=value(FONT),
        text_font_size="10px",
    )
    plot.select_one(HoverTool).renderers = [cells]


def _ring(plot: Any, x: float, y: float) -> None:
    """Put a black ring on white around a cell, to be seen on any colour."""
    for colour, width in (("#ffffff", 5.0), ("#111111", 2.5)):
        plot.rect([x], [y], 0.8, 0.76, fill_alpha=0, line_color=colour, line_width=width)
