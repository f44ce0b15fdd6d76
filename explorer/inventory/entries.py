"""What a manifest says: stacks, their checkpoints and files, and what else can be trained."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from explorer.errors import ManifestError, unknown_name
from explorer.inventory.store import FileRecord

_DTYPE_BYTES = {"F64": 8, "I64": 8, "F32": 4, "I32": 4, "F16": 2, "BF16": 2, "I16": 2}


@dataclass(frozen=True)
class TensorSpec:
    """What a checkpoint holds under one name."""

    dtype: str
    """As safetensors names it, for example ``"F32"``."""
    shape: tuple[int, ...]
    """Length of each dimension."""
    buffer: bool = False
    """A buffer (running statistics) and not a parameter."""

    @property
    def count(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        """Size of the elements."""
        return _DTYPE_BYTES.get(self.dtype, 1) * self.count


@dataclass(frozen=True)
class CheckpointRecord:
    """One checkpoint of a stack."""

    epoch: int
    """Completed passes over the training set, or optimiser steps; 0 is initialisation."""
    record: FileRecord
    """The file that holds it."""


@dataclass(frozen=True)
class StackEntry:
    """One stack of the manifest."""

    name: str
    """What users type."""
    title: str
    """One line for people."""
    family: str
    """Name of the family."""
    sizes: Mapping[str, float]
    """Sizes of the family's member: counts, width multipliers, switches (0 or 1)."""
    dataset: str
    """Name of the dataset it was trained and is tested on."""
    recipe: Mapping[str, Any]
    """How it was trained; see the schema."""
    seed: int
    """Seed of initialisation and of the order of the examples."""
    licence: str
    """SPDX identifier."""
    citation: str
    """What to cite."""
    folder: Path
    """Where its files lie."""
    layers: Mapping[str, tuple[str, ...]]
    """Layer → names of its parameters and buffers, in forward order."""
    tensors: Mapping[str, TensorSpec]
    """Name in the state dict → what every checkpoint holds for it."""
    checkpoints: tuple[CheckpointRecord, ...]
    """In the order of their epochs."""
    train_error: float
    """Of the last checkpoint, fraction 0…1."""
    test_error: float
    """Of the last checkpoint, fraction 0…1."""
    sweep: FileRecord | None
    """Precomputed sweep (netCDF), if there is one."""
    unit: str = "epoch"
    """What the checkpoints' numbers count: ``"epoch"`` or ``"step"`` (optimiser steps)."""
    attributes: Mapping[str, Any] = field(default_factory=dict)
    """Further attributes that its open stack is to have."""

    @property
    def content_hash(self) -> str:
        """Hash of all its checkpoints, from theirs; no file is read."""
        digest = hashlib.sha256()
        for checkpoint in self.checkpoints:
            digest.update(f"{checkpoint.epoch} {checkpoint.record.sha256}\n".encode())
        return digest.hexdigest()


@dataclass(frozen=True)
class RecipeEntry:
    """What can be trained with one command, but is not bundled."""

    name: str
    """What users type after ``explorer train``."""
    title: str
    """One line for people."""
    family: str
    """Name of the family."""
    sizes: Mapping[str, float]
    """Sizes of the family's member."""
    dataset: str
    """Name of the dataset it is trained and tested on."""
    recipe: Mapping[str, Any]
    """How it is trained; see the schema."""
    seed: int
    """Seed of initialisation and of the order of the examples."""
    keep: tuple[int, ...]
    """Epochs whose checkpoint is kept."""
    parameters: int
    """Parameters of the network."""
    citation: str
    """What to cite."""


@dataclass(frozen=True)
class Manifest:
    """All stacks of one manifest file."""

    path: Path
    """The file it was read from."""
    stacks: Mapping[str, StackEntry]
    """Name → stack, in the file's order."""
    recipes: Mapping[str, RecipeEntry]
    """Name → what else can be trained, in the file's order."""

    def __getitem__(self, name: str) -> StackEntry:
        """Return the stack of this name, or say which names there are."""
        if name not in self.stacks:
            raise unknown_name("stack", name, self.stacks)
        return self.stacks[name]

    @property
    def first(self) -> StackEntry:
        """The stack of a stack.json, which holds one.

        Raises
        ------
        ManifestError
            It holds none.
        """
        for entry in self.stacks.values():
            return entry
        raise ManifestError(
            f"{self.path} describes no stack.",
            "One stack is expected, under 'stacks' or 'copies'.",
            "Train or save the stack again, or remove the file and open the checkpoints.",
        )
