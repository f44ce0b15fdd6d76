"""Counting errors under many interventions at once, slice by slice of the test examples."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from explorer.engine.estimate import COUNTED, Estimate, Ranking, estimate, score
from explorer.engine.execution import Execution, filled_up
from explorer.engine.intact_labels import IntactLabels
from explorer.engine.passes import INTACT
from explorer.engine.screen import HOPELESS, Thin, Watch, in_batches, margins

CHUNK_BYTES = 64_000_000
"""Logits that are held before they are scored together, which waits for the device once."""

FEW = 8
"""Interventions up to which it takes no time worth mentioning to run the first slice under them."""


@dataclass(eq=False)
class _Tally:
    """One intervention on its way through the slices."""

    replacement: Mapping[str, Tensor]
    prepared: Any
    low_intact: bool
    """Whether the intact pass, which it begins with, is in lower precision as well."""
    watch: Watch | None
    """What the screen has left open; None where everything is computed in float32."""
    check: Any = None
    """The intervention, prepared for the examples that float32 decides."""
    labels: int = 0
    """Labels counted so far."""
    predicted: Tensor | None = None
    """(label,) int32 predicted labels as far as they are counted; None where nobody asked."""
    sums: list[float] = field(default_factory=lambda: [0.0] * len(COUNTED))
    """What `score` gave, summed over them."""

    def add(self, sums: Sequence[float]) -> None:
        self.sums = [a + b for a, b in zip(self.sums, sums, strict=True)]


class Counting:
    """The test examples in their order, cut into slices, and the way to run the network on them.

    Parameters
    ----------
    execution : Execution
        Runs slices of its batch size.
    inputs, labels : Tensor
        (example, …) and (example,) or (example, position), on the device, in the order in which
        they are counted.
    dataset : str
        Its name, for error messages.
    """

    def __init__(self, execution: Execution, inputs: Tensor, labels: Tensor, dataset: str) -> None:
        self.execution = execution
        self.total = labels.numel()
        self._examples = len(labels)
        self._per_example = labels[0].numel()
        self._labels = labels.flatten()
        self._size = execution.batch_size
        self._slices = -(-len(inputs) // self._size)
        self._inputs = inputs
        if execution.fills_up:  # the last slice is filled up, and its logits cut afterwards
            self._inputs = filled_up(inputs, self._slices * self._size)
        self._intact = IntactLabels(execution, self._inputs, labels, dataset)

    def count(
        self,
        replacements: Sequence[Mapping[str, Tensor]],
        tolerance: float,
        predicted: Sequence[Tensor] = (),
    ) -> Iterator[list[Estimate]]:
        """Yield the estimates of all interventions after each slice.

        Parameters
        ----------
        replacements : sequence of mapping
            Tensor name → its value.
        tolerance : float
            An intervention is left alone when its error is known to ± this fraction.
        predicted : sequence of Tensor
            One per replacement, or none: (label,) int32, filled with the predicted labels.

        Yields
        ------
        list of Estimate
            One per replacement; an intervention's last one holds the labels of float32.
        """
        low = self.execution.low_dtype is not None and self._per_example == 1
        sets = {frozenset(replacement) for replacement in replacements if replacement}
        # beside the cells of many layers float32 costs little, and fewer margins are doubtful
        few = len(sets) <= 1 or tolerance > 0
        low_intact = low and few and self.execution.intact_error is not None
        tallies = [
            self._tally(replacement, low and (bool(replacement) or low_intact), low_intact)
            for replacement in replacements
        ]
        for tally, labels in zip(tallies, predicted, strict=False):
            tally.predicted = labels
        active, last, changes = list(tallies), self._slices - 1, self._intact.changes
        for position in range(self._slices):
            self._slice(active, position)
            if self._intact.changes > changes:
                changes = self._intact.changes
                for tally in tallies:
                    self._recount(tally)
            done = [
                tally
                for tally in active
                if position == last or self._estimate(tally).half_width <= tolerance
            ]
            self._settle(done)
            active = [tally for tally in active if tally not in done]
            yield [self._estimate(tally) for tally in tallies]
            if not active:
                return

    def _tally(self, replacement: Mapping[str, Tensor], low: bool, low_intact: bool) -> _Tally:
        prepared = self.execution.prepare(replacement, low=low)
        return _Tally(replacement, prepared, low_intact, Watch() if low else None)

    def _estimate(self, tally: _Tally) -> Estimate:
        return estimate(tally.labels, self.total, tally.sums)

    def _slice(self, tallies: Sequence[_Tally], position: int) -> None:
        """Count one slice of the examples for these interventions."""
        start = position * self._size
        stop = min(start + self._size, self._examples)
        counted = range(start * self._per_example, stop * self._per_example)
        walks = [[one for one in tallies if one.low_intact is low] for low in (True, False)]
        rankings = (self._rankings(some, start, stop) for some in walks if some)
        for some, ranking in itertools.chain.from_iterable(rankings):
            scores = self._score(ranking, slice(counted.start, counted.stop))
            screened = [k for k, tally in enumerate(some) if tally.watch is not None]
            if screened:  # float32 decides about what is not finite
                scores[:, screened] = scores[:, screened].nan_to_num(0.0, 0.0, 0.0)
            for tally, part in zip(some, scores.sum(2).t().tolist(), strict=True):
                tally.add(part)
                tally.labels = counted.stop
            for tally, labels in zip(some, ranking.label, strict=True):
                if tally.predicted is not None:
                    tally.predicted[counted.start : counted.stop] = labels
            if screened:
                self._watch(some, ranking, counted)

    def _rankings(
        self, tallies: Sequence[_Tally], start: int, stop: int
    ) -> Iterator[tuple[list[_Tally], Ranking]]:
        """Yield logits of a slice (intervention, label, class) for some interventions at a time.

        All of them begin with the same intact pass. The labels of the intact network are learnt
        before, from the same walk unless so many logits come first that they cannot be held; of the
        first slice by themselves, so that labels that are not this network's are refused at once.
        """
        inputs = self._inputs[start : start + self._size]
        prepared, low = [tally.prepared for tally in tallies], tallies[0].low_intact
        execution, intact = self.execution, self._intact
        at_once = execution.first_logits is not None or len(tallies) > FEW
        if (at_once and not len(intact)) or (low and not intact.low):
            intact.need(start)
        found: dict[int, Tensor] = {}
        kept = execution.kept.slice(start, low=low)
        for k, logits in execution.run(inputs, prepared, start not in intact, kept, low=low):
            if k == INTACT:
                intact.learn(logits, start, low=low)
                continue
            found[k] = logits[: stop - start].flatten(0, -2)  # (label, class)
            if found[k].nbytes * len(found) > CHUNK_BYTES:
                intact.need(start)
                yield self._sure(tallies, found, inputs)
                found = {}
        if found:
            yield self._sure(tallies, found, inputs)

    def _sure(
        self, tallies: Sequence[_Tally], found: Mapping[int, Tensor], inputs: Tensor
    ) -> tuple[list[_Tally], Ranking]:
        """Run plainly what has been computed in float32 and where rounding could decide a label."""
        some = [tallies[k] for k in found]
        logits = torch.stack(list(found.values()))
        ranking = Ranking(logits)
        unsure = [k for k in self.execution.unsure(ranking) if some[k].watch is None]
        for k in unsure:
            plain = self.execution.plain(inputs, some[k].replacement).flatten(0, -2)
            logits[k] = plain[: logits.shape[1]]
        return some, Ranking(logits) if unsure else ranking

    def intact(self) -> Tensor:
        """Predict with the intact network, (label,); only slices not known so far are run."""
        return self._intact.all()

    def _score(self, ranking: Ranking, chosen: slice | Tensor) -> Tensor:
        return score(ranking, self._labels[chosen], self._intact.predicted[chosen])

    # What the screen leaves open

    def _watch(self, tallies: Sequence[_Tally], ranking: Ranking, counted: range) -> None:
        """Remember thin margins; the first time, learn how large the errors are."""
        logits, margin = ranking.logits, margins(ranking)
        open_to = torch.arange(len(margin[0]), device=logits.device)
        watched = [k for k, tally in enumerate(tallies) if tally.watch is not None]
        if counted.start == 0:
            wide = margin[watched].where(margin[watched] >= 0, math.inf)  # no error shows there
            order = wide.mean(0).argsort()
            chosen, open_to = order[: self.execution.check_size], order[self.execution.check_size :]
            self._learn_errors([tallies[k] for k in watched], logits[watched][:, chosen], chosen)
        for k in watched:
            tally, row = tallies[k], margin[k]
            assert tally.watch is not None
            tally.watch.keep(counted.start + open_to, row[open_to], logits[k, open_to])
            hopeless = HOPELESS * len(row)
            if counted.start == 0 and float((row <= tally.watch.doubtful).sum()) > hopeless:
                self._recount(tally)

    def _learn_errors(self, tallies: Sequence[_Tally], low: Tensor, examples: Tensor) -> None:
        """Let float32 decide the same examples under all interventions."""
        for tally in tallies:
            tally.check = self.execution.prepare_check(tally.replacement)
        self._decide({tally: (examples, was) for tally, was in zip(tallies, low, strict=True)})

    def _settle(self, tallies: Sequence[_Tally]) -> None:
        """Put float32's counts in the place of the screen's wherever a margin is thin."""
        size = self.execution.check_size
        open_to = {one: one.watch.thinnest(size) for one in tallies if one.watch is not None}
        while open_to:
            asked = {tally: next(stream, None) for tally, stream in open_to.items()}
            thin = {tally: some for tally, some in asked.items() if some is not None}
            for together in in_batches(thin, size):
                self._decide(together)
            open_to = {tally: open_to[tally] for tally in thin}
        for tally in tallies:
            if tally.watch is not None and tally.watch.failed:
                self._recount(tally)

    def _decide(self, thin: Mapping[_Tally, Thin]) -> None:
        """Compute some examples of each intervention in float32, which share the prefix."""
        examples = torch.cat([some for some, _ in thin.values()]).unique()
        checks = [(tally.replacement, tally.check) for tally in thin]
        exact = self.execution.exact(self._inputs[examples], checks)
        for (tally, (some, low)), found in zip(thin.items(), exact, strict=True):
            self._correct(tally, some, low, found[torch.searchsorted(examples, some)])

    def _correct(self, tally: _Tally, examples: Tensor, low: Tensor, exact: Tensor) -> None:
        """Put float32's logits in the place of the screen's, and learn from the difference."""
        assert tally.watch is not None
        tally.watch.learn(low, exact)
        scores = self._score(Ranking(torch.stack([low, exact])), examples)
        scores[:, 0] = scores[:, 0].nan_to_num(0.0, 0.0, 0.0)
        before, after = scores.sum(2).unbind(1)
        tally.add((after - before).tolist())
        if tally.predicted is not None:
            tally.predicted[examples] = exact.argmax(1).to(tally.predicted.dtype)

    def _recount(self, tally: _Tally) -> None:
        """Count in float32 from the start, and go on so."""
        seen = tally.labels // self._per_example
        tally.prepared, tally.watch = self.execution.prepare(tally.replacement), None
        tally.low_intact = False
        tally.sums = [0.0] * len(COUNTED)
        for position in range(-(-seen // self._size)):
            self._slice([tally], position)
