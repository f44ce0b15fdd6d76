"""Barriers: how far error and loss rise on the way from one network to another."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import xarray as xr

PATHS: Mapping[str, tuple[str, ...]] = {
    "": ("layer", "epoch", "share"),
    "whole_": ("epoch", "share"),
    "upto_": ("layer", "epoch", "share"),
    "from_": ("layer", "epoch", "share"),
}
"""Prefix of the variables of a kind of path → what they are measured over."""

QUANTITIES = ("error", "error_low", "error_high", "loss")
"""What is measured at each point."""

ROUNDING = 1e-6
"""Height up to which a path is straight, as a share of its largest value: losses are float32."""


def with_barriers(points: xr.Dataset) -> xr.Dataset:
    """Add the barriers of all paths whose points are known.

    Parameters
    ----------
    points : xarray.Dataset
        Variables `QUANTITIES` over the dims of some of `PATHS`, with their prefixes; ``share``
        λ rises from 0 (network A) to 1 (B).

    Returns
    -------
    xarray.Dataset
        The same, and for error and loss y of each path:
        ``…_barrier`` = max over λ of y(λ) − ((1 − λ)·y(0) + λ·y(1)), ≥ 0;
        ``…_barrier_at``, the λ of that maximum, NaN where the barrier is 0;
        ``…_midpoint`` = y(½) − (y(A) + y(B))/2 with the whole networks A and B.
        NaN where a point is not known.

    References
    ----------
    The midpoint is the barrier of Adilova et al., ICLR 2024, arXiv 2307.06966.
    """
    found = points.copy()
    for prefix in PATHS:
        for quantity in ("error", "loss"):
            name = prefix + quantity
            if name in points:
                found = found.assign(_barrier(points[name], points[f"whole_{quantity}"], name))
    return found


def _barrier(path: xr.DataArray, whole: xr.DataArray, name: str) -> dict[str, xr.DataArray]:
    share = path["share"]
    first, last = path.isel(share=0, drop=True), path.isel(share=-1, drop=True)
    height = path - ((1 - share) * first + share * last)
    top = height.max("share", skipna=False)
    rises = top > ROUNDING * path.max("share")  # False where unknown
    at = share[height.fillna(0).argmax("share")].drop_vars("share").where(rises)
    middle = np.flatnonzero(share.values == 0.5)
    midpoint = xr.full_like(top, np.nan)
    if len(middle):
        ends = (whole.isel(share=0, drop=True) + whole.isel(share=-1, drop=True)) / 2
        midpoint = (path.isel(share=int(middle[0]), drop=True) - ends).transpose(*top.dims)
    return {
        f"{name}_barrier": top.where(rises | top.isnull(), 0.0),
        f"{name}_barrier_at": at,
        f"{name}_midpoint": midpoint,
    }
