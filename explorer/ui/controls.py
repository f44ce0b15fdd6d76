"""Menus and buttons: what is put back to what, how it is shown, and how it is measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import ipywidgets as widgets

from explorer.engine.verdicts import DEFAULT_THRESHOLD
from explorer.ui.grid import WHOLE_NETWORK, Grid, Unit, moment
from explorer.ui.selection import OTHERS, Other, Selection
from explorer.ui.settings import Settings
from explorer.ui.wording import MEASURES, tick

THRESHOLDS = (0.01, 0.02, 0.05, DEFAULT_THRESHOLD, 0.2, 0.5)
"""Shares of the way to chance that the menu ε offers."""

POLICIES = {
    "with_layer": "move with their layer",
    "weights_only": "stay as trained",
    "recalibrate": "are taken anew",
}
"""BatchNorm policies, as the end of a sentence about running statistics."""

ARITHMETIC = ["float32", "lower precision first"]
"""The labels are those of float32 either way."""

ONE_LAYER = "one layer"
"""The entry of the presets that ends a joint selection."""

AS_TICKED = "as ticked"
"""The entry of the presets for ticks that are none of the others."""


class Controls(widgets.Box):
    """What is put back to what: the way without a pointer to everything a click does.

    Parameters
    ----------
    grid : Grid
        What there is to choose from.
    """

    def __init__(self, grid: Grid) -> None:
        self._grid = grid
        draws: list[int | None] = [None, *range(grid.draws)] if grid.draws else []
        self._sources: list[tuple[int | None, int | None, Other | None]] = [
            *((None, draw, None) for draw in draws),
            *((epoch, None, None) for epoch in grid.epochs),
            *((grid.epochs[0], None, other) for other in OTHERS),
        ]
        self._presets: dict[str, tuple[str, ...]] = {}
        self._offered: dict[str, tuple[str, ...]] = {}
        self._ticked: tuple[str, ...] = ()
        self._followed: tuple[list[str], str] = ([ONE_LAYER], "")
        self.following = False
        """Whether the menus are being set to what is selected, so that nobody has chosen."""
        rows = [layer or f"{WHOLE_NETWORK} (all)" for layer in grid.rows]
        self.layer = menu("Layer", rows)
        self.source = menu("put back to", [_source_name(grid.unit, *one) for one in self._sources])
        self.preset = menu("Together", [ONE_LAYER])
        self.compute = button("Compute", primary=True)
        self.stop = button("Stop")
        self.sweep = button("Sweep all")
        self.sweep_row = button("Sweep selection")
        parts = [self.layer, self.source, self.preset, self.compute, self.stop]
        super().__init__([*parts, self.sweep, self.sweep_row])
        self.layout.flex_flow = "row wrap"
        self.layout.align_items = "center"

    @property
    def chosen_layer(self) -> str | None:
        """The layer of the menu; None for the whole network."""
        return self._grid.rows[int(self.layer.index)]

    @property
    def chosen_source(self) -> tuple[int | None, int | None, Other | None]:
        """Checkpoint, draw and source without a column of the menu."""
        return self._sources[int(self.source.index)]

    @property
    def chosen_preset(self) -> tuple[str, ...]:
        """The layers of the preset; none for one layer alone."""
        return list(self._offered.values())[self.preset.index - 1] if self.preset.index else ()

    def follow(self, selection: Selection) -> None:
        """Set the menus to what is selected."""
        self.following = True
        self.layer.index = self._grid.rows.index(selection.active.layer)
        epoch = selection.active.epoch if selection.other is None else self._grid.epochs[0]
        self.source.index = self._sources.index((epoch, selection.draw, selection.other))
        self.following = False
        self._ticked = selection.layers
        self._follow_ticks()

    def offer(self, presets: Mapping[str, tuple[str, ...]]) -> None:
        """Set what can be put back together; what is ticked stays so."""
        self._presets = dict(presets)
        self._follow_ticks()

    def _follow_ticks(self) -> None:
        """Offer the presets, and name the one that is ticked; several may be the same layers."""
        before = list(self._offered)[self.preset.index - 1] if self.preset.index else ""
        offered, ticked = dict(self._presets), self._ticked
        if ticked and ticked not in offered.values():
            offered[AS_TICKED] = ticked
        same = [name for name, layers in offered.items() if layers == ticked]
        name = before if before in same else next(iter(same), "")
        names = [ONE_LAYER, *(f"{one} ({len(layers)})" for one, layers in offered.items())]
        if self._followed == (names, name):
            return  # the reader may have chosen by now, and waits for whoever paints
        self._followed = names, name
        self._offered, self.following = offered, True
        if [label for label, _ in self.preset.options] != names:
            self.preset.options = [(label, at) for at, label in enumerate(names)]
        self.preset.index = list(offered).index(name) + 1 if name else 0
        self.following = False


class Views:
    """How the numbers are shown: four menus, each above its picture.

    Parameters
    ----------
    chosen : sequence of int, optional
        Which of their entries are chosen; default where a reader begins.
    """

    def __init__(self, chosen: Sequence[int] = ()) -> None:
        self.error = menu("Test error", ["in %", "as change, in points"])
        self.measure = menu("Distance", list(MEASURES.values()))
        self.picture = menu("as", ["by checkpoint", "against error"])
        self.threshold = menu(
            "ε, good enough up to", [f"{tick(share)} of the way to chance" for share in THRESHOLDS]
        )
        self.threshold.index = THRESHOLDS.index(DEFAULT_THRESHOLD)
        for one in (self.error, self.measure, self.picture):
            one.add_class("layer-explorer-title")
        for one, index in zip(self.menus, chosen, strict=False):
            one.index = index

    @property
    def menus(self) -> tuple[widgets.Dropdown, ...]:
        """All four."""
        return (self.error, self.measure, self.picture, self.threshold)

    @property
    def difference(self) -> bool:
        """Whether the heatmap shows differences to the final error."""
        return bool(self.error.index == 1)

    @property
    def chosen_measure(self) -> str:
        """One of `MEASURES`."""
        return list(MEASURES)[int(self.measure.index)]

    @property
    def share(self) -> float:
        """ε: the share of the way to chance up to which a layer is good enough."""
        return THRESHOLDS[int(self.threshold.index)]


class SettingsPane(widgets.VBox):
    """How cells are measured; Apply measures with the new settings from then on.

    Parameters
    ----------
    settings : Settings
        Those in force.
    apply : callable
        Called with the new ones.
    """

    def __init__(self, settings: Settings, apply: Callable[[Settings], None]) -> None:
        self._settings = settings
        self.policy = menu(
            "BatchNorm statistics",
            list(POLICIES.values()),
            list(POLICIES).index(settings.batchnorm),
        )
        self.device = text("Device", settings.device, "auto, cpu, cuda, cuda:1, mps")
        self.arithmetic = menu("Arithmetic", ARITHMETIC, int(settings.screen))
        self.draws = number("Fresh draws", settings.draws, 0, 50)
        self.seed = number("Seed", settings.seed, 0, 2**31 - 1)
        self.form = menu("Layers", ["as rows", "as columns"], int(settings.sideways))
        self.apply = button("Apply", primary=True)
        self.apply.on_click(lambda _button: apply(self.wanted))
        form = [self.policy, self.device, self.arithmetic, self.draws, self.seed, self.form]
        row = widgets.Box([*form, self.apply])
        row.layout.flex_flow = "row wrap"
        super().__init__([row])

    @property
    def wanted(self) -> Settings:
        """The settings that the pane says."""
        return replace(
            self._settings,
            batchnorm=list(POLICIES)[self.policy.index],
            device=self.device.value.strip() or "auto",
            screen=self.arithmetic.index == 1,
            draws=self.draws.value,
            seed=self.seed.value,
            sideways=self.form.index == 1,
        )


class Chooser(widgets.Box):
    """Which stack is explored: one of the catalog, or a path.

    Parameters
    ----------
    names : sequence of str
        Stacks of the catalog.
    current : str
        The one that is open; it need not be among them.
    choose : callable
        Called with a name or a path; returns whether that stack is open now.
    """

    def __init__(self, names: Sequence[str], current: str, choose: Callable[[str], bool]) -> None:
        self._names, self._current = list(names), current
        self._following = False
        self._choose = choose
        self.stack = menu("Stack", [*names, "other"], self._place(current))
        self.path = text("or folder", "", "path, then Enter")
        self.stack.observe(self._picked, "index")
        self.path.observe(self._entered, "value")
        super().__init__([self.stack, self.path])
        self.layout.flex_flow = "row wrap"

    def follow(self, current: str) -> None:
        """Show which stack is open."""
        self._following, self._current = True, current
        self.stack.index = self._place(current)
        self._following = False

    def _place(self, name: str) -> int:
        return self._names.index(name) if name in self._names else len(self._names)

    def _picked(self, _change: Any) -> None:
        if self._following:
            return
        if self.stack.index == len(self._names):  # it has no name: its folder says which
            self.follow(self._current)
            self.path.focus()
        elif self._choose(self._names[self.stack.index]):
            self.path.value = ""  # what is in it already could not be asked for again

    def _entered(self, _change: Any) -> None:
        if self.path.value.strip():
            self._choose(self.path.value.strip())


def menu(label: str, names: Sequence[str], index: int = 0) -> widgets.Dropdown:
    """Return a menu with its label."""
    options = [(name, at) for at, name in enumerate(names)]
    return widgets.Dropdown(options=options, index=index, description=label, **_in_a_row())


def text(label: str, value: str, hint: str) -> widgets.Text:
    """Return a field for a line of text, which tells its value on Enter or when it is left."""
    given = {"value": value, "placeholder": hint, "description": label}
    return widgets.Text(**given, continuous_update=False, **_in_a_row("230px"))


def number(label: str, value: int, low: int, high: int) -> widgets.BoundedIntText:
    """Return a field for a whole number."""
    given = {"value": value, "min": low, "max": high, "description": label}
    return widgets.BoundedIntText(**given, **_in_a_row("150px"))


def button(label: str, primary: bool = False) -> widgets.Button:
    """Return a button as wide as its label."""
    style, layout = "primary" if primary else "", {"width": "auto", "min_width": "72px"}
    return widgets.Button(description=label, button_style=style, layout=layout)


def _in_a_row(width: str = "auto") -> dict[str, Any]:
    """Style and layout to make a field with: each that is set afterwards is one more message."""
    room = {"width": width, "min_width": "0", "max_width": "100%", "margin": "2px 12px 2px 0"}
    return {"style": {"description_width": "initial"}, "layout": room}


def _source_name(unit: Unit, epoch: int | None, draw: int | None, other: Other | None) -> str:
    if other is not None:
        return OTHERS[other]
    if epoch is not None:
        return moment(unit, epoch)
    return "all fresh draws (ReRnd)" if draw is None else f"fresh draw {draw}"
