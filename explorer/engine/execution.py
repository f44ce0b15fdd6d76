"""How a network is run on slices of the examples: replayed where that is possible, else plainly."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from explorer.engine.estimate import Ranking
from explorer.engine.forward import ROUNDING, difference
from explorer.engine.inside import Watch
from explorer.engine.kept import Kept, KeptSlice
from explorer.engine.memory import (
    KEPT_SHARE,
    SCREEN_SPEED,
    TRIAL_BATCH,
    best_batch,
    is_out_of_memory,
    memory_budget,
)
from explorer.engine.network import FinalNetwork
from explorer.engine.passes import INTACT, Pass, PlainPass
from explorer.engine.program import Plan
from explorer.engine.recording import RECORDING_ERRORS
from explorer.engine.replay import Replay
from explorer.engine.screen import decision_in, error_to_go_by, low_precision
from explorer.errors import DataError

logger = logging.getLogger(__name__)

SAFETY = 8.0
"""How many times the measured difference is allowed for before a label counts as sure."""

TRIED = 4
"""Examples on which a network is tried before anything else."""

FEW = 8
"""Examples on which a pass that is cut at submodules is compared with the plain one."""

CHECK_LEAST, CHECK_MOST, CHECK_SHARE = 8, 256, 8
"""Examples that float32 computes at once where the screen is in doubt: an eighth of a slice."""


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
    memory : int, optional
        Bytes that the values of one pass may take.
    screen : bool
        Offer a lower precision, where the device has a faster one and the network runs in it.
    """

    def __init__(
        self,
        network: FinalNetwork,
        inputs: Tensor,
        batch_size: int | None = None,
        memory: int | None = None,
        screen: bool = False,
    ) -> None:
        self._network = network
        self._budget = memory_budget(network.device, memory)
        self.kept = Kept(int(self._budget * KEPT_SHARE))
        self._pass: Pass = PlainPass(network.logits)
        self._check_pass: Replay | None = None
        self._difference = 0.0
        self.first_logits: Tensor | None = None
        """Logits of the plain pass for the first slice, where they have been computed."""
        self.low_dtype: torch.dtype | None = None
        self.check_size = 0
        self.intact_error: float | None = None
        """Error of the intact network's logits in lower precision, as the screen measures it; None
        where they have to be computed in float32."""
        self.words = "reuses what an intervention does not change"
        self._learn(inputs, batch_size)
        if network.traits.indivisible or network.traits.mixes:
            self.batch_size = batch_size or TRIAL_BATCH
            if network.traits.indivisible:
                self._run_plainly(network.traits.indivisible)
            else:  # and not all slices have the same number of them
                self._reuse_submodules("its answers depend on the batch", inputs)
            return
        wanted = low_precision(network.device) if screen else None
        # the first recording may serve for the checks, or for the slices
        self.batch_size = batch_size or (CHECK_LEAST if wanted else self._most_examples(inputs))
        try:
            replay = self._record(inputs, batch_size, wanted)
            changed = network.perturbed()
            small = self._check_pass or replay
            self._difference = max(
                self._differs(replay, inputs, {}), self._differs(small, inputs, changed)
            )
        except RECORDING_ERRORS as error:
            if is_out_of_memory(error):
                raise
            self.batch_size, self.first_logits = batch_size or TRIAL_BATCH, None
            self._reuse_submodules(f"it could not be recorded ({first_line(error)})", inputs)
            return
        if self._difference > ROUNDING:
            self._run_plainly("its recorded pass gave other logits than the plain one")
            return
        self._pass = replay
        if screen:
            self._offer_screen(replay, inputs, changed)

    @property
    def fills_up(self) -> bool:
        """Whether the last slice is made as large as the others, which no answer depends on."""
        return not self._network.traits.mixes

    def plan(self, names: Sequence[str]) -> Plan | None:
        """What runs when these tensors are replaced; None where everything runs."""
        return self._pass.plan(names) if isinstance(self._pass, Replay) else None

    def watch(self) -> Watch | None:
        """Return what runs slices and tells what happens inside; None if nothing is recorded."""
        if not isinstance(self._pass, Replay):
            return None
        return Watch(self._pass, Kept(self.kept.most))

    def prepare(self, replacement: Mapping[str, Tensor], *, low: bool = False) -> Any:
        """Do what is needed once per intervention; `low`: to run it in lower precision."""
        return self._pass.prepare(replacement, low=low)

    def run(
        self,
        inputs: Tensor,
        prepared: Sequence[Any],
        intact: bool,
        kept: KeptSlice | None = None,
        *,
        low: bool = False,
    ) -> Iterator[tuple[int, Tensor]]:
        """Yield (position, logits) of one slice for every intervention, in any order.

        Parameters
        ----------
        inputs : Tensor
            (example, …), of the batch size.
        prepared : sequence
            What `prepare` made of the interventions.
        intact : bool
            Yield the intact network's logits as well, last, at position `INTACT`.
        kept : KeptSlice, optional
            What is known already of these inputs, and where to keep what will be needed again.
        low : bool
            Run the intact network in lower precision as well; all interventions have to be
            prepared for it.

        Yields
        ------
        tuple of int and Tensor
            Position, and logits (example, …, class). What `unsure` names among those computed in
            float32 is to be replaced by what `plain` gives.
        """
        for k, logits in self._pass.run(inputs, prepared, intact, kept, low=low):
            yield k, self._sure(logits, inputs) if k == INTACT and not low else logits

    def plain(self, inputs: Tensor, replacement: Mapping[str, Tensor]) -> Tensor:
        """Logits of the plain pass."""
        return self._network.logits(inputs, replacement)

    def prepare_check(self, replacement: Mapping[str, Tensor]) -> Any:
        """Do what `exact` needs once per intervention."""
        assert self._check_pass is not None
        return self._check_pass.prepare(replacement)

    def exact(self, inputs: Tensor, checks: Sequence[tuple[Mapping[str, Tensor], Any]]) -> Tensor:
        """Logits in float32 of a few examples, at most `check_size`.

        Parameters
        ----------
        inputs : Tensor
            (example, …).
        checks : sequence of tuple
            Per intervention its tensors, and what `prepare_check` made of them.

        Returns
        -------
        Tensor
            (intervention, example, class).
        """
        assert self._check_pass is not None
        padded = filled_up(inputs, self.check_size)
        prepared = [one for _, one in checks]
        found = dict(self._check_pass.run(padded, prepared, intact=False))
        logits = torch.stack([found[k] for k in range(len(checks))])[:, : len(inputs)]
        for k in self.unsure(Ranking(logits)):
            logits[k] = self.plain(inputs, checks[k][0])
        return logits

    def unsure(self, ranking: Ranking) -> list[int]:
        """Interventions under which rounding could decide a label.

        Two passes that differ by at most d in each logit give the same label wherever the two
        largest are more than 2 d apart; d is taken as `SAFETY` times what was measured.

        Parameters
        ----------
        ranking : Ranking
            Of logits (intervention, example, class).
        """
        if not self._difference:
            return []
        largest = torch.maximum(ranking.largest, -ranking.smallest).amax(1)
        doubtful = 2 * SAFETY * self._difference * largest
        apart = ranking.largest - ranking.second
        thin = (~(apart > doubtful.unsqueeze(1))).any(1)  # also where one is NaN
        return [int(k) for k in thin.nonzero()]

    def _sure(self, logits: Tensor, inputs: Tensor) -> Tensor:
        flat = logits.flatten(0, -2).unsqueeze(0)
        return self.plain(inputs, {}) if self.unsure(Ranking(flat)) else logits

    def _learn(self, inputs: Tensor, batch_size: int | None) -> None:
        """Try the network on a few examples, or on a batch where it takes no other."""
        if self._network.few_logits is not None:
            return
        try:
            self._network.learn(filled_up(inputs, TRIED))
        except DataError:
            if batch_size is None:
                raise
            self._network.learn(filled_up(inputs, batch_size))

    def _most_examples(self, inputs: Tensor) -> int:
        """Examples of the first recording, which serves at once if a slice should have so many.

        Values inside may be far larger than the inputs, those of tokens above all, so it is never
        much more than a trial; where it shows that slices should be others, it is made again.
        """
        if not inputs.is_floating_point():
            return TRIAL_BATCH
        size = inputs[:1].numel() * inputs.element_size()
        device, total = self._network.device, len(inputs)
        return min(2 * TRIAL_BATCH, best_batch(size, 2 * size, 0.0, total, device, self._budget))

    def _record(
        self, inputs: Tensor, batch_size: int | None, low_dtype: torch.dtype | None
    ) -> Replay:
        replay = self._network.record(filled_up(inputs, self.batch_size), low_dtype)
        if batch_size is None:
            program, device = replay.program, self._network.device
            largest, live, flops = (
                n / self.batch_size for n in (program.largest, program.live, program.flops)
            )
            if low_dtype is not None:
                flops /= SCREEN_SPEED
            best = best_batch(largest, live, flops, len(inputs), device, self._budget)
            if best != self.batch_size:
                if low_dtype is not None:
                    self._check_pass = replay
                self.batch_size = best
                return self._network.record(filled_up(inputs, best), low_dtype)
        return replay

    def _differs(self, replay: Replay, inputs: Tensor, replacement: Mapping[str, Tensor]) -> float:
        """Difference from the plain pass.

        With every tensor changed it shows a tensor whose value the recording took for a constant,
        for which the smallest recording is enough. Plans for fewer tensors follow from the same
        recording.
        """
        examples = filled_up(inputs, replay.examples)
        ((_, found),) = replay.run(examples, [replay.prepare(replacement)], intact=False)
        expected = self._network.logits(examples, replacement)
        if not replacement and replay.examples == self.batch_size and expected.ndim == 2:
            self.first_logits = expected  # of texts they are too many to be kept
        return difference(found, expected)

    def _offer_screen(self, replay: Replay, inputs: Tensor, changed: Mapping[str, Tensor]) -> None:
        """Find out whether the network runs in lower precision, and prepare to check it."""
        if replay.low_dtype is None:
            self._no_screen("this device has no faster precision than float32")
            return
        decided = decision_in(replay.program)
        if decided:
            self._no_screen(f"the network decides by comparing values ({decided})")
            return
        examples = filled_up(inputs, self.batch_size)
        try:
            prepared = [replay.prepare(changed, low=True)]
            (_, low), (_, intact) = replay.run(examples, prepared, intact=True, low=True)
        except RECORDING_ERRORS as error:
            self._no_screen(f"the network does not run in it ({first_line(error)})")
            return
        if low.ndim != 2:
            self._no_screen("the network answers at several positions")
            return
        self.check_size = min(CHECK_MOST, max(CHECK_LEAST, self.batch_size // CHECK_SHARE))
        if self._check_pass is None or self.check_size != CHECK_LEAST:
            self._check_pass = self._network.record(filled_up(inputs, self.check_size))
        # it may run other operations than the slices do: weights are held for it
        found = self._differs(self._check_pass, inputs, {})
        if found > ROUNDING:
            self._no_screen("its checks gave other logits than the plain pass")
            return
        self._difference = max(self._difference, found)
        self.low_dtype = replay.low_dtype
        assert self.first_logits is not None  # only those of whole sequences are not kept
        self.intact_error = error_to_go_by(intact, self.first_logits)
        name = str(self.low_dtype).removeprefix("torch.")
        self.words += f"; {name} first, float32 where a margin is thin"

    def _no_screen(self, reason: str) -> None:
        logger.warning("The engine does not screen in lower precision: %s", reason)

    def _reuse_submodules(self, reason: str, inputs: Tensor) -> None:
        """Cut at submodules, where that gives the logits of the plain pass."""
        trial = filled_up(inputs, FEW)
        changed = self._network.perturbed()
        modules = dict.fromkeys(name.rpartition(".")[0] for name in changed)
        replacements = [
            {name: t for name, t in changed.items() if name.rpartition(".")[0] == module}
            for module in modules
        ]
        if self._network.traits.writes:  # what it writes would be written into the final network
            self._run_plainly(reason)
            return
        try:
            cut = self._network.submodules()
            found = dict(cut.run(trial, replacements, intact=True))
        except RECORDING_ERRORS:
            self._run_plainly(reason)
            return
        expected = {k: self.plain(trial, r) for k, r in enumerate(replacements)}
        expected[INTACT] = self.plain(trial, {})
        if all(torch.equal(found[k], expected[k]) for k in found):
            self._pass = cut
            self.words = f"reuses the results of unchanged submodules only: {reason}"
            logger.warning("The engine %s", self.words)
        else:
            self._run_plainly(reason)

    def _run_plainly(self, reason: str) -> None:
        self._difference = 0.0
        self.words = f"runs the whole network for every cell: {reason}"
        logger.warning("The engine %s", self.words)


def filled_up(inputs: Tensor, size: int) -> Tensor:
    """As many inputs, the first one again where there are too few."""
    chosen = inputs[:size]
    if len(chosen) == size:
        return chosen
    filler = chosen[:1].expand(size - len(chosen), *chosen.shape[1:])
    return torch.cat([chosen, filler])


def first_line(error: Exception) -> str:
    """First line of an error's message, or its type where it has none."""
    return (str(error).splitlines() or [type(error).__name__])[0]
