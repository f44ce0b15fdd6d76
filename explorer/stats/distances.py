"""How far each layer's weights have moved, as named arrays over (layer, epoch)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from explorer.errors import unknown_name
from explorer.stats.kernels import STATISTICS, four_statistics

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

BLOCK = 16_384
"""Weights whose sums are kept apart before they are added up. The rounding error of a sum grows
with it: 2e-15 here, 1e-14 for 65,536, which is 2 % faster (10⁶ normal weights, 8 to a vector)."""

LINF = STATISTICS.index("linf")
"""The one statistic that is not a sum."""

TOGETHER = 4
"""Epochs of one parameter that one pass over the reference takes; as many as the kernel does."""

BUDGET = 800_000_000
"""Bytes of one parameter that are held at once beside its reference: four epochs of 5·10⁷ float32.
Of a larger parameter fewer epochs are held, never less than one."""

Weights = Mapping[str, NDArray[Any]]
"""Parameter name → values of one layer at one time."""

Totals = Mapping[str, NDArray[np.float64]]
"""Parameter name → (…, statistic) float64, as `STATISTICS` names them."""

Read = Callable[[int], NDArray[Any]]
"""Position on the epoch axis → values of one parameter."""


@dataclass(frozen=True)
class LayerWeights:
    """Where one layer's weights come from."""

    names: Sequence[str]
    """Its parameters (no buffers)."""
    fan_in: Mapping[str, int]
    """Parameter → inputs that feed one output."""
    variables: Mapping[str, xr.DataArray]
    """Parameter → values over (epoch, …), read when asked for."""

    def at(self, name: str, position: int) -> NDArray[Any]:
        """Values of one parameter at one position of the epoch axis."""
        values: NDArray[Any] = self.variables[name].isel(epoch=position).values
        return values

    @property
    def sizes(self) -> dict[str, int]:
        """Parameter → number of weights."""
        return {name: self.variables[name][0].size for name in self.names}


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
        drawn = fresh[layer] if fresh else []
        rows = _layer_rows(weights, len(epochs), epochs.index(reference), drawn)
        _append(columns, "", rows[: len(epochs)])
        _append(columns, "fresh_", rows[len(epochs) :])
    dims = {"": ("layer", "epoch"), "fresh_": ("layer", "draw")}
    variables = {
        key: (dims["fresh_" if key.startswith("fresh_") else ""], values, _attributes(key))
        for key, values in columns.items()
    }
    counts = [sum(weights.sizes.values()) for weights in layers.values()]
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
        Parameter → values of the same shape, of any dtype.
    fan_in : mapping
        Parameter → inputs that feed one output.

    Returns
    -------
    dict
        A number for each of `MEASURES`, and ``nonfinite``.
    """
    totals = {name: tensor_statistics(start[name], [now[name]])[0] for name in start}
    return _measures(totals, {name: np.size(start[name]) for name in start}, fan_in)


def tensor_statistics(start: NDArray[Any], others: Sequence[NDArray[Any]]) -> NDArray[np.float64]:
    """Compare one tensor with itself at other times, four of them in one pass.

    Parameters
    ----------
    start : array
        Any dtype; what float32 does not hold exactly is measured as float64.
    others : sequence of arrays
        Of the same shape.

    Returns
    -------
    numpy.ndarray
        (other, statistic) float64, as `STATISTICS` names them.
    """
    kept = np.can_cast(np.result_type(start, *others), np.float32)
    dtype = np.dtype(np.float32 if kept else np.float64)
    reference, *flat = (_flat(values, dtype) for values in (start, *others))
    found = [
        _four(reference, flat[k : k + TOGETHER])[: len(flat) - k]
        for k in range(0, len(flat), TOGETHER)
    ]
    return np.concatenate(found) if found else np.empty((0, len(STATISTICS)))


def _four(reference: NDArray[Any], others: Sequence[NDArray[Any]]) -> NDArray[np.float64]:
    """(4, statistic) of up to four others; the last one stands in for those that are missing."""
    a, b, c, d = (others[min(k, len(others) - 1)] for k in range(TOGETHER))
    whole = reference.size // BLOCK
    blocks = np.empty((whole + 1, TOGETHER, len(STATISTICS)))  # the last one is shorter
    for at, out in (
        (slice(whole * BLOCK), blocks[:whole]),
        (slice(whole * BLOCK, None), blocks[whole:]),
    ):
        if len(out):
            four_statistics(reference[at], a[at], b[at], c[at], d[at], out)
    total: NDArray[np.float64] = blocks.sum(axis=0)
    total[:, LINF] = blocks[:, :, LINF].max(axis=0)
    return total


def _flat(values: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    """One axis, aligned, not to be written to: the one kind of array the kernel is compiled for."""
    flat = np.require(values, dtype, ["C", "A"]).reshape(-1).view()
    flat.flags.writeable = False
    return flat


def _measures(
    totals: Totals, sizes: Mapping[str, int], fan_in: Mapping[str, int]
) -> dict[str, Any]:
    """All measures of one layer from the (statistic,) totals of its parameters."""
    rows = {name: dict(zip(STATISTICS, totals[name].tolist(), strict=True)) for name in totals}
    total = {key: sum(row[key] for row in rows.values()) for key in STATISTICS}
    total["linf"] = max((row["linf"] for row in rows.values()), default=0.0)
    count = sum(sizes.values())
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


def _cosine_distance(total: Mapping[str, float]) -> float:
    """1 − cos in 0…2; 0 for identical weights, NaN where a norm is 0 and the other is not.

    (‖c−r‖² − (‖c‖−‖r‖)²) / (2·‖r‖·‖c‖): the law of cosines. 1 − r·c/(‖r‖·‖c‖) is the same, but
    loses every digit where the angle is small.
    """
    if total["l2_squared"] == 0.0:
        return 0.0
    r, c = np.sqrt(total["reference_squared"]), np.sqrt(total["current_squared"])
    if r == 0.0 or c == 0.0:
        return float("nan")
    return float(np.clip((total["l2_squared"] - (c - r) ** 2) / (2 * r * c), 0.0, 2.0))


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


def _layer_rows(
    weights: LayerWeights, epochs: int, reference: int, draws: Sequence[Weights]
) -> list[dict[str, Any]]:
    """One layer's measures at each position of the epoch axis, then those of its fresh draws."""
    reasons = [""] * epochs
    totals = {}
    for name in weights.names:
        drawn = [draw[name] for draw in draws]
        totals[name] = _parameter_totals(partial(weights.at, name), reference, drawn, reasons)
    fan_in, sizes = weights.fan_in, weights.sizes
    missing = {**dict.fromkeys(MEASURES, float("nan")), "nonfinite": 0}
    return [
        {**(missing if reason else _measures(_row(totals, k), sizes, fan_in)), "reason": reason}
        for k, reason in enumerate([*reasons, *[""] * len(draws)])
    ]


