"""Run a network under many interventions, computing what they share only once."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from explorer.engine.fused import Weights, can_fuse
from explorer.engine.fusing import Fusing
from explorer.engine.inplace import in_place
from explorer.engine.kept import KeptSlice, memory_of
from explorer.engine.passes import INTACT
from explorer.engine.positions import without_unread
from explorer.engine.prepared import Prepared, Turn, turns
from explorer.engine.program import Operation, Plan, Program, fixed_values, make_plan
from explorer.engine.rounding import Rounded, Rounding
from explorer.engine.views import with_joint_views
from explorer.engine.walk import Walks, last_reads


@dataclass
class Replay:
    """Replays a recorded program, from the first operation that an intervention concerns.

    One walk along the intact pass serves all interventions of a batch: where the last value that
    a plan needs has been computed, everything that waits for it runs. A value is let go as soon
    as neither the intact pass nor a waiting plan will read it.

    Images and the kernels of convolutions are laid out channels last, which is faster and rounds
    otherwise than the plain pass does; on a CUDA device only in lower precision, since cuDNN is
    slower at it in float32 without TF32. On a processor, linear maps run as one operation with what
    follows them, in an intact pass in the same way whoever asks: what depends on it has the same
    bits beside whatever else is run.

    What depends on an intervention can be computed in a lower precision, from values of the intact
    pass that are rounded once, or that are computed in it, too.
    """

    recorded: Program
    """The forward pass for all positions of every value."""
    state: Mapping[str, Tensor]
    """The final network's tensors."""
    low_dtype: torch.dtype | None = None
    """The lower precision, where there is one."""
    program: Program = field(init=False)
    """What is run: the positions that the logits depend on."""
    _kernels: frozenset[int] = field(init=False)
    _layout: torch.memory_format = field(init=False)
    _fixed: dict[int, Any] = field(init=False)
    _low: Rounded = field(init=False)
    _fusing: Fusing | None = field(init=False)
    _weights: WeakValueDictionary[tuple[int, ...], Weights] = field(
        init=False, default_factory=WeakValueDictionary
    )
    _plans: dict[tuple[str, ...], Plan] = field(init=False, default_factory=dict)
    _walks: dict[bool, Walks] = field(init=False, default_factory=dict)
    _reruns: dict[tuple[tuple[str, ...], bool], _Rerun] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        on_cuda = any(tensor.is_cuda for tensor in self.state.values())
        self.program = without_unread(self.recorded)
        if not on_cuda:
            self.program = with_joint_views(self.program)
        self._kernels = self.program.kernels
        self._layout = torch.contiguous_format if on_cuda else torch.channels_last
        self._fixed = {
            k: self._laid_out(k, self.state[n]) for k, n in enumerate(self.program.names)
        }
        self._fixed.update(self.program.constants)
        fixed = fixed_values(self.program)
        for operation in self.program.operations:
            if operation.value in fixed:
                self._fixed[operation.value] = operation.run(self._fixed)
        rounding = Rounding(
            self.low_dtype or torch.float32,
            self._kernels | self.program.images,
            self.program.statistics,
        )
        self._low = Rounded(self._fixed, rounding)
        fuses = not on_cuda and can_fuse()
        program = self.program
        # beside a lower precision there is little left to be won in float32
        hold = self.low_dtype is None
        self._fusing = Fusing(program, self._fixed, hold=hold) if fuses else None
        left = [one for one in program.operations if one.value not in fixed]
        for is_low in {False, self.low_dtype is not None}:
            operations, folds = self._fused(left, is_low)
            self._walks[is_low] = Walks(program.with_operations(operations), folds, fixed)

    @property
    def examples(self) -> int:
        """Examples of every batch."""
        return self.program.shapes[self.program.inputs][0]

    def plan(self, names: Sequence[str]) -> Plan:
        """What runs when these tensors are replaced."""
        key = tuple(sorted(names))
        if key not in self._plans:
            plan = make_plan(self.program, key)
            self._plans[key] = plan
            for is_low in {False, self.low_dtype is not None}:
                self._reruns[plan.names, is_low] = self._rerun_of(plan, is_low)
        return self._plans[key]

    def prepare(self, replacement: Mapping[str, Tensor], *, low: bool = False) -> Prepared:
        """Compute what depends on the replaced tensors alone."""
        plan = self.plan(tuple(replacement))
        rerun = self._reruns[plan.names, low]
        tensors = {self.program.number(name): replacement[name] for name in plan.names}
        values: dict[int, Any] = {
            k: self._laid_out(k, tensor) if k in rerun.reads else tensor
            for k, tensor in tensors.items()
        }
        for operation in rerun.made:
            values[operation.value] = self._made(operation, tensors, values)
        values = {k: value for k, value in values.items() if k in rerun.reads}
        if low:
            values = {k: self._low.rounding(k, value) for k, value in values.items()}
        return Prepared(plan, rerun.made, rerun.apart, tensors, values, low)

    def _made(
        self, operation: Operation, tensors: Mapping[int, Tensor], values: Mapping[int, Any]
    ) -> Any:
        """Compute a value from tensors; weights that another intervention has made are shared.

        Of the same tensors, that is, not of equal ones: a layer from an epoch, and the whole
        network from it.
        """
        own = tuple(tensors[k] for k in operation.reads if k in tensors)
        among_others = any(k in values and k not in tensors for k in operation.reads)
        key = operation.value, *map(id, own)
        found = None if among_others else self._weights.get(key)
        if found is None:
            found = operation.run(_Overlay(values, self._fixed))
            if isinstance(found, Weights) and not among_others:
                found.made_of = own  # as long as they are there, nothing else has their ids
                self._weights[key] = found
        return found

    def run(
        self,
        inputs: Tensor,
        prepared: Sequence[Prepared],
        intact: bool,
        kept: KeptSlice | None = None,
        *,
        low: bool = False,
    ) -> Iterator[tuple[int, Tensor]]:
        """Yield the logits of each intervention as soon as they are known.

        What the interventions read of the intact pass is kept where all replace the same tensors;
        a walk that serves several layers comes by everything once in any case. With `low` the
        intact pass is computed in the lower precision, as all the interventions have to be.
        """
        waiting = _by_tensors(prepared)
        known = kept.known if kept else {}
        walk = self._walks[low].find([self._plans[names] for names in waiting], intact, known)
        self._make_fixed(walk.folds)
        values: dict[int, Any] = {
            **self._fixed,
            **known,
            self.program.inputs: self._images(inputs),
        }
        rounded = Rounded(values, self._low.rounding, self._low)
        clean = rounded if low else values
        for step in range(len(walk.operations) + 1):
            if step:
                operation = walk.operations[step - 1]
                values[operation.value] = operation.run(clean)
            if kept and len(waiting) == 1:
                for names in walk.ready[step]:
                    self._keep(kept, names, clean)
            ready = [position for names in walk.ready[step] for position in waiting[names]]
            shelf: dict[int, Any] = {}
            for turn in turns(prepared, ready, self.program.output):
                one = prepared[turn.position]
                logits = self._rerun(one, rounded if one.low else values, turn, shelf)
                yield turn.position, logits.float()
            for value in walk.release[step]:
                del values[value]
                rounded.forget(value)
        if intact:
            yield INTACT, clean[self.program.output].float()

    def _keep(self, kept: KeptSlice, names: tuple[str, ...], values: Mapping[int, Any]) -> None:
        """Keep what a plan reads of the intact pass, but for the inputs and views of them."""
        needs = self._plans[names].needs
        inputs = memory_of(values[self.program.inputs])
        kept.keep({k: values[k] for k in needs if memory_of(values[k]) != inputs})

    def _images(self, inputs: Tensor) -> Tensor:
        """Lay images out as the kernels are, where there are convolutions."""
        if self._kernels and inputs.ndim == 4:
            return inputs.contiguous(memory_format=self._layout)
        return inputs

    def _laid_out(self, number: int, tensor: Tensor) -> Tensor:
        """Give a kernel of a 2-D convolution the layout that float32 is fastest with."""
        if number in self._kernels and tensor.ndim == 4:
            return tensor.contiguous(memory_format=self._layout)
        return tensor

    def _rerun_of(self, plan: Plan, low: bool) -> _Rerun:
        """Say how a plan is run in a precision; what it needs of the final network is made."""
        own = {*map(self.program.number, plan.names), *(one.value for one in plan.prepare)}
        steps, folds = self._fused(plan.rerun, low, own)
        made = [*plan.prepare, *(fold for fold in folds if not own.isdisjoint(fold.reads))]
        self._make_fixed([fold for fold in folds if own.isdisjoint(fold.reads)])
        return _Rerun(
            tuple(made),
            in_place(steps, self.program.shapes, self.program.dtypes),
            steps,
            last_reads(steps, keep={self.program.output}),
            frozenset(value for one in steps for value in one.reads),
        )

    def _fused(
        self, operations: Sequence[Operation], low: bool, replaced: Collection[int] = ()
    ) -> tuple[tuple[Operation, ...], tuple[Operation, ...]]:
        """Operations as they are run in a precision, and what makes weights for them."""
        steps, folds = tuple(operations), tuple[Operation, ...]()
        if self._fusing and (not low or self.low_dtype is torch.bfloat16):
            steps, folds = self._fusing.fuse(operations, replaced=replaced, low=low)
        if low:
            steps = tuple(one.in_precision(self._low.rounding.dtype) for one in steps)
        return steps, folds

    def _make_fixed(self, folds: Sequence[Operation]) -> None:
        """Make the final network's weights as fused operations read them."""
        for fold in folds:
            if fold.value not in self._fixed:
                self._fixed[fold.value] = fold.run(self._fixed)

    def _rerun(
        self, prepared: Prepared, clean: Mapping[int, Any], turn: Turn, shelf: dict[int, Any]
    ) -> Tensor:
        """Run what is left of an intervention; `shelf` is what turns leave for each other."""
        values = dict(prepared.values)
        for value, name in turn.takes.items():
            values[value] = shelf.pop(name) if value in turn.last else shelf[name]
        known = _Overlay(values, clean)
        others = {*turn.takes, *turn.leaves}  # what others read may not be written over
        rerun = self._reruns[prepared.plan.names, prepared.low]
        for k in turn.operations:
            free = others.isdisjoint(rerun.apart[k].reads)
            operation = rerun.written_over[k] if free else rerun.apart[k]
            values[operation.value] = operation.run(known)
            if operation.value in turn.leaves:
                shelf[turn.leaves[operation.value]] = values[operation.value]
            for value in rerun.releases[k]:
                values.pop(value, None)
        logits: Tensor = known[self.program.output]
        return logits


