"""Checkpoints around others: one that cannot be used, and one whose names are longer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from explorer.errors import CheckpointError
from explorer.weights.checkpoints import (
    Array,
    ArraySpec,
    Checkpoint,
    opened,
    part_of,
    reads_parts,
    spec_of,
)
from explorer.weights.safetensors_file import OpenTensor

Specs = Mapping[str, ArraySpec]
"""Names, dtypes and shapes of a checkpoint."""


@dataclass(frozen=True)
class BrokenCheckpoint:
    """A checkpoint that cannot be used; whoever reads it is told why."""

    parts: tuple[str, str, str]
    """What came, what would have been accepted, what to do."""
    in_parts = True

    def specs(self) -> dict[str, ArraySpec]:
        """Raise the reason."""
        raise CheckpointError(*self.parts)

    def read(self, name: str) -> Array:
        """Raise the reason."""
        raise CheckpointError(*self.parts)

    def read_part(self, name: str, key: Sequence[Any]) -> Array:
        """Raise the reason."""
        raise CheckpointError(*self.parts)


@dataclass(frozen=True)
class RenamedCheckpoint:
    """A checkpoint whose names begin with more than the network's."""

    checkpoint: Checkpoint
    """The one in the file."""
    prefix: str
    """What is put before a name to find it there; what does not begin with it is left alone."""

    @property
    def in_parts(self) -> bool:
        """Whether parts of tensors are read by themselves."""
        return reads_parts(self.checkpoint)

    def specs(self) -> dict[str, ArraySpec]:
        """Names, dtypes and shapes, without the prefix."""
        return below(self.prefix, self.checkpoint.specs())

    def spec(self, name: str) -> ArraySpec | None:
        """What one tensor looks like."""
        return spec_of(self.checkpoint, self.prefix + name)

    def read(self, name: str) -> Array:
        """Read one tensor."""
        return self.checkpoint.read(self.prefix + name)

    def read_part(self, name: str, key: Sequence[Any]) -> Array:
        """Read one tensor where each of its axes is indexed by itself."""
        return part_of(self.checkpoint, self.prefix + name, key)

    def opened(self, name: str, first: int) -> OpenTensor | None:
        """Open one tensor to take its values in pieces, where it lies in a file of that kind."""
        return opened(self.checkpoint, self.prefix + name, first)


def below(prefix: str, header: Specs) -> dict[str, ArraySpec]:
    """What of a header begins with a prefix, without it."""
    return {n.removeprefix(prefix): spec for n, spec in header.items() if n.startswith(prefix)}
