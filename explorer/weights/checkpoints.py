"""What a checkpoint is, and two kinds of them: safetensors files, and state dicts in memory.

Other kinds are in `explorer.weights.readers`. Reading does not import torch, so that a bundled
stack opens at once.
"""

from __future__ import annotations

import errno
import functools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import save_file

from explorer.errors import CheckpointError
from explorer.inventory.placing import placed
from explorer.inventory.store import FileRecord, verified
from explorer.weights.safetensors_file import (
    Entry,
    Layout,
    OpenTensor,
    find_entry,
    outer,
    read_header,
    read_part,
    read_values,
)

Array = NDArray[Any]

NUMPY_DTYPES: Mapping[str, str] = {
    "F64": "float64",
    "F32": "float32",
    "F16": "float16",
    "I64": "int64",
    "I32": "int32",
    "I16": "int16",
    "I8": "int8",
    "U8": "uint8",
    "BOOL": "bool",
}
"""safetensors' names of the dtypes that numpy has; beside bfloat16 all else is refused by name."""

MOST_AXES = 63
"""Of a tensor; numpy's limit is 64, and a stack puts the epochs before them."""

MOST_ELEMENTS = 2**58
"""Of a tensor, its empty axes left out: so many that numpy can count the bytes of any dtype."""

WIDENED: Mapping[str, str] = {"BF16": "bfloat16", "bfloat16": "bfloat16"}
"""Names of bfloat16, which numpy does not have; it is read as float32, which holds it exactly."""


@dataclass(frozen=True)
class ArraySpec:
    """What a tensor looks like before it is read."""

    dtype: np.dtype[Any]
    """As numpy names it."""
    shape: tuple[int, ...]
    """Length of each dimension."""
    stored: str = field(default="", compare=False)
    """What it is in the file, where that is another dtype than it is read as."""


class Checkpoint(Protocol):
    """All tensors of one epoch, wherever they are."""

    def specs(self) -> dict[str, ArraySpec]:
        """Names, dtypes and shapes, without reading the tensors."""
        ...

    def read(self, name: str) -> Array:
        """Return one tensor's values."""
        ...


@dataclass(frozen=True)
class SafetensorsCheckpoint:
    """A safetensors file; one that a manifest vouches for is verified before each read."""

    source: Path | FileRecord
    """Where it lies, with expected size and hash if known."""
    in_parts = True

    def specs(self) -> dict[str, ArraySpec]:
        """Names, dtypes and shapes from the file's header; shared by files that agree in it."""
        return _specs(read_header(self._path()).layout)

    def read(self, name: str) -> Array:
        """Read one tensor."""
        path = self._path()
        halves, dtype = _stored(find_entry(path, name)[0], name)
        values = read_values(path, name, dtype)
        return widened(values) if halves else values

    def read_part(self, name: str, key: Sequence[Any]) -> Array:
        """Read one tensor where each of its axes is indexed by itself."""
        path = self._path()
        halves, dtype = _stored(find_entry(path, name)[0], name)
        values = read_part(path, name, dtype, key)
        return widened(values) if halves else values

    def opened(self, name: str, first: int) -> OpenTensor:
        """Open one tensor at one of its values, counted as they lie, to take those from there."""
        path = self._path()
        entry, begin = find_entry(path, name)
        halves, dtype = _stored(entry, name)
        offset = begin + first * dtype.itemsize
        return OpenTensor(path, offset, dtype, widened if halves else None)

    def _path(self) -> Path:
        return verified(self.source) if isinstance(self.source, FileRecord) else self.source


@functools.lru_cache(maxsize=64)
def _specs(layout: Layout) -> dict[str, ArraySpec]:
    return {
        name: array_spec(entry.dtype, entry.shape, name) for name, entry in layout.entries.items()
    }


def _stored(entry: Entry, name: str) -> tuple[bool, np.dtype[Any]]:
    """Whether a tensor is bfloat16, of which numpy takes the bits, and its dtype in the file."""
    halves = entry.dtype in WIDENED
    return halves, np.dtype("<u2") if halves else numpy_dtype(entry.dtype, name)


@dataclass(frozen=True)
class StateCheckpoint:
    """A state dict in memory."""

    arrays: Mapping[str, Array]
    """Name → values."""
    in_parts = True

    def specs(self) -> dict[str, ArraySpec]:
        """Return names, dtypes and shapes."""
        return {name: ArraySpec(a.dtype, a.shape) for name, a in self.arrays.items()}

    def read(self, name: str) -> Array:
        """Return one tensor's values."""
        return self.arrays[name]


def reads_parts(checkpoint: Checkpoint) -> bool:
    """Say whether a part of a tensor costs no more than its share; other kinds read all of it."""
    return bool(getattr(checkpoint, "in_parts", False))


def spec_of(checkpoint: Checkpoint, name: str) -> ArraySpec | None:
    """What one tensor looks like, asked without the others where this kind can."""
    spec = getattr(checkpoint, "spec", None)
    found: ArraySpec | None = spec(name) if spec else checkpoint.specs().get(name)
    return found


