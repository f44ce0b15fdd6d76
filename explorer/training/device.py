"""How a device computes while training: precision, threads, and the same numbers every time."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import torch

from explorer.errors import UsageError


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


@contextlib.contextmanager
def arithmetic(precision: str) -> Iterator[None]:
    """Fix whether float32 products on a GPU may be rounded to TF32, whatever the session says."""
    convolutions = torch.backends.cudnn.conv  # type: ignore[attr-defined]  # made at run time
    switches: tuple[Any, ...] = (torch.backends.cuda.matmul, convolutions)
    before = [switch.fp32_precision for switch in switches]
    try:
        for switch in switches:
            switch.fp32_precision = "ieee" if precision == "float32" else "tf32"
        yield
    finally:
        for switch, value in zip(switches, before, strict=True):
            switch.fp32_precision = value


@contextlib.contextmanager
def reproducible(device: torch.device) -> Iterator[None]:
    """Choose algorithms that give the same bits every time; on the CPU all of them do.

    Where CUDA has no such algorithm torch warns and takes the other.
    """
    if device.type != "cuda":
        yield
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS asks for it
    cudnn = torch.backends.cudnn
    before = cudnn.deterministic, cudnn.benchmark
    algorithms = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    filling = torch.utils.deterministic.fill_uninitialized_memory  # type: ignore[attr-defined]
    try:
        cudnn.deterministic, cudnn.benchmark = True, False
        torch.use_deterministic_algorithms(True, warn_only=True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
        yield
    finally:
        cudnn.deterministic, cudnn.benchmark = before
        torch.use_deterministic_algorithms(algorithms, warn_only=warn_only)
        torch.utils.deterministic.fill_uninitialized_memory = filling  # type: ignore[attr-defined]


@contextlib.contextmanager
def threads(count: int) -> Iterator[None]:
    """Fix the number of CPU threads for a while."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
