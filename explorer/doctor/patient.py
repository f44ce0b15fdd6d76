"""The checkpoints of a stack, opened one by one so that a damaged one does not hide the others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import xarray as xr

from explorer.doctor.findings import Finding
from explorer.doctor.pieces import pieces_of
from explorer.errors import ExplorerError, ManifestError, StackError
from explorer.inventory.entries import StackEntry
from explorer.inventory.manifest import load_manifest
from explorer.inventory.store import STACK_FILE, FileRecord
from explorer.weights.checkpoints import (
    Array,
    ArraySpec,
    Checkpoint,
    SafetensorsCheckpoint,
    numpy_dtype,
)
from explorer.weights.fitting import prefix_of
from explorer.weights.layers import LayerScheme, group_layers, is_buffer
from explorer.weights.readers.finding import ReaderFunction, pieces_below
from explorer.weights.sources import Collected, Wanted, collect_checkpoints
from explorer.weights.stack import epoch_numbers, layer_names, layer_variables, open_stack
from explorer.weights.wrapped import RenamedCheckpoint


@dataclass(frozen=True)
class Item:
    """One checkpoint, as far as it could be opened."""

    number: int
    """Epoch or step."""
    file: str
    """Where it is."""
    checkpoint: Checkpoint | None
    """What reads it; None where it could not be opened."""
    specs: Mapping[str, ArraySpec]
    """What is in it; empty where it could not be opened."""
    record: FileRecord | None = None
    """The file that a manifest vouches for, if one does."""
    problem: str = ""
    """Why it could not be opened."""


@dataclass(frozen=True)
class Patient:
    """A stack that is to be examined."""

    name: str
    """Its name, or where it was read from."""
    unit: str
    """What the numbers count."""
    items: tuple[Item, ...]
    """In the order of their numbers."""
    specs: Mapping[str, ArraySpec]
    """What each checkpoint should hold: as the manifest says, else as most of them have it."""
    layers: Mapping[str, Sequence[str]]
    """Layer → its tensors; every name of `specs` is in one of them."""
    buffers: frozenset[str]
    """Names of tensors that are not trained."""
    family: str = ""
    """Family in the manifest, if known."""
    sizes: Mapping[str, Any] | None = None
    """Its sizes."""
    folder: Path | None = None
    """Where the files lie, if in one folder."""
    remarks: tuple[Finding, ...] = ()
    """What was noticed while it was opened."""

    @property
    def layer_of(self) -> dict[str, str]:
        """Tensor → layer."""
        return {name: layer for layer, names in self.layers.items() for name in names}

    @property
    def parameters(self) -> list[str]:
        """Tensors that are trained, and so move."""
        return [
            n for n, spec in self.specs.items() if n not in self.buffers and spec.dtype.kind == "f"
        ]


@dataclass(frozen=True)
class _TreeCheckpoint:
    """One epoch of an open stack."""

    variables: Mapping[str, xr.DataArray]
    position: int

    def specs(self) -> dict[str, ArraySpec]:
        return {name: ArraySpec(v.dtype, v.shape[1:]) for name, v in self.variables.items()}

    def read(self, name: str) -> Array:
        values: Array = self.variables[name].isel(epoch=self.position).values
        return values


def open_patient(
    source: Any,
    model: Any = None,
    layers: LayerScheme | None = None,
    reader: ReaderFunction | None = None,
) -> Patient:
    """Open a stack for examination.

    Raises
    ------
    ExplorerError
        There is nothing to examine: no such stack, or a folder without checkpoints.
    """
    if isinstance(source, (str, Path)):
        try:
            entry = _manifest_entry(source)
        except ManifestError as error:
            remark = Finding("error", "hashes", error.came, error.advice)
            folder = Path(source)
            files = [path for path, _ in pieces_below(folder, reader)]
            bare = _opened(files, model, layers, reader)
            return replace(bare, name=str(source), folder=folder, remarks=(remark, *bare.remarks))
        if entry is not None:
            return _from_entry(entry, layers)
    return _opened(source, model, layers, reader)


def _opened(
    source: Any, model: Any, layers: LayerScheme | None, reader: ReaderFunction | None
) -> Patient:
    """Open a source as a whole, or where that fails piece by piece."""
    if not isinstance(source, (str, Path, xr.DataTree)) and isinstance(source, Iterable):
        source = list(source)  # state dicts, which may have to be looked at twice
    said = ""
    try:
        stack = open_stack(source, model=model, layers=layers, reader=reader)
        if not stack.attrs.get("unreadable"):
            return _from_tree(stack, source)
        found = collect_checkpoints(source, Wanted(reader))
    except ExplorerError as error:
        found = pieces_of(source, reader)
        if not found.checkpoints:
            raise
        if len(found.checkpoints) > 1:  # of a single one, its own finding says it
            said = f"explorer.open_stack refuses them: {error.came}"
    return _from_items(_items(found, model), source, model, layers, said, found.unit)


def _items(found: Collected, model: Any) -> list[Item]:
    """Checkpoints as the readers of their kind number them, each looked into by itself."""
    expected = None
    if model is not None:
        expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    items = []
    for number, label, one in zip(found.numbers, found.labels, found.checkpoints, strict=True):
        try:
            header = one.specs()
        except ExplorerError as error:
            items.append(Item(number, label, None, {}, problem=error.came))
            continue
        prefix = prefix_of(list(header), expected)
        opened = RenamedCheckpoint(one, prefix) if prefix else one
        items.append(Item(number, label, opened, opened.specs()))
    return items


def _manifest_entry(source: str | Path) -> StackEntry | None:
    """Find what a stack.json or the catalog says of a stack."""
    beside = Path(source) / STACK_FILE
    if beside.is_file():
        return load_manifest(beside).first
    return load_manifest().stacks.get(str(source))


def _from_entry(entry: StackEntry, layers: LayerScheme | None) -> Patient:
    scheme = layers if layers is not None else "paper"
    return Patient(
        name=entry.name,
        unit=entry.unit,
        items=tuple(_recorded(one.epoch, one.record) for one in entry.checkpoints),
        specs={n: ArraySpec(numpy_dtype(s.dtype, n), s.shape) for n, s in entry.tensors.items()},
        layers=group_layers(list(entry.tensors), scheme, entry.layers),
        buffers=frozenset(n for n, spec in entry.tensors.items() if spec.buffer),
        family=entry.family,
        sizes=entry.sizes,
        folder=entry.folder,
    )


def _recorded(number: int, record: FileRecord) -> Item:
    checkpoint = SafetensorsCheckpoint(record.path)  # not verified: what it holds is examined too
    try:
        return Item(number, record.file, checkpoint, checkpoint.specs(), record)
    except ExplorerError as error:
        return Item(number, record.file, None, {}, record, error.came)


def _from_tree(stack: xr.DataTree, source: Any) -> Patient:
    if not epoch_numbers(stack):
        raise StackError(
            "The stack has no checkpoints.",
            "At least one is needed.",
            "Select some of its epochs.",
        )
    unit = str(stack.attrs.get("checkpoint_unit") or "epoch")
    layers = {layer: layer_variables(stack, layer) for layer in layer_names(stack)}
    variables = {name: v for members in layers.values() for name, v in members.items()}
    opened = [_TreeCheckpoint(variables, at) for at in range(len(epoch_numbers(stack)))]
    specs = _TreeCheckpoint(variables, 0).specs()
    return Patient(
        name=str(stack.attrs.get("name") or "stack"),
        unit=unit,
        items=tuple(
            Item(number, f"{unit} {number}", one, specs)
            for number, one in zip(epoch_numbers(stack), opened, strict=True)
        ),
        specs=specs,
        layers={layer: list(members) for layer, members in layers.items()},
        buffers=frozenset(name for name, v in variables.items() if v.attrs.get("buffer")),
        family=str(stack.attrs.get("family") or ""),
        sizes=stack.attrs.get("sizes"),
        folder=_folder_of(source),
    )


def _from_items(
    items: Sequence[Item],
    source: Any,
    model: Any,
    layers: LayerScheme | None,
    said: str,
    unit: str,
) -> Patient:
    """A stack whose checkpoints do not fit each other; at least one of them can be read."""
    specs = _commonest(items)
    if model is not None:
        expected = model.state_dict()
        float32 = ArraySpec(numpy_dtype("F32", ""), ())
        specs = {
            n: ArraySpec(specs.get(n, float32).dtype, tuple(t.shape)) for n, t in expected.items()
        }
    return Patient(
        name=str(source) if isinstance(source, (str, Path)) else "checkpoints",
        unit=unit,
        items=tuple(sorted(items, key=lambda item: (item.number, item.file))),
        specs=specs,
        layers=group_layers(list(specs), layers),
        buffers=frozenset(filter(is_buffer, specs)),
        folder=_folder_of(source),
        remarks=(Finding("note", "checkpoints", said),) if said else (),
    )


def _commonest(items: Sequence[Item]) -> dict[str, ArraySpec]:
    """Dtype and shape of each tensor as most of the checkpoints have it."""
    seen: dict[str, Counter[ArraySpec]] = {}
    for item in items:
        for name, spec in item.specs.items():
            seen.setdefault(name, Counter())[spec] += 1
    return {name: counts.most_common(1)[0][0] for name, counts in seen.items()}


def _folder_of(source: Any) -> Path | None:
    path = Path(source) if isinstance(source, (str, Path)) else None
    return path if path is not None and path.is_dir() else None
