"""From numbers to painted cells: colours, the number in the cell, hatches, hover texts.

Pure functions that return plain columns; `views` hands them to Bokeh.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr

from explorer.colours import BLUE_TO_RED, BLUES, REDS, Ramp, ink, shade
from explorer.ui.grid import Cell, Grid
from explorer.ui.results import Reading, readings
from explorer.ui.wording import (
    MEASURES,
    error_tip,
    short_difference,
    short_number,
    short_percent,
    tick,
)

Columns = dict[str, list[object]]
"""One list per column, one entry per cell, plain Python values only."""

MISSING = "#f1f1f1"
"""Ground of a cell without a number; a hatch and a mark say so as well."""

HATCHES = {"measured": "blank", "estimated": "blank", "missing": "/", "failed": "x"}
"""Bokeh's hatch pattern for each state of a cell."""

LEAST_BETTER = 0.005
"""Half a point: how much better the darkest blue is at least, so that noise stays pale; and how
much worse the darkest red where no error is larger than the trained network's."""


@dataclass(frozen=True)
class Scale:
    """What the colours of a ramp stand for."""

    low: float
    """Value of the ramp's first colour."""

    high: float
    """Value of the ramp's last colour; above low."""

    ticks: tuple[tuple[float, str], ...]
    """Values and labels on the colour bar."""

    ramp: Ramp
    """The colours."""

    zero: float | None = None
    """Value of the middle colour, where the sides have scales of their own; above low."""

    def share(self, value: float) -> float:
        """Return where on the ramp a value lies, cut off at 0 and 1."""
        at = (value - self.low) / (self.high - self.low)
        if self.zero is not None:
            below = (value - self.zero) / (self.zero - self.low)
            above = (value - self.zero) / (self.high - self.zero)
            at = 0.5 + 0.5 * (below if value < self.zero else above)
        return min(1.0, max(0.0, at))

    def colour(self, value: float) -> str:
        """Return the colour of a value, as #rrggbb."""
        return shade(self.ramp, self.share(value))


def error_scale(final_error: float, chance_error: float) -> Scale:
    """Return the paper's scale: white at the final error, dark red at chance.

    Of a network worse than chance dark red is 100 %, and all is white where nothing can be worse.
    """
    low, high = _ends(final_error, chance_error)
    ends = {final_error: f"trained {tick(low)}", chance_error: f"chance {tick(high)}"}
    room = 0.17 * (high - low)
    between = [at for at in (0.2, 0.4, 0.6, 0.8) if low + room < at < high - room]
    places = [at for at in (low, *between, high) if at <= 1]
    ticks = tuple((at, ends.get(at) or tick(at)) for at in places)
    return Scale(low, high, ticks, REDS)


def difference_scale(final_error: float, chance_error: float, lowest: float) -> Scale:
    """Return a scale of differences to the final error: blue better, white equal, red worse.

    Parameters
    ----------
    final_error, chance_error : float
        Fractions; red is darkest at chance.
    lowest : float
        Smallest error there is. Blue is darkest there, or half a point below the final error:
        the better side is much shorter, so it has a scale of its own.
    """
    zero, high = _ends(final_error, chance_error)
    low = min(lowest if math.isfinite(lowest) else zero, zero - LEAST_BETTER)
    last = "chance" if high == chance_error else "worse"
    ticks = [
        (low, f"better {short_difference(low - zero)}"),
        (zero, f"trained {tick(zero)}"),
        (high, f"{last} {short_difference(high - zero)}"),
    ]
    return Scale(low, high, tuple(ticks if high <= 1 else ticks[:2]), BLUE_TO_RED, zero)


def _ends(final_error: float, chance_error: float) -> tuple[float, float]:
    low = final_error if math.isfinite(final_error) else 0.0
    if math.isfinite(chance_error) and chance_error > low:
        return low, chance_error
    return low, 1.0 if low < 1 else 1 + LEAST_BETTER


def distance_scale(values: Sequence[float]) -> Scale:
    """Return a scale from no distance to the largest finite one."""
    high = max((value for value in values if math.isfinite(value)), default=0.0)
    if high <= 0:
        return Scale(0.0, 1.0, ((0.0, "start 0"),), BLUES)
    middle = (high / 2, short_number(high / 2))
    ticks = ((0.0, "start 0"), middle, (high, f"farthest {short_number(high)}"))
    return Scale(0.0, high, ticks, BLUES)


