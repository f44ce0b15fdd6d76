"""Leaving out positions that nobody reads.

A vision transformer or BERT answers from one token. What its last block makes of all the others,
after attention, is thrown away: more than half of the block. A pass is recorded for all tokens, so
the one that is read is followed back from where it is selected, as far as each token is computed
from itself alone.
"""

from __future__ import annotations

import dataclasses
import operator
from collections import Counter
from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor

from explorer.engine.position_rules import (
    RESHAPES,
    Axis,
    Position,
    Reads,
    Shape,
    axis_of,
    of_the_first,
    reads_of,
    selected_by,
)
from explorer.engine.program import Operation, Program, Ref


def without_unread(program: Program) -> Program:
    """Leave out the positions that nobody reads, where that saves arithmetic.

    Parameters
    ----------
    program : Program
        As recorded.

    Returns
    -------
    Program
        The same logits up to rounding. Values of which one position is left keep their numbers.
    """
    following = _Following(program)
    writing = _Writing(program, following.left)
    for one in program.operations:
        writing.add(one, following.reads[one.value])
    leaner = writing.program()
    return leaner if leaner.flops < program.flops else program


class _Following:
    """Follows what is read back from the end of a program."""

    def __init__(self, program: Program) -> None:
        self.left: dict[int, Position] = {}
        """Value → the one position of it that is read, where that is all."""
        self.reads: dict[int, Reads] = {}
        """Value → what the operation that makes it reads of its arguments."""
        self._shapes = program.shapes
        parts = [one for one in program.operations if one.call is operator.getitem]
        firsts = {one.arguments[0].value: one.value for one in parts if one.arguments[1] == 0}
        shapes = {several: program.shapes.get(first) for several, first in firsts.items()}
        self._result: dict[int, Shape | None] = {**shapes, **program.shapes}  # or its first part
        self._made = {one.value: one for one in program.operations}
        self._readers = Counter(value for one in program.operations for value in one.reads)
        self._asked: dict[int, set[Position | None]] = {program.output: {None}}
        for one in reversed(program.operations):
            self._follow(one)

    def _follow(self, one: Operation) -> None:
        positions = self._asked.get(one.value, {None})
        only = next(iter(positions)) if len(positions) == 1 else None
        found = None if only is None else self._reads(one, only)
        if only is not None and found is not None:
            self.left[one.value] = only
        else:
            found = selected_by(one, self._shapes)
        self.reads[one.value] = found
        places = {place: a.value for place, a in enumerate(one.arguments) if isinstance(a, Ref)}
        for place, value in places.items():
            self._asked.setdefault(value, set()).add(found.get(place))
        for value in set(one.reads).difference(places.values()):  # in a list, or by keyword
            self._asked.setdefault(value, set()).add(None)

    def _reads(self, one: Operation, position: Position) -> Reads | None:
        """What an operation reads for one position of its result, or of the first of several."""
        if one.call is operator.getitem:
            several = one.arguments[0].value
            maker = self._made.get(several) if self._readers[several] == 1 else None
            return {0: position} if maker and self._reads(maker, position) is not None else None
        shape = self._result.get(one.value)
        return None if shape is None else reads_of(one, shape, position, self._shapes)


class _Writing:
    """Writes the operations of a program down anew."""

    def __init__(self, program: Program, left: Mapping[int, Position]) -> None:
        self._recorded, self._left = program, left
        self._operations: list[Operation] = []
        self._shapes, self._sizes = dict(program.shapes), dict(program.sizes)
        self._dtypes = dict(program.dtypes)
        self._taken: dict[tuple[int, Position], Ref] = {}
        results = (one.value for one in program.operations)
        self._next = 1 + max(program.inputs, *program.constants, *results)

    def program(self) -> Program:
        """What has been written."""
        written, shapes, sizes = tuple(self._operations), self._shapes, self._sizes
        return dataclasses.replace(
            self._recorded, operations=written, shapes=shapes, sizes=sizes, dtypes=self._dtypes
        )

    def add(self, one: Operation, reads: Reads) -> None:
        """Write an operation down, for the position that is left of its result or for all."""
        position = self._left.get(one.value)
        if position is not None:
            self._operations.append(self._for_one(one, reads, position))
        elif reads and self._has_left(one.arguments[0], reads[0]):
            self._operations.append(of_the_first(one))
        else:
            self._operations.append(one)

    def _for_one(self, one: Operation, reads: Reads, position: Position) -> Operation:
        arguments, options, call = list(one.arguments), one.options, one.call
        for place, at in reads.items():
            if not self._has_left(arguments[place], at):
                arguments[place] = self._taken_from(arguments[place].value, at)
        self._make_smaller(one.value, one.value, position)
        if one.name in RESHAPES:
            call, arguments, options = torch.reshape, [arguments[0], self._shapes[one.value]], {}
        return Operation(
            value=one.value,
            name=one.name,
            call=call,
            arguments=tuple(arguments),
            options=options,
            reads=tuple(sorted({a.value for a in arguments if isinstance(a, Ref)})),
            flops=one.flops // position.size,
        )

    def _has_left(self, argument: Ref, position: Position) -> bool:
        return self._left.get(argument.value) == position

    def _taken_from(self, whole: int, position: Position) -> Ref:
        """One position of a value that is there whole."""
        if (whole, position) not in self._taken:
            axis = axis_of(self._recorded.shapes[whole], position)
            assert axis is not None  # it is known to lie there
            call = partial(take, axis=axis, size=position.size, at=position.index)
            value = Ref(self._next)
            self._operations.append(
                Operation(value.value, "position", call, (Ref(whole),), {}, (whole,), 0)
            )
            self._make_smaller(value.value, whole, position)
            self._taken[whole, position] = value
            self._next += 1
        return self._taken[whole, position]

    def _make_smaller(self, value: int, whole: int, position: Position) -> None:
        """Remember what is left of a value; of several results nothing is known."""
        shape = self._recorded.shapes.get(whole)
        axis = None if shape is None else axis_of(shape, position)
        if shape is not None and axis is not None:
            outer, inner = shape[: axis.dim], shape[axis.dim + 1 :]
            self._shapes[value] = (*outer, axis.before * axis.after, *inner)
            self._dtypes[value] = self._recorded.dtypes[whole]
        if whole in self._sizes:
            self._sizes[value] = self._recorded.sizes[whole] // position.size


def take(values: Tensor, axis: Axis, size: int, at: int) -> Tensor:
    """Take one position of an axis into memory of its own, so that the whole may be let go.

    Parameters
    ----------
    values : Tensor
    axis : Axis
        Where it lies.
    size, at : int
        Positions along it, and the one that is taken.

    Returns
    -------
    Tensor
        As many dims; that of the axis has what is before and after it.
    """
    split: Tensor = values.unflatten(axis.dim, (axis.before, size, axis.after))
    return split.select(axis.dim + 1, at).flatten(axis.dim, axis.dim + 1).clone()
