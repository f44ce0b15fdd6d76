"""One parameter of a stack compared with itself at other epochs, a block in memory at a time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from math import prod
from typing import Any, TypeVar

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from explorer.stats.kernels import STATISTICS
from explorer.stats.tensors import TOGETHER, tensor_statistics

BLOCK_BYTES = 4_194_304
"""Bytes of one parameter at one time that are read at once; a larger one is taken in parts. Of
smaller blocks the calls cost more than the reading, larger ones leave the processor's cache."""

READERS = 2
"""Threads that read while the kernel counts: one alone reads slower than the kernel counts."""

LINF = STATISTICS.index("linf")

Loaded = TypeVar("Loaded")

Part = tuple[slice, ...]
"""One slice for each dimension of a parameter."""


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

    def at(self, name: str, position: int, part: Part) -> NDArray[Any]:
        """Values of a part of one parameter at one position of the epoch axis."""
        values: NDArray[Any] = self.variables[name].variable[(position, *part)].values
        return values

    def parts(self, name: str) -> list[Part]:
        """Divide one parameter into parts that lie together and are not too long to be held.

        One that is stored as a whole is read as a whole: each part would cost as much.
        """
        array = self.variables[name]
        chunks = array.encoding.get("preferred_chunks", {})
        if all(chunks.get(dim) == array.sizes[dim] for dim in array.dims[1:]):
            return [(slice(None),) * (array.ndim - 1)]
        return _parts(array.shape[1:], max(1, BLOCK_BYTES // array.dtype.itemsize))

    @property
    def sizes(self) -> dict[str, int]:
        """Parameter → number of weights."""
        return {name: self.variables[name][0].size for name in self.names}


def parameter_totals(
    weights: LayerWeights,
    name: str,
    reference: int,
    draws: Sequence[NDArray[Any]],
    reasons: list[str],
    threads: Executor,
) -> NDArray[np.float64]:
    """Compare one parameter with itself at the other epochs, and with fresh draws.

    A part of it is held at one time of reference, up to four others, and those that are read
    meanwhile, up to five: ten times `BLOCK_BYTES`, however large parameter and stack are.

    Parameters
    ----------
    weights : LayerWeights
        The layer it belongs to.
    name : str
        The parameter.
    reference : int
        Position on the epoch axis to measure from.
    draws : sequence of (…own dims…) arrays
        Fresh draws of it.
    reasons : list of str
        For each epoch why it could not be read, or ``""``; written to.
    threads : Executor
        Reads ahead.

    Returns
    -------
    numpy.ndarray
        (epoch and draw, statistic) float64; without meaning where there is a reason.

    Raises
    ------
    CheckpointError
        The reference cannot be read.
    """
    others = [k for k in range(weights.epochs) if k != reference]
    at_start = [reference, *range(weights.epochs, weights.epochs + len(draws))]
    totals = np.zeros((weights.epochs + len(draws), len(STATISTICS)))
    parts = weights.parts(name)

    def load(part: Part, k: int) -> NDArray[Any] | None:
        try:
            return None if reasons[k] else weights.at(name, k, part)
        except OSError as error:  # a CheckpointError is one: the other epochs stay usable
            if k == reference:
                raise
            reasons[k] = str(error)
            return None

    def compare(start: NDArray[Any], group: Sequence[int]) -> None:
        values = {k: one for k, one in zip(group, loaded, strict=False) if one is not None}
        _add(totals, list(values), tensor_statistics(start, list(values.values())))

    loaded = _ahead(threads, load, [(part, k) for part in parts for k in (reference, *others)])
    for part in parts:
        start = next(loaded)
        assert start is not None  # of the reference, or an error
        _add(totals, at_start, tensor_statistics(start, [start, *(draw[part] for draw in draws)]))
        for first in range(0, len(others), TOGETHER):
            compare(start, others[first : first + TOGETHER])
        del start  # before the next part is waited for
    return totals


def _ahead(
    threads: Executor, load: Callable[..., Loaded], plan: Iterable[tuple[Any, ...]]
) -> Iterator[Loaded]:
    """What `load` gives for each item of a plan; while some are used, the next are loaded."""
    coming: deque[Future[Loaded]] = deque()
    for item in plan:
        coming.append(threads.submit(load, *item))
        if len(coming) > TOGETHER:
            yield coming.popleft().result()
    while coming:
        yield coming.popleft().result()


def _add(totals: NDArray[np.float64], rows: Sequence[int], found: NDArray[np.float64]) -> None:
    """Add the statistics of one part of a tensor to those of the parts before it."""
    top = np.maximum(totals[rows, LINF], found[:, LINF])
    totals[rows] += found
    totals[rows, LINF] = top


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
