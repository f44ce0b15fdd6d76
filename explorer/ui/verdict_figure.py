"""What tests show of each (layer, epoch), and since when a layer's values are within the margin."""

from __future__ import annotations

import math
from typing import Any

import xarray as xr
from bokeh.core.properties import value
from bokeh.models import ColumnDataSource, FixedTicker

from explorer.ui.figures import FONT, heatmap_figure
from explorer.ui.grid import Grid, unit_of
from explorer.ui.painted_cells import COLUMNS, draw_cells
from explorer.ui.titles import put_title
from explorer.ui.verdict_table import alone, tested_rule

LOOKS = {
    "within": ("#cce0f1", "#111111", "blank"),
    "open": ("#ffffff", "#111111", "blank"),
    "beyond": ("#be161c", "#ffffff", "blank"),
    "trained": ("#ffffff", "#555555", "blank"),
    "not measured": ("#f1f1f1", "#555555", "/"),
}
"""State → ground, ink, hatch: light, white and dark, so that they can be told apart in grey."""

CLEAR = 0.001
"""A p value below this is not written into its cell: there the colour says enough."""


def verdict_figure(judged: xr.Dataset) -> Any:
    """Draw the state of every cell, its corrected p value, and each layer's recovery.

    Parameters
    ----------
    judged : xarray.Dataset
        As `explorer.verdicts` returns it; of several runs the first.

    Returns
    -------
    bokeh.plotting.figure
        Blue: within; dark red: beyond; white: neither is shown. In a cell stands the smaller
        corrected p value if it is not below 0.001, a line marks the epoch from which on the layer
        is within, and the verdict stands at the right.
    """
    one = alone(judged, judged["run"].values[0]) if "run" in judged.dims else judged
    layers = tuple(map(str, one["layer"].values))
    epochs = tuple(int(epoch) for epoch in one["epoch"].values)
    grid = Grid(layers, epochs, 0, unit_of(one.attrs))
    words = dict(zip(layers, map(str, one["verdict"].values), strict=True))
    said = "; ".join(f"{layer} {word}" for layer, word in words.items())
    plot = heatmap_figure(grid, f"What the tests show of each layer: {said}", False)
    draw_cells(plot, grid, ColumnDataSource(_cells(one, grid)))
    plot.segment(
        "x", "top", "x", "bottom", source=_recovery(one, grid), line_color="#111111", line_width=3
    )
    _write_verdicts(plot, grid, words)
    put_title(plot, "Blue within ε, dark red beyond it, white neither; corrected p from .001 up")
    return plot


def _cells(one: xr.Dataset, grid: Grid) -> dict[str, list[Any]]:
    """Columns of the cells: place, look, text, hover."""
    columns: dict[str, list[Any]] = {name: [] for name in COLUMNS}
    rule = tested_rule(one)
    for cell in grid.cells:
        if cell.layer is None or cell.epoch is None:
            continue
        at = one.sel(layer=cell.layer, epoch=cell.epoch)
        state, (x, y) = str(at["state"].item()), grid.place(cell)
        p = min(float(at["p_within_holm"]), float(at["p_beyond_holm"]))
        tip = f"{state}\n{rule}" if math.isnan(p) else _tip(at, state)
        found = (x, y, *LOOKS[state], "" if math.isnan(p) else _short(p), str(cell), tip)
        for name, content in zip(columns, found, strict=True):
            columns[name].append(content)
    return columns


def _short(p: float) -> str:
    """Write a p value as statisticians do, so that it fits a cell of a narrow page."""
    if p < CLEAR:
        return ""
    return "1" if p >= 0.9995 else f"{p:.3f}"[1:]


def _tip(at: xr.Dataset, state: str) -> str:
    wrong, right = int(at["turned_wrong"]), int(at["turned_right"])
    return (
        f"{state}: {100 * float(at['increase']):+.1f} points\n"
        f"{wrong:,} turned wrong, {right:,} turned right of {int(at['examples']):,}\n"
        f"McNemar p {float(at['p_mcnemar']):.2g} (no change at all)\n"
        f"within p {float(at['p_within_holm']):.2g}, beyond p {float(at['p_beyond_holm']):.2g}"
    )


def _recovery(one: xr.Dataset, grid: Grid) -> ColumnDataSource:
    places = [
        grid.place(grid.cell(layer, int(epoch)))
        for layer, epoch in zip(grid.layers, one["recovery"].values.tolist(), strict=True)
        if math.isfinite(epoch)
    ]
    return ColumnDataSource(
        {
            "x": [x - 0.5 for x, _ in places],
            "top": [y - 0.5 for _, y in places],
            "bottom": [y + 0.5 for _, y in places],
        }
    )


def _write_verdicts(plot: Any, grid: Grid, words: dict[str, str]) -> None:
    """Write each layer's verdict beside its row."""
    last = grid.epochs[-1]
    places = [grid.place(grid.cell(layer, last)) for layer in grid.layers]
    plot.x_range.end += 2.2
    plot.xaxis.ticker = FixedTicker(ticks=plot.xaxis[0].ticker.ticks)
    plot.text(
        [x + 0.7 for x, _ in places],
        [y for _, y in places],
        [words[layer] for layer in grid.layers],
        text_baseline="middle",
        text_font=value(FONT),
        text_font_size="12px",
    )
