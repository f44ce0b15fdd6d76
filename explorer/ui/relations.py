"""One layer along its checkpoints, and the distances of all cells set against their errors.

Pure functions that return plain columns; `curves` hands them to Bokeh.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
import xarray as xr

from explorer.engine.verdicts import not_monotone, recovery, verdicts
from explorer.ui.grid import FRESH, WHOLE_NETWORK, Grid
from explorer.ui.painting import Columns, distance_reading
from explorer.ui.results import readings
from explorer.ui.wording import MEASURES, error_tip, percent, short_number

FEWEST = 3
"""Cells that a rank correlation needs at least."""


@dataclass(frozen=True)
class Profile:
    """One layer, or all of them, put back to each of the checkpoints."""

    title: str
    """The layer, its verdict, and since when its values are good enough."""

    line: Columns
    """x, error, low, high, where, tip: one point per measured checkpoint."""

    draws: Columns
    """x, error, where, tip: one point per measured fresh draw."""

    good_from: float | None
    """Place of the checkpoint from which on the layer is good enough; None if unknown."""


def profile(results: xr.Dataset, grid: Grid, layer: str | None, threshold: float) -> Profile:
    """Return what the row of a layer, or of the whole network, says.

    Parameters
    ----------
    results : xarray.Dataset
        What has been measured.
    grid : Grid
        Where the checkpoints lie.
    layer : str or None
        One of the grid's; None for the whole network, which has no draws and no verdict.
    threshold : float
        Share of the way to chance that is good enough.
    """
    upright = Grid(grid.layers, grid.epochs, grid.draws, grid.unit)
    cells = [upright.cell(layer, epoch) for epoch in grid.epochs]
    line: Columns = {name: [] for name in ("x", "error", "low", "high", "where", "tip")}
    for cell, reading in zip(cells, readings(results, cells), strict=True):
        if math.isfinite(reading.value):
            low, high = (
                end if math.isfinite(end) else reading.value for end in (reading.low, reading.high)
            )
            found = (upright.place(cell)[0], reading.value, low, high, str(cell))
            for name, value in zip(line, (*found, error_tip(reading)), strict=True):
                line[name].append(value)
    if layer is None:
        title = f"{WHOLE_NETWORK}\nall layers put back to the same {grid.unit}"
        return Profile(title, line, {name: [] for name in ("x", "error", "where", "tip")}, None)
    first = recovery(results, threshold).sel(layer=layer).item()
    since = None if math.isnan(first) else upright.place(upright.cell(layer, int(first)))[0]
    return Profile(
        _title(results, grid, layer, threshold, first), line, _draws(results, upright, layer), since
    )


def _draws(results: xr.Dataset, grid: Grid, layer: str) -> Columns:
    points: Columns = {name: [] for name in ("x", "error", "where", "tip")}
    if not grid.draws:
        return points
    fresh = grid.cell(layer, None)
    (reading,) = readings(results, [fresh])
    for draw, error in enumerate(reading.draws):
        if math.isfinite(error):
            point = (grid.place(fresh)[0], error, f"{layer} ← fresh draw {draw}")
            for name, value in zip(points, (*point, f"test error {percent(error)}"), strict=True):
                points[name].append(value)
    return points


def _title(results: xr.Dataset, grid: Grid, layer: str, threshold: float, first: float) -> str:
    if grid.unit == "checkpoint":
        return f"{layer}\nOne checkpoint, the trained network: compare it with fresh draws."
    head = f"{layer}: {verdicts(results, threshold).sel(layer=layer).item()}"
    if bool(not_monotone(results).sel(layer=layer)):
        head += ", not monotone"
    if math.isnan(first):
        return f"{head}\n "
    start = "the start" if int(first) == grid.epochs[0] else f"{grid.unit} {int(first)}"
    return f"{head}\ngood enough from {start} on"


@dataclass(frozen=True)
class Relation:
    """How far layers moved, against what putting them back does."""

    points: Columns
    """x (distance), y (test error), layer, kind (which values it was given), where, tip."""

    title: str
    """The rank correlation, or why there is none."""


def relation(
    results: xr.Dataset, distances: xr.Dataset | None, grid: Grid, measure: str
) -> Relation:
    """Set the distance that a layer still had to move against its error when put back.

    Parameters
    ----------
    results : xarray.Dataset
        What has been measured.
    distances : xarray.Dataset or None
        From the first checkpoint, as `explorer.distances` returns them; None while unknown.
    grid : Grid
        Layers and checkpoints.
    measure : str
        One of `MEASURES`.

    Returns
    -------
    Relation
        One point per layer: x is how far it moved from the first checkpoint to the last, y the
        error when it is put back to the first. Fresh draws are points as well: x is their
        distance from the first checkpoint.
    """
    points: Columns = {name: [] for name in ("x", "y", "layer", "kind", "where", "tip")}
    first, last = grid.epochs[0], grid.epochs[-1]
    for layer in grid.layers:
        for kind, cell, far in (
            (f"{grid.unit} {first}", grid.cell(layer, first), grid.cell(layer, last)),
            (FRESH, grid.cell(layer, None), grid.cell(layer, None)),
        ):
            if cell.epoch is None and not grid.draws:
                continue
            distance = distance_reading(distances, far, measure).value
            (reading,) = readings(results, [cell])
            if not (math.isfinite(distance) and math.isfinite(reading.value)):
                continue
            moved = "moved" if cell.epoch is not None else "fresh values lie"
            tip = f"{error_tip(reading)}\n{moved} {short_number(distance)} ({MEASURES[measure]})"
            values = (distance, reading.value, layer, kind, str(cell), tip)
            for name, value in zip(points, values, strict=True):
                points[name].append(value)
    return Relation(points, _correlation(points, grid))


def _correlation(points: Columns, grid: Grid) -> str:
    frame = pd.DataFrame(points)
    own = frame[frame["kind"] != FRESH] if len(frame) else frame
    if len(own) < FEWEST:
        return "Moved farther, mattered more?\nToo few layers are measured to say."
    ranks = own[["x", "y"]].astype(float).rank()
    if (ranks.nunique() < 2).any():
        return "Moved farther, mattered more?\nAll layers are equal here."
    found = float(np.corrcoef(ranks["x"], ranks["y"])[0, 1])
    signed = f"{found:+.2f}".replace("-", "−")
    return f"Moved farther, mattered more?\nRank correlation over {len(own)} layers: {signed}"


def verdict_words(results: xr.Dataset, threshold: float) -> dict[str, str]:
    """Return layer → robust, critical, mixed or not known."""
    words = verdicts(results, threshold)
    return dict(zip(map(str, words["layer"].values), map(str, words.values), strict=True))
