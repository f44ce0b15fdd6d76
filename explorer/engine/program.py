"""A network as a list of operations, and which of them a change of some tensors concerns.

The forward pass is recorded once, at the level of torch's own operators and without side effects
(`torch.fx.experimental.proxy_tensor.make_fx` over `torch.func.functionalize`). What does not
depend on a changed tensor need not be computed again.
"""

from __future__ import annotations

import dataclasses
import math
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.func import functional_call, functionalize
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils.flop_counter import flop_registry

aten = torch.ops.aten

RECORDING_ERRORS = (
    RuntimeError,  # control flow that depends on data, and most else that torch cannot record
    NotImplementedError,
    TypeError,
    ValueError,
    AttributeError,
    AssertionError,
    LookupError,
)
"""What recording somebody's forward pass may raise; the plain pass is then used instead."""

_recording = threading.Lock()
"""torch.fx patches modules while it records, and keeps what it has patched in one global place."""

VIEWS: Mapping[Any, Callable[..., Any]] = {
    aten.view_copy.default: torch.reshape,
    aten.view.default: torch.reshape,
    aten._unsafe_view.default: torch.reshape,
    aten.t_copy.default: torch.t,
    aten.permute_copy.default: torch.permute,
    aten.transpose_copy.int: torch.transpose,
    aten.expand_copy.default: Tensor.expand,
    aten.select_copy.int: torch.select,
    aten.slice_copy.Tensor: aten.slice.Tensor,
    aten.unsqueeze_copy.default: torch.unsqueeze,
    aten.squeeze_copy.dim: torch.squeeze,
    aten.squeeze_copy.dims: torch.squeeze,
    aten.split_copy.Tensor: torch.split,
    aten.unbind_copy.int: torch.unbind,
}
"""Functionalisation copies where a view will do, since nothing is written in place."""


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

    def run(self, values: Mapping[int, Any]) -> Any:
        """Compute the result."""
        arguments = [_filled(a, values) for a in self.arguments]
        options = {key: _filled(a, values) for key, a in self.options.items()}
        return self.call(*arguments, **options)

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

    def ancestors(self, values: Iterable[int]) -> tuple[Operation, ...]:
        """Operations that are needed to compute these values."""
        wanted = set(values)
        found = []
        for operation in reversed(self.operations):
            if operation.value in wanted:
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


def record(module: nn.Module, state: Mapping[str, Tensor], example: Tensor) -> Program:
    """Record the forward pass of a network in evaluation mode.

    Parameters
    ----------
    module : torch.nn.Module
        In evaluation mode; it is only read.
    state : mapping
        Its parameters and buffers, tied ones once.
    example : Tensor
        Inputs of the shape and type of every later batch, (example, …).

    Returns
    -------
    Program

    Raises
    ------
    Exception
        One of `RECORDING_ERRORS`, when the pass cannot be recorded: its control flow depends on
        values, or it does something that torch's operators do not show.
    """

    def forward(tensors: list[Tensor], inputs: Tensor) -> Any:
        return functional_call(module, dict(zip(state, tensors, strict=True)), (inputs,))

    plain = functionalize(forward, remove="mutations_and_views")
    with _recording, torch.no_grad():
        graph = make_fx(plain, tracing_mode="fake", _allow_non_fake_inputs=True)(
            list(state.values()), example
        )
    graph.graph.eliminate_dead_code()
    return _program(graph, tuple(state))


def _program(graph: fx.GraphModule, names: tuple[str, ...]) -> Program:
    numbers: dict[fx.Node, int] = {}
    constants: dict[int, Tensor] = {}
    operations = []
    output: Any = None
    for node in graph.graph.nodes:
        if node.op == "output":
            output = node.args[0]
            continue
        numbers[node] = len(numbers)
        if node.op == "get_attr":
            constants[numbers[node]] = _attribute(graph, str(node.target))
        elif node.op == "call_function":
            operations.append(_operation(node, numbers))
    if isinstance(output, (list, tuple)) and len(output) == 1:
        output = output[0]
    if not isinstance(output, fx.Node):
        raise TypeError("the network's output is not one tensor")
    program = Program(names, len(names), constants, tuple(operations), numbers[output], {}, {})
    fixed = fixed_values(program)
    sizes = {k: _bytes(node.meta.get("val")) for node, k in numbers.items() if k not in fixed}
    values = {k: node.meta.get("val") for node, k in numbers.items()}
    shapes = {k: tuple(v.shape) for k, v in values.items() if isinstance(v, Tensor)}
    return dataclasses.replace(program, sizes=sizes, shapes=shapes)


def _operation(node: fx.Node, numbers: Mapping[fx.Node, int]) -> Operation:
    target: Any = node.target
    return Operation(
        value=numbers[node],
        name=str(target).removesuffix(".default"),
        call=VIEWS.get(target, target),
        arguments=tuple(_with_refs(a, numbers) for a in node.args),
        options={key: _with_refs(a, numbers) for key, a in node.kwargs.items()},
        reads=tuple(sorted({numbers[n] for n in node.all_input_nodes})),
        flops=_flops(node),
    )


def _bytes(value: Any) -> int:
    return value.numel() * value.element_size() if isinstance(value, Tensor) else 0


def _flops(node: fx.Node) -> int:
    formula = flop_registry.get(getattr(node.target, "overloadpacket", None))
    if formula is None:
        return 0
    arguments, options = fx.node.map_arg((node.args, node.kwargs), lambda n: n.meta["val"])
    return int(formula(*arguments, **options, out_val=node.meta["val"]))


def _attribute(graph: fx.GraphModule, target: str) -> Tensor:
    owner: Any = graph
    for part in target.split("."):
        owner = getattr(owner, part)
    tensor: Tensor = owner
    return tensor


def _with_refs(argument: Any, numbers: Mapping[fx.Node, int]) -> Any:
    if isinstance(argument, fx.Node):
        return Ref(numbers[argument])
    if isinstance(argument, (list, tuple)):
        return [_with_refs(a, numbers) for a in argument]
    return argument


def _filled(argument: Any, values: Mapping[int, Any]) -> Any:
    if isinstance(argument, Ref):
        return values[argument.value]
    if isinstance(argument, list):
        return [_filled(a, values) for a in argument]
    return argument
