"""The global generators of torch, numpy and Python, seeded for a while and then as before."""

from __future__ import annotations

import contextlib
import random
import threading
from collections.abc import Iterator

import numpy as np
import torch

generators = threading.RLock()
"""Two threads that seeded the same generators would draw from each other's."""


@contextlib.contextmanager
def own_chance(seed: int, device: torch.device | None = None) -> Iterator[None]:
    """Seed the global generators, which modules draw from, and give them back as they were.

    One thread at a time; another one that wants them waits.

    Parameters
    ----------
    seed : int
        Of torch's generator on the CPU and, reduced to 32 bits, of numpy's and Python's.
    device : torch.device, optional
        A GPU whose generator is seeded as well; those of others are left alone.
    """
    cuda = [device] if device is not None and device.type == "cuda" else []
    with generators, torch.random.fork_rng(cuda):
        arrays, pythons = np.random.get_state(), random.getstate()
        try:
            torch.default_generator.manual_seed(seed)
            if device is not None:
                _seed_there(device, seed)
            np.random.seed(seed % 2**32)
            random.seed(seed)
            yield
        finally:
            np.random.set_state(arrays)
            random.setstate(pythons)


def _seed_there(device: torch.device, seed: int) -> None:
    if device.type == "cuda":
        with torch.cuda.device(device):
            torch.cuda.manual_seed(seed)
    elif device.type == "mps":
        torch.mps.manual_seed(seed)
