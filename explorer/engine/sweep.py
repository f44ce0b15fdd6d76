"""All cells of a stack: every layer from every epoch, fresh draws, and the learning curve."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import xarray as xr
from numpy.typing import NDArray
from torch import nn
from tqdm.auto import tqdm

from explorer.arguments import draws_and_seed, number
from explorer.engine.choosing import chosen
from explorer.engine.estimate import Estimate
from explorer.engine.evaluator import Evaluator
from explorer.engine.intact import doubt_about, not_measured, warn_of
from explorer.engine.interventions import (
    BatchNormPolicy,
    Intervention,
    canonical,
    reinitialise,
    rerandomise,
)
from explorer.engine.measuring import Outcome, measure
from explorer.engine.provenance import journal_of, provenance_of
from explorer.engine.results import QUANTITIES, empty_results
from explorer.weights.stack import epoch_numbers, layer_names

if TYPE_CHECKING:
    from explorer.engine.remote import RemoteEvaluator

Stream = Generator[Mapping[Intervention, Outcome], None, None]
"""What is known, as it becomes known; to stop, close it."""

NOT_REACHED = "not measured yet"


@dataclass(frozen=True)
class Cell:
    """One number of a sweep: where it goes and which intervention it measures."""

    prefix: str
    """Prefix of the variables it belongs to, one of `explorer.engine.results.DIMS`."""
    position: tuple[int, ...]
    """Index into the dims of these variables."""
    intervention: Intervention
    """What is put in."""


def plan_sweep(
    layers: Sequence[str], every: Sequence[str], epochs: Sequence[int], draws: int, seed: int
) -> list[Cell]:
    """List the cells of a sweep in the order in which they are measured.

    Parameters
    ----------
    layers : sequence of str
        Layers to sweep.
    every : sequence of str
        All layers of the network, which the full model's cells replace jointly.
    epochs : sequence of int
        Epochs to take them from.
    draws : int
        Fresh draws per layer, ≥ 0.
    seed : int
        Seed of the draws.

    Returns
    -------
    list of Cell
    """
    cells = []
    for row, layer in enumerate(layers):
        for column, epoch in enumerate(epochs):
            cells.append(Cell("", (row, column), reinitialise(layer, epoch)))
        for draw in range(draws):
            cells.append(Cell("rerandomized_", (row, draw), rerandomise(layer, draw, seed)))
    for column, epoch in enumerate(epochs):
        cells.append(Cell("fullmodel_", (column,), reinitialise(every, epoch)))
    return cells


def sweep(
    stack: xr.DataTree,
    *,
    model: nn.Module | None = None,
    data: Any = None,
    layers: Sequence[str] | None = None,
    epochs: Sequence[int] | None = None,
    draws: int = 3,
    device: str = "auto",
    batch_size: int | None = None,
    seed: int = 0,
    batchnorm: BatchNormPolicy = "with_layer",
    progress: bool = True,
    store: str | Path | None = None,
    tolerance: float = 0.0,
    screen: bool = False,
    memory: int | None = None,
    calibration: Any = None,
    client: Any = None,
) -> xr.Dataset:
    """Measure the test error of every (layer, epoch) and of fresh draws of every layer.

    Parameters
    ----------
    stack : xarray.DataTree
        As `explorer.open_stack` returns it.
    model, data, device, batch_size, batchnorm, screen, memory, calibration
        As in `explorer.evaluate`.
    layers : sequence of str, optional
        Layers to sweep; default all.
    epochs : sequence of int, optional
        Epochs to take them from; default all.
    draws : int
        Fresh draws per layer.
    seed : int
        Seed of the fresh draws.
    progress : bool
        Show a progress bar.
    store : str or Path, optional
        File in which finished cells are kept, layer by layer. A sweep that was stopped or killed
        goes on from there, and its result equals that of an uninterrupted one.
    tolerance : float
        Measure a cell only until its error is known to ± this fraction (half of its 95 %
        interval). Such a cell is an estimate: its ``examples`` are fewer than the attribute
        ``examples``. 0, the default, is exact.
    client : distributed.Client, optional
        Of a running Dask cluster whose workers measure the cells, each on a device of its own;
        see `explorer.engine.remote.RemoteEvaluator` for what they need. The numbers are those of
        a sweep on one such device, bit for bit. `store` is a file on this machine.

    Returns
    -------
    xarray.Dataset
        error, error_low, error_high (95 % Wilson interval), loss (nats), agreement, examples,
        turned_wrong and turned_right (against the intact network, of the same examples) and
        reason over (layer, epoch); the same with the prefix ``rerandomized_`` over (layer, draw)
        and ``fullmodel_`` over (epoch). A cell that could not be measured is NaN, and its
        ``reason`` says why. Attributes say what is needed to repeat the numbers. After Ctrl-C
        what was measured so far is returned: ``examples`` says how many examples are behind each
        cell, and the attribute ``complete`` is 0. ``doubt`` says why no number is to be trusted,
        and is empty where nothing speaks against them: see `explorer.engine.intact`.

    Raises
    ------
    UnknownNameError, StackError, DataError, UsageError
        Before anything is measured, when an argument does not fit, or `store` holds cells of
        another stack, dataset, policy, device or batch size.
    ClusterError
        The cluster has no workers, or one with other versions of a package.

    Warns
    -----
    NumbersWarning
        The trained network has another error than its stack records, is no better than chance,
        or could not be measured; or it draws random numbers, or its answers depend on the batch.
        The attribute ``doubt`` says the same.

    References
    ----------
    Zhang, Bengio, Singer, JMLR 23(67), 2022, Fig. 1: rows are layers and the full model, columns
    are ReRnd and epochs.
    """
    every, available = layer_names(stack), epoch_numbers(stack)
    layers = chosen("layer", layers, every)
    epochs = chosen("epoch", epochs, available)
    tolerance = number(
        "tolerance",
        tolerance,
        lambda value: 0 <= value < 1,
        "A fraction from 0 (exact) to below 1 is needed: 0.01 is ± 1 %.",
        "Divide a percentage by 100.",
    )
    draws, seed = draws_and_seed(draws, seed)
    settings = {
        "model": model,
        "data": data,
        "device": device,
        "batch_size": batch_size,
        "batchnorm": batchnorm,
        "screen": screen,
        "memory": memory,
        "calibration": calibration,
    }
    evaluator, provenance, measured = _opened(stack, settings, client, epochs)
    provenance["tolerance"] = tolerance
    cells = plan_sweep(layers, every, epochs, draws, seed)
    interventions = [canonical(cell.intervention, every, available) for cell in cells]
    wanted = list(dict.fromkeys([Intervention(()), *interventions]))
    journal = None if store is None else journal_of(store, provenance)
    with progress_bar(len(wanted) * evaluator.total, progress) as bar:
        outcomes, complete = followed(measured(wanted, tolerance=tolerance, journal=journal), bar)
    result = empty_results(layers, epochs, draws, NOT_REACHED)
    result.attrs.update(provenance, seed=seed, draws=draws, complete=int(complete))
    fill_in(result, dict(zip(cells, interventions, strict=True)), outcomes, evaluator.chance_error)
    warn_of(result.attrs["doubt"])
    return result


def fill_in(
    result: xr.Dataset,
    cells: Mapping[Cell, Intervention],
    outcomes: Mapping[Intervention, Outcome],
    chance_error: float,
) -> None:
    """Write what is known into an empty sweep, with the errors between which a cell lies."""
    arrays = {str(name): variable.values for name, variable in result.data_vars.items()}
    for cell, intervention in cells.items():
        _record(arrays, cell, outcomes.get(intervention, NOT_REACHED))
    result.attrs.update(_ends(chance_error, outcomes))
    result.attrs["doubt"] = doubt_about(result.attrs)


def _opened(
    stack: xr.DataTree, settings: Mapping[str, Any], client: Any, epochs: Sequence[int]
) -> tuple[Evaluator | RemoteEvaluator, dict[str, Any], Callable[..., Stream]]:
    """What measures, in this process or on a cluster; its provenance; and how it measures."""
    if client is None:
        here = Evaluator(stack, **settings)
        return here, provenance_of(here), partial(measure, here)
    # Dask is an extra, and nobody else should wait for its import
    from explorer.engine.remote import RemoteEvaluator

    there = RemoteEvaluator(client, stack, epochs=epochs, **settings)
    return there, there.provenance, there.measure


def followed(stream: Stream, bar: Any) -> tuple[dict[Intervention, Outcome], bool]:
    """Outcomes, with a progress bar, and whether all are there: Ctrl-C keeps what is known."""
    outcomes: dict[Intervention, Outcome] = {}
    try:
        with contextlib.closing(stream):
            for some in stream:
                outcomes.update(some)
                bar.update(sum(map(examples_seen, outcomes.values())) - bar.n)
    except KeyboardInterrupt:
        return outcomes, False
    bar.update(bar.total - bar.n)  # what need not be counted
    return outcomes, True


def examples_seen(outcome: Outcome) -> int:
    """Test examples that an outcome has needed; a cell that fails needs no more."""
    return outcome.examples if isinstance(outcome, Estimate) else 0


def _record(arrays: Mapping[str, NDArray[Any]], cell: Cell, outcome: Outcome) -> None:
    reason = outcome if isinstance(outcome, str) else outcome.failure
    arrays[f"{cell.prefix}reason"][cell.position] = reason
    if isinstance(outcome, str) or reason:
        return
    for quantity in QUANTITIES:
        arrays[cell.prefix + quantity][cell.position] = getattr(outcome, quantity)


def _ends(chance_error: float, outcomes: Mapping[Intervention, Outcome]) -> dict[str, Any]:
    """Errors between which a cell lies: the final network's and chance."""
    intact = outcomes.get(Intervention(()), NOT_REACHED)
    chance = {"chance_error": chance_error}
    reason = intact if isinstance(intact, str) else intact.failure
    if isinstance(intact, str) or reason:
        unknown = {"final_error": float("nan"), "final_examples": 0}
        return {**unknown, **chance, "doubt": not_measured(reason)}
    return {"final_error": intact.error, "final_examples": intact.examples, **chance}


def progress_bar(total: int, progress: bool) -> Any:
    """Progress over so many predictions, or one that does not show."""
    unit = " predictions"
    return tqdm(total=total, desc="sweep", unit=unit, unit_scale=True, disable=not progress)
