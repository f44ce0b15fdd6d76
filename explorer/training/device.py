"""How a device computes while training: precision, threads, and the same numbers every time."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import torch

from explorer.errors import UsageError
from explorer.weights.device import float32_products, switched


def check_precision(precision: str, device: torch.device) -> None:
    """Refuse a reduced precision where there is no CUDA GPU.

    Raises
    ------
    UsageError
        ``"tf32"`` or ``"bf16"`` on another device.
    """
    if precision != "float32" and device.type != "cuda":
        raise UsageError(
            f"precision is {precision!r} on the device {str(device)!r}.",
            "tf32 and bf16 need a CUDA GPU; elsewhere float32 is accepted.",
            "Leave precision out, or choose device='cuda'.",
        )


def wants_channels_last(precision: str) -> bool:
    """Tell whether convolutions run faster with channels as the innermost dimension.

    True of the tensor cores, which only a reduced precision uses.
    """
    return precision != "float32"


def autocast(precision: str, device: torch.device) -> torch.autocast:
    """Return the context in which a forward pass computes in bfloat16, if that is asked for."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


def arithmetic(precision: str) -> contextlib.AbstractContextManager[None]:
    """Fix whether float32 products on a GPU may be rounded to TF32, whatever the session says."""
    return float32_products("ieee" if precision == "float32" else "tf32")


CUBLAS = "CUBLAS_WORKSPACE_CONFIG"
"""Environment variable without which cuBLAS promises nothing, and torch warns."""


@contextlib.contextmanager
def reproducible(device: torch.device) -> Iterator[None]:
    """Choose algorithms that give the same bits every time; on the CPU all of them do.

    Where CUDA has no such algorithm torch warns and takes the other.
    """
    if device.type != "cuda":
        yield
        return
    cudnn = torch.backends.cudnn
    deterministic: Any = torch.utils.deterministic  # torch makes this module's class at run time
    algorithms = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    asked_for = os.environ.get(CUBLAS)
    os.environ.setdefault(CUBLAS, ":4096:8")
    with switched(
        (cudnn, "deterministic", True),
        (cudnn, "benchmark", False),
        (deterministic, "fill_uninitialized_memory", False),
    ):
        torch.use_deterministic_algorithms(True, warn_only=True)
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(algorithms, warn_only=warn_only)
            if asked_for is None:
                os.environ.pop(CUBLAS, None)


@contextlib.contextmanager
def threads(count: int) -> Iterator[None]:
    """Fix the number of CPU threads for a while."""
    with switched((_Cpu, "threads", count)):
        yield


class _CpuSwitches(type):
    @property
    def threads(cls) -> int:
        return torch.get_num_threads()

    @threads.setter
    def threads(cls, count: int) -> None:
        torch.set_num_threads(count)


class _Cpu(metaclass=_CpuSwitches):
    """The number of threads as an attribute, which `switched` sets and puts back."""
