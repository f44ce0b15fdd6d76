"""Writing results over values that nobody will read again.

A fresh piece of memory for every activation costs as much as computing it: the system has to clear
and map it first. An elementwise operation may write over its input where that input was made for
this intervention alone and has no other reader, who might have made a view of it. The numbers are
the same.
"""

from __future__ import annotations

import dataclasses
import operator
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from explorer.engine.fused import Fused
from explorer.engine.program import Operation, Ref

aten = torch.ops.aten

IN_PLACE: Mapping[Any, Any] = {
    aten.relu.default: aten.relu_.default,
    aten.gelu.default: aten.gelu_.default,
    aten.silu.default: aten.silu_.default,
    aten.hardswish.default: aten.hardswish_.default,
    aten.hardtanh.default: aten.hardtanh_.default,
    aten.sigmoid.default: aten.sigmoid_.default,
    aten.tanh.default: aten.tanh_.default,
    aten.add.Tensor: aten.add_.Tensor,
    aten.mul.Tensor: aten.mul_.Tensor,
}
"""Elementwise operation → the same, written over its first argument."""

SYMMETRIC = (aten.add.Tensor, aten.mul.Tensor)
"""Operations of which either argument may be written over, unless they have options."""

FRESH = frozenset(
    [
        "aten.convolution",
        "aten.addmm",
        "aten.mm",
        "aten.bmm",
        "aten.add.Tensor",
        "aten.mul.Tensor",
        "aten.cat",
        "aten.native_batch_norm",
        "aten.cudnn_batch_norm",
        "aten._native_batch_norm_legit_no_training",
        "aten.native_layer_norm",
        "aten.native_group_norm",
    ]
)
"""Operations whose result, or first result of several, is new memory of its own."""


def in_place(
    operations: Sequence[Operation],
    shapes: Mapping[int, tuple[int, ...]],
    dtypes: Mapping[int, torch.dtype],
) -> tuple[Operation, ...]:
    """Have operations write over their inputs where nobody will notice.

    Parameters
    ----------
    operations : sequence of Operation
        What an intervention runs again, in order.
    shapes : mapping
        Value → its shape.
    dtypes : mapping
        Value → its type: a sum of two types cannot be written over the smaller of them.

    Returns
    -------
    tuple of Operation
        The same results under the same numbers.
    """
    made = {operation.value: operation for operation in operations}
    readers = Counter(value for operation in operations for value in operation.reads)
    spare = {v for v, one in made.items() if readers[v] == 1 and _is_fresh(one, made)}
    known = {v: (shapes[v], dtypes[v]) for v in shapes if v in dtypes}
    return tuple(_over(one, spare, known) for one in operations)


def _over(one: Operation, spare: set[int], known: Mapping[int, Any]) -> Operation:
    """Return an operation that writes over one of the spare values, if it can."""
    if one.call not in IN_PLACE:
        return one
    swaps = one.call in SYMMETRIC and not one.options and len(one.arguments) == 2
    orders = [one.arguments, one.arguments[::-1]] if swaps else [one.arguments]
    for arguments in orders:
        target = arguments[0]
        if (
            isinstance(target, Ref)
            and target.value in spare
            and target.value in known
            and known[target.value] == known.get(one.value)
            and arguments.count(target) == 1
        ):
            return dataclasses.replace(one, call=IN_PLACE[one.call], arguments=arguments)
    return one


def _is_fresh(one: Operation, made: Mapping[int, Operation]) -> bool:
    """Tell whether an operation's result is memory of its own, made for this intervention."""
    if one.call is operator.getitem and one.arguments[1] == 0:
        source = made.get(one.arguments[0].value)
        return source is not None and source.name in FRESH
    return one.name in FRESH or one.call in IN_PLACE or isinstance(one.call, Fused)
