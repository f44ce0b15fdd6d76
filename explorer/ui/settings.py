"""How the cells of an exploration are measured and laid out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from explorer.engine.interventions import BatchNormPolicy


@dataclass(frozen=True)
class Settings:
    """How the cells of an exploration are measured; see `explorer.ui.widget.Explorer`."""

    model: Any = None
    """The reader's own network, or None for the stack's family."""

    data: Any = None
    """The reader's own test examples, or None for the stack's."""

    device: str = "auto"
    """`"auto"` or a torch device."""

    batch_size: int | None = None
    """Most examples in one forward pass, or None for the engine's choice."""

    batchnorm: BatchNormPolicy = "with_layer"
    """What happens to running statistics when their layer is replaced."""

    draws: int = 3
    """Fresh draws behind one cell of ReRnd."""

    seed: int = 0
    """Seed of the fresh draws."""

    screen: bool = False
    """Whether a lower precision computes first, and float32 where a label is not sure by it."""

    sideways: bool = False
    """Layers from left to right and sources from the top, instead of the paper's form."""

    client: Any = None
    """A distributed.Client on whose cluster sweeps are measured, or None for this process."""

    @property
    def network(self) -> dict[str, Any]:
        """What an evaluator is opened with, here or on a cluster, in either precision."""
        return {
            "model": self.model,
            "data": self.data,
            "device": self.device,
            "batch_size": self.batch_size,
            "batchnorm": self.batchnorm,
        }
