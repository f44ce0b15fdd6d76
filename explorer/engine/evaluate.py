"""The test error under an intervention as a stream that ends exact, and the answers behind it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import xarray as xr
from torch import nn

from explorer.engine.estimate import Estimate
from explorer.engine.evaluator import Evaluator
from explorer.engine.intact import doubt_about, recorded_error, warn_of
from explorer.engine.interventions import BatchNormPolicy, Intervention
from explorer.engine.provenance import open_journal, provenance_of


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
    OutOfMemoryError
        Not even one example at a time fits into memory.

    Warns
    -----
    NumbersWarning
        With the last estimate: the trained network has another error than its stack records, or
        is no better than chance; or it draws random numbers, or its answers depend on the batch.

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
    return _with_warning(evaluator.estimates(intervention), evaluator)


def _with_warning(estimates: Iterator[Estimate], evaluator: Evaluator) -> Iterator[Estimate]:
    """Pass estimates on, and warn with the last where the trained network is not as it was."""
    for one in estimates:
        if one.exact and not one.failure:
            trained = one.errors - one.turned_wrong + one.turned_right
            warn_of(_doubt(evaluator, trained))
        yield one


def _doubt(evaluator: Evaluator, errors: int) -> str:
    return doubt_about(
        {
            "final_error": errors / evaluator.total,
            "examples": evaluator.total,
            "chance_error": evaluator.chance_error,
            "dataset": evaluator.dataset,
            "caution": evaluator.caution,
            **recorded_error(evaluator.network.stack.attrs, evaluator.network.epochs[-1]),
        }
    )


def predictions(
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
) -> xr.Dataset:
    """What the network answers to every test example, before and after an intervention.

    Parameters
    ----------
    stack : xarray.DataTree
        As `explorer.open_stack` returns it.
    intervention, model, data, device, batch_size, batchnorm, screen, memory, calibration
        As in `evaluate`.

    Returns
    -------
    xarray.Dataset
        ``label``, ``intact`` (answer of the trained network) and ``patched`` (answer under the
        intervention), class numbers over (example) or (example, position), in the order of the
        dataset. The attribute ``class_names`` is a list, empty where the classes have no names;
        the others say what is needed to repeat the answers.

    Raises
    ------
    UnknownNameError, StackError, CheckpointError, DataError, UsageError
        Something does not fit.
    InterventionError
        The intervention cannot be carried out, or gives logits that are not finite.
    OutOfMemoryError
        Not even one example at a time fits into memory.

    Examples
    --------
    >>> import explorer as lx
    >>> stack = lx.open_stack("fcn3x256-digits")
    >>> answers = lx.predictions(stack, lx.reinitialise("layer1", epoch=0))
    >>> int((answers.patched != answers.label).sum())
    1277
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
    found = evaluator.predictions(intervention)
    dims = ("example", "position")[: found.labels.ndim]
    variables = {
        "label": (dims, found.labels, {"long_name": "true class"}),
        "intact": (dims, found.intact, {"long_name": "answer of the trained network"}),
        "patched": (dims, found.patched, {"long_name": "answer under the intervention"}),
    }
    attrs = {
        **provenance_of(evaluator),
        "intervention": str(intervention),
        "class_names": list(evaluator.class_names),
        "doubt": _doubt(evaluator, int((found.intact != found.labels).sum())),
    }
    warn_of(attrs["doubt"])
    return xr.Dataset(variables, attrs=attrs)
