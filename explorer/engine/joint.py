"""How many layers can be reset together: the least harmful first, one more at each step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import numpy as np
import xarray as xr
from torch import nn

from explorer.engine.choosing import chosen
from explorer.engine.effective import Search
from explorer.engine.evaluator import Evaluator
from explorer.engine.intact import doubt_about, not_measured, warn_of
from explorer.engine.interventions import BatchNormPolicy, Epoch, Intervention, Source
from explorer.engine.margins import check_margin, margin_of_resets
from explorer.engine.parts import last_of
from explorer.engine.provenance import provenance_of
from explorer.engine.verdicts import DEFAULT_THRESHOLD
from explorer.errors import InterventionError
from explorer.weights.stack import check_is_stack, epoch_numbers, layer_names


@dataclass(frozen=True)
class ResetStep:
    """One layer more that is reset together with those of the steps before."""

    layer: str
    """The layer that this step adds."""
    layers: tuple[str, ...]
    """All layers that are reset now, in the order in which they were added."""
    error: float
    """Test error with all of them reset, 0…1; exact."""
    error_low: float
    """Lower end of its 95 % interval."""
    error_high: float
    """Upper end of its 95 % interval."""
    parameters_left: int
    """Trained parameters that are still in place; one that layers share counts once."""


@dataclass(frozen=True)
class ResetOrder:
    """How far the search has come."""

    steps: tuple[ResetStep, ...]
    """Steps whose error is within what is allowed."""
    beyond: ResetStep | None
    """The step that went beyond it, once it has been found; None if every layer can be reset, or
    those left cannot be measured."""
    tried: int
    """Interventions measured so far."""
    to_try: int
    """Interventions that the search needs if it does not end early."""
    finished: bool
    """Whether the search has come to its end."""
    parameters: int
    """Trained parameters of the whole network; one that layers share counts once."""


def find_order(
    evaluator: Evaluator, sources: Mapping[str, Source], allowed_error: float
) -> Iterator[ResetOrder]:
    """Reset layers together, at each step the one that leaves the smallest error.

    To stop, do not ask for the next.

    Parameters
    ----------
    evaluator : Evaluator
        Test set and final network.
    sources : mapping
        Layer → what it is reset to; layers that are not named stay.
    allowed_error : float
        Test error, 0…1, up to which a step counts.

    Yields
    ------
    ResetOrder
        After each slice of the test examples; the last one is finished. Of two layers that do
        equally little harm the one with more parameters goes first, then the earlier one.

    Raises
    ------
    UsageError
        No layer may be reset, or none of them can be measured.

    References
    ----------
    Joint re-initialisation is in Zhang, Bengio, Singer, JMLR 23(67), 2022; the greedy order is
    ours, and it need not find the largest set.
    """
    search = Search(evaluator, sources, allowed_error)
    for _ in search.forward():
        yield _order(search, finished=False)
    yield _order(search, finished=True)


def _order(search: Search, *, finished: bool) -> ResetOrder:
    """What a search forward has found, as steps that add one layer each."""
    steps: list[ResetStep] = []
    for trial in search.trials:
        before = steps[-1].layers if steps else ()
        numbers = (trial.error, trial.error_low, trial.error_high, trial.parameters_left)
        steps.append(ResetStep(trial.layer, (*before, trial.layer), *numbers))
    beyond = bool(steps) and not search.trials[-1].within
    return ResetOrder(
        steps=tuple(steps[:-1] if beyond else steps),
        beyond=steps[-1] if beyond else None,
        tried=search.measured,
        to_try=search.measured if finished else _most(len(search.layers)),
        finished=finished,
        parameters=search.parameters,
    )


def reset_order(
    stack: xr.DataTree,
    *,
    epoch: int | None = None,
    threshold: float = DEFAULT_THRESHOLD,
    layers: Sequence[str] | None = None,
    model: nn.Module | None = None,
    data: Any = None,
    device: str = "auto",
    batch_size: int | None = None,
    batchnorm: BatchNormPolicy = "with_layer",
    progress: bool = True,
) -> xr.Dataset:
    """Reset layers together to an early epoch, the least harmful first, within an allowed error.

    Parameters
    ----------
    stack : xarray.DataTree
        As `explorer.open_stack` returns it.
    epoch : int, optional
        Epoch to which the layers are reset; default the first of the stack.
    threshold : float
        Share of the way from the final error to chance up to which a step counts; in 0…1. Of a
        network worse than chance its own error counts.
    layers : sequence of str, optional
        Layers that may be reset; default all.
    model, data, device, batch_size, batchnorm
        As in `explorer.evaluate`.
    progress : bool
        Show a progress bar.

    Returns
    -------
    xarray.Dataset
        Over ``step``: layer, error, error_low, error_high (95 % Wilson interval),
        parameters_left (trained parameters still in place) and within (False only for the last
        step, which went too far). Attributes say what is needed to repeat it. After Ctrl-C the
        steps found so far are returned, and the attribute ``complete`` is 0.

    Raises
    ------
    UnknownNameError, StackError, DataError, UsageError
        Something does not fit.
    InterventionError
        The trained network has NaN or infinite weights or logits.

    Examples
    --------
    >>> import explorer as lx
    >>> order = lx.reset_order(lx.open_stack("fcn3x256-digits"), progress=False)
    >>> order["layer"].values[0].item()
    'layer3'
    """
    check_margin(threshold, None)
    check_is_stack(stack)
    epoch = epoch_numbers(stack)[0] if epoch is None else epoch
    wanted = chosen("layer", layers, layer_names(stack))
    evaluator = Evaluator(
        stack,
        model=model,
        data=data,
        device=device,
        batch_size=batch_size,
        batchnorm=batchnorm,
    )
    final, chance = _final_error(evaluator), evaluator.chance_error
    allowed = final + margin_of_resets(threshold, None, final, chance)
    sources = dict.fromkeys(wanted, Epoch(epoch))
    orders, counts = find_order(evaluator, sources, allowed), attrgetter("tried", "to_try")
    found = last_of(orders, counts, "joint resets", " interventions", progress)
    attrs = {
        **provenance_of(evaluator),
        "epoch": epoch,
        "threshold": threshold,
        "final_error": final,
        "chance_error": chance,
        "parameters": found.parameters,
        "complete": int(found.finished),
    }
    attrs["doubt"] = doubt_about(attrs)
    warn_of(attrs["doubt"])
    return _as_dataset(found, attrs)


def _final_error(evaluator: Evaluator) -> float:
    intact = evaluator.result(Intervention(()))
    if intact.failure:
        raise InterventionError(
            not_measured(intact.failure),
            "A trained network with finite logits is needed.",
            "Choose a stack whose last checkpoint is whole.",
        )
    return intact.error


def _as_dataset(found: ResetOrder, attrs: Mapping[str, Any]) -> xr.Dataset:
    steps = [*found.steps, *([] if found.beyond is None else [found.beyond])]
    columns: dict[str, Any] = {
        name: ("step", np.array([getattr(step, name) for step in steps], dtype))
        for name, dtype in (
            ("layer", object),
            ("error", float),
            ("error_low", float),
            ("error_high", float),
            ("parameters_left", np.int64),
        )
    }
    within = np.arange(len(steps)) < len(found.steps)
    numbers = {"step": np.arange(1, len(steps) + 1)}
    return xr.Dataset({**columns, "within": ("step", within)}, numbers, attrs)


def _most(layers: int) -> int:
    return layers * (layers + 1) // 2
