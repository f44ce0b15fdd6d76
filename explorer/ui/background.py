"""What the widget's threads need torch or numba for, imported only when a thread asks for it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import xarray as xr

from explorer.engine.interventions import Intervention
from explorer.ui.results import Counts
from explorer.weights.stack import epoch_numbers


class Evaluates(Protocol):
    """The part of `explorer.engine.evaluator.Evaluator` that the widget asks."""

    @property
    def device_label(self) -> str: ...
    @property
    def total(self) -> int: ...
    @property
    def chance_error(self) -> float: ...
    def estimates(self, intervention: Intervention) -> Iterator[Counts]: ...


def open_evaluator(stack: xr.DataTree, **options: Any) -> Evaluates:
    """Return what answers interventions on this stack (imports torch: seconds).

    Parameters
    ----------
    stack : xarray.DataTree
        A stack from `explorer.open_stack`.
    **options
        Passed on to `explorer.engine.evaluator.Evaluator`.
    """
    # torch takes seconds to import, and the first picture does not need it.
    from explorer.engine.evaluator import Evaluator

    return Evaluator(stack, **options)


def measure_distances(stack: xr.DataTree, *, model: Any, draws: int, seed: int) -> xr.Dataset:
    """Return how far each layer is from its first epoch (compiles numba kernels: seconds).

    Parameters
    ----------
    stack : xarray.DataTree
        A stack from `explorer.open_stack`.
    model : torch.nn.Module or None
        The reader's own network, whose modules draw anew.
    draws : int
        Number of fresh draws, for the yard-stick.
    seed : int
        Seed of the fresh draws.
    """
    # numba compiles or loads its kernels here, which the first picture need not wait for.
    from explorer.api import distances

    first = epoch_numbers(stack)[0]
    return distances(stack, reference=first, model=model, draws=draws, seed=seed)
