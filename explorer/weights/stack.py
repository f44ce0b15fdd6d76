"""Stacks: the checkpoints of one training run as a lazy xarray.DataTree."""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from xarray.core import indexing

from explorer.errors import CheckpointError, StackError, UnknownNameError, unknown_name
from explorer.inventory.entries import StackEntry
from explorer.inventory.manifest import load_manifest
from explorer.inventory.store import STACK_FILE
from explorer.weights.checkpoints import (
    Array,
    ArraySpec,
    Checkpoint,
    SafetensorsCheckpoint,
    array_spec,
    reads_parts,
)
from explorer.weights.fitting import fitted, reading_notes
from explorer.weights.hub_stack import hub_parts, is_hub_address
from explorer.weights.labelled import DAMAGE, check_as_saved, is_labelled, open_labelled
from explorer.weights.layers import LayerScheme, fan_in, group_layers, is_buffer, short_names
from explorer.weights.lazy import Checkpoints, StackedTensor
from explorer.weights.numbering import Choice, kept_positions
from explorer.weights.overview import LayerSummary, stack_page
from explorer.weights.pretrained import is_pretrained_name, pretrained_parts
from explorer.weights.readers.finding import Asked
from explorer.weights.sources import Collected, Wanted, collect_checkpoints, is_pattern

logger = logging.getLogger(__name__)

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
        content_hash, checkpoint_unit. The last says what the numbers of ``epoch`` count:
        ``"epoch"`` completed passes or, where checkpoints lie within an epoch, ``"step"``
        optimiser steps; the dimension has one name for both. ``"checkpoint"``: there is only one,
        the trained network. Of files and state dicts also reader and notes (sentences on what was
        chosen or left out), and where there are any: prefixes (taken off the names), unmatched
        (names left alone), unreadable (number → why). Each variable's attributes: parameter (its
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
    """
    if isinstance(source, xr.DataTree):
        return _part_of(source, every, only)
    if isinstance(source, (str, Path)) and is_labelled(Path(source)):
        asked = {"model": model, "layers": layers, "epochs": epochs, "reader": reader}
        check_as_saved(source, **asked, key=key, unit=unit)
        return _part_of(_as_stack(open_labelled(Path(source))), every, only)
    if is_hub_address(source):
        wanted = only if only is not None else epochs
        return _tree(*hub_parts(source, model, layers, every, wanted, hub))
    if is_pretrained_name(source):
        return _tree(*pretrained_parts(source, layers, hub))
    entry = _manifest_entry(source)
    if entry is not None:
        stack = _from_manifest(entry, layers if layers is not None else "paper")
        return _part_of(stack, every, only)
    collected = collect_checkpoints(source, Wanted(reader, key, unit, epochs, every, only))
    return _from_checkpoints(collected, model, layers)


def is_stack(tree: xr.DataTree) -> bool:
    """Say whether a tree still has the form of a stack, after whatever was done to it."""
    layers = tree.attrs.get("layers", ())
    whole = bool(len(layers)) and all(str(layer) in tree.children for layer in layers)
    return whole and "epoch" in tree.coords and tree.coords["epoch"].ndim == 1


def layer_names(stack: xr.DataTree) -> list[str]:
    """Layers of a stack, in forward order."""
    return [str(name) for name in stack.attrs["layers"]]


def epoch_numbers(stack: xr.DataTree) -> list[int]:
    """Epochs of a stack, rising."""
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
    if epoch not in epoch_numbers(stack):
        raise unknown_name("epoch", epoch, epoch_numbers(stack))
    position = epoch_numbers(stack).index(epoch)
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


def _manifest_entry(source: object) -> StackEntry | None:
    """Find the manifest's record of a named stack or of a folder that holds a stack.json."""
    if not isinstance(source, (str, Path)):
        return None
    folder = Path(source)
    if (folder / STACK_FILE).is_file():
        return load_manifest(folder / STACK_FILE).first
    if folder.name != str(source) and folder.exists():
        return None  # a path, which no stack has for its name
    manifest = load_manifest()
    stacks = manifest.stacks
    if str(source) in stacks:
        return stacks[str(source)]
    if folder.exists() or is_pattern(source):
        return None
    if str(source) in manifest.recipes:
        raise UnknownNameError(
            f"There is no stack {str(source)!r} here, but a recipe for it.",
            f"Known: {', '.join(stacks)}. A folder or a checkpoint file will also do.",
            f"Run explorer train {source} --out FOLDER, and open the folder.",
        )
    error = unknown_name("stack", str(source), stacks)
    raise UnknownNameError(
        error.came, f"{error.accepted} A folder or a checkpoint file will also do.", error.advice
    )


