"""What the panels show as tables, beside their figures: for reading, and for a screen reader."""

from __future__ import annotations

import math
from html import escape
from typing import Any

import numpy as np
import xarray as xr

from explorer.colours import BLUES, REDS, Ramp
from explorer.tables import Cell, Row, Table, table_html
from explorer.ui.between import LEAST_BARRIER, MOVING, NAMES, WHOLE
from explorer.ui.grid import moment, unit_of
from explorer.ui.motion_figure import CURVES
from explorer.ui.outputs_figure import SHOWN
from explorer.ui.wording import counted, percent, short_number, short_percent


def effective_table(found: xr.Dataset) -> str:
    """Say how many parameters are needed, and what each layer stands alone, as HTML."""
    one = found.isel(source=0)
    source, total = str(found["source"].values[0]), int(found.attrs["parameters"])
    allowed = float(found.attrs["final_error"]) + float(found.attrs["margin"])
    left, reset = int(one["effective_parameters"]), int(one["layers_reset"])
    together = " together" if reset > 1 else ""
    said = (
        f"{left:,} of {total:,} trained parameters ({percent(left / total)}) are needed: "
        f"{counted(reset, 'layer')} can be reset to {source}{together}, with an error of "
        f"{percent(float(one['joint_error']))}, where {percent(allowed)} is allowed."
    )
    all_of_them = float(one["one_by_one_error"])
    alone = int(one["alone_within"].sum())
    if math.isfinite(all_of_them) and alone > 1:
        said += (
            f" {counted(alone, 'layer')} stay within it when reset one at a time; all of them "
            f"together give {percent(all_of_them)}."
        )
    rows = [
        Row(
            str(layer),
            (
                Cell(percent(float(one["alone_error"].values[at]))),
                Cell("yes" if one["alone_within"].values[at] else "no", words=True),
                Cell("yes" if one["reset"].values[at] else "", words=True),
            ),
        )
        for at, layer in enumerate(one["layer"].values)
    ]
    heads = ("error alone", "allowed alone", "reset in the best set")
    table = Table(f"Each layer reset to {source}.", heads, tuple(rows))
    return f"<p>{escape(said)}</p>{table_html(table)}"


def criticality_table(found: xr.Dataset) -> str:
    """Write the criticality of each layer and where it is, as HTML."""
    rows = []
    for at, layer in enumerate(found["layer"].values):
        one = found.isel(layer=at)
        number = float(one["criticality"])
        reason = "" if math.isfinite(number) else str(one["layer_reason"].values)
        cells = (
            Cell(_number(number)),
            Cell(_number(float(one["alpha_best"]))),
            Cell(_number(float(one["sigma_best"]))),
            Cell(f"{float(one['passes']):.1f}" if math.isfinite(float(one["passes"])) else "–"),
            Cell(reason, words=True),
        )
        rows.append(Row(str(layer), cells))
    limit = f"Good enough: a mean {found.attrs['quantity']} up to {found.attrs['limit']:.4g}."
    heads = ("μ", "α", "σ", "passes", "why there is none")
    return table_html(Table(f"Criticality of each layer. {limit}", heads, tuple(rows)))


def barrier_table(found: xr.Dataset, quantity: str, prefix: str = "") -> str:
    """Write the barriers of all paths, layers by epochs, as HTML."""
    name = f"{quantity}_barrier"
    own = found[prefix + name]
    heights = {str(layer): own.sel(layer=layer).values for layer in found["layer"].values}
    heights[WHOLE] = found[f"whole_{name}"].values
    write = short_percent if quantity == "error" else short_number
    unit = "in points" if quantity == "error" else "in nats"
    moving = f", {MOVING[prefix]} moving" if prefix else ""
    caption = f"Barriers of the {NAMES[quantity]}, {unit}, to {unit_of(found.attrs)} …{moving}"
    return _grid_table(caption, found["epoch"].values, heights, write, REDS, LEAST_BARRIER)


def motion_table(found: xr.Dataset, quantity: str) -> str:
    """Write one quantity of each layer or matrix at all checkpoints, as HTML."""
    values = found[quantity]
    rows = dict(zip(map(str, values[values.dims[0]].values), values.values, strict=True))
    caption = f"{CURVES[quantity].words}, at {unit_of(found.attrs)} …"
    return _grid_table(caption, found["epoch"].values, rows, short_number, BLUES)


def outputs_table(found: xr.Dataset, quantity: str, layer: str, epoch: int) -> str:
    """Write one quantity over layers and checkpoints, and what a cell does to each class."""
    shown = SHOWN[quantity]
    rows = {str(one): found[quantity].sel(layer=one).values for one in found["layer"].values}
    caption = f"{shown.words[0].upper()}{shown.words[1:]}, by {unit_of(found.attrs)}."
    table = _grid_table(caption, found["epoch"].values, rows, short_number, None)
    known = "class_damage" in found and layer in rows and epoch in found["epoch"].values
    return table + (_damage_table(found, layer, epoch) if known else "")


def _damage_table(found: xr.Dataset, layer: str, epoch: int) -> str:
    """Write how much the error of each class grows in one cell."""
    grown = found["class_damage"].sel(layer=layer, epoch=epoch).values
    if np.isnan(grown).all():
        return ""
    rows = tuple(
        Row(
            str(name),
            (
                Cell(f"{int(found['class_examples'].values[at]):,}"),
                Cell(percent(float(found["intact_class_error"].values[at]))),
                Cell(f"{100 * grown[at]:+.1f}".replace("-", "−"), float(grown[at])),
            ),
        )
        for at, name in enumerate(found["class"].values)
    )
    where = f"{layer} ← {moment(unit_of(found.attrs), epoch)}"
    caption = f"What {where} does to each class: growth of its error, in points."
    return table_html(Table(caption, ("examples", "error as trained", "grows by"), rows))


def _grid_table(
    caption: str,
    epochs: Any,
    rows: dict[str, Any],
    write: Any,
    ramp: Ramp | None,
    least: float = 0.0,
) -> str:
    """Write numbers over names and checkpoints, coloured up to the largest, or to `least`."""
    known = [float(one) for row in rows.values() for one in row if math.isfinite(one)]
    most = max([least, *known])
    lines = tuple(
        Row(
            name,
            tuple(
                Cell(
                    write(float(one)) if math.isfinite(one) else "–",
                    float(one) / most if ramp and most and math.isfinite(one) else math.nan,
                )
                for one in row
            ),
        )
        for name, row in rows.items()
    )
    heads = tuple(str(int(epoch)) for epoch in epochs)
    return table_html(Table(caption, heads, lines, ramp or REDS))


def _number(value: float) -> str:
    if math.isnan(value):
        return "–"
    return "∞" if value == math.inf else f"{value:.3g}"
