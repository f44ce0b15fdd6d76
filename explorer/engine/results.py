"""The Dataset of a sweep, before and while it is filled; it needs neither torch nor a network."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from explorer.engine.overview import is_sweep, sweep_page
from explorer.errors import ChangedStackWarning, CheckpointError, UsageError, unknown_name
from explorer.inventory.hdf5 import DAMAGE, check_hdf5
from explorer.inventory.manifest import bundled_sweep, load_manifest
from explorer.weights.stack import content_hash

DIMS: Mapping[str, tuple[str, ...]] = {
    "": ("layer", "epoch"),
    "rerandomized_": ("layer", "draw"),
    "fullmodel_": ("epoch",),
}
"""Prefix of a sweep's variables → what they are measured over."""

COUNTS = ("examples", "turned_wrong", "turned_right")
"""Whole numbers among the `QUANTITIES`; 0 where nothing is measured."""

QUANTITIES = ("error", "error_low", "error_high", "loss", "agreement", *COUNTS)
"""What is measured in each cell; each is an attribute of an `Estimate`."""

NOT_FINITE = "the error is NaN or infinite, and nothing says why"
"""Reason of a cell that has neither a number nor a reason of its own."""

_ATTRIBUTES: dict[str, dict[str, Any]] = {
    "error": {"long_name": "test error", "units": "1"},
    "error_low": {"long_name": "lower end of the 95 % Wilson interval", "units": "1"},
    "error_high": {"long_name": "upper end of the 95 % Wilson interval", "units": "1"},
    "loss": {"long_name": "mean cross-entropy on the test set", "units": "nat"},
    "agreement": {"long_name": "predictions equal to the intact network's", "units": "1"},
    "examples": {"long_name": "test examples behind the cell", "units": "1"},
    "turned_wrong": {"long_name": "right with the intact network, wrong now", "units": "1"},
    "turned_right": {"long_name": "wrong with the intact network, right now", "units": "1"},
    "reason": {"long_name": "why the cell was not measured; empty where it was"},
}


class Sweep(xr.Dataset):  # type: ignore[no-untyped-call] # xarray's hook has no types
    """A sweep: a Dataset like any other, but for the coloured table that a notebook shows."""

    __slots__ = ()

    def _repr_html_(self) -> str:
        page: str = sweep_page(self) if is_sweep(self) else super()._repr_html_()
        return page


def empty_results(layers: Sequence[str], epochs: Sequence[int], draws: int, reason: str) -> Sweep:
    """Build the Dataset of a sweep in which nothing is measured.

    Parameters
    ----------
    layers : sequence of str
        Names of the layers.
    epochs : sequence of int
        Epochs they are taken from.
    draws : int
        Fresh draws per layer.
    reason : str
        Why there are no numbers yet.

    Returns
    -------
    Sweep
        For each prefix of `DIMS` the `QUANTITIES`, NaN (`COUNTS`: 0), and ``reason``.
    """
    coords: dict[str, Any] = {
        "layer": np.array(layers, dtype=object),
        "epoch": list(epochs),
        "draw": list(range(draws)),
    }
    variables: dict[str, Any] = {}
    for prefix, dims in DIMS.items():
        shape = tuple(len(coords[dim]) for dim in dims)
        for quantity in QUANTITIES:
            integer = quantity in COUNTS
            values = np.zeros(shape, np.int64) if integer else np.full(shape, np.nan)
            variables[prefix + quantity] = (dims, values, _ATTRIBUTES[quantity])
        reasons = np.full(shape, reason, dtype=object)
        variables[f"{prefix}reason"] = (dims, reasons, _ATTRIBUTES["reason"])
    return Sweep(variables, coords)


def only_finite(sweep: xr.Dataset) -> xr.Dataset:
    """Return a sweep whose infinite numbers are NaN, and whose cells without one say why.

    Parameters
    ----------
    sweep : xarray.Dataset
        As `explorer.sweep` returns it, or as somebody has put it together.

    Returns
    -------
    xarray.Dataset
        A copy where anything had to change.
    """
    changed: dict[str, Any] = {}
    found: Mapping[Any, Any] = sweep.variables  # without coordinates to align, a tenth of the time
    for prefix in DIMS:
        for name in {prefix + quantity for quantity in QUANTITIES}.intersection(sweep):
            values = found[name]
            if values.dtype.kind == "f" and bool(np.isinf(values.values).any()):
                changed[name] = values.where(np.isfinite(values))
        if not {f"{prefix}error", f"{prefix}reason"}.issubset(sweep):
            continue
        error, reasons = found[f"{prefix}error"], found[f"{prefix}reason"]
        unsaid = ~np.isfinite(error) & (reasons.astype(str) == "")
        if bool(unsaid.any()):
            changed[f"{prefix}reason"] = reasons.astype(object).where(~unsaid, NOT_FINITE)
    return sweep.assign(changed) if changed else sweep


