"""How far each layer's weights have moved, as named arrays over (layer, epoch)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from itertools import islice
from math import prod
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from explorer.errors import unknown_name
from explorer.stats.blocks import READERS, LayerWeights, layer_totals
from explorer.stats.measures import MEASURES, Totals, layer_measures, missing_measures
from explorer.stats.overview import distances_page, shown_measure
from explorer.stats.pieces import Opener
from explorer.stats.tensors import TOGETHER, Tensor, tensor_statistics

Weights = Mapping[str, Tensor]
"""Parameter name → values at one time; arrays, or torch tensors on any device."""

Rows = list[dict[str, Any]]
"""One layer's measures at each time."""


class Distances(xr.Dataset):  # type: ignore[no-untyped-call] # xarray's hook has no types
    """Distances: a Dataset like any other, but for the coloured table that a notebook shows."""

    __slots__ = ()

    def _repr_html_(self) -> str:
        measure = shown_measure(self)
        return super()._repr_html_() if measure is None else distances_page(self, measure)


def stack_distances(
    stack: xr.DataTree,
    *,
    reference: int = 0,
    fresh: Mapping[str, Sequence[Weights]] | None = None,
    opener: Callable[[xr.Variable], Opener | None] = lambda variable: None,
) -> xr.Dataset:
    """Distance of every layer at every epoch from one reference epoch.

    Buffers (running statistics) are left out. All parameters of a layer count together.

    Parameters
    ----------
    stack : xarray.DataTree
        As `explorer.open_stack` returns it.
    reference : int
        Epoch to measure from; 0 is initialisation.
    fresh : mapping, optional
        Layer → fresh draws of its parameters, the yard-stick. It is asked for one layer after the
        other, so that it may draw when it is asked. Where a layer has fewer draws than others, the
        others' last ones are left out.
    opener : function, optional
        From a variable over (epoch, …) to how its files are opened to be read in pieces, or None
        where they cannot be; then, and without it, a block is read as xarray reads it. The numbers
        are the same.

    Returns
    -------
    xarray.Dataset
        float64 over (layer, epoch), weight units unless said otherwise: l1; l2; l2_per_sqrt_m
        (‖Δ‖/√number of parameters); l2_per_sqrt_fan_in (root of Σ‖Δ_p‖²/fan_in_p over the layer's
        parameters, a bias having its matrix's fan_in); l2_relative (‖Δ‖/‖θ_ref‖, no unit); linf;
        cosine (1 − cos, no unit). nonfinite: weights that are NaN or infinite at either time;
        where it is above 0 every distance is NaN. parameters over (layer). With `fresh` the same
        over (layer, draw) with the prefix ``fresh_``. A checkpoint that cannot be read leaves
        NaN and its message in ``reason`` (layer, epoch).

    Raises
    ------
    UnknownNameError
        The stack has no such reference epoch.
    CheckpointError
        The reference epoch cannot be read.

    References
    ----------
    Zhang, Bengio, Singer, JMLR 23(67), 2022, Fig. 1b–c, whose normalisation could not be read;
    cosine: layer rotation, Carbonnelle & De Vleeschouwer, arXiv 1806.01603.
    """
    epochs = [int(epoch) for epoch in stack.coords["epoch"].values]
    if reference not in epochs:
        raise unknown_name("epoch", reference, epochs)
    rows, counts = {}, []
    with ThreadPoolExecutor(READERS) as threads:
        for layer in stack.attrs["layers"]:
            weights = _layer_weights(stack.children[str(layer)], opener)
            rows[str(layer)] = _layer_rows(
                weights, epochs.index(reference), fresh[layer] if fresh else [], threads
            )
            counts.append(sum(weights.sizes.values()))
    return _dataset(rows, epochs, counts).assign_attrs(
        stack=str(stack.attrs.get("name", "")),
        content_hash=str(stack.attrs.get("content_hash", "")),
        reference_epoch=reference,
    )


