"""The logits under interventions, slice by slice: for what labels alone do not tell."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from explorer.engine.execution import Execution, filled_up
from explorer.engine.inside import Inside, Watch
from explorer.engine.replay import INTACT


@dataclass(frozen=True)
class Answers:
    """What the network answers to a slice of the test examples."""

    labels: Tensor
    """(label,) true classes."""
    intact: Tensor
    """(label, class) logits of the trained network."""
    patched: tuple[Tensor, ...]
    """The same under each intervention."""
    inside: tuple[Inside, ...] = ()
    """What happens inside, of the trained network and then under each; where it is watched."""


def answers_of(
    execution: Execution,
    inputs: Tensor,
    labels: Tensor,
    replacements: Sequence[Mapping[str, Tensor]],
    watch: Watch | None = None,
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
        whole = filled_up(some, size) if execution.fixed_size else some
        found: dict[int, Tensor] = {}
        inside: dict[int, Inside] = {}
        for k, made in runs.run(whole, prepared, True):
            logits = made if watch is None else watch.logits(made)
            if watch is not None:
                inside[k] = watch.inside(made, len(some))
            cut = logits[: len(some)].flatten(0, -2)  # (label, class)
            if (k != INTACT or watch is not None) and execution.unsure(cut.unsqueeze(0)):
                cut = execution.plain(some, {} if k == INTACT else replacements[k]).flatten(0, -2)
            found[k] = cut.clone()  # a pass may use its memory again
        order = (INTACT, *range(len(replacements)))
        patched = tuple(found[k] for k in order[1:])
        watched = tuple(inside[k] for k in order) if watch is not None else ()
        yield Answers(labels[start : start + size].flatten(), found[INTACT], patched, watched)


def in_double(logits: Tensor) -> Tensor:
    """Logits in float64, on the CPU where the device has none."""
    return (logits.cpu() if logits.device.type == "mps" else logits).to(torch.float64)