def error_columns(
    results: xr.Dataset,
    grid: Grid,
    scale: Scale,
    distances: xr.Dataset | None = None,
    measure: str = "",
) -> Columns:
    """Return the painted cells of the error heatmap.

    Parameters
    ----------
    results : xarray.Dataset
        What has been measured.
    grid : Grid
        The cells, in painted order.
    scale : Scale
        Of errors, or of differences to the final error; the numbers in the cells follow it.
    distances : xarray.Dataset, optional
        For the hover text, if they are known.
    measure : str
        One of `MEASURES`, for the hover text.

    Returns
    -------
    Columns
        x, y, fill, hatch, text, ink, where, tip.
    """
    painted = []
    for cell, reading in zip(grid.cells, readings(results, grid.cells), strict=True):
        fill, text = MISSING, "–" if reading.state == "missing" else "!"
        if math.isfinite(reading.value):
            fill = scale.colour(reading.value)
            about = "≈" if reading.state == "estimated" else ""
            text = about + error_text(reading.value, scale.zero)
        tip = error_tip(reading)
        if distances is not None and cell.layer is not None:
            moved = distance_reading(distances, cell, measure)
            about = "" if moved.state == "measured" else "distance: "
            tip += f"\n{about}{_distance_tip(moved, measure)}"
        painted.append(_painted(grid, cell, reading.state, fill, text, tip))
    return _transposed(painted)


def error_text(error: float, zero: float | None) -> str:
    """Return the number in a cell: the error, or its difference to `zero`, in percent."""
    return short_percent(error) if zero is None else short_difference(error - zero)


def distance_columns(
    distances: xr.Dataset | None, grid: Grid, measure: str
) -> tuple[Columns, Scale]:
    """Return the painted cells of the distance heatmap, and its scale.

    Parameters
    ----------
    distances : xarray.Dataset or None
        The result of `explorer.distances`; None while it is being computed, or the first
        checkpoint is still on the hub.
    grid : Grid
        The cells, in painted order; the whole network has no distance.
    measure : str
        One of `MEASURES`.

    Returns
    -------
    tuple of Columns and Scale
    """
    cells = [cell for cell in grid.cells if cell.layer is not None]
    readings = [distance_reading(distances, cell, measure) for cell in cells]
    scale = distance_scale([reading.value for reading in readings])
    painted = []
    for cell, reading in zip(cells, readings, strict=True):
        fill, text = MISSING, "–" if reading.state == "missing" else "!"
        if reading.state == "measured":
            fill = scale.colour(reading.value)
            text = short_number(reading.value)
        tip = _distance_tip(reading, measure)
        painted.append(_painted(grid, cell, reading.state, fill, text, tip))
    return _transposed(painted), scale


def distance_reading(distances: xr.Dataset | None, cell: Cell, measure: str) -> Reading:
    """Return the distance of one cell, in raw weight units; ReRnd is the mean of the draws."""
    if distances is None:
        reason = "not measured yet: being computed, or the first checkpoint is not on this machine"
        return Reading("missing", math.nan, reason=reason)
    prefix = "fresh_" if cell.epoch is None else ""
    if prefix + measure not in distances:
        return Reading("missing", math.nan, reason=f"yard-stick: {distances.attrs['yardstick']}")
    at = {"layer": cell.layer} | ({} if cell.epoch is None else {"epoch": cell.epoch})
    here = distances.loc[at]
    reasons = [str(reason) for reason in np.atleast_1d(here[f"{prefix}reason"].values) if reason]
    if reasons:
        return Reading("failed", math.nan, reason=reasons[0])
    nonfinite = int(here[f"{prefix}nonfinite"].sum())
    if nonfinite:
        reason = f"{nonfinite:,} weights are not finite (NaN or infinity)"
        return Reading("failed", math.nan, reason=reason)
    values = np.atleast_1d(here[prefix + measure].values).astype(float)
    if not np.isfinite(values).all():
        return Reading("failed", math.nan, reason="this distance is not defined here")
    draws = tuple(float(value) for value in values) if cell.epoch is None else ()
    return Reading("measured", float(values.mean()), draws=draws)


def _distance_tip(reading: Reading, measure: str) -> str:
    if reading.state != "measured":
        return reading.reason
    tip = f"{MEASURES[measure]} from the start: {reading.value:.4g}"
    if reading.draws:
        each = ", ".join(f"{value:.4g}" for value in reading.draws)
        tip += f", mean of {len(reading.draws)} fresh draws\ndraws: {each}"
    return tip


def _painted(
    grid: Grid, cell: Cell, state: str, fill: str, text: str, tip: str
) -> dict[str, object]:
    x, y = grid.place(cell)
    return {
        "x": x,
        "y": y,
        "fill": fill,
        "hatch": HATCHES[state],
        "text": text,
        "ink": ink(fill),
        "where": str(cell),
        "tip": tip,
    }


def _transposed(painted: list[dict[str, object]]) -> Columns:
    return {name: [one[name] for one in painted] for name in painted[0]} if painted else {}
