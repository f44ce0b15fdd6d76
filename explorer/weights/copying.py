"""A copy of somebody's network, which is run and changed in the place of their own."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from explorer.errors import UsageError


def private_copy(module: nn.Module) -> nn.Module:
    """Copy a network with all that it holds.

    Results of an earlier pass that a module has kept (``self.hidden = …``, the weight that the old
    ``weight_norm`` puts together) are copied without what made them, which torch refuses to copy.
    A method that was compiled in place, ``net.forward = torch.compile(net.forward)``, is again that
    of the class: the compiled one runs the network that it was compiled from.

    Parameters
    ----------
    module : torch.nn.Module
        It is only read.

    Returns
    -------
    torch.nn.Module

    Raises
    ------
    UsageError
        Something in it cannot be copied.
    """
    memo: dict[int, Any] = {
        # a view stays one, so that it is seen when a pass reads what no intervention reaches
        id(one): one.detach() if one._is_view() else one.detach().clone()
        for one in _results_in(module)
    }
    try:
        twin = copy.deepcopy(module, memo)
    except Exception as error:  # whatever somebody's class raises
        raise UsageError(
            f"The network cannot be copied: {error}",
            "A network that copy.deepcopy takes is needed: the one that is passed is never run.",
            f"Take {_not_copied(module)} off the network while it is passed.",
        ) from error
    for part in twin.modules():
        compiled = vars(part).get("forward")
        original = getattr(compiled, "_torchdynamo_orig_callable", None)
        name = getattr(original, "__qualname__", None)  # torch's own modules have it wrapped
        if name == type(part).forward.__qualname__:
            del part.forward
    return twin


def _results_in(module: nn.Module) -> list[Tensor]:
    """Tensors with a history that a module or its parts hold."""
    held = (one for part in module.modules() for one in tensors_in(vars(part)))
    return [one for one in held if not one.is_leaf]


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Tensors in lists, tuples, sets and mappings, however deep."""
    waiting, seen = [value], set()
    while waiting:
        one = waiting.pop()
        if isinstance(one, Tensor):
            yield one
        elif isinstance(one, (list, tuple, set, frozenset, Mapping)) and id(one) not in seen:
            seen.add(id(one))
            waiting += one.values() if isinstance(one, Mapping) else one


def _not_copied(module: nn.Module) -> str:
    """Name of the first attribute that cannot be copied."""
    for path, part in module.named_modules():
        for name, value in vars(part).items():
            if name in vars(nn.Module()) or isinstance(value, nn.Module):
                continue
            memo = {id(one): one for one in tensors_in(value)}
            try:
                copy.deepcopy(value, memo)
            except Exception:  # this is the one
                return f"{path}.{name}" if path else name
    return "what cannot be copied"
