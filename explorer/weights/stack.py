"""Stacks: the checkpoints of one training run as a lazy xarray.DataTree."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from explorer.errors import CheckpointError, StackError, unknown_name
from explorer.inventory.hdf5 import DAMAGE
from explorer.inventory.placing import put_back
from explorer.weights.checkpoints import Array, ArraySpec, Checkpoint, reads_parts
from explorer.weights.hub_stack import hub_parts, is_hub_address
from explorer.weights.labelled import check_as_saved, is_labelled, open_labelled
from explorer.weights.layers import LayerScheme, fan_in, short_names
from explorer.weights.lazy import Checkpoints, StackedTensor, checkpoint_at, stacked_variable
from explorer.weights.numbering import Choice, kept_positions
from explorer.weights.overview import LayerSummary, stack_page
from explorer.weights.parts import collected_parts, manifest_entry, manifest_parts
from explorer.weights.pretrained import is_pretrained_name, pretrained_parts
from explorer.weights.readers.finding import Asked
from explorer.weights.sources import Wanted, collect_checkpoints
from explorer.weights.unwrapped import unwrapped

StackSource = str | Path | Sequence[str | Path] | Iterable[Mapping[str, Any]] | xr.DataTree


class Stack(xr.DataTree):  # type: ignore[no-untyped-call] # xarray's hook has no types
    """A stack: a DataTree like any other, but for the table of layers that a notebook shows."""

    __slots__ = ()

    def _repr_html_(self) -> str:
        if not is_stack(self):  # a node of a stack, or what is left of one
            return str(super()._repr_html_())  # type: ignore[no-untyped-call] # as above
        return stack_page(self.attrs, epoch_numbers(self), _summaries(self))


def open_stack(
    source: StackSource,
    *,
    model: Any = None,
    layers: LayerScheme | None = None,
    epochs: Sequence[int] | None = None,
    reader: Asked = None,
    key: str | None = None,
    unit: str | None = None,
    every: int = 1,
    only: Choice | None = None,
    hub: Any = None,
) -> xr.DataTree:
    """Open a stack of checkpoints without reading its tensors.

    Parameters
    ----------
    source : str, Path, sequence of paths, iterable of state dicts, or DataTree
        The name of a stack in the catalog; a folder, with a ``stack.json`` or with checkpoints
        of any kind in `explorer.readers`; a pattern such as ``"runs/*/model.safetensors"``;
        files; or state dicts, which are copied as they come. ``hub:OWNER/NAME``, see
        `explorer.weights.hub_stack`, whose files are downloaded when they are read;
        ``torchvision/NAME@TAG`` and ``timm/NAME@TAG``, one checkpoint each, see
        `explorer.weights.pretrained`. An open stack is returned as it is, or what `every` and
        `only` leave of it.
    model : torch.nn.Module, optional
        The network the checkpoints belong to; its state dict must have the same names and shapes,
        but for prefixes such as ``module.``.
    layers : str, mapping, sequence or function, optional
        The layer scheme, see `explorer.weights.layers.group_layers`.
    epochs : sequence of int, optional
        Epoch of each checkpoint, rising, in the order of a list, else of the names; default what
        names or files say, or 0, 1, 2, …
    reader : str or function, optional
        Name of one of `explorer.readers`, or a function path → {name: tensor} for other formats,
        which reads everything at once; default the first reader that knows the files.
    key : str, optional
        Which state dict to take from files with several, for example ``"ema"``; keys of nested
        mappings are joined by dots.
    unit : str, optional
        ``"epoch"`` or ``"step"`` where names or files say both; default steps.
    every : int
        Keep each so-manieth checkpoint, from the first on, and the last.
    only : range, slice or sequence of int, optional
        Keep the checkpoints with these numbers; of a slice both ends.
    hub : explorer.inventory.hub.Hub, optional
        The hub with a disk budget, a folder or an offline mode of your own.

    Returns
    -------
    xarray.DataTree
        Coordinate ``epoch`` at the root; one node per layer; one variable per parameter or buffer
        with dims (epoch, …own dims…). Attributes: name, title, family, sizes, dataset, layers,
        content_hash, integrity, checkpoint_unit. ``integrity`` is ``"sha256"`` where the hash of
        every file is known and compared before the file is used, ``"hashes of the hub"``, or
        ``"unverified"``, where none is known. The last says what the numbers of ``epoch`` count:
        ``"epoch"`` completed passes or, where checkpoints lie within an epoch, ``"step"``
        optimiser steps; the dimension has one name for both. ``"checkpoint"``: there is only one,
        the trained network. Of files and state dicts also reader and notes (sentences on what was
        chosen or left out), and where there are any: prefixes (taken off the names), unmatched
        (names left alone), unreadable (number → why), recorded_error (test error of the
        checkpoint recorded_epoch as found in training, a fraction; what is measured is compared
        with it). Each variable's attributes: parameter (its
        name in the state dict), buffer, fan_in.

    Raises
    ------
    UnknownNameError
        Neither a stack nor a folder or file has this name.
    StackError
        The checkpoints do not fit each other, the model or the layer scheme.
    CheckpointError
        A file does not exist, or no checkpoint is usable. One that is damaged among others
        leaves them usable: whoever reads it gets this error.
    UsageError
        The model is none, see `explorer.weights.unwrapped`.
    """
    model = unwrapped(model)
    if isinstance(source, xr.DataTree):
        return _part_of(source, every, only)
    if isinstance(source, (str, Path)):
        put_back(Path(source))
    if isinstance(source, (str, Path)) and is_labelled(Path(source)):
        asked = {"model": model, "layers": layers, "epochs": epochs, "reader": reader}
        check_as_saved(source, **asked, key=key, unit=unit)
        return _part_of(_as_stack(open_labelled(Path(source))), every, only)
    if is_hub_address(source):
        wanted = only if only is not None else epochs
        return stack_tree(*hub_parts(source, model, layers, every, wanted, hub))
    if is_pretrained_name(source):
        return stack_tree(*pretrained_parts(source, layers, hub))
    entry = manifest_entry(source)
    if entry is not None:
        stack = stack_tree(*manifest_parts(entry, layers if layers is not None else "paper"))
        return _part_of(stack, every, only)
    collected = collect_checkpoints(source, Wanted(reader, key, unit, epochs, every, only))
    return stack_tree(*collected_parts(collected, model, layers))


def is_stack(tree: xr.DataTree) -> bool:
    """Say whether a tree still has the form of a stack, after whatever was done to it."""
    layers = tree.attrs.get("layers", ())
    whole = bool(len(layers)) and all(str(layer) in tree.children for layer in layers)
    return whole and _has_epochs(tree)


def _has_epochs(tree: xr.DataTree) -> bool:
    return "epoch" in tree.coords and tree.coords["epoch"].ndim == 1


def check_is_stack(stack: Any) -> None:
    """Refuse what is no stack.

    Raises
    ------
    StackError
        It is none, be it that it once was, or could be opened as one; or its epochs do not rise.
    """
    if not isinstance(stack, xr.DataTree) or not is_stack(stack):
        raise StackError(
            f"This {type(stack).__name__} is no stack.",
            "A stack has a coordinate epoch, and a node for each layer of its attribute 'layers'.",
            f"Open it first: explorer.open_stack({str(stack)!r})."
            if isinstance(stack, (str, Path))
            else "Pass what explorer.open_stack returns, or a selection of its epochs, of a single "
            "one as stack.isel(epoch=[0]).",
        )
    epochs = [int(epoch) for epoch in stack.coords["epoch"].values]
    if not epochs or any(a >= b for a, b in itertools.pairwise(epochs)):
        raise StackError(
            f"The epochs of this stack are {epochs}.",
            "At least one, rising, each once, is needed: the last is the trained network.",
            "Select them with stack.sel(epoch=[…]) in this order.",
        )


def _check_kind(stack: Any) -> None:
    """Refuse what is nothing like a stack, or one epoch taken out of it, which takes no time."""
    if not isinstance(stack, xr.DataTree) or not _has_epochs(stack):
        check_is_stack(stack)


def layer_names(stack: xr.DataTree) -> list[str]:
    """Layers of a stack, in forward order."""
    _check_kind(stack)
    return [str(name) for name in stack.attrs["layers"]]


def epoch_numbers(stack: xr.DataTree) -> list[int]:
    """Epochs of a stack, rising."""
    _check_kind(stack)
    return [int(epoch) for epoch in stack.coords["epoch"].values]


def layer_variables(stack: xr.DataTree, layer: str) -> dict[str, xr.DataArray]:
    """Variables of one layer, by their names in the state dict; nothing is read."""
    variables = stack.children[layer].to_dataset(inherit=False).data_vars.values()
    return {str(array.attrs["parameter"]): array for array in variables}


def layer_sizes(stack: xr.DataTree) -> dict[str, int]:
    """Trained numbers of each layer, its buffers left out; no tensor is read."""
    sizes = {}
    for layer in layer_names(stack):
        trained = [a for a in layer_variables(stack, layer).values() if not a.attrs["buffer"]]
        sizes[layer] = sum(
            math.prod(n for dim, n in array.sizes.items() if dim != "epoch") for array in trained
        )
    return sizes


def read_layer(stack: xr.DataTree, layer: str, epoch: int) -> dict[str, Array]:
    """Tensors of one layer at one epoch, by their names in the state dict.

    Raises
    ------
    UnknownNameError
        The stack has no such layer or epoch.
    CheckpointError
        The epoch's file is missing or altered.
    """
    if layer not in layer_names(stack):
        raise unknown_name("layer", layer, layer_names(stack))
    epochs = epoch_numbers(stack)
    if epoch not in epochs:
        raise unknown_name("epoch", epoch, epochs)
    position = epochs.index(epoch)
    variables = layer_variables(stack, layer)
    try:
        return {n: v.isel(epoch=position).values for n, v in variables.items()}
    except CheckpointError:  # it says which file
        raise
    except DAMAGE as error:  # of a netCDF or zarr file
        raise CheckpointError(
            f"{layer} at {epoch} cannot be read: {error}",
            "A whole stack as explorer.save_stack writes it is expected.",
            "Save it again, or copy it again as a whole; other layers and epochs stay usable.",
        ) from error


def read_epoch(stack: xr.DataTree, epoch: int) -> dict[str, Array]:
    """All tensors of one epoch, by their names in the state dict."""
    state: dict[str, Array] = {}
    for layer in layer_names(stack):
        state.update(read_layer(stack, layer, epoch))
    return state


def epochs_here(stack: xr.DataTree) -> list[int]:
    """Epochs whose checkpoints can be read without a download; nothing is read or asked for."""
    numbers = epoch_numbers(stack)
    layer = layer_variables(stack, layer_names(stack)[0])
    tensor = next(iter(layer.values())).variable
    here = []
    for position, number in enumerate(numbers):
        is_here = getattr(checkpoint_at(tensor, position), "is_here", None)
        if is_here is None or is_here():
            here.append(number)
    return here


def content_hash(stack: xr.DataTree) -> str:
    """Hash of a stack's content; from its manifest, else from every tensor, which reads them.

    A checkpoint that cannot be read counts as such, so that the others can still be measured.
    """
    known = str(stack.attrs.get("content_hash", ""))
    if known:
        return known
    digest = hashlib.sha256()
    for epoch in epoch_numbers(stack):
        digest.update(f"epoch {epoch}".encode())
        try:
            state = read_epoch(stack, epoch)
        except CheckpointError:
            digest.update(b"unreadable")
            continue
        for name, array in state.items():
            digest.update(f"{name} {array.dtype} {array.shape}".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def layers_hash(stack: xr.DataTree) -> str:
    """Hash of the layer scheme: which tensors each layer moves."""
    scheme = {layer: list(layer_variables(stack, layer)) for layer in layer_names(stack)}
    return hashlib.sha256(json.dumps(scheme).encode()).hexdigest()


def _summaries(stack: xr.DataTree) -> list[LayerSummary]:
    """What can be said of each layer without reading its tensors."""
    summaries = []
    for layer, parameters in layer_sizes(stack).items():
        arrays = stack.children[layer].to_dataset(inherit=False).data_vars.items()
        shapes = {
            str(short): tuple(n for dim, n in array.sizes.items() if dim != "epoch")
            for short, array in arrays
        }
        dtypes = tuple(dict.fromkeys(str(array.dtype) for _, array in arrays))
        summaries.append(LayerSummary(layer, parameters, shapes, dtypes))
    return summaries


def _as_stack(tree: xr.DataTree) -> Stack:
    """The same tree, with a stack's own page in a notebook."""
    layers = {str(layer): tree.children[str(layer)] for layer in tree.attrs["layers"]}
    nodes = {name: xr.DataTree(node.to_dataset(inherit=False)) for name, node in layers.items()}
    return Stack(tree.to_dataset(), children=nodes)