def part_of(checkpoint: Checkpoint, name: str, key: Sequence[Any]) -> Array:
    """Read one tensor where each of its axes is indexed by itself; not every kind reads parts."""
    read_part = getattr(checkpoint, "read_part", None)
    values: Array = read_part(name, key) if read_part else outer(checkpoint.read(name), key)
    return values


def opened(checkpoint: Checkpoint, name: str, first: int) -> OpenTensor | None:
    """Open one tensor to take its values in pieces; None of a kind that has no such files."""
    open_tensor = getattr(checkpoint, "opened", None)
    found: OpenTensor | None = open_tensor(name, first) if open_tensor else None
    return found


def snapshot(state: Mapping[str, Any], where: str) -> dict[str, Array]:
    """Copy a state dict of torch tensors or arrays, so that later training cannot change it.

    Raises
    ------
    CheckpointError
        Something in it is not a tensor.
    """
    if not isinstance(state, Mapping) or not state:
        raise CheckpointError(
            f"{where} holds a {type(state).__name__} without tensors.",
            "A mapping {name: tensor} is expected, such as net.state_dict().",
            "Take the state dict out of a checkpoint with more in it: content['state_dict'].",
        )
    arrays: dict[str, Array] = {}
    for name, value in state.items():
        if not hasattr(value, "shape") or not hasattr(value, "dtype"):
            raise CheckpointError(
                f"{where} holds a {type(value).__name__} under {name!r}.",
                "A flat mapping {name: tensor} is expected.",
                "For a nested checkpoint, pass reader=lambda path: load(path)['state_dict'].",
            )
        if hasattr(value, "detach"):  # a torch tensor, told without importing torch
            value = value.detach().cpu()
            value = value.float() if str(value.dtype) == "torch.bfloat16" else value
            value = value.numpy()
        arrays[str(name)] = np.array(value, copy=True)
    return arrays


def write_checkpoint(
    path: Path, arrays: Mapping[str, Array], number: int, unit: str = "epoch"
) -> None:
    """Write one epoch or optimiser step as a safetensors file, whole or not at all.

    Raises
    ------
    CheckpointError
        The folder cannot be written to, or the disk is full.
    """
    contiguous = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    write_tensors(path, contiguous, {unit: str(number)})


def write_tensors(path: Path, arrays: Mapping[str, Array], notes: Mapping[str, str]) -> None:
    """Write arrays that lie in one piece as a safetensors file, whole or not at all.

    Raises
    ------
    CheckpointError
        The folder cannot be written to, or the disk is full.
    """
    with placed(path) as temporary:
        try:
            save_file(dict(arrays), temporary, metadata=dict(notes))
        except SafetensorError as error:  # what the library makes of a full disk, too
            number = re.search(r"os error (\d+)", str(error))
            raise OSError(int(number[1]) if number else errno.EIO, str(error)) from error


def array_spec(dtype: str, shape: tuple[int, ...], tensor: str) -> ArraySpec:
    """What a tensor of a file will be, from its dtype in safetensors' or numpy's words.

    Raises
    ------
    CheckpointError
        The dtype is not read, or numpy has no array of this shape: one without elements may
        declare any lengths beside its zero.
    """
    if len(shape) > MOST_AXES or math.prod(n or 1 for n in shape) > MOST_ELEMENTS:
        raise CheckpointError(
            f"The tensor {tensor!r} has {len(shape)} axes, the longest of {max(shape):.3g}.",
            f"Up to {MOST_AXES} axes and {MOST_ELEMENTS:.3g} elements are read.",
            "Fetch or save the file again; other checkpoints of the stack stay usable.",
        )
    return ArraySpec(numpy_dtype(dtype, tensor), shape, WIDENED.get(dtype, ""))


def numpy_dtype(name: str, tensor: str) -> np.dtype[Any]:
    """numpy's dtype for safetensors' or numpy's name of it, or an error that names the tensor."""
    if name in WIDENED:
        return np.dtype("float32")
    if name in NUMPY_DTYPES.values():
        return np.dtype(name)
    if name not in NUMPY_DTYPES:
        raise CheckpointError(
            f"The tensor {tensor!r} has dtype {name}.",
            f"Read so far: {', '.join(NUMPY_DTYPES)}, BF16.",
            "Convert it first, for example with tensor.float().",
        )
    return np.dtype(NUMPY_DTYPES[name])


def widened(halves: Array) -> Array:
    """bfloat16, given as its bits in uint16, as the same numbers in float32."""
    return (halves.astype(np.uint32) << np.uint32(16)).view(np.float32)


def unreadable(path: Path, error: Exception) -> CheckpointError:
    """Build the error for a file that cannot be read, with the first line of the reason."""
    first = (str(error).splitlines() or [type(error).__name__])[0]
    return CheckpointError(
        f"{path} cannot be read as a checkpoint: {first}",
        "A whole safetensors file, or a file with nothing but tensors from torch.save, will do.",
        "Fetch or save it again; convert what others made with safetensors.torch.save_file.",
    )
