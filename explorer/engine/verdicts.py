"""Robust, mixed or critical: how far the error goes towards chance when a layer is put back."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from explorer.engine.margins import check_margin

DEFAULT_THRESHOLD = 0.1
"""A tenth of the way from the final error to chance. The paper gives no number; this is ours."""


def damage(sweep: xr.Dataset) -> xr.DataArray:
    """Share of the way from the final error (0) to chance (1) that a cell goes.

    Parameters
    ----------
    sweep : xarray.Dataset
        As `explorer.sweep` returns it.

    Returns
    -------
    xarray.DataArray
        (layer, epoch) float64; below 0 where the error fell, NaN where it was not measured, and
        everywhere if the final network is no better than chance: there is no way between them.
    """
    error = sweep["error"]
    return xr.DataArray(_share_of_way(sweep, error.values), error.coords, error.dims, "error")


def verdicts(sweep: xr.Dataset, threshold: float = DEFAULT_THRESHOLD) -> xr.DataArray:
    """Call each layer robust, mixed or critical, from all of its epochs.

    Parameters
    ----------
    sweep : xarray.Dataset
        As `explorer.sweep` returns it.
    threshold : float
        Damage up to which a layer is good enough; in 0…1.

    Returns
    -------
    xarray.DataArray
        (layer) str. ``"critical"``: the values of the first epoch do more damage. ``"mixed"``:
        those would do, but the values of some later epoch would not. ``"robust"``: those of no
        epoch do more damage. ``"not known"``: too little is measured to say so, or there is only
        the trained network itself.

    Raises
    ------
    UsageError
        The threshold is outside 0…1.

    References
    ----------
    The words are those of Zhang, Bengio, Singer, JMLR 23(67), 2022; the threshold is not.
    """
    _, share = _by_epoch(sweep, threshold)
    worse = share > threshold
    known = ~np.isnan(share) & (not _only_trained(sweep))
    first, later = worse[:, 0], worse.any(1)
    words = np.select(
        [first, later & known[:, 0], ~later & known.all(1)],
        ["critical", "mixed", "robust"],
        "not known",
    )
    return xr.DataArray(words, dims="layer", coords={"layer": sweep["layer"]}, name="verdict")


def recovery(sweep: xr.Dataset, threshold: float = DEFAULT_THRESHOLD) -> xr.DataArray:
    """Since when each layer is good enough: the first epoch from which on no damage is larger.

    Parameters
    ----------
    sweep : xarray.Dataset
        As `explorer.sweep` returns it.
    threshold : float
        Damage up to which a layer is good enough; in 0…1.

    Returns
    -------
    xarray.DataArray
        (layer) float64, an epoch; NaN where the last measured epoch is not good enough, or an
        epoch in between is not measured.

    Raises
    ------
    UsageError
        The threshold is outside 0…1.
    """
    epochs, share = _by_epoch(sweep, threshold)
    enough = share <= threshold  # False where not measured
    from_here = enough[:, ::-1].cumprod(1)[:, ::-1]  # (layer, epoch) 1 from recovery on
    found = [epochs[row.argmax()] if row.any() else np.nan for row in from_here]
    return xr.DataArray(
        np.array(found, float), dims="layer", coords={"layer": sweep["layer"]}, name="recovery"
    )


def not_monotone(sweep: xr.Dataset) -> xr.DataArray:
    """Tell of each layer whether values of a later epoch are worse than those of an earlier one.

    Parameters
    ----------
    sweep : xarray.Dataset
        As `explorer.sweep` returns it.

    Returns
    -------
    xarray.DataArray
        (layer) bool: True where some 95 % interval lies wholly above that of an earlier epoch.
    """
    order = np.argsort(sweep["epoch"].values)
    low, high = (sweep[end].values[:, order] for end in ("error_low", "error_high"))
    best = np.fmin.accumulate(high, 1)  # (layer, epoch) best until then
    rises = (low > best).any(1)
    return xr.DataArray(rises, dims="layer", coords={"layer": sweep["layer"]}, name="not_monotone")


def _share_of_way(sweep: xr.Dataset, errors: NDArray[Any]) -> NDArray[np.float64]:
    """Share of the way to chance of plain errors; xarray takes twenty times as long."""
    final, chance = float(sweep.attrs["final_error"]), float(sweep.attrs["chance_error"])
    way = chance - final if chance > final else np.nan
    share: NDArray[np.float64] = np.where(np.isfinite(errors), errors - final, np.nan) / way
    return share


def _only_trained(sweep: xr.Dataset) -> bool:
    """Say whether the trained network is all there is, which does no damage to itself."""
    epochs = [int(epoch) for epoch in sweep["epoch"].values]
    return epochs == [sweep.attrs.get("final_epoch")]


def _by_epoch(
    sweep: xr.Dataset, threshold: float
) -> tuple[NDArray[np.integer[Any]], NDArray[np.float64]]:
    """Epochs, rising, and the damage of every cell, (layer, epoch); plain arrays, which are fast.

    Raises
    ------
    UsageError
        The threshold is no fraction.
    """
    check_margin(threshold, None)
    order = np.argsort(sweep["epoch"].values)
    share = _share_of_way(sweep, sweep["error"].transpose("layer", "epoch").values)
    return sweep["epoch"].values[order], share[:, order]
