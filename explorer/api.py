"""Public functions that join two parts which do not know each other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import xarray as xr
from torch import nn

from explorer.errors import ExplorerError
from explorer.inventory.store import placed
from explorer.stats.distances import stack_distances
from explorer.weights.families.known import FAMILIES, build_network
from explorer.weights.fresh import fresh_layer
from explorer.weights.stack import layer_names, layer_variables


def distances(
    stack: xr.DataTree,
    *,
    reference: int = 0,
    model: nn.Module | None = None,
    draws: int = 3,
    seed: int = 0,
) -> xr.Dataset:
    """Distance of every layer at every epoch from a reference epoch, with a yard-stick.

    The yard-stick is the distance from the reference to fresh draws of the same layer: how far
    apart two random initialisations are.

    Parameters
    ----------
    stack : xarray.DataTree
        As `explorer.open_stack` returns it.
    reference : int
        Epoch to measure from.
    model : torch.nn.Module, optional
        Whose modules draw anew, where the stack names no known family; without either there is
        no yard-stick, and the attribute ``yardstick`` says so.
    draws, seed : int
        Number and seed of the fresh draws, the same as in `explorer.sweep`.

    Returns
    -------
    xarray.Dataset
        As `explorer.stats.distances.stack_distances` documents it.

    Raises
    ------
    UnknownNameError
        The stack has no such reference epoch.
    CheckpointError
        The reference epoch cannot be read.
    """
    fresh, reason = _fresh_draws(stack, model, draws, seed)
    result = stack_distances(stack, reference=reference, fresh=fresh)
    return result.assign_attrs(yardstick=reason, seed=seed)


def _fresh_draws(
    stack: xr.DataTree, model: nn.Module | None, draws: int, seed: int
) -> tuple[dict[str, list[dict[str, Any]]] | None, str]:
    """Layer → drawn parameters, or None and the reason why there are none."""
    family = str(stack.attrs.get("family", ""))
    if model is None and family not in FAMILIES:
        return None, "none: the stack names no known family and no model was given"
    network = model if model is not None else build_network(family, stack.attrs["sizes"])
    fresh: dict[str, list[dict[str, Any]]] = {}
    for layer in layer_names(stack):
        variables = layer_variables(stack, layer).items()
        names = tuple(name for name, array in variables if not array.attrs["buffer"])
        try:
            drawn = [fresh_layer(network, family, layer, names, k, seed) for k in range(draws)]
        except ExplorerError as error:
            return None, f"none: {error.came}"
        fresh[layer] = [{n: t.numpy() for n, t in draw.items()} for draw in drawn]
    return fresh if draws else None, "fresh draws from each layer's initialiser"


def save_netcdf(dataset: xr.Dataset, path: str | Path) -> Path:
    """Write a sweep or distances as netCDF-4, whole or not at all.

    Raises
    ------
    CheckpointError
        The folder cannot be written to, or the disk is full.
    """
    target = Path(path)
    with placed(target) as temporary:
        dataset.to_netcdf(temporary, engine="h5netcdf")
    return target
