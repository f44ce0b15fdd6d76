"""How far the outputs of a patched network are from the trained one's, labels or not."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn

from explorer.arguments import draws_and_seed
from explorer.engine.choosing import chosen
from explorer.engine.compared import INTACT, compare
from explorer.engine.evaluator import Evaluator
from explorer.engine.interventions import BatchNormPolicy
from explorer.engine.parts import Part, Parts, last_dataset
from explorer.engine.provenance import provenance_of
from explorer.engine.results import DIMS
from explorer.engine.similarity import BINS, Compared, Comparison
from explorer.engine.sweep import NOT_REACHED, Cell, plan_sweep
from explorer.engine.units import NEVER_ACTIVE, with_units
from explorer.weights.stack import epoch_numbers, layer_names

QUANTITIES: Mapping[str, dict[str, Any]] = {
    "softmax_cosine": {"long_name": "mean cosine of the softmax outputs", "units": "1"},
    "js_divergence": {"long_name": "mean Jensen–Shannon divergence of outputs", "units": "nat"},
    "cka": {"long_name": "linear CKA of the logits, all examples, exact", "units": "1"},
    "penultimate_cka": {
        "long_name": "linear CKA of what the last linear map reads, all examples, exact",
        "units": "1",
    },
    "never_active": NEVER_ACTIVE,
}
"""What needs no labels."""

NOT_WATCHED = "the engine could not record the network's pass"
"""Why `penultimate_cka` and `never_active` are NaN, in the attribute ``inside``."""

LABELLED: Mapping[str, dict[str, Any]] = {
    "error": {"long_name": "test error", "units": "1"},
    "ece": {"long_name": f"expected calibration error, {BINS} equal bins", "units": "1"},
}
"""What needs them."""


def outputs(
    stack: xr.DataTree,
    *,
    layers: Sequence[str] | None = None,
    epochs: Sequence[int] | None = None,
    draws: int = 0,
    seed: int = 0,
    model: nn.Module | None = None,
    data: Any = None,
    device: str = "auto",
    batch_size: int | None = None,
    batchnorm: BatchNormPolicy = "with_layer",
    progress: bool = True,
) -> xr.Dataset:
    """Compare the outputs of the network with one layer put back to those of the trained one.

    Parameters
    ----------
    stack : xarray.DataTree
        As `explorer.open_stack` returns it.
    layers, epochs : sequence, optional
        Which cells; default all.
    draws, seed : int
        Fresh draws per layer, and their seed, as in `explorer.sweep`.
    model, device, batch_size, batchnorm
        As in `explorer.evaluate`.
    data : as in `explorer.evaluate`, or inputs alone
        A tensor or array of inputs has no labels: what needs none is measured.
    progress : bool
        Show a progress bar.

    Returns
    -------
    xarray.Dataset
        Over (layer, epoch): softmax_cosine (mean cosine of both softmax outputs, 1 if equal),
        js_divergence (mean Jensen–Shannon divergence, nats, 0…ln 2), cka (linear centred kernel
        alignment of the logits, 0…1, of the whole Gram matrices; NaN for more than 2,048
        classes), penultimate_cka (the same of what the last linear map reads; NaN for more than
        2,048 features), never_active (share of the units behind ReLU and its like that are above 0
        for none of the examples, at no position), and reason, why there are no numbers. Over
        (…, activation) never_active_by_activation; over (activation) units,
        intact_never_active and the coordinate of_layer. NaN where the pass cannot be recorded;
        the attribute ``inside`` says so. With labels also error, ece (expected
        calibration error, 15 bins of equal width) and, over (…, class), class_damage: how much
        the error of each class grows; intact_class_error and class_examples over (class). The
        same over (layer, draw) with the prefix ``rerandomized_``. Attributes say what is needed to
        repeat it, intact_ece among them. After Ctrl-C the layers that are finished are returned,
        and the attribute ``complete`` is 0.

    Raises
    ------
    UnknownNameError, StackError, DataError, UsageError
        Something does not fit.

    References
    ----------
    Softmax cosine: Gavrikov et al., 2024, arXiv 2410.14470; divergence: Lin, IEEE Transactions on
    Information Theory 37, 1991; CKA: Kornblith et al., ICML 2019; ECE: Guo et al., ICML 2017.

    Examples
    --------
    >>> import explorer as lx
    >>> stack = lx.open_stack("fcn3x256-digits")
    >>> found = lx.outputs(stack, layers=["layer3"], epochs=[0], progress=False)
    >>> round(found.softmax_cosine.item(), 2)
    0.96
    """
    names = chosen("layer", layers, layer_names(stack))
    taken = chosen("epoch", epochs, epoch_numbers(stack))
    labelled = not without_labels(data)
    evaluator = Evaluator(
        stack,
        model=model,
        data=data if labelled else (data, torch.zeros(len(data), dtype=torch.int64)),
        device=device,
        batch_size=batch_size,
        batchnorm=batchnorm,
    )
    parts = outputs_parts(
        evaluator, layers=names, epochs=taken, draws=draws, seed=seed, labelled=labelled
    )
    return last_dataset(parts, "outputs", " cells", progress)


def without_labels(data: Any) -> bool:
    """Tell whether what was given as data are inputs alone."""
    return isinstance(data, (Tensor, np.ndarray))


def outputs_parts(
    evaluator: Evaluator,
    *,
    layers: Sequence[str] | None = None,
    epochs: Sequence[int] | None = None,
    draws: int = 0,
    seed: int = 0,
    labelled: bool = True,
) -> Parts:
    """Do what `outputs` does, part by part, with a network that is loaded already."""
    draws, seed = draws_and_seed(draws, seed)
    stack = evaluator.network.stack
    names = chosen("layer", layers, layer_names(stack))
    taken = chosen("epoch", epochs, epoch_numbers(stack))
    watch = evaluator.watch()
    cells = [c for c in plan_sweep(names, names, taken, draws, seed) if c.prefix != "fullmodel_"]
    attrs = {
        **provenance_of(evaluator),
        "seed": seed,
        "draws": draws,
        "labelled": int(labelled),
        "ece_bins": BINS,
        "inside": NOT_WATCHED if watch is None else "",
    }
    found: dict[Cell, Compared] = {}
    total = len(cells) + 1

    def dataset() -> xr.Dataset:
        said = attrs | {"complete": int(len(found) == total)}
        result = _dataset(evaluator, cells, found, (names, taken, draws), said)
        if watch is None:
            return result
        trained = found.get(INTACT, NOT_REACHED)
        return with_units(result, stack, watch.units, cells, found, trained)

    yield Part(0, total, dataset)
    for some in compare(evaluator, cells, watch):
        found |= some
        yield Part(len(found), total, dataset)


def _dataset(
    evaluator: Evaluator,
    cells: Sequence[Cell],
    found: Mapping[Cell, Compared],
    axes: tuple[Sequence[str], Sequence[int], int],
    attrs: dict[str, Any],
) -> xr.Dataset:
    layers, epochs, draws = axes
    coords: dict[str, Any] = {
        "layer": np.array(layers, object),
        "epoch": list(epochs),
        "draw": np.arange(draws),
    }
    labelled, trained = bool(attrs["labelled"]), found.get(INTACT)
    kinds = {**QUANTITIES, **(LABELLED if labelled else {})}
    intact = trained if labelled and isinstance(trained, Comparison) else None
    classes = 0 if intact is None else intact.wrong.size
    variables: dict[str, Any] = {}
    for prefix in ("", "rerandomized_"):
        dims = DIMS[prefix]
        shape = tuple(len(coords[dim]) for dim in dims)
        for name, about in kinds.items():
            variables[prefix + name] = (dims, np.full(shape, np.nan), about)
        variables[f"{prefix}reason"] = (dims, np.full(shape, NOT_REACHED, object))
        if classes:
            damage = np.full((*shape, classes), np.nan)
            variables[f"{prefix}class_damage"] = ((*dims, "class"), damage)
    if intact is not None and classes:
        counts = evaluator.class_counts(classes)
        coords["class"] = _class_names(evaluator, classes)
        variables["class_examples"] = ("class", counts)
        variables["intact_class_error"] = ("class", _share(intact.wrong, counts))
    result = xr.Dataset(variables, coords, attrs)
    for cell in cells:
        _record(result, cell, found.get(cell, NOT_REACHED), intact if classes else None)
    if intact is not None:
        ends = {"final_error": intact.error, "intact_ece": intact.ece}
        result.attrs |= {"chance_error": evaluator.chance_error, **ends}
    return result


def _class_names(evaluator: Evaluator, classes: int) -> Any:
    names = evaluator.class_names
    return np.array(names if len(names) == classes else list(map(str, range(classes))), object)


def _record(result: xr.Dataset, cell: Cell, one: Compared, intact: Comparison | None) -> None:
    if isinstance(one, str):
        result[f"{cell.prefix}reason"].values[cell.position] = one
        return
    result[f"{cell.prefix}reason"].values[cell.position] = ""
    values = {
        "softmax_cosine": one.cosine / one.examples,
        "js_divergence": one.divergence / one.examples,
        "cka": one.moments.cka(),
        "penultimate_cka": one.penultimate.cka(),
        "never_active": float((~one.active).mean()) if one.active.size else math.nan,
        "error": one.error,
        "ece": one.ece,
    }
    for name, number in values.items():
        if cell.prefix + name in result:
            result[cell.prefix + name].values[cell.position] = number
    if intact is not None:
        grown = _share(one.wrong - intact.wrong, result["class_examples"].values)
        result[f"{cell.prefix}class_damage"].values[cell.position] = grown


def _share(counts: Any, totals: Any) -> Any:
    """Counts over totals; NaN for a class without examples."""
    return np.where(totals > 0, counts / np.maximum(totals, 1), math.nan)
