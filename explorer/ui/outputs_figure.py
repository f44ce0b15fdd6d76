"""How far the outputs of the patched network are from the trained one's, as a heatmap."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import xarray as xr
from bokeh.models import ColumnDataSource

from explorer.colours import BLUES, REDS, Ramp, ink, shade
from explorer.ui.figures import heatmap_figure
from explorer.ui.grid import Cell, Grid, unit_of
from explorer.ui.linked import LAYER, frame_row
from explorer.ui.painted_cells import COLUMNS, draw_cells
from explorer.ui.painting import MISSING
from explorer.ui.titles import put_title


@dataclass(frozen=True)
class Quantity:
    """One number that can be shown."""

    words: str
    """What it is, for a title."""
    alike: float
    """Its value where both networks answer alike; white."""
    apart: float
    """Its value where they have nothing in common; darkest."""
    ramp: Ramp = BLUES
    """Colours from alike to apart."""


SHOWN: Mapping[str, Quantity] = {
    "softmax_cosine": Quantity("mean cosine of the softmax outputs", 1.0, 0.0),
    "js_divergence": Quantity("Jensen–Shannon divergence of outputs, nats", 0.0, math.log(2)),
    "cka": Quantity("linear CKA of the logits", 1.0, 0.0),
    "penultimate_cka": Quantity("linear CKA of the penultimate values", 1.0, 0.0),
    "never_active": Quantity("share of units never active", 0.0, 1.0),
    "ece": Quantity("expected calibration error", 0.0, 1.0, REDS),
}
"""Variables of `explorer.outputs` that can be shown."""


def outputs_figure(
    found: xr.Dataset, quantity: str = "js_divergence", selected: str | None = None
) -> Any:
    """Draw one quantity over layers and checkpoints, the mean of the fresh draws before them.

    Parameters
    ----------
    found : xarray.Dataset
        As `explorer.outputs` returns it.
    quantity : str
        One of `SHOWN`.
    selected : str, optional
        Layer whose row is framed.

    Returns
    -------
    bokeh.plotting.figure
    """
    layers = tuple(map(str, found["layer"].values))
    epochs = tuple(int(epoch) for epoch in found["epoch"].values)
    grid = Grid(layers, epochs, found.sizes["draw"], unit_of(found.attrs))
    shown = SHOWN[quantity]
    plot = heatmap_figure(grid, f"Heatmap of the {shown.words}, {len(layers)} layers", False)
    columns: dict[str, list[Any]] = {name: [] for name in (*COLUMNS, LAYER)}
    for cell in grid.cells:
        if cell.layer is not None:
            said = (*_cell(found, grid, cell, quantity), cell.layer)
            for name, content in zip(columns, said, strict=True):
                columns[name].append(content)
    draw_cells(plot, grid, ColumnDataSource(columns))
    if selected is not None:
        frame_row(plot, layers.index(selected) if selected in layers else None)
    put_title(plot, f"{shown.words[0].upper()}{shown.words[1:]}\nwhite: as the trained network")
    return plot


def _cell(found: xr.Dataset, grid: Grid, cell: Cell, quantity: str) -> tuple[Any, ...]:
    """Place, ground, ink, hatch, text and hover of one cell."""
    shown, (x, y) = SHOWN[quantity], grid.place(cell)
    numbers = {name: _value(found, cell, name) for name in SHOWN if name in found}
    at = numbers[quantity]
    if math.isnan(at):
        return x, y, MISSING, "#555555", "/", "", str(cell), _reason(found, cell)
    share = min(1.0, max(0.0, (at - shown.alike) / (shown.apart - shown.alike)))
    colour = shade(shown.ramp, share)
    tip = "\n".join(f"{SHOWN[name].words}: {number:.3g}" for name, number in numbers.items())
    text = f"{at:.2f}".replace("0.", ".", 1) if at < 0.995 else "1"
    return x, y, colour, ink(colour), "blank", text, str(cell), tip


def _value(found: xr.Dataset, cell: Cell, name: str) -> float:
    if cell.epoch is None:
        return float(found[f"rerandomized_{name}"].sel(layer=cell.layer).mean("draw"))
    return float(found[name].sel(layer=cell.layer, epoch=cell.epoch))


def _reason(found: xr.Dataset, cell: Cell) -> str:
    if cell.epoch is None:
        reasons = found["rerandomized_reason"].sel(layer=cell.layer).values
        return "\n".join(dict.fromkeys(map(str, reasons)))
    said = str(found["reason"].sel(layer=cell.layer, epoch=cell.epoch).item())
    return said or "not defined: the outputs do not vary"