def state_distances(
    start: Weights,
    states: Iterable[tuple[int, Weights]],
    layers: Mapping[str, Mapping[str, int]],
    *,
    fresh: Mapping[str, Sequence[Weights]] | None = None,
) -> xr.Dataset:
    """Distance of every layer at every epoch from one state, for tensors where they lie.

    A parameter whose values in `start` lie on a GPU is measured there.

    Parameters
    ----------
    start : mapping
        Parameter → values to measure from; what belongs to no layer is left out.
    states : iterable of (int, mapping)
        Epoch and the same parameters at that time. Four are asked for and held at once, so
        that a generator may load them one after the other.
    layers : mapping
        Layer → its parameters (no buffers) → inputs that feed one output.
    fresh : mapping, optional
        As for `stack_distances`.

    Returns
    -------
    xarray.Dataset
        As from `stack_distances`, without attributes.

    Raises
    ------
    UnknownNameError
        A state lacks a parameter.
    StackError
        A parameter has another shape than at the start.
    """
    epochs: list[int] = []
    rows: dict[str, Rows] = {layer: [] for layer in layers}
    coming = iter(states)
    while group := list(islice(coming, TOGETHER)):
        epochs += [int(epoch) for epoch, _ in group]
        for layer, fan_in in layers.items():
            rows[layer] += _rows_between(start, [state for _, state in group], fan_in)
        group.clear()  # before the next four are asked for
    for layer, fan_in in layers.items():
        rows[layer] += _rows_between(start, fresh[layer] if fresh else [], fan_in)
    counts = [sum(prod(np.shape(start[name])) for name in names) for names in layers.values()]
    return _dataset(rows, epochs, counts)


def measure(start: Weights, now: Weights, fan_in: Mapping[str, int]) -> dict[str, Any]:
    """All measures of one layer between two times.

    Parameters
    ----------
    start, now : mapping
        Parameter → values of the same shape, of any dtype.
    fan_in : mapping
        Parameter → inputs that feed one output.

    Returns
    -------
    dict
        A number for each of `MEASURES`, and ``nonfinite``.
    """
    [row] = _rows_between(start, [now], {name: fan_in[name] for name in start})
    del row["reason"]
    return row


def _rows_between(start: Weights, others: Sequence[Weights], fan_in: Mapping[str, int]) -> Rows:
    """One layer's measures between one time and each of some others."""
    for state in (start, *others):
        for name in fan_in:
            if name not in state:
                raise unknown_name("parameter", name, state)
    totals = {
        name: tensor_statistics(start[name], [state[name] for state in others]) for name in fan_in
    }
    sizes = {name: prod(np.shape(start[name])) for name in fan_in}
    return [
        {**layer_measures(_row(totals, k), sizes, fan_in), "reason": ""} for k in range(len(others))
    ]


def _layer_weights(
    node: xr.DataTree, opener: Callable[[xr.Variable], Opener | None]
) -> LayerWeights:
    variables = {
        str(array.attrs["parameter"]): array
        for array in node.to_dataset(inherit=False).data_vars.values()
        if not array.attrs["buffer"]
    }
    inputs = {name: int(array.attrs["fan_in"]) for name, array in variables.items()}
    openers = {name: opener(array.variable) for name, array in variables.items()}
    return LayerWeights(list(variables), inputs, variables, node.sizes["epoch"], openers)


def _layer_rows(
    weights: LayerWeights, reference: int, draws: Sequence[Weights], threads: Executor
) -> Rows:
    """One layer's measures at each position of the epoch axis, then those of its fresh draws."""
    drawn = {name: [draw[name] for draw in draws] for name in weights.names}
    totals, reasons = layer_totals(weights, reference, drawn, threads)
    fan_in, sizes = weights.fan_in, weights.sizes
    return [
        {
            **(missing_measures() if reason else layer_measures(_row(totals, k), sizes, fan_in)),
            "reason": reason,
        }
        for k, reason in enumerate([*reasons, *[""] * len(draws)])
    ]


def _row(totals: Totals, position: int) -> dict[str, NDArray[np.float64]]:
    return {name: rows[position] for name, rows in totals.items()}


def _dataset(rows: Mapping[str, Rows], epochs: Sequence[int], counts: Sequence[int]) -> Distances:
    """Label the rows of all layers: first a row per epoch, then one per fresh draw.

    There are as many draws as every layer has: the yard-stick is for all of them or for none.
    """
    dims = {"": ("layer", "epoch"), "fresh_": ("layer", "draw")}
    parts = {"": slice(len(epochs)), "fresh_": slice(len(epochs), None)}
    shortest = min(map(len, rows.values()), default=0)
    every = [one[:shortest] for one in rows.values()]
    variables = {
        prefix + key: (dims[prefix], [[row[key] for row in one[at]] for one in every], _named(key))
        for prefix, at in parts.items()
        for key in (every[0][at][0] if every and every[0][at] else ())
    }
    draws = len(every[0]) - len(epochs) if every else 0
    return Distances(
        {**variables, "parameters": ("layer", list(counts))},
        coords={"layer": list(rows), "epoch": list(epochs), "draw": list(range(draws))},
    )


def _named(key: str) -> dict[str, str]:
    return {"long_name": MEASURES[key]} if key in MEASURES else {}
