"""A network as a list of operations, and which of them a change of some tensors concerns.

`explorer.engine.recording` makes it from a forward pass.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

aten = torch.ops.aten


@dataclass(frozen=True)
class Ref:
    """Stands in an operation's arguments for a value that is known at run time."""

    value: int
    """Number of the value."""


@dataclass(frozen=True)
class Operation:
    """One operator with its arguments; its result is the value of the same number."""

    value: int
    """Number of its result."""
    name: str
    """The operator in words, for example ``"aten.addmm"``."""
    call: Callable[..., Any]
    """What computes it."""
    arguments: tuple[Any, ...]
    """Positional arguments, values as `Ref`."""
    options: Mapping[str, Any]
    """Keyword arguments, values as `Ref`."""
    reads: tuple[int, ...]
    """Numbers of the values among its arguments."""
    flops: int
    """Floating-point operations, counted as torch.utils.flop_counter does."""
    _places: tuple[tuple[int, int], ...] = field(init=False, repr=False, compare=False)
    """Places among the arguments that are a value, and which. Found once: in small networks looking
    through all arguments again takes as long as computing."""
    _within: tuple[int, ...] = field(init=False, repr=False, compare=False)
    """Places among the arguments that are a list with values in it."""
    _optional: tuple[str, ...] = field(init=False, repr=False, compare=False)
    """Keyword arguments that are, or have, values."""

    def __post_init__(self) -> None:
        places = [(k, a.value) for k, a in enumerate(self.arguments) if isinstance(a, Ref)]
        within = [k for k, a in enumerate(self.arguments) if isinstance(a, list) and _has_ref(a)]
        optional = [key for key, a in self.options.items() if _has_ref(a)]
        object.__setattr__(self, "_places", tuple(places))  # frozen but for this
        object.__setattr__(self, "_within", tuple(within))
        object.__setattr__(self, "_optional", tuple(optional))

    def run(self, values: Mapping[int, Any]) -> Any:
        """Compute the result."""
        arguments = list(self.arguments)
        for place, value in self._places:
            arguments[place] = values[value]
        for place in self._within:
            arguments[place] = _filled(arguments[place], values)
        if not self._optional:
            return self.call(*arguments, **self.options)
        filled = {key: _filled(self.options[key], values) for key in self._optional}
        return self.call(*arguments, **{**self.options, **filled})

    def in_precision(self, dtype: torch.dtype) -> Operation:
        """Return the same operation, which makes `dtype` where it was recorded to make float32."""
        if self.options.get("dtype") is not torch.float32:
            return self
        return dataclasses.replace(self, options={**self.options, "dtype": dtype})


@dataclass(frozen=True)
class Program:
    """The forward pass for one batch size."""

    names: tuple[str, ...]
    """Tensors of the network; values 0 … len(names) − 1."""
    inputs: int
    """Number of the value that holds the inputs."""
    constants: Mapping[int, Tensor]
    """Values that are part of the forward pass itself."""
    operations: tuple[Operation, ...]
    """In the order in which they ran."""
    output: int
    """Number of the value that holds the logits."""
    sizes: Mapping[int, int]
    """Value → its bytes, for values that depend on the examples."""
    shapes: Mapping[int, tuple[int, ...]]
    """Value → its shape, for single tensors."""
    dtypes: Mapping[int, torch.dtype]
    """Value → its type, for single tensors."""

    @property
    def largest(self) -> int:
        """Bytes of the largest value that depends on the examples."""
        return max(self.sizes.values(), default=0)

    @property
    def live(self) -> int:
        """Most bytes of the intact pass and of one intervention that are alive at once."""
        last = {v: k for k, o in enumerate(self.operations) for v in (*o.reads, o.value)}
        alive = most = self.sizes.get(self.inputs, 0)
        ends: dict[int, list[int]] = {}
        for value, step in last.items():
            ends.setdefault(step, []).append(value)
        for step, operation in enumerate(self.operations):
            alive += self.sizes.get(operation.value, 0)
            most = max(most, alive)
            alive -= sum(self.sizes.get(value, 0) for value in ends.get(step, ()))
        return 2 * most

    @property
    def flops(self) -> int:
        """Floating-point operations of one pass."""
        return sum(operation.flops for operation in self.operations)

    @property
    def kernels(self) -> frozenset[int]:
        """Tensors of the network that are weights of convolutions."""
        used = {
            operation.arguments[1].value
            for operation in self.operations
            if operation.name == "aten.convolution" and isinstance(operation.arguments[1], Ref)
        }
        return frozenset(used.intersection(range(len(self.names))))

    @property
    def images(self) -> frozenset[int]:
        """Values that 2-D convolutions read or make, and what is made of them with four dims."""
        found: set[int] = set()
        for operation in self.operations:
            if operation.name == "aten.convolution" and isinstance(operation.arguments[0], Ref):
                found.update((operation.arguments[0].value, operation.value))
            # a value without a shape is a list of several results
            elif not found.isdisjoint(operation.reads) and (
                len(self.shapes.get(operation.value, (0,) * 4)) == 4
            ):
                found.add(operation.value)
        return frozenset(found)

    @property
    def statistics(self) -> frozenset[int]:
        """Tensors that only batch normalisations read beside the examples.

        They stay in float32 where all else is rounded: cuDNN asks for it, and a variance may lie
        outside of what float16 can hold.
        """
        read: set[int] = set()
        elsewhere: set[int] = set()
        for operation in self.operations:
            if "batch_norm" in operation.name:
                read.update(a.value for a in operation.arguments[1:] if isinstance(a, Ref))
            else:
                elsewhere.update(operation.reads)
        return frozenset(read - elsewhere)

    def with_operations(self, others: Iterable[Operation]) -> Program:
        """Return the program with others in the place of those that give the same values."""
        instead = {one.value: one for one in others}
        operations = tuple(instead.get(one.value, one) for one in self.operations)
        return dataclasses.replace(self, operations=operations)

    def number(self, name: str) -> int:
        """Number of the value that holds a tensor of the network."""
        return self.names.index(name)

    def dependents(self, values: Iterable[int]) -> tuple[Operation, ...]:
        """Operations that have to run again when these values change."""
        changed = set(values)
        found = []
        for operation in self.operations:
            if not changed.isdisjoint(operation.reads):
                changed.add(operation.value)
                found.append(operation)
        return tuple(found)

    def ancestors(self, values: Iterable[int], known: Set[int]) -> tuple[Operation, ...]:
        """Operations that are needed to compute these values from those that are known."""
        wanted = set(values)
        found = []
        for operation in reversed(self.operations):
            if operation.value in wanted and operation.value not in known:
                wanted.update(operation.reads)
                found.append(operation)
        return tuple(reversed(found))


