"""Where networks live: on a GPU if there is one, else on the CPU."""

from __future__ import annotations

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
