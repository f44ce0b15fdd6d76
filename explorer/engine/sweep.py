"""All cells of a stack: every layer from every epoch, fresh draws, and the learning curve."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn
from tqdm.auto import tqdm

from explorer import __version__
from explorer.engine.estimate import Estimate
from explorer.engine.evaluate import Evaluator
from explorer.engine.interventions import (
    BatchNormPolicy,
    Intervention,
    reinitialise,
    rerandomise,
)
from explorer.errors import CheckpointError, InterventionError, UsageError, unknown_name
from explorer.weights.stack import content_hash, epoch_numbers, layer_names

GROUP_BYTES = 512_000_000
"""Tensors of interventions that are held at once; more take another walk along the intact pass."""

Outcome = Estimate | str
"""Counts, or the reason why there are none."""

NOT_REACHED = "not measured: the sweep was stopped"

_KINDS = {
    "cell": ("layer", "epoch"),
    "rerandomized": ("layer", "draw"),
    "fullmodel": ("epoch",),
}
_PREFIX = {"cell": "", "rerandomized": "rerandomized_", "fullmodel": "fullmodel_"}
_QUANTITIES = ("error", "error_low", "error_high", "loss", "agreement", "examples")


@dataclass(frozen=True)
class Cell:
    """One number of a sweep: where it goes and which intervention it measures."""

    kind: str
    """``"cell"``, ``"rerandomized"`` or ``"fullmodel"``: the variables it belongs to."""
    position: tuple[int, ...]
    """Index into the dims of its kind."""
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
            cells.append(Cell("cell", (row, column), reinitialise(layer, epoch)))
        for draw in range(draws):
            cells.append(Cell("rerandomized", (row, draw), rerandomise(layer, draw, seed)))
    for column, epoch in enumerate(epochs):
        cells.append(Cell("fullmodel", (column,), reinitialise(every, epoch)))
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
) -> xr.Dataset:
    """Measure the test error of every (layer, epoch) and of fresh draws of every layer.

    Parameters
    ----------
    stack : xarray.DataTree
        As `explorer.open_stack` returns it.
    model, data, device, batch_size, batchnorm
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

    Returns
    -------
    xarray.Dataset
        error, error_low, error_high (95 % Wilson interval), loss (nats), agreement, examples and
        reason over (layer, epoch); the same with the prefix ``rerandomized_`` over (layer, draw)
        and ``fullmodel_`` over (epoch). A cell that could not be measured is NaN, and its
        ``reason`` says why. Attributes say what is needed to repeat the numbers. After Ctrl-C
        what was measured so far is returned: ``examples`` says how many examples are behind each
        cell, and the attribute ``complete`` is 0.

    Raises
    ------
    UnknownNameError, StackError, DataError, UsageError
        Before anything is measured, when an argument does not fit.

    References
    ----------
    Zhang, Bengio, Singer, JMLR 23(67), 2022, Fig. 1: rows are layers and the full model, columns
    are ReRnd and epochs.
    """
    every, available = layer_names(stack), epoch_numbers(stack)
    layers = _chosen("layer", layers, every)
    epochs = _chosen("epoch", epochs, available)
    if draws < 0:
        raise UsageError(
            f"draws is {draws}.", "0 or more fresh draws per layer will do.", "The default is 3."
        )
    evaluator = Evaluator(
        stack, model=model, data=data, device=device, batch_size=batch_size, batchnorm=batchnorm
    )
    cells = plan_sweep(layers, every, epochs, draws, seed)
    result = _empty(layers, epochs, draws)
    wanted = [evaluator.network.canonical(cell.intervention) for cell in cells]
    outcomes: dict[Intervention, Outcome] = {}
    complete = True
    try:
        _measure(evaluator, [Intervention(()), *wanted], outcomes, progress)
    except KeyboardInterrupt:
        complete = False
    for cell in cells:
        canonical = evaluator.network.canonical(cell.intervention)
        _record(result, cell, outcomes.get(canonical, NOT_REACHED))
    result.attrs.update(_provenance(stack, evaluator), seed=seed, draws=draws)
    return result.assign_attrs(complete=int(complete), **_ends(evaluator, outcomes))


def _measure(
    evaluator: Evaluator,
    interventions: Sequence[Intervention],
    outcomes: dict[Intervention, Outcome],
    progress: bool,
) -> None:
    """Measure interventions in groups whose tensors fit into memory, filling `outcomes`."""
    group: dict[Intervention, dict[str, Tensor]] = {}
    size = 0
    unique = list(dict.fromkeys(interventions))
    bar = tqdm(
        total=len(unique) * evaluator.total,
        desc="sweep",
        unit=" predictions",
        unit_scale=True,
        disable=not progress,
    )
    for intervention in unique:
        try:
            replacement = evaluator.network.replacement(intervention)
        except (CheckpointError, InterventionError) as error:
            outcomes[intervention] = str(error)
            bar.update(evaluator.total)
            continue
        group[intervention] = replacement
        size += sum(t.numel() * t.element_size() for t in replacement.values())
        if size > GROUP_BYTES:
            _measure_group(evaluator, group, outcomes, bar)
            group, size = {}, 0
    _measure_group(evaluator, group, outcomes, bar)
    bar.close()


def _measure_group(
    evaluator: Evaluator,
    group: dict[Intervention, dict[str, Tensor]],
    outcomes: dict[Intervention, Outcome],
    bar: Any,
) -> None:
    """Count for a whole group at once; out of memory, one by one, and then give the reason."""
    if not group:
        return
    try:
        seen = 0
        for estimates in evaluator.count(list(group.values())):
            outcomes.update(zip(group, estimates, strict=True))
            bar.update(len(group) * (estimates[0].examples - seen))
            seen = estimates[0].examples
    except torch.OutOfMemoryError:
        advice = f"out of memory on {evaluator.device_label}; try a smaller batch_size"
        if len(group) == 1:
            outcomes.update(dict.fromkeys(group, advice))
            return
        for intervention, replacement in group.items():
            _measure_group(evaluator, {intervention: replacement}, outcomes, bar)


def _record(result: xr.Dataset, cell: Cell, outcome: Outcome) -> None:
    prefix = _PREFIX[cell.kind]
    reason = outcome if isinstance(outcome, str) else outcome.failure
    result[f"{prefix}reason"].values[cell.position] = reason
    if isinstance(outcome, str) or reason:
        return
    for quantity in _QUANTITIES:
        result[f"{prefix}{quantity}"].values[cell.position] = getattr(outcome, quantity)


def _empty(layers: Sequence[str], epochs: Sequence[int], draws: int) -> xr.Dataset:
    """Build the Dataset with every cell marked as not reached."""
    coords: dict[str, list[Any]] = {
        "layer": list(layers),
        "epoch": list(epochs),
        "draw": list(range(draws)),
    }
    variables: dict[str, Any] = {}
    for kind, dims in _KINDS.items():
        shape = tuple(len(coords[dim]) for dim in dims)
        for quantity in _QUANTITIES:
            integer = quantity == "examples"
            values = np.zeros(shape, np.int64) if integer else np.full(shape, np.nan)
            variables[_PREFIX[kind] + quantity] = (dims, values, _ATTRIBUTES[quantity])
        reasons = np.full(shape, NOT_REACHED, dtype=object)
        variables[f"{_PREFIX[kind]}reason"] = (dims, reasons, _ATTRIBUTES["reason"])
    return xr.Dataset(variables, coords)


_ATTRIBUTES: dict[str, dict[str, Any]] = {
    "error": {"long_name": "test error", "units": "1"},
    "error_low": {"long_name": "lower end of the 95 % Wilson interval", "units": "1"},
    "error_high": {"long_name": "upper end of the 95 % Wilson interval", "units": "1"},
    "loss": {"long_name": "mean cross-entropy on the test set", "units": "nat"},
    "agreement": {"long_name": "predictions equal to the intact network's", "units": "1"},
    "examples": {"long_name": "test examples behind the cell", "units": "1"},
    "reason": {"long_name": "why the cell was not measured; empty where it was"},
}


def _ends(evaluator: Evaluator, outcomes: dict[Intervention, Outcome]) -> dict[str, float]:
    """Errors between which a cell lies: the final network's and chance."""
    intact = outcomes.get(Intervention(()))
    final = intact.error if isinstance(intact, Estimate) else float("nan")
    return {"final_error": final, "chance_error": evaluator.chance_error}


