"""Fully connected networks FCN D×W: D hidden layers of W units and an output layer."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from explorer.weights.families.family import Family, Size, Sizes
from explorer.weights.families.initialisers import TORCH, from_table


class Fcn(nn.Module):
    """Depth × width fully connected ReLU network; layers are ``layer1 … layer(D+1)``.

    With batch normalisation, ``norm1 … normD`` stand between a hidden layer and its ReLU.
    """

    def __init__(
        self, depth: int, width: int, inputs: int, classes: int, batchnorm: bool = False
    ) -> None:
        super().__init__()
        widths = [inputs, *[width] * depth, classes]
        self.depth = depth
        for k in range(depth + 1):
            self.add_module(f"layer{k + 1}", nn.Linear(widths[k], widths[k + 1]))
            if k < depth:
                norm = nn.BatchNorm1d(width) if batchnorm else nn.Identity()
                self.add_module(f"norm{k + 1}", norm)

    def forward(self, x: Tensor) -> Tensor:
        """(example, …) inputs → (example, classes) logits."""
        x = x.flatten(1)  # (example, inputs)
        for k in range(1, self.depth + 1):
            x = self.get_submodule(f"layer{k}")(x)  # (example, width)
            x = torch.relu(self.get_submodule(f"norm{k}")(x))
        logits: Tensor = self.get_submodule(f"layer{self.depth + 1}")(x)
        return logits


def _unit(_sizes: Sizes, name: str) -> str:
    return name.partition(".")[0].replace("norm", "layer")


FCN = Family(
    name="fcn",
    takes={
        "depth": Size(3, "hidden layers"),
        "width": Size(256, "units of a hidden layer"),
        "inputs": Size(784, "numbers that make up one example"),
        "classes": Size(10, "classes"),
        "batchnorm": Size(0, "batch normalisation", "switch"),
    },
    module=lambda sizes: Fcn(**sizes),
    unit=_unit,
    initialise=from_table(TORCH),
    example=lambda sizes: (sizes["inputs"],),
)
