"""Public functions that join two parts which do not know each other."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import torch
import xarray as xr
from torch import Tensor, nn

from explorer.arguments import draws_and_seed, whole_number
from explorer.errors import ExplorerError, StackError, UsageError
from explorer.inventory.hdf5 import full_disk_told
from explorer.inventory.placing import placed
from explorer.stats.distances import stack_distances, state_distances
from explorer.weights.families.known import FAMILIES, build_network
from explorer.weights.fresh import fresh_layer, values_of
from explorer.weights.layers import LayerScheme, fan_in, group_layers, is_buffer
from explorer.weights.lazy import tensor_opener
from explorer.weights.stack import (
    check_is_stack,
    epoch_numbers,
    layer_names,
    layer_variables,
)
from explorer.weights.unwrapped import with_values

NO_YARDSTICK = "none"
"""How the attribute ``yardstick`` begins where there are no fresh draws."""


def distances(
    stack: xr.DataTree | Iterable[Mapping[str, Tensor]],
    *,
    reference: int = 0,
    model: nn.Module | None = None,
    draws: int = 3,
    seed: int = 0,
    layers: LayerScheme | None = None,
    client: Any = None,
) -> xr.Dataset:
    """Distance of every layer at every epoch from a reference epoch, with a yard-stick.

    The yard-stick is the distance from the reference to fresh draws of the same layer: how far
    apart two random initialisations are.

    Parameters
    ----------
    stack : xarray.DataTree, or iterable of state dicts
        As `explorer.open_stack` returns it. State dicts, one per epoch from 0 on, are measured
        where their tensors lie, on a GPU without being moved; four are held at a time.
    reference : int
        Epoch to measure from; for state dicts it is 0. Of a single checkpoint it is the one.
    model : torch.nn.Module, optional
        Whose modules draw anew, where the stack names no known family; without either there is
        no yard-stick, and the attribute ``yardstick`` says so.
    draws, seed : int
        Number and seed of the fresh draws, the same as in `explorer.sweep`.
    layers : str, mapping, sequence or function, optional
        For state dicts, how their tensors are divided into layers, as in `explorer.open_stack`.
    client : distributed.Client, optional
        Of a running Dask cluster, whose workers measure one layer of a stack each; see
        `explorer.engine.remote.for_each_layer`. The numbers are the same.

    Returns
    -------
    xarray.Dataset
        As `explorer.stats.distances.stack_distances` documents it.

    Raises
    ------
    UnknownNameError
        The stack has no such reference epoch, or a state dict lacks a tensor.
    StackError
        What is passed is no stack, or no state dicts of tensors that have values; there are none,
        or tensors have changed their shapes.
    UsageError
        A number that is none, a reference other than the first state dict, layers for a stack that
        has its own, or a cluster for state dicts.
    CheckpointError
        The reference epoch cannot be read.
    ClusterError
        The cluster has no workers, or does not finish.
    """
    draws, seed = draws_and_seed(draws, seed)
    reference = whole_number("reference", reference, "Name an epoch of the stack.")
    if not isinstance(stack, xr.DataTree):
        if client is not None:
            raise UsageError(
                "A cluster was given for state dicts.",
                "Distances on a cluster are those of a stack, whose layers can be read apart.",
                "Open one with explorer.open_stack, or leave client= out.",
            )
        return _distances_of_states(stack, reference, model, draws, seed, layers)
    if layers is not None:
        raise UsageError(
            "layers= was given for a stack.",
            "A stack has its layers already; state dicts do not.",
            "Give layers= to explorer.open_stack instead.",
        )
    check_is_stack(stack)
    if reference == 0 and len(epoch_numbers(stack)) == 1:  # whatever the only one is called
        reference = epoch_numbers(stack)[0]
    settings = {"reference": reference, "draws": draws, "seed": seed}
    if client is None:
        return _distances_of_stack(stack, model=model, **settings)
    # Dask is an extra, and nobody else should wait for its import
    from explorer.engine.remote import for_each_layer

    parts = for_each_layer(client, stack, _distances_of_stack, model=model, **settings)
    reasons = [str(part.attrs["yardstick"]) for part in parts]
    none = [reason for reason in reasons if reason.startswith(NO_YARDSTICK)]
    if none:  # one layer that cannot be drawn leaves all without, as it does in one process
        parts = [_without_yardstick(part, none[0]) for part in parts]
    joined: xr.Dataset = xr.concat(
        parts, "layer", data_vars="minimal", join="exact", combine_attrs="identical"
    )
    return joined


def _without_yardstick(part: xr.Dataset, reason: str) -> xr.Dataset:
    fresh = [name for name in part if "draw" in part[name].dims]
    return part.drop_vars(fresh).assign_coords(draw=[]).assign_attrs(yardstick=reason)


def _distances_of_stack(
    stack: xr.DataTree, *, model: nn.Module | None, reference: int, draws: int, seed: int
) -> xr.Dataset:
    """Distances of a stack, or of a part of its layers, measured in this process."""
    family = str(stack.attrs.get("family", ""))
    members = {
        layer: [n for n, a in layer_variables(stack, layer).items() if not a.attrs["buffer"]]
        for layer in layer_names(stack)
    }
    network = with_values(model)
    if network is None and family in FAMILIES:
        network = build_network(family, stack.attrs["sizes"])
    fresh = _FreshDraws(network, family, members, draws, seed)
    result = stack_distances(stack, reference=reference, fresh=fresh, opener=tensor_opener)
    return result.assign_attrs(yardstick=fresh.yardstick, seed=seed)


def _distances_of_states(
    states: Iterable[Mapping[str, Tensor]],
    reference: int,
    model: nn.Module | None,
    draws: int,
    seed: int,
    layers: LayerScheme | None,
) -> xr.Dataset:
    """Distances of state dicts from the first of them, measured where their tensors lie."""
    coming = _checked(states)
    start = next(coming, None)
    if start is None:
        raise StackError(
            "There are no state dicts.",
            "At least one is needed.",
            "Pass model.state_dict() of each.",
        )
    if reference != 0:
        raise UsageError(
            f"The reference of state dicts is {reference}.",
            "They are measured from the first, number 0.",
            "Put the reference first, or open a stack.",
        )
    names = [name for name, t in start.items() if t.is_floating_point() and not is_buffer(name)]
    if not names:
        raise StackError(
            f"The first state dict has no weights, only {list(start)}.",
            "Floating-point tensors are needed.",
            "Pass model.state_dict() of each.",
        )
    shapes = {name: tuple(tensor.shape) for name, tensor in start.items()}
    groups = group_layers(names, layers)
    inputs = {
        layer: {name: fan_in(name, shapes) for name in members} for layer, members in groups.items()
    }
    fresh = _FreshDraws(with_values(model), "", groups, draws, seed)
    result = state_distances(start, enumerate(chain([start], coming)), inputs, fresh=fresh)
    return result.assign_attrs(reference_epoch=0, yardstick=fresh.yardstick, seed=seed)


def _checked(states: Any) -> Iterator[Mapping[str, Tensor]]:
    """State dicts, each looked at when it comes."""
    if isinstance(states, Mapping) and not isinstance(states, xr.Dataset):
        raise StackError(
            f"This {type(states).__name__} is a single state dict.",
            "State dicts in a sequence are needed, one per epoch, from the first on.",
            "Pass [first, …, last].",
        )
    if not isinstance(states, Iterable) or isinstance(states, (str, bytes, Path, xr.Dataset)):
        check_is_stack(states)
    for number, state in enumerate(states):
        _check_state(number, state)
        yield state


def _check_state(number: int, state: Any) -> None:
    if not isinstance(state, Mapping):
        raise StackError(
            f"State dict {number} is a {type(state).__name__}.",
            "A mapping from names to tensors is needed.",
            "Pass its state_dict()."
            if isinstance(state, nn.Module)
            else "Open files with explorer.open_stack, and pass what it returns.",
        )
    for name, tensor in state.items():
        _check_tensor(number, name, tensor)


def _check_tensor(number: int, name: Any, tensor: Any) -> None:
    """Refuse what has no name, is no tensor, or one whose numbers do not lie in memory."""
    if not isinstance(name, str) or not isinstance(tensor, Tensor):
        kind, advice = f"a {type(tensor).__name__}", "Leave it out, or pass torch.as_tensor of it."
    elif tensor.is_meta:
        kind, advice = "on the meta device, where tensors have no values", "Load the values first."
    elif tensor.layout != torch.strided:
        kind, advice = f"of {tensor.layout}", "Pass what its to_dense() returns."
    else:
        return
    raise StackError(
        f"{name!r} of state dict {number} is {kind}.",
        "Names are texts, and each stands for a plain tensor with its values.",
        advice,
    )


class _FreshDraws(Mapping[str, Sequence[Mapping[str, Any]]]):
    """Layer → drawn parameters, drawn when a layer's turn comes and not kept.

    Where a layer cannot be drawn, `yardstick` says why, and that layer and those after it have
    no draws.
    """

    def __init__(
        self,
        network: nn.Module | None,
        family: str,
        members: Mapping[str, Sequence[str]],
        draws: int,
        seed: int,
    ) -> None:
        self._network, self._family, self._members = network, family, members
        self._draws, self._seed = draws, seed
        self.yardstick = (
            f"{NO_YARDSTICK}: the stack names no known family and no model was given"
            if network is None
            else "fresh draws from each layer's initialiser"
        )

    def __getitem__(self, layer: str) -> list[dict[str, Any]]:
        if self._network is None:
            return []
        draw = functools.partial(
            fresh_layer, self._network, self._family, layer, tuple(self._members[layer])
        )
        try:
            drawn = [draw(k, self._seed) for k in range(self._draws)]
        except ExplorerError as error:
            self._draws = 0
            self.yardstick = f"{NO_YARDSTICK}: {error.came}"
            return []
        return [{n: values_of(t) for n, t in one.items()} for one in drawn]

    def __iter__(self) -> Iterator[str]:
        return iter(self._members)

    def __len__(self) -> int:
        return len(self._members)


def save_netcdf(dataset: xr.Dataset | xr.DataTree, path: str | Path) -> Path:
    """Write a sweep, distances or a comparison as netCDF-4, whole or not at all.

    Raises
    ------
    CheckpointError
        The folder cannot be written to, or the disk is full.
    """
    import h5netcdf  # brings HDF5, which only this needs

    target = Path(path)
    with (
        placed(target) as temporary,
        full_disk_told(temporary) as stream,
        h5netcdf.File(stream, "w") as file,
    ):
        if isinstance(dataset, xr.Dataset):
            dataset.dump_to_store(xr.backends.H5NetCDFStore(file))  # needs no lock of Dask's
            return target
        for node in dataset.subtree:
            group = file if node.path == "/" else file.create_group(node.path)
            node.to_dataset(inherit=False).dump_to_store(xr.backends.H5NetCDFStore(group))
    return target
