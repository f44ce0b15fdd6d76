"""Several changes of shape in a row as one, on a processor.

What only says how numbers are to be read is recorded step by step, and a step that cannot be a view
of the one before copies. The queries of a packed attention go through eight steps and a copy; all
together they are one view of the linear layer's result.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from explorer.engine.position_rules import PERMUTATIONS, RESHAPES, SELECT, Shape, order_of
from explorer.engine.program import Operation, Program, Ref


@dataclass(frozen=True)
class View:
    """Splits dims, takes one place of some, puts the others in order, and merges them."""

    split: Shape
    """Sizes of the parts into which the dims of a value are split."""
    chosen: tuple[tuple[int, int], ...]
    """(part, place) of those of which one place is taken, the last part first."""
    order: tuple[int, ...]
    """Order of the other parts."""
    shape: Shape
    """Of the result."""

    def __call__(self, values: Tensor) -> Tensor:
        values = values.reshape(self.split)
        for part, place in self.chosen:
            values = values.select(part, place)
        return values.permute(self.order).reshape(self.shape)


def with_joint_views(program: Program) -> Program:
    """Put changes of shape together wherever nobody reads what lies between them.

    Parameters
    ----------
    program : Program

    Returns
    -------
    Program
        The same numbers in the same order; fewer of them are copied.
    """
    chains = _chains(program)
    operations = []
    read = {program.output}
    for one in reversed(program.operations):
        chain = chains.get(one.value)
        if chain is None:
            read.update(one.reads)
        elif one.value in read:
            read.add(chain.source)
            one = one if chain.steps == 1 else chain.operation(one)
        else:
            continue
        operations.append(one)
    return dataclasses.replace(program, operations=tuple(reversed(operations)))


def _chains(program: Program) -> dict[int, _Chain]:
    """Value → how it is read from another, for all that is a change of shape."""
    shapes = program.shapes
    changes = {
        one.value
        for one in program.operations
        if one.name in (*RESHAPES, *PERMUTATIONS, SELECT)
        and one.arguments[0].value in shapes
        and 0 not in shapes[one.arguments[0].value]
    }
    others = [one for one in program.operations if one.value not in changes]
    asked = {value for one in others for value in one.reads}
    readers = Counter(value for one in program.operations for value in one.reads)
    found: dict[int, _Chain] = {}
    for one in program.operations:
        if one.value not in changes:
            continue
        source = one.arguments[0].value
        before = found.get(source)
        # what is there anyway, or would be copied for each of its readers, is read from there
        if before and (source in asked or (readers[source] > 1 and not before.is_view)):
            before = None
        chain = before and before.followed_by(one, shapes)
        if chain is None:
            chain = _whole(source, shapes[source]).followed_by(one, shapes)
        if chain is not None:
            found[one.value] = chain
    return found


@dataclass(frozen=True)
class _Chain:
    """A value as it is read from another."""

    source: int
    """Number of that other value."""
    parts: Mapping[int, int]
    """Name → size of the parts into which the dims of the source are split, in their order."""
    taken: Mapping[int, int]
    """Part → the place that is taken of it."""
    dims: Sequence[tuple[int, ...]]
    """Parts of which each dim is made; none where its size is 1."""
    steps: int
    """Changes of shape so far."""

    @property
    def is_view(self) -> bool:
        """Whether nothing is copied, if the source's numbers lie in order."""
        next_to = set(pairwise(self.parts))
        return all(pair in next_to for parts in self.dims for pair in pairwise(parts))

    def followed_by(self, one: Operation, shapes: Mapping[int, Shape]) -> _Chain | None:
        """Add a change of shape; None where a new dim would begin within a part."""
        shape = shapes[one.value]
        if one.name in RESHAPES:
            changed = self._reshaped(shape)
        elif one.name == SELECT:
            changed = self._selected(one.arguments[1] % len(self.dims), one.arguments[2])
        else:
            order = order_of(one, len(shape))
            changed = dataclasses.replace(self, dims=[self.dims[dim] for dim in order])
        return changed and dataclasses.replace(changed, steps=self.steps + 1)

    def operation(self, last: Operation) -> Operation:
        """The operation that does all of it at once."""
        names = list(self.parts)
        left = [name for name in names if name not in self.taken]
        shape = self._shape
        order = tuple(left.index(name) for parts in self.dims for name in parts)
        call: Callable[..., Tensor] = torch.reshape
        arguments: tuple[Any, ...] = (Ref(self.source), list(shape))
        if self.taken or order != tuple(range(len(left))):
            chosen = [(names.index(name), place) for name, place in self.taken.items()]
            sizes = tuple(self.parts.values())
            call = View(sizes, tuple(sorted(chosen, reverse=True)), order, shape)
            arguments = (Ref(self.source),)
        name = f"{last.name} and {self.steps - 1} before"
        return Operation(last.value, name, call, arguments, {}, (self.source,), 0)

    @property
    def _shape(self) -> Shape:
        return tuple(math.prod(self.parts[name] for name in parts) for parts in self.dims)

    def _reshaped(self, shape: Shape) -> _Chain | None:
        """The same numbers in the same order, with other dims."""
        sizes = dict(self.parts)
        left = [name for parts in reversed(self.dims) for name in reversed(parts)]
        dims = []
        for size in shape:
            dim: list[int] = []
            while size > 1:
                name = left.pop()
                inner, rest = divmod(sizes[name], size)
                if size % sizes[name] == 0:
                    size //= sizes[name]
                elif rest == 0:  # the dim ends within the part
                    sizes, behind = _split(sizes, name, size, inner)
                    left.append(behind)
                    size = 1
                else:
                    return None
                dim.append(name)
            dims.append(tuple(dim))
        return dataclasses.replace(self, parts=sizes, dims=dims)

    def _selected(self, dim: int, place: int) -> _Chain:
        """One place of a dim."""
        taken = dict(self.taken)
        for name in reversed(self.dims[dim]):
            place, taken[name] = divmod(place, self.parts[name])
        dims = [parts for k, parts in enumerate(self.dims) if k != dim]
        return dataclasses.replace(self, taken=taken, dims=dims)


def _whole(source: int, shape: Shape) -> _Chain:
    """A value as it is."""
    parts = {dim: size for dim, size in enumerate(shape) if size > 1}
    dims = [(dim,) if size > 1 else () for dim, size in enumerate(shape)]
    return _Chain(source, parts, {}, dims, 0)


def _split(
    sizes: Mapping[int, int], name: int, outer: int, inner: int
) -> tuple[dict[int, int], int]:
    """Split a part in two: sizes in their order, and the name of the inner one, which is new."""
    behind = 1 + max(sizes)
    found = {}
    for other, size in sizes.items():
        found[other] = outer if other == name else size
        if other == name:
            found[behind] = inner
    return found, behind
