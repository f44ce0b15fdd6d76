"""A block of a parameter at several times, read from open files in pieces that are counted at once.

What is copied out of a file is then still in the processor's cache, and of a file only that much
is in memory.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from explorer.stats.tensors import TOGETHER

PIECE_BYTES = 524_288
"""Bytes of one file that are read at once: those of four files stay in the processor's cache until
they are counted; of smaller ones the calls cost more. A whole number of the kernel's blocks, so
that sums do not depend on it."""


class Opened(Protocol):
    """One parameter in an open file, whose values are taken one piece after the other."""

    def take(self, count: int, memory: NDArray[np.uint8]) -> NDArray[Any]:
        """Give the next weights, in this memory if they have to be put somewhere."""
        ...

    def close(self) -> None:
        """Close the file."""
        ...


Opener = Callable[[int, int], Opened | None]
"""Position on the epoch axis, and number of the first weight → the file, if it is such a one."""


class Held:
    """A block that is in memory, with the interface of one in a file."""

    def __init__(self, values: NDArray[Any]) -> None:
        self._rest = values.reshape(-1)

    def take(self, count: int, memory: NDArray[np.uint8]) -> NDArray[Any]:
        values, self._rest = self._rest[:count], self._rest[count:]
        return values

    def close(self) -> None:
        del self._rest


class _Memory(threading.local):
    """Memory for a piece of each file, of its own in each thread."""

    def __init__(self) -> None:
        self.rows = np.empty((TOGETHER, PIECE_BYTES), np.uint8)


_memory = _Memory()


class Others:
    """A block at up to four other times; one that cannot be read is none of them any more."""

    def __init__(self) -> None:
        self.files: dict[int, Opened] = {}
        self.failed: dict[int, str] = {}

    def open(self, openers: Mapping[int, Callable[[], Opened]]) -> None:
        """Open all of them."""
        for k, opener in openers.items():
            try:
                self.files[k] = opener()
            except OSError as error:  # a CheckpointError is one: the other epochs stay usable
                self.failed[k] = str(error)

    def pieces(self, start: NDArray[Any]) -> Iterator[NDArray[Any]]:
        """The block at the time of reference in such pieces as are taken of the others."""
        in_memory = all(isinstance(file, Held) for file in self.files.values())
        length = start.size if in_memory else PIECE_BYTES // start.dtype.itemsize
        for first in range(0, start.size if self.files else 0, max(1, length)):
            yield start[first : first + length]

    def take(self, piece: NDArray[Any]) -> list[NDArray[Any]]:
        """The next piece of each."""
        rows = zip(_memory.rows, self.files, strict=False)
        return [self._take(k, piece, memory) for memory, k in rows]

    def _take(self, k: int, piece: NDArray[Any], memory: NDArray[np.uint8]) -> NDArray[Any]:
        if k not in self.failed:
            try:
                return self.files[k].take(piece.size, memory)
            except OSError as error:
                self.failed[k] = str(error)
        return piece  # keeps the place of one that counts for nothing

    def close(self) -> None:
        """Close all of them."""
        for file in self.files.values():
            file.close()
