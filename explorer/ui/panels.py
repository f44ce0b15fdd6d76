"""The panels beyond the paper: what each asks, measures, draws and says.

Pure functions of what has been found and what is selected; `panel_pane` puts them on the page.
Imported when the first panel is opened.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import xarray as xr

from explorer.ui import panel_tables as tables
from explorer.ui.criticality_figure import criticality_figure
from explorer.ui.effective_figure import effective_figure
from explorer.ui.grid import Grid, moment
from explorer.ui.landscapes import barrier_figure, path_figure, valley_figure
from explorer.ui.motion_figure import CURVES, curves_figure, error_figure
from explorer.ui.outputs_figure import outputs_figure
from explorer.ui.studies import Kind


@dataclass(frozen=True)
class Menu:
    """One thing that the reader chooses."""

    label: str
    """What stands before it."""

    entries: Mapping[str, Any]
    """What is read → what it stands for."""


@dataclass(frozen=True)
class Shown:
    """What a panel draws."""

    found: xr.Dataset
    """As the public function returns it, complete or not."""

    by: Any
    """The chosen entry of the panel's menu `show`; None where it has none."""

    layer: str
    """The selected layer; empty for the whole network."""

    epoch: int
    """The selected checkpoint, or the first."""


@dataclass(frozen=True)
class Asked:
    """What a measurement depends on besides the panel's own menus."""

    grid: Grid
    """Layers and checkpoints."""

    share: float
    """ε, a share of the way to chance."""

    draws: int
    """Fresh draws of the settings."""

    seed: int
    """Seed of the settings."""


@dataclass(frozen=True)
class Panel:
    """One measurement as a part of the page."""

    kind: Kind
    """Which."""

    title: str
    """Its name."""

    sentence: str
    """What it shows, in a sentence."""

    function: str
    """The public function that measures the same."""

    unit: str
    """What its progress counts."""

    csv: tuple[str, ...]
    """Dims of the table that is saved as CSV."""

    asks: Callable[[Asked], Sequence[Menu]]
    """Menus that decide what is measured."""

    arguments: Callable[[Asked, Sequence[Any]], dict[str, Any]]
    """Keyword arguments of the function, but for those that are as by default."""

    show: Callable[[xr.Dataset | None], Menu | None]
    """Menu of what can be shown."""

    figures: Callable[[Shown], list[Any]]
    """What is drawn; every time the same number of figures."""

    names: tuple[str, ...]
    """Their names, for files."""

    table: Callable[[Shown], str]
    """The same in numbers, as HTML; names are escaped."""


def _starts(asked: Asked, label: str) -> Menu:
    """Checkpoints to go back to: all but the trained network; of a single one, a fresh draw."""
    grid = asked.grid
    entries: dict[str, int | None] = {moment(grid.unit, one): one for one in grid.epochs[:-1]}
    return Menu(label, entries or {"fresh draw 0": None})


def _quantities(_found: xr.Dataset | None) -> Menu:
    return Menu("Show", {"test error": "error", "mean loss": "loss"})


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
    ("Error against parameters left",),
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
    ("Criticality of the layers", "Valley of a layer"),
    lambda shown: tables.criticality_table(shown.found),
)


# Paths


def _paths_asks(_asked: Asked) -> list[Menu]:
    return [Menu("Points", {"0, 0.1, …, 1": 11, "0, 0.25, …, 1": 5})]


PATHS = Panel(
    "paths",
    "Paths and barriers",
    "Error and loss on the straight line from the trained network to each checkpoint, one layer "
    "moving at a time and all together: a barrier is the height above the line between the ends.",
    "paths",
    "predictions",
    ("layer", "epoch", "share"),
    _paths_asks,
    lambda _asked, chosen: {} if chosen[0] == 11 else {"shares": chosen[0]},
    _quantities,
    lambda shown: [
        barrier_figure(shown.found, shown.by, shown.layer),
        path_figure(shown.found, shown.epoch, shown.layer or None, shown.by),
    ],
    ("Barriers", "Path of a layer"),
    lambda shown: tables.barrier_table(shown.found, shown.by),
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
    ("Motion of the layers", "Motion against error"),
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
    ("Outputs",),
    lambda shown: tables.outputs_table(shown.found, shown.by, shown.layer, shown.epoch),
)

PANELS: tuple[Panel, ...] = (EFFECTIVE, CRITICALITY, PATHS, MOTION, OUTPUTS)
"""In the order of the menu."""


def code_of(panel: Panel, arguments: Mapping[str, Any], opened: str, options: str) -> str:
    """Return Python that measures the same.

    Parameters
    ----------
    panel : Panel
        Whose function is called.
    arguments : mapping
        Its keyword arguments.
    opened : str
        Python expression that opens the stack.
    options : str
        Further keyword arguments, each begun by a comma.
    """
    own = "".join(f", {name}={value!r}" for name, value in arguments.items())
    return (
        "import explorer as lx\n\n"
        f"stack = lx.open_stack({opened})\n"
        f"found = lx.{panel.function}(stack{own}{options})\n"
        "print(found)\n"
    )
