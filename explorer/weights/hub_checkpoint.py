"""One checkpoint of the hub: its tensors by name, and their values when they are looked at."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from explorer.errors import CheckpointError
from explorer.inventory.hub import Hub, Revision
from explorer.weights.checkpoints import NUMPY_DTYPES, Array, ArraySpec
from explorer.weights.hub_revisions import some_of
from explorer.weights.readers.parts import open_file, pieces_in

WEIGHTS = ("model.safetensors", "pytorch_model.bin")
"""Files of weights, the better one first; each may be in pieces that FILE.index.json lists."""

HALVES = ("F16", "BF16")
"""Types that are widened to float32 when they are read, which loses nothing."""


@dataclass(eq=False)
class HubCheckpoint:
    """A revision whose files are downloaded when the first of their tensors is read."""

    hub: Hub
    """Where it is downloaded from, and to."""
    revision: Revision
    """Which one."""
    names: Callable[[Iterable[str]], Mapping[str, str]]
    """Names in the files → our name and theirs, of the tensors that are used."""
    _homes: dict[str, tuple[str, str]] = field(default_factory=dict)

    def homes(self) -> dict[str, tuple[str, str]]:
        """Our name of a tensor → the file it is in, and its name there."""
        if not self._homes:
            where = files_of_tensors(self.hub, self.revision)
            self._homes = {our: (where[n], n) for our, n in self.names(where).items()}
        return self._homes

    def specs(self) -> dict[str, ArraySpec]:
        """Names, dtypes and shapes; of safetensors without downloading the weights."""
        homes = self.homes()
        headers = {file: self._header(file) for file in {file for file, _ in homes.values()}}
        return {our: headers[file][name] for our, (file, name) in homes.items()}

    def read(self, name: str) -> Array:
        """Read one tensor; the file it is in is downloaded first, if it is not here."""
        homes = self.homes()
        if name not in homes:
            raise CheckpointError(
                f"{self.revision} has no tensor {name}.",
                "All checkpoints of a stack have the same tensors.",
                "Leave this one out with only=; the others stay usable.",
            )
        file, own = homes[name]
        return read_tensor(self.hub.fetch(self.revision, file), own)

    def _header(self, file: str) -> dict[str, ArraySpec]:
        if file.endswith(".safetensors"):
            header = self.hub.header(self.revision, file)
            return {name: _spec(name, dtype, shape) for name, (dtype, shape) in header.items()}
        found = open_file(self.hub.fetch(self.revision, file)).specs()
        half, single = np.dtype(np.float16), np.dtype(np.float32)
        return {
            n: ArraySpec(single if s.dtype == half else s.dtype, s.shape) for n, s in found.items()
        }


def read_tensor(path: Path, name: str) -> Array:
    """Read one tensor of a file from the hub, halves widened to float32.

    Raises
    ------
    CheckpointError
        The file cannot be read, or would run code.
    """
    return _widened(open_file(path).read(name))


def _widened(array: Array) -> Array:
    return array.astype(np.float32) if array.dtype == np.float16 else array


def _spec(name: str, dtype: str, shape: tuple[int, ...]) -> ArraySpec:
    if dtype in HALVES:
        return ArraySpec(np.dtype(np.float32), shape)
    if dtype not in NUMPY_DTYPES:
        raise CheckpointError(
            f"The tensor {name!r} has dtype {dtype}.",
            f"Read so far: {', '.join((*NUMPY_DTYPES, 'BF16'))}.",
            "Choose a repository whose weights are not quantised.",
        )
    return ArraySpec(np.dtype(NUMPY_DTYPES[dtype]), shape)


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
