"""Checkpoint files: safetensors, torch's own format, and state dicts in memory.

Reading a safetensors checkpoint does not import torch, so that a bundled stack opens at once.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from explorer.errors import CheckpointError
from explorer.inventory.store import FileRecord, placed, verified
from explorer.weights.safetensors_file import (
    Layout,
    find_entry,
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
"""safetensors' names of the dtypes that numpy has; anything else is refused by name."""

SUFFIXES = (".safetensors", ".pt", ".pth")


@dataclass(frozen=True)
class ArraySpec:
    """What a tensor looks like before it is read."""

    dtype: np.dtype[Any]
    """As numpy names it."""
    shape: tuple[int, ...]
    """Length of each dimension."""


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

    def specs(self) -> dict[str, ArraySpec]:
        """Names, dtypes and shapes from the file's header; shared by files that agree in it."""
        return _specs(read_header(self._path()).layout)

    def read(self, name: str) -> Array:
        """Read one tensor."""
        path = self._path()
        return read_values(path, name, self._dtype(path, name))

    def read_part(self, name: str, key: Sequence[Any]) -> Array:
        """Read one tensor where each of its axes is indexed by itself."""
        path = self._path()
        return read_part(path, name, self._dtype(path, name), key)

    def _dtype(self, path: Path, name: str) -> np.dtype[Any]:
        return numpy_dtype(find_entry(path, name)[0].dtype, name)

    def _path(self) -> Path:
        return verified(self.source) if isinstance(self.source, FileRecord) else self.source


@functools.lru_cache(maxsize=64)
def _specs(layout: Layout) -> dict[str, ArraySpec]:
    return {
        name: ArraySpec(numpy_dtype(entry.dtype, name), entry.shape)
        for name, entry in layout.entries.items()
    }


@dataclass(frozen=True)
class StateCheckpoint:
    """A state dict in memory."""

    arrays: Mapping[str, Array]
    """Name → values."""

    def specs(self) -> dict[str, ArraySpec]:
        """Return names, dtypes and shapes."""
        return {name: ArraySpec(a.dtype, a.shape) for name, a in self.arrays.items()}

    def read(self, name: str) -> Array:
        """Return one tensor's values."""
        return self.arrays[name]


def open_checkpoint(
    path: Path, reader: Callable[[Path], Mapping[str, Any]] | None = None
) -> Checkpoint:
    """Open one checkpoint file.

    Parameters
    ----------
    path : Path
        A ``.safetensors`` file, or a ``.pt`` or ``.pth`` file that holds a flat state dict.
    reader : function, optional
        Path → {name: tensor or array}, for any other format.

    Returns
    -------
    Checkpoint

    Raises
    ------
    CheckpointError
        The file is missing, damaged, of another format, or holds something else than tensors.
    """
    if not path.exists():
        raise CheckpointError(
            f"There is no file {path}.",
            "An existing checkpoint file is needed.",
            "Check the path; a folder or a list of files will also do.",
        )
    if reader is not None:
        return StateCheckpoint(snapshot(reader(path), str(path)))
    if path.suffix == ".safetensors":
        return SafetensorsCheckpoint(path)
    if path.suffix in SUFFIXES:
        return StateCheckpoint(snapshot(_load_torch(path), str(path)))
    raise CheckpointError(
        f"{path} ends in {path.suffix!r}.",
        f"Checkpoint files end in {', '.join(SUFFIXES)}.",
        "Pass reader=, a function from the path to {name: tensor}, for other formats.",
    )


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
            "For a checkpoint with more in it, pass reader=lambda path: load(path)['state_dict'].",
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
    with placed(path) as temporary:
        save_file(contiguous, temporary, metadata={unit: str(number)})


def numpy_dtype(name: str, tensor: str) -> np.dtype[Any]:
    """numpy's dtype for safetensors' name of it, or an error that names both."""
    if name not in NUMPY_DTYPES:
        raise CheckpointError(
            f"The tensor {tensor!r} has dtype {name}.",
            f"Read so far: {', '.join(NUMPY_DTYPES)}.",
            "Convert it first, for example with tensor.float().",
        )
    return np.dtype(NUMPY_DTYPES[name])


def _load_torch(path: Path) -> Mapping[str, Any]:
    import pickle  # only for the class of the error that torch raises

    import torch  # slow to import and not needed for safetensors

    try:
        state: Mapping[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, OSError, pickle.UnpicklingError) as error:
        raise _unreadable(path, error) from error
    return state


def _unreadable(path: Path, error: Exception) -> CheckpointError:
    first = (str(error).splitlines() or [type(error).__name__])[0]
    return CheckpointError(
        f"{path} cannot be read as a checkpoint: {first}",
        "A whole safetensors file, or a file with nothing but tensors from torch.save, will do.",
        "Fetch or save it again; convert what others made with safetensors.torch.save_file.",
    )
