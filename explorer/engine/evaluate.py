"""The test error under an intervention, as a stream of partial counts that ends exact."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
import xarray as xr
from torch import Tensor, nn

from explorer.data.datasets import as_examples
from explorer.engine.estimate import Estimate, score
from explorer.engine.interventions import BatchNormPolicy, Intervention
from explorer.engine.network import FinalNetwork, plain_float32
from explorer.engine.program import RECORDING_ERRORS, Plan
from explorer.engine.replay import INTACT, Pass, PlainPass, Replay
from explorer.errors import DataError, UsageError

logger = logging.getLogger(__name__)

ORDER_SEED = 1902_01996
"""Seed of the fixed random order of the test examples, so that early estimates are unbiased."""


TRIAL_BATCH = 64
"""Batch of the first recording, which shows how large the values are."""

ROUNDING = 1e-4
"""Share of the largest logit by which a replay may differ: another order of the same sums."""

PLEASANT_SLICES = 8
"""Estimates in a run that a reader can follow; fewer only where there are few examples."""

BATCH_BYTES = {"cpu": (16e6, 16, 512), "cuda": (512e6, 64, 4096), "mps": (128e6, 32, 1024)}
"""Device → bytes the largest value may take, and the least and most examples per pass."""


class Evaluator:
    """Test set and final network, held on the device for many interventions.

    Parameters
    ----------
    stack : xarray.DataTree
        An open stack.
    model : torch.nn.Module, optional
        The network's architecture, where the stack names no known family.
    data : str, torch Dataset, pair of arrays, optional
        Labelled test examples; default the stack's own dataset.
    device : str
        ``"auto"`` or a torch device.
    batch_size : int, optional
        Examples in one forward pass; default as many as the device works on best.
    batchnorm : {"with_layer", "weights_only", "recalibrate"}
        What happens to running statistics when their layer is replaced.

    Raises
    ------
    StackError, DataError, UsageError, UnknownNameError
        The model, the data or an argument does not fit.
    """

    def __init__(
        self,
        stack: xr.DataTree,
        *,
        model: nn.Module | None = None,
        data: Any = None,
        device: str = "auto",
        batch_size: int | None = None,
        batchnorm: BatchNormPolicy = "with_layer",
    ) -> None:
        if batch_size is not None and batch_size < 1:
            raise UsageError(
                f"The batch size is {batch_size}.",
                "At least 1 example per forward pass is needed.",
                "Leave batch_size out to get the default.",
            )
        examples = as_examples(_named_dataset(stack) if data is None else data)
        self.network = FinalNetwork(stack, model=model, device=device, batchnorm=batchnorm)
        self.dataset, self.dataset_hash = examples.name, examples.content_hash
        self.chance_error = examples.chance_error
        self.total = len(examples)
        order = torch.randperm(self.total, generator=torch.Generator().manual_seed(ORDER_SEED))
        self._inputs = examples.inputs[order].to(self.network.device)
        self._labels = examples.labels[order].to(self.network.device)
        self._intact: list[Tensor] = []  # predicted labels, one tensor per slice
        self._pass: Pass
        with self._settings():
            self.batch_size = self._record(batch_size)
        # the last slice is filled up, and its logits are cut afterwards
        self._inputs = self._example(self.total + -self.total % self.batch_size)

    @property
    def device_label(self) -> str:
        """The device in words."""
        return self.network.device_label

    def plan(self, intervention: Intervention) -> Plan | None:
        """Which operations an intervention runs again; None where the whole pass is run."""
        replacement = self.network.replacement(intervention)
        return self._pass.plan(tuple(replacement)) if isinstance(self._pass, Replay) else None

    def estimates(self, intervention: Intervention) -> Iterator[Estimate]:
        """Stream the counts under an intervention; the last estimate is exact.

        To stop, do not ask for the next. Examples come in one fixed random order.

        Parameters
        ----------
        intervention : Intervention
            Layers ← sources; no change for the intact network.

        Yields
        ------
        Estimate

        Raises
        ------
        UnknownNameError, CheckpointError, InterventionError
            Before the first estimate, when the intervention cannot be carried out.
        DataError
            The labels do not fit the network's output.
        """
        replacement = self.network.replacement(intervention)
        return (estimates[0] for estimates in self.count([replacement]))

    def result(self, intervention: Intervention) -> Estimate:
        """Exact counts under an intervention."""
        *_, last = self.estimates(intervention)
        return last

    def count(self, replacements: Sequence[Mapping[str, Tensor]]) -> Iterator[list[Estimate]]:
        """Stream the counts under many interventions at once, sharing what they share.

        Parameters
        ----------
        replacements : sequence of mapping
            As `FinalNetwork.replacement` returns them; tensors stay on the device meanwhile.

        Yields
        ------
        list of Estimate
            One per replacement, after each slice of the examples; the last ones are exact.
        """
        with self._settings():
            prepared = [self._pass.prepare(replacement) for replacement in replacements]
        totals = [Estimate(0, self.total, 0, 0.0, 0, 0)] * len(prepared)
        for position, start in enumerate(range(0, self.total, self.batch_size)):
            with self._settings():
                totals = self._add_slice(totals, prepared, position, start)
            yield totals

    def _add_slice(
        self, totals: Sequence[Estimate], prepared: Sequence[Any], position: int, start: int
    ) -> list[Estimate]:
        stop = min(start + self.batch_size, self.total)
        inputs, labels = self._inputs[start : start + self.batch_size], self._labels[start:stop]
        intact = position == len(self._intact)
        logits: dict[int, Tensor] = dict(self._pass.run(inputs, prepared, intact))
        if intact:
            self._check_logits(logits[INTACT])
            self._intact.append(logits.pop(INTACT)[: stop - start].argmax(1))
        kept = torch.stack([logits[k][: stop - start] for k in range(len(prepared))])
        scores = score(kept, labels, self._intact[position])
        return [
            Estimate(
                stop,
                self.total,
                errors=total.errors + int(errors),
                loss_sum=total.loss_sum + loss,
                agreements=total.agreements + int(agreements),
                nonfinite=total.nonfinite + int(nonfinite),
            )
            for total, errors, agreements, nonfinite, loss in zip(totals, *scores, strict=True)
        ]

    def _record(self, batch_size: int | None) -> int:
        """Record the forward pass and settle the batch size; without success, run it plainly."""
        self._pass = PlainPass(self.network.logits)
        self.execution = "reuses what an intervention does not change"
        trial = batch_size or TRIAL_BATCH
        try:
            replay = self.network.record(self._example(trial))
            largest = replay.program.largest / trial
            chosen = batch_size or best_batch(largest, self.total, self.network.device)
            if chosen != trial:
                replay = self.network.record(self._example(chosen))
        except RECORDING_ERRORS as error:
            self._fall_back(f"it could not be recorded ({first_line(error)})")
            return trial
        if self._replays_rightly(replay, self._example(chosen)):
            self._pass = replay
        else:
            self._fall_back("its recorded pass gave other logits than the plain one")
        return chosen

    def _example(self, size: int) -> Tensor:
        """As many inputs, the first one again where there are too few."""
        inputs = self._inputs[:size]
        filler = inputs[:1].expand(size - len(inputs), *inputs.shape[1:])
        return torch.cat([inputs, filler])

    def _replays_rightly(self, replay: Replay, inputs: Tensor) -> bool:
        """Compare with the plain pass, for the final network and with every tensor changed.

        The second would show a tensor whose value the recording took for a constant. Plans for
        fewer tensors follow from the same recording.
        """
        changed = self.network.perturbed()
        found = dict(replay.run(inputs, [replay.prepare(changed)], intact=True))
        return all(
            nearly_equal(found[k], self.network.logits(inputs, replacement))
            for k, replacement in ((0, changed), (INTACT, {}))
        )

    def _fall_back(self, reason: str) -> None:
        self.execution = f"runs the whole network for every cell: {reason}"
        self._pass = PlainPass(self.network.logits)
        logger.warning("%s %s", type(self.network).__name__, self.execution)

    @contextlib.contextmanager
    def _settings(self) -> Iterator[None]:
        """Settings of torch that hold while a slice is computed, and not between slices."""
        with torch.inference_mode(), plain_float32():
            yield

    def _check_logits(self, logits: Tensor) -> None:
        highest, classes = int(self._labels.max()), logits.shape[1]
        if highest >= classes:
            raise DataError(
                f"The dataset {self.dataset} has a label {highest}.",
                f"The network has {classes} outputs: labels 0 to {classes - 1}.",
                "Use the dataset the network was trained on.",
            )


def best_batch(bytes_per_example: float, total: int, device: torch.device) -> int:
    """Examples per forward pass, a power of two.

    As many as keep the largest value within fast memory, but no more than leave a reader
    `PLEASANT_SLICES` estimates to watch.
    """
    target, least, most = BATCH_BYTES.get(device.type, BATCH_BYTES["cpu"])
    fitting = min(int(target / max(bytes_per_example, 1.0)), most)
    watched = max(TRIAL_BATCH, total // PLEASANT_SLICES)
    return max(least, 1 << max(0, min(fitting, watched).bit_length() - 1))


def evaluate(
    stack: xr.DataTree,
    intervention: Intervention,
    *,
    model: nn.Module | None = None,
    data: Any = None,
    device: str = "auto",
    batch_size: int | None = None,
    batchnorm: BatchNormPolicy = "with_layer",
) -> Iterator[Estimate]:
    """Test error of the final network under one intervention, as it becomes known.

    Parameters
    ----------
    stack : xarray.DataTree
        As `explorer.open_stack` returns it.
    intervention : Intervention
        From `explorer.reinitialise` or `explorer.rerandomise`.
    model, data, device, batch_size, batchnorm
        As in `Evaluator`.

    Returns
    -------
    iterator of Estimate
        Partial counts over the test examples in a fixed random order, each with a 95 % Wilson
        interval; the last one is exact. To stop, do not ask for the next.

    Raises
    ------
    UnknownNameError, StackError, CheckpointError, InterventionError, DataError, UsageError
        Before the first estimate, when something does not fit.

    Examples
    --------
    >>> import explorer as lx
    >>> stack = lx.open_stack("fcn3x256-digits")
    >>> *_, last = lx.evaluate(stack, lx.reinitialise("layer1", epoch=0))
    >>> last.examples
    1800
    """
    evaluator = Evaluator(
        stack, model=model, data=data, device=device, batch_size=batch_size, batchnorm=batchnorm
    )
    return evaluator.estimates(intervention)


def nearly_equal(found: Tensor, expected: Tensor) -> bool:
    """Tell whether logits agree but for rounding, and the labels altogether."""
    bound = ROUNDING * float(expected.nan_to_num().abs().max())
    same = torch.equal(found.argmax(1), expected.argmax(1))
    return same and torch.allclose(found, expected, rtol=0.0, atol=bound, equal_nan=True)


def first_line(error: Exception) -> str:
    """First line of an error's message, or its type where it has none."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def _named_dataset(stack: xr.DataTree) -> str:
    name = str(stack.attrs.get("dataset", ""))
    if not name:
        raise DataError(
            f"The stack {stack.attrs.get('name')!r} does not name a dataset.",
            "Labelled test examples are needed.",
            "Pass data=, a torch Dataset of (input, label) or a pair (inputs, labels).",
        )
    return name
