"""Robust or critical: how far the error goes towards chance when a layer is put back."""

from __future__ import annotations

import numpy as np
import xarray as xr

from explorer.errors import UsageError

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
        (layer, epoch) float64; below 0 where the error fell, NaN where it was not measured.
    """
    final, chance = float(sweep.attrs["final_error"]), float(sweep.attrs["chance_error"])
    return (sweep["error"] - final) / (chance - final)


def verdicts(sweep: xr.Dataset, threshold: float = DEFAULT_THRESHOLD) -> xr.DataArray:
    """Call each layer robust or critical, from all of its epochs.

    Parameters
    ----------
    sweep : xarray.Dataset
        As `explorer.sweep` returns it.
    threshold : float
        A layer is critical when at any epoch the damage is larger; in 0…1.

    Returns
    -------
    xarray.DataArray
        (layer) str: ``"critical"``, ``"robust"``, or ``"not known"`` where cells are missing
        and none of those measured is critical.

    Raises
    ------
    UsageError
        The threshold is outside 0…1.

    References
    ----------
    The words are those of Zhang, Bengio, Singer, JMLR 23(67), 2022; the threshold is not.
    """
    if not 0 <= threshold <= 1:
        raise UsageError(
            f"The threshold is {threshold}.",
            "A fraction from 0 to 1 is needed: 0.1 is a tenth of the way to chance.",
            "Divide a percentage by 100.",
        )
    share = damage(sweep)
    critical = (share > threshold).any("epoch")
    known = share.notnull().all("epoch")
    words = np.where(critical, "critical", np.where(known, "robust", "not known"))
    return xr.DataArray(words, dims="layer", coords={"layer": sweep["layer"]}, name="verdict")
