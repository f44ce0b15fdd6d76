"""How a network is run on slices of the examples: replayed where that is possible, else plainly."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from explorer.engine.network import FinalNetwork
from explorer.engine.program import RECORDING_ERRORS, Plan
from explorer.engine.replay import INTACT, Pass, PlainPass, Replay

logger = logging.getLogger(__name__)

TRIAL_BATCH = 64
"""Batch of the first recording, which shows how large the values are."""

ROUNDING = 1e-4
"""Share of the largest logit by which a replay may differ: another order of the same sums."""

SAFETY = 8.0
"""How many times the measured difference is allowed for before a label counts as sure."""

PLEASANT_SLICES = 8
"""Estimates in a run that a reader can follow; fewer only where there are few examples."""

BATCH_BYTES = {"cpu": (16e6, 16, 512), "cuda": (512e6, 64, 4096), "mps": (128e6, 32, 1024)}
"""Device → bytes the largest value may take, and the least and most examples per pass."""


class Execution:
    """Runs slices under many interventions; labels are those of the plain pass.

    Parameters
    ----------
    network : FinalNetwork
        The network; it is only read.
    inputs : Tensor
        (example, …) all inputs, from which the first are taken to record and compare with.
    batch_size : int, optional
        Examples per slice; default as many as the device works on best.
    """

    def __init__(self, network: FinalNetwork, inputs: Tensor, batch_size: int | None) -> None:
        self._network = network
        self._pass: Pass = PlainPass(network.logits)
        self._difference = 0.0
        self.words = "reuses what an intervention does not change"
        self.batch_size = batch_size or TRIAL_BATCH
        try:
            replay = self._record(inputs, batch_size)
        except RECORDING_ERRORS as error:
            self._run_plainly(f"it could not be recorded ({first_line(error)})")
            return
        self._difference = self._compare(replay, filled_up(inputs, self.batch_size))
        if self._difference > ROUNDING:
            self._run_plainly("its recorded pass gave other logits than the plain one")
        else:
            self._pass = replay

    def plan(self, names: Sequence[str]) -> Plan | None:
        """What runs when these tensors are replaced; None where everything runs."""
        return self._pass.plan(names) if isinstance(self._pass, Replay) else None

    def prepare(self, replacement: Mapping[str, Tensor]) -> Any:
        """Do what is needed once per intervention."""
        return self._pass.prepare(replacement)

    def run(
        self,
        inputs: Tensor,
        replacements: Sequence[Mapping[str, Tensor]],
        prepared: Sequence[Any],
        intact: bool,
    ) -> Iterator[tuple[int, Tensor]]:
        """Yield (position, logits) of one slice for every replacement, in any order.

        Parameters
        ----------
        inputs : Tensor
            (example, …), of the batch size.
        replacements, prepared : sequence
            The interventions, and what `prepare` made of them.
        intact : bool
            Yield the intact network's logits as well, at position `INTACT`.

        Yields
        ------
        tuple of int and Tensor
            Position, and logits (example, class).
        """
        for k, logits in self._pass.run(inputs, prepared, intact):
            yield k, self._sure(logits, inputs, {} if k == INTACT else replacements[k])

    def _record(self, inputs: Tensor, batch_size: int | None) -> Replay:
        replay = self._network.record(filled_up(inputs, self.batch_size))
        if batch_size is None:
            largest = replay.program.largest / self.batch_size
            best = best_batch(largest, len(inputs), self._network.device)
            if best != self.batch_size:
                self.batch_size = best
                return self._network.record(filled_up(inputs, best))
        return replay

    def _compare(self, replay: Replay, inputs: Tensor) -> float:
        """Difference from the plain pass, for the final network and with every tensor changed.

        The second would show a tensor whose value the recording took for a constant. Plans for
        fewer tensors follow from the same recording.
        """
        changed = self._network.perturbed()
        found = dict(replay.run(inputs, [replay.prepare(changed)], intact=True))
        return max(
            difference(found[k], self._network.logits(inputs, replacement))
            for k, replacement in ((0, changed), (INTACT, {}))
        )

    def _run_plainly(self, reason: str) -> None:
        self._difference = 0.0
        self.words = f"runs the whole network for every cell: {reason}"
        logger.warning("The engine %s", self.words)

    def _sure(self, logits: Tensor, inputs: Tensor, replacement: Mapping[str, Tensor]) -> Tensor:
        """These logits, or those of the plain pass where rounding could decide a label.

        Two passes that differ by at most d in each logit give the same label wherever the two
        largest are more than 2 d apart; d is taken as `SAFETY` times what was measured.
        """
        if not self._difference:
            return logits
        first, second = logits.topk(2, dim=1).values.unbind(1)
        doubtful = 2 * SAFETY * self._difference * logits.abs().amax()
        if bool((first - second <= doubtful).any()):
            return self._network.logits(inputs, replacement)
        return logits


def best_batch(bytes_per_example: float, total: int, device: torch.device) -> int:
    """Examples per forward pass, a power of two.

    As many as keep the largest value within fast memory, but no more than leave a reader
    `PLEASANT_SLICES` estimates to watch.
    """
    target, least, most = BATCH_BYTES.get(device.type, BATCH_BYTES["cpu"])
    fitting = min(int(target / max(bytes_per_example, 1.0)), most)
    watched = max(TRIAL_BATCH, total // PLEASANT_SLICES)
    return max(least, 1 << max(0, min(fitting, watched).bit_length() - 1))


def filled_up(inputs: Tensor, size: int) -> Tensor:
    """As many inputs, the first one again where there are too few."""
    chosen = inputs[:size]
    filler = chosen[:1].expand(size - len(chosen), *chosen.shape[1:])
    return torch.cat([chosen, filler])


def difference(found: Tensor, expected: Tensor) -> float:
    """Largest difference of two sets of logits, as a share of the largest logit."""
    if torch.equal(found, expected):
        return 0.0
    largest = (found - expected).abs().max() / expected.abs().max()
    return float(largest.nan_to_num(nan=math.inf))


def first_line(error: Exception) -> str:
    """First line of an error's message, or its type where it has none."""
    return (str(error).splitlines() or [type(error).__name__])[0]
