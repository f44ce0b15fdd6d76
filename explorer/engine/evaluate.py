"""The test error under an intervention, as a stream of partial counts that ends exact."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import xarray as xr
from torch import Tensor, nn
from torch.nn import functional

from explorer.data.datasets import as_examples
from explorer.engine.interventions import BatchNormPolicy, Intervention
from explorer.engine.network import FinalNetwork
from explorer.errors import DataError, UsageError

Z_95 = 1.959963984540054
"""97.5 % quantile of the standard normal distribution."""

FIRST_SLICE = 64
"""LabelledExamples behind the first estimate; every slice doubles until the batch size."""

ORDER_SEED = 1902_01996
"""Seed of the fixed random order of the test examples, so that early estimates are unbiased."""

DEFAULT_BATCH = {"cpu": 512, "cuda": 4096, "mps": 1024}


@dataclass(frozen=True)
class Estimate:
    """Counts after some of the test examples."""

    examples: int
    """Test examples seen so far."""
    total: int
    """Test examples in all."""
    errors: int
    """Of those seen, misclassified."""
    loss_sum: float
    """Cross-entropy summed over those seen, nats."""
    agreements: int
    """Of those seen, predicted as the intact network does."""
    nonfinite: int
    """Of those seen, with a NaN or infinity among the logits; above 0 no other count holds."""

    @property
    def error(self) -> float:
        """Share of examples misclassified, 0…1."""
        return self.errors / self.examples

    @property
    def error_low(self) -> float:
        """Lower end of the 95 % Wilson interval of the error."""
        return wilson_interval(self.errors, self.examples)[0]

    @property
    def error_high(self) -> float:
        """Upper end of the 95 % Wilson interval of the error."""
        return wilson_interval(self.errors, self.examples)[1]

    @property
    def loss(self) -> float:
        """Mean cross-entropy, nats per example."""
        return self.loss_sum / self.examples

    @property
    def agreement(self) -> float:
        """Share of predictions equal to the intact network's, 0…1."""
        return self.agreements / self.examples

    @property
    def exact(self) -> bool:
        """Whether every test example has been seen."""
        return self.examples == self.total

    @property
    def failure(self) -> str:
        """Why the counts do not hold; empty when they do."""
        if not self.nonfinite:
            return ""
        return f"NaN or infinite logits for {self.nonfinite} of {self.examples} examples"


def wilson_interval(errors: int, examples: int) -> tuple[float, float]:
    """95 % interval of a proportion (Wilson, 1927).

    Parameters
    ----------
    errors, examples : int
        0 ≤ errors ≤ examples, examples ≥ 1.

    Returns
    -------
    tuple of float
        Lower and upper end, within 0…1.
    """
    p, z2 = errors / examples, Z_95**2
    centre = (p + z2 / (2 * examples)) / (1 + z2 / examples)
    spread = Z_95 / (1 + z2 / examples)
    half = spread * math.sqrt(p * (1 - p) / examples + z2 / (4 * examples**2))
    return max(0.0, centre - half), min(1.0, centre + half)


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
        Most examples in one forward pass; default depends on the device.
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
        kind = self.network.device.type
        self.batch_size = batch_size or DEFAULT_BATCH.get(kind, 512)
        self.dataset, self.dataset_hash = examples.name, examples.content_hash
        self.chance_error = examples.chance_error
        self.total = len(examples)
        order = torch.randperm(self.total, generator=torch.Generator().manual_seed(ORDER_SEED))
        self._inputs = examples.inputs[order].to(self.network.device)
        self._labels = examples.labels[order].to(self.network.device)
        self._intact: list[Tensor] = []  # predicted labels, one tensor per slice

    @property
    def device_label(self) -> str:
        """The device in words."""
        return self.network.device_label

    def estimates(self, intervention: Intervention) -> Iterator[Estimate]:
        """Stream the counts under an intervention; the last estimate is exact.

        To stop, do not ask for the next. LabelledExamples come in one fixed random order.

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
        return self._stream(replacement)

    def result(self, intervention: Intervention) -> Estimate:
        """Exact counts under an intervention."""
        *_, last = self.estimates(intervention)
        return last

    def _stream(self, replacement: dict[str, Tensor]) -> Iterator[Estimate]:
        seen = errors = agreements = nonfinite = 0
        loss_sum = 0.0
        for position, (start, stop) in enumerate(slices(self.total, self.batch_size)):
            logits = self.network.logits(self._inputs[start:stop], replacement)
            labels = self._labels[start:stop]
            self._check_classes(logits.shape[1])
            predicted = logits.argmax(1)
            errors += int((predicted != labels).sum())
            agreements += int((predicted == self._intact_labels(position, start, stop)).sum())
            nonfinite += int((~torch.isfinite(logits)).any(1).sum())
            loss_sum += float(functional.cross_entropy(logits, labels, reduction="sum"))
            seen = stop
            yield Estimate(seen, self.total, errors, loss_sum, agreements, nonfinite)

    def _intact_labels(self, position: int, start: int, stop: int) -> Tensor:
        """Labels the intact network predicts for one slice; computed once."""
        if position == len(self._intact):
            logits = self.network.logits(self._inputs[start:stop], {})
            self._intact.append(logits.argmax(1))
        return self._intact[position]

    def _check_classes(self, classes: int) -> None:
        highest = int(self._labels.max())
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


def slices(total: int, batch_size: int) -> Iterator[tuple[int, int]]:
    """Cut 0…total into slices that double from `FIRST_SLICE` up to the batch size."""
    start, size = 0, min(FIRST_SLICE, batch_size)
    while start < total:
        stop = min(start + size, total)
        yield start, stop
        start, size = stop, min(2 * size, batch_size)


def _named_dataset(stack: xr.DataTree) -> str:
    name = str(stack.attrs.get("dataset", ""))
    if not name:
        raise DataError(
            f"The stack {stack.attrs.get('name')!r} does not name a dataset.",
            "Labelled test examples are needed.",
            "Pass data=, a torch Dataset of (input, label) or a pair (inputs, labels).",
        )
    return name
