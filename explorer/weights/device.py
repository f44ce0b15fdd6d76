"""Where networks live, on a GPU if there is one, and how torch is switched meanwhile."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch

from explorer.errors import UsageError


def pick_device(device: str) -> torch.device:
    """Turn ``"auto"`` into CUDA, MPS or CPU, whichever is there first.

    Raises
    ------
    UsageError
        torch does not know the device, or it is not there.
    """
    if device == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda", torch.cuda.current_device())
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        chosen = torch.device(device)
        torch.empty(1, device=chosen)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(
            f"The device {device!r} cannot be used: {str(error).splitlines()[0]}",
            "'auto', 'cpu', 'cuda', 'cuda:1', 'mps' are understood, where the machine has them.",
            "Use device='auto' to take what is there.",
        ) from error
    return chosen


@contextlib.contextmanager
def switched(*wanted: tuple[Any, str, object]) -> Iterator[None]:
    """Set attributes for a while, such as torch's own switches: (owner, name, value) each."""
    before = [getattr(owner, name) for owner, name, _ in wanted]
    try:
        for owner, name, value in wanted:
            setattr(owner, name, value)
        yield
    finally:
        for (owner, name, _), value in zip(wanted, before, strict=True):
            setattr(owner, name, value)


def float32_products(precision: str) -> contextlib.AbstractContextManager[None]:
    """Fix how CUDA multiplies float32, ``"ieee"`` or ``"tf32"``, whatever the session says."""
    backends: Any = torch.backends  # some of it is made at run time
    return switched(
        (backends.cuda.matmul, "fp32_precision", precision),
        (backends.cudnn.conv, "fp32_precision", precision),
    )
