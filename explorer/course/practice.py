"""What the exercises practise on: a network to record, and a run of which one file is wrong."""

from __future__ import annotations

import copy
import functools
from collections.abc import Iterator
from typing import Any

import torch
import xarray as xr
from torch import nn

from explorer.weights.stack import epoch_numbers, layer_names, open_stack, read_layer

EPOCHS = 5
"""Passes over the training images of a practice run."""

_SEED = 0
_MISFILED = ("fcn3x256-digits", 3, 40)
"""A bundled stack; the epoch that is spoilt; the epoch whose values it gets."""


def practice_network() -> nn.Module:
    """Make a small untrained network for scikit-learn's digits, 64 pixels → 10 classes.

    It is the same each time, and draws nothing from PyTorch's own random numbers.
    """
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(_SEED)
        return nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))


def practice_epochs(network: nn.Module) -> Iterator[int]:
    """Train a practice network and give the number of each epoch, 1 to `EPOCHS`, when it is over.

    Whoever goes through the numbers has the network as it is after that epoch.
    """
    x, y = _digits()
    order = torch.Generator().manual_seed(_SEED)
    optimiser = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    for epoch in range(1, EPOCHS + 1):
        for rows in torch.randperm(len(x), generator=order).split(64):
            optimiser.zero_grad()
            nn.functional.cross_entropy(network(x[rows]), y[rows]).backward()
            optimiser.step()
        yield epoch


def recorded_run() -> list[dict[str, torch.Tensor]]:
    """Record a practice run as it should be: the start, and the values after each epoch."""
    network = practice_network()
    states = [copy.deepcopy(network.state_dict())]
    states += [copy.deepcopy(network.state_dict()) for _ in practice_epochs(network)]
    return states


def misfiled_run() -> xr.DataTree:
    """Open a copy of a bundled stack in which one checkpoint lies under a wrong number.

    Returns
    -------
    xarray.DataTree
        As `explorer.open_stack` returns it. Two of its epochs hold the same values, bit for bit;
        the number of one of them is wrong.
    """
    name, spoilt, instead = _MISFILED
    stack = open_stack(name)
    epochs = epoch_numbers(stack)
    states: list[dict[str, Any]] = []
    for epoch in epochs:
        read = instead if epoch == spoilt else epoch
        layers = (read_layer(stack, layer, read) for layer in layer_names(stack))
        states.append({name: tensor for layer in layers for name, tensor in layer.items()})
    return open_stack(states, epochs=epochs)


def misfiled_epochs() -> tuple[int, int]:
    """Epoch of the misfiled run whose number is wrong, and the epoch whose values it holds."""
    return _MISFILED[1:]


@functools.cache
def _digits() -> tuple[torch.Tensor, torch.Tensor]:
    """Training images (1300, 64) between 0 and 1, and their labels (1300,)."""
    from sklearn.datasets import load_digits  # slow to import, and only this function needs it

    pixels, labels = load_digits(return_X_y=True)
    return torch.tensor(pixels[:1300], dtype=torch.float32) / 16, torch.tensor(labels[:1300])
