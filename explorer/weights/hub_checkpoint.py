"""One checkpoint of the hub: its tensors by name, and their values when they are looked at."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from explorer.errors import CheckpointError, StackError
from explorer.inventory.hub import Hub
from explorer.inventory.hub_folder import Revision
from explorer.weights.checkpoints import (
    Array,
    ArraySpec,
    Checkpoint,
    array_spec,
    opened,
    part_of,
    spec_of,
)
from explorer.weights.hub_revisions import some_of
from explorer.weights.readers.parts import open_file, pieces_in
from explorer.weights.safetensors_file import OpenTensor

WEIGHTS = ("model.safetensors", "pytorch_model.bin")
"""Files of weights, the better one first; each may be in pieces that FILE.index.json lists."""


@dataclass(eq=False)
class HubCheckpoint:
    """A revision whose files are downloaded when the first of their tensors is read."""

    hub: Hub
    """Where it is downloaded from, and to."""
    revision: Revision
    """Which one."""
    names: Callable[[Iterable[str]], Mapping[str, str]]
    """Names in the files → our name and theirs, of the tensors that are used."""
    in_parts = True
    _homes: dict[str, tuple[str, str]] = field(default_factory=dict)

    def homes(self) -> dict[str, tuple[str, str]]:
        """Our name of a tensor → the file it is in, and its name there."""
        if not self._homes:
            where = files_of_tensors(self.hub, self.revision)
            self._homes = {our: (where[n], n) for our, n in self.names(where).items()}
        return self._homes

    def is_here(self) -> bool:
        """Whether all of it can be read without a download; the hub is not asked."""
        try:
            homes = replace(self, hub=self.hub.without_connection(), _homes={}).homes()
        except (CheckpointError, StackError):  # its list of files or tensors is not known here
            return False
        return all(self.hub.is_here(self.revision, file) for file in {f for f, _ in homes.values()})

    def specs(self) -> dict[str, ArraySpec]:
        """Names, dtypes and shapes; of safetensors without downloading the weights."""
        homes = self.homes()
        headers = {file: self._header(file) for file in {file for file, _ in homes.values()}}
        return {our: headers[file][name] for our, (file, name) in homes.items()}

    def spec(self, name: str) -> ArraySpec | None:
        """What one tensor looks like in its file, which is downloaded if it is not here."""
        file, own = self._place(name)
        found = spec_of(file, own)
        return found and _widened_spec(found)

    def read(self, name: str) -> Array:
        """Read one tensor; the file it is in is downloaded first, if it is not here."""
        file, own = self._place(name)
        return _widened(file.read(own))

    def read_part(self, name: str, key: Sequence[Any]) -> Array:
        """Read one tensor where each of its axes is indexed by itself."""
        file, own = self._place(name)
        return _widened(part_of(file, own, key))

    def opened(self, name: str, first: int) -> OpenTensor | None:
        """Open one tensor to take its values in pieces, where it lies in safetensors."""
        file, own = self._place(name)
        return opened(file, own, first)  # halves stay halves: who compares them widens them

    def _place(self, name: str) -> tuple[Checkpoint, str]:
        """The file that a tensor is in, and its name there."""
        homes = self.homes()
        if name not in homes:
            raise CheckpointError(
                f"{self.revision} has no tensor {name}.",
                "All checkpoints of a stack have the same tensors.",
                "Leave this one out with only=; the others stay usable.",
            )
        file, own = homes[name]
        return open_file(self.hub.fetch(self.revision, file)), own

    def _header(self, file: str) -> dict[str, ArraySpec]:
        if file.endswith(".safetensors"):
            header = self.hub.header(self.revision, file)
            found = {name: array_spec(*one, name) for name, one in header.items()}
        else:
            found = open_file(self.hub.fetch(self.revision, file)).specs()
        return {name: _widened_spec(spec) for name, spec in found.items()}


def _widened(array: Array) -> Array:
    return array.astype(np.float32) if array.dtype == np.float16 else array


def _widened_spec(spec: ArraySpec) -> ArraySpec:
    """What a tensor is read as: halves as float32, which loses nothing."""
    if spec.dtype != np.float16:
        return spec
    return ArraySpec(np.dtype(np.float32), spec.shape, "float16")


def files_of_tensors(hub: Hub, revision: Revision) -> dict[str, str]:
    """Name of a tensor in the files → its file; pieces are known from their index."""
    there = hub.files(revision)
    for single in WEIGHTS:
        if single in there:
            if single.endswith(".safetensors"):
                return dict.fromkeys(hub.header(revision, single), single)
            return dict.fromkeys(open_file(hub.fetch(revision, single)).specs(), single)
        index = f"{single}.index.json"
        if index in there:
            pieces = pieces_in(hub.fetch(revision, index))
            absent = [file for file in pieces.values() if file not in there]
            if absent:
                raise CheckpointError(
                    f"{index} of {revision} names {absent[0]!r}, which is not there.",
                    f"There are {some_of(sorted(there))}.",
                    "Leave this revision out with only=; the others stay usable.",
                )
            return pieces
    raise CheckpointError(
        f"{revision} has no weights that can be read; it has {some_of(sorted(there))}.",
        f"{' or '.join(WEIGHTS)} is needed, or the index of its pieces.",
        "Leave this revision out with only=; the others stay usable.",
    )
