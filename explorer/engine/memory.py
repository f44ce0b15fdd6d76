"""How much memory a pass may take, how many examples fit into it, and when there was too little."""

from __future__ import annotations

import torch

from explorer.arguments import whole_number
from explorer.errors import OutOfMemoryError

TRIAL_BATCH = 64
"""Batch of a pass of which it is not known how large its values are."""

PLEASANT_SLICES = 8
"""Estimates in a run that a reader can follow; fewer only where there are few examples."""

FAST_BYTES = {"cpu": (2**24, 1024), "cuda": (512e6, 4096), "mps": (128e6, 1024)}
"""Device → bytes that the largest value may take to stay in fast memory, and most examples."""

SLICE_FLOPS = {"cuda": 0.8e12}
"""Device → floating-point operations of a slice that a reader does not have to wait for."""

SCREEN_SPEED = 4.0
"""How many times as many a slice may take in lower precision."""

KEPT_SHARE = 0.25
"""Of the memory budget, what may be kept of the intact pass for the next intervention."""

DEFAULT_BUDGET = 1_000_000_000
"""Bytes that the values of one pass may take, where the device does not say what is free."""

FREE_SHARE = 0.5
"""Of a GPU's free memory, what the values of one pass may take."""

_TOO_LITTLE = ("can't allocate memory", "could not create a primitive")
"""How torch's allocator of the CPU, and oneDNN below it, say that memory ran out."""


def memory_budget(device: torch.device, wanted: int | None) -> int:
    """Bytes that the values of one pass may take.

    Parameters
    ----------
    device : torch.device
        Where they lie.
    wanted : int, optional
        What the caller allows; default half of what is free on a GPU, 1 GB elsewhere.

    Returns
    -------
    int

    Raises
    ------
    UsageError
        Less than one byte is wanted.
    """
    if wanted is not None:
        wanted = whole_number("memory", wanted, "Give it in bytes, or leave it out.", 1)
        return wanted
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0] * FREE_SHARE)
    return DEFAULT_BUDGET


def best_batch(
    largest: float, live: float, flops: float, total: int, device: torch.device, budget: int
) -> int:
    """Examples per forward pass, a power of two.

    As many as keep the largest value within fast memory and all values within the budget, but no
    more than leave a reader `PLEASANT_SLICES` estimates to watch, and on a GPU the first of them
    within a few hundredths of a second. Smaller slices are how the
    budget is kept: every value is still computed only once, and nothing has to be moved away.

    Parameters
    ----------
    largest, live : float
        Bytes per example of the largest value, and of all values that are alive at once.
    flops : float
        Floating-point operations per example.
    total : int
        Test examples.
    device : torch.device
        Where they are computed.
    budget : int
        As `memory_budget` gives it.

    Returns
    -------
    int
    """
    fast, most = FAST_BYTES.get(device.type, FAST_BYTES["cpu"])
    watched = max(TRIAL_BATCH, total // PLEASANT_SLICES)
    wanted = min(int(fast / max(largest, 1.0)), most, watched)
    if device.type in SLICE_FLOPS:
        wanted = min(wanted, int(SLICE_FLOPS[device.type] / max(flops, 1.0)))
    return power_of_two(min(max(wanted, 16), int(budget / max(live, 1.0))))


def power_of_two(number: int) -> int:
    """Return the largest power of two up to a number, at least 1."""
    return 1 << max(0, number.bit_length() - 1)


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether an error says that memory ran out; torch's CPU allocator has no type for it."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(text in str(error) for text in _TOO_LITTLE)


def no_room(place: str, error: BaseException) -> OutOfMemoryError:
    """Build the error for a device on which a pass of a single example runs out of memory."""
    reason = (str(error).splitlines() or [type(error).__name__])[0]
    return OutOfMemoryError(
        f"It ran out of memory on {place}, even with one example at a time: {reason}",
        "One example has to fit in beside the network, the test set and the changed layers.",
        "Close what else uses this memory, take fewer or smaller examples, or another device=.",
    )
