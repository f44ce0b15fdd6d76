"""What the reader has chosen: one cell, or several that make one joint intervention."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from explorer.engine.interventions import (
    Epoch,
    FreshDraw,
    Intervention,
    Mixture,
    Moments,
    Noise,
    Skip,
    Source,
    Zeros,
)
from explorer.ui.grid import WHOLE_NETWORK, Cell, Grid, moment

NOISE = 0.05
"""Standard deviation of the noise that the menu offers, raw weight units."""

HALF = 0.5
"""Share of the trained layer in the mixture that the menu offers."""

Other = Literal["moments", "zeros", "skip", "noise", "half"]
"""Sources that have no column in the heatmaps."""

OTHERS: Mapping[Other, str] = {
    "moments": "trained mean and spread",
    "zeros": "zeros",
    "skip": "skipped (identity)",
    "noise": f"trained + noise {NOISE:g}",
    "half": "half-way back",
}
"""Sources without a column, and their names in the menu."""

DRAWN: frozenset[Other] = frozenset({"moments", "noise"})
"""Those that are drawn by chance."""


@dataclass(frozen=True)
class Choice:
    """What is measured at once: layers, each put to a source."""

    cells: tuple[Cell, ...]
    """One cell per layer, in the order of the network; or the one of the whole network."""

    draw: int | None = None
    """Number of a single fresh draw, ≥ 0; None for a checkpoint, or for every draw."""

    other: Other | None = None
    """A source without a column, into which all these layers are put; half-way: to their cells."""

    @property
    def cell(self) -> Cell | None:
        """The cell of the heatmap in which the numbers belong, if they belong in one."""
        first = self.cells[0]
        nowhere = first.layer is None and first.epoch is None
        return None if nowhere or len(self.cells) > 1 or self.other is not None else first

    @property
    def joint(self) -> bool:
        """Whether several layers are put back together."""
        return len(self.cells) > 1

    def __str__(self) -> str:
        sources = [self._source(cell) for cell in self.cells]
        names = [cell.layer or WHOLE_NETWORK for cell in self.cells]
        if len(set(sources)) == 1:
            return f"{_listed(names)} ← {sources[0]}"
        pairs = [f"{name} ← {source}" for name, source in zip(names, sources, strict=True)]
        return _listed(pairs)

    def _source(self, cell: Cell) -> str:
        if self.other == "half" and cell.epoch is not None:
            return f"half-way to {moment(cell.unit, cell.epoch)}"
        if self.other is not None:
            return OTHERS[self.other] + ("" if self.draw is None else f", draw {self.draw}")
        if cell.epoch is not None:
            return moment(cell.unit, cell.epoch)
        return "fresh draws" if self.draw is None else f"fresh draw {self.draw}"


@dataclass(frozen=True)
class Step:
    """One intervention to evaluate for a choice."""

    intervention: Intervention
    """What is put back."""

    draw: int | None
    """Number of the draw; None where nothing is drawn."""


def steps(choice: Choice, grid: Grid, seed: int) -> tuple[Step, ...]:
    """Return the interventions that a choice asks for.

    Parameters
    ----------
    choice : Choice
        Cells of the grid, and the draw if only one is wanted.
    grid : Grid
        Knows the layers and how many draws there are.
    seed : int
        Seed of the experiment, for fresh draws.

    Returns
    -------
    tuple of Step
        One where nothing is drawn or a single draw is wanted, else one per draw.
    """
    drawn = choice.other in DRAWN or (
        choice.other in (None, "half") and any(cell.epoch is None for cell in choice.cells)
    )
    draws: tuple[int | None, ...] = (choice.draw,)
    if drawn and choice.draw is None:
        draws = tuple(range(max(grid.draws, 1)))
    elif not drawn:
        draws = (None,)
    return tuple(Step(_intervention(choice, grid, draw, seed), draw) for draw in draws)


def _intervention(choice: Choice, grid: Grid, draw: int | None, seed: int) -> Intervention:
    changes = []
    for cell in choice.cells:
        layers = grid.layers if cell.layer is None else (cell.layer,)
        source = source_of(cell.epoch, choice.other, draw or 0, seed)
        changes += [(layer, source) for layer in layers]
    return Intervention(tuple(changes))


def source_of(epoch: int | None, other: Other | None, draw: int, seed: int) -> Source:
    """Return where a layer's values come from: a column, or a source without one."""
    if other == "moments":
        return Moments(draw, seed)
    if other == "zeros":
        return Zeros()
    if other == "skip":
        return Skip()
    if other == "noise":
        return Noise(NOISE, draw, seed)
    column = FreshDraw(draw, seed) if epoch is None else Epoch(epoch)
    return Mixture(column, HALF) if other == "half" else column