def _part_of(stack: xr.DataTree, every: int, only: Choice | None) -> xr.DataTree:
    """What is kept of an open stack; the stack itself where that is all."""
    if every == 1 and only is None:
        return stack
    return stack.isel(epoch=kept_positions(epoch_numbers(stack), every, only))


def stack_tree(
    checkpoints: Sequence[Checkpoint],
    epochs: Sequence[int],
    specs: Mapping[str, ArraySpec],
    layers: Mapping[str, tuple[str, ...]],
    buffers: Mapping[str, bool],
    attributes: Mapping[str, Any],
) -> xr.DataTree:
    """Put together what a stack is made of; nothing is read.

    Parameters
    ----------
    checkpoints : sequence of Checkpoint
        In the order of `epochs`; the last is the final network.
    epochs : sequence of int
        Their numbers.
    specs : mapping
        Name of a tensor → what it looks like.
    layers : mapping
        Layer → names of its tensors, in forward order.
    buffers : mapping
        Name of a tensor → whether it is a buffer.
    attributes : mapping
        Of the stack; its layers are added.

    Raises
    ------
    StackError
        The name of a tensor cannot be that of a variable.
    """
    shapes = {name: spec.shape for name, spec in specs.items()}
    shared = Checkpoints(checkpoints)
    in_parts = all(map(reads_parts, checkpoints))
    children = {}
    for layer, names in layers.items():
        variables = {}
        for name, short in short_names(names).items():
            tensor = StackedTensor(shared, name, specs[name])
            about = {"parameter": name, "buffer": buffers[name], "fan_in": fan_in(name, shapes)}
            variables[short] = stacked_variable(tensor, short, about, in_parts)
        children[layer] = xr.DataTree(xr.Dataset(variables))
    root = xr.Dataset(
        coords={"epoch": np.asarray(epochs, dtype=np.int64)},
        attrs={**attributes, "layers": list(layers)},
    )
    return Stack(root, children=children)
