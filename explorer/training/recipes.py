"""How a stack is trained: the numbers of a recipe and the named stacks that have one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from explorer.errors import unknown_name


@dataclass(frozen=True)
class Recipe:
    """Stochastic gradient descent with a piecewise constant learning rate, as in the paper."""

    epochs: int = 100
    """Passes over the training set."""
    batch_size: int = 128
    """Examples per step; the last batch of an epoch may be smaller."""
    learning_rate: float = 0.03
    """At the start. The paper's base rate is not known; see docs/decisions/0004."""
    momentum: float = 0.9
    """Of SGD."""
    weight_decay: float = 0.0
    """L2 penalty."""
    decay_at: tuple[float, ...] = (0.3, 0.6, 0.9)
    """Fractions of the epochs after which the rate is multiplied."""
    decay_factor: float = 0.2
    """What it is multiplied by."""
    threads: int = 1
    """CPU threads while training; fixed, since another number gives other rounding errors."""

    def rate(self, epoch: int) -> float:
        """Learning rate during an epoch, counted from 1."""
        decays = sum(epoch > round(self.epochs * fraction) for fraction in self.decay_at)
        return float(self.learning_rate * self.decay_factor**decays)

    def as_json(self) -> dict[str, Any]:
        """As it stands in a manifest."""
        return {**asdict(self), "decay_at": list(self.decay_at)}


@dataclass(frozen=True)
class Experiment:
    """Everything that fixes a training run."""

    name: str
    """Name of the stack."""
    title: str
    """One line for people."""
    family: str
    """Name of the family."""
    sizes: Mapping[str, int]
    """Sizes of its member."""
    dataset: str
    """Name of the dataset."""
    recipe: Recipe
    """How it is trained."""
    keep: tuple[int, ...]
    """Epochs whose checkpoint is kept; 0 and the last are always."""
    seed: int = 0
    """Seed of initialisation, shifts and order."""


_EXPERIMENTS = (
    Experiment(
        name="fcn3x256-digits",
        title="FCN 3×256 on framed digits (28×28)",
        family="fcn",
        sizes={"depth": 3, "width": 256, "inputs": 784, "classes": 10},
        dataset="digits28",
        recipe=Recipe(),
        keep=(0, 1, 2, 3, 8, 40, 90, 100),
    ),
)
EXPERIMENTS: Mapping[str, Experiment] = {e.name: e for e in _EXPERIMENTS}


def find_experiment(name: str) -> Experiment:
    """Return the experiment of this name.

    Raises
    ------
    UnknownNameError
        Nothing of this name can be trained.
    """
    if name not in EXPERIMENTS:
        raise unknown_name("experiment", name, EXPERIMENTS)
    return EXPERIMENTS[name]
