"""A reader's own network: taken out of what wraps it, or refused with what to pass instead."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from explorer.errors import UsageError

if TYPE_CHECKING:
    from torch import nn


def unwrapped(model: Any) -> Any:
    """Return the network inside what torch.compile or data parallelism has put around it.

    Its tensors then have the names of its checkpoints. None, for no network, stays None.

    Parameters
    ----------
    model : torch.nn.Module or None
        As a reader has it at hand.

    Raises
    ------
    UsageError
        It is a class or anything else that is no network, has been compiled to TorchScript, or has
        parameters without a shape.
    """
    if model is None:
        return None
    _refuse_what_is_no_network(model)
    while (inner := _inside(model)) is not None:
        model = inner
    _refuse_what_cannot_be_replaced_in(model)
    return model


def with_values(model: Any) -> Any:
    """Return the same; refuse a network that is nothing but shapes.

    Raises
    ------
    UsageError
        As from `unwrapped`, or a tensor lies on the meta device.
    """
    network = unwrapped(model)
    if network is None:
        return None
    every = (*network.named_parameters(), *network.named_buffers())
    empty = [name for name, tensor in every if tensor.is_meta]
    if empty:
        raise UsageError(
            f"{empty[0]} of the model is on the meta device, where tensors have no values.",
            "A network whose tensors are all there is needed, trained or not.",
            "Make it outside of torch.device('meta').",
        )
    return network


def _refuse_what_is_no_network(model: Any) -> None:
    from torch import nn  # an explorer of a bundled stack is shown without torch

    if isinstance(model, type):
        raise UsageError(
            f"The model is a class, {model.__name__}.",
            "An instance of it is needed, with the sizes that were trained.",
            f"Pass model={model.__name__}(…).",
        )
    if not isinstance(model, nn.Module):
        raise UsageError(
            f"The model is {model!r}.",
            "A torch.nn.Module is needed.",
            "Pass the network that was trained.",
        )


def _inside(model: nn.Module) -> nn.Module | None:
    """What a wrapper holds; None where there is none."""
    from torch import nn

    if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        inner: nn.Module = model.module
        return inner
    return dict(model.named_children()).get("_orig_mod")  # torch.compile's


def _refuse_what_cannot_be_replaced_in(model: nn.Module) -> None:
    from torch import jit, nn

    for path, part in model.named_modules():
        if isinstance(part, jit.ScriptModule):
            what = f"{path} of the model" if path else "The model"
            raise UsageError(
                f"{what} has been compiled to TorchScript.",
                "The network as it is written in Python is needed: parts of it are run again.",
                "Pass the module that was scripted or traced.",
            )
    every = (*model.named_parameters(), *model.named_buffers())
    lazy = [name for name, tensor in every if nn.parameter.is_lazy(tensor)]
    if lazy:
        raise UsageError(
            f"{lazy[0]} of the model has no shape yet.",
            "A network whose tensors are all there is needed.",
            "Run it on an example once, then pass it: model(inputs[:1]).",
        )
