"""What is known about a stack before anything is measured."""

from __future__ import annotations

from typing import Any

import xarray as xr

from explorer.engine.intact import recorded_error
from explorer.engine.results import read_sweep, warn_if_changed
from explorer.inventory.manifest import bundled_sweep
from explorer.ui.grid import Grid
from explorer.ui.results import blank, forget_draws, from_sweep
from explorer.ui.settings import Settings


def known_results(stack: xr.DataTree, grid: Grid, settings: Settings) -> xr.Dataset:
    """Return the numbers that came with a bundled stack, or none where they do not apply.

    Parameters
    ----------
    stack : xarray.DataTree
        From `explorer.open_stack`.
    grid : Grid
        The cells of the heatmaps.
    settings : Settings
        Another network, test set or BatchNorm policy makes other numbers.

    Returns
    -------
    xarray.Dataset
        As `explorer.sweep` returns it; the reason of what is missing is "not measured".
    """
    attrs: dict[str, Any] = {
        "stack": str(stack.attrs.get("name", "")),
        "stack_title": str(stack.attrs.get("title", "")),
        "checkpoint_unit": grid.unit,
        "content_hash": str(stack.attrs.get("content_hash", "")),
        "integrity": str(stack.attrs.get("integrity", "")),
        "batchnorm": settings.batchnorm,
        "seed": settings.seed,
        **recorded_error(stack.attrs, grid.epochs[-1]),
    }
    own = settings.model is not None or settings.data is not None
    path = None if own or not attrs["content_hash"] else bundled_sweep(attrs["stack"])
    if path is None:
        return blank(grid, attrs)
    sweep = read_sweep(path)
    warn_if_changed(sweep.attrs, attrs["content_hash"], f"The bundled sweep of {attrs['stack']}")
    same = all(sweep.attrs[name] == attrs[name] for name in ("content_hash", "batchnorm"))
    if not same or tuple(str(layer) for layer in sweep["layer"].values) != grid.layers:
        return blank(grid, attrs)
    results = from_sweep(sweep, grid)
    if sweep.attrs["seed"] != settings.seed:
        forget_draws(results)
    results.attrs |= attrs
    return results
