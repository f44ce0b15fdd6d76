"""Which cells the heatmaps have, where they lie, and what a choice of one asks for."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from explorer.engine.interventions import Intervention, reinitialise, rerandomise

Unit = Literal["epoch", "step"]
"""What the numbers of a stack's checkpoints count; the dimension is called `epoch` for both."""

WHOLE_NETWORK = "fullmodel"
"""The paper's name of the row in which every layer comes from the same checkpoint."""

FRESH = "ReRnd"
"""The paper's name of the column of fresh draws."""

GAP = 0.3
"""Space, in cells, that sets ReRnd and fullmodel apart from the layers' own checkpoints."""


@dataclass(frozen=True)
class Cell:
    """One cell of a heatmap: which layer, put back to which source."""

    layer: str | None
    """Name of the layer; None for the whole network."""

    epoch: int | None
    """Checkpoint of the stack, in its unit; None for the fresh draws (mean of all of them)."""

    unit: Unit = "epoch"
    """What the number counts; a cell of epochs is none of steps."""

    def __str__(self) -> str:
        source = "fresh draws" if self.epoch is None else f"{self.unit} {self.epoch}"
        return f"{self.layer or WHOLE_NETWORK} ← {source}"


@dataclass(frozen=True)
class Choice:
    """What the reader has chosen: a cell, and in ReRnd possibly a single draw."""

    cell: Cell
    """The chosen cell."""

    draw: int | None = None
    """Number of a single fresh draw, ≥ 0; None for a checkpoint, or for every draw."""

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
    """Number of the fresh draw; None for a checkpoint."""


@dataclass(frozen=True)
class Grid:
    """The rows and columns of the heatmaps, in the paper's order."""

    layers: tuple[str, ...]
    """Layers in the order of the network, drawn from the top."""

    epochs: tuple[int, ...]
    """Checkpoints of the stack, in its unit, drawn from left to right after ReRnd."""

    draws: int
    """Number of fresh draws behind one ReRnd cell, ≥ 0."""

    unit: Unit = "epoch"
    """What the numbers of the checkpoints count."""

    @property
    def cells(self) -> tuple[Cell, ...]:
        """All cells, row by row; the whole network has no fresh draws."""
        fresh: tuple[int | None, ...] = (None,) if self.draws else ()
        by_layer = [self.cell(layer, at) for layer in self.layers for at in fresh + self.epochs]
        return tuple(by_layer + [self.cell(None, at) for at in self.epochs])

    @property
    def rows(self) -> tuple[str | None, ...]:
        """Layers, then None for the whole network."""
        return (*self.layers, None)

    def cell(self, layer: str | None, epoch: int | None) -> Cell:
        """Return a cell in the unit of this stack."""
        return Cell(layer, epoch, self.unit)

    def x(self, epoch: int | None) -> float:
        """Return the horizontal centre of a checkpoint's column; one cell is 1 wide."""
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


def unit_of(attrs: Mapping[Any, Any]) -> Unit:
    """Return what the numbers along `epoch` count, from the attributes of a stack or a sweep."""
    return "step" if attrs.get("checkpoint_unit") == "step" else "epoch"


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
        One for a checkpoint or a single draw, one per draw for a whole ReRnd cell.
    """
    cell = choice.cell
    layers = grid.layers if cell.layer is None else (cell.layer,)
    if cell.epoch is not None:
        return (Step(reinitialise(layers, cell.epoch), None),)
    draws = range(grid.draws) if choice.draw is None else (choice.draw,)
    return tuple(Step(rerandomise(layers, draw, seed), draw) for draw in draws)
