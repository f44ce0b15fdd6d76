"""Values of the intact pass that are kept for the next intervention.

A reader who clicks along a row asks about one layer again and again: what comes before it in the
network need not be computed twice.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor


@dataclass
class Kept:
    """Values by precision, number and slice, up to so many bytes; the longest unused go first."""

    most: int
    """Bytes that they may take together."""
    _values: OrderedDict[tuple[bool, int], dict[int, Any]] = field(default_factory=OrderedDict)
    _bytes: int = 0

    def slice(self, start: int, *, low: bool = False) -> KeptSlice:
        """What is kept of one slice of the examples, by the number of its first, in a precision."""
        return KeptSlice(self, start, low)

    def known(self, start: int, *, low: bool = False) -> dict[int, Any]:
        """Value → what it is for the slice that begins there."""
        return {
            value: found[start]
            for (is_low, value), found in self._values.items()
            if is_low == low and start in found
        }

    def keep(self, start: int, values: Mapping[int, Any], *, low: bool = False) -> None:
        """Keep values of a slice, where they fit."""
        named = {(low, value): tensors for value, tensors in values.items()}
        wanted = 0
        for name, tensors in named.items():
            found = self._values.setdefault(name, {})
            self._values.move_to_end(name)
            wanted += 0 if start in found else size(tensors)
        while self._bytes + wanted > self.most and next(iter(self._values)) not in named:
            _, gone = self._values.popitem(last=False)
            self._bytes -= sum(map(size, gone.values()))
        if self._bytes + wanted <= self.most:
            for name, tensors in named.items():
                self._values[name][start] = tensors
            self._bytes += wanted

    def forget(self) -> None:
        """Let go of everything."""
        self._values.clear()
        self._bytes = 0


@dataclass(frozen=True)
class KeptSlice:
    """What is kept of one slice of the examples in one precision."""

    _kept: Kept
    _start: int
    _low: bool

    @property
    def known(self) -> dict[int, Any]:
        """Value → what it is."""
        return self._kept.known(self._start, low=self._low)

    def keep(self, values: Mapping[int, Any]) -> None:
        """Keep values for the next intervention, where they fit."""
        self._kept.keep(self._start, values, low=self._low)


def size(value: Any) -> int:
    """Bytes of the memory in which a tensor lies, or each of several results."""
    if isinstance(value, (list, tuple)):
        return sum(map(size, value))
    return value.untyped_storage().nbytes() if isinstance(value, Tensor) else 0


def memory_of(value: Any) -> int | None:
    """Address of the memory in which a tensor lies; None for a list of several results."""
    return value.untyped_storage().data_ptr() if isinstance(value, Tensor) else None
