"""Networks without memory: built for their names and shapes, or to be filled later."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from explorer.weights.families.chance import generators


class _EmptyIsMeta(TorchFunctionMode):
    """Lets torch.empty give tensors of the meta device, but for some shapes.

    Modules of torch take the memory of their parameters from torch.empty, and nothing else from
    it. With torch.device("meta") the few numbers that some constructors compute with
    (torchvision's RegNet the widths of its stages) would be lost as well.
    """

    def __init__(self, keep: Collection[torch.Size]) -> None:
        super().__init__()
        self.keep = keep

    def __torch_function__(  # type: ignore[no-untyped-def]  # as torch declares it
        self, func, types, args=(), kwargs=None
    ) -> Any:
        options = kwargs or {}
        if func is torch.empty and options.get("device") is None:
            hollow_tensor = func(*args, **{**options, "device": "meta"})
            if hollow_tensor.shape not in self.keep:
                return hollow_tensor
        return func(*args, **options)


@contextlib.contextmanager
def hollow(keep: Collection[torch.Size] = ()) -> Iterator[None]:
    """Build networks without memory for their weights; torch's generator stays as it was.

    Parameters
    ----------
    keep : collection of torch.Size
        Tensors of these shapes are made, and so get the values that constructors give them.
    """
    with generators, torch.random.fork_rng(devices=[]), _EmptyIsMeta(keep):
        yield


def filled(network: nn.Module) -> nn.Module:
    """Give a hollow network memory on the CPU; what is in it is arbitrary."""

    def fill(tensor: Tensor) -> Tensor:
        return torch.empty_like(tensor, device="cpu") if tensor.is_meta else tensor

    network._apply(fill)
    return network
