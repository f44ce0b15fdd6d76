"""The order in which one walk along the intact pass serves many plans."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from explorer.engine.program import Operation, Plan, Program

MOST_WALKS = 1000
"""Walks that are remembered: there is one for every choice of values that are kept."""


@dataclass(frozen=True)
class Walk:
    """The order of one walk along the intact pass; step 0 is before the first operation."""

    operations: tuple[Operation, ...]
    """What of the intact pass is needed at all."""
    folds: tuple[Operation, ...]
    """What makes the weights that some of them read."""
    ready: tuple[tuple[tuple[str, ...], ...], ...]
    """Per step, the plans that can run after it."""
    release: tuple[tuple[int, ...], ...]
    """Per step, the values that nobody reads after it."""


def wanted(program: Program, plans: Sequence[Plan], intact: bool) -> set[int]:
    """Values of the intact pass that plans read, and with `intact` its logits."""
    found = {value for plan in plans for value in plan.needs}
    # a plan that concerns no operation gives the intact logits
    if intact or any(not plan.rerun for plan in plans):
        found.add(program.output)
    return found


@dataclass
class Walks:
    """Walks along the intact pass in one precision, each planned when it is first asked for."""

    program: Program
    """Its operations are run as they stand there."""
    folds: Sequence[Operation]
    """What makes weights for some of them."""
    fixed: Collection[int]
    """Values that do not depend on the examples, which are there already."""
    _planned: dict[tuple[tuple[tuple[str, ...], ...], bool, frozenset[int]], Walk] = field(
        init=False, default_factory=dict
    )

    def find(self, plans: Sequence[Plan], intact: bool, known: Collection[int]) -> Walk:
        """Return the walk for these plans, and with `intact` for the logits of the intact pass.

        Parameters
        ----------
        plans : sequence of Plan
            Whom it serves.
        intact : bool
            Whether the intact network's logits are wanted as well.
        known : collection of int
            Values that need not be computed.

        Returns
        -------
        Walk
        """
        key = (tuple(plan.names for plan in plans), intact, frozenset(known))
        if key not in self._planned:
            if len(self._planned) == MOST_WALKS:
                self._planned.clear()
            folds = {fold.value: fold for fold in self.folds}
            targets = wanted(self.program, plans, intact)
            operations = self.program.ancestors(targets, {*known, *self.fixed, *folds})
            read = {value for one in operations for value in one.reads}
            made = [fold for value, fold in folds.items() if value in read]
            self._planned[key] = make_walk(operations, made, plans, self.program.output)
        return self._planned[key]


def make_walk(
    operations: Sequence[Operation],
    folds: Sequence[Operation],
    plans: Sequence[Plan],
    output: int,
) -> Walk:
    """Plan a walk.

    Parameters
    ----------
    operations : sequence of Operation
        What computes all that is `wanted`, in order.
    folds : sequence of Operation
        What makes the weights that they read.
    plans : sequence of Plan
        Whom it serves.
    output : int
        Number of the logits, which are never let go.

    Returns
    -------
    Walk
    """
    step_of = {operation.value: step for step, operation in enumerate(operations, start=1)}
    ready: list[list[tuple[str, ...]]] = [[] for _ in range(len(operations) + 1)]
    last_read = {o.value: step_of[o.value] for o in operations}
    for step, operation in enumerate(operations, start=1):
        last_read.update({v: step for v in operation.reads if v in step_of})
    for plan in plans:
        needs = plan.needs if plan.rerun else (output,)
        step = max((step_of.get(value, 0) for value in needs), default=0)
        ready[step].append(plan.names)
        last_read.update({v: max(last_read[v], step) for v in needs if v in step_of})
    release: list[list[int]] = [[] for _ in range(len(operations) + 1)]
    for value, step in last_read.items():
        if value != output:
            release[step].append(value)
    return Walk(
        tuple(operations), tuple(folds), tuple(map(tuple, ready)), tuple(map(tuple, release))
    )


def last_reads(operations: Sequence[Operation], keep: set[int]) -> tuple[tuple[int, ...], ...]:
    """Per operation, the results that no later one reads."""
    results = {operation.value for operation in operations}
    last = {value: step for step, o in enumerate(operations) for value in (o.value, *o.reads)}
    releases: list[list[int]] = [[] for _ in operations]
    for value, step in last.items():
        if value in results and value not in keep:
            releases[step].append(value)
    return tuple(map(tuple, releases))
