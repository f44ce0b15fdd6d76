"""Interventions as values: which layers take their tensors from which source."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from explorer.arguments import whole_number
from explorer.errors import InterventionError, UsageError, unknown_name

BatchNormPolicy = Literal["with_layer", "weights_only", "recalibrate"]
"""What happens to a layer's buffers (running statistics) when the layer is replaced."""


@dataclass(frozen=True)
class Epoch:
    """The layer's own tensors at an earlier checkpoint (re-initialisation)."""

    epoch: int
    """Checkpoint to take the layer from, in completed epochs; one of the stack's."""

    def __str__(self) -> str:
        return f"epoch {self.epoch}"


@dataclass(frozen=True)
class FreshDraw:
    """New values from the layer's own initial distribution (re-randomisation)."""

    draw: int = 0
    """Number of the draw, ≥ 0; draws of one seed are independent."""

    seed: int = 0
    """Seed of the whole experiment."""

    def __str__(self) -> str:
        return f"fresh draw {self.draw}"


@dataclass(frozen=True)
class Moments:
    """Normal values with the mean and standard deviation of each trained tensor."""

    draw: int = 0
    """Number of the draw, ≥ 0."""

    seed: int = 0
    """Seed of the whole experiment."""

    def __str__(self) -> str:
        return f"trained moments, draw {self.draw}"


@dataclass(frozen=True)
class Zeros:
    """Zero in every parameter; buffers stay."""

    def __str__(self) -> str:
        return "zeros"


@dataclass(frozen=True)
class Noise:
    """Parameters plus normal noise: the trained ones, whose buffers stay, or those `around`.

    The noise of one layer, draw and seed is the same numbers times sigma, wherever it is added:
    points that differ in sigma or in `around` can be compared draw by draw.
    """

    sigma: float
    """Standard deviation of the noise, raw weight units, ≥ 0; 0 is the trained layer."""

    draw: int = 0
    """Number of the draw, ≥ 0."""

    seed: int = 0
    """Seed of the whole experiment."""

    around: Epoch | Mixture | None = None
    """What the noise is added to, with its buffers; None is the trained layer."""

    def __post_init__(self) -> None:
        if not (self.sigma >= 0 and math.isfinite(self.sigma)):
            raise InterventionError(
                f"The noise's standard deviation is {self.sigma}.",
                "A finite number, 0 or larger, is needed.",
                "Choose it in the units of the weights, for example 0.01.",
            )

    def __str__(self) -> str:
        return f"{self.around or 'final'} + noise {self.sigma:g}, draw {self.draw}"


@dataclass(frozen=True)
class Skip:
    """The layer passes its input on unchanged, where its shapes allow that; buffers stay."""

    def __str__(self) -> str:
        return "skipped"


@dataclass(frozen=True)
class Mixture:
    """A point on the line between a source and the trained layer."""

    source: Epoch | FreshDraw | Moments | Zeros | Noise | Skip
    """Where the line starts."""

    final_share: float
    """λ in (1 − λ)·source + λ·final, 0…1; 1 is the trained layer."""

    def __post_init__(self) -> None:
        if not 0 <= self.final_share <= 1:
            raise InterventionError(
                f"The trained layer's share of a mixture is {self.final_share}.",
                "A fraction from 0 (all source) to 1 (all trained) is needed.",
                "Divide a percentage by 100.",
            )

    def __str__(self) -> str:
        return f"{self.final_share:g} final + {1 - self.final_share:g} {self.source}"


Source = Epoch | FreshDraw | Moments | Zeros | Noise | Skip | Mixture
"""Where a layer's replacement comes from."""

Change = tuple[str, Source]
"""A layer, and where its replacement comes from."""


def epoch_of(source: Source) -> int | None:
    """Epoch that a source reads, or None."""
    if isinstance(source, Epoch):
        return source.epoch
    if isinstance(source, Mixture):
        return epoch_of(source.source)
    inner = source.around if isinstance(source, Noise) else None
    return None if inner is None else epoch_of(inner)


