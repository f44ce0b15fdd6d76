"""How many trained parameters a network needs when whole layers are reset together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr
from torch import nn

from explorer.arguments import draws_and_seed, whole_number
from explorer.engine.choosing import chosen
from explorer.engine.effective import (
    Effective,
    find_effective,
    most_measured,
    parameters_of,
)
from explorer.engine.evaluator import Evaluator
from explorer.engine.interventions import BatchNormPolicy, Epoch, FreshDraw, Intervention
from explorer.engine.margins import check_margin, margin_of_resets
from explorer.engine.parts import Part, Parts, last_dataset
from explorer.engine.provenance import provenance_of
from explorer.engine.verdicts import DEFAULT_THRESHOLD
from explorer.errors import UsageError
from explorer.weights.stack import epoch_numbers, layer_names

Found = Mapping[str, Effective]
"""Source in words → what the searches found."""


def effective_parameters(
    stack: xr.DataTree,
    *,
    epoch: int | None = None,
    draws: int = 0,
    seed: int = 0,
    threshold: float = DEFAULT_THRESHOLD,
    margin: float | None = None,
    layers: Sequence[str] | None = None,
    model: nn.Module | None = None,
    data: Any = None,
    device: str = "auto",
    batch_size: int | None = None,
    batchnorm: BatchNormPolicy = "with_layer",
    progress: bool = True,
) -> xr.Dataset:
    """Find the largest set of layers that can be reset together, and what must stay trained.

    Two greedy searches, each step with the exact joint error: *forward* resets one layer more, the
    least harmful; *backward* resets all and restores one more, the most harmful, until the error
    is allowed, then tries *again* to reset what it has restored. The set that leaves the fewest
    trained parameters counts; no search but one over all sets is sure to find the largest.

    Parameters
    ----------
    stack : xarray.DataTree
        As `explorer.open_stack` returns it.
    epoch : int, optional
        Epoch to which layers are reset; default the first of the stack. Of a single checkpoint
        there are only draws.
    draws : int
        Fresh draws to which layers are reset as well, each a search of its own.
    seed : int
        Seed of the draws, as in `explorer.sweep`.
    threshold : float
        Share of the way from the final error to chance that is allowed; in 0…1. A network worse
        than chance is allowed its own error.
    margin : float, optional
        Allowed increase of the error, 0…1, instead of a threshold.
    layers : sequence of str, optional
        Layers that may be reset; default all.
    model, data, device, batch_size, batchnorm
        As in `explorer.evaluate`.
    progress : bool
        Show a progress bar.

    Returns
    -------
    xarray.Dataset
        Over ``source`` (such as ``"epoch 0"``): effective_parameters (trained parameters left by
        the best set), joint_error with error_low, error_high (95 % Wilson interval), layers_reset;
        one_by_one_error (all layers that are each within the margin alone, reset together) and
        one_by_one_within. Over (source, layer): alone_error, alone_within, reset (whether it is
        in the best set). Over ``step``, the curve: trial_source, direction, layer_moved,
        trial_error, trial_low, trial_high, parameters_left, layers_moved, within. Attributes say
        what is needed to repeat it. After Ctrl-C what is known is returned, and the attribute
        ``complete`` is 0.

    Raises
    ------
    UnknownNameError, StackError, DataError, UsageError
        Something does not fit.

    References
    ----------
    Joint re-initialisation is in Zhang, Bengio, Singer, JMLR 23(67), 2022; Chatterji, Neyshabur,
    Sedghi, ICLR 2020, count parameters of critical modules. Greedy subset selection forward and
    backward is textbook (Miller, Subset Selection in Regression, 2002, ch. 3).

    Examples
    --------
    >>> import explorer as lx
    >>> found = lx.effective_parameters(lx.open_stack("fcn3x256-digits"), progress=False)
    >>> int(found.effective_parameters.item()), found.attrs["parameters"]
    (269322, 335114)
    """
    check_margin(threshold, margin)
    evaluator = Evaluator(
        stack,
        model=model,
        data=data,
        device=device,
        batch_size=batch_size,
        batchnorm=batchnorm,
    )
    parts = effective_parts(
        evaluator,
        epoch=epoch,
        draws=draws,
        seed=seed,
        threshold=threshold,
        margin=margin,
        layers=layers,
    )
    return last_dataset(parts, "joint resets", " sets", progress)


def effective_parts(
    evaluator: Evaluator,
    *,
    epoch: int | None = None,
    draws: int = 0,
    seed: int = 0,
    threshold: float = DEFAULT_THRESHOLD,
    margin: float | None = None,
    layers: Sequence[str] | None = None,
) -> Parts:
    """Do what `effective_parameters` does, part by part, with a network that is loaded already."""
    stack = evaluator.network.stack
    wanted = chosen("layer", layers, layer_names(stack))
    draws, seed = draws_and_seed(draws, seed)
    sources = _sources(stack, epoch, draws, seed)
    final, chance = evaluator.result(Intervention(())).error, evaluator.chance_error
    allowed = margin_of_resets(threshold, margin, final, chance)
    total = len(sources) * most_measured(wanted)
    attrs = {
        **provenance_of(evaluator),
        "margin": allowed,
        "threshold": np.nan if margin is not None else threshold,
        "final_error": final,
        "chance_error": chance,
        "seed": seed,
        "parameters": parameters_of(evaluator.network.trained_sizes()),
    }
    found: dict[str, Effective] = {}

    def dataset() -> xr.Dataset:
        known = {name: one for name, one in found.items() if one.trials}
        complete = len(found) == len(sources) and all(one.finished for one in found.values())
        said = {"measured": measured(), "complete": int(complete)}
        return _dataset(known, wanted, final + allowed, attrs | said)

    def measured() -> int:
        return sum(one.measured for one in found.values())

    yield Part(0, total, dataset)
    for name, source in sources.items():
        for one in find_effective(evaluator, dict.fromkeys(wanted, source), final + allowed):
            found[name] = one
            yield Part(measured(), total, dataset)


def _sources(
    stack: xr.DataTree, epoch: int | None, draws: int, seed: int
) -> dict[str, Epoch | FreshDraw]:
    """What layers are reset to, by its name."""
    epochs = epoch_numbers(stack)
    wanted: list[Epoch | FreshDraw] = []
    if epoch is not None or len(epochs) > 1:
        first = epochs[0] if epoch is None else epoch
        wanted.append(Epoch(whole_number("epoch", first, "Name an epoch of the stack.")))
    wanted += [FreshDraw(draw, seed) for draw in range(draws)]
    if not wanted:
        raise UsageError(
            "The stack has one checkpoint, the trained network.",
            "An earlier one, or fresh draws, are needed to reset layers to.",
            "Pass draws=3.",
        )
    unit = str(stack.attrs.get("checkpoint_unit", "epoch"))
    return {f"{unit} {one.epoch}" if isinstance(one, Epoch) else str(one): one for one in wanted}


def _dataset(
    found: Found, layers: Sequence[str], allowed: float, attrs: Mapping[str, Any]
) -> xr.Dataset:
    trials = [(name, trial) for name, one in found.items() for trial in one.trials]
    alone = np.array([[_alone(one, layer) for layer in layers] for one in found.values()]).reshape(
        len(found), len(layers)
    )
    best = {name: one.best for name, one in found.items()}
    together = {
        name: next((t for t in one.trials if t.direction == "one by one"), None)
        for name, one in found.items()
    }
    by_source = {
        "effective_parameters": [one.parameters_left for one in best.values()],
        "joint_error": [one.error for one in best.values()],
        "error_low": [one.error_low for one in best.values()],
        "error_high": [one.error_high for one in best.values()],
        "layers_reset": [len(one.layers) for one in best.values()],
        "one_by_one_error": [np.nan if t is None else t.error for t in together.values()],
        "one_by_one_within": [t is not None and t.within for t in together.values()],
    }
    by_step = {
        "trial_source": np.array([name for name, _ in trials], object),
        "direction": np.array([trial.direction for _, trial in trials], object),
        "layer_moved": np.array([trial.layer for _, trial in trials], object),
        "trial_error": [trial.error for _, trial in trials],
        "trial_low": [trial.error_low for _, trial in trials],
        "trial_high": [trial.error_high for _, trial in trials],
        "parameters_left": [trial.parameters_left for _, trial in trials],
        "layers_moved": [len(trial.layers) for _, trial in trials],
        "within": [trial.within for _, trial in trials],
    }
    reset = [[layer in one.layers for layer in layers] for one in best.values()]
    return xr.Dataset(
        {
            **{name: ("source", values) for name, values in by_source.items()},
            "alone_error": (("source", "layer"), alone),
            "alone_within": (("source", "layer"), alone <= allowed),
            "reset": (("source", "layer"), np.array(reset, bool).reshape(alone.shape)),
            **{name: ("step", values) for name, values in by_step.items()},
        },
        {
            "source": np.array(list(found), object),
            "layer": np.array(layers, object),
            "step": np.arange(len(trials)),
        },
        dict(attrs),
    )


def _alone(found: Effective, layer: str) -> float:
    return found.alone[layer].error if layer in found.alone else np.nan
