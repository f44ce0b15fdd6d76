"""How far quantities of layers go along with the error when the layers are put back."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from scipy.stats import spearmanr

from explorer.errors import unknown_name

Z_95 = 1.959963984540054
"""97.5 % quantile of the standard normal distribution."""

FEWEST = 4
"""Layers that an interval needs at least: its standard error has n − 3 below the line."""


def against(motion: xr.Dataset, sweep: xr.Dataset) -> xr.Dataset:
    """Add to motion how far each quantity goes along with the error.

    Parameters
    ----------
    motion : xarray.Dataset
        As `explorer.motion` returns it.
    sweep : xarray.Dataset
        Of the same stack, as `explorer.sweep` returns it.

    Returns
    -------
    xarray.Dataset
        With, over ``quantity``, rank_correlation (Spearman, over the layers) between what became
        of the quantity by the last checkpoint and the error of the layer put back to the first;
        rank_low and rank_high, its 95 % interval; layers_compared. Over (quantity, layer) moved,
        and over (layer) error_when_put_back, what was compared.

    Raises
    ------
    UnknownNameError
        The sweep has none of the layers, or not the first checkpoint.
    """
    layers = [str(layer) for layer in motion["layer"].values]
    if not set(layers) & set(map(str, sweep["layer"].values)):
        raise unknown_name("layer", layers[0], list(map(str, sweep["layer"].values)))
    start, epochs = int(motion["epoch"].values[0]), sweep["epoch"].values.tolist()
    if start not in epochs:
        raise unknown_name("epoch", start, epochs)
    error = sweep["error"].sel(epoch=start).reindex(layer=motion["layer"]).values
    moved = moved_by_layer(motion)
    found = [spearman(values, error) for values in moved.values()]
    correlation: dict[str, Any] = {
        name: ("quantity", np.array([one[k] for one in found]))
        for k, name in enumerate(("rank_correlation", "rank_low", "rank_high", "layers_compared"))
    }
    return motion.assign(
        **correlation,
        moved=(("quantity", "layer"), np.array(list(moved.values()))),
        error_when_put_back=("layer", error),
    ).assign_coords(quantity=np.array(list(moved), object))


def moved_by_layer(motion: xr.Dataset) -> dict[str, NDArray[np.float64]]:
    """One number per layer and quantity: how far it has come by the last checkpoint.

    Rotation and sign flips at the end, the length of the whole way, and of the layer's largest
    matrix (in spectral norm) by which factor the spectral norm and the stable rank have changed,
    as |log|.
    """
    last = motion.isel(epoch=-1)
    found = {
        "rotation": last["rotation"].values,
        "way": motion["step"].sum("epoch", min_count=1).values,
        "sign_flips": last["sign_flips"].values,
    }
    for name in ("spectral_norm", "stable_rank"):
        with np.errstate(divide="ignore", invalid="ignore"):
            change = np.abs(np.log(last[name].values / motion[name].values[:, 0]))
        found[f"{name}_change"] = np.array(
            [_largest(motion, change, one) for one in last["layer"].values]
        )
    return found


def _largest(motion: xr.Dataset, change: NDArray[np.float64], layer: str) -> float:
    own = np.flatnonzero(motion["of_layer"].values == layer)
    norms = np.nan_to_num(motion["spectral_norm"].values[own, -1])
    return float(change[own[norms.argmax()]]) if len(own) else math.nan


def spearman(x: NDArray[np.float64], y: NDArray[np.float64]) -> tuple[float, float, float, int]:
    """Rank correlation, its 95 % interval, and the number of pairs that are known.

    Parameters
    ----------
    x, y : (pair,) float64, NaN where not known

    Returns
    -------
    tuple
        ρ, low, high, n. The interval is tanh(artanh ρ ± 1.96 √((1 + ρ²/2) / (n − 3))); NaN for
        fewer than four pairs, and for |ρ| = 1, where it is not defined.

    References
    ----------
    Bonett & Wright, Psychometrika 65, 23–28, 2000.
    """
    known = np.isfinite(x) & np.isfinite(y)
    n = int(known.sum())
    if n < 2 or len(set(x[known])) < 2 or len(set(y[known])) < 2:
        return math.nan, math.nan, math.nan, n
    rho = float(spearmanr(x[known], y[known]).statistic)
    if n < FEWEST or 1 - abs(rho) < 1e-12:
        return rho, math.nan, math.nan, n
    half = Z_95 * math.sqrt((1 + rho**2 / 2) / (n - 3))
    return rho, math.tanh(math.atanh(rho) - half), math.tanh(math.atanh(rho) + half), n
