"""How far each layer's weights have moved, as named arrays over (layer, epoch)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from explorer.errors import unknown_name
from explorer.stats.kernels import STATISTICS, pair_statistics

MEASURES = {
    "l1": "‖Δ‖₁",
    "l2": "‖Δ‖₂",
    "l2_per_sqrt_m": "‖Δ‖₂ / √m",
    "l2_per_sqrt_fan_in": "‖Δ‖₂ / √fan_in",
    "l2_relative": "‖Δ‖₂ / ‖θ₀‖₂",
    "linf": "max |Δ|",
    "cosine": "1 − cos(θ, θ₀)",
}
"""Measure → how it is written; Δ is the difference to the reference, m the parameter count."""

Weights = Mapping[str, NDArray[Any]]
"""Parameter name → values of one layer at one time."""


@dataclass(frozen=True)
class LayerWeights:
    """Where one layer's weights come from."""

    names: Sequence[str]
    """Its parameters (no buffers)."""
    fan_in: Mapping[str, int]
    """Parameter → inputs that feed one output."""
    variables: Mapping[str, xr.DataArray]
    """Parameter → values over (epoch, …), read when asked for."""

    def at(self, position: int) -> dict[str, NDArray[Any]]:
        """Values at one position of the epoch axis."""
        return {name: self.variables[name].isel(epoch=position).values for name in self.names}


def stack_distances(
    stack: xr.DataTree,
    *,
    reference: int = 0,
    fresh: Mapping[str, Sequence[Weights]] | None = None,
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
        Layer → fresh draws of its parameters, the yard-stick; every layer with as many draws.

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
    layers = {
        str(name): _layer_weights(stack.children[str(name)]) for name in stack.attrs["layers"]
    }
    draws = len(next(iter(fresh.values()))) if fresh else 0
    columns: dict[str, list[list[Any]]] = {}
    for layer, weights in layers.items():
        start = weights.at(epochs.index(reference))
        _append(columns, "", [_at_epoch(weights, start, k) for k in range(len(epochs))])
        if fresh:
            drawn = [{**measure(start, w, weights.fan_in), "reason": ""} for w in fresh[layer]]
            _append(columns, "fresh_", drawn)
    dims = {"": ("layer", "epoch"), "fresh_": ("layer", "draw")}
    variables = {
        key: (dims["fresh_" if key.startswith("fresh_") else ""], values, _attributes(key))
        for key, values in columns.items()
    }
    counts = [sum(w.variables[n][0].size for n in w.names) for w in layers.values()]
    return xr.Dataset(
        {**variables, "parameters": ("layer", counts)},
        coords={"layer": list(layers), "epoch": epochs, "draw": list(range(draws))},
        attrs={
            "stack": str(stack.attrs.get("name", "")),
            "content_hash": str(stack.attrs.get("content_hash", "")),
            "reference_epoch": reference,
        },
    )


def measure(start: Weights, now: Weights, fan_in: Mapping[str, int]) -> dict[str, Any]:
    """All measures of one layer between two times.

    Parameters
    ----------
    start, now : mapping
        Parameter → values of the same shape; float32 or float64, others are converted.
    fan_in : mapping
        Parameter → inputs that feed one output.

    Returns
    -------
    dict
        A number for each of `MEASURES`, and ``nonfinite``.
    """
    rows = {name: _statistics(start[name], now[name]) for name in start}
    total = {key: sum(row[key] for row in rows.values()) for key in STATISTICS}
    total["linf"] = max((row["linf"] for row in rows.values()), default=0.0)
    count = sum(np.size(values) for values in start.values())
    scaled = sum(row["l2_squared"] / fan_in[name] for name, row in rows.items())
    l2 = np.sqrt(total["l2_squared"])
    values = {
        "l1": total["l1"],
        "l2": l2,
        "l2_per_sqrt_m": l2 / np.sqrt(max(count, 1)),
        "l2_per_sqrt_fan_in": np.sqrt(scaled),
        "l2_relative": _ratio(l2, np.sqrt(total["reference_squared"])),
        "linf": total["linf"],
        "cosine": _cosine_distance(total),
    }
    bad = int(total["bad"])
    measured = {key: float("nan") if bad else float(value) for key, value in values.items()}
    return {**measured, "nonfinite": bad}


def _statistics(start: NDArray[Any], now: NDArray[Any]) -> dict[str, float]:
    out = np.empty(len(STATISTICS))
    pair_statistics(_flat(start), _flat(now), out)
    return dict(zip(STATISTICS, out.tolist(), strict=True))


def _flat(values: NDArray[Any]) -> NDArray[Any]:
    kept = values.dtype in (np.float32, np.float64)
    return np.ascontiguousarray(values if kept else values.astype(np.float64)).reshape(-1)


def _cosine_distance(total: Mapping[str, float]) -> float:
    """1 − cos in 0…2; 0 for identical weights, NaN where a norm is 0 and the other is not."""
    if total["l2_squared"] == 0.0:
        return 0.0
    norms = np.sqrt(total["reference_squared"]) * np.sqrt(total["current_squared"])
    return float(np.clip(1.0 - _ratio(total["dot"], norms), 0.0, 2.0))


def _ratio(top: float, bottom: float) -> float:
    """Quotient; 0/0 is 0 (nothing moved), anything else over 0 is NaN."""
    if bottom == 0.0:
        return 0.0 if top == 0.0 else float("nan")
    return top / bottom


def _layer_weights(node: xr.DataTree) -> LayerWeights:
    variables = {
        str(array.attrs["parameter"]): array
        for array in node.to_dataset(inherit=False).data_vars.values()
        if not array.attrs["buffer"]
    }
    inputs = {name: int(array.attrs["fan_in"]) for name, array in variables.items()}
    return LayerWeights(list(variables), inputs, variables)


def _at_epoch(weights: LayerWeights, start: Weights, position: int) -> dict[str, Any]:
    try:
        now = weights.at(position)
    except OSError as error:  # a CheckpointError is one: the other epochs stay usable
        missing = dict.fromkeys(MEASURES, float("nan"))
        return {**missing, "nonfinite": 0, "reason": str(error)}
    return {**measure(start, now, weights.fan_in), "reason": ""}


def _append(columns: dict[str, list[list[Any]]], prefix: str, row: list[dict[str, Any]]) -> None:
    for key in row[0] if row else ():
        columns.setdefault(prefix + key, []).append([cell[key] for cell in row])


def _attributes(key: str) -> dict[str, str]:
    name = MEASURES.get(key.removeprefix("fresh_"))
    return {"long_name": name} if name else {}
