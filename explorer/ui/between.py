"""What lies between checkpoints as painted cells and words: valleys, and barriers on paths.

Pure functions that return plain columns; `landscapes` hands them to Bokeh.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import xarray as xr

from explorer.colours import REDS, ink, shade
from explorer.errors import unknown_name
from explorer.ui.figures import BLUE
from explorer.ui.painting import MISSING, Columns
from explorer.ui.wording import percent, short_number, short_percent

Quantity = Literal["error", "loss"]
"""What is shown."""

NAMES: Mapping[str, str] = {"error": "test error", "loss": "mean loss (nats)"}
"""Quantities in words."""

WHOLE = "whole network"
"""Name of the path on which every layer moves."""

MOVING: Mapping[str, str] = {"upto_": "all layers up to it", "from_": "all layers from it on"}
"""Prefix of the cumulative paths → what moves on them."""


def moving_of(name: str) -> tuple[str, Any]:
    """Prefix and quantity of a variable of paths: upto_error → upto_, error."""
    prefix = next((one for one in MOVING if name.startswith(one)), "")
    return prefix, name.removeprefix(prefix)


def valley_columns(found: xr.Dataset, layer: str, quantity: Quantity = "loss") -> Columns:
    """Return the painted cells of a layer's valley.

    Parameters
    ----------
    found : xarray.Dataset
        As `explorer.criticality` returns it.
    layer : str
        One of its layers.
    quantity : {"loss", "error"}
        What the colours stand for: white as good as the final network, on a scale of ratios.

    Returns
    -------
    Columns
        x, y, fill, hatch, text, ink, edge, wide, where, tip; α rises upwards and σ to the right.

    Raises
    ------
    UnknownNameError
        There is no such layer.
    """
    here = of_layer(found, layer)
    cells = {name: here[name].values for name in (*NAMES, "good_enough", "examples", "reason")}
    values, good = cells[quantity], cells["good_enough"]
    final = float(found.attrs[f"final_{quantity}"])
    most = max((v for v in values.ravel() if math.isfinite(v)), default=final)
    columns: Columns = {name: [] for name in CELL_COLUMNS}
    alphas, sigmas = here["alpha"].values, here["sigma"].values
    for row, column in np.ndindex(*values.shape):
        number = float(values[row, column])
        where = f"{layer}: α = {alphas[row]:.3g}, σ = {sigmas[column]:.3g}"
        tip = _valley_tip({name: one[row, column] for name, one in cells.items()}, found.attrs)
        fill = shade(REDS, _ratio(number, final, most)) if math.isfinite(number) else MISSING
        text = _short(number, quantity) if math.isfinite(number) else "–"
        accepted = good[row, column] == 1
        look = (fill, "blank" if math.isfinite(number) else "/", text, ink(fill))
        edge = (BLUE, 3.0) if accepted else ("#d5d5d5", 1.0)
        place = (column, len(alphas) - 1 - row)
        for name, one in zip(CELL_COLUMNS, (*place, *look, *edge, where, tip), strict=True):
            columns[name].append(one)
    return columns


CELL_COLUMNS = ("x", "y", "fill", "hatch", "text", "ink", "edge", "wide", "where", "tip")
"""What is said of each painted cell."""


def barrier_columns(found: xr.Dataset, quantity: Quantity = "error", prefix: str = "") -> Columns:
    """Return the painted cells of the barriers, layers by epochs of B, the whole network last.

    Parameters
    ----------
    found : xarray.Dataset
        As `explorer.paths` returns it.
    quantity : {"error", "loss"}
        Whose barriers.
    prefix : {"", "upto_", "from_"}
        Of the paths on which one layer moves, or of cumulative ones.

    Returns
    -------
    Columns
        As `valley_columns`; white is no barrier.
    """
    name = f"{quantity}_barrier"
    own = found[prefix + name].transpose("layer", "epoch").values
    rows = [*own, found[f"whole_{name}"].values]
    names = [*map(str, found["layer"].values), WHOLE]
    highest = np.nanmax([LEAST_BARRIER, *np.ravel(rows)])
    columns: Columns = {name: [] for name in CELL_COLUMNS}
    for row, (layer, heights) in enumerate(zip(names, rows, strict=True)):
        for column, height in enumerate(map(float, heights)):
            known = math.isfinite(height)
            fill = shade(REDS, height / float(highest)) if known else MISSING
            text = _short(height, quantity) if known else "–"
            where = f"{layer}, to epoch {found['epoch'].values[column]}"
            tip = f"barrier of the {NAMES[quantity]}: {worded(height, quantity)}" if known else ""
            look = (fill, "blank" if known else "/", text, ink(fill), "#d5d5d5", 1.0)
            said = (where, tip or "not measured")
            for key, one in zip(CELL_COLUMNS, (column, row, *look, *said), strict=True):
                columns[key].append(one)
    return columns


LEAST_BARRIER = 0.01
"""Height of the darkest red at least, so that noise stays pale: a point, or a hundredth nat."""


def of_layer(found: xr.Dataset, layer: str) -> xr.Dataset:
    """What was found of one layer.

    Raises
    ------
    UnknownNameError
        There is no such layer.
    """
    layers = [str(name) for name in found["layer"].values]
    if layer not in layers:
        raise unknown_name("layer", layer, layers)
    return found.sel(layer=layer)


def criticality_words(here: xr.Dataset) -> str:
    """Say the criticality of a layer and where it is, or why there is none."""
    number = float(here["criticality"])
    if not math.isfinite(number):
        return str(here["layer_reason"].values)
    return (
        f"{number:.3g} at α = {float(here['alpha_best']):.3g}, σ = {float(here['sigma_best']):.3g}"
    )


def _valley_tip(cell: Mapping[str, Any], attrs: Mapping[Any, Any]) -> str:
    if not math.isfinite(float(cell["loss"])):
        return str(cell["reason"])
    good = {1: "good enough", 0: "not good enough"}[int(cell["good_enough"])]
    limit = f"the mean {attrs['quantity']} may be {float(attrs['limit']):.4g}"
    pairs = f"over {int(cell['examples']):,} pairs of example and draw"
    error, loss = percent(float(cell["error"])), f"{float(cell['loss']):.4g}"
    return f"test error {error}, loss {loss}, {pairs}\n{good}: {limit}"


def between(found: xr.Dataset) -> str:
    """Say what paths lead between."""
    start = int(found.attrs["start"])
    unit = found.attrs.get("checkpoint_unit", "epoch")
    begin = f"{unit} {start}" if start >= 0 else f"the same {unit}"
    own = found.attrs["other_hash"] == found.attrs["content_hash"]
    return f"from {begin}" + ("" if own else f" to another run, {found.attrs['other']}")


def _ratio(number: float, final: float, most: float) -> float:
    """Where on a scale of ratios, from the final network's number to the largest, a number lies."""
    if number <= final or most <= final:
        return 0.0
    least = max(final, 1e-6)
    return math.log(number / least) / math.log(most / least)


def _short(number: float, quantity: str) -> str:
    return short_percent(number) if quantity == "error" else short_number(number)


def worded(number: float, quantity: str) -> str:
    """Say a number in a sentence: an error in percent, a loss as it is."""
    if not math.isfinite(number):
        return "unknown"
    return percent(number) if quantity == "error" else f"{number:.3g}"
