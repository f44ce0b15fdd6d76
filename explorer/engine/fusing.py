"""Which operations of a program are run as one, on a processor.

A convolution's result goes through memory again for batch normalisation, for the sum with a
residual branch and for the activation; together they take as long as a convolution of few channels.
"""

from __future__ import annotations

import functools
import operator
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from explorer.engine.convolving import Convolving
from explorer.engine.fused import ACTIVATIONS, AFTER_SUM, Multiply, Weights, folded, transposed
from explorer.engine.program import Operation, Program, Ref

aten = torch.ops.aten

LEAST_FEATURES = 32
"""Inputs and outputs of a linear layer from which on oneDNN pays."""

NORMALISATIONS = ("aten.native_batch_norm", "aten._native_batch_norm_legit_no_training")
"""Batch normalisation by running statistics, which is a scale and a shift of every channel."""


class Fusing:
    """Fuses the operations of one program; what is folded gets numbers beyond the program's.

    Parameters
    ----------
    program : Program
        The recorded forward pass.
    fixed : mapping
        Values that do not depend on the examples, by number.
    hold : bool
        Whether transformed weights of the final network may be kept.
    """

    def __init__(self, program: Program, fixed: Mapping[int, Any], *, hold: bool) -> None:
        self._shapes, self._dtypes, self._fixed = program.shapes, program.dtypes, fixed
        self._numbers: dict[tuple[int, ...], int] = {}
        self._first = 1 + max(program.inputs, *fixed, *(one.value for one in program.operations))
        convolutions = [one for one in program.operations if self._is_convolution(one)]
        self._convolving = Convolving(convolutions, program.shapes, fixed, hold=hold)

    def fuse(
        self,
        operations: Sequence[Operation],
        *,
        replaced: Collection[int] = (),
        low: bool = False,
    ) -> tuple[tuple[Operation, ...], tuple[Operation, ...]]:
        """Fuse what is run one after the other, each value having one reader.

        Parameters
        ----------
        operations : sequence of Operation
            What depends on the examples and has to be run, in order.
        replaced : collection of int
            Tensors that are not the final network's.
        low : bool
            Whether they are run in lower precision. In float32 a linear layer is left as it is
            unless a costly activation follows, so that it gives the bits of the plain pass.

        Returns
        -------
        tuple
            Operations to be run instead, with the same results under the same numbers, but for
            those that nobody else reads; and those that make `Weights` for them.
        """
        only = _only_readers(operations)
        instead: dict[int, Operation | None] = {}
        folds = []
        for one in operations:
            if not (self._is_convolution(one) or self._is_product(one)):
                continue
            chain = self._chain(one, only)
            if low or chain.pays_in_float32:
                fold, fused = self._fused(chain, replaced, low)
                if chain.other is not None:  # what else is added there may not take the sum, too
                    only.pop(chain.other.value, None)
                instead.update(dict.fromkeys(chain.values))
                instead[fused.value] = fused
                folds.append(fold)
        left = (instead.get(one.value, one) for one in operations)
        return tuple(one for one in left if one is not None), tuple(folds)

    def _chain(self, first: Operation, only: Mapping[int, Operation]) -> _Chain:
        """Return a linear map and what follows it that oneDNN does with it."""
        chain = _Chain(first, [first.value])
        if first.name == "aten.convolution":
            self._add_normalisation(chain, only)
            self._add_sum(chain, only)
        else:
            self._add_shape(chain, only)
        after = only.get(chain.last)
        if after and _is_activation(after) and (not chain.other or after.call in AFTER_SUM):
            chain.activation = after.call
            chain.values.append(after.value)
        return chain

    def _add_normalisation(self, chain: _Chain, only: Mapping[int, Operation]) -> None:
        after = only.get(chain.last)
        if after and self._is_normalisation(after, chain.last):
            part = only.get(after.value)
            if part is not None and part.call is operator.getitem and part.arguments[1] == 0:
                chain.normalisation = after
                chain.values += [after.value, part.value]

    def _add_sum(self, chain: _Chain, only: Mapping[int, Operation]) -> None:
        after = only.get(chain.last)
        if after and self._is_sum(after, chain.last):
            chain.other = next(a for a in after.arguments if a != Ref(chain.last))
            chain.values.append(after.value)

    def _add_shape(self, chain: _Chain, only: Mapping[int, Operation]) -> None:
        """Add what brings tokens back to their shape, if an activation follows."""
        after = only.get(chain.last)
        if after and after.call is torch.reshape:
            again = only.get(after.value)
            if again and _is_activation(again):
                chain.shape = self._shapes[after.value]
                chain.values.append(after.value)

    def _fused(
        self, chain: _Chain, replaced: Collection[int], low: bool
    ) -> tuple[Operation, Operation]:
        """Return the operation that makes the weights, and the one that uses them."""
        first, norm = chain.first, chain.normalisation
        make: Callable[..., Weights]
        if first.name == "aten.convolution":
            images, weight, bias = first.arguments[:3]
            make = Weights
            reads = [images]
        else:
            bias, rows, weight = first.arguments
            make = transposed
            reads = [rows]
        made_of = [weight, bias]
        key = [first.value]
        if norm is not None:
            made_of += norm.arguments[1:5]
            make = functools.partial(folded, epsilon=norm.arguments[-1])
            key.append(norm.value)
        call: Callable[..., Tensor] = Multiply(chain.activation, chain.shape)
        if first.name == "aten.convolution":
            as_trained = not any(isinstance(a, Ref) and a.value in replaced for a in made_of)
            call = self._convolving.call(first, chain.activation, as_trained=as_trained, low=low)
        number = self._numbers.setdefault(tuple(key), self._first + len(self._numbers))
        fold = _operation(number, "folded weights", make, made_of, 0)
        reads += [Ref(number), *([chain.other] if chain.other else [])]
        name = f"{first.name} and {len(chain.values) - 1} more"
        return fold, _operation(chain.last, name, call, reads, first.flops)

    def _is_convolution(self, one: Operation) -> bool:
        if one.name != "aten.convolution" or one.arguments[6] or one.options:
            return False
        images, weight, bias = one.arguments[:3]
        return (
            isinstance(images, Ref)
            and images.value not in self._fixed
            and len(self._shapes.get(images.value, ())) == 4
            and self._is_weight(weight, 4)
            and (bias is None or self._is_weight(bias, 1))
        )

    def _is_product(self, one: Operation) -> bool:
        if one.name != "aten.addmm" or one.options:
            return False
        bias, rows, weight = one.arguments
        return (
            isinstance(rows, Ref)
            and rows.value not in self._fixed
            and self._is_weight(weight, 2)
            and self._is_weight(bias, 1)
            and min(self._fixed[weight.value].shape) >= LEAST_FEATURES
        )

    def _is_weight(self, argument: Any, dims: int) -> bool:
        tensor = self._fixed.get(argument.value) if isinstance(argument, Ref) else None
        return (
            isinstance(tensor, Tensor)
            and tensor.ndim == dims
            and tensor.dtype is torch.float32
            and tensor.device.type == "cpu"
            and tensor.layout is torch.strided
        )

    def _is_normalisation(self, one: Operation, value: int) -> bool:
        arguments = one.arguments
        trains = one.name == NORMALISATIONS[0] and arguments[5]
        parts = arguments[1:5]
        return (
            one.name in NORMALISATIONS
            and not trains
            and arguments[0] == Ref(value)
            and all(part is None or self._is_weight(part, 1) for part in parts)
            and None not in parts[2:]
        )

    def _is_sum(self, one: Operation, value: int) -> bool:
        if one.call is not aten.add.Tensor or one.options or len(one.arguments) != 2:
            return False
        others = [a for a in one.arguments if a != Ref(value)]
        return (
            len(others) == 1
            and isinstance(others[0], Ref)
            and self._shapes.get(others[0].value) == self._shapes.get(value)
            and self._dtypes.get(others[0].value) == self._dtypes.get(value)
        )


