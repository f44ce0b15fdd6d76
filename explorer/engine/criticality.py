"""Module criticality: how far a layer can go back to its start, and how much noise it stands."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
import xarray as xr
from torch import nn

from explorer.arguments import draws_and_seed, fractions, number, numbers
from explorer.engine.choosing import chosen
from explorer.engine.evaluator import Evaluator
from explorer.engine.interventions import BatchNormPolicy, Intervention
from explorer.engine.parts import Part, Parts, last_dataset
from explorer.engine.provenance import journal_of, provenance_of
from explorer.engine.valley import LayerSearch, Quantity, Valley, search
from explorer.engine.valley_dataset import valleys_dataset
from explorer.errors import UsageError
from explorer.weights.stack import (
    check_is_stack,
    epoch_numbers,
    layer_names,
    layer_variables,
    read_layer,
)

SIGMAS = (0.0, *(float(f"{10 ** (k / 3 - 3):.3g}") for k in range(10)))
"""Deviations of the noise by default: none, and ten from 0.001 to 1, three to each factor of 10."""

FACTOR = 1.01
"""Times the final loss: the largest loss that is good enough, in the public code."""


def criticality(
    stack: xr.DataTree,
    *,
    epoch: int | None = None,
    layers: Sequence[str] | None = None,
    alphas: int | Sequence[float] = 11,
    sigmas: Sequence[float] = SIGMAS,
    draws: int = 10,
    seed: int = 0,
    factor: float = FACTOR,
    quantity: Quantity = "loss",
    every_cell: bool = False,
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
    """Measure each layer's criticality: the least (α/σ)²·‖θ_F − θ_0‖² that is good enough.

    One layer is put to θ(α) + u, where θ(α) = (1 − α)·θ_0 + α·θ_F and u is normal noise of
    deviation σ in every parameter, all others staying final. A point (α, σ) is good enough when
    the mean loss over the noise is at most `factor` times the final loss.

    Parameters
    ----------
    stack : xarray.DataTree
        As `explorer.open_stack` returns it; its last epoch is θ_F.
    epoch : int, optional
        Epoch of θ_0; default the first of the stack.
    layers : sequence of str, optional
        Layers to measure; default all.
    alphas : int or sequence of float
        Shares α of the final layer, in 0…1, or how many evenly from 0 to 1.
    sigmas : sequence of float
        Deviations σ of the noise, raw weight units, ≥ 0; one at least is above 0.
    draws : int
        Draws of the noise. All points of a layer get the same draws, times σ.
    seed : int
        Seed of the draws.
    factor : float
        Good enough is a mean up to `factor` times that of the final network; above 0.
    quantity : {"loss", "error"}
        What is compared: mean cross-entropy, or test error.
    every_cell : bool
        Measure the whole grid with all draws, for its heatmap. By default only what decides the
        criticality is measured, which takes goodness to end at some σ for each α.
    model, data, device, batch_size, batchnorm, memory, calibration
        As in `explorer.evaluate`.
    store : str or Path, optional
        File in which finished counts are kept, as in `explorer.sweep`.
    progress : bool
        Show a progress bar.

    Returns
    -------
    xarray.Dataset
        Over (layer): ``criticality`` μ (inf where no point is good enough), ``alpha_best`` and
        ``sigma_best`` (the point of the minimum), ``squared_distance`` ‖θ_F − θ_0‖² over its
        parameters, ``passes`` (passes over the test set that were needed), ``layer_reason`` (why
        μ is not a finite number; empty where it is). Over (layer, alpha, sigma): ``error`` and
        ``loss`` (means over test examples and draws), ``examples`` (pairs of example and draw
        behind them; fewer than all where a point was seen to be too bad before), ``good_enough``
        (1, 0, and −1 where it was not measured) and ``reason``. The attribute
        ``network_criticality`` is the sum over all layers; others say what is needed to repeat
        the numbers. After Ctrl-C what is known is returned, and ``complete`` is 0.

    Raises
    ------
    UnknownNameError, StackError, CheckpointError, DataError, UsageError
        Before anything is measured, when something does not fit.

    References
    ----------
    Chatterji, Neyshabur, Sedghi, *The intriguing role of module criticality in the
    generalization of deep networks*, ICLR 2020, arXiv 1912.00528. The factor 1.01, 11 × 11 points
    and 10 draws are those of the public code.

    Examples
    --------
    >>> import explorer as lx
    >>> stack = lx.open_stack("fcn3x256-digits")
    >>> found = lx.criticality(stack, layers=["layer3", "layer4"], progress=False)
    >>> bool(found["criticality"].sel(layer="layer3") < found["criticality"].sel(layer="layer4"))
    True
    """
    names = chosen("layer", layers, layer_names(stack))
    valley = valley_of(stack, epoch, alphas, sigmas, draws, seed, quantity, every_cell)
    _check_limit(factor, quantity)
    evaluator = Evaluator(
        stack,
        model=model,
        data=data,
        device=device,
        batch_size=batch_size,
        batchnorm=batchnorm,
        memory=memory,
        calibration=calibration,
    )
    if store is not None:
        evaluator.journal = journal_of(store, {**provenance_of(evaluator), "tolerance": 0.0})
    parts = criticality_parts(evaluator, valley, layers=names, factor=factor)
    return last_dataset(parts, "criticality", " α", progress)


def valley_of(
    stack: xr.DataTree,
    epoch: int | None = None,
    alphas: int | Sequence[float] = 11,
    sigmas: Sequence[float] = SIGMAS,
    draws: int = 10,
    seed: int = 0,
    quantity: Quantity = "loss",
    every_cell: bool = False,
) -> Valley:
    """Check the points that are asked for, and list them; arguments as in `criticality`."""
    check_is_stack(stack)
    (first,) = chosen("epoch", None if epoch is None else [epoch], epoch_numbers(stack))[:1]
    shares, deviations = fractions("alphas", alphas), _deviations(sigmas)
    draws, seed = draws_and_seed(draws, seed, least=1)
    return Valley(first, shares, deviations, draws, seed, quantity, every_cell)


def criticality_parts(
    evaluator: Evaluator,
    valley: Valley,
    *,
    layers: Sequence[str] | None = None,
    factor: float = FACTOR,
) -> Parts:
    """Do what `criticality` does, part by part, with a network that is loaded already."""
    stack = evaluator.network.stack
    every = layer_names(stack)
    names = every if layers is None else list(layers)
    intact = evaluator.result(Intervention(()))
    limit = factor * float(getattr(intact, valley.quantity))
    moved = {layer: squared_distance(stack, layer, valley.epoch) for layer in names}
    attrs = {
        **provenance_of(evaluator),
        "tolerance": 0.0,
        "epoch": valley.epoch,
        "draws": valley.draws,
        "seed": valley.seed,
        "factor": factor,
        "quantity": valley.quantity,
        "limit": limit,
        "every_cell": int(valley.every_cell),
        "final_error": intact.error,
        "final_loss": intact.loss,
        "all_layers": int(names == every),
    }
    found: dict[str, LayerSearch] = {}
    total = len(names) * len(valley.alphas)

    def dataset() -> xr.Dataset:
        result = valleys_dataset(names, valley, found, moved)
        complete = len(found) == len(names) and all(one.finished for one in found.values())
        together = float(result["criticality"].sum(skipna=False))
        return result.assign_attrs(attrs, network_criticality=together, complete=int(complete))

    yield Part(0, total, dataset)
    for layer in names:
        for known in search(evaluator, layer, valley, limit):
            found[layer] = known
            yield Part(sum(one.rows_done for one in found.values()), total, dataset)


def squared_distance(stack: xr.DataTree, layer: str, epoch: int) -> float:
    """‖θ_F − θ_0‖² of a layer's parameters, summed in float64; its buffers are left out."""
    final = read_layer(stack, layer, epoch_numbers(stack)[-1])
    start = read_layer(stack, layer, epoch)
    trained = [n for n, v in layer_variables(stack, layer).items() if not v.attrs["buffer"]]
    return math.fsum(
        float(((final[n].astype(np.float64) - start[n].astype(np.float64)) ** 2).sum())
        for n in trained
    )


def _deviations(sigmas: Sequence[float]) -> tuple[float, ...]:
    return numbers(
        "sigmas",
        sigmas,
        lambda every: every[0] >= 0 and 0 < every[-1] < math.inf,
        "Finite numbers of 0 or more, one of them above 0, are needed.",
        "Leave it out to take 0 and ten numbers from 0.001 to 1.",
    )


def _check_limit(factor: float, quantity: str) -> None:
    number(
        "factor",
        factor,
        lambda value: 0 < value < math.inf,
        "A number above 0 is needed: 1.01 allows 1 % more than the final network.",
        "Leave it out to take 1.01.",
    )
    if quantity not in get_args(Quantity):
        raise UsageError(
            f"quantity is {quantity!r}.",
            f"Quantities: {', '.join(get_args(Quantity))}.",
            "Choose one of them.",
        )
