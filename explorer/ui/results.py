"""What has been measured so far: a sweep's Dataset that clicks add to, and how to read a cell.

The truth of the widget lives here, never in what the browser was sent.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from explorer.engine.overview import NOT_MEASURED, is_failure
from explorer.engine.results import COUNTS, QUANTITIES, empty_results, only_finite
from explorer.ui.grid import Cell, Grid

State = Literal["measured", "estimated", "missing", "failed"]
"""How much is behind the number of a cell."""


class Counts(Protocol):
    """The part of `explorer.engine.estimate.Estimate` that a result is made of."""

    @property
    def examples(self) -> int: ...
    @property
    def total(self) -> int: ...
    @property
    def error(self) -> float: ...
    @property
    def error_low(self) -> float: ...
    @property
    def error_high(self) -> float: ...
    @property
    def loss(self) -> float: ...
    @property
    def agreement(self) -> float: ...
    @property
    def turned_wrong(self) -> int: ...
    @property
    def turned_right(self) -> int: ...
    @property
    def failure(self) -> str: ...


@dataclass(frozen=True)
class Reading:
    """One cell as it stands."""

    state: State
    """Measured on all examples, estimated from some, missing, or failed."""

    value: float
    """Test error, a fraction in [0, 1]; the mean of the draws in ReRnd; NaN if there is none."""

    low: float = math.nan
    """Lower end of the 95 % interval; NaN where a cell has none."""

    high: float = math.nan
    """Upper end of the 95 % interval; NaN where a cell has none."""

    examples: int = 0
    """Test examples behind the number; 0 where it is not known."""

    loss: float = math.nan
    """Mean cross-entropy, nats; NaN where a cell has none."""

    turned_wrong: int = 0
    """Examples that the trained network has right and this cell wrong."""

    turned_right: int = 0
    """Examples that the trained network has wrong and this cell right."""

    draws: tuple[float, ...] = ()
    """Test error of each fresh draw, NaN where not measured; empty outside ReRnd."""

    reason: str = ""
    """Why there is no number, empty if there is one."""


def blank(grid: Grid, attrs: Mapping[Any, Any]) -> xr.Dataset:
    """Return results in which nothing is measured yet.

    Parameters
    ----------
    grid : Grid
        Layers, epochs and number of draws.
    attrs : mapping
        What is known already: `stack`, `seed`, `final_error`, …

    Returns
    -------
    xarray.Dataset
        The variables of a sweep, NaN with the reason "not measured".
    """
    results = empty_results(grid.layers, grid.epochs, grid.draws, NOT_MEASURED)
    unknown = {"final_error": math.nan, "chance_error": math.nan, "examples": 0}
    return results.assign_attrs({**unknown, **attrs})


def from_sweep(sweep: xr.Dataset, grid: Grid) -> xr.Dataset:
    """Return a sweep's numbers on this grid, as a copy that may be written to.

    Parameters
    ----------
    sweep : xarray.Dataset
        The result of `explorer.sweep`.
    grid : Grid
        Cells that the sweep lacks become "not measured"; cells it has beyond are left out.

    Returns
    -------
    xarray.Dataset
    """
    results, sweep = blank(grid, sweep.attrs), only_finite(sweep)
    places = {dim: sweep.indexes[dim].get_indexer(results.indexes[dim]) for dim in results.dims}
    for name, empty in results.variables.items():
        if name in results.coords:
            continue
        found = sweep.variables[name].transpose(*empty.dims).values.astype(empty.dtype)
        at = np.ix_(*(places[dim] for dim in empty.dims))
        there = np.logical_and.reduce(np.broadcast_arrays(*(place >= 0 for place in at)))
        if there.any():  # else the sweep may have no cell at all to take instead
            empty.values[there] = found[at][there]
    return results


def record(results: xr.Dataset, cell: Cell, draw: int | None, counts: Counts) -> None:
    """Write a measured cell into the results, or why it could not be measured.

    Parameters
    ----------
    results : xarray.Dataset
        Changed in place.
    cell : Cell
        The cell that was measured.
    draw : int or None
        Number of the fresh draw, None for an epoch.
    counts : Counts
        The last estimate of an evaluation.
    """
    if counts.failure:
        fail(results, cell, draw, counts.failure)
        return
    prefix, at = _place(cell, draw)
    for name in QUANTITIES:
        results[prefix + name].loc[at] = getattr(counts, name)
    results[f"{prefix}reason"].loc[at] = ""


def record_estimate(results: xr.Dataset, cell: Cell, counts: Counts) -> bool:
    """Write an estimate of a cell where there is no better number; tell whether that was so."""
    if read(results, cell).state == "measured":
        return False
    record(results, cell, None, counts)
    return True


def fail(results: xr.Dataset, cell: Cell, draw: int | None, reason: str) -> None:
    """Mark a cell as one that could not be measured, with the reason, in place.

    A ReRnd cell without a draw is marked in every draw.
    """
    prefix, at = _place(cell, draw)
    for name in QUANTITIES:
        results[prefix + name].loc[at] = 0 if name in COUNTS else np.nan
    results[f"{prefix}reason"].loc[at] = reason


def forget_draws(results: xr.Dataset) -> None:
    """Mark every fresh draw as not measured, in place: they were drawn with another seed."""
    for layer in results["layer"].values:
        fail(results, Cell(str(layer), None), None, NOT_MEASURED)


def read(results: xr.Dataset, cell: Cell) -> Reading:
    """Return what is known about one cell."""
    return readings(results, [cell])[0]


def readings(results: xr.Dataset, cells: Sequence[Cell]) -> list[Reading]:
    """Return what is known about many cells, faster than one by one."""
    arrays = {str(name): variable.values for name, variable in results.variables.items()}
    rows = {str(layer): row for row, layer in enumerate(arrays["layer"])}
    columns = {int(epoch): column for column, epoch in enumerate(arrays["epoch"])}
    total = int(results.attrs["examples"])
    found = []
    for cell in cells:
        if cell.layer is None and cell.epoch is not None:
            found.append(_read_one(arrays, "fullmodel_", (columns[cell.epoch],), total))
        elif cell.layer is not None and cell.epoch is not None:
            found.append(_read_one(arrays, "", (rows[cell.layer], columns[cell.epoch]), total))
        else:
            found.append(_read_draws(arrays, rows[str(cell.layer)]))
    return found


def _place(cell: Cell, draw: int | None) -> tuple[str, dict[str, Any]]:
    """Return the prefix of a cell's variables and where it lies in them."""
    if cell.layer is None:
        return "fullmodel_", {"epoch": cell.epoch}
    if cell.epoch is None:
        return "rerandomized_", {"layer": cell.layer} | ({} if draw is None else {"draw": draw})
    return "", {"layer": cell.layer, "epoch": cell.epoch}


