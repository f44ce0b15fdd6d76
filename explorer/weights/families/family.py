"""What a family is: an architecture with its sizes, its layers and its initialiser."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

Sizes = Mapping[str, int]
"""The numbers that fix one member of a family, for example depth and width."""


@dataclass(frozen=True)
class Family:
    """An architecture with sizes."""

    name: str
    """Name in manifests, for example ``"fcn"``."""
    sizes: Mapping[str, int]
    """Every size the family takes, with its default."""
    build: Callable[[Sizes], nn.Module]
    """Sizes → a module whose parameters have not been given their initial values yet."""
    layers: Callable[[Sizes], dict[str, tuple[str, ...]]]
    """Sizes → the paper's units: layer name → parameter and buffer names, in forward order."""
    initialise: Callable[[nn.Module, tuple[str, ...], torch.Generator], dict[str, Tensor]]
    """(module, parameter names, generator) → fresh initial values; the module is only read."""