@dataclass(frozen=True)
class Plan:
    """What runs, and what is reused, when some tensors of the network are replaced."""

    names: tuple[str, ...]
    """The tensors that are replaced."""
    prepare: tuple[Operation, ...]
    """Dependents that read nothing but tensors of the network: once per replacement."""
    rerun: tuple[Operation, ...]
    """Dependents that read values of the examples: once per batch."""
    needs: tuple[int, ...]
    """Values of the intact pass that the rerun operations read, besides its tensors."""
    total: int
    """Number of operations of the whole pass."""
    total_flops: int
    """Floating-point operations of the whole pass, per batch."""

    @property
    def flops(self) -> int:
        """Floating-point operations that run again, per batch."""
        return sum(operation.flops for operation in self.rerun)

    def __str__(self) -> str:
        share = self.flops / self.total_flops if self.total_flops else math.nan
        lines = [
            f"replaced: {', '.join(self.names) or 'nothing'}",
            f"runs again: {len(self.rerun)} of {self.total} operations, {self.flops:,} of "
            f"{self.total_flops:,} FLOPs per batch ({share:.0%})",
            f"reused: {len(self.needs)} values of the intact pass",
        ]
        return "\n".join([*lines, *(f"  {o.name}: {o.flops:,} FLOPs" for o in self.rerun)])


def make_plan(program: Program, names: Sequence[str]) -> Plan:
    """Plan what has to run when these tensors are replaced.

    Parameters
    ----------
    program : Program
        The recorded forward pass.
    names : sequence of str
        Tensors that are replaced.

    Returns
    -------
    Plan
    """
    fixed = fixed_values(program)
    dirty = program.dependents([program.number(name) for name in names])
    results = {operation.value for operation in dirty}
    rerun = tuple(o for o in dirty if o.value not in fixed)
    reads = {value for operation in rerun for value in operation.reads}
    needs = sorted(reads - results - fixed)
    return Plan(
        names=tuple(names),
        prepare=tuple(o for o in dirty if o.value in fixed),
        rerun=rerun,
        needs=tuple(needs),
        total=len(program.operations),
        total_flops=program.flops,
    )


def fixed_values(program: Program) -> set[int]:
    """Values that do not depend on the examples: tensors, constants and what is made of them."""
    fixed = {*range(len(program.names)), *program.constants}
    for operation in program.operations:
        if fixed.issuperset(operation.reads):
            fixed.add(operation.value)
    return fixed


def _has_ref(argument: Any) -> bool:
    return isinstance(argument, Ref) or (
        isinstance(argument, list) and any(map(_has_ref, argument))
    )


def _filled(argument: Any, values: Mapping[int, Any]) -> Any:
    if isinstance(argument, Ref):
        return values[argument.value]
    if isinstance(argument, list):
        return [_filled(a, values) for a in argument]
    return argument