@dataclass(frozen=True)
class _Rerun:
    """A plan's operations as they are run in one precision."""

    made: tuple[Operation, ...]
    """What is computed from the replaced tensors alone, once."""
    written_over: tuple[Operation, ...]
    """Results are written over what nobody will read again."""
    apart: tuple[Operation, ...]
    """Each result is memory of its own."""
    releases: tuple[tuple[int, ...], ...]
    """Per operation, the values that no later one reads."""
    reads: frozenset[int]
    """Values that they read."""


def _by_tensors(prepared: Sequence[Prepared]) -> dict[tuple[str, ...], list[int]]:
    """Names of the tensors that are replaced → positions of those that replace them."""
    found: dict[tuple[str, ...], list[int]] = {}
    for position, one in enumerate(prepared):
        found.setdefault(one.plan.names, []).append(position)
    return found


class _Overlay(Mapping[int, Any]):
    """Values of an intervention over those of the intact pass."""

    __slots__ = ("_above", "_below")

    def __init__(self, above: Mapping[int, Any], below: Mapping[int, Any]) -> None:
        self._above, self._below = above, below

    def __getitem__(self, value: int) -> Any:
        return self._above[value] if value in self._above else self._below[value]

    def __iter__(self) -> Iterator[int]:
        return iter({*self._above, *self._below})

    def __len__(self) -> int:
        return len({*self._above, *self._below})
