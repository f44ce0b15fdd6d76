"""A tiny stack, its sweep and distances, and an evaluator that does what a test tells it.

Two layers, epochs 0, 1 and 5, two fresh draws, 100 test examples; the trained network is wrong
on 10 of them, guessing on 90. The numbers are made up, so that each can be told from the others.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr

from explorer.engine.interventions import Intervention
from explorer.ui.grid import Grid, Unit

LAYERS = ("first", "second")
EPOCHS = (0, 1, 5)
GRID = Grid(LAYERS, EPOCHS, 2)
ERRORS = np.array([[0.7, 0.3, 0.1], [0.2, 0.15, 0.1]])
DRAWS = np.array([[0.8, 0.9], [0.6, 0.8]])
CURVE = np.array([0.9, 0.5, 0.1])


@dataclass(frozen=True)
class Counted:
    """What an evaluator yields; see `explorer.engine.estimate.Estimate`."""

    examples: int
    errors: int
    total: int = 100
    failure: str = ""
    loss: float = 1.5
    agreement: float = 0.25
    turned_wrong: int = 0
    turned_right: int = 0

    @property
    def error(self) -> float:
        return self.errors / self.examples

    @property
    def error_low(self) -> float:
        return max(0.0, self.error - 1 / self.examples)

    @property
    def error_high(self) -> float:
        return min(1.0, self.error + 1 / self.examples)


class ScriptedEvaluator:
    """Answers every intervention with the same estimates, one at a time if `step` is taken.

    Parameters
    ----------
    answer : callable
        Intervention → its estimates.
    """

    device_label = "CPU"
    total = 100
    chance_error = 0.9

    def __init__(self, answer: Callable[[Intervention], Iterator[Counted]]) -> None:
        self.answer = answer
        self.asked: list[str] = []

    class_names = ("zero", "<one>", "two")

    def estimates(self, intervention: Intervention) -> Iterator[Counted]:
        self.asked.append(str(intervention))
        return self.answer(intervention)

    def predictions(self, _intervention: Intervention) -> Answers:
        return ANSWERS

    def inputs_of(self, examples: Sequence[int]) -> np.ndarray:
        return np.stack([np.full((1, 2, 2), float(number)) for number in examples])


@dataclass(frozen=True)
class Answers:
    """Predictions; see `explorer.engine.predictions.Predictions`."""

    labels: np.ndarray
    intact: np.ndarray
    patched: np.ndarray


ANSWERS = Answers(
    labels=np.array([0, 0, 1, 1, 2, 2]),
    intact=np.array([0, 0, 1, 2, 2, 0]),
    patched=np.array([0, 1, 2, 1, 2, 1]),
)
"""Examples 1 and 2 turn wrong, example 3 turns right, example 5 is wrong in another way."""


def measure_many(
    evaluator: ScriptedEvaluator, interventions: Sequence[Intervention]
) -> Iterator[dict[Intervention, Counted]]:
    """One layer after another, all its interventions at once; see `explorer.engine.measuring`."""
    by_layer: dict[tuple[str, ...], list[Intervention]] = {}
    for intervention in interventions:
        by_layer.setdefault(intervention.layers, []).append(intervention)
    for group in by_layer.values():
        for counts in zip(*(evaluator.estimates(one) for one in group), strict=True):
            yield dict(zip(group, counts, strict=True))


@dataclass(frozen=True)
class OrderStep:
    """See `explorer.engine.joint.ResetStep`."""

    layer: str
    layers: tuple[str, ...]
    error: float
    parameters_left: int
    error_low: float = 0.0
    error_high: float = 1.0


@dataclass(frozen=True)
class Order:
    """See `explorer.engine.joint.ResetOrder`."""

    steps: tuple[OrderStep, ...]
    beyond: OrderStep | None
    tried: int
    to_try: int
    finished: bool
    parameters: int = 8


def find_order(
    _evaluator: ScriptedEvaluator, _sources: Mapping[str, object], _allowed_error: float
) -> Iterator[Order]:
    """`second` can be put back, `first` cannot as well."""
    yield Order((), None, 1, 3, finished=False)
    second = OrderStep("second", ("second",), 0.12, 4)
    yield Order((second,), None, 2, 3, finished=False)
    first = OrderStep("<first>", ("second", "<first>"), 0.9, 0)
    yield Order((second,), first, 3, 3, finished=True)


def at_once(_intervention: Intervention) -> Iterator[Counted]:
    """Half of the examples, then all: 42 of 100 are wrong."""
    yield Counted(50, 20)
    yield Counted(100, 42)


class Gate:
    """Estimates that wait in the middle until the test opens the gate."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.opened = threading.Event()
        self.left = threading.Event()

    def __call__(self, _intervention: Intervention) -> Iterator[Counted]:
        try:
            yield Counted(50, 20)
            self.reached.set()
            assert self.opened.wait(20)
            yield Counted(100, 42)
        finally:
            self.left.set()