def changes_nothing(source: Source, final_epoch: int) -> bool:
    """Tell whether a source gives the trained layer itself, exactly."""
    if isinstance(source, Mixture):
        return source.final_share == 1 or changes_nothing(source.source, final_epoch)
    if isinstance(source, Noise):
        still = source.around is None or changes_nothing(source.around, final_epoch)
        return source.sigma == 0 and still
    return source == Epoch(final_epoch)


@dataclass(frozen=True)
class Intervention:
    """Layers ← sources, every other layer staying at the end of training."""

    changes: tuple[Change, ...]
    """One per layer; empty for the intact network."""

    def __str__(self) -> str:
        parts = [f"{layer} ← {source}" for layer, source in self.changes]
        return ", ".join(parts) or "intact network"

    @property
    def layers(self) -> tuple[str, ...]:
        """The layers that change."""
        return tuple(layer for layer, _ in self.changes)


def reinitialise(layers: str | Iterable[str], epoch: int) -> Intervention:
    """Put layers back to an earlier epoch, all others staying final.

    Parameters
    ----------
    layers : str or iterable of str
        One layer, or several that are re-initialised jointly.
    epoch : int
        Checkpoint to take them from, in completed epochs.

    Returns
    -------
    Intervention

    Raises
    ------
    InterventionError
        No layer, or one layer twice.

    References
    ----------
    Zhang, Bengio, Singer, *Are All Layers Created Equal?*, JMLR 23(67), 2022:
    θ_d^T ← θ_d^τ, no training afterwards.
    """
    number = whole_number("epoch", epoch, "Name an epoch of the stack.")
    return _same_source(layers, Epoch(number))


def rerandomise(layers: str | Iterable[str], draw: int = 0, seed: int = 0) -> Intervention:
    """Give layers fresh values from their own initial distribution.

    Parameters
    ----------
    layers : str or iterable of str
        One layer, or several that are re-randomised jointly.
    draw : int
        Number of the draw, ≥ 0.
    seed : int
        Seed of the experiment; the generator is derived from (seed, layer, draw).

    Returns
    -------
    Intervention

    Raises
    ------
    InterventionError
        No layer, or one layer twice.
    """
    number = whole_number("draw", draw, "Draws count from 0.", least=0)
    return _same_source(layers, FreshDraw(number, whole_number("seed", seed, "Use 0, 1, 2, …")))


def check_layers(intervention: Intervention, known: Sequence[str], epochs: Sequence[int]) -> None:
    """Refuse an intervention that names a layer or an epoch the stack does not have."""
    for layer, source in intervention.changes:
        if layer not in known:
            raise unknown_name("layer", layer, known)
        epoch = epoch_of(source)
        if epoch is not None and epoch not in epochs:
            raise unknown_name("epoch", epoch, epochs)


def canonical(
    intervention: Intervention, layers: Sequence[str], epochs: Sequence[int]
) -> Intervention:
    """Drop the changes that put a layer where it already is.

    Raises
    ------
    UnknownNameError
        There is no such layer or epoch.
    UsageError
        It is no intervention.
    """
    if not isinstance(intervention, Intervention):
        raise UsageError(
            f"The intervention is {intervention!r}.",
            "What reinitialise or rerandomise returns is needed.",
            f"Pass explorer.reinitialise({layers[0]!r}, {epochs[0]}), for example.",
        )
    check_layers(intervention, layers, epochs)
    kept = (c for c in intervention.changes if not changes_nothing(c[1], epochs[-1]))
    return Intervention(tuple(kept))


def _same_source(layers: str | Iterable[str], source: Source) -> Intervention:
    names = (layers,) if isinstance(layers, str) else tuple(layers)
    if not names or len(set(names)) < len(names):
        raise InterventionError(
            f"The layers of an intervention were {list(names)!r}.",
            "At least one layer, each named once, is needed.",
            "Name the layers to replace, for example ['layer1', 'layer2'].",
        )
    return Intervention(tuple((name, source) for name in names))
