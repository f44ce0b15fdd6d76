"""The paper's own numbers, as far as its figures could be read, in the form of our results.

They were digitised from pictures of the figures of Zhang, Bengio, Singer, *Are All Layers Created
Equal?*, JMLR 23(67), 2022 (arXiv 1902.01996); the authors published no table of them.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from explorer.errors import unknown_name
from explorer.inventory.store import CATALOG_FOLDER

FIGURES_FILE = CATALOG_FOLDER / "paper_figures.json"

CITATION = "Zhang, Bengio, Singer, Are All Layers Created Equal?, JMLR 23(67), 2022"

NOT_IN_FIGURE = "not measured here: the figure does not show it"
"""Why a cell has no number."""

_DIMS = {"": ("layer", "epoch"), "rerandomized_": ("layer", "draw"), "fullmodel_": ("epoch",)}
_UNKNOWN = ("error_low", "error_high", "loss", "agreement")
_UNITS = {"l2_normalised": "normalised 2-norm, whose normalisation could not be read"}


def paper_sweeps() -> list[str]:
    """Names of the networks whose errors could be read from the paper's figures."""
    return list(_figures())


def paper_sweep(name: str) -> xr.Dataset:
    """Return the errors of one of the paper's figures in the form of a sweep.

    Parameters
    ----------
    name : str
        One of `paper_sweeps`.

    Returns
    -------
    xarray.Dataset
        ``error`` over (layer, epoch), ``rerandomized_error`` over (layer, draw), with the one
        value that the figure shows, and ``fullmodel_error`` over (epoch); fractions. What a figure
        does not tell (intervals, losses, examples) is NaN or 0, and ``reason`` says where a whole
        row is not shown. Attributes: source, figure, picture and precision say where the numbers
        are from; final_error is that of the last epoch; chance_error, 1 − 1/classes, is ours.

    Raises
    ------
    UnknownNameError
        No figure of this name could be read.
    """
    figure = _figure(name, _figures())
    layers, epochs = figure["layers"], figure["epochs"]
    values = {
        "": np.array(figure["error"]),
        "rerandomized_": np.array(figure["rerandomized_error"])[:, None],
        "fullmodel_": np.array(figure.get("fullmodel_error", [math.nan] * len(epochs))),
    }
    variables: dict[str, Any] = {}
    for prefix, dims in _DIMS.items():
        error = values[prefix]
        reasons = np.where(np.isnan(error), NOT_IN_FIGURE, "").astype(object)
        variables |= {
            f"{prefix}error": (dims, error),
            **{prefix + unknown: (dims, np.full(error.shape, math.nan)) for unknown in _UNKNOWN},
            f"{prefix}examples": (dims, np.zeros(error.shape, np.int64)),
            f"{prefix}reason": (dims, reasons),
        }
    return _labelled(variables, layers, epochs).assign_attrs(
        **_origin(name, figure),
        final_error=figure["error"][0][-1],
        chance_error=1 - 1 / figure["classes"],
        chance="of guessing; ours and not the paper's",
        examples=0,
    )


def paper_distances(name: str) -> xr.Dataset:
    """Return the distances of one of the paper's figures in the form of `explorer.distances`.

    Parameters
    ----------
    name : str
        A network whose distances the paper shows.

    Returns
    -------
    xarray.Dataset
        ``l2_normalised`` and ``linf`` over (layer, epoch), in weight units, and with the prefix
        ``fresh_`` over (layer, draw). How the paper normalises its 2-norm could not be read. At
        epoch 0, where a distance is 0 exactly, the digitised numbers are up to 0.005.

    Raises
    ------
    UnknownNameError
        The distances of this network could not be read.
    """
    shown = {key: figure for key, figure in _figures().items() if "distances" in figure}
    figure = _figure(name, shown)
    variables: dict[str, Any] = {}
    for measure, numbers in figure["distances"].items():
        attrs = {"long_name": _UNITS.get(measure, "max |Δ|")}
        variables[measure] = (("layer", "epoch"), numbers["moved"], attrs)
        fresh = np.array(numbers["fresh"])[:, None]
        variables[f"fresh_{measure}"] = (("layer", "draw"), fresh, attrs)
    return _labelled(variables, figure["layers"], figure["epochs"]).assign_attrs(
        **_origin(name, figure), reference_epoch=0, yardstick="ReRnd, as the figure shows it"
    )


@functools.cache
def _figures() -> dict[str, dict[str, Any]]:
    content: dict[str, dict[str, Any]] = json.loads(FIGURES_FILE.read_text(encoding="utf-8"))
    return content["sweeps"]


def _figure(name: str, known: Mapping[str, dict[str, Any]]) -> dict[str, Any]:
    if name not in known:
        raise unknown_name("figure of the paper", name, known)
    return known[name]


def _labelled(
    variables: Mapping[str, Any], layers: Sequence[str], epochs: Sequence[int]
) -> xr.Dataset:
    return xr.Dataset(
        variables,
        {"layer": np.array(layers, dtype=object), "epoch": list(epochs), "draw": [0]},
    )


def _origin(name: str, figure: Mapping[str, Any]) -> dict[str, Any]:
    """Where the numbers are from, as attributes."""
    return {
        "stack": name,
        "stack_title": figure["title"],
        "checkpoint_unit": "epoch",
        "family": figure["family"],
        "dataset": figure["dataset"],
        "source": f"paper: {CITATION}",
        "figure": figure["figure"],
        "picture": f"digitised from {figure['picture']}",
        "precision": figure["precision"],
    }
