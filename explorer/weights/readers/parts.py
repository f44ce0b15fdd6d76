"""Checkpoints in several files: shards with an index, and one file per layer."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from explorer.errors import CheckpointError
from explorer.inventory.names import unsafe_name
from explorer.weights.checkpoints import (
    Array,
    ArraySpec,
    Checkpoint,
    SafetensorsCheckpoint,
    opened,
    part_of,
    reads_parts,
    spec_of,
    unreadable,
)
from explorer.weights.readers.torch_files import TorchCheckpoint
from explorer.weights.readers.when import When, count_in, when_inside
from explorer.weights.safetensors_file import OpenTensor

LAYER_FILE = re.compile(r"layer_(\d+)-model_(\d+)-model_states\.pt")
SHARD = re.compile(r"-\d{5}-of-\d{5}\.(safetensors|bin)$")
_WHOLE = (
    *("model.safetensors", "model.safetensors.index.json"),
    *("pytorch_model.bin", "pytorch_model.bin.index.json"),
)
"""Files of which the Trainer leaves one, the best first."""


LONGEST = 64_000_000
"""Bytes of an index or of notes on progress; reading JSON takes many times its size of memory."""


def read_json(path: Path) -> Any:
    """Content of an index, or of what a library notes beside its checkpoints.

    Raises
    ------
    OSError, ValueError
        It cannot be read, is longer than any should be, or is no JSON.
    RecursionError
        It is nested deeper than any should be.
    """
    size = path.stat().st_size
    if size > LONGEST:
        raise ValueError(f"it has {size} bytes, over {LONGEST}")
    return json.loads(path.read_text(encoding="utf-8"))


@dataclass(frozen=True)
class PartedCheckpoint:
    """Files that hold one network together."""

    parts: tuple[tuple[str, Checkpoint], ...]
    """What is put before a part's names, and the part."""

    @property
    def in_parts(self) -> bool:
        """Whether parts of tensors are read by themselves."""
        return all(reads_parts(part) for _, part in self.parts)

    def specs(self) -> dict[str, ArraySpec]:
        """Read names, dtypes and shapes of all parts."""
        return {
            before + name: spec
            for before, part in self.parts
            for name, spec in part.specs().items()
        }

    def spec(self, name: str) -> ArraySpec | None:
        """What one tensor looks like."""
        part, own = self._places.get(name, (None, ""))
        return spec_of(part, own) if part is not None else None

    def read(self, name: str) -> Array:
        """Read one tensor from the part that has it."""
        part, own = self._places[name]
        return part.read(own)

    def read_part(self, name: str, key: Sequence[Any]) -> Array:
        """Read one tensor where each of its axes is indexed by itself."""
        part, own = self._places[name]
        return part_of(part, own, key)

    def opened(self, name: str, first: int) -> OpenTensor | None:
        """Open one tensor to take its values in pieces, where its part is of that kind."""
        part, own = self._places[name]
        return opened(part, own, first)

    @cached_property
    def _places(self) -> dict[str, tuple[Checkpoint, str]]:
        return {before + name: (part, name) for before, part in self.parts for name in part.specs()}


def open_index(path: Path, key: str | None = None) -> Checkpoint:
    """Open the shards that an index such as ``model.safetensors.index.json`` names.

    Raises
    ------
    CheckpointError
        The index is damaged, or shards are missing.
    """
    files = sorted(set(pieces_in(path).values()))
    missing = [name for name in files if not (path.parent / name).is_file()]
    if missing:
        raise CheckpointError(
            f"{path.parent} is incomplete: {len(missing)} of {len(files)} shards are missing, "
            f"the first of them {missing[0]}.",
            f"Every file that {path.name} names is needed.",
            "Copy or fetch the missing files; the other checkpoints stay usable.",
        )
    return PartedCheckpoint(tuple(("", open_file(path.parent / name, key)) for name in files))


def pieces_in(path: Path) -> dict[str, str]:
    """Name of a tensor → name of the file that holds it, as an index says.

    Raises
    ------
    CheckpointError
        The index is damaged, or names a file elsewhere.
    """
    try:
        pieces = {str(name): file for name, file in read_json(path)["weight_map"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise unreadable(path, error) from error
    for file in pieces.values():
        reason = unsafe_name(file)
        if reason:
            raise CheckpointError(
                f"{path} names {file!r}, which {reason}.",
                "Names of files beside it, without a path, are accepted.",
                "Do not trust this checkpoint, or correct its index.",
            )
    return pieces


def open_file(path: Path, key: str | None = None) -> Checkpoint:
    """Open a single file by its suffix."""
    if path.suffix == ".safetensors":
        return SafetensorsCheckpoint(path)
    return TorchCheckpoint(path, key)


def open_trainer_folder(folder: Path, key: str | None = None) -> Checkpoint:
    """Open the network in a folder ``checkpoint-84``; optimiser and scheduler are left alone.

    Raises
    ------
    CheckpointError
        The folder is incomplete.
    """
    for name in _WHOLE:
        path = folder / name
        if path.is_file():
            return open_index(path, key) if name.endswith(".json") else open_file(path, key)
    there = sorted(path.name for path in folder.iterdir())
    shards = [name for name in there if SHARD.search(name)]
    lacking = "the index of its shards" if shards else "the network itself"
    raise CheckpointError(
        f"{folder} is incomplete: it lacks {lacking}. It holds {', '.join(there) or 'nothing'}.",
        f"One of {', '.join(_WHOLE)} is expected.",
        "Copy the missing files; saving may have been interrupted, then leave the folder out.",
    )


def trainer_when(folder: Path) -> When:
    """What the Trainer wrote down of its progress; an epoch counts when it is complete."""
    path = folder / "trainer_state.json"
    try:
        content = read_json(path)
    except (OSError, ValueError, RecursionError) as error:
        raise unreadable(path, error) from error
    return when_inside(content) if isinstance(content, dict) else When()


def safetensors_when(path: Path) -> When:
    """What the notes in a header say; our own files hold their epoch or step there."""
    try:
        with safe_open(path, framework="numpy") as file:
            notes = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise unreadable(path, error) from error
    return when_inside({name: count_in(text) for name, text in notes.items()})


def has_layer_files(folder: Path) -> bool:
    """Say whether a folder holds one file per layer."""
    return any(LAYER_FILE.fullmatch(path.name) for path in folder.glob("layer_*"))


def open_layer_files(folder: Path, key: str | None = None) -> Checkpoint:
    """Open one file per layer; ``layer_02`` puts ``2.`` before the names in it.

    Raises
    ------
    CheckpointError
        There is no such file, or layers are divided among several devices.
    """
    matches = [(LAYER_FILE.fullmatch(path.name), path) for path in folder.iterdir()]
    found = [(int(m[1]), int(m[2]), path) for m, path in matches if m]
    divided = [path.name for _, device, path in found if device]
    if divided or not found:
        raise CheckpointError(
            f"{folder} holds layers divided among devices, such as {min(divided)}."
            if divided
            else f"{folder} holds no file layer_00-model_00-model_states.pt or the like.",
            "One file per layer, all of them of model_00, is read.",
            "Merge the parts with the tools of the library that wrote them."
            if divided
            else "Copy the missing files.",
        )
    ordered = sorted((number, path) for number, _, path in found)
    return PartedCheckpoint(tuple((f"{n}.", TorchCheckpoint(path, key)) for n, path in ordered))