def _read_one(
    arrays: Mapping[str, NDArray[Any]], prefix: str, at: tuple[int, ...], total: int
) -> Reading:
    value, low, high = (float(arrays[prefix + name][at]) for name in QUANTITIES[:3])
    if math.isnan(value):
        return _without_number(str(arrays[f"{prefix}reason"][at]))
    examples = int(arrays[f"{prefix}examples"][at])
    state: State = "estimated" if 0 < examples < total else "measured"
    loss = float(arrays[f"{prefix}loss"][at])
    wrong, right = (int(arrays[f"{prefix}turned_{way}"][at]) for way in ("wrong", "right"))
    return Reading(state, value, low, high, examples, loss, wrong, right)


def _read_draws(arrays: Mapping[str, NDArray[Any]], row: int) -> Reading:
    draws = tuple(float(value) for value in arrays["rerandomized_error"][row])
    reasons = [str(reason) for reason in arrays["rerandomized_reason"][row]]
    failed = [f"fresh draw {n}: {why}" for n, why in enumerate(reasons) if is_failure(why)]
    if failed:
        return Reading("failed", math.nan, draws=draws, reason="\n".join(failed))
    known = [value for value in draws if not math.isnan(value)]
    if not known:
        return _without_number(reasons[0] if reasons else "")
    state: State = "measured" if len(known) == len(draws) else "estimated"
    return Reading(state, math.fsum(known) / len(known), draws=draws)


def _without_number(reason: str) -> Reading:
    state: State = "failed" if is_failure(reason) else "missing"
    return Reading(state, math.nan, reason=reason or NOT_MEASURED)
