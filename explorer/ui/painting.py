"""From numbers to painted cells: colours, the number in the cell, hatches, hover texts.

Pure functions that return plain columns; `views` hands them to Bokeh.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr

from explorer.ui.grid import Cell, Grid
from explorer.ui.results import Reading, readings
from explorer.ui.wording import MEASURES, error_tip, short_number, short_percent, tick

Columns = dict[str, list[object]]
"""One list per column, one entry per cell, plain Python values only."""

Ramp = tuple[tuple[int, int, int], ...]
"""Colours at equal steps, from low to high; luminance falls throughout, so it reads in grey."""

REDS: Ramp = ((255, 255, 255), (253, 212, 194), (251, 106, 74), (190, 22, 28), (88, 0, 13))
"""White to dark red, the paper's colours for the error."""

BLUES: Ramp = ((255, 255, 255), (204, 224, 241), (107, 174, 214), (24, 100, 170), (8, 37, 87))
"""White to dark blue, for distances."""

MISSING = "#f1f1f1"
"""Ground of a cell without a number; a hatch and a mark say so as well."""

HATCHES = {"measured": "blank", "estimated": "blank", "missing": "/", "failed": "x"}
"""Bokeh's hatch pattern for each state of a cell."""


@dataclass(frozen=True)
class Scale:
    """What the ends of a colour ramp stand for."""

    low: float
    """Value drawn white."""

    high: float
    """Value drawn darkest; above low."""

    ticks: tuple[tuple[float, str], ...]
    """Values and labels on the colour bar."""

    def share(self, value: float) -> float:
        """Return where a value lies between the ends, cut off at 0 and 1."""
        return min(1.0, max(0.0, (value - self.low) / (self.high - self.low)))


def shade(ramp: Ramp, share: float) -> str:
    """Return the colour at a share in [0, 1] of the ramp, as #rrggbb."""
    at = share * (len(ramp) - 1)
    below = min(int(at), len(ramp) - 2)
    mixed = [a + (b - a) * (at - below) for a, b in zip(ramp[below], ramp[below + 1], strict=True)]
    return "#" + "".join(f"{round(channel):02x}" for channel in mixed)


def palette(ramp: Ramp, steps: int = 128) -> list[str]:
    """Return the ramp as a list of colours, for a colour bar."""
    return [shade(ramp, step / (steps - 1)) for step in range(steps)]


def ink(colour: str) -> str:
    """Return black or white, whichever stands out more on a colour (WCAG 2 contrast)."""
    return "#111111" if contrast(colour, "#111111") >= contrast(colour, "#ffffff") else "#ffffff"


def contrast(one: str, other: str) -> float:
    """Return the WCAG 2 contrast ratio of two colours, 1 (equal) to 21 (black on white)."""
    light, dark = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def error_scale(final_error: float, chance_error: float) -> Scale:
    """Return the paper's scale: white at the final error, dark red at chance."""
    low = final_error if math.isfinite(final_error) else 0.0
    high = chance_error if math.isfinite(chance_error) and chance_error > low else 1.0
    ends = {low: f"trained {tick(low)}", high: f"chance {tick(high)}"}
    if not math.isfinite(final_error):
        ends[low] = tick(low)
    room = 0.17 * (high - low)
    between = [at for at in (0.2, 0.4, 0.6, 0.8) if low + room < at < high - room]
    return Scale(low, high, tuple((at, ends.get(at) or tick(at)) for at in (low, *between, high)))


def distance_scale(values: Sequence[float]) -> Scale:
    """Return a scale from no distance to the largest finite one."""
    high = max((value for value in values if math.isfinite(value)), default=0.0)
    if high <= 0:
        return Scale(0.0, 1.0, ((0.0, "start 0"),))
    middle = (high / 2, short_number(high / 2))
    return Scale(0.0, high, ((0.0, "start 0"), middle, (high, f"farthest {short_number(high)}")))


def error_columns(results: xr.Dataset, grid: Grid, scale: Scale) -> Columns:
    """Return the painted cells of the error heatmap.

    Parameters
    ----------
    results : xarray.Dataset
        What has been measured.
    grid : Grid
        The cells, in painted order.
    scale : Scale
        Ends of the colour ramp.

    Returns
    -------
    Columns
        x, y, fill, hatch, text, ink, where, tip.
    """
    painted = []
    for cell, reading in zip(grid.cells, readings(results, grid.cells), strict=True):
        fill, text = MISSING, "–" if reading.state == "missing" else "!"
        if math.isfinite(reading.value):
            fill = shade(REDS, scale.share(reading.value))
            about = "≈" if reading.state == "estimated" else ""
            text = about + short_percent(reading.value)
        painted.append(_painted(grid, cell, reading.state, fill, text, error_tip(reading)))
    return _transposed(painted)


def distance_columns(
    distances: xr.Dataset | None, grid: Grid, measure: str
) -> tuple[Columns, Scale]:
    """Return the painted cells of the distance heatmap, and its scale.

    Parameters
    ----------
    distances : xarray.Dataset or None
        The result of `explorer.distances`; None while it is being computed.
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
            fill = shade(BLUES, scale.share(reading.value))
            text = short_number(reading.value)
        tip = _distance_tip(reading, measure)
        painted.append(_painted(grid, cell, reading.state, fill, text, tip))
    return _transposed(painted), scale


def distance_reading(distances: xr.Dataset | None, cell: Cell, measure: str) -> Reading:
    """Return the distance of one cell, in raw weight units; ReRnd is the mean of the draws."""
    if distances is None:
        return Reading("missing", math.nan, reason="not measured yet: being computed")
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
    return {
        "x": grid.x(cell.epoch),
        "y": grid.y(cell.layer),
        "fill": fill,
        "hatch": HATCHES[state],
        "text": text,
        "ink": ink(fill),
        "where": str(cell),
        "tip": tip,
    }


def _transposed(painted: list[dict[str, object]]) -> Columns:
    return {name: [one[name] for one in painted] for name in painted[0]} if painted else {}


def _luminance(colour: str) -> float:
    """Relative luminance of an sRGB colour (WCAG 2.2, definition)."""
    channels = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))
