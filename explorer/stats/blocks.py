"""One layer of a stack compared with itself at other epochs, a block in memory at a time."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass, field
from functools import partial
from itertools import accumulate
from math import prod
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from explorer.stats.kernels import STATISTICS
from explorer.stats.pieces import Held, Opened, Opener, Others
from explorer.stats.tensors import TOGETHER, add_statistics, tensor_statistics

BLOCK_BYTES = 4_194_304
"""Bytes of one parameter at one time whose statistics are added up by themselves; a larger one is
taken in parts. Of smaller blocks the calls cost more than the reading."""

READERS = 2
"""Threads, each of which reads and counts. The numbers do not depend on how many there are."""

AHEAD = 3 * READERS
"""Comparisons that are begun before the first of them is waited for."""

LINF = STATISTICS.index("linf")

Part = tuple[slice, ...]
"""One slice for each dimension of a parameter."""

Totals = dict[str, NDArray[np.float64]]
"""Parameter → (epoch and draw, statistic)."""


@dataclass(frozen=True)
class LayerWeights:
    """Where one layer's weights come from."""

    names: Sequence[str]
    """Its parameters (no buffers)."""
    fan_in: Mapping[str, int]
    """Parameter → inputs that feed one output."""
    variables: Mapping[str, xr.DataArray]
    """Parameter → values over (epoch, …), read when asked for."""
    epochs: int
    """Number of times."""
    openers: Mapping[str, Opener | None] = field(default_factory=dict)
    """Parameter → how its files are opened, where it lies in such that are read in pieces."""

    def at(self, name: str, position: int, part: Part) -> NDArray[Any]:
        """Values of a part of one parameter at one position of the epoch axis."""
        values: NDArray[Any] = self.variables[name].variable[(position, *part)].values
        return values

    def opened(self, name: str, position: int, block: Block) -> Opened:
        """The same, to be taken in pieces; read as a whole where files give no pieces."""
        opener = self.openers.get(name)
        found = opener(position, block.first) if opener else None
        return found or Held(self.at(name, position, block.part))

    def blocks(self, name: str) -> list[Block]:
        """Divide one parameter into blocks that lie together and are not too long to be held.

        One that is stored as a whole is read as a whole: each part would cost as much.
        """
        array = self.variables[name]
        chunks = array.encoding.get("preferred_chunks", {})
        if all(chunks.get(dim) == array.sizes[dim] for dim in array.dims[1:]):
            return [Block((slice(None),) * (array.ndim - 1), 0)]
        return _blocks(array.shape[1:], max(1, BLOCK_BYTES // array.dtype.itemsize))

    @property
    def sizes(self) -> dict[str, int]:
        """Parameter → number of weights."""
        return {name: self.variables[name][0].size for name in self.names}


@dataclass(frozen=True)
class Block:
    """A part of a parameter whose weights follow each other in a file."""

    part: Part
    """Which part."""
    first: int
    """Weights of the parameter before it."""


class _Start:
    """A block at the time of reference, read by whoever needs it first, for all that do."""

    def __init__(self, read: Callable[[], NDArray[Any]]) -> None:
        self._read, self._lock = read, threading.Lock()
        self._values: NDArray[Any] | None = None

    def values(self) -> NDArray[Any]:
        """Its weights, one after the other."""
        with self._lock:
            if self._values is None:
                self._values = self._read().reshape(-1)
            return self._values


@dataclass(frozen=True)
class _Found:
    """What one comparison gave."""

    name: str
    """The parameter."""
    rows: Sequence[int]
    """Epochs, and behind them draws, that a block was compared with."""
    statistics: NDArray[np.float64]
    """(row, statistic)."""
    reasons: Mapping[int, str]
    """Epochs that could not be read, and why."""


def layer_totals(
    weights: LayerWeights,
    reference: int,
    draws: Mapping[str, Sequence[NDArray[Any]]],
    threads: Executor,
) -> tuple[Totals, list[str]]:
    """Compare a layer's parameters with themselves at the other epochs, and with fresh draws.

    Each thread holds a block of a parameter at the time of reference, and a piece of each of up to
    four files or, where files give no pieces, the block at up to four other times: for two threads
    at most ten times `BLOCK_BYTES`, however large parameter and stack are.

    Parameters
    ----------
    weights : LayerWeights
        The layer.
    reference : int
        Position on the epoch axis to measure from.
    draws : mapping
        Parameter → fresh draws of it, (…own dims…) arrays.
    threads : Executor
        Reads and compares. What is found is added up in one order whatever their number.

    Returns
    -------
    totals : dict
        Parameter → (epoch and draw, statistic) float64; without meaning where there is a reason.
    reasons : list of str
        For each epoch why it could not be read, or ``""``.

    Raises
    ------
    CheckpointError
        The reference cannot be read.
    """
    reasons = [""] * weights.epochs
    rows = {name: weights.epochs + len(drawn) for name, drawn in draws.items()}
    totals = {name: np.zeros((rows[name], len(STATISTICS))) for name in weights.names}
    for found in _ahead(threads, _comparisons(weights, reference, draws, reasons)):
        for k, reason in found.reasons.items():
            reasons[k] = reasons[k] or reason
        _add(totals[found.name], found.rows, found.statistics)
    return totals, reasons


def _comparisons(
    weights: LayerWeights,
    reference: int,
    draws: Mapping[str, Sequence[NDArray[Any]]],
    reasons: Sequence[str],
) -> Iterator[Callable[[], _Found]]:
    """What has to be compared, a block with up to four others at a time, as functions to call."""
    others = [k for k in range(weights.epochs) if k != reference]
    groups = [others[first : first + TOGETHER] for first in range(0, len(others), TOGETHER)]
    for name in weights.names:
        for block in weights.blocks(name):
            start = _Start(partial(weights.at, name, reference, block.part))
            drawn = [draw[block.part] for draw in draws[name]]
            rows = [reference, *range(weights.epochs, weights.epochs + len(drawn))]
            yield partial(_with_draws, name, rows, start, drawn)
            for group in groups:
                openers = {k: partial(weights.opened, name, k, block) for k in group}
                yield partial(_with_others, name, start, openers, reasons)


def _with_draws(
    name: str, rows: Sequence[int], start: _Start, draws: Sequence[NDArray[Any]]
) -> _Found:
    """Compare a block with itself and with fresh draws."""
    values = start.values()
    drawn = [draw.reshape(-1) for draw in draws]
    return _Found(name, rows, tensor_statistics(values, [values, *drawn]), {})


def _with_others(
    name: str,
    start: _Start,
    openers: Mapping[int, Callable[[], Opened]],
    reasons: Sequence[str],
) -> _Found:
    """Compare a block with itself at up to four other times, piece by piece."""
    statistics = np.zeros((TOGETHER, len(STATISTICS)))
    others = Others()
    try:
        others.open({k: opener for k, opener in openers.items() if not reasons[k]})
        for piece in others.pieces(start.values()):
            add_statistics(piece, others.take(piece), statistics)
    finally:
        others.close()
    rows = list(others.files)
    return _Found(name, rows, statistics[: len(rows)], others.failed)


def _ahead(threads: Executor, calls: Iterable[Callable[[], _Found]]) -> Iterator[_Found]:
    """What functions give, in their order; while some are waited for, the next are called."""
    coming: deque[Future[_Found]] = deque()
    for call in calls:
        coming.append(threads.submit(call))
        if len(coming) > AHEAD:
            yield coming.popleft().result()
    while coming:
        yield coming.popleft().result()


def _add(totals: NDArray[np.float64], rows: Sequence[int], found: NDArray[np.float64]) -> None:
    """Add the statistics of one block of a tensor to those of the blocks before it."""
    top = np.maximum(totals[rows, LINF], found[:, LINF])
    totals[rows] += found
    totals[rows, LINF] = top


def _blocks(shape: tuple[int, ...], most: int) -> list[Block]:
    """Blocks of a tensor, in the order of its weights, each with no more than so many."""
    parts = _parts(shape, most)
    lengths = [
        prod(len(range(*at.indices(n))) for at, n in zip(p, shape, strict=True)) for p in parts
    ]
    firsts = accumulate(lengths, initial=0)
    return [Block(part, first) for part, first in zip(parts, firsts, strict=False)]


def _parts(shape: tuple[int, ...], most: int) -> list[Part]:
    """Slices of a tensor, in the order of its weights, each with no more than so many."""
    whole = (slice(None),) * len(shape)
    if prod(shape) <= most:
        return [whole]
    rows = most // prod(shape[1:])
    if rows:
        return [(slice(k, k + rows), *whole[1:]) for k in range(0, shape[0], rows)]
    below = _parts(shape[1:], most)
    return [(slice(k, k + 1), *part) for k in range(shape[0]) for part in below]