def _from_manifest(entry: StackEntry, layers: LayerScheme) -> xr.DataTree:
    specs = {name: array_spec(spec.dtype, spec.shape, name) for name, spec in entry.tensors.items()}
    digest = hashlib.sha256()
    for checkpoint in entry.checkpoints:
        digest.update(f"{checkpoint.epoch} {checkpoint.record.sha256}\n".encode())
    return _tree(
        [SafetensorsCheckpoint(c.record) for c in entry.checkpoints],
        [c.epoch for c in entry.checkpoints],
        specs,
        group_layers(list(specs), layers, entry.layers),
        {name: spec.buffer for name, spec in entry.tensors.items()},
        {
            "name": entry.name,
            "title": entry.title,
            "family": entry.family,
            "sizes": dict(entry.sizes),
            "dataset": entry.dataset,
            "content_hash": digest.hexdigest(),
            "checkpoint_unit": entry.unit,
            **entry.attributes,
        },
    )


def _part_of(stack: xr.DataTree, every: int, only: Choice | None) -> xr.DataTree:
    """What is kept of an open stack; the stack itself where that is all."""
    if every == 1 and only is None:
        return stack
    return stack.isel(epoch=kept_positions(epoch_numbers(stack), every, only))


def _from_checkpoints(collected: Collected, model: Any, layers: LayerScheme | None) -> xr.DataTree:
    expected = model and {name: tuple(t.shape) for name, t in model.state_dict().items()}
    fit = fitted(collected.checkpoints, collected.labels, expected)
    buffers = {n: is_buffer(n) for n in fit.specs}
    if model is not None:
        parameters = {n for n, _ in model.named_parameters(remove_duplicate=False)}
        buffers = {n: n not in parameters for n in fit.specs}
    notes = [*collected.notes, *reading_notes(fit)]
    for note in notes:
        logger.info("%s: %s", collected.name, note)
    for k, reason in fit.unreadable.items():
        logger.warning("%s %d cannot be used: %s", collected.unit, collected.numbers[k], reason)
    particular = {
        "prefixes": list(fit.prefixes),
        "unmatched": list(fit.unmatched),
        "unreadable": {str(collected.numbers[k]): why for k, why in fit.unreadable.items()},
    }
    return _tree(
        fit.checkpoints,
        collected.numbers,
        fit.specs,
        group_layers(list(fit.specs), layers),
        buffers,
        {
            **{"name": collected.name, "title": collected.name},
            **{"family": "", "sizes": {}, "dataset": "", "content_hash": ""},
            **{"checkpoint_unit": collected.unit, "reader": collected.reader, "notes": notes},
            **{key: value for key, value in particular.items() if value},
        },
    )


def _tree(
    checkpoints: Sequence[Checkpoint],
    epochs: Sequence[int],
    specs: Mapping[str, ArraySpec],
    layers: Mapping[str, tuple[str, ...]],
    buffers: Mapping[str, bool],
    attributes: Mapping[str, Any],
) -> xr.DataTree:
    shapes = {name: spec.shape for name, spec in specs.items()}
    in_parts = all(map(reads_parts, checkpoints))
    variable = functools.partial(
        _variable, Checkpoints(checkpoints), specs=specs, buffers=buffers, in_parts=in_parts
    )
    children = {}
    for layer, names in layers.items():
        short = short_names(names)
        _check_variables(short)
        variables = {short[n]: variable(n, short[n], inputs=fan_in(n, shapes)) for n in names}
        children[layer] = xr.DataTree(xr.Dataset(variables))
    root = xr.Dataset(
        coords={"epoch": np.asarray(epochs, dtype=np.int64)},
        attrs={**attributes, "layers": list(layers)},
    )
    return Stack(root, children=children)


def _check_variables(short: Mapping[str, str]) -> None:
    for name, variable in short.items():
        if "/" in variable:
            raise StackError(
                f"The tensor {name!r} would become the variable {variable!r}.",
                "A name without '/', which xarray reserves, is needed.",
                "Rename it with reader=, a function from the path to {name: tensor}.",
            )


def _variable(
    checkpoints: Sequence[Checkpoint],
    name: str,
    short: str,
    *,
    specs: Mapping[str, ArraySpec],
    buffers: Mapping[str, bool],
    inputs: int,
    in_parts: bool,
) -> xr.Variable:
    array = StackedTensor(checkpoints, name, specs[name])
    dims = ("epoch", *(f"{short}_{k}" for k in range(len(specs[name].shape))))
    attributes = {"parameter": name, "buffer": buffers[name], "fan_in": inputs}
    chunks = {"epoch": 1}  # a chunk of dask is one checkpoint
    if not in_parts:
        chunks |= dict(zip(dims[1:], specs[name].shape, strict=True))
    encoding = {"preferred_chunks": chunks}
    return xr.Variable(dims, indexing.LazilyIndexedArray(array), attributes, encoding)
