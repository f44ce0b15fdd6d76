"""The test error under an intervention, as a stream of partial counts that ends exact."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import xarray as xr
from torch import nn

from explorer.engine.estimate import Estimate
from explorer.engine.evaluator import Evaluator
from explorer.engine.interventions import BatchNormPolicy, Intervention
from explorer.engine.provenance import open_journal


def evaluate(
    stack: xr.DataTree,
    intervention: Intervention,
    *,
    model: nn.Module | None = None,
    data: Any = None,
    device: str = "auto",
    batch_size: int | None = None,
    batchnorm: BatchNormPolicy = "with_layer",
    screen: bool = False,
    memory: int | None = None,
    calibration: Any = None,
    store: str | Path | None = None,
) -> Iterator[Estimate]:
    """Test error of the final network under one intervention, as it becomes known.

    Parameters
    ----------
    stack : xarray.DataTree
        As `explorer.open_stack` returns it.
    intervention : Intervention
        From `explorer.reinitialise` or `explorer.rerandomise`, or put together from the sources
        in `explorer.engine.interventions`.
    model : torch.nn.Module, optional
        The network's architecture, where the stack names no known family.
    data : str, torch Dataset, pair of arrays, optional
        Labelled test examples; default the stack's own dataset.
    device : str
        ``"auto"`` (CUDA, then MPS, then CPU) or a torch device.
    batch_size, batchnorm, screen, memory, calibration
        As in `explorer.engine.evaluator.Evaluator`.
    store : str or Path, optional
        File in which finished counts are kept; those that it holds come at once. A sweep with the
        same settings reads and writes the same file.

    Returns
    -------
    iterator of Estimate
        Partial counts over the test examples in a fixed random order, each with a 95 % Wilson
        interval; the last one is exact. To stop, do not ask for the next.

    Raises
    ------
    UnknownNameError, StackError, CheckpointError, InterventionError, DataError, UsageError
        Before the first estimate, when something does not fit.

    Examples
    --------
    >>> import explorer as lx
    >>> stack = lx.open_stack("fcn3x256-digits")
    >>> *_, last = lx.evaluate(stack, lx.reinitialise("layer1", epoch=0))
    >>> last.examples
    1800
    """
    evaluator = Evaluator(
        stack,
        model=model,
        data=data,
        device=device,
        batch_size=batch_size,
        batchnorm=batchnorm,
        screen=screen,
        memory=memory,
        calibration=calibration,
    )
    if store is not None:
        evaluator.journal = open_journal(store, evaluator)
    return evaluator.estimates(intervention)
