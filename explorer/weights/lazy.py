"""Tensors of many checkpoints as one array that is read only where it is looked at."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from xarray.backends import BackendArray
from xarray.core import indexing

from explorer.errors import StackError
from explorer.weights.checkpoints import Array, ArraySpec, Checkpoint


class StackedTensor(BackendArray):
    """One tensor over all epochs, read one checkpoint at a time and only where indexed."""

    def __init__(self, checkpoints: Sequence[Checkpoint], name: str, spec: ArraySpec) -> None:
        self.checkpoints = checkpoints
        self.name = name
        self.shape = (len(checkpoints), *spec.shape)  # (epoch, …own dims…)
        self.dtype = spec.dtype

    def __getitem__(self, key: indexing.ExplicitIndexer) -> Any:
        """Read what an xarray indexer asks for."""
        return indexing.explicit_indexing_adapter(
            key, self.shape, indexing.IndexingSupport.OUTER, self._read
        )

    def _read(self, key: tuple[Any, ...]) -> Array:
        at_epoch, *within = key
        chosen = np.arange(len(self.checkpoints))[at_epoch]
        if np.ndim(chosen) == 0:
            return self._read_one(int(chosen), within)
        parts = [self._read_one(int(k), within) for k in chosen]
        empty = _outer(np.empty(self.shape[1:], self.dtype), within)
        return np.stack(parts) if parts else np.empty((0, *empty.shape), self.dtype)

    def _read_one(self, position: int, within: Sequence[Any]) -> Array:
        array = self.checkpoints[position].read(self.name)
        if (array.shape, array.dtype) != (self.shape[1:], self.dtype):
            raise StackError(
                f"{self.name} is {array.dtype} {array.shape} in checkpoint {position}.",
                f"The stack declares {self.dtype} {self.shape[1:]}.",
                "Correct the manifest, or leave this checkpoint out.",
            )
        return _outer(array, within)


def _outer(array: Array, key: Sequence[Any]) -> Array:
    """Index each axis by itself, the last first so that earlier axes keep their places."""
    for axis in reversed(range(len(key))):
        array = array[(slice(None),) * axis + (key[axis],)]
    return array
