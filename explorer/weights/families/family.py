"""What a family is: an architecture with its sizes, its layers and its initialiser."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from explorer.errors import StackError
from explorer.weights.families.drawing import draw_layers
from explorer.weights.families.hollow import filled, hollow

Sizes = Mapping[str, Any]
"""The numbers that fix one member of a family: name of the size → count, factor or switch."""

Initialiser = Callable[[nn.Module, tuple[str, ...], torch.Generator], dict[str, Tensor]]
"""(module, tensor names, generator) → fresh initial values; the module is only read."""


@dataclass(frozen=True)
class Size:
    """One of the numbers that fix a member of a family."""

    default: float
    """Its value where it is left out."""
    meaning: str
    """What it counts or switches, in a few words."""
    kind: Literal["count", "factor", "switch"] = "count"
    """A whole number from 1, a positive number (a multiplier), or 0 and 1 for no and yes."""
    choices: tuple[int, ...] = ()
    """The counts that there are; empty where any will do."""

    @property
    def accepted(self) -> str:
        """What it may be, in words."""
        if self.choices:
            return f"one of {', '.join(map(str, self.choices))}"
        kinds = {"count": "a whole number from 1", "factor": "a positive number"}
        return kinds.get(self.kind, "0 or 1")

    def settled(self, value: object) -> float | None:
        """The value in its own type, or None where it will not do."""
        if self.kind == "switch":
            return int(value) if isinstance(value, numbers.Integral) and value in (0, 1) else None
        if isinstance(value, bool) or not isinstance(value, numbers.Real):
            return None
        number = float(value)
        if self.kind == "factor":
            return number if math.isfinite(number) and number > 0 else None
        if not isinstance(value, numbers.Integral) or number < 1:
            return None
        return int(value) if not self.choices or value in self.choices else None


def _no_skip(_unit: str) -> bool:
    return False


@dataclass(frozen=True, repr=False)
class Family:
    """An architecture with sizes; its `repr` is a diagram of the member of default sizes."""

    name: str
    """Name in manifests, for example ``"fcn"``."""
    takes: Mapping[str, Size]
    """Every size the family takes, by name."""
    module: Callable[[Sizes], nn.Module]
    """All sizes → a module as its class makes it; called where no memory is given to weights."""
    unit: Callable[[Sizes, str], str]
    """(all sizes, name of a parameter or buffer) → the paper's unit that it belongs to."""
    initialise: Initialiser
    """(module, tensor names, generator) → fresh initial values; the module is only read."""
    example: Callable[[Sizes], tuple[int, ...]]
    """All sizes → shape of one example that the network takes."""
    skips: Callable[[str], bool] = _no_skip
    """Unit → whether a skip connection leads around it."""

    @property
    def sizes(self) -> dict[str, float]:
        """Every size with its default."""
        return {name: size.default for name, size in self.takes.items()}

    def settled(self, sizes: Sizes) -> dict[str, Any]:
        """Every size: as given, or the family's default where it is left out.

        Raises
        ------
        StackError
            A size is unknown, or its value is not one that it takes.
        """
        settled: dict[str, Any] = dict(self.sizes)
        for name, value in sizes.items():
            size = self.takes.get(name)
            settled[name] = None if size is None else size.settled(value)
            if settled[name] is None:
                known = f"{self.name} networks take the sizes {', '.join(self.takes)}"
                raise StackError(
                    f"The sizes of a {self.name} network were {dict(sizes)}: {name} is {value!r}.",
                    f"{known}." if size is None else f"{known}; {name} is {size.accepted}.",
                    f"The defaults are {self.sizes}; a size that is left out has its default.",
                )
        return settled

    def skeleton(self, sizes: Sizes) -> nn.Module:
        """Build a member on the meta device: names and shapes, no memory."""
        settled = self.settled(sizes)
        with hollow():
            return self.module(settled)

    def build(self, sizes: Sizes) -> nn.Module:
        """Build a member whose parameters still hold arbitrary values."""
        return filled(self.skeleton(sizes))

    def layers(self, sizes: Sizes) -> dict[str, tuple[str, ...]]:
        """The paper's units: layer → names of its parameters and buffers, in forward order."""
        settled = self.settled(sizes)
        units: dict[str, list[str]] = {}
        for name in self.skeleton(sizes).state_dict():
            units.setdefault(self.unit(settled, name), []).append(name)
        return {unit: tuple(names) for unit, names in units.items()}

    def input_shape(self, sizes: Sizes) -> tuple[int, ...]:
        """Shape of one example that a member takes."""
        return self.example(self.settled(sizes))

    def diagram(self, sizes: Sizes) -> str:
        """A member's layers in forward order, as text."""
        settled = self.settled(sizes)
        title = f"{self.name} ({', '.join(f'{k}={v}' for k, v in settled.items())})"
        return draw_layers(
            title, self.example(settled), self.skeleton(sizes), self.layers(sizes), self.skips
        )

    def __repr__(self) -> str:
        return self.diagram(self.sizes)


def scaled(units: int, width: float) -> int:
    """Units of a layer times the width multiplier, at least one."""
    return max(1, round(units * width))


def is_block(unit: str) -> bool:
    """Blocks are those parts with a skip connection around them."""
    return unit.startswith("layer")
