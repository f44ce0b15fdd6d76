"""Values of the intact pass in a lower precision."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Rounding:
    """How values are brought into the lower precision."""

    dtype: torch.dtype
    """The lower precision."""
    images: frozenset[int]
    """Values that are laid out channels last."""
    statistics: frozenset[int]
    """Values that stay in float32."""

    def __call__(self, number: int, value: Any) -> Any:
        """Round what is floating point, also inside a list of several results."""
        if number in self.statistics:
            return value
        if isinstance(value, (list, tuple)):
            return [self(number, part) for part in value]
        if not isinstance(value, Tensor) or not value.is_floating_point():
            return value
        if number in self.images and value.ndim == 4:
            return value.to(self.dtype, memory_format=torch.channels_last)
        return value.to(self.dtype)


class Rounded(Mapping[int, Any]):
    """Values of the intact pass in lower precision, each rounded when it is first asked for."""

    def __init__(
        self, exact: Mapping[int, Any], rounding: Rounding, fixed: Rounded | None = None
    ) -> None:
        self.rounding = rounding
        self._exact, self._fixed = exact, fixed
        self._known: dict[int, Any] = {}

    def __getitem__(self, value: int) -> Any:
        if self._fixed is not None and value in self._fixed:
            return self._fixed[value]
        if value not in self._known:
            self._known[value] = self.rounding(value, self._exact[value])
        return self._known[value]

    def __contains__(self, value: object) -> bool:
        return value in self._exact

    def __iter__(self) -> Iterator[int]:
        return iter(self._exact)

    def __len__(self) -> int:
        return len(self._exact)

    def forget(self, value: int) -> None:
        """Let go of a value that nobody will ask for any more."""
        self._known.pop(value, None)
