"""How far the outputs of a patched network are from the trained one's, labels or not."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn

from explorer.engine.answers import Answers, pooled
from explorer.engine.evaluator import Evaluator
from explorer.engine.inside import Watch
from explorer.engine.interventions import BatchNormPolicy, Intervention
from explorer.engine.memory import is_out_of_memory
from explorer.engine.parts import Part, Parts, last_dataset
from explorer.engine.provenance import provenance_of
from explorer.engine.results import DIMS
from explorer.engine.similarity import BINS, Compared, Comparison, Slice
from explorer.engine.sweep import NOT_REACHED, Cell, plan_sweep
from explorer.engine.units import NEVER_ACTIVE, with_units
from explorer.errors import CheckpointError, InterventionError, unknown_name
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
    chosen = _chosen("layer", layers, layer_names(stack))
    taken = _chosen("epoch", epochs, epoch_numbers(stack))
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
        evaluator, layers=chosen, epochs=taken, draws=draws, seed=seed, labelled=labelled
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
    stack = evaluator.network.stack
    chosen = _chosen("layer", layers, layer_names(stack))
    taken = _chosen("epoch", epochs, epoch_numbers(stack))
    watch = evaluator.watch()
    cells = [c for c in plan_sweep(chosen, chosen, taken, draws, seed) if c.prefix != "fullmodel_"]
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
        result = _dataset(evaluator, cells, found, (chosen, taken, draws), said)
        if watch is None:
            return result
        trained = found.get(INTACT, NOT_REACHED)
        return with_units(result, stack, watch.units, cells, found, trained)

    yield Part(0, total, dataset)
    for some in compare(evaluator, cells, watch):
        found |= some
        yield Part(len(found), total, dataset)


INTACT = Cell("intact", (), Intervention(()))
"""The trained network, compared with itself."""

REMEMBERED = 128 * 2**20
"""Bytes of the trained network's answers that are kept from one layer to the next; where they
take more, they are computed anew with each layer."""


def compare(
    evaluator: Evaluator, cells: Sequence[Cell], watch: Watch | None = None
) -> Iterator[dict[Cell, Compared]]:
    """Compare outputs cell by cell, one layer at a time; first the trained network's with itself.

    Parameters
    ----------
    evaluator : Evaluator
        Network and test set.
    cells : sequence of Cell
        Those of one layer follow each other. What is bit for bit the trained network gets its
        comparison.
    watch : Watch, optional
        Of the same evaluator: what happens inside is compared as well.

    Yields
    ------
    dict
        Cell → comparison over all examples, or the reason why there is none; empty after each
        slice of the examples before the last.
    """
    groups: dict[tuple[str, ...], list[Cell]] = {}
    for cell in cells:
        groups.setdefault(cell.intervention.layers, []).append(cell)
    trained = _Trained(evaluator)
    yield from trained.measure(watch)
    yield {INTACT: trained.itself}
    for group in groups.values():
        yield from _group(trained, group, watch if trained.watched else None)


def _group(
    trained: _Trained, cells: Sequence[Cell], watch: Watch | None
) -> Iterator[dict[Cell, Compared]]:
    found: dict[Cell, Compared] = {}
    replacements: dict[Cell, Mapping[str, Tensor]] = {}
    for cell in cells:
        try:
            replacements[cell] = trained.replacement(cell.intervention)
        except (CheckpointError, InterventionError) as error:
            found[cell] = str(error)
    try:
        for some in trained.compared(replacements, watch):
            yield {}
            found |= some
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        trained.slices = None
        if watch is not None:  # which keeps more at once
            yield from _group(trained, cells, None)
            return
        found |= dict.fromkeys(replacements, trained.no_memory)
    yield found


class _Trained:
    """The trained network, with which interventions are compared."""

    def __init__(self, evaluator: Evaluator) -> None:
        self._evaluator = evaluator
        self.no_memory = f"out of memory on {evaluator.device_label}"
        self.itself: Compared = NOT_REACHED
        self.slices: list[Slice] | None = None

    @property
    def watched(self) -> bool:
        """Whether it is known what happens inside it."""
        return isinstance(self.itself, Comparison) and bool(self.itself.active.size)

    def replacement(self, intervention: Intervention) -> Mapping[str, Tensor]:
        """Tensors that an intervention puts in; none where it is the trained network."""
        network = self._evaluator.network
        return network.replacement(network.canonical(intervention))

    def measure(self, watch: Watch | None) -> Iterator[dict[Cell, Compared]]:
        """Compare it with itself, and keep its answers where there is room; yield nothing new."""
        slices: list[Slice] = []
        room, one = REMEMBERED, None
        try:
            for answers in pooled(self._evaluator.answers([], watch)):
                if answers is not None:
                    some = _slice(answers)
                    one = one or Comparison(some.logits.shape[1])
                    one.add(some)
                    if answers.intact_inside is not None:
                        one.add_inside(some, answers.intact_inside)
                    room -= some.bytes
                    slices = [*slices, some] if room >= 0 else []
                yield {}
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            slices.clear()
            if watch is not None:  # as above
                yield from self.measure(None)
                return
            self.itself = self.no_memory
            return
        assert one is not None  # a test set has examples
        self.itself = one if one.finite else NOT_FINITE
        self.slices = slices if room >= 0 else None

    def compared(
        self, replacements: Mapping[Cell, Mapping[str, Tensor]], watch: Watch | None
    ) -> Iterator[dict[Cell, Compared]]:
        """Add up slice after slice; the last dict is of all examples, those before are empty."""
        itself, known = self.itself, self.slices
        if isinstance(itself, str):
            yield dict.fromkeys(replacements, f"the trained network: {itself}")
            return
        own = {cell: tensors for cell, tensors in replacements.items() if tensors}
        same: dict[Cell, Compared] = dict.fromkeys(replacements.keys() - own.keys(), itself)
        comparisons = {cell: Comparison(itself.classes, itself) for cell in own}
        stream = self._evaluator.answers(list(own.values()), watch, known is None) if own else ()
        coming = iter(known or ())
        for answers in pooled(stream):
            if answers is not None:
                some = _slice(answers) if known is None else next(coming)
                for k, one in enumerate(comparisons.values()):
                    one.add(some, answers.patched[k])
                    if answers.inside:
                        one.add_inside(some, answers.inside[k])
            yield {}
        yield same | {c: one if one.finite else NOT_FINITE for c, one in comparisons.items()}


NOT_FINITE = "NaN or infinite logits"
"""Why there is no comparison."""


def _slice(answers: Answers) -> Slice:
    assert answers.intact is not None  # it was asked for
    return Slice.of(answers.labels, answers.intact, answers.intact_inside)


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


def _chosen(kind: str, wanted: Sequence[Any] | None, available: Sequence[Any]) -> list[Any]:
    for name in wanted or ():
        if name not in available:
            raise unknown_name(kind, name, available)
    return list(available if wanted is None else wanted)
