"""The order in which one walk along the intact pass serves many plans."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from explorer.engine.program import Operation, Plan, Program


@dataclass(frozen=True)
class Walk:
    """The order of one walk along the intact pass; step 0 is before the first operation."""

    operations: tuple[Operation, ...]
    """What of the intact pass is needed at all."""
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


def make_walk(operations: Sequence[Operation], plans: Sequence[Plan], output: int) -> Walk:
    """Plan a walk.

    Parameters
    ----------
    operations : sequence of Operation
        What computes all that is `wanted`, in order.
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
    return Walk(tuple(operations), tuple(map(tuple, ready)), tuple(map(tuple, release)))


def last_reads(operations: Sequence[Operation], keep: set[int]) -> tuple[tuple[int, ...], ...]:
    """Per operation, the results that no later one reads."""
    results = {operation.value for operation in operations}
    last = {value: step for step, o in enumerate(operations) for value in (o.value, *o.reads)}
    releases: list[list[int]] = [[] for _ in operations]
    for value, step in last.items():
        if value in results and value not in keep:
            releases[step].append(value)
    return tuple(map(tuple, releases))