def stack(
    content_hash: str = "c0ffee",
    unit: Unit = "epoch",
    name: str = "tiny",
    layers: Sequence[str] = LAYERS,
) -> xr.DataTree:
    """A stack as `explorer.open_stack` returns it."""
    rng = np.random.default_rng(0)
    children = {}
    for layer in layers:
        values = rng.standard_normal((len(EPOCHS), 2, 2)).astype(np.float32)
        attrs = {"parameter": f"{layer}.weight", "buffer": False, "fan_in": 2}
        variable = xr.Variable(("epoch", "weight_0", "weight_1"), values, attrs)
        children[layer] = xr.DataTree(xr.Dataset({"weight": variable}))
    attrs = {
        "name": name,
        "title": "Tiny <b>network</b>",
        "family": "",
        "sizes": {},
        "dataset": "",
        "layers": list(layers),
        "content_hash": content_hash,
        "checkpoint_unit": unit,
    }
    root = xr.Dataset(coords={"epoch": np.array(EPOCHS)}, attrs=attrs)
    return xr.DataTree(root, children=children)


def sweep(unit: Unit = "epoch") -> xr.Dataset:
    """A sweep as `explorer.sweep` returns it."""
    measured = {
        "": (("layer", "epoch"), ERRORS),
        "rerandomized_": (("layer", "draw"), DRAWS),
        "fullmodel_": (("epoch",), CURVE),
    }
    variables = {}
    for prefix, (dims, error) in measured.items():
        variables |= {
            f"{prefix}error": (dims, error.copy()),
            f"{prefix}error_low": (dims, error - 0.05),
            f"{prefix}error_high": (dims, error + 0.05),
            f"{prefix}loss": (dims, error * 3),
            f"{prefix}agreement": (dims, 1 - error),
            f"{prefix}turned_wrong": (dims, np.zeros(error.shape, np.int64)),
            f"{prefix}turned_right": (dims, np.zeros(error.shape, np.int64)),
            f"{prefix}examples": (dims, np.full(error.shape, 100)),
            f"{prefix}reason": (dims, np.full(error.shape, "", dtype=object)),
        }
    attrs = {
        "stack": "tiny",
        "stack_title": "Tiny <b>network</b>",
        "checkpoint_unit": unit,
        "content_hash": "c0ffee",
        "dataset": "made up",
        "dataset_hash": "beef",
        "seed": 0,
        "batchnorm": "with_layer",
        "device": "CPU",
        "dtype": "float32",
        "final_error": 0.1,
        "chance_error": 0.9,
        "examples": 100,
        "complete": 1,
    }
    coords = {"layer": list(LAYERS), "epoch": list(EPOCHS), "draw": [0, 1]}
    return xr.Dataset(variables, coords=coords, attrs=attrs)


def large(small: xr.Dataset) -> xr.Dataset:
    """The same numbers again and again: 14 layers with long names by 12 epochs."""
    layers = [f"layer{at // 2 + 1}.{('token_mixing', 'mlp')[at % 2]}" for at in range(14)]
    epochs = [0, 1, 2, 3, 5, 8, 15, 30, 40, 60, 90, 100]
    many = small.isel(layer=[0, 1] * 7, epoch=[0, 1, 2] * 4)
    return many.assign_coords(layer=layers, epoch=epochs)


def distances(layers: Sequence[str] = LAYERS) -> xr.Dataset:
    """Distances as `explorer.distances` returns them."""
    if tuple(layers) != LAYERS:
        many = distances().isel(layer=[at % len(LAYERS) for at in range(len(layers))])
        return many.assign_coords(layer=list(layers))
    moved = np.array([[0.0, 0.5, 1.0], [0.0, 2.0, 4.0]])
    fresh = np.array([[2.0, 4.0], [1.0, 1.0]])
    measures = ("l1", "l2", "l2_per_sqrt_m", "l2_per_sqrt_fan_in", "l2_relative", "linf", "cosine")
    variables = {}
    for prefix, dims, values in (
        ("", ("layer", "epoch"), moved),
        ("fresh_", ("layer", "draw"), fresh),
    ):
        for scale, measure in enumerate(measures, start=1):
            variables[prefix + measure] = (dims, values * scale)
        variables[f"{prefix}nonfinite"] = (dims, np.zeros(values.shape, dtype=int))
        variables[f"{prefix}reason"] = (dims, np.full(values.shape, "", dtype=object))
    coords = {"layer": list(LAYERS), "epoch": list(EPOCHS), "draw": [0, 1]}
    attrs = {"reference_epoch": 0, "yardstick": "fresh draws from each layer's initialiser"}
    return xr.Dataset(variables, coords=coords, attrs=attrs)
