"""A network's forward pass with other tensors in the place of its own, of which nothing stays."""

from __future__ import annotations

import contextlib
import itertools
from collections import OrderedDict, defaultdict
from collections.abc import Iterator, Mapping
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
    with as_it_was(module):
        return functional_call(module, put, (inputs,), tie_weights=False)


def call_written_over(
    module: nn.Module, tensors: Mapping[str, Tensor], inputs: Tensor, own: Mapping[str, Tensor]
) -> Any:
    """Do the same for a network that reaches its tensors by other ways than their names.

    A list of parameters or a closure holds the tensor itself: it is written over, and written back.
    Nobody else may read the network's tensors meanwhile.

    Parameters
    ----------
    module, tensors, inputs
        As for `call_with`.
    own : mapping
        First name → the module's own tensor.
    """
    before = {name: own[name].clone() for name in tensors}
    try:
        for name, tensor in tensors.items():
            own[name].copy_(tensor)
        with as_it_was(module):
            return module(inputs)
    finally:
        for name, tensor in before.items():
            own[name].copy_(tensor)


@contextlib.contextmanager
def as_it_was(module: nn.Module) -> Iterator[None]:
    """Have a network hold afterwards what it held before, and nothing of what it ran meanwhile.

    What a forward pass keeps for the next one (a mask, a table of positions, the last activation)
    is made anew by each: it may depend on tensors that are others then, or be none outside of a
    recording. Tensors that are written over in place stay as they are written.
    """
    held = [vars(part) for part in module.modules()]
    held += [inside for attributes in held.copy() for inside in _containers(attributes)]
    before = [(one, one.copy()) for one in held]
    try:
        yield
    finally:
        for one, was in before:
            _put_back(one, was)


_CONTAINERS = (dict, OrderedDict, defaultdict, list, set)
_UNCHANGED = frozenset(vars(nn.Module())) - {"_parameters", "_buffers", "_modules"}
"""What each module has, and no forward pass changes: hooks, and whether it is in training."""


def _containers(attributes: Mapping[str, Any]) -> Iterator[Any]:
    """Lists, mappings and sets among the attributes of a module, however deep."""
    waiting = [value for name, value in attributes.items() if name not in _UNCHANGED]
    seen: set[int] = set()
    while waiting:
        value = waiting.pop()
        if type(value) in _CONTAINERS and id(value) not in seen:
            seen.add(id(value))
            yield value
            waiting += value.values() if isinstance(value, dict) else value


def _put_back(now: Any, was: Any) -> None:
    """Give a container its content again; one that has it is not touched: others may read it."""
    same = len(now) == len(was)
    if isinstance(now, dict):
        if same and all(k in was and was[k] is value for k, value in now.items()):
            return
        for name in [name for name in now if name not in was]:
            del now[name]
        now.update(was)
    elif isinstance(now, list):
        if not same or any(a is not b for a, b in zip(now, was, strict=True)):
            now[:] = was
    elif now != was:
        now.clear()
        now.update(was)


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
