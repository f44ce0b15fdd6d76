"""What the widget's threads need torch or numba for, imported only when a thread asks for it."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import xarray as xr
from numpy.typing import NDArray

from explorer.engine.interventions import Intervention, Source
from explorer.engine.results import read_sweep
from explorer.inventory.manifest import bundled_sweep
from explorer.ui.results import Counts
from explorer.ui.studies import Part, Study
from explorer.weights.stack import epoch_numbers, layer_names, open_stack


class Answers(Protocol):
    """The part of `explorer.engine.predictions.Predictions` that the widget shows."""

    @property
    def labels(self) -> NDArray[Any]: ...
    @property
    def intact(self) -> NDArray[Any]: ...
    @property
    def patched(self) -> NDArray[Any]: ...


class Order(Protocol):
    """The part of `explorer.engine.joint.ResetOrder` that the widget shows."""

    @property
    def steps(self) -> Sequence[OrderStep]: ...
    @property
    def beyond(self) -> OrderStep | None: ...
    @property
    def tried(self) -> int: ...
    @property
    def to_try(self) -> int: ...
    @property
    def finished(self) -> bool: ...
    @property
    def parameters(self) -> int: ...


class OrderStep(Protocol):
    """The part of `explorer.engine.joint.ResetStep` that the widget shows."""

    @property
    def layer(self) -> str: ...
    @property
    def layers(self) -> Sequence[str]: ...
    @property
    def error(self) -> float: ...
    @property
    def error_low(self) -> float: ...
    @property
    def error_high(self) -> float: ...
    @property
    def parameters_left(self) -> int: ...


class Evaluates(Protocol):
    """The part of `explorer.engine.evaluator.Evaluator` that the widget asks."""

    @property
    def device_label(self) -> str: ...
    @property
    def total(self) -> int: ...
    @property
    def chance_error(self) -> float: ...
    @property
    def class_names(self) -> tuple[str, ...]: ...
    def estimates(self, intervention: Intervention) -> Iterator[Counts]: ...
    def predictions(self, intervention: Intervention) -> Answers: ...
    def inputs_of(self, examples: Sequence[int]) -> NDArray[Any]: ...


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


def provenance(evaluator: Any) -> dict[str, Any]:
    """Return what a reader needs to repeat the numbers of an evaluator."""
    # as above
    from explorer.engine.provenance import provenance_of

    return provenance_of(evaluator)


def measure_many(
    evaluator: Any, interventions: Sequence[Intervention]
) -> Generator[Mapping[Intervention, Counts | str], None, None]:
    """Measure interventions layer by layer; yield what is known of a layer after each slice."""
    # as above: the module needs torch, which the evaluator has imported
    from explorer.engine.measuring import measure

    return measure(evaluator, interventions, by_layer=True)


def open_on_cluster(client: Any, stack: xr.DataTree, **options: Any) -> Any:
    """Return what measures many interventions on the workers of a cluster.

    Parameters
    ----------
    client : distributed.Client
        Of a running cluster.
    stack : xarray.DataTree
        A stack from `explorer.open_stack`.
    **options
        Passed on to `explorer.engine.remote.RemoteEvaluator`.
    """
    # as above; and few readers have a cluster
    from explorer.engine.remote import RemoteEvaluator

    return RemoteEvaluator(client, stack, **options)


def find_order(
    evaluator: Any, sources: Mapping[str, Source], allowed_error: float
) -> Iterator[Order]:
    """Find in which order layers can be reset together within an error."""
    # as above
    from explorer.engine import joint

    return joint.find_order(evaluator, sources, allowed_error)


def begin(study: Study, evaluator: Any) -> Iterator[Part]:
    """Begin a study that needs the network.

    Parameters
    ----------
    study : Study
        Of any kind but ``"motion"``.
    evaluator : explorer.engine.evaluator.Evaluator
        Test set and final network.
    """
    # as above; and the first picture needs none of them
    arguments = dict(study.arguments)
    if study.kind == "effective":
        from explorer.engine.effective_parameters import effective_parts

        return effective_parts(evaluator, **arguments)
    if study.kind == "criticality":
        from explorer.engine.criticality import FACTOR, criticality_parts, valley_of

        factor = arguments.pop("factor", FACTOR)
        valley = valley_of(evaluator.network.stack, **arguments)
        return criticality_parts(evaluator, valley, factor=factor)
    if study.kind == "paths":
        from explorer.engine.paths import paths_parts

        if "other" in arguments:
            arguments["other"] = open_stack(arguments["other"].source)
        return paths_parts(evaluator, **arguments)
    if study.kind == "across":
        return begin_across(evaluator, arguments)
    from explorer.engine.outputs import outputs_parts

    return outputs_parts(evaluator, labelled=study.labelled, **arguments)


def begin_across(evaluator: Any, arguments: dict[str, Any]) -> Iterator[Part]:
    """Begin to compare the stack of an evaluator with others.

    Parameters
    ----------
    evaluator : explorer.engine.evaluator.Evaluator
        Test set and final network of the first stack. It is taken as it is swept already where
        it is a bundled one, tested on its own examples.
    arguments : dict
        Of `explorer.compare`; ``stacks`` are the others, by name or folder.
    """
    # as above
    from explorer.engine.across import compare_parts
    from explorer.engine.contenders import labelled

    stack = evaluator.network.stack
    label, *others = labelled([stack, *arguments.pop("stacks")]).items()
    name = str(stack.attrs.get("name", ""))
    path = bundled_sweep(name) if stack.attrs.get("content_hash") else None
    known = path is not None and read_sweep(path).attrs["dataset_hash"] == evaluator.dataset_hash
    return compare_parts(
        {label[0]: name if known else stack, **dict(others)},
        batchnorm=evaluator.network.batchnorm,
        device=str(evaluator.network.device),
        loaded={label[0]: evaluator},
        **arguments,
    )


@dataclass(frozen=True)
class _Moved:
    """What is known of the motion after some layers."""

    done: int
    total: int
    motion: Callable[[], xr.Dataset]
    sweep: xr.Dataset

    def dataset(self) -> xr.Dataset:
        """Set it beside the errors as they are known now."""
        from explorer.stats.rank_correlation import against  # scipy.stats: half a second

        return against(self.motion(), self.sweep)


def begin_motion(stack: xr.DataTree, sweep: xr.Dataset) -> Iterator[Part]:
    """Begin to measure motion, which needs the weights alone (imports scipy).

    Parameters
    ----------
    stack : xarray.DataTree
        A stack from `explorer.open_stack`.
    sweep : xarray.Dataset
        The errors, as far as they are known.
    """
    from explorer.stats.motion import motion_parts

    total = len(layer_names(stack))
    for done, found in enumerate(motion_parts(stack), 1):
        yield _Moved(done, total, found, sweep)


NOT_HERE = "not on this machine yet: a click on a cell downloads its checkpoint"
"""Why there is no distance where measuring one would have to download something unasked."""


def measure_distances(
    stack: xr.DataTree, *, model: Any, draws: int, seed: int, epochs: Sequence[int]
) -> xr.Dataset | None:
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
    epochs : sequence of int
        Which to measure, those on this machine; the others get a reason.

    Returns
    -------
    xarray.Dataset or None
        None where the first epoch is not among them.
    """
    # numba compiles or loads its kernels here, which the first picture need not wait for.
    from explorer.api import distances

    numbers = epoch_numbers(stack)
    if numbers[0] not in epochs:
        return None
    if len(epochs) < len(numbers):
        stack = stack.isel(epoch=[numbers.index(epoch) for epoch in epochs])
    found = distances(stack, reference=numbers[0], model=model, draws=draws, seed=seed)
    return found.reindex(epoch=numbers, fill_value={"reason": NOT_HERE, "nonfinite": 0})
