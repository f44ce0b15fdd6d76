"""What happens inside a network under interventions: which units are active, what the end reads.

The recorded program gets one more result: the logits, the penultimate values and the largest value
of each unit, one after the other. So all of it comes out of the same partial passes as the logits
do.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from explorer.engine.kept import Kept, KeptSlice
from explorer.engine.prepared import Prepared
from explorer.engine.program import Operation, Program, Ref, fixed_values
from explorer.engine.replay import Replay

ACTIVATIONS = frozenset(
    f"aten.{name}"
    for name in ("relu", "gelu", "silu", "mish", "elu", "leaky_relu", "hardswish", "hardtanh")
)
"""Operators whose result is above 0 where their input is, and not where it is not."""

MAPS = frozenset(("aten.addmm", "aten.mm", "aten.bmm", "aten.convolution", "aten.linear"))
"""Linear maps, the last of which with trained weights makes the logits."""


@dataclass(frozen=True)
class Units:
    """The units of one activation."""

    tensor: str
    """Trained tensor that was used last before it, whose layer it belongs to."""
    count: int
    """How many there are: channels of images, else entries of the last dim."""


@dataclass(frozen=True)
class Inside:
    """What one intervention does inside, for a slice of the examples."""

    penultimate: Tensor | None
    """(row, feature) what the last linear map reads; a row per example, or per position. None
    where the intervention cannot change it."""
    active: Tensor
    """(unit,) bool: above 0 for some example, of all activations one after the other."""


class Watch:
    """Runs slices of one size under interventions and tells what happens inside.

    Parameters
    ----------
    replay : Replay
        The recorded pass; its tensors are shared.
    kept : Kept
        For what it may keep of the intact pass: its values have other numbers than the replay's.
    """

    def __init__(self, replay: Replay, kept: Kept) -> None:
        self.kept = kept
        program = replay.recorded
        self._batch = replay.examples
        self._logits = program.shapes[program.output]
        found = _activations(program)
        self.units = tuple(one.units for one in found)
        read = _penultimate(program)
        self._read = program.output if read is None else read
        self._penultimate = program.shapes[self._read]
        extended = _extended(program, found, self._read)
        self._replay = Replay(extended, replay.state)

    def prepare(self, replacement: Mapping[str, Tensor]) -> Prepared:
        """Do what is needed once per intervention."""
        return self._replay.prepare(replacement)

    def run(
        self,
        inputs: Tensor,
        prepared: Sequence[Prepared],
        intact: bool,
        kept: KeptSlice | None = None,
    ) -> Iterator[tuple[int, Tensor]]:
        """Yield (position, packed) in any order, as `Replay.run` does; `logits` unpacks them."""
        yield from self._replay.run(inputs, prepared, intact, kept)

    def logits(self, packed: Tensor) -> Tensor:
        """Logits (example, …, class) of a whole slice."""
        return packed[: math.prod(self._logits)].reshape(self._logits)

    def inside(self, packed: Tensor, examples: int, prepared: Prepared | None = None) -> Inside:
        """What else is packed, of the first examples of a slice.

        What fills a slice up is its first example once more, which makes no other unit active.

        Parameters
        ----------
        packed : Tensor
            From `run`.
        examples : int
            How many of the slice count.
        prepared : Prepared, optional
            The intervention; None for the trained network.
        """
        start = math.prod(self._logits)
        end = start + math.prod(self._penultimate)
        active = packed[end:] > 0
        if prepared is not None and all(o.value != self._read for o in prepared.plan.rerun):
            return Inside(None, active)
        features = packed[start:end].reshape(self._batch, -1)[:examples]
        if len(self._penultimate) < 4:  # of an image all values belong to its one row
            features = features.reshape(-1, self._penultimate[-1])
        return Inside(features, active)


@dataclass(frozen=True)
class _Activation:
    """Where the values of some units are in a program."""

    value: int
    dim: int
    units: Units


def _activations(program: Program) -> list[_Activation]:
    fixed = fixed_values(program)
    by_value = {operation.value: operation for operation in program.operations}
    tensors = _origins(program, fixed)
    found = []
    for operation in program.operations:
        shape = program.shapes.get(operation.value, ())
        if operation.name not in ACTIVATIONS or operation.value in fixed or len(shape) < 2:
            continue
        images = len(shape) == 4 and operation.value in program.images
        dim = 1 if images else len(shape) - 1
        tensor = _fed_by(operation, by_value, tensors, fixed)
        found.append(_Activation(operation.value, dim, Units(tensor, shape[dim])))
    return found


def _origins(program: Program, fixed: set[int]) -> dict[int, str]:
    """Value that depends on no example → a trained tensor that it is made of."""
    found = dict(enumerate(program.names))
    for operation in program.operations:
        own = [found[value] for value in operation.reads if value in found]
        if operation.value in fixed and own:
            found[operation.value] = own[-1]
    return found


def _fed_by(
    operation: Operation,
    by_value: Mapping[int, Operation],
    tensors: Mapping[int, str],
    fixed: set[int],
) -> str:
    """Trained tensor that was used last on the way to an operation; empty for none."""
    while True:
        own = [tensors[value] for value in operation.reads if value in tensors]
        if own:
            return own[0]
        before = [value for value in operation.reads if value in by_value and value not in fixed]
        if not before:
            return ""
        operation = by_value[max(before)]  # of several, such as a skip and a block, the later


def _penultimate(program: Program) -> int | None:
    """Value that the last linear map with trained weights reads; None where there is none."""
    fixed = fixed_values(program)
    tensors = _origins(program, fixed)
    for operation in reversed(program.operations):
        moving = [v for v in operation.reads if v not in fixed]
        weighted = any(value in tensors for value in operation.reads)
        if operation.name in MAPS and len(moving) == 1 and weighted and moving[0] in program.shapes:
            return moving[0]
    return None


def _extended(program: Program, found: Sequence[_Activation], penultimate: int) -> Program:
    """The same pass with all that is watched as its result, one after the other."""
    new = 1 + max([program.inputs, *program.constants, *(o.value for o in program.operations)])
    largest = {one.value: new + k for k, one in enumerate(found)}
    dims = {one.value: one.dim for one in found}
    operations = []
    for operation in program.operations:
        operations.append(operation)
        if operation.value in largest:
            call = partial(_largest, dims[operation.value])
            operations.append(_made(largest[operation.value], call, (operation.value,)))
    packed = (program.output, penultimate, *largest.values())
    last = new + len(found)
    operations.append(_made(last, _packed, packed))
    return dataclasses.replace(program, operations=tuple(operations), output=last)


def _made(value: int, call: Callable[..., Any], reads: tuple[int, ...]) -> Operation:
    name = f"explorer.{getattr(call, 'func', call).__name__.strip('_')}"
    return Operation(value, name, call, tuple(map(Ref, reads)), {}, tuple(sorted(set(reads))), 0)


def _largest(dim: int, values: Tensor) -> Tensor:
    """Largest value of each unit in any example, (unit,)."""
    return values.amax([other for other in range(values.ndim) if other != dim])


def _packed(*values: Tensor) -> Tensor:
    return torch.cat([value.reshape(-1) for value in values])
