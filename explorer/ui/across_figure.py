"""Several stacks as small multiples on one scale, and their damage by relative depth."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Any

import numpy as np
import xarray as xr
from bokeh.core.properties import value
from bokeh.layouts import column
from bokeh.models import (
    ColumnDataSource,
    FixedTicker,
    HoverTool,
    LinearColorMapper,
    NumeralTickFormatter,
    Range1d,
    Row,
)

from explorer.colours import REDS, palette, shade
from explorer.engine.across import each_of
from explorer.engine.across_summary import first_damage, fresh_damage
from explorer.ui.figures import FONT, INK, QUIET_INK, line_figure, table_figure
from explorer.ui.grid import FRESH, unit_of
from explorer.ui.linked import LAYER, frame_row
from explorer.ui.motion_figure import CURVE_COLOURS, DASHES
from explorer.ui.painting import MISSING
from explorer.ui.titles import put_title, without_formulae
from explorer.ui.wording import interval, percent

MARKS = {"robust": "○", "mixed": "◐", "critical": "●", "undecided": "?", "not known": "–"}
"""Verdict → the mark beside a row: told apart without colours."""

POINTS = ("circle", "square", "triangle", "diamond", "inverted_triangle", "hex", "star", "plus")
"""Markers of the curves, one after the other."""

WIDTH, ACROSS = 340, 3
"""Pixels of one of the multiples, and how many stand in a row at the most."""

MOST_COLUMNS, NAMES_WIDTH = 24, 112
"""Columns that are all labelled, and pixels for the names of the layers."""

MOST_NAMES = 18
"""Layers whose names all stand beside their rows; of more, only some do."""


@dataclass(frozen=True)
class Columns:
    """The columns that all multiples share: fresh draws, then checkpoints."""

    axis: str
    """What they are."""
    labels: tuple[str, ...]
    """From left to right."""
    place: Callable[[xr.Dataset, int], int]
    """Node and epoch → number of the column."""


def across_figure(found: xr.DataTree) -> Any:
    """Draw a heatmap of the damage of each stack, all on one scale, and curves by depth below.

    Parameters
    ----------
    found : xarray.DataTree
        As `explorer.compare` returns it.

    Returns
    -------
    bokeh.models.Column
    """
    multiples = multiples_of(found)
    curves = [depth_figure(found, fresh) for fresh in (False, True)]
    scale = scale_figure()
    for plot in (scale, *multiples):
        plot.update(sizing_mode="fixed", width=WIDTH)
    for plot in curves:
        plot.update(sizing_mode="fixed", width=WIDTH * ACROSS // 2)
    return column(
        scale, _as_many_as_fit(multiples), _as_many_as_fit(curves), sizing_mode="stretch_width"
    )


def _as_many_as_fit(plots: list[Any]) -> Any:
    """Lay plots in a row that goes on below where the page is too narrow for all of them."""
    return Row(
        children=plots,
        sizing_mode="stretch_width",
        max_width=WIDTH * ACROSS,
        styles={"flex-wrap": "wrap"},
    )


def multiples_of(found: xr.DataTree, selected: str = "") -> list[Any]:
    """Return a heatmap for each stack: the same columns, colours and height for all.

    Parameters
    ----------
    found : xarray.DataTree
        As `explorer.compare` returns it.
    selected : str
        Layer whose row is framed in every stack that has one of this name.
    """
    nodes = dict(each_of(found))
    columns = shared_columns(nodes)
    deepest = max(node.sizes["layer"] for node in nodes.values())
    height = min(400, max(190, 15 * deepest + 90))
    along = Range1d(start=-0.62, end=len(columns.labels) + 0.62)
    plots = []
    for label, node in nodes.items():
        plot = _multiple(label, node, columns)
        plot.update(height=height, x_range=along)
        layers = list(map(str, node["layer"].values))
        frame_row(plot, layers.index(selected) if selected in layers else None)
        plots.append(plot)
    return plots


def shared_columns(nodes: Mapping[str, xr.Dataset]) -> Columns:
    """Line up checkpoints: by their numbers, or by their share of the training if units differ."""
    units = {unit_of(node.attrs) for node in nodes.values()}
    same = len(units) == 1

    def moment_of(node: xr.Dataset, epoch: int) -> float:
        if same:
            return epoch
        last = max(1, int(node.attrs.get("final_epoch", node["epoch"].values[-1])))
        return 1.0 if unit_of(node.attrs) == "checkpoint" else round(epoch / last, 3)

    moments = sorted({moment_of(n, int(e)) for n in nodes.values() for e in n["epoch"].values})
    places = {moment: 1 + at for at, moment in enumerate(moments)}
    labels = [f"{one:g}" if same else f"{100 * one:.3g} %" for one in moments]
    axis = f"{next(iter(units))}" if same else "share of the training"
    return Columns(axis, (FRESH, *labels), lambda node, epoch: places[moment_of(node, epoch)])


def _multiple(label: str, node: xr.Dataset, columns: Columns) -> Any:
    layers = list(map(str, node["layer"].values))
    words = list(map(str, node["verdict"].values))
    said = "; ".join(f"{layer} {word}" for layer, word in zip(layers, words, strict=True))
    plot = table_figure(columns.labels, layers, (columns.axis, ""), f"Damage of {label}: {said}")
    if len(layers) > MOST_NAMES:
        plot.yaxis.ticker.ticks = list(range(0, len(layers), math.ceil(len(layers) / MOST_NAMES)))
    plot.background_fill_color = MISSING
    plot.axis.major_label_text_font_size = "10px"
    plot.xaxis.major_label_orientation = "vertical"
    if len(columns.labels) <= MOST_COLUMNS:
        plot.xaxis.ticker.ticks = list(range(len(columns.labels)))
        plot.xaxis.major_label_overrides = dict(enumerate(columns.labels))
    plot.min_border_left = NAMES_WIDTH  # so that the same checkpoints lie below each other
    final = percent(float(node.attrs["final_error"]))
    put_title(plot, f"{label}\ntrained: {final}")
    cells = plot.rect(
        "x", "y", 1, 1, source=_cells(node, columns), fill_color="fill", line_color="#d5d5d5"
    )
    marks = ColumnDataSource(
        {
            "x": [len(columns.labels)] * len(layers),
            "y": list(range(len(layers))),
            "text": [MARKS[word] for word in words],
            "where": layers,
            "tip": [_verdict(node, at) for at in range(len(layers))],
        }
    )
    shown = plot.text(
        "x",
        "y",
        "text",
        source=marks,
        text_align="center",
        text_baseline="middle",
        text_font=value(FONT),
        text_font_size="12px",
        text_color=INK,
    )
    plot.select_one(HoverTool).renderers = [cells, shown]
    return plot


def _verdict(node: xr.Dataset, at: int) -> str:
    word = str(node["verdict"].values[at])
    return f"{word}\n{node['because'].values[at]}" if "because" in node else word


def _cells(node: xr.Dataset, columns: Columns) -> ColumnDataSource:
    """Cells of a multiple: fresh draws, then checkpoints; what is not measured has none."""
    columns_of = ("x", "y", "fill", "where", "tip", LAYER)
    found: dict[str, list[Any]] = {name: [] for name in columns_of}
    unit, fresh = unit_of(node.attrs), fresh_damage(node)
    for row, layer in enumerate(map(str, node["layer"].values)):
        at = node.isel(layer=row)
        tip = f"mean of {node.sizes['draw']} fresh draws"
        cells = [(0, f"{layer} ← {FRESH}", fresh[row], tip)]
        for k, epoch in enumerate(map(int, node["epoch"].values)):
            error = f"test error {percent(float(at['error'][k]))}"
            ends = interval(float(at["error_low"][k]), float(at["error_high"][k]))
            tip = f"{error}, 95 % interval {ends}"
            place = columns.place(node, epoch)
            cells.append((place, f"{layer} ← {unit} {epoch}", float(at["damage"][k]), tip))
        for x, where, damage, about in cells:
            if math.isfinite(damage):
                colour = shade(REDS, min(1.0, max(0.0, damage)))
                tip = f"{percent(damage)} of the way to chance\n{about}"
                told = (x, row, colour, where, tip, layer)
                for name, content in zip(found, told, strict=True):
                    found[name].append(content)
    return ColumnDataSource(found)


def scale_figure() -> Any:
    """Return the colours that all multiples share, from the trained network to chance."""
    plot = table_figure(["", ""], [""], ("", ""), "Scale of colours, from trained to chance")
    plot.update(height=66, x_range=Range1d(start=-0.12, end=1.12), y_range=Range1d(start=0, end=1))
    colours = LinearColorMapper(palette=palette(REDS), low=0, high=1)
    shares = np.linspace(0, 1, 256)[np.newaxis]
    plot.image([shares], x=0, y=0, dw=1, dh=1, color_mapper=colours)  # quads would leave seams
    plot.select_one(HoverTool).renderers = []
    plot.xaxis.ticker = FixedTicker(ticks=[0, 0.5, 1])
    plot.xaxis.major_label_overrides = {0: "as trained", 0.5: "half-way", 1: "chance"}
    plot.yaxis.visible = False
    put_title(plot, "Damage: of each network between its own ends")
    return plot


def depth_figure(found: xr.DataTree, fresh: bool) -> Any:
    """Draw damage against relative depth, a curve per stack.

    Parameters
    ----------
    found : xarray.DataTree
        As `explorer.compare` returns it.
    fresh : bool
        Layers get fresh draws; else they are put back to their first checkpoint.

    Returns
    -------
    bokeh.plotting.figure
    """
    what = "with fresh draws" if fresh else "put back to the first checkpoint"
    nodes = dict(each_of(found))
    values = {k: (fresh_damage if fresh else first_damage)(node) for k, node in nodes.items()}
    means = {k: float(v[np.isfinite(v)].mean()) for k, v in values.items() if np.isfinite(v).any()}
    said = ", ".join(f"{label} {mean:.2f}" for label, mean in means.items())
    upwards = "damage"
    plot = line_figure(
        f"Damage by relative depth, layers {what}; means: {said}", "relative depth", upwards
    )
    plot.x_range = Range1d(start=-0.03, end=1.03)
    known = np.concatenate([[0.0, 1.0], *(v[np.isfinite(v)] for v in values.values())])
    plot.y_range = Range1d(start=min(0, known.min()) - 0.04, end=max(1, known.max()) + 0.04)
    plot.xaxis.ticker = FixedTicker(ticks=[0, 0.25, 0.5, 0.75, 1])
    plot.xaxis.major_label_overrides = {0: "first layer", 1: "last layer"}
    plot.yaxis.formatter = NumeralTickFormatter(format="0 %")
    plot.yaxis.axis_label_text_color = QUIET_INK
    drawn = []
    colours = islice(cycle(CURVE_COLOURS), len(nodes))
    for k, ((label, node), colour) in enumerate(zip(nodes.items(), colours, strict=True)):
        layers = list(map(str, node["layer"].values))
        source = ColumnDataSource(
            {
                "x": node["depth"].values.tolist(),
                "y": values[label].tolist(),
                "where": [f"{label}, {layer}" for layer in layers],
                "tip": [f"{percent(one)} of the way to chance" for one in values[label].tolist()],
            }
        )
        style = {"source": source, "legend_label": without_formulae(label)}
        plot.line("x", "y", color=colour, line_dash=DASHES[k // 8 % 4], line_width=2, **style)
        marker = POINTS[k % len(POINTS)]
        drawn.append(plot.scatter("x", "y", color=colour, marker=marker, size=8, **style))
    plot.select_one(HoverTool).renderers = drawn
    plot.legend.label_text_font_size = "11px"
    plot.legend.spacing = plot.legend.padding = 4
    plot.legend.background_fill_alpha = 0.8
    plot.add_layout(plot.legend[0], "below")
    plot.legend.orientation = "horizontal"
    plot.legend.ncols = 2
    plot.legend.border_line_color = None
    plot.height = 290 + 12 * len(nodes)
    put_title(plot, f"Damage, layers {what}")
    return plot
