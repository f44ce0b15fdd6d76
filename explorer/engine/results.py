"""The Dataset of a sweep, before and while it is filled; it needs neither torch nor a network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from explorer.engine.overview import is_sweep, sweep_page
from explorer.errors import CheckpointError, unknown_name
from explorer.inventory.manifest import bundled_sweep, load_manifest

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


def open_sweep(source: str | Path) -> Sweep:
    """Read a sweep: the one that comes with a bundled stack, or a file that was saved.

    Parameters
    ----------
    source : str or Path
        Name of a stack, or path of a netCDF file.

    Returns
    -------
    Sweep
        An `xarray.Dataset` as `explorer.sweep` returns it, in memory.

    Raises
    ------
    UnknownNameError
        There is neither a stack of this name with a sweep nor such a file.
    CheckpointError
        The file is damaged; a bundled one is missing or altered.
    """
    path = bundled_sweep(str(source)) or Path(source)
    if not path.is_file():
        stacks = load_manifest().stacks.values()
        raise unknown_name("sweep", str(source), [entry.name for entry in stacks if entry.sweep])
    return read_sweep(path)


def read_sweep(path: Path) -> Sweep:
    """Read the netCDF file of a sweep into memory.

    Raises
    ------
    CheckpointError
        It is damaged, or no netCDF file.
    """
    try:
        with xr.open_dataset(path, engine="h5netcdf") as opened:
            loaded = opened.load()
            return Sweep(loaded.data_vars, loaded.coords, loaded.attrs)
    except _DAMAGE as error:
        raise CheckpointError(
            f"{path} cannot be read as netCDF: {error}",
            "A whole file as explorer.sweep(…) and save_netcdf write it is expected.",
            "Copy it again, or measure anew.",
        ) from error


_DAMAGE = (
    *(OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, OverflowError),
    RuntimeError,  # HDF5's; RecursionError is one too
)
"""What xarray and the libraries below it raise for damaged files."""
