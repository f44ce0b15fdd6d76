"""Two stacks or two checkpoints, layer by layer."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from tqdm.auto import tqdm

from explorer.doctor.difference import Changed, Difference, Side
from explorer.errors import CheckpointError, StackError, unknown_name
from explorer.stats.distances import measure
from explorer.stats.measures import MEASURES, missing_measures
from explorer.weights.checkpoints import Array
from explorer.weights.layers import LayerScheme
from explorer.weights.stack import epoch_numbers, layer_names, layer_variables, open_stack

Source = (
    str
    | Path
    | Sequence[str | Path]
    | Iterable[Mapping[str, Any]]
    | Mapping[str, Any]
    | xr.DataTree
)


@dataclass(frozen=True)
class _Opened:
    """One side before it is compared."""

    name: str
    unit: str
    numbers: list[int]
    places: Mapping[int, int]
    """Number → position on the stack's axis."""
    whole: bool
    """All checkpoints of a stack are meant, and not one that was named."""
    layers: Mapping[str, Sequence[str]]
    variables: Mapping[str, xr.DataArray]

    def read(self, name: str, epoch: int) -> Array:
        values: Array = self.variables[name].isel(epoch=self.places[epoch]).values
        return values


def diff(
    a: Source,
    b: Source,
    *,
    layers: LayerScheme | None = None,
    reader: Callable[[Path], Mapping[str, Any]] | None = None,
    progress: bool = True,
) -> Difference:
    """Compare two stacks or two checkpoints, layer by layer.

    Of two stacks, the checkpoints with equal numbers are compared. Where one side is a single
    checkpoint, it is compared with every checkpoint of the other.

    Parameters
    ----------
    a, b : str, Path, sequence of paths, state dict, iterable of state dicts, or DataTree
        What `explorer.open_stack` takes; ``"NAME@EPOCH"`` is one checkpoint of a stack.
    layers : str, mapping, sequence or function, optional
        How tensors are divided into layers, as in `explorer.open_stack`; default those of `a`.
    reader : function, optional
        Path → {name: tensor}, for other formats.
    progress : bool
        Show a progress bar on standard error.

    Returns
    -------
    Difference
        ``print`` it, or take ``same``, ``distances`` (a Dataset) and ``as_json()``. A checkpoint
        that cannot be read leaves NaN and its reason.

    Raises
    ------
    UnknownNameError
        There is no such stack, folder or epoch.
    StackError
        The two have no epoch in common, or one of them does not open as a stack.
    """
    first, second = _open(a, layers, reader), _open(b, layers, reader)
    pairs = _pairs(first, second)
    common = [name for name in first.variables if name in second.variables]
    specs = {name: (_spec(first, name), _spec(second, name)) for name in common}
    comparable = {name for name, (x, y) in specs.items() if x[1] == y[1]}
    groups = {
        layer: [name for name in names if name in comparable]
        for layer, names in first.layers.items()
    }
    groups = {layer: names for layer, names in groups.items() if names}
    bar = tqdm(total=len(groups) * len(pairs), desc="diff", disable=not progress)
    with bar:
        rows = {
            layer: [_compared(first, second, names, pair, bar) for pair in pairs]
            for layer, names in groups.items()
        }
    unequal = first.whole and second.whole and min(len(first.numbers), len(second.numbers)) > 1
    return Difference(
        _side(first, second, [x for x, _ in pairs], unequal),
        _side(second, first, [y for _, y in pairs], unequal),
        tuple(
            Changed(name, f"{x[0]} {x[1]}", f"{y[0]} {y[1]}")
            for name, (x, y) in specs.items()
            if x != y
        ),
        _dataset(rows, pairs),
    )


def _open(
    source: Source, layers: LayerScheme | None, reader: Callable[[Path], Mapping[str, Any]] | None
) -> _Opened:
    epoch = None
    if isinstance(source, str):
        source, epoch = split_epoch(source)
    elif isinstance(source, Mapping) and not isinstance(source, xr.DataTree):
        source = [source]
    stack = open_stack(source, layers=layers, reader=reader)
    numbers = epoch_numbers(stack)
    if epoch is not None and epoch not in numbers:
        raise unknown_name("epoch", epoch, numbers)
    variables = {layer: layer_variables(stack, layer) for layer in layer_names(stack)}
    return _Opened(
        name=str(stack.attrs.get("name") or "stack"),
        unit=str(stack.attrs.get("checkpoint_unit") or "epoch"),
        numbers=numbers if epoch is None else [epoch],
        places={number: at for at, number in enumerate(numbers)},
        whole=epoch is None,
        layers={layer: list(members) for layer, members in variables.items()},
        variables={name: v for members in variables.values() for name, v in members.items()},
    )