def open_sweep(source: str | Path, stack: xr.DataTree | None = None) -> Sweep:
    """Read a sweep: the one that comes with a bundled stack, or a file that was saved.

    Parameters
    ----------
    source : str or Path
        Name of a stack, or path of a netCDF file.
    stack : xarray.DataTree, optional
        The stack that it is to be of, as `explorer.open_stack` returns it.

    Returns
    -------
    Sweep
        An `xarray.Dataset` as `explorer.sweep` returns it, in memory.

    Raises
    ------
    UnknownNameError
        There is neither a stack of this name with a sweep nor such a file.
    UsageError
        The source is neither a name nor a path.
    CheckpointError
        The file is damaged or leads elsewhere; a bundled one is missing or altered.

    Warns
    -----
    ChangedStackWarning
        It was computed from other checkpoints than those of `stack` or of the catalog.
    """
    if not isinstance(source, (str, os.PathLike)):
        raise UsageError(
            f"The sweep to open is {type(source).__name__} {source!r}.",
            "The name of a stack with a sweep, or the path of a file, is needed.",
            "What explorer.sweep returns is open already.",
        )
    path = bundled_sweep(str(source)) or Path(source)
    if not path.is_file():
        stacks = load_manifest().stacks.values()
        raise unknown_name("sweep", str(source), [entry.name for entry in stacks if entry.sweep])
    sweep = read_sweep(path)
    entry = load_manifest().stacks.get(str(source))
    now = content_hash(stack) if stack is not None else entry.content_hash if entry else ""
    warn_if_changed(sweep.attrs, now, str(source))
    return sweep


def warn_if_changed(attrs: Mapping[Any, Any], now: str, what: str) -> bool:
    """Warn of results that were computed from other checkpoints; returns whether they were.

    Parameters
    ----------
    attrs : mapping
        Attributes of the results.
    now : str
        Content hash of the stack as it is now; empty where it is not known.
    what : str
        How to call the results.
    """
    then = str(attrs.get("content_hash", ""))
    changed = bool(then and now and then != now)
    if changed:
        warnings.warn(
            f"{what} was computed from other checkpoints (content hash {then[:12]}…) than those "
            f"that are open ({now[:12]}…). Measure it again, or open the checkpoints it is of.",
            ChangedStackWarning,
            stacklevel=3,
        )
    return changed


def as_json(sweep: xr.Dataset) -> str:
    """Write a sweep as the text of a JSON file, which `read_sweep` reads without HDF5.

    The form is that of `xarray.Dataset.to_dict`; every number comes back as it was.
    """
    return json.dumps(sweep.to_dict(data="list"), ensure_ascii=False, separators=(",", ":"))


def read_sweep(path: Path) -> Sweep:
    """Read the file of a sweep into memory: netCDF, or the JSON that comes with a bundled stack.

    Raises
    ------
    CheckpointError
        It is damaged, of another form, or leads elsewhere.
    """
    form = "JSON" if path.suffix == ".json" else "netCDF"
    try:
        if form == "JSON":
            return _made_finite(xr.Dataset.from_dict(json.loads(path.read_text(encoding="utf-8"))))
        check_hdf5(path)
        # xarray adds a filter of warnings whenever it opens something
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Duplicate dimension names")  # is refused
            with xr.open_dataset(path, engine="h5netcdf") as opened:
                return _made_finite(opened.load())
    except CheckpointError:  # it says why
        raise
    except DAMAGE as error:
        raise CheckpointError(
            f"{path} cannot be read as {form}: {error}",
            "A whole file as explorer.sweep(…) and save_netcdf write it is expected.",
            "Copy it again, or measure anew.",
        ) from error


def _made_finite(loaded: xr.Dataset) -> Sweep:
    for name, variable in loaded.variables.items():
        if len({dim for dim in variable.dims if isinstance(dim, str)}) < variable.ndim:
            raise ValueError(f"the axes of {name!r} are {variable.dims}")
    loaded = only_finite(loaded)
    return Sweep(loaded.data_vars, loaded.coords, loaded.attrs)
