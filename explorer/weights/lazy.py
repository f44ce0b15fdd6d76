"""Tensors of many checkpoints as one array that is read only where it is looked at."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, overload

import numpy as np
import xarray as xr
from xarray.backends import BackendArray
from xarray.core import indexing

from explorer.errors import StackError
from explorer.weights.checkpoints import Array, ArraySpec, Checkpoint, opened, spec_of
from explorer.weights.safetensors_file import OpenTensor, outer

MOST_KEPT = 10_000_000
"""Bytes of pickled checkpoints that are kept for the next time."""


class Checkpoints(Sequence[Checkpoint]):
    """The checkpoints that all tensors of a stack share.

    dask and multiprocessing pickle each tensor by itself. With a thousand files that would pickle
    a thousand paths each time; so they are pickled once, and unpickled when one is looked at.
    """

    def __init__(self, checkpoints: Iterable[Checkpoint]) -> None:
        self._all: tuple[Checkpoint, ...] | None = tuple(checkpoints)
        self._length = len(self._all)
        self._pickled: bytes | None = None

    def __len__(self) -> int:
        return self._length

    @overload
    def __getitem__(self, key: int) -> Checkpoint: ...

    @overload
    def __getitem__(self, key: slice) -> tuple[Checkpoint, ...]: ...

    def __getitem__(self, key: int | slice) -> Checkpoint | tuple[Checkpoint, ...]:
        if self._all is None:
            assert self._pickled is not None  # one of the two is there
            self._all = pickle.loads(self._pickled)
        return self._all[key]

    def __getstate__(self) -> tuple[int, bytes]:
        pickled = self._pickled or pickle.dumps(self[:])
        if len(pickled) < MOST_KEPT:  # paths, and not state dicts in memory
            self._pickled = pickled
        return self._length, pickled

    def __setstate__(self, state: tuple[int, bytes]) -> None:
        self._all = None
        self._length, self._pickled = state


class StackedTensor(BackendArray):
    """One tensor over all epochs, read one checkpoint at a time and only where indexed.

    It holds where its files are and nothing that is open: it can be pickled, sent to another
    process, and read from several threads.
    """

    def __init__(self, checkpoints: Sequence[Checkpoint], name: str, spec: ArraySpec) -> None:
        self.checkpoints = checkpoints
        self.name = name
        self.spec = spec
        self.shape = (len(checkpoints), *spec.shape)  # (epoch, …own dims…)
        self.dtype = spec.dtype

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        """Read what an xarray indexer asks for."""
        return indexing.explicit_indexing_adapter(
            key, self.shape, indexing.IndexingSupport.OUTER, self._read
        )

    def opened(self, position: int, first: int) -> OpenTensor | None:
        """Open a checkpoint's file to take values from one on; None where there is no such file.

        Raises
        ------
        CheckpointError
            The checkpoint cannot be read.
        StackError
            The tensor has another dtype or shape there.
        """
        checkpoint = self.checkpoints[position]
        found = opened(checkpoint, self.name, first)
        if found is not None:
            try:
                self._check(position, spec_of(checkpoint, self.name) or self.spec)
            except BaseException:  # whatever it is, Ctrl-C too, no file stays open
                found.close()
                raise
        return found

    def _read(self, key: tuple[Any, ...]) -> Array:
        at_epoch, *within = key
        chosen = np.arange(len(self.checkpoints))[at_epoch]
        if np.ndim(chosen) == 0:
            return self._read_one(int(chosen), within)
        shape = outer(np.broadcast_to(np.empty((), self.dtype), self.spec.shape), within).shape
        values = np.empty((len(chosen), *shape), self.dtype)
        for k, position in enumerate(chosen):
            values[k] = self._read_one(int(position), within)
        return values

    def _read_one(self, position: int, within: Sequence[Any]) -> Array:
        checkpoint = self.checkpoints[position]
        whole = all(isinstance(k, slice) and k == slice(None) for k in within)
        read_part = getattr(checkpoint, "read_part", None)  # not every kind of checkpoint can
        if read_part is not None and not whole:
            self._check(position, spec_of(checkpoint, self.name) or self.spec)
            part: Array = read_part(self.name, within)
            return part
        array = checkpoint.read(self.name)
        self._check(position, ArraySpec(array.dtype, array.shape))
        return outer(array, within)

    def _check(self, position: int, found: ArraySpec) -> None:
        if found != self.spec:
            raise StackError(
                f"{self.name} is {found.dtype} {found.shape} in checkpoint {position}.",
                f"The stack declares {self.dtype} {self.spec.shape}.",
                "Correct the manifest, or leave this checkpoint out.",
            )


def stacked_variable(
    tensor: StackedTensor, short: str, attributes: Mapping[str, Any], in_parts: bool
) -> xr.Variable:
    """A tensor over all epochs as a variable whose chunk in dask is one checkpoint.

    Parameters
    ----------
    tensor : StackedTensor
        What it holds.
    short : str
        Its name, from which its own dims get theirs.
    attributes : mapping
        As `explorer.open_stack` describes them.
    in_parts : bool
        Whether parts of the tensor can be read by themselves; else it is one chunk.

    Raises
    ------
    StackError
        The name has a ``/``.
    """
    if "/" in short:
        raise StackError(
            f"The tensor {tensor.name!r} would become the variable {short!r}.",
            "A name without '/', which xarray reserves, is needed.",
            "Rename it with reader=, a function from the path to {name: tensor}.",
        )
    own = tensor.spec.shape  # (…own dims…)
    dims = ("epoch", *(f"{short}_{k}" for k in range(len(own))))
    chunks = {"epoch": 1}
    if not in_parts:
        chunks |= dict(zip(dims[1:], own, strict=True))
    lazy = indexing.LazilyIndexedArray(tensor)
    return xr.Variable(dims, lazy, attributes, {"preferred_chunks": chunks})


def checkpoint_at(variable: xr.Variable, position: int) -> Checkpoint | None:
    """The checkpoint that a variable is read from at one epoch; None once it is not lazy."""
    found = _lazily_indexed(variable[position])
    return found and found[0].checkpoints[int(found[1][0])]


def tensor_opener(variable: xr.Variable) -> Callable[[int, int], OpenTensor | None] | None:
    """How the file of a whole tensor is opened at each epoch; None where that is not all there is.

    Parameters
    ----------
    variable : xarray.Variable
        Over (epoch, …own dims…), from a stack.

    Returns
    -------
    function or None
        From a position on the epoch axis and the number of a value to `StackedTensor.opened`.
        None for a variable that is not lazy any more, is cut into chunks, or of which a part was
        chosen along another axis than the epochs.
    """
    found = _lazily_indexed(variable)
    if found is None:
        return None
    tensor, (chosen, *within) = found
    positions = np.arange(len(tensor.checkpoints))[chosen]
    if np.ndim(positions) != 1 or any(np.ndim(k) or k != slice(None) for k in within):
        return None
    return lambda position, first: tensor.opened(int(positions[position]), first)


def _lazily_indexed(variable: xr.Variable) -> tuple[StackedTensor, tuple[Any, ...]] | None:
    """The tensor behind a variable and what is chosen of it along each axis, if it is lazy."""
    data: Any = variable._data
    while not isinstance(data, indexing.LazilyIndexedArray):
        data = getattr(data, "array", None)
        if data is None:
            return None
    return (data.array, data.key.tuple) if isinstance(data.array, StackedTensor) else None
