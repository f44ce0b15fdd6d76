"""A sweep at a glance: its coloured table, what is missing and why, how to get at the numbers."""

from __future__ import annotations

import math
from numbers import Integral, Real
from typing import Any

import numpy as np
import xarray as xr

from explorer.engine.intact import doubt_about
from explorer.engine.verdicts import DEFAULT_THRESHOLD, verdicts
from explorer.tables import (
    MOST_COLUMNS,
    MOST_ROWS,
    Cell,
    Row,
    Table,
    page_html,
    percent,
    table_html,
    without_code,
)
from explorer.weights.overview import integrity

FRESH, WHOLE_NETWORK = "ReRnd", "fullmodel"
"""The paper's names of the column of fresh draws and of the row of the whole network."""

NOT_MEASURED = "not measured"
"""How the reason of a cell begins that nobody has tried to measure, or not to the end."""

MOST_REASONS = 5
"""Reasons for missing cells that are written out; of more, the rest is counted."""

_FORM = {
    "error": ("layer", "epoch"),
    "reason": ("layer", "epoch"),
    "rerandomized_error": ("layer", "draw"),
    "fullmodel_error": ("epoch",),
}
_OPTIONAL = {"rerandomized_reason": ("layer", "draw")}
_ENDS = ("final_error", "chance_error")


def is_sweep(dataset: xr.Dataset) -> bool:
    """Say whether a Dataset still has the form of a sweep, after whatever was done to it."""
    present = {name: dims for name, dims in _OPTIONAL.items() if name in dataset}
    form = _FORM | present
    if not all(name in dataset and dataset[name].dims == dims for name, dims in form.items()):
        return False
    whole = [dataset[name] for name in ("epoch", "examples") if name in dataset]
    errors = [dataset[name] for name in form if name.endswith("error")]
    return (
        all(dataset[name].dims == (name,) for name in ("layer", "epoch"))
        and all(array.dtype.kind in "iu" for array in whole)
        and all(array.dtype.kind == "f" for array in errors)
        and all(isinstance(dataset.attrs.get(name), Real) for name in _ENDS)
        and isinstance(dataset.attrs.get("examples", 0), Integral)
    )


def is_failure(reason: str) -> bool:
    """Say whether a cell has no number because it cannot have one."""
    return bool(reason) and not reason.startswith(NOT_MEASURED)


def mean_of_draws(sweep: xr.Dataset) -> xr.DataArray:
    """Mean error of the fresh draws of each layer.

    Parameters
    ----------
    sweep : xarray.Dataset
        As `explorer.sweep` returns it.

    Returns
    -------
    xarray.DataArray
        (layer) float64; NaN where a draw has failed, since the rest would be a chosen few. Draws
        that are not measured yet are left out.
    """
    errors = sweep["rerandomized_error"].where(np.isfinite(sweep["rerandomized_error"]))
    if "rerandomized_reason" not in sweep:
        return errors.mean("draw", skipna=False)
    failed = np.vectorize(is_failure, otypes=[bool])(sweep["rerandomized_reason"].astype(str))
    return errors.mean("draw").where(~failed.any(sweep["rerandomized_reason"].get_axis_num("draw")))


def sweep_table(sweep: xr.Dataset, threshold: float = DEFAULT_THRESHOLD) -> Table:
    """Arrange a sweep as in the paper's Fig. 1, with a column of verdicts.

    Parameters
    ----------
    sweep : xarray.Dataset
        As `explorer.sweep` returns it.
    threshold : float
        Share of the way to chance above which a layer is critical.

    Returns
    -------
    Table
        A row per layer and one for the full model; white is the final error, dark red chance.
    """
    final, chance = (float(sweep.attrs[name]) for name in _ENDS)
    width = chance - final if chance > final else math.nan
    unit = "step" if sweep.attrs.get("checkpoint_unit") == "step" else "epoch"

    def cells(errors: list[float], word: str) -> tuple[Cell, ...]:
        numbers = [Cell(percent(error), (error - final) / width) for error in errors]
        return (*numbers, Cell(word))

    fresh = mean_of_draws(sweep).values.tolist()
    words = verdicts(sweep, threshold).values.tolist()
    by_layer = zip(sweep["layer"].values, fresh, sweep["error"].values.tolist(), words, strict=True)
    rows = [Row(str(name), cells([new, *errors], word)) for name, new, errors, word in by_layer]
    curve = sweep["fullmodel_error"].values.tolist()
    rows.append(Row(WHOLE_NETWORK, cells([math.nan, *curve], "")))
    return Table(
        f"{_title(sweep)}: test error in % after one layer (row) was put back to one {unit} "
        f"(column); trained {final:.1%}, chance {chance:.1%}",
        (FRESH, *map(str, sweep["epoch"].values), "verdict"),
        tuple(rows),
    )


def sweep_page(sweep: xr.Dataset) -> str:
    """Write a sweep as HTML for a notebook: short, whatever the number of layers.

    Parameters
    ----------
    sweep : xarray.Dataset
        As `explorer.sweep` returns it.

    Returns
    -------
    str
        HTML; every string is escaped.
    """
    attrs = sweep.attrs
    facts = {
        "final error": f"{float(attrs['final_error']):.1%}",
        "chance": f"{float(attrs['chance_error']):.1%}",
        "test examples": _number(attrs.get("examples")),
        "dataset": str(attrs.get("dataset", "")),
        "fresh draws": str(sweep.sizes["draw"]),
        "seed": str(attrs.get("seed", "")),
        "integrity": integrity(attrs),
        "BatchNorm": str(attrs.get("batchnorm", "")),
        "device": str(attrs.get("device", "")),
    }
    gaps = missing(sweep)
    notes = [
        *map(without_code, filter(None, [doubt_about(attrs), *gaps[:MOST_REASONS]])),
        *([f"… and {len(gaps) - MOST_REASONS} more reasons"] if len(gaps) > MOST_REASONS else []),
        f"{FRESH}: mean of the fresh draws. {WHOLE_NETWORK}: every layer at once.",
        "One layer: `sweep.error.sel(layer=…)`; its 95 % interval: `error_low`, `error_high`; all "
        "arrays: `print(sweep)`.",
    ]
    table = table_html(sweep_table(sweep), MOST_ROWS, MOST_COLUMNS)
    return page_html(f"Sweep of {_title(sweep)}", facts, table, notes)


def missing(sweep: xr.Dataset) -> list[str]:
    """One line per reason why a cell has no number, or only an estimate."""
    reasons: dict[str, int] = {}
    for name in ("reason", "rerandomized_reason", "fullmodel_reason"):
        for reason in sweep[name].values.ravel() if name in sweep else ():
            if reason:
                reasons[str(reason)] = reasons.get(str(reason), 0) + 1
    lines = [f"–: {count} cells, {reason}" for reason, count in reasons.items()]
    if "examples" in sweep and sweep["examples"].size:
        fewest, total = int(sweep["examples"].min()), int(sweep.attrs.get("examples", 0))
        if 0 < fewest < total:
            lines.append(f"estimated: the fewest examples behind a cell are {fewest} of {total}.")
    return lines


def _title(sweep: xr.Dataset) -> str:
    return str(sweep.attrs.get("stack_title") or sweep.attrs.get("stack") or "this network")


def _number(value: Any) -> str:
    return f"{int(value):,}" if value else ""
