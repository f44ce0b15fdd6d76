"""Straight lines between two checkpoints, of one layer, of several, or of the whole network."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import xarray as xr
from torch import nn

from explorer.engine.barriers import QUANTITIES, with_barriers
from explorer.engine.evaluator import Evaluator
from explorer.engine.interventions import BatchNormPolicy, Intervention
from explorer.engine.measuring import Outcome, measure
from explorer.engine.parts import Part, Parts, last_dataset
from explorer.engine.path_grid import PathCell, PathGrid, path_grid
from explorer.engine.provenance import journal_of, provenance_of
from explorer.engine.sweep import NOT_REACHED, examples_seen
from explorer.errors import UsageError
from explorer.weights.joined import joined
from explorer.weights.stack import content_hash, epoch_numbers


def paths(
    stack: xr.DataTree,
    *,
    other: xr.DataTree | None = None,
    start: int | Literal["same"] | None = None,
    epochs: Sequence[int] | None = None,
    layers: Sequence[str] | None = None,
    shares: int | Sequence[float] = 11,
    cumulative: bool = False,
    model: nn.Module | None = None,
    data: Any = None,
    device: str = "auto",
    batch_size: int | None = None,
    batchnorm: BatchNormPolicy = "with_layer",
    memory: int | None = None,
    calibration: Any = None,
    store: str | Path | None = None,
    progress: bool = True,
) -> xr.Dataset:
    """Measure error and loss along straight lines from checkpoint A to checkpoint B.

    Layers are put to (1 − λ)·A + λ·B, and all others stay at A: one layer after the other, and
    the whole network. A is one epoch of the stack; B is each epoch in turn, of the same run or of
    another. By default A is the trained network: λ = 1 is then the sweep's cell.

    Parameters
    ----------
    stack : xarray.DataTree
        As `explorer.open_stack` returns it.
    other : xarray.DataTree, optional
        Another run of the same network, whose epochs are B; default the stack itself.
    start : int or "same", optional
        Epoch of A; default the last. ``"same"``, with `other`: that of B.
    epochs : sequence of int
        Epochs of B; default all, with ``"same"`` those that both have.
    layers : sequence of str, optional
        Layers to move one by one; default all.
    shares : int or sequence of float
        Shares λ of B, in 0…1, or how many evenly from 0 to 1. The ends are always among them.
    cumulative : bool
        Move all layers up to each layer, and all from each layer on, as well.
    model, data, device, batch_size, batchnorm, memory, calibration
        As in `explorer.evaluate`. Under ``"with_layer"`` running statistics are interpolated like
        parameters. Between networks far apart they then fit no network on the line:
        ``"recalibrate"`` takes them anew at each point.
    store : str or Path, optional
        File in which finished counts are kept, as in `explorer.sweep`; not with ``"same"``.
    progress : bool
        Show a progress bar.

    Returns
    -------
    xarray.Dataset
        ``error``, ``error_low``, ``error_high`` (95 % Wilson interval), ``loss``, ``examples``
        and ``reason`` over (layer, epoch, share), the same with the prefix ``whole_`` over
        (epoch, share), and if `cumulative` with ``upto_`` and ``from_`` over (layer, epoch,
        share). For each of these paths, without ``share``: ``error_barrier`` and ``loss_barrier``
        (the largest height above the straight line between the path's own ends),
        ``error_barrier_at`` and ``loss_barrier_at`` (the share λ where that is),
        ``error_midpoint`` and ``loss_midpoint`` (the value at λ = ½ less the mean of the *whole*
        networks A and B; NaN without λ = ½). Attributes say what is needed to repeat the numbers.
        After Ctrl-C what is known is returned, and the attribute ``complete`` is 0.

    Raises
    ------
    UnknownNameError, StackError, CheckpointError, DataError, UsageError
        Before anything is measured, when something does not fit.

    References
    ----------
    Adilova, Andriushchenko, Kamp, Fischer, Jaggi, *Layer-wise Linear Mode Connectivity*, ICLR
    2024, arXiv 2307.06966.

    Examples
    --------
    >>> import explorer as lx
    >>> found = lx.paths(lx.open_stack("fcn3x256-digits"), epochs=[0], progress=False)
    >>> round(found["error"].sel(layer="layer4", epoch=0, share=1).item(), 3)
    0.104
    """
    grid = path_grid(stack, other, start, epochs, layers, shares, cumulative)
    if store is not None and len(grid.starts) > 1:
        raise UsageError(
            "store= was given for paths that begin at several epochs.",
            "A file holds the counts of one final network, and each start is another.",
            "Leave store= out, or give one epoch as start=.",
        )
    settings = {
        "model": model,
        "data": data,
        "device": device,
        "batch_size": batch_size,
        "batchnorm": batchnorm,
        "memory": memory,
        "calibration": calibration,
    }

    def opened(begin: int, ends: Sequence[int]) -> Evaluator:
        evaluator = Evaluator(_view(stack, other, begin, ends), **settings)
        if store is not None:
            evaluator.journal = journal_of(store, {**provenance_of(evaluator), "tolerance": 0.0})
        return evaluator

    origin = _origin(stack, other, grid.starts[0][0] if start != "same" else -1)
    return last_dataset(_parts(grid, opened, origin), "paths", " predictions", progress)


def paths_parts(
    evaluator: Evaluator,
    *,
    other: xr.DataTree | None = None,
    start: int | Literal["same"] | None = None,
    epochs: Sequence[int] | None = None,
    layers: Sequence[str] | None = None,
    shares: int | Sequence[float] = 11,
    cumulative: bool = False,
) -> Parts:
    """Do what `paths` does, part by part, with a network that is loaded already.

    Where the paths begin elsewhere or lead to another run, that network is loaded as well.
    """
    stack = evaluator.network.stack
    grid = path_grid(stack, other, start, epochs, layers, shares, cumulative)
    origin = _origin(stack, other, grid.starts[0][0] if start != "same" else -1)

    def opened(begin: int, ends: Sequence[int]) -> Evaluator:
        view = _view(stack, other, begin, ends)
        return evaluator if view is stack else evaluator.like(view)

    return _parts(grid, opened, origin, by_layer=True)


def _view(
    stack: xr.DataTree, other: xr.DataTree | None, begin: int, ends: Sequence[int]
) -> xr.DataTree:
    """A stack whose trained network is A, and whose other epochs are those of B."""
    if other is None and begin == epoch_numbers(stack)[-1]:
        return stack
    return joined(stack, begin, stack if other is None else other, ends)


def _parts(
    grid: PathGrid,
    opened: Callable[[int, Sequence[int]], Evaluator],
    origin: Mapping[str, Any],
    by_layer: bool = False,
) -> Parts:
    """Measure the paths from each start in turn."""
    known: list[tuple[dict[PathCell, Intervention], dict[Intervention, Outcome]]] = []
    said: dict[str, Any] = {"complete": 0}

    def dataset() -> xr.Dataset:
        result = _empty(grid)
        for cells, outcomes in known:
            for cell, intervention in cells.items():
                _record(result, cell, outcomes.get(intervention, NOT_REACHED))
        return with_barriers(result).assign_attrs(said).assign_attrs(origin)

    for begin, ends in grid.starts:
        evaluator = opened(begin, ends)
        said |= {**provenance_of(evaluator), "tolerance": 0.0}
        cells = {cell: grid.put_in(cell, begin) for cell in grid.cells(ends)}
        outcomes: dict[Intervention, Outcome] = {}
        known.append((cells, outcomes))
        wanted = list(dict.fromkeys([Intervention(()), *cells.values()]))
        before, own = len(known) - 1, len(wanted) * evaluator.total
        yield Part(before * own, len(grid.starts) * own, dataset)
        for some in measure(evaluator, wanted, journal=evaluator.journal, by_layer=by_layer):
            outcomes |= some
            seen = before * own + sum(map(examples_seen, outcomes.values()))
            yield Part(seen, len(grid.starts) * own, dataset)
    said["complete"] = 1
    yield Part(len(grid.starts) * own, len(grid.starts) * own, dataset)


def _empty(grid: PathGrid) -> xr.Dataset:
    coords: dict[str, Any] = {
        "layer": np.array(grid.layers, object),
        "epoch": ("epoch", list(grid.epochs), {"long_name": "epoch of B"}),
        "share": ("share", list(grid.shares), {"long_name": "λ, share of B"}),
    }
    sizes = {"layer": len(grid.layers), "epoch": len(grid.epochs), "share": len(grid.shares)}
    variables: dict[str, Any] = {}
    for prefix, dims in grid.prefixes.items():
        shape = tuple(sizes[dim] for dim in dims)
        for quantity in QUANTITIES:
            variables[prefix + quantity] = (dims, np.full(shape, np.nan))
        variables[f"{prefix}examples"] = (dims, np.zeros(shape, np.int64))
        variables[f"{prefix}reason"] = (dims, np.full(shape, NOT_REACHED, object))
    return xr.Dataset(variables, coords)


def _record(result: xr.Dataset, cell: PathCell, outcome: Outcome) -> None:
    reason = outcome if isinstance(outcome, str) else outcome.failure
    result[f"{cell.prefix}reason"].values[cell.position] = reason
    if isinstance(outcome, str) or reason:
        return
    for quantity in (*QUANTITIES, "examples"):
        result[cell.prefix + quantity].values[cell.position] = getattr(outcome, quantity)


def _origin(stack: xr.DataTree, other: xr.DataTree | None, start: int) -> dict[str, Any]:
    """What the paths lead between; of A the epoch, or −1 where it is that of B."""
    ends = stack if other is None else other
    return {
        "start": start,
        "final_epoch": epoch_numbers(stack)[-1],
        "content_hash": content_hash(stack),
        "other": str(ends.attrs.get("name", "")),
        "other_hash": content_hash(ends),
    }
