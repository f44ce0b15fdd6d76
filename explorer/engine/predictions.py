"""What the network answers to each test example, before and after an intervention."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from explorer.engine.interventions import Intervention

REMEMBERED_BYTES = 64_000_000
"""Predictions that are kept for a reader who comes back to a cell."""


@dataclass(frozen=True)
class Predictions:
    """Labels of every test example, in the order of the dataset."""

    labels: NDArray[np.int64]
    """(example,) or (example, position) true class numbers."""
    intact: NDArray[np.int64]
    """The same shape: what the trained network answers."""
    patched: NDArray[np.int64]
    """The same shape: what the network answers under the intervention."""


class Order:
    """From the order in which examples are counted back to that of the dataset.

    Parameters
    ----------
    order : Tensor
        (example,) numbers in the dataset, as they are counted.
    shape : tuple of int
        Shape of the labels: (example,) or (example, position).
    """

    def __init__(self, order: Tensor, shape: tuple[int, ...]) -> None:
        self._back = torch.argsort(order)
        self._shape = shape

    def restored(self, counted: Tensor) -> NDArray[np.int64]:
        """Bring (label,) numbers, counted one after another, into the dataset's order."""
        found = counted.cpu().long().reshape(self._shape)[self._back]
        return np.asarray(found)

    def places(self, examples: Any) -> Tensor:
        """Places, in the order of counting, of examples given by their numbers in the dataset."""
        return self._back[torch.as_tensor(examples, dtype=torch.long)]


class Remembered:
    """Predicted labels of the newest interventions, up to a number of bytes."""

    def __init__(self, most: int = REMEMBERED_BYTES) -> None:
        self._most = most
        self._known: OrderedDict[Intervention, Tensor] = OrderedDict()

    def get(self, intervention: Intervention) -> Tensor | None:
        """Predicted labels (label,) in the order of counting, or None."""
        return self._known.get(intervention)

    def put(self, intervention: Intervention, predicted: Tensor) -> None:
        """Keep predicted labels, and forget the oldest where they get too many."""
        self._known[intervention] = predicted
        self._known.move_to_end(intervention)
        while len(self._known) > 1 and self._bytes() > self._most:
            self._known.popitem(last=False)

    def _bytes(self) -> int:
        return sum(predicted.nbytes for predicted in self._known.values())
