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


_backends: Any = torch.backends  # some of it is made at run time
_CUDA_RNN = _backends._FP32Precision("cuda", "rnn")  # torch.backends.cudnn.rnn is a module


def float32_products(precision: str) -> contextlib.AbstractContextManager[None]:
    """Fix how float32 is multiplied, on CUDA ``"ieee"`` or ``"tf32"``, whatever else is set."""
    cuda = (_backends.cuda.matmul, _backends.cudnn.conv, _CUDA_RNN)
    mkldnn = (_backends.mkldnn.matmul, _backends.mkldnn.conv, _backends.mkldnn.rnn)
    return switched(
        *((part, "fp32_precision", precision) for part in cuda),
        *((part, "fp32_precision", "ieee") for part in mkldnn),
    )


FLOAT32_SETTINGS = "TF32 off, cuDNN deterministic"
"""What `plain_float32` fixes, in words."""


@contextlib.contextmanager
def plain_float32() -> Iterator[None]:
    """Fix what torch computes float32 with: nothing shorter, and the same algorithms every time."""
    cudnn = torch.backends.cudnn
    same = switched((cudnn, "benchmark", False), (cudnn, "deterministic", True))
    kinds = [kind for kind in ("cpu", "cuda", "mps") if torch.is_autocast_enabled(kind)]
    with float32_products("ieee"), same, contextlib.ExitStack() as stack:
        for kind in kinds:
            stack.enter_context(torch.autocast(kind, enabled=False))
        yield
