"""The logits under interventions, slice by slice: for what labels alone do not tell."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from explorer.engine.estimate import Ranking
from explorer.engine.execution import Execution, filled_up
from explorer.engine.inside import Inside, Watch
from explorer.engine.passes import INTACT

POOLED_LABELS, POOLED_LOGITS = 1024, 2**20
"""Labels, or logits of one network, that are compared at once."""


@dataclass(frozen=True)
class Answers:
    """What the network answers to a slice of the test examples."""

    labels: Tensor
    """(label,) true classes."""
    intact: Tensor | None
    """(label, class) logits of the trained network, where they are asked for."""
    patched: tuple[Tensor, ...]
    """The same under each intervention."""
    intact_inside: Inside | None = None
    """What happens inside the trained network, where it is asked for and watched."""
    inside: tuple[Inside, ...] = ()
    """The same under each intervention."""


def answers_of(
    execution: Execution,
    inputs: Tensor,
    labels: Tensor,
    replacements: Sequence[Mapping[str, Tensor]],
    watch: Watch | None = None,
    intact: bool = True,
) -> Iterator[Answers]:
    """Run all examples under many interventions at once, in float32.

    Parameters
    ----------
    execution : Execution
        Runs slices of its batch size.
    inputs, labels : Tensor
        (example, …) and (example,) or (example, position), on the device.
    replacements : sequence of mapping
        Tensor name → its value.
    watch : Watch, optional
        Runs the slices instead, and tells what happens inside.
    intact : bool
        Tell the trained network's own answers too.

    Yields
    ------
    Answers
        Of one slice; its labels are those of the plain pass.
    """
    runs: Execution | Watch = execution if watch is None else watch
    prepared = [runs.prepare(replacement) for replacement in replacements]
    size = execution.batch_size
    for start in range(0, len(inputs), size):
        some = inputs[start : start + size]
        whole = filled_up(some, size) if execution.fills_up else some
        found: dict[int, Tensor] = {}
        inside: dict[int, Inside] = {}
        kept = (execution if watch is None else watch).kept.slice(start)
        for k, made in runs.run(whole, prepared, intact, kept):
            logits = made if watch is None else watch.logits(made)
            if watch is not None:
                own = None if k == INTACT else prepared[k]
                inside[k] = watch.inside(made, len(some), own)
            cut = logits[: len(some)].flatten(0, -2)  # (label, class)
            if (k != INTACT or watch is not None) and execution.unsure(Ranking(cut.unsqueeze(0))):
                cut = execution.plain(some, {} if k == INTACT else replacements[k]).flatten(0, -2)
            found[k] = cut if watch is not None else cut.clone()  # a pass may reuse its memory
        order = range(len(replacements))
        yield Answers(
            labels[start : start + size].flatten(),
            found.get(INTACT),
            tuple(found[k] for k in order),
            inside.get(INTACT),
            tuple(inside[k] for k in order) if watch is not None else (),
        )


def pooled(stream: Iterable[Answers]) -> Iterator[Answers | None]:
    """Join slices until they are worth a computation: the same ones whatever is intervened in.

    Yields
    ------
    Answers or None
        After each slice what has come together, or None while it is too little.
    """
    waiting: list[Answers] = []
    for one in stream:
        waiting.append(one)
        labels = sum(len(each.labels) for each in waiting)
        logits = one.patched[0] if one.intact is None else one.intact
        enough = labels >= POOLED_LABELS or labels * logits.shape[1] >= POOLED_LOGITS
        yield _joined(waiting) if enough else None
        waiting = [] if enough else waiting
    if waiting:
        yield _joined(waiting)


def _joined(slices: Sequence[Answers]) -> Answers:
    """Several slices as one."""
    first = slices[0]
    if len(slices) == 1:
        return first
    intact = [one.intact for one in slices if one.intact is not None]
    looks = [one.intact_inside for one in slices if one.intact_inside is not None]
    return Answers(
        torch.cat([one.labels for one in slices]),
        torch.cat(intact) if intact else None,
        tuple(torch.cat(own) for own in zip(*(one.patched for one in slices), strict=True)),
        _looked(looks) if looks else None,
        tuple(_looked(own) for own in zip(*(one.inside for one in slices), strict=True)),
    )


def _looked(parts: Sequence[Inside]) -> Inside:
    features = [one.penultimate for one in parts if one.penultimate is not None]
    active = torch.stack([one.active for one in parts]).any(0)
    return Inside(torch.cat(features) if features else None, active)


def in_double(logits: Tensor) -> Tensor:
    """Logits in float64, on the CPU where the device has none."""
    return (logits.cpu() if logits.device.type == "mps" else logits).to(torch.float64)
