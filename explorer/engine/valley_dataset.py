"""Valleys of layers as one Dataset: their points, and the criticality that follows from them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from explorer.engine.sweep import NOT_REACHED
from explorer.engine.valley import LayerSearch, Valley

NOT_NEEDED = "not measured: the criticality does not depend on it"
"""Reason of the cells that the search leaves out."""

OUTSIDE = "no point of the grid is good enough: smaller sigmas are needed"


def valleys_dataset(
    layers: Sequence[str],
    valley: Valley,
    found: Mapping[str, LayerSearch],
    moved: Mapping[str, float],
) -> xr.Dataset:
    """Lay out what searches have found, as `explorer.criticality` returns it.

    Parameters
    ----------
    layers : sequence of str
        All that are asked for.
    valley : Valley
        The points.
    found : mapping
        Layer → how far its search has come; a layer that is not there has not begun.
    moved : mapping
        Layer → ‖θ_F − θ_0‖² of its parameters.

    Returns
    -------
    xarray.Dataset
    """
    result = _empty(layers, valley)
    for row, layer in enumerate(layers):
        result["squared_distance"].values[row] = moved[layer]
        if layer in found:
            _record(result, row, valley, found[layer], moved[layer])
    return result


def _empty(layers: Sequence[str], valley: Valley) -> xr.Dataset:
    shape = (len(layers), len(valley.alphas), len(valley.sigmas))
    dims = ("layer", "alpha", "sigma")
    each = {
        "criticality": {"long_name": "criticality μ: least (α/σ)²·‖θ_F − θ_0‖²", "units": "1"},
        "alpha_best": {"long_name": "share α of the final layer at the minimum", "units": "1"},
        "sigma_best": {"long_name": "deviation σ of the noise at the minimum"},
        "squared_distance": {"long_name": "‖θ_F − θ_0‖² over the layer's parameters"},
        "passes": {"long_name": "passes over the test set that were needed", "units": "1"},
    }
    variables: dict[str, Any] = {
        name: ("layer", np.full(len(layers), np.nan), attrs) for name, attrs in each.items()
    }
    why = {"long_name": "why there is no finite criticality; empty where there is"}
    variables["layer_reason"] = ("layer", np.full(len(layers), NOT_REACHED, object), why)
    variables |= {
        "error": (dims, np.full(shape, np.nan), {"long_name": "test error", "units": "1"}),
        "loss": (dims, np.full(shape, np.nan), {"long_name": "mean cross-entropy", "units": "nat"}),
        "examples": (dims, np.zeros(shape, np.int64), {"long_name": "pairs of example and draw"}),
        "good_enough": (
            dims,
            np.full(shape, -1, np.int8),
            {"long_name": "1, 0; −1: unknown"},
        ),
        "reason": (dims, np.full(shape, NOT_REACHED, object), {"long_name": "why not measured"}),
    }
    coords = {
        "layer": np.array(layers, object),
        "alpha": ("alpha", list(valley.alphas), {"long_name": "α, share of the final layer"}),
        "sigma": ("sigma", list(valley.sigmas), {"long_name": "σ, deviation of the noise"}),
    }
    return xr.Dataset(variables, coords)


def _record(result: xr.Dataset, row: int, valley: Valley, found: LayerSearch, moved: float) -> None:
    result["passes"].values[row] = found.passes
    if found.finished:
        result["reason"].values[row] = NOT_NEEDED
        result["layer_reason"].values[row] = found.reason
    for place, point in found.points.items():
        at = (row, *place)
        result["reason"].values[at] = point.reason
        if not math.isfinite(point.loss_sum):
            continue
        result["error"].values[at] = point.error
        result["loss"].values[at] = point.loss
        result["examples"].values[at] = point.examples
        result["good_enough"].values[at] = int(point.good_enough)
    if not found.finished or found.reason:
        return
    if found.best is None:
        result["criticality"].values[row] = math.inf
        result["layer_reason"].values[row] = OUTSIDE
        return
    alpha, sigma = valley.alphas[found.best[0]], valley.sigmas[found.best[1]]
    result["criticality"].values[row] = (alpha / sigma) ** 2 * moved
    result["alpha_best"].values[row], result["sigma_best"].values[row] = alpha, sigma
