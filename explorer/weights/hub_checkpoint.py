"""One checkpoint of the hub: its tensors by name, and their values when they are looked at."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from explorer.errors import CheckpointError
from explorer.inventory.hub import Hub, Revision
from explorer.weights.checkpoints import NUMPY_DTYPES, Array, ArraySpec, array_spec, snapshot
from explorer.weights.hub_revisions import some_of

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
        arrays = snapshot(load_torch(self.hub.fetch(self.revision, file)), file)
        return {name: ArraySpec(_widened(a).dtype, a.shape) for name, a in arrays.items()}


def read_tensor(path: Path, name: str) -> Array:
    """Read one tensor of a file from the hub, halves widened to float32.

    Raises
    ------
    CheckpointError
        The file cannot be read, or holds anything but tensors.
    """
    if path.suffix != ".safetensors":
        return _widened(snapshot({name: load_torch(path)[name]}, str(path))[name])
    try:
        with safe_open(path, framework="numpy") as file:
            if file.get_slice(name).get_dtype() != "BF16":
                return _widened(file.get_tensor(name))
        return _bfloat16(path, name)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{name} cannot be read from {path}: {error}",
            "A whole safetensors file with this tensor is needed.",
            "Remove the file, so that it is downloaded anew; other checkpoints stay usable.",
        ) from error


def _widened(array: Array) -> Array:
    return array.astype(np.float32) if array.dtype == np.float16 else array


def _bfloat16(path: Path, name: str) -> Array:
    """Read bfloat16 without torch: the upper half of a float32."""
    with path.open("rb") as stream:
        start = int.from_bytes(stream.read(8), "little")
        about = json.loads(stream.read(start))[name]
        begin, end = about["data_offsets"]
        stream.seek(8 + start + begin)
        upper = np.frombuffer(stream.read(end - begin), "<u2")
    return (upper.astype("<u4") << 16).view("<f4").reshape(about["shape"])


def load_torch(path: Path) -> Mapping[str, Any]:
    """Tensors in a file of torch.save, mapped into memory where its format allows that.

    Raises
    ------
    CheckpointError
        The file is damaged, or holds anything but tensors.
    """
    import pickle  # only for the class of the error that torch raises

    import torch  # slow to import and not needed for safetensors

    try:
        state: Mapping[str, Any] = torch.load(
            path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path)
        )
    except (RuntimeError, EOFError, OSError, pickle.UnpicklingError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise CheckpointError(
            f"{path} cannot be read as a checkpoint: {first}",
            "A file of torch.save with nothing but tensors is needed; no code is run from it.",
            "Ask its owner for safetensors; other checkpoints stay usable.",
        ) from error
    return state


def _pieces(text: bytes, what: str) -> dict[str, str]:
    """Name of a tensor → its file, as an index of pieces says."""
    try:
        pieces: dict[str, str] = dict(json.loads(text)["weight_map"])
        "".join((*pieces, *pieces.values())).encode()  # all of them are texts
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(
            f"{what} is no index of pieces: {error}.",
            "A mapping 'weight_map' from names of tensors to files is expected.",
            "Leave this revision out with only=; the others stay usable.",
        ) from error
    return pieces


def _spec(name: str, dtype: str, shape: tuple[int, ...]) -> ArraySpec:
    if dtype not in (*NUMPY_DTYPES, "BF16"):
        raise CheckpointError(
            f"The tensor {name!r} has dtype {dtype}.",
            f"Read so far: {', '.join((*NUMPY_DTYPES, 'BF16'))}.",
            "Choose a repository whose weights are not quantised.",
        )
    spec = array_spec(dtype, shape, name)
    return ArraySpec(np.dtype(np.float32), shape) if dtype in HALVES else spec


def files_of_tensors(hub: Hub, revision: Revision) -> dict[str, str]:
    """Name of a tensor in the files → its file; pieces are known from their index."""
    there = hub.files(revision)
    for single in WEIGHTS:
        if single in there:
            if single.endswith(".safetensors"):
                return dict.fromkeys(hub.header(revision, single), single)
            return dict.fromkeys(load_torch(hub.fetch(revision, single)), single)
        index = f"{single}.index.json"
        if index in there:
            text = hub.fetch(revision, index).read_bytes()
            return _pieces(text, f"{index} of {revision}")
    raise CheckpointError(
        f"{revision} has no weights that can be read; it has {some_of(sorted(there))}.",
        f"{' or '.join(WEIGHTS)} is needed, or the index of its pieces.",
        "Leave this revision out with only=; the others stay usable.",
    )
