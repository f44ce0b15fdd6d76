"""Where networks live, on a GPU if there is one, and how torch is switched meanwhile."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

import torch

from explorer.errors import UsageError

_DEVICES = "'auto', 'cpu', 'cuda', 'cuda:1', 'mps' are understood, where the machine has them."


def pick_device(device: str) -> torch.device:
    """Turn ``"auto"`` into CUDA, MPS or CPU, whichever is there first.

    Raises
    ------
    UsageError
        torch does not know the device, or it is not there.
    """
    if not isinstance(device, (str, int, torch.device)):
        raise UsageError(
            f"device is {device!r}.", _DEVICES, "Use device='auto' to take what is there."
        )
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
            _DEVICES,
            "Use device='auto' to take what is there.",
        ) from error
    return chosen


_turn = threading.Lock()
_held: dict[tuple[int, str], list[tuple[object, object]]] = {}
"""Switch → what it was before anybody held it, then who holds it and what it was set to."""


@contextlib.contextmanager
def switched(*wanted: tuple[Any, str, object]) -> Iterator[None]:
    """Set attributes for a while, such as torch's own switches: (owner, name, value) each.

    They are the same for all threads. Where several hold one, the last to let go of it puts it
    back; of two that want different values, the one that came later has its own.
    """
    me = object()
    with _turn:
        before = [getattr(owner, name) for owner, name, _ in wanted]
        for (owner, name, value), found in zip(wanted, before, strict=True):
            _held.setdefault((id(owner), name), [(None, found)]).append((me, value))
    try:
        with _turn:
            for owner, name, value in wanted:
                setattr(owner, name, value)
        yield
    finally:
        with _turn:
            for owner, name, _ in wanted:
                _let_go(owner, name, me)


def _let_go(owner: Any, name: str, who: object) -> None:
    values = _held[id(owner), name]
    values[:] = [entry for entry in values if entry[0] is not who]
    setattr(owner, name, values[-1][1])
    if len(values) == 1:
        del _held[id(owner), name]


def float32_products(precision: str) -> contextlib.AbstractContextManager[None]:
    """Fix how CUDA multiplies float32, ``"ieee"`` or ``"tf32"``, whatever the session says."""
    backends: Any = torch.backends  # some of it is made at run time
    return switched(
        (backends.cuda.matmul, "fp32_precision", precision),
        (backends.cudnn.conv, "fp32_precision", precision),
    )
