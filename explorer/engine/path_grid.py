"""The points of straight lines between checkpoints: which layers move, to where, by what share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import xarray as xr

from explorer.arguments import fractions
from explorer.engine.barriers import PATHS
from explorer.engine.choosing import chosen
from explorer.engine.interventions import Epoch, Intervention, Mixture, Source
from explorer.errors import UsageError
from explorer.weights.stack import epoch_numbers, layer_names


@dataclass(frozen=True)
class PathCell:
    """One point of one path."""

    prefix: str
    """Prefix of the variables it belongs to."""
    position: tuple[int, ...]
    """Index into their dims."""
    layers: tuple[str, ...]
    """Layers that move."""
    epoch: int
    """Epoch of B."""
    share: float
    """λ."""


@dataclass(frozen=True)
class PathGrid:
    """All paths, and the points on them."""

    every: tuple[str, ...]
    """All layers of the network."""
    layers: tuple[str, ...]
    """Those that are moved one by one."""
    epochs: tuple[int, ...]
    """Epochs of B."""
    shares: tuple[float, ...]
    """Shares λ, from 0 to 1."""
    cumulative: bool
    """Whether all layers up to and from each layer are moved as well."""
    starts: tuple[tuple[int, tuple[int, ...]], ...]
    """Epochs of A, each with the epochs of B to which paths go."""
    own: bool
    """Whether A and B are of one run."""

    @property
    def prefixes(self) -> dict[str, tuple[str, ...]]:
        """Prefix → dims of its paths."""
        wanted = ("", "whole_", "upto_", "from_")[: 4 if self.cumulative else 2]
        return {prefix: PATHS[prefix] for prefix in wanted}

    def cells(self, ends: Sequence[int]) -> list[PathCell]:
        """List the points of the paths to some epochs, those of a layer together."""
        found = []
        for row, layer in enumerate(self.layers):
            for prefix, dims in self.prefixes.items():
                if "layer" in dims:
                    moved = self._moved(prefix, layer)
                    found += self._path(prefix, (row,), moved, ends)
        return found + self._path("whole_", (), self.every, ends)

    def _path(
        self, prefix: str, place: tuple[int, ...], moved: tuple[str, ...], ends: Sequence[int]
    ) -> list[PathCell]:
        return [
            PathCell(prefix, (*place, self.epochs.index(epoch), k), moved, epoch, share)
            for epoch in ends
            for k, share in enumerate(self.shares)
        ]

    def _moved(self, prefix: str, layer: str) -> tuple[str, ...]:
        at = self.every.index(layer)
        return {"upto_": self.every[: at + 1], "from_": self.every[at:]}.get(prefix, (layer,))

    def put_in(self, cell: PathCell, begin: int) -> Intervention:
        """Return the intervention of a point; the ends are A and B themselves."""
        if cell.share == 0 or (self.own and cell.epoch == begin):
            return Intervention(())
        end = Epoch(cell.epoch)
        source: Source = end if cell.share == 1 else Mixture(end, 1 - cell.share)
        return Intervention(tuple((layer, source) for layer in cell.layers))


def path_grid(
    stack: xr.DataTree,
    other: xr.DataTree | None,
    start: int | str | None,
    epochs: Sequence[int] | None,
    layers: Sequence[str] | None,
    shares: int | Sequence[float],
    cumulative: bool,
) -> PathGrid:
    """Check what is asked for, and list it."""
    every, own = layer_names(stack), epoch_numbers(stack)
    there = own if other is None else epoch_numbers(other)
    if start == "same":
        if other is None:
            raise UsageError(
                "start='same' was given without another run.",
                "Of one run, the paths from an epoch to itself are points.",
                "Pass other=, or one epoch as start=.",
            )
        there = [epoch for epoch in there if epoch in own]
    ends = tuple(chosen("epoch", epochs, there))
    if start == "same":
        starts = tuple((epoch, (epoch,)) for epoch in ends)
    else:
        (begin,) = chosen("epoch", None if start is None else [start], own)[-1:]
        starts = ((begin, ends),)
    moved = tuple(chosen("layer", layers, every))
    points = tuple(sorted({0.0, *fractions("shares", shares), 1.0}))
    return PathGrid(tuple(every), moved, ends, points, cumulative, starts, own=other is None)