@dataclass(frozen=True)
class Selection:
    """The cell with the cursor, and those that are put back together."""

    active: Cell
    """Where the cursor is."""

    cells: tuple[Cell, ...] = ()
    """Cells of a joint intervention, one per layer, in the order of the network; empty for the
    active cell alone."""

    draw: int | None = None
    """Number of a single fresh draw; None for all."""

    other: Other | None = None
    """A source without a column in the place of the cells' own."""

    @property
    def choice(self) -> Choice:
        """What Compute measures."""
        return Choice(self.cells or (self.active,), self.draw, self.other)

    @property
    def layers(self) -> tuple[str, ...]:
        """The layers of a joint intervention."""
        return tuple(cell.layer for cell in self.cells if cell.layer is not None)

    def toggled(self, cell: Cell, grid: Grid) -> Selection:
        """Add a cell to those put back together, or take it out.

        A layer is put back to one source at a time, so its earlier cell goes. The whole network
        cannot be joined with a part of it.
        """
        if cell.layer is None:
            return Selection(cell)
        others = [one for one in self.cells if one.layer != cell.layer]
        if cell not in self.cells:
            others.append(cell)
        others.sort(key=lambda one: grid.layers.index(str(one.layer)))
        return Selection(cell, tuple(others))

    def clicked(self, cell: Cell, grid: Grid, adds: bool) -> Selection:
        """Select a cell; with `adds`, together with what is selected already."""
        if not adds:
            return Selection(cell)
        alone = not self.cells and self.active.layer is not None and self.active != cell
        return (replace(self, cells=(self.active,)) if alone else self).toggled(cell, grid)

    def put_to(self, epoch: int | None, draw: int | None, other: Other | None) -> Selection:
        """Give every chosen layer the same source."""
        cells = tuple(replace(cell, epoch=epoch) for cell in self.cells)
        return Selection(replace(self.active, epoch=epoch), cells, draw, other)


def joined(layers: tuple[str, ...], epoch: int | None, grid: Grid) -> Selection:
    """Select these layers, all in one column; the first of them has the cursor."""
    cells = tuple(grid.cell(layer, epoch) for layer in grid.layers if layer in layers)
    if not cells:
        return Selection(grid.cell(grid.layers[0], epoch))
    return Selection(cells[0], cells)


def presets(layers: tuple[str, ...], verdicts: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    """Return the joint interventions that the paper's question suggests.

    Parameters
    ----------
    layers : tuple of str
        In the order of the network.
    verdicts : mapping
        Layer → robust, critical, mixed or not known.

    Returns
    -------
    dict
        Name → layers, at least two each.
    """
    found = {
        "all but the first": layers[1:],
        "all but the last": layers[:-1],
        "every other layer": layers[1::2],
        "all robust layers": tuple(name for name in layers if verdicts.get(name) == "robust"),
    }
    stages: dict[str, list[str]] = {}
    for layer in layers:
        stage, dot, _ = layer.partition(".")
        if dot:
            stages.setdefault(stage, []).append(layer)
    found |= {f"all of {stage}": tuple(members) for stage, members in stages.items()}
    return {name: chosen for name, chosen in found.items() if len(chosen) > 1}


def _listed(names: list[str], most: int = 3) -> str:
    """Return "a", "a, b" or, of many, "a, b and 5 more"."""
    if len(names) <= most:
        return ", ".join(names)
    return f"{', '.join(names[: most - 1])} and {len(names) - most + 1} more"
