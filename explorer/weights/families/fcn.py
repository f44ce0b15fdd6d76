"""Fully connected networks FCN D×W: D hidden layers of W units and an output layer."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from explorer.weights.families.family import Family, Sizes


class Fcn(nn.Module):
    """Depth × width fully connected ReLU network; layers are ``layer1 … layer(D+1)``."""

    def __init__(self, depth: int, width: int, inputs: int, classes: int) -> None:
        super().__init__()
        widths = [inputs, *[width] * depth, classes]
        self.depth = depth
        for k in range(depth + 1):
            layer = nn.utils.skip_init(nn.Linear, widths[k], widths[k + 1])
            self.add_module(f"layer{k + 1}", layer)

    def forward(self, x: Tensor) -> Tensor:
        """(example, …) inputs → (example, classes) logits."""
        x = x.flatten(1)  # (example, inputs)
        for k in range(1, self.depth + 1):
            x = torch.relu(self.get_submodule(f"layer{k}")(x))  # (example, width)
        logits: Tensor = self.get_submodule(f"layer{self.depth + 1}")(x)
        return logits


def _build(sizes: Sizes) -> nn.Module:
    return Fcn(sizes["depth"], sizes["width"], sizes["inputs"], sizes["classes"])


def _layers(sizes: Sizes) -> dict[str, tuple[str, ...]]:
    names = [f"layer{k + 1}" for k in range(sizes["depth"] + 1)]
    return {name: (f"{name}.weight", f"{name}.bias") for name in names}


def _initialise(
    module: nn.Module, names: tuple[str, ...], generator: torch.Generator
) -> dict[str, Tensor]:
    """PyTorch's default for linear layers: weights and biases uniform in ±1/√fan_in."""
    fresh = {}
    for name in names:
        layer = module.get_submodule(name.rpartition(".")[0])
        bound = 1 / math.sqrt(layer.in_features)  # type: ignore[arg-type]  # a Linear, see Fcn
        shape = module.get_parameter(name).shape
        fresh[name] = torch.empty(shape).uniform_(-bound, bound, generator=generator)
    return fresh


FCN = Family(
    name="fcn",
    sizes={"depth": 3, "width": 256, "inputs": 784, "classes": 10},
    build=_build,
    layers=_layers,
    initialise=_initialise,
)
