"""Which cells the heatmaps have, where they lie, and what a choice of one asks for."""

from __future__ import annotations

import math
from dataclasses import dataclass

from explorer.engine.interventions import Intervention, reinitialise, rerandomise

WHOLE_NETWORK = "fullmodel"
"""The paper's name of the row in which every layer comes from the same epoch."""

FRESH = "ReRnd"
"""The paper's name of the column of fresh draws."""

GAP = 0.3
"""Space, in cells, that sets ReRnd and fullmodel apart from the layers' own epochs."""


@dataclass(frozen=True)
class Cell:
    """One cell of a heatmap: which layer, put back to which source."""

    layer: str | None
    """Name of the layer; None for the whole network."""

    epoch: int | None
    """Epoch of the stack; None for the fresh draws (mean of all of them)."""

    def __str__(self) -> str:
        source = "fresh draws" if self.epoch is None else f"epoch {self.epoch}"
        return f"{self.layer or WHOLE_NETWORK} ← {source}"


@dataclass(frozen=True)
class Choice:
    """What the reader has chosen: a cell, and in ReRnd possibly a single draw."""

    cell: Cell
    """The chosen cell."""

    draw: int | None = None
    """Number of a single fresh draw, ≥ 0; None for the epoch, or for every draw."""

    def __str__(self) -> str:
        if self.draw is None:
            return str(self.cell)
        return f"{self.cell.layer or WHOLE_NETWORK} ← fresh draw {self.draw}"


@dataclass(frozen=True)
class Step:
    """One intervention to evaluate for a choice."""

    intervention: Intervention
    """What is put back."""

    draw: int | None
    """Number of the fresh draw; None for an epoch."""


@dataclass(frozen=True)
class Grid:
    """The rows and columns of the heatmaps, in the paper's order."""

    layers: tuple[str, ...]
    """Layers in the order of the network, drawn from the top."""

    epochs: tuple[int, ...]
    """Epochs of the stack, drawn from left to right after ReRnd."""

    draws: int
    """Number of fresh draws behind one ReRnd cell, ≥ 0."""

    @property
    def cells(self) -> tuple[Cell, ...]:
        """All cells, row by row; the whole network has no fresh draws."""
        fresh: tuple[int | None, ...] = (None,) if self.draws else ()
        by_layer = [Cell(layer, epoch) for layer in self.layers for epoch in fresh + self.epochs]
        return tuple(by_layer + [Cell(None, epoch) for epoch in self.epochs])

    @property
    def rows(self) -> tuple[str | None, ...]:
        """Layers, then None for the whole network."""
        return (*self.layers, None)

    def x(self, epoch: int | None) -> float:
        """Return the horizontal centre of an epoch's column; one cell is 1 wide."""
        return -1 - GAP if epoch is None else float(self.epochs.index(epoch))

    def y(self, layer: str | None) -> float:
        """Return the vertical centre of a layer's row, growing downwards."""
        return len(self.layers) + GAP if layer is None else float(self.layers.index(layer))

    def cell_at(self, x: float | None, y: float | None) -> Cell | None:
        """Return the cell under a point in heatmap coordinates, or None between and outside."""
        if x is None or y is None or not (math.isfinite(x) and math.isfinite(y)):
            return None
        for cell in self.cells:
            if abs(self.x(cell.epoch) - x) <= 0.5 and abs(self.y(cell.layer) - y) <= 0.5:
                return cell
        return None


def steps(choice: Choice, grid: Grid, seed: int) -> tuple[Step, ...]:
    """Return the interventions that a choice asks for.

    Parameters
    ----------
    choice : Choice
        A cell of the grid, and the draw if only one is wanted.
    grid : Grid
        Knows the layers and how many draws there are.
    seed : int
        Seed of the experiment, for fresh draws.

    Returns
    -------
    tuple of Step
        One for an epoch or a single draw, one per draw for a whole ReRnd cell.
    """
    cell = choice.cell
    layers = grid.layers if cell.layer is None else (cell.layer,)
    if cell.epoch is not None:
        return (Step(reinitialise(layers, cell.epoch), None),)
    draws = range(grid.draws) if choice.draw is None else (choice.draw,)
    return tuple(Step(rerandomise(layers, draw, seed), draw) for draw in draws)
