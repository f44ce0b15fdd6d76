"""Record the forward pass of a network as a list of torch's own operators.

`torch.fx.experimental.proxy_tensor.make_fx` over `torch.func.functionalize`: without side effects,
so that what does not depend on a changed tensor need not be computed again.
"""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.func import functionalize
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils.flop_counter import flop_registry

from explorer.engine.calling import call_with
from explorer.engine.program import Operation, Program, Ref, fixed_values

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
        return call_with(module, dict(zip(state, tensors, strict=True)), inputs)

    with _recording, torch.no_grad():
        graph = _traced(forward, list(state.values()), example)
        if any(map(_writes, graph.graph.nodes)):  # inside an operator, such as that of GRUCell
            graph = _traced(graph, list(state.values()), example)
    _leave_out_what_is_written_back(graph)
    graph.graph.eliminate_dead_code()
    return _program(graph, tuple(state))


def _traced(forward: Callable[..., Any], tensors: list[Tensor], example: Tensor) -> fx.GraphModule:
    """Functionalise and record. What an operator writes inside itself takes doing it again."""
    plain = functionalize(forward, remove="mutations_and_views")
    traced = make_fx(plain, tracing_mode="fake", _allow_non_fake_inputs=True)
    graph: fx.GraphModule = traced(tensors, example)
    return graph


def _writes(node: fx.Node) -> bool:
    """Whether a node writes over one of its arguments."""
    schema = getattr(node.target, "_schema", None)
    return node.op == "call_function" and schema is not None and schema.is_mutable


def _leave_out_what_is_written_back(graph: fx.GraphModule) -> None:
    """Leave out what a forward pass keeps for the next one, in its tensors or inputs.

    Raises
    ------
    TypeError
        It writes over anything else.
    """
    for node in [node for node in graph.graph.nodes if _writes(node)]:
        written: Any = node.args[0]
        if node.target is not aten.copy_.default or written.op != "placeholder" or node.users:
            raise TypeError(f"{node.target} writes over a value")
        graph.graph.erase_node(node)


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
    program = Program(names, len(names), constants, tuple(operations), numbers[output], {}, {}, {})
    fixed = fixed_values(program)
    sizes = {k: _bytes(node.meta.get("val")) for node, k in numbers.items() if k not in fixed}
    values = {k: node.meta.get("val") for node, k in numbers.items()}
    shapes = {k: tuple(v.shape) for k, v in values.items() if isinstance(v, Tensor)}
    dtypes = {k: v.dtype for k, v in values.items() if isinstance(v, Tensor)}
    return dataclasses.replace(program, sizes=sizes, shapes=shapes, dtypes=dtypes)


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
