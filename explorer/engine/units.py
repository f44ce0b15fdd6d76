"""Units that are never active: the share of each activation, beside what is known of outputs."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from explorer.engine.inside import Units
from explorer.engine.results import DIMS
from explorer.engine.similarity import Compared
from explorer.engine.sweep import Cell
from explorer.weights.stack import layer_names, layer_variables

NEVER_ACTIVE: dict[str, Any] = {
    "long_name": "share of units never active on the examples",
    "units": "1",
}
"""What the numbers are."""


def with_units(
    result: xr.Dataset,
    stack: xr.DataTree,
    units: Sequence[Units],
    cells: Sequence[Cell],
    found: Mapping[Cell, Compared],
    intact: Compared,
) -> xr.Dataset:
    """Add the share of units that are never active, activation by activation.

    Parameters
    ----------
    result : xarray.Dataset
        Over (layer, epoch) and (layer, draw).
    stack : xarray.DataTree
        Whose layers name the activations.
    units : sequence of Units
        Of each activation.
    cells : sequence of Cell
        What was compared.
    found : mapping
        Cell → comparison, or why there is none.
    intact : Comparison or str
        Of the trained network with itself.
    """
    names, layers = _activation_names(stack, units)
    counts = np.array([one.count for one in units], np.int64)

    def shares(compared: Compared) -> Any:
        if isinstance(compared, str) or not compared.active.size:
            return np.full(len(counts), math.nan)
        parts = np.split(~compared.active, np.cumsum(counts)[:-1])
        return np.array([part.mean() for part in parts])

    about = NEVER_ACTIVE
    variables: dict[str, Any] = {
        "units": ("activation", counts),
        "intact_never_active": ("activation", shares(intact), about),
    }
    for prefix in ("", "rerandomized_"):
        own = [cell for cell in cells if cell.prefix == prefix]
        by_cell = np.full((*result[f"{prefix}reason"].shape, len(counts)), math.nan)
        for cell in own:
            by_cell[cell.position] = shares(found.get(cell, ""))
        dims = (*DIMS[prefix], "activation")
        variables[f"{prefix}never_active_by_activation"] = (dims, by_cell, about)
    coords = {"activation": np.array(names, object), "of_layer": ("activation", layers)}
    return result.assign(variables).assign_coords(coords)


def _activation_names(stack: xr.DataTree, units: Sequence[Units]) -> tuple[list[str], Any]:
    """Names of activations, and the layer before each: its name, and a number of several."""
    home = {name: layer for layer in layer_names(stack) for name in layer_variables(stack, layer)}
    layers = [home.get(one.tensor, "") for one in units]
    counted = [layers[: k + 1].count(layer) for k, layer in enumerate(layers)]
    names = [
        f"{layer or 'input'} #{number}" if layers.count(layer) > 1 else layer or "input"
        for layer, number in zip(layers, counted, strict=True)
    ]
    return names, np.array(layers, object)
