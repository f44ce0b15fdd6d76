"""Which cells the heatmaps have, and where they lie."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Unit = Literal["epoch", "step", "checkpoint"]
"""What the numbers of a stack's checkpoints count; the dimension is called `epoch` for all.

``"checkpoint"`` where there is only one, the trained network: it is called so, not by a number.
"""

TRAINED = "trained"
"""Name of the only checkpoint."""

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
        source = "fresh draws" if self.epoch is None else moment(self.unit, self.epoch)
        return f"{self.layer or WHOLE_NETWORK} ← {source}"


@dataclass(frozen=True)
class Grid:
    """The rows and columns of the heatmaps, in the paper's order."""

    layers: tuple[str, ...]
    """Layers in the order of the network, drawn from the top (or from the left)."""

    epochs: tuple[int, ...]
    """Checkpoints of the stack, in its unit, drawn after ReRnd."""

    draws: int
    """Number of fresh draws behind one ReRnd cell, ≥ 0."""

    unit: Unit = "epoch"
    """What the numbers of the checkpoints count."""

    sideways: bool = False
    """Layers from left to right and sources from the top, instead of the paper's form."""

    @property
    def cells(self) -> tuple[Cell, ...]:
        """All cells, row by row; the whole network has no fresh draws."""
        fresh: tuple[int | None, ...] = (None,) if self.draws else ()
        by_layer = [self.cell(layer, at) for layer in self.layers for at in fresh + self.epochs]
        return tuple(by_layer + [self.cell(None, at) for at in self.epochs])

    @property
    def start(self) -> int | None:
        """Where a reader begins: the first checkpoint, or fresh draws where it is the trained."""
        return None if self.unit == "checkpoint" and self.draws else self.epochs[0]

    @property
    def rows(self) -> tuple[str | None, ...]:
        """Layers, then None for the whole network."""
        return (*self.layers, None)

    def cell(self, layer: str | None, epoch: int | None) -> Cell:
        """Return a cell in the unit of this stack."""
        return Cell(layer, epoch, self.unit)

    def place(self, cell: Cell) -> tuple[float, float]:
        """Return the centre of a cell: x to the right, y downwards; one cell is 1 by 1."""
        source = -1 - GAP if cell.epoch is None else float(self.epochs.index(cell.epoch))
        layer = float(len(self.layers)) + GAP
        if cell.layer is not None:
            layer = float(self.layers.index(cell.layer))
        return (layer, source) if self.sideways else (source, layer)

    @property
    def source_labels(self) -> dict[float, str]:
        """Place → label of each source: ReRnd, and every checkpoint."""
        fresh = {-1 - GAP: FRESH} if self.draws else {}
        alone = self.unit == "checkpoint"
        names = [TRAINED if alone else str(epoch) for epoch in self.epochs]
        return fresh | {float(at): name for at, name in enumerate(names)}

    @property
    def layer_labels(self) -> dict[float, str]:
        """Place → name of each layer, and of the whole network behind them."""
        names = {float(at): layer for at, layer in enumerate(self.layers)}
        return names | {len(self.layers) + GAP: WHOLE_NETWORK}

    @property
    def table(self) -> list[list[Cell | None]]:
        """The cells as they lie on the page, line by line from the top; None for a gap."""
        fresh: tuple[int | None, ...] = (None,) if self.draws else ()
        lines: list[list[Cell | None]] = [
            [
                None if layer is None and at is None else self.cell(layer, at)
                for at in fresh + self.epochs
            ]
            for layer in self.rows
        ]
        return [list(line) for line in zip(*lines, strict=True)] if self.sideways else lines

    def cell_at(self, x: float | None, y: float | None) -> Cell | None:
        """Return the cell under a point in heatmap coordinates, or None between and outside."""
        if x is None or y is None or not (math.isfinite(x) and math.isfinite(y)):
            return None
        for cell in self.cells:
            at = self.place(cell)
            if abs(at[0] - x) <= 0.5 and abs(at[1] - y) <= 0.5:
                return cell
        return None


def unit_of(attrs: Mapping[Any, Any]) -> Unit:
    """Return what the numbers along `epoch` count, from the attributes of a stack or a sweep."""
    units: dict[Any, Unit] = {"step": "step", "checkpoint": "checkpoint"}
    return units.get(attrs.get("checkpoint_unit"), "epoch")


def moment(unit: Unit, epoch: int) -> str:
    """Return a checkpoint in words: "epoch 3", or "trained" where there is no other."""
    return TRAINED if unit == "checkpoint" else f"{unit} {epoch}"
