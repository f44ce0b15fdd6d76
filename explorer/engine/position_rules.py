"""What operations read for one position of their result, where that is one position as well."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from explorer.engine.program import Operation, Ref

Shape = tuple[int, ...]

Shapes = Mapping[int, Shape]
"""Value → its shape."""


@dataclass(frozen=True)
class Position:
    """One position along an axis, which is a dim of a value or a part of one.

    The axis is told by its place in the order of the numbers, so that no reshape changes it.
    """

    before: int
    """Product of the sizes of all axes before it."""
    size: int
    """Positions along it."""
    index: int
    """The one that is read."""


@dataclass(frozen=True)
class Axis:
    """Where an axis lies in a shape: the size of dim is before · positions · after."""

    dim: int
    before: int
    after: int


Reads = Mapping[int, Position]
"""Place among the arguments → the position that is read of it; of others everything is."""

Rule = Callable[[Operation, Axis, Position, Shapes], Reads | None]
"""What is read for a position along an axis of the result; None where it may be everything."""

SELECT, SLICE = "aten.select_copy.int", "aten.slice_copy.Tensor"

RESHAPES = frozenset(
    f"aten.{name}"
    for name in (
        *("view_copy", "view", "_unsafe_view", "unsqueeze_copy"),
        *("squeeze_copy.dim", "squeeze_copy.dims"),
    )
)
"""Operations whose result has the numbers of their argument in the same order."""

PERMUTATIONS = ("aten.permute_copy", "aten.transpose_copy.int", "aten.t_copy")
"""Operations that put dims in another order."""

ELEMENTWISE = frozenset(
    f"aten.{name}"
    for name in (
        *("add.Tensor", "sub.Tensor", "mul.Tensor", "div.Tensor", "pow.Tensor_Scalar"),
        *("relu", "gelu", "silu", "mish", "elu", "leaky_relu", "hardswish", "hardtanh"),
        *("tanh", "sigmoid", "softplus", "exp", "neg", "rsub.Scalar", "clone", "_to_copy"),
    )
)
"""Operations of which every number is made of the numbers at its place."""

ATTENTION = ("aten._scaled_dot_product", "aten.scaled_dot_product")
"""How the names begin under which torch computes attention, whatever computes it."""


def axis_of(shape: Shape, position: Position) -> Axis | None:
    """Where an axis lies in a shape; None where it is spread over several dims."""
    outside = 1
    for dim, size in enumerate(shape):
        before, rest = divmod(position.before, outside)
        if not rest and size % (before * position.size) == 0:
            return Axis(dim, before, size // (before * position.size))
        outside *= size
    return None


def reads_of(one: Operation, shape: Shape, position: Position, shapes: Shapes) -> Reads | None:
    """What an operation reads for one position of its result; None where it may be everything.

    Parameters
    ----------
    one : Operation
    shape : tuple of int
        Of its result, or of the first of several.
    position : Position
        What is wanted of that.
    shapes : mapping
        Of all values.
    """
    rule, axis = _rule(one.name), axis_of(shape, position)
    if rule is None or axis is None:
        return None
    found = rule(one, axis, position, shapes)
    lie = (axis_of(shapes[one.arguments[k].value], at) for k, at in (found or {}).items())
    return None if None in lie else found


def selected_by(one: Operation, shapes: Shapes) -> Reads:
    """The position that an operation selects of its argument; empty where it does no such thing."""
    if one.name not in (SELECT, SLICE) or one.arguments[0].value not in shapes:
        return {}
    if len(one.arguments) < 3:  # a slice of everything
        return {}
    shape = shapes[one.arguments[0].value]
    dim, *place = one.arguments[1:]
    every = range(shape[dim])
    some = every[slice(*place)] if one.name == SLICE else [every[place[0]]]
    if len(some) != 1 or len(every) == 1 or 0 in shape:
        return {}
    return {0: Position(math.prod(shape[: dim % len(shape)]), len(every), some[0])}


def of_the_first(one: Operation) -> Operation:
    """Return the operation that selects, for an argument of which only that position is left."""
    first = (0, 1) if one.name == SLICE else (0,)
    return dataclasses.replace(one, arguments=(*one.arguments[:2], *first))


def order_of(one: Operation, dims: int) -> list[int]:
    """Dims of the argument in the order in which one of `PERMUTATIONS` puts them."""
    if one.name == "aten.permute_copy":
        return [dim % dims for dim in one.arguments[1]]
    order = list(range(dims))
    a, b = one.arguments[1:] or (0, dims - 1)  # t leaves one dim as it is
    order[a], order[b] = order[b], order[a]
    return order


def _rule(name: str) -> Rule | None:
    """The rule for an operation of this name."""
    if name in RESHAPES:
        return _same
    if name in ELEMENTWISE:
        return _elementwise
    return _attention if name.startswith(ATTENTION) else RULES.get(name)


def _same(one: Operation, axis: Axis, position: Position, shapes: Shapes) -> Reads | None:
    return {0: position}


def _elementwise(one: Operation, axis: Axis, position: Position, shapes: Shapes) -> Reads | None:
    """The same of all but what is repeated along the axis."""
    result, found = shapes[one.value], {}
    for place, argument in enumerate(one.arguments):
        if isinstance(argument, Ref):
            shape = shapes[argument.value]
            dim = axis.dim - len(result) + len(shape)
            if dim >= 0 and shape[dim] > 1:
                found[place] = _at(shape, dim, axis, position)
    return found


def _product(one: Operation, axis: Axis, position: Position, shapes: Shapes) -> Reads | None:
    """A row of the first matrix, and of an axis of several matrices that of both."""
    first = 1 if one.name == "aten.addmm" else 0
    dims = len(shapes[one.value])
    if axis.dim == dims - 1 or (first and len(shapes[one.arguments[0].value]) > 1):
        return None
    return dict.fromkeys([first, first + 1] if axis.dim < dims - 2 else [first], position)


def _softmax(one: Operation, axis: Axis, position: Position, shapes: Shapes) -> Reads | None:
    return None if axis.dim == one.arguments[1] % len(shapes[one.value]) else {0: position}


def _layer_norm(one: Operation, axis: Axis, position: Position, shapes: Shapes) -> Reads | None:
    outer = len(shapes[one.arguments[0].value]) - len(one.arguments[1])
    return {0: position} if axis.dim < outer else None


def _attention(one: Operation, axis: Axis, position: Position, shapes: Shapes) -> Reads | None:
    """A query; where there is a mask it would have to be followed, too."""
    rest = [*one.arguments[3:], *(v for name, v in one.options.items() if name != "scale")]
    queries = len(shapes[one.arguments[0].value]) - 2
    return None if any(rest) or axis.dim != queries else {0: position}


def _permuted(one: Operation, axis: Axis, position: Position, shapes: Shapes) -> Reads | None:
    shape = shapes[one.arguments[0].value]
    return {0: _at(shape, order_of(one, len(shape))[axis.dim], axis, position)}


def _of_other_dim(one: Operation, axis: Axis, position: Position, shapes: Shapes) -> Reads | None:
    """Of what selects along another dim."""
    shape = shapes[one.arguments[0].value]
    dim = (one.arguments[1] if len(one.arguments) > 1 else 0) % len(shape)
    if one.name == SLICE:
        return None if dim == axis.dim else {0: _at(shape, axis.dim, axis, position)}
    return {0: _at(shape, axis.dim + (dim <= axis.dim), axis, position)}


def _at(shape: Shape, dim: int, axis: Axis, position: Position) -> Position:
    """The same position where the axis lies in this dim of another shape."""
    before = math.prod(shape[:dim]) * axis.before
    return dataclasses.replace(position, before=before)


RULES: Mapping[str, Rule] = {
    "aten.addmm": _product,
    "aten.mm": _product,
    "aten.bmm": _product,
    "aten._softmax": _softmax,
    "aten.native_layer_norm": _layer_norm,
    **dict.fromkeys(PERMUTATIONS, _permuted),
    SELECT: _of_other_dim,
    SLICE: _of_other_dim,
}
"""Name of an operation → its rule, where it has one of its own."""
