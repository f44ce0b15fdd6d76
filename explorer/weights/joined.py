"""Checkpoints of one or two runs as one stack that ends where a path begins.

The engine leaves every layer but the changed ones at the last checkpoint of a stack. So a path that
begins at any checkpoint of any run is a matter of which stack it is measured on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import xarray as xr

from explorer.errors import StackError, unknown_name
from explorer.weights.checkpoints import Array, ArraySpec
from explorer.weights.stack import (
    content_hash,
    epoch_numbers,
    layer_names,
    layer_variables,
    stack_tree,
)


@dataclass(frozen=True, eq=False)
class _StackCheckpoint:
    """One epoch of an open stack, read when it is looked at."""

    variables: Mapping[str, xr.DataArray]
    """Name of a tensor → its variable in the stack."""
    position: int
    """Place of the epoch in the stack."""

    def specs(self) -> dict[str, ArraySpec]:
        """Names, dtypes and shapes, without reading the tensors."""
        return _specs(self.variables)

    def read(self, name: str) -> Array:
        """Read one tensor."""
        values: Array = self.variables[name].isel(epoch=self.position).values
        return values


def joined(stack: xr.DataTree, last: int, other: xr.DataTree, epochs: Sequence[int]) -> xr.DataTree:
    """Epochs of one stack, and after them one epoch of another, or of the same, as a stack.

    Parameters
    ----------
    stack : xarray.DataTree
        Whose epoch comes last; family, dataset and layers are its own.
    last : int
        One of its epochs.
    other : xarray.DataTree
        A stack with the same layers and tensors; may be the same.
    epochs : sequence of int
        Epochs of `other`, which keep their numbers.

    Returns
    -------
    xarray.DataTree
        Nothing of it has been read. In it `last` has a number of its own, above all others.

    Raises
    ------
    UnknownNameError
        One of the stacks has no such epoch.
    StackError
        The stacks differ in their layers, or in names, dtypes or shapes of tensors.
    """
    _check_alike(stack, other)
    parts = [(other, epoch) for epoch in epochs] + [(stack, last)]
    for part, epoch in parts:
        if epoch not in epoch_numbers(part):
            raise unknown_name("epoch", epoch, epoch_numbers(part))
    number = max([*epochs, last]) + 1  # none of theirs
    whole = {id(part): _variables(part) for part in (stack, other)}
    variables = whole[id(stack)]
    return stack_tree(
        [_StackCheckpoint(whole[id(p)], epoch_numbers(p).index(epoch)) for p, epoch in parts],
        [*epochs, number],
        _specs(variables),
        {layer: tuple(layer_variables(stack, layer)) for layer in layer_names(stack)},
        {name: bool(variable.attrs["buffer"]) for name, variable in variables.items()},
        {**{str(k): v for k, v in stack.attrs.items()}, "content_hash": _hash(parts)},
    )


def _check_alike(stack: xr.DataTree, other: xr.DataTree) -> None:
    mine, theirs = (
        {layer: _specs(layer_variables(part, layer)) for layer in layer_names(part)}
        for part in (stack, other)
    )
    differ = [layer for layer in {**mine, **theirs} if mine.get(layer) != theirs.get(layer)]
    if differ:
        raise StackError(
            f"The stacks {stack.attrs.get('name')!r} and {other.attrs.get('name')!r} differ in "
            f"{differ[0]!r}.",
            "Two runs of one network, with the same layers, names, dtypes and shapes, are needed.",
            "Open both with the same layers=, or compare two runs of one recipe.",
        )


def _variables(stack: xr.DataTree) -> dict[str, xr.DataArray]:
    return {n: v for layer in layer_names(stack) for n, v in layer_variables(stack, layer).items()}


def _specs(variables: Mapping[str, xr.DataArray]) -> dict[str, ArraySpec]:
    return {n: ArraySpec(v.dtype, tuple(v.shape[1:])) for n, v in variables.items()}


def _hash(parts: Sequence[tuple[xr.DataTree, int]]) -> str:
    """Hash of what the checkpoints of a joined stack are, from the hashes of their stacks."""
    whole = {id(part): content_hash(part) for part, _ in parts}
    digest = hashlib.sha256()
    for part, epoch in parts:
        digest.update(f"{whole[id(part)]} {epoch}\n".encode())
    return digest.hexdigest()
