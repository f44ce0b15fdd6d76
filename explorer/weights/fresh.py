"""Fresh draws: new values for a layer from its own initial distribution."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from explorer.errors import InterventionError
from explorer.weights.copying import private_copy
from explorer.weights.families.chance import own_chance
from explorer.weights.families.initialisers import TORCH, draw_tensors, how_to_draw
from explorer.weights.families.known import FAMILIES

Filling = Callable[[Tensor], Tensor]
"""Values of a parameter → those that its initialiser finds in its place."""

RESET_ERRORS = (
    *(RuntimeError, ValueError, TypeError, AttributeError),
    *(LookupError, ArithmeticError, AssertionError),
)
"""What an initialiser, which is anybody's code, raises where it fails."""


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
        The layer's parameters and buffers. A module's extra state among them is passed over: what
        it means is the module's own affair, and it stays as it is.
    draw, seed : int
        Number of the draw, and seed of the experiment.

    Returns
    -------
    dict
        Name → new values, on the CPU. A buffer that the initialiser leaves alone, such as the mask
        of pruning, has its present ones.

    Raises
    ------
    InterventionError
        A module of the layer has no ``reset_parameters``, or one that fails or leaves a parameter
        alone; or a name is none of a parameter or buffer.
    """
    number = layer_seed(seed, layer, draw)
    if family in FAMILIES:
        generator = torch.Generator().manual_seed(number)
        return FAMILIES[family].initialise(network, names, generator)
    return _drawn_anew(network, tuple(n for n in names if not _is_extra(n)), number)


def values_of(drawn: Tensor) -> NDArray[Any]:
    """Values of a tensor as an array; of bfloat16, which numpy does not have, in float32."""
    wider = drawn.float() if drawn.dtype == torch.bfloat16 else drawn
    array: NDArray[Any] = wider.detach().cpu().numpy()
    return array


def layer_seed(seed: int, layer: str, draw: int) -> int:
    """Seed of one layer's generator, the same on every platform."""
    digest = hashlib.sha256(f"{seed}/{layer}/{draw}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1


def _drawn_anew(network: nn.Module, names: tuple[str, ...], number: int) -> dict[str, Tensor]:
    """Draw tensors, and refuse a parameter whose new values depend on those that it has.

    The initialisers find NaN in place of the parameters, which stays wherever they do not write.
    Those that come out with NaN are drawn from the present values and, with the same chance, from
    others: that must make no difference.
    """
    try:
        drawn = _drawn(network, names, number, _unknown)
        doubtful = [name for name in names if drawn[name].isnan().any()]
    except InterventionError:  # some initialisers need numbers to begin with
        doubtful = list(names)
    if not doubtful:
        return {name: drawn[name] for name in names}
    drawn, other = (_drawn(network, names, number, f) for f in (torch.clone, _others))
    for name in doubtful:
        owner, own = _owner(network, name)
        if own in owner._parameters and not torch.equal(drawn[name], other[name]):
            raise InterventionError(
                f"A fresh draw would keep trained values: reset_parameters() of "
                f"{type(owner).__name__} does not write all of {name}.",
                "It has to give every parameter new values, whatever was there before.",
                "Give the class a reset_parameters method that does, or choose another source.",
            )
    return {name: drawn[name] for name in names}


def _drawn(
    network: nn.Module, names: tuple[str, ...], number: int, filling: Filling
) -> dict[str, Tensor]:
    """Draw all tensors of the modules that own some of these, one module after the other."""
    owners = {name.rpartition(".")[0]: _owner(network, name)[0] for name in names}
    fresh: dict[str, Tensor] = {}
    with own_chance(number):
        for path, module in owners.items():
            fresh.update(_reset(module, path, filling))
    return fresh


def _reset(module: nn.Module, path: str, filling: Filling) -> dict[str, Tensor]:
    """Initial values of the tensors that a module owns itself, drawn in a copy of it."""
    reset = getattr(type(module), "reset_parameters", None)
    present = tuple(_owned(module))
    prefix = f"{path}." if path else ""
    if reset is None and all(how_to_draw(TORCH, module, name) for name in present):
        drawn = draw_tensors(TORCH, module, present, torch.default_generator)
        return {prefix + name: tensor for name, tensor in drawn.items()}
    shown = f"{path or 'the network'} ({type(module).__name__})"
    if reset is None:
        raise InterventionError(
            f"{shown} has no reset_parameters().",
            "A fresh draw needs the module's own initialiser.",
            "Give the class a reset_parameters method that draws its parameters anew.",
        )
    twin = private_copy(module).cpu().requires_grad_(False)
    for parameter in twin.parameters(recurse=False):
        if parameter.is_floating_point() or parameter.is_complex():
            parameter.copy_(filling(parameter))
    try:
        reset(twin)
        return {prefix + name: getattr(twin, name).detach() for name in present}
    except RESET_ERRORS as error:
        raise InterventionError(
            f"reset_parameters() of {shown} failed: {type(error).__name__}: {error}",
            "A fresh draw needs an initialiser that runs without arguments.",
            "Correct it, or choose another source.",
        ) from error


def _is_extra(name: str) -> bool:
    """Tell what a module's ``get_extra_state`` has put into the state dict."""
    return name.rpartition(".")[2] == "_extra_state"


def _owner(network: nn.Module, name: str) -> tuple[nn.Module, str]:
    """The module that a parameter or buffer belongs to, and its name there."""
    path, _, own = name.rpartition(".")
    with contextlib.suppress(AttributeError):  # no such module
        module = network.get_submodule(path)
        if own in _owned(module):
            return module, own
    raise InterventionError(
        f"{name} is no parameter or buffer of the network.",
        "Only those have an initial distribution to draw from.",
        "Choose another source, or give the network that was trained as model=.",
    )


def _owned(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers of a module itself."""
    owned = {**module._parameters, **module._buffers}
    return {name: tensor for name, tensor in owned.items() if tensor is not None}


def _unknown(values: Tensor) -> Tensor:
    """NaN, which whatever is computed from it is too."""
    return torch.full_like(values, torch.nan)


def _others(values: Tensor) -> Tensor:
    """Other values: each has its sign, and all together are no multiple of what they were."""
    wide = values if values.is_complex() else values.double()
    factors = torch.linspace(1.5, 2, wide.numel(), dtype=torch.float64).reshape(wide.shape)
    return torch.where(wide == 0, factors, factors * wide).to(values.dtype)