def _provenance(stack: xr.DataTree, evaluator: Evaluator) -> dict[str, Any]:
    """What a reader needs to repeat the numbers."""
    return {
        "stack": str(stack.attrs.get("name", "")),
        "stack_title": str(stack.attrs.get("title", "")),
        "content_hash": content_hash(stack),
        "dataset": evaluator.dataset,
        "dataset_hash": evaluator.dataset_hash,
        "examples": evaluator.total,
        "final_epoch": evaluator.network.epochs[-1],
        "batchnorm": evaluator.network.batchnorm,
        "batch_size": evaluator.batch_size,
        "execution": evaluator.execution,
        "device": evaluator.device_label,
        "dtype": "float32",
        "platform": platform.platform(),
        "version_python": platform.python_version(),
        "version_explorer": __version__,
        **{f"version_{name}": version(name) for name in ("torch", "numpy", "xarray")},
    }


def _chosen(kind: str, wanted: Sequence[Any] | None, available: Sequence[Any]) -> list[Any]:
    if wanted is None:
        return list(available)
    for name in wanted:
        if name not in available:
            raise unknown_name(kind, name, available)
    if isinstance(wanted, str) or not len(wanted) or len(set(wanted)) < len(wanted):
        raise UsageError(
            f"{kind}s is {wanted!r}.",
            f"A sequence of at least one {kind}, each once, is needed.",
            f"Leave it out to take every {kind}.",
        )
    return list(wanted)