def split_epoch(text: str) -> tuple[str, int | None]:
    """Divide ``"NAME@EPOCH"``; without a number after the last @, all of it is the name."""
    name, _, number = text.rpartition("@")
    taken = os.path.exists(text)  # a Path would raise where the name is too long for a file
    if name and number.isascii() and number.isdigit() and not taken:
        return name, int(number)
    return text, None


def _pairs(a: _Opened, b: _Opened) -> list[tuple[int, int]]:
    """Which checkpoint is compared with which."""
    if len(a.numbers) == 1 or len(b.numbers) == 1:
        return [(x, y) for x in a.numbers for y in b.numbers]
    if a.unit != b.unit:
        raise StackError(
            f"The numbers of {a.name} count {a.unit}s, those of {b.name} {b.unit}s.",
            "Two stacks are compared where their numbers are equal.",
            "Name one checkpoint of each: STACK@NUMBER.",
        )
    pairs = [(x, x) for x in a.numbers if x in b.numbers]
    if not pairs:
        raise StackError(
            f"{a.name} has the {a.unit}s {a.numbers}, {b.name} has {b.numbers}.",
            "Two stacks are compared where their numbers are equal.",
            "Name one checkpoint of each: STACK@NUMBER.",
        )
    return pairs


def _spec(side: _Opened, name: str) -> tuple[np.dtype[Any], tuple[int, ...]]:
    variable = side.variables[name]
    return variable.dtype, variable.shape[1:]


def _side(one: _Opened, other: _Opened, epochs: Sequence[int], whole_stacks: bool) -> Side:
    beyond = [n for n in one.numbers if n not in other.numbers] if whole_stacks else []
    only = tuple(name for name in one.variables if name not in other.variables)
    return Side(one.name, one.unit, tuple(epochs), only, tuple(beyond))


def _compared(
    a: _Opened, b: _Opened, names: Sequence[str], pair: tuple[int, int], bar: tqdm[None]
) -> dict[str, Any]:
    """Measures of one layer between two checkpoints, and how many of its tensors differ."""
    bar.update()
    counts = {"tensors": len(names), "differing": 0, "reason": ""}
    try:
        before = {name: a.read(name, pair[0]) for name in names}
        now = {name: b.read(name, pair[1]) for name in names}
    except CheckpointError as error:
        return {**missing_measures(), **counts, "reason": error.came}
    trained = [n for n in names if not a.variables[n].attrs["buffer"]]
    inputs = {name: int(a.variables[name].attrs["fan_in"]) for name in trained}
    measures = measure(
        {name: before[name] for name in trained}, {name: now[name] for name in trained}, inputs
    )
    counts["differing"] = sum(not _same_bits(before[name], now[name]) for name in names)
    return {**measures, **counts}


def _same_bits(a: Array, b: Array) -> bool:
    """Whether two tensors are the same bit for bit; NaN may equal NaN, and 0 is not −0."""
    if a.dtype != b.dtype:
        return False
    bits_a, bits_b = (np.ascontiguousarray(x).reshape(-1).view(np.uint8) for x in (a, b))
    return np.array_equal(bits_a, bits_b)


def _dataset(
    rows: Mapping[str, Sequence[dict[str, Any]]], pairs: Sequence[tuple[int, int]]
) -> xr.Dataset:
    keys = [*MEASURES, "nonfinite", "tensors", "differing", "reason"]
    shape = (len(rows), len(pairs))
    types = {"reason": object, **dict.fromkeys(("nonfinite", "tensors", "differing"), np.int64)}
    values = {
        key: np.array([[row[key] for row in one] for one in rows.values()], types.get(key, float))
        for key in keys
    }
    return xr.Dataset(
        {key: (("layer", "pair"), array.reshape(shape)) for key, array in values.items()},
        {
            "layer": np.array(list(rows), dtype=object),
            "epoch_a": ("pair", [x for x, _ in pairs]),
            "epoch_b": ("pair", [y for _, y in pairs]),
        },
    )
