"""A network's forward pass with other tensors in the place of its own."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.func import functional_call


def call_with(module: nn.Module, tensors: Mapping[str, Tensor], inputs: Tensor) -> Any:
    """Run a network on inputs with some of its tensors replaced; afterwards it is as it was.

    `torch.func.functional_call` left to itself puts tied tensors in by every name. Of a module that
    is registered under two names it takes out again what it has put in first, and so leaves it in
    that module for good (torch 2.15, ``tie_weights=True``). Here each place is written once.

    Parameters
    ----------
    module : torch.nn.Module
        The network.
    tensors : mapping
        First name of a tensor → what takes its place, wherever the network has it.
    inputs : Tensor
        (example, …).
    """
    places = places_of(module)
    put = {place: tensor for name, tensor in tensors.items() for place in places[name]}
    return functional_call(module, put, (inputs,), tie_weights=False)


def places_of(module: nn.Module) -> dict[str, tuple[str, ...]]:
    """First name of each parameter and buffer → one name for each place that holds it.

    A place is an attribute of a module; a module that has several names counts once.
    """
    names: dict[int, list[str]] = {}
    for path, part in module.named_modules():
        options: Any = {"recurse": False, "remove_duplicate": False}
        held = itertools.chain(part.named_parameters(**options), part.named_buffers(**options))
        for name, tensor in held:
            names.setdefault(id(tensor), []).append(f"{path}.{name}" if path else name)
    return {found[0]: tuple(found) for found in names.values()}


def first_names(module: nn.Module) -> dict[str, str]:
    """Every name of a parameter or buffer → the first of that tensor's names."""
    first: dict[int, str] = {}
    every = itertools.chain(
        module.named_parameters(remove_duplicate=False),
        module.named_buffers(remove_duplicate=False),
    )
    return {name: first.setdefault(id(tensor), name) for name, tensor in every}
