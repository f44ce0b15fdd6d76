"""The panels beyond the paper: what each asks, measures, draws and says.

Pure functions of what has been found and what is selected; `panel_pane` puts them on the page.
Imported when the first panel is opened.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import xarray as xr

from explorer.ui import panel_tables as tables
from explorer.ui.across_panel import ACROSS
from explorer.ui.between import MOVING, moving_of
from explorer.ui.criticality_figure import criticality_figure
from explorer.ui.effective_figure import effective_figure
from explorer.ui.grid import moment
from explorer.ui.landscapes import barrier_figure, path_figure, valley_figure
from explorer.ui.motion_figure import CURVES, curves_figure, error_figure
from explorer.ui.outputs_figure import outputs_figure
from explorer.ui.panel import Asked, Field, Menu, Opened, Panel, Shown


def _starts(asked: Asked, label: str) -> Menu:
    """Checkpoints to go back to: all but the trained network; of a single one, a fresh draw."""
    grid = asked.grid
    entries: dict[str, int | None] = {moment(grid.unit, one): one for one in grid.epochs[:-1]}
    return Menu(label, entries or {"fresh draw 0": None})


# Effective parameters


def _effective_arguments(asked: Asked, chosen: Sequence[Any]) -> dict[str, Any]:
    (epoch,) = chosen
    wanted: dict[str, Any] = {"threshold": asked.share}
    if epoch is None:
        wanted |= {"draws": 1, "seed": asked.seed}
    elif epoch != asked.grid.epochs[0]:
        wanted["epoch"] = epoch
    return wanted


EFFECTIVE = Panel(
    "effective",
    "Effective parameters",
    "The largest set of layers that can be reset together before the error exceeds ε, and how "
    "many trained parameters are then still needed.",
    "effective_parameters",
    "sets of layers",
    ("step",),
    lambda asked: [_starts(asked, "Reset to")],
    _effective_arguments,
    lambda _found: None,
    lambda shown: [effective_figure(shown.found, shown.layer)],
    lambda _found: ("Error against parameters left",),
    lambda shown: tables.effective_table(shown.found),
)


# Criticality


def _criticality_asks(asked: Asked) -> list[Menu]:
    limits = {"1 % more loss (as published)": 1.01, "10 % more loss": 1.1, "50 % more loss": 1.5}
    points = {"those that decide": False, "all": True}
    return [_starts(asked, "Start"), Menu("Good enough", limits), Menu("Points", points)]


def _criticality_arguments(asked: Asked, chosen: Sequence[Any]) -> dict[str, Any]:
    epoch, factor, every_cell = chosen
    wanted: dict[str, Any] = {}
    if epoch != asked.grid.epochs[0]:
        wanted["epoch"] = epoch
    if factor != 1.01:
        wanted["factor"] = factor
    if every_cell:
        wanted["every_cell"] = True
    return wanted | ({"seed": asked.seed} if asked.seed else {})


def _valley_layer(shown: Shown) -> str:
    layers = list(map(str, shown.found["layer"].values))
    return shown.layer if shown.layer in layers else layers[0]


CRITICALITY = Panel(
    "criticality",
    "Criticality",
    "How far each layer can go back towards its start (α) and how much noise (σ) it stands "
    "there: a small μ means that the start will do, or that the valley is wide.",
    "criticality",
    "shares α",
    ("layer", "alpha", "sigma"),
    _criticality_asks,
    _criticality_arguments,
    lambda _found: Menu("Show", {"mean loss": "loss", "test error": "error"}),
    lambda shown: [
        criticality_figure(shown.found, shown.layer),
        valley_figure(shown.found, _valley_layer(shown), shown.by),
    ],
    lambda _found: ("Criticality of the layers", "Valley of a layer"),
    lambda shown: tables.criticality_table(shown.found),
)


# Paths


def _paths_asks(asked: Asked) -> list[Menu | Field]:
    grid = asked.grid
    begins: dict[str, int | str | None] = {"the trained network": None}
    begins |= {moment(grid.unit, one): one for one in grid.epochs[:-1]}
    begins["the same checkpoint, of two runs"] = "same"
    moving = {"one layer, and all": False, "also up to, and from, each layer": True}
    return [
        Menu("Points", {"0, 0.1, …, 1": 11, "0, 0.25, …, 1": 5}),
        Menu("From", begins),
        Field("to another run", "name or folder"),
        Menu("Moving", moving),
    ]


def _paths_arguments(_asked: Asked, chosen: Sequence[Any]) -> dict[str, Any]:
    shares, start, other, cumulative = chosen
    wanted: dict[str, Any] = {} if shares == 11 else {"shares": shares}
    if start is not None:
        wanted["start"] = start
    if other:
        wanted["other"] = Opened(other)
    return wanted | ({"cumulative": True} if cumulative else {})


def _paths_shows(found: xr.Dataset | None) -> Menu:
    both = {"test error": "error", "mean loss": "loss"}
    entries = dict(both)
    if found is not None and "upto_error" in found:
        for prefix, words in MOVING.items():
            entries |= {f"{said}, {words}": prefix + name for said, name in both.items()}
    return Menu("Show", entries)


def _paths_figures(shown: Shown) -> list[Any]:
    found, epochs = shown.found, shown.found["epoch"].values
    prefix, quantity = moving_of(shown.by)
    epoch = shown.epoch if shown.epoch in epochs else int(epochs[0])
    return [
        barrier_figure(found, quantity, shown.layer, prefix),
        path_figure(found, epoch, shown.layer or None, quantity, prefix),
    ]


PATHS = Panel(
    "paths",
    "Paths and barriers",
    "Error and loss on the straight line from the trained network, or another checkpoint, to each "
    "checkpoint of this run or another, one layer moving at a time and all together: a barrier is "
    "the height above the line between the ends.",
    "paths",
    "predictions",
    ("layer", "epoch", "share"),
    _paths_asks,
    _paths_arguments,
    _paths_shows,
    _paths_figures,
    lambda _found: ("Barriers", "Path of a layer"),
    lambda shown: tables.barrier_table(shown.found, *reversed(moving_of(shown.by))),
)


# Motion


MOTION = Panel(
    "motion",
    "Motion",
    "How each layer's weights move during training, measured on the weights alone, beside the "
    "error when the layer is put back: how far a layer moves does not tell whether it matters.",
    "motion",
    "layers",
    ("layer", "epoch"),
    lambda _asked: [],
    lambda _asked, _chosen: {},
    lambda _found: Menu("Show", {one.short: name for name, one in CURVES.items()}),
    lambda shown: [
        curves_figure(shown.found, shown.by, shown.layer),
        error_figure(shown.found, CURVES[shown.by].beside, shown.layer),
    ],
    lambda _found: ("Motion of the layers", "Motion against error"),
    lambda shown: tables.motion_table(shown.found, shown.by),
)


# Outputs


def _outputs_arguments(asked: Asked, _chosen: Sequence[Any]) -> dict[str, Any]:
    wanted: dict[str, Any] = {}
    if asked.draws:
        wanted["draws"] = asked.draws
        wanted |= {"seed": asked.seed} if asked.seed else {}
    return wanted


def _outputs_shows(found: xr.Dataset | None) -> Menu:
    names = {
        "Jensen–Shannon divergence": "js_divergence",
        "softmax cosine": "softmax_cosine",
        "linear CKA, logits": "cka",
        "linear CKA, before the last layer": "penultimate_cka",
        "units never active": "never_active",
        "calibration error": "ece",
    }
    known = {said: name for said, name in names.items() if found is None or name in found}
    return Menu("Show", known)


OUTPUTS = Panel(
    "outputs",
    "Outputs",
    "How far the outputs with one layer put back are from the trained network's, which needs no "
    "labels; with labels also how well calibrated they are and which classes suffer.",
    "outputs",
    "cells",
    ("layer", "epoch"),
    lambda _asked: [],
    _outputs_arguments,
    _outputs_shows,
    lambda shown: [outputs_figure(shown.found, shown.by, shown.layer)],
    lambda _found: ("Outputs",),
    lambda shown: tables.outputs_table(shown.found, shown.by, shown.layer, shown.epoch),
)

PANELS: tuple[Panel, ...] = (EFFECTIVE, CRITICALITY, PATHS, MOTION, OUTPUTS, ACROSS)
"""In the order of the menu."""
