"""Interventions that are ready to run, and what they share with each other.

What depends on no intervention is computed once for all of them. Beyond that, those that put the
same tensors in the same places have the same values as far as these tensors alone reach: a layer
from an epoch and the whole network from it, or two sets with layers in common. Whichever comes
first computes such a value, and the others take it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from explorer.engine.program import Operation, Plan


@dataclass(frozen=True)
class Prepared:
    """An intervention, ready to run."""

    plan: Plan
    """What depends on it."""
    made: Sequence[Operation]
    """What computes `values` from tensors alone."""
    steps: Sequence[Operation]
    """What runs for every slice."""
    tensors: Mapping[int, Tensor]
    """What it puts in, by number; the same object in two interventions is the same tensor."""
    values: Mapping[int, Any]
    """Its tensors as they are laid out, and what is made of them alone, by number."""
    low: bool
    """Whether it runs in lower precision."""


@dataclass(frozen=True)
class Turn:
    """What one intervention computes, takes from those before it, and leaves for those after it."""

    position: int
    """Which intervention it is."""
    operations: Sequence[int]
    """Places of those among its `steps` that nobody has run before."""
    takes: Mapping[int, int] = field(default_factory=dict)
    """Value → the name under which it was left."""
    last: frozenset[int] = frozenset()
    """Values that nobody takes after it."""
    leaves: Mapping[int, int] = field(default_factory=dict)
    """Value → the name under which it is left."""


def turns(prepared: Sequence[Prepared], positions: Sequence[int], output: int) -> list[Turn]:
    """Put interventions in an order in which they share what they can.

    Where they part, those that fewer have in common come first, so that of n interventions no
    more than log₂ n wait for the others at any time, each with what is read after it parted.

    Parameters
    ----------
    prepared : sequence of Prepared
        Interventions.
    positions : sequence of int
        Those of them that can run now.
    output : int
        Number of the value that is wanted.

    Returns
    -------
    list of Turn
        One for each position.
    """
    uses = Counter(id(t) for k in positions for t in prepared[k].tensors.values())
    if max(uses.values(), default=1) == 1:
        return [Turn(k, range(len(prepared[k].steps))) for k in positions]
    names: dict[Any, int] = {}
    named = {k: _named(prepared[k], names) for k in positions}
    owners = Counter(name for own in named.values() for name in own.values())

    def rare_first(position: int) -> list[tuple[int, int]]:
        own = named[position]
        steps = prepared[position].steps
        return [(owners[own[o.value]], own[o.value]) for o in steps]

    found: list[Turn] = []
    made: set[int] = set()
    for position in sorted(positions, key=rare_first):
        own, steps = named[position], prepared[position].steps
        left = [k for k, operation in enumerate(steps) if own[operation.value] not in made]
        reads = {output, *(value for k in left for value in steps[k].reads)}
        takes = {o.value: own[o.value] for o in steps if own[o.value] in made}
        takes = {value: name for value, name in takes.items() if value in reads}
        made.update(own[steps[k].value] for k in left)
        found.append(Turn(position, left, takes))
    return _with_shelf(found, prepared, named)


def _named(one: Prepared, names: dict[Any, int]) -> dict[int, int]:
    """Name every value that depends on an intervention: of the same name are the same values."""
    found = {
        number: names.setdefault((number, one.low, id(tensor)), len(names))
        for number, tensor in one.tensors.items()
    }
    for operation in (*one.made, *one.steps):
        own = (operation.value, *(found.get(value) for value in operation.reads))
        found[operation.value] = names.setdefault(own, len(names))
    return found


def _with_shelf(
    found: Sequence[Turn], prepared: Sequence[Prepared], named: Mapping[int, Mapping[int, int]]
) -> list[Turn]:
    """Add to turns what they leave for others, and what they are the last to take."""
    takers = {name: turn.position for turn in found for name in turn.takes.values()}
    complete = []
    for turn in found:
        own, steps = named[turn.position], prepared[turn.position].steps
        results = (steps[k].value for k in turn.operations)
        leaves = {value: own[value] for value in results if own[value] in takers}
        last = frozenset(v for v, name in turn.takes.items() if takers[name] == turn.position)
        complete.append(Turn(turn.position, turn.operations, turn.takes, last, leaves))
    return complete
