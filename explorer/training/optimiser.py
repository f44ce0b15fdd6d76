"""The optimiser of a recipe, and what it remembers from step to step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from explorer.training.recipe import Recipe
from explorer.weights.checkpoints import Array

PREFIX = "optimiser"


def make_optimiser(recipe: Recipe, network: nn.Module) -> torch.optim.Optimizer:
    """Make the optimiser for the parameters that are to be trained."""
    parameters = [p for p in network.parameters() if p.requires_grad]
    rate, decay = recipe.learning_rate, recipe.weight_decay
    if recipe.optimiser == "sgd":
        return torch.optim.SGD(parameters, lr=rate, momentum=recipe.momentum, weight_decay=decay)
    adam = torch.optim.Adam if recipe.optimiser == "adam" else torch.optim.AdamW
    first, second = recipe.betas
    return adam(parameters, lr=rate, betas=(first, second), weight_decay=decay)


def memory(optimiser: torch.optim.Optimizer, network: nn.Module) -> dict[str, Any]:
    """Moments and step counts by name, as arrays: ``optimiser/exp_avg/layer1.weight``."""
    return {
        f"{PREFIX}/{key}/{name}": value.cpu().numpy()
        for name, parameter in network.named_parameters()
        for key, value in optimiser.state.get(parameter, {}).items()
        if value is not None
    }


def recall(
    optimiser: torch.optim.Optimizer, network: nn.Module, arrays: Mapping[str, Array]
) -> None:
    """Give an optimiser back what `memory` returned; other arrays are left alone."""
    parameters = dict(network.named_parameters())
    for label, array in arrays.items():
        prefix, _, rest = label.partition("/")
        if prefix != PREFIX:
            continue
        key, _, name = rest.partition("/")
        parameter, value = parameters[name], torch.from_numpy(array)
        if key != "step":  # of the parameter's device and memory format; steps stay on the CPU
            value = torch.empty_like(parameter).copy_(value)
        optimiser.state[parameter][key] = value
