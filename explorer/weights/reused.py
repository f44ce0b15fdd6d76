"""Memory of arrays that are read and soon forgotten, used again for the next ones.

The system hands out new memory page by page and zeroes it first: for blocks of some megabytes,
each of which is looked at once, that costs more than copying a file's bytes into them.
"""

from __future__ import annotations

import math
from collections import deque
from typing import Any

import numpy as np
from numpy.typing import NDArray

SMALLEST, LARGEST = 1_048_576, 4_194_304
"""Bytes of an array whose memory is kept: numpy keeps smaller ones itself, larger ones would hold
too much for ever."""

KEPT = 10
"""Arrays whose memory is kept, the last ones; with `LARGEST`, 42 MB."""

_kept: deque[NDArray[np.uint8]] = deque(maxlen=KEPT)


class _Memory:
    """What an array and all views of it stand on; when the last of them goes, it is kept."""

    def __init__(self, size: int) -> None:
        try:
            self._bytes = _kept.pop()  # another thread may have taken the last
        except IndexError:
            self._bytes = np.empty(size, np.uint8)
        if self._bytes.nbytes != size:
            self._bytes = np.empty(size, np.uint8)
        self.__array_interface__ = self._bytes.__array_interface__

    def __del__(self) -> None:
        _kept.append(self._bytes)


def empty(shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    """An array as `numpy.empty` gives it, of memory that an earlier one had if there is some."""
    size = math.prod(shape) * dtype.itemsize
    if not SMALLEST <= size <= LARGEST:
        return np.empty(shape, dtype)
    return np.asarray(_Memory(size)).view(dtype).reshape(shape)