@dataclass
class _Chain:
    """A linear map and what follows it."""

    first: Operation
    values: list[int]
    """Results one after the other; the last is the result of all."""
    normalisation: Operation | None = None
    other: Ref | None = None
    """What is added."""
    shape: tuple[int, ...] | None = None
    """What a linear layer's result is brought to before the activation."""
    activation: Any = None

    @property
    def last(self) -> int:
        """The result so far."""
        return self.values[-1]

    @property
    def pays_in_float32(self) -> bool:
        """Whether there is time to be won beside the product itself."""
        cheap = (None, aten.relu.default)
        return self.first.name == "aten.convolution" or self.activation not in cheap


def _only_readers(operations: Sequence[Operation]) -> dict[int, Operation]:
    """Value → the one operation that reads it, where there is no other; nobody reads the result."""
    readers: dict[int, list[Operation]] = defaultdict(list)
    for one in operations:
        for value in one.reads:
            readers[value].append(one)
    return {v: some[0] for v, some in readers.items() if len(some) == 1}


def _is_activation(one: Operation) -> bool:
    return one.call in ACTIVATIONS and len(one.arguments) == 1 and not one.options


def _operation(
    value: int, name: str, call: Callable[..., Any], arguments: Sequence[Any], flops: int
) -> Operation:
    reads = {a.value for a in arguments if isinstance(a, Ref)}
    return Operation(value, name, call, tuple(arguments), {}, tuple(sorted(reads)), flops)
