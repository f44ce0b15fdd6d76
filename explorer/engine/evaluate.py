"""The test error under an intervention, as a stream of partial counts that ends exact."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
import xarray as xr
from torch import Tensor, nn

from explorer.data.datasets import as_examples
from explorer.engine.estimate import Estimate, score
from explorer.engine.execution import Execution, filled_up
from explorer.engine.interventions import BatchNormPolicy, Intervention
from explorer.engine.network import FinalNetwork, plain_float32
from explorer.engine.program import Plan
from explorer.engine.replay import INTACT
from explorer.errors import DataError, UsageError

ORDER_SEED = 1902_01996
"""Seed of the fixed random order of the test examples, so that early estimates are unbiased."""


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
        self._intact: dict[int, Tensor] = {}  # slice → labels the intact network predicts
        with self._settings():
            self._execution = Execution(self.network, self._inputs, batch_size)
        self.batch_size = self._execution.batch_size
        # the last slice is filled up, and its logits are cut afterwards
        self._inputs = filled_up(self._inputs, self.total + -self.total % self.batch_size)

    @property
    def device_label(self) -> str:
        """The device in words."""
        return self.network.device_label

    @property
    def execution(self) -> str:
        """How the network is run, in words."""
        return self._execution.words

    def plan(self, intervention: Intervention) -> Plan | None:
        """Which operations an intervention runs again; None where the whole pass is run."""
        replacement = self.network.replacement(intervention)
        return self._execution.plan(tuple(replacement))

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

    def count(
        self, replacements: Sequence[Mapping[str, Tensor]], tolerance: float = 0.0
    ) -> Iterator[list[Estimate]]:
        """Stream the counts under many interventions at once, sharing what they share.

        Parameters
        ----------
        replacements : sequence of mapping
            As `FinalNetwork.replacement` returns them; tensors stay on the device meanwhile.
        tolerance : float
            An intervention is left alone when its error is known to ± this fraction; 0 counts
            all examples.

        Yields
        ------
        list of Estimate
            One per replacement, after each slice of the examples; without tolerance the last
            ones are exact.
        """
        with self._settings():
            prepared = [self._execution.prepare(replacement) for replacement in replacements]
        totals = [Estimate(0, self.total, 0, 0.0, 0, 0)] * len(replacements)
        active = list(range(len(replacements)))
        for position in range(len(self._inputs) // self.batch_size):
            with self._settings():
                logits = self._slice_logits(
                    [replacements[k] for k in active], [prepared[k] for k in active], position
                )
                counted = self._add([totals[k] for k in active], logits, position)
            for k, estimate in zip(active, counted, strict=True):
                totals[k] = estimate
            active = [k for k in active if totals[k].half_width > tolerance]
            yield list(totals)
            if not active:
                return

    def _slice_logits(
        self,
        replacements: Sequence[Mapping[str, Tensor]],
        prepared: Sequence[Any],
        position: int,
    ) -> Tensor:
        """Logits of one slice, (replacement, example, class); learns the intact labels with it."""
        start = position * self.batch_size
        stop = min(start + self.batch_size, self.total)
        inputs = self._inputs[start : start + self.batch_size]
        intact = position not in self._intact
        found = {
            k: logits[: stop - start]
            for k, logits in self._execution.run(inputs, replacements, prepared, intact)
        }
        if intact:
            self._check_logits(found[INTACT])
            self._intact[position] = found[INTACT].argmax(1)
        return torch.stack([found[k] for k in range(len(replacements))])

    def _add(self, totals: Sequence[Estimate], logits: Tensor, position: int) -> list[Estimate]:
        start = position * self.batch_size
        stop = start + logits.shape[1]
        scores = score(logits, self._labels[start:stop], self._intact[position])
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
        From `explorer.reinitialise` or `explorer.rerandomise`, or put together from the sources
        in `explorer.engine.interventions`.
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


def _named_dataset(stack: xr.DataTree) -> str:
    name = str(stack.attrs.get("dataset", ""))
    if not name:
        raise DataError(
            f"The stack {stack.attrs.get('name')!r} does not name a dataset.",
            "Labelled test examples are needed.",
            "Pass data=, a torch Dataset of (input, label) or a pair (inputs, labels).",
        )
    return name
