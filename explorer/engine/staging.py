"""Tensors on their way from the processor's memory to a GPU."""

from __future__ import annotations

import threading
from collections.abc import Hashable, Mapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor

Named = TypeVar("Named", bound=Hashable)
"""What tensors go by."""

ALIGNED = 64
"""Elements at whose multiples tensors begin, so that kernels can read them in wide pieces."""


class Staging:
    """Copies a layer's tensors to a GPU together, through page-locked memory of its own.

    One copy takes as long as the layer is large; one for each tensor takes a fixed time besides,
    and page-locking memory for each takes more than the copy. The processor goes on meanwhile.

    Parameters
    ----------
    device : torch.device
        Where they go.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._locked = torch.empty(0)
        self._copied: torch.cuda.Event | None = None
        self._lock = threading.Lock()

    def moved(self, tensors: Mapping[Named, Tensor]) -> dict[Named, Tensor]:
        """Copy tensors to the device.

        Parameters
        ----------
        tensors : mapping
            Name → values, on the processor. What is not float32 is copied by itself.

        Returns
        -------
        dict
            Name → the same values on the device, in one piece of memory.
        """
        places: dict[Named, slice] = {}
        end = 0
        for name, tensor in tensors.items():
            if tensor.dtype == torch.float32:
                places[name] = slice(end, end + tensor.numel())
                end += -(-tensor.numel() // ALIGNED) * ALIGNED
        with self._lock:
            flat = self._copy([(places[name], tensors[name]) for name in places], end)
        return {
            name: flat[places[name]].view(tensor.shape)
            if name in places
            else tensor.to(self._device)
            for name, tensor in tensors.items()
        }

    def _copy(self, pieces: Sequence[tuple[slice, Tensor]], size: int) -> Tensor:
        if self._copied is not None:
            self._copied.synchronize()  # the copy before may still be reading
        on_cuda = self._device.type == "cuda"
        if len(self._locked) < size:
            with torch.inference_mode(False):  # may be written to in either mode from now on
                self._locked = torch.empty(size, pin_memory=on_cuda)
        for place, tensor in pieces:
            self._locked[place].copy_(tensor.reshape(-1))
        flat = self._locked[:size].to(self._device, non_blocking=True, copy=True)
        if on_cuda:
            self._copied = torch.cuda.Event()
            self._copied.record(torch.cuda.current_stream(self._device))
        return flat
