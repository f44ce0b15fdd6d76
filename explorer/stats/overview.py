"""Distances at a glance: the coloured table of one measure, the yard-stick, the other names."""

from __future__ import annotations

import math

import xarray as xr

from explorer.colours import BLUES
from explorer.stats.measures import MEASURES
from explorer.tables import (
    MOST_COLUMNS,
    MOST_ROWS,
    Cell,
    Row,
    Table,
    page_html,
    table_html,
    without_code,
)

SHOWN = ("l2_per_sqrt_m", *MEASURES)
"""Measures in the order in which one is looked for to be shown."""


def shown_measure(distances: xr.Dataset) -> str | None:
    """Return the measure to show; None where a Dataset has not the form of distances (any more)."""
    known = (name for name in SHOWN if name in distances)
    return next((name for name in known if distances[name].dims == ("layer", "epoch")), None)


def distances_table(distances: xr.Dataset, measure: str) -> Table:
    """Arrange one measure: a row per layer, the yard-stick first, then the epochs.

    Parameters
    ----------
    distances : xarray.Dataset
        As `explorer.distances` returns it.
    measure : str
        One of `MEASURES`.

    Returns
    -------
    Table
        White is no distance, dark blue the largest that there is.
    """
    fresh = f"fresh_{measure}"
    drawn = fresh in distances and distances[fresh].dims == ("layer", "draw")
    rows = distances[measure].values.tolist()
    if drawn:
        means = distances[fresh].mean("draw", skipna=False).values.tolist()
        rows = [[mean, *row] for mean, row in zip(means, rows, strict=True)]
    largest = max((v for row in rows for v in row if math.isfinite(v)), default=0.0) or math.nan
    named = zip(distances["layer"].values, rows, strict=True)
    return Table(
        f"{MEASURES[measure]}: how far each layer (row) had moved from "
        f"epoch {distances.attrs.get('reference_epoch', 0)}",
        (*(["ReRnd"] if drawn else []), *map(str, distances["epoch"].values)),
        tuple(Row(str(name), tuple(_cell(v, v / largest) for v in row)) for name, row in named),
        BLUES,
    )


def distances_page(distances: xr.Dataset, measure: str) -> str:
    """Write distances as HTML for a notebook: short, whatever the number of layers.

    Parameters
    ----------
    distances : xarray.Dataset
        As `explorer.distances` returns it.
    measure : str
        The one that is shown.

    Returns
    -------
    str
        HTML; every string is escaped.
    """
    others = [f"`{name}` {MEASURES[name]}" for name in MEASURES if name in distances]
    facts = {
        "shown": measure,
        "yard-stick (ReRnd)": str(distances.attrs.get("yardstick", "")),
        "stack": str(distances.attrs.get("stack", "")),
    }
    notes = [
        *map(without_code, gaps(distances)),
        f"Measures: {', '.join(others)}; with `fresh_` before the name, those of the fresh draws.",
        f"One layer: `distances[{measure!r}].sel(layer=…)`; all arrays: `print(distances)`.",
    ]
    table = table_html(distances_table(distances, measure), MOST_ROWS, MOST_COLUMNS)
    return page_html("How far the layers moved", facts, table, notes)


def _cell(value: float, share: float) -> Cell:
    return Cell(f"{value:.3g}" if math.isfinite(value) else "–", share)


def gaps(distances: xr.Dataset) -> list[str]:
    """Why some cells have no number."""
    lines = []
    if "reason" in distances:
        reasons = dict.fromkeys(str(reason) for reason in distances["reason"].values.ravel())
        lines += [f"–: {reason}" for reason in reasons if reason][:3]
    if "nonfinite" in distances and int(distances["nonfinite"].sum()):
        lines.append("–: weights that are NaN or infinite; nonfinite counts them.")
    return lines