def _parameter_totals(
    read: Read, reference: int, draws: Sequence[NDArray[Any]], reasons: list[str]
) -> NDArray[np.float64]:
    """(epoch and draw, statistic) of one parameter, a few epochs in memory at a time."""
    start = read(reference)
    together = max(1, min(TOGETHER, BUDGET // max(start.nbytes, 1)))
    groups = [
        range(first, min(first + together, len(reasons)))
        for first in range(0, len(reasons), together)
    ]
    found = [_group_totals(read, start, group, reasons) for group in groups]
    return np.concatenate([*found, tensor_statistics(start, draws)])


def _group_totals(
    read: Read, start: NDArray[Any], group: range, reasons: list[str]
) -> NDArray[np.float64]:
    """(epoch, statistic); where an epoch cannot be read, zeros, and in `reasons` why."""
    values = {}
    for k in group:
        try:
            values[k - group.start] = read(k)
        except OSError as error:  # a CheckpointError is one: the other epochs stay usable
            reasons[k] = str(error)
    found = np.zeros((len(group), len(STATISTICS)))
    found[list(values)] = tensor_statistics(start, list(values.values()))
    return found


def _row(totals: Totals, position: int) -> dict[str, NDArray[np.float64]]:
    return {name: rows[position] for name, rows in totals.items()}


def _append(columns: dict[str, list[list[Any]]], prefix: str, row: list[dict[str, Any]]) -> None:
    for key in row[0] if row else ():
        columns.setdefault(prefix + key, []).append([cell[key] for cell in row])


def _attributes(key: str) -> dict[str, str]:
    name = MEASURES.get(key.removeprefix("fresh_"))
    return {"long_name": name} if name else {}
