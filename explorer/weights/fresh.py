"""Fresh draws: new values for a layer from its own initial distribution."""

from __future__ import annotations

import hashlib
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from explorer.errors import InterventionError
from explorer.weights.copying import private_copy
from explorer.weights.families.chance import own_chance
from explorer.weights.families.initialisers import TORCH, draw_tensors, how_to_draw
from explorer.weights.families.known import FAMILIES


def fresh_layer(
    network: nn.Module, family: str, layer: str, names: tuple[str, ...], draw: int, seed: int
) -> dict[str, Tensor]:
    """Draw a layer anew, always on the CPU so that every device gets the same numbers.

    Parameters
    ----------
    network : torch.nn.Module
        The network the layer belongs to; it is only read.
    family : str
        Name of its family; ``""`` for a network that belongs to none, whose modules'
        ``reset_parameters`` is run instead. A module of torch without one (multi-head attention)
        is drawn as its constructor does.
    layer : str
        Name of the layer, which enters the generator's seed.
    names : tuple of str
        The layer's parameters and buffers.
    draw, seed : int
        Number of the draw, and seed of the experiment.

    Returns
    -------
    dict
        Name → new values, on the CPU.

    Raises
    ------
    InterventionError
        A module of the layer has no ``reset_parameters``.
    """
    number = layer_seed(seed, layer, draw)
    if family in FAMILIES:
        generator = torch.Generator().manual_seed(number)
        return FAMILIES[family].initialise(network, names, generator)
    fresh: dict[str, Tensor] = {}
    with own_chance(number):
        for path in dict.fromkeys(name.rpartition(".")[0] for name in names):
            fresh.update(_reset(network.get_submodule(path), path))
    return {name: fresh[name] for name in names}


def values_of(drawn: Tensor) -> NDArray[Any]:
    """Values of a tensor as an array; of bfloat16, which numpy does not have, in float32."""
    wider = drawn.float() if drawn.dtype == torch.bfloat16 else drawn
    array: NDArray[Any] = wider.detach().cpu().numpy()
    return array


def layer_seed(seed: int, layer: str, draw: int) -> int:
    """Seed of one layer's generator, the same on every platform."""
    digest = hashlib.sha256(f"{seed}/{layer}/{draw}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def _reset(module: nn.Module, path: str) -> dict[str, Tensor]:
    """Initial values of the tensors that a module owns itself, drawn in a copy of it."""
    reset = getattr(type(module), "reset_parameters", None)
    owned = {**module._parameters, **module._buffers}
    present = tuple(name for name, tensor in owned.items() if tensor is not None)
    prefix = f"{path}." if path else ""
    if reset is None and all(how_to_draw(TORCH, module, name) for name in present):
        drawn = draw_tensors(TORCH, module, present, torch.default_generator)
        return {prefix + name: tensor for name, tensor in drawn.items()}
    if reset is None:
        raise InterventionError(
            f"{path or 'the network'} ({type(module).__name__}) has no reset_parameters().",
            "A fresh draw needs the module's own initialiser.",
            "Give the class a reset_parameters method that draws its parameters anew.",
        )
    twin = private_copy(module).cpu()
    reset(twin)
    return {prefix + name: getattr(twin, name).detach() for name in present}
