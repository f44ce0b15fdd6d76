"""The numbers of a recipe: optimiser, schedule, and what is varied about the training set."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from explorer.errors import UsageError

OPTIMISERS = ("sgd", "adam", "adamw")
SCHEDULES = ("steps", "cosine")
PRECISIONS = ("float32", "tf32", "bf16")
ALWAYS_WRITTEN = (
    *("epochs", "batch_size", "learning_rate", "momentum", "weight_decay"),
    *("decay_at", "decay_factor", "threads"),
)
"""Fields that stand in every manifest; any other stands there only if it is not the default."""


@dataclass(frozen=True)
class Recipe:
    """How a network is trained; the defaults are the paper's, where its numbers are known."""

    epochs: int = 100
    """Passes over the training set."""
    batch_size: int = 128
    """Examples per step; the last batch of an epoch may be smaller."""
    learning_rate: float = 0.03
    """At the start. The paper's base rate is not known; see docs/decisions/0004."""
    momentum: float = 0.9
    """Of SGD, without Nesterov's change."""
    weight_decay: float = 0.0
    """L2 penalty; with ``"adamw"`` decoupled from the gradient."""
    decay_at: tuple[float, ...] = (0.3, 0.6, 0.9)
    """Fractions of the epochs after which the rate is multiplied."""
    decay_factor: float = 0.2
    """What it is multiplied by."""
    threads: int = 1
    """CPU threads while training; fixed, since another number gives other rounding errors."""
    optimiser: str = "sgd"
    """``"sgd"``, ``"adam"`` or ``"adamw"``."""
    betas: tuple[float, ...] = (0.9, 0.999)
    """Both decay rates of Adam's moments."""
    schedule: str = "steps"
    """``"steps"``: `decay_at` and `decay_factor`; ``"cosine"``: half a wave down to zero."""
    warmup: float = 0.0
    """Epochs, or part of one, during which the rate rises in a straight line to its value."""
    accumulate: int = 1
    """Micro-batches into which a batch is divided, for networks that need more memory."""
    precision: str = "float32"
    """``"float32"``; on a CUDA GPU also ``"tf32"`` and ``"bf16"`` (autocast)."""
    clip_norm: float = 0.0
    """The gradient is scaled down to this norm where it is longer; 0 leaves it as it is."""
    augment: bool = True
    """Whether training examples are augmented in the way of their dataset."""
    label_noise: float = 0.0
    """Share of the training examples whose label is replaced by a random one, for good."""
    frozen: tuple[str, ...] = ()
    """Layers that stay at their initial value; their batch normalisation does so as well."""

    def __post_init__(self) -> None:
        """Refuse values that nothing could be trained with."""
        for name, (fits, accepted) in _RULES.items():
            value = getattr(self, name)
            if not fits(value):
                raise UsageError(
                    f"{name} is {value}.",
                    f"{accepted} is accepted.",
                    f"Leave it out for the default, {_default(name)}.",
                )

    def rate(self, epoch: int, step: int = 1, steps: int = 1) -> float:
        """Learning rate of a step out of an epoch's steps; both are counted from 1."""
        warm = min(1.0, (epoch - 1 + step / steps) / self.warmup) if self.warmup else 1.0
        if self.schedule == "cosine":
            behind = (epoch - 1 + (step - 1) / steps) / self.epochs
            return float(warm * self.learning_rate * 0.5 * (1 + math.cos(math.pi * behind)))
        # not before the first epoch is over, however few there are
        decays = sum(epoch > max(1, round(self.epochs * part)) for part in self.decay_at)
        return float(warm * self.learning_rate * self.decay_factor**decays)

    def as_json(self) -> dict[str, Any]:
        """As it stands in a manifest."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in asdict(self).items()
            if name in ALWAYS_WRITTEN or value != _default(name)
        }

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Recipe:
        """Read what `as_json` wrote, also before the newer fields existed."""
        given: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in values.items()
        }
        return cls(**given)


def _default(name: str) -> Any:
    return next(field.default for field in fields(Recipe) if field.name == name)


def _finite(value: float) -> bool:
    return math.isfinite(value) and value >= 0


_RULES: Mapping[str, tuple[Callable[[Any], bool], str]] = {
    "epochs": (lambda v: v >= 1, "A whole number of at least 1"),
    "batch_size": (lambda v: v >= 1, "A whole number of at least 1"),
    "learning_rate": (lambda v: _finite(v) and v > 0, "A number above 0"),
    "momentum": (lambda v: 0 <= v < 1, "A number from 0 to below 1"),
    "weight_decay": (_finite, "A number of at least 0"),
    "decay_at": (lambda v: all(0 <= f <= 1 for f in v), "A list of fractions from 0 to 1"),
    "decay_factor": (lambda v: 0 < v <= 1, "A number above 0, at most 1,"),
    "threads": (lambda v: v >= 1, "A whole number of at least 1"),
    "optimiser": (lambda v: v in OPTIMISERS, f"One of {', '.join(OPTIMISERS)}"),
    "betas": (
        lambda v: len(v) == 2 and all(0 <= b < 1 for b in v),
        "A pair of numbers from 0 to below 1",
    ),
    "schedule": (lambda v: v in SCHEDULES, f"One of {', '.join(SCHEDULES)}"),
    "warmup": (_finite, "A number of epochs of at least 0"),
    "accumulate": (lambda v: v >= 1, "A whole number of at least 1"),
    "precision": (lambda v: v in PRECISIONS, f"One of {', '.join(PRECISIONS)}"),
    "clip_norm": (_finite, "A number of at least 0 (0: no clipping)"),
    "label_noise": (lambda v: 0 <= v <= 1, "A share from 0 to 1"),
}
