"""Many interventions one group after another, as a stream of what is known about them."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Mapping

from torch import Tensor

from explorer.engine.estimate import Estimate
from explorer.engine.evaluator import Evaluator
from explorer.engine.interventions import Change, Intervention
from explorer.engine.journal import Journal
from explorer.engine.memory import is_out_of_memory
from explorer.errors import CheckpointError, InterventionError

GROUP_BYTES = 512_000_000
"""Tensors of interventions that are held at once; more take another walk along the intact pass."""

Outcome = Estimate | str
"""Counts, or the reason why there are none."""

Group = dict[Intervention, dict[str, Tensor]]
"""Interventions that are counted together, and the tensors they put in."""


def measure(
    evaluator: Evaluator,
    interventions: Iterable[Intervention],
    *,
    tolerance: float = 0.0,
    journal: Journal | None = None,
    by_layer: bool = False,
) -> Generator[Mapping[Intervention, Outcome], None, None]:
    """Stream what is known about many interventions, which share what they can.

    To stop, do not ask for the next.

    Parameters
    ----------
    evaluator : Evaluator
        Test set and final network.
    interventions : iterable of Intervention
        Each once; those of one layer should follow each other.
    tolerance : float
        An intervention is left alone when its error is known to ± this fraction; 0 counts all
        examples.
    journal : Journal, optional
        What it holds is not measured again, and finished counts are added to it.
    by_layer : bool
        Finish one layer before the next is begun, for a reader who watches; with a journal it is
        always so, since a crash should cost no more than one layer's cells.

    Yields
    ------
    mapping
        Intervention → outcome of those under way, after each slice of the test examples; the last
        one of a group is final. An outcome that needs no counting comes by itself.
    """
    group: Group = {}
    tensors: dict[Change, dict[str, Tensor]] = {}
    size = 0
    for intervention in interventions:
        finished = None if journal is None else journal.get(intervention)
        replacement = finished or _replacement(evaluator, intervention, tensors)
        if not replacement or isinstance(replacement, str):  # nothing of it is held for the others
            for change in intervention.changes:
                tensors.pop(change, None)
        if not isinstance(replacement, dict):
            yield {intervention: replacement}
            continue
        new_layer = any(intervention.layers != other.layers for other in group)
        if size > GROUP_BYTES or ((by_layer or journal is not None) and new_layer):
            yield from _counted(evaluator, group, tolerance, journal)
            group, tensors, size = {}, {}, 0
        group[intervention] = replacement
        size += sum(t.numel() * t.element_size() for t in replacement.values())
    yield from _counted(evaluator, group, tolerance, journal)


def _replacement(
    evaluator: Evaluator, intervention: Intervention, known: dict[Change, dict[str, Tensor]]
) -> dict[str, Tensor] | str:
    """Tensors of an intervention, or why there are none."""
    try:
        return evaluator.network.replacement(intervention, known)
    except (CheckpointError, InterventionError) as error:
        return str(error)


def _counted(
    evaluator: Evaluator, group: Group, tolerance: float, journal: Journal | None
) -> Iterator[dict[Intervention, Outcome]]:
    """Count a whole group at once; out of memory, one by one, then give the reason."""
    try:
        estimates: list[Estimate] = []
        for estimates in evaluator.count(list(group.values()), tolerance) if group else ():
            yield dict(zip(group, estimates, strict=True))
        if journal is not None:
            journal.add(dict(zip(group, estimates, strict=True)))
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        alone = len(group) == 1
    else:
        return
    if alone:
        place = evaluator.device_label
        yield dict.fromkeys(group, f"out of memory on {place}, even with one example at a time")
        return
    for intervention, replacement in group.items():
        yield from _counted(evaluator, {intervention: replacement}, tolerance, journal)
