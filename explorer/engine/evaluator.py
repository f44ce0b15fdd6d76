"""Test set and final network, ready to count errors under any intervention."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from torch import Tensor, nn

from explorer.arguments import whole_number
from explorer.engine.answers import Answers, answers_of
from explorer.engine.counting import Counting
from explorer.engine.estimate import Estimate
from explorer.engine.examples import calibration_inputs, examples_for
from explorer.engine.execution import Execution
from explorer.engine.inside import Watch
from explorer.engine.interventions import BatchNormPolicy, Intervention
from explorer.engine.journal import Journal
from explorer.engine.memory import TRIAL_BATCH, is_out_of_memory, no_room
from explorer.engine.network import FinalNetwork
from explorer.engine.predictions import Order, Predictions, Remembered
from explorer.engine.program import Plan
from explorer.errors import InterventionError
from explorer.weights.device import plain_float32
from explorer.weights.stack import check_is_stack

logger = logging.getLogger(__name__)

FEW_NUMBERS = 32
"""Logits by which a forward pass is known again."""

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
    screen : bool
        Compute in a lower precision first (bfloat16 on the CPU, float16 on CUDA), and in float32
        wherever a label is not settled by it. Labels are those of float32 as far as checks on
        every intervention show; the loss is that of the lower precision.
    memory : int, optional
        Bytes that the values of one forward pass may take; default half of what is free on a
        GPU, 1 GB elsewhere. Less memory makes smaller slices. Where it runs out all the same,
        the slices are halved. A quarter as much may be kept besides for the next intervention.
    calibration : Tensor or array, optional
        (example, …) inputs from which the policy ``"recalibrate"`` takes running statistics;
        default the first 1,024 training examples of the stack's dataset.

    Attributes
    ----------
    journal : Journal, optional
        Where finished counts are kept beyond this session; set it before the first evaluation.

    Raises
    ------
    StackError, DataError, UsageError, UnknownNameError
        The model, the data or an argument does not fit.
    OutOfMemoryError
        Not even one example at a time fits into memory.
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
        screen: bool = False,
        memory: int | None = None,
        calibration: Any = None,
    ) -> None:
        if batch_size is not None:
            batch_size = whole_number("batch_size", batch_size, "Leave it out for the default.", 1)
        check_is_stack(stack)
        examples = examples_for(stack, data)
        self.network = FinalNetwork(
            stack,
            model=model,
            device=device,
            batchnorm=batchnorm,
            calibration=calibration_inputs(stack, calibration)
            if batchnorm == "recalibrate"
            else None,
        )
        self.dataset, self.dataset_hash = examples.name, examples.content_hash
        self.chance_error = examples.chance_error
        self.total = examples.labels.numel()
        self.class_names = examples.class_names
        order = torch.randperm(len(examples), generator=torch.Generator().manual_seed(ORDER_SEED))
        self._order = Order(order, tuple(examples.labels.shape))
        self._inputs = examples.inputs[order].to(self.network.device)
        self._labels = examples.labels[order].to(self.network.device)
        self._screen, self._memory = screen, memory
        self._counting = self._set_up(batch_size)
        self.journal: Journal | None = None
        self._given = {
            **{"model": model, "data": data, "device": device, "batch_size": batch_size},
            **{"batchnorm": batchnorm, "memory": memory, "calibration": calibration},
            "screen": screen,
        }
        self._remembered: dict[Intervention, Estimate] = {}
        self._predicted = Remembered()

    def like(self, stack: xr.DataTree) -> Evaluator:
        """Return another, of another stack of the same network, with the same test examples."""
        return Evaluator(stack, **self._given)

    @property
    def tied(self) -> str:
        """Tensors that are one and are replaced together, as ``"a = b"``; empty for none."""
        return self.network.tied

    @property
    def caution(self) -> str:
        """What a reader has to know of the numbers of such a network; empty for most."""
        return self.network.traits.caution

    @property
    def first_logits(self) -> str:
        """The trained network's logits for the first examples: what it computes, in few numbers."""
        found = self.network.few_logits
        several = [] if found is None else found.flatten()[:FEW_NUMBERS].tolist()
        return " ".join(f"{number:.4g}" for number in several)

    @property
    def batch_size(self) -> int:
        """Examples in one forward pass."""
        return self._counting.execution.batch_size

    @property
    def screen(self) -> str:
        """Precision in which cells are computed first, or ``"none"``."""
        low = self._counting.execution.low_dtype
        return "none" if low is None else str(low).removeprefix("torch.")

    @property
    def device_label(self) -> str:
        """The device in words."""
        return self.network.device_label

    @property
    def execution(self) -> str:
        """How the network is run, in words."""
        return self._counting.execution.words

    def plan(self, intervention: Intervention) -> Plan | None:
        """Which operations an intervention runs again; None where the whole pass is run."""
        replacement = self.network.replacement(intervention)
        return self._counting.execution.plan(tuple(replacement))

    def estimates(self, intervention: Intervention) -> Iterator[Estimate]:
        """Stream the counts under an intervention; the last estimate is exact.

        To stop, do not ask for the next. Examples come in one fixed random order. What has been
        counted to the end before is remembered, and comes at once.

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
        OutOfMemoryError
            Not even one example at a time fits into memory; later it may.
        """
        canonical = self.network.canonical(intervention)
        known = self.journal.get(canonical) if self.journal else self._remembered.get(canonical)
        if known is not None:
            return (estimate for estimate in (known,))
        return self._measured(canonical, self.network.replacement(canonical))

    def result(self, intervention: Intervention) -> Estimate:
        """Exact counts under an intervention."""
        *_, last = self.estimates(intervention)
        return last

    def predictions(self, intervention: Intervention) -> Predictions:
        """What the network answers to every example, before and after an intervention.

        No pass through the network is needed where `estimates` has just come to its end.

        Parameters
        ----------
        intervention : Intervention
            Layers ← sources.

        Returns
        -------
        Predictions
            In the order of the dataset, with the labels that are counted as errors or not.

        Raises
        ------
        UnknownNameError, CheckpointError, InterventionError, DataError
            As in `estimates`; an InterventionError also where some logits are not finite.
        """
        canonical = self.network.canonical(intervention)
        predicted = self._predicted.get(canonical)
        if predicted is None:
            *_, last = self._measured(canonical, self.network.replacement(canonical))
            if last.failure:
                raise _no_answers(intervention, last.failure)
            predicted = self._predicted.get(canonical)
        assert predicted is not None  # _measured has put it there
        with self._settings():
            intact = self._counting.intact()
        counted = (self._labels.flatten(), intact, predicted)
        return Predictions(*(self._order.restored(numbers) for numbers in counted))

    def inputs_of(self, examples: Sequence[int]) -> NDArray[Any]:
        """Inputs (example, …) as the network sees them, of examples numbered as in the dataset."""
        places = self._order.places(examples).to(self._inputs.device)
        return np.asarray(self._inputs[places].cpu())

    def class_counts(self, classes: int) -> NDArray[np.int64]:
        """Test examples of each class, (class,)."""
        return np.asarray(torch.bincount(self._labels.flatten().cpu(), minlength=classes))

    def watch(self) -> Watch | None:
        """Return what tells what happens inside the network; None where it is not recorded."""
        with self._settings():
            return self._counting.execution.watch()

    def answers(
        self,
        replacements: Sequence[Mapping[str, Tensor]],
        watch: Watch | None = None,
        intact: bool = True,
    ) -> Iterator[Answers]:
        """Stream the logits of all examples, slice by slice; see `explorer.engine.answers`."""
        execution = self._counting.execution
        stream = answers_of(execution, self._inputs, self._labels, replacements, watch, intact)
        while True:
            with self._settings():
                found = next(stream, None)
            if found is None:
                return
            yield found

    def count(
        self,
        replacements: Sequence[Mapping[str, Tensor]],
        tolerance: float = 0.0,
        predicted: Sequence[Tensor] = (),
    ) -> Iterator[list[Estimate]]:
        """Stream the counts under many interventions at once, sharing what they share.

        Parameters
        ----------
        replacements : sequence of mapping
            As `FinalNetwork.replacement` returns them; tensors stay on the device meanwhile.
        tolerance : float
            An intervention is left alone when its error is known to ± this fraction; 0 counts
            all examples.
        predicted : sequence of Tensor
            One per replacement, or none: (label,) int32 on the device, filled with the predicted
            labels.

        Yields
        ------
        list of Estimate
            One per replacement, after each slice of the examples; without tolerance the last
            ones are exact.
        """
        while True:
            stream = self._counting.count(replacements, tolerance, predicted)
            try:
                while True:
                    with self._settings():
                        estimates = next(stream, None)
                    if estimates is None:
                        return
                    yield estimates
            except (RuntimeError, MemoryError) as error:
                self._counting.execution.kept.forget()
                # of many interventions the caller can drop some, which may be all that it takes
                if not is_out_of_memory(error) or len(replacements) > 1:
                    raise
                if self.batch_size == 1:
                    raise no_room(self.device_label, error) from error
            self._counting = self._set_up(self.batch_size // 2)

    def _measured(
        self, canonical: Intervention, replacement: Mapping[str, Tensor]
    ) -> Iterator[Estimate]:
        predicted = torch.empty(self.total, dtype=torch.int32, device=self._labels.device)
        for (last,) in self.count([replacement], predicted=[predicted]):
            yield last
        self._remembered[canonical] = last
        if last.failure:
            return
        self._predicted.put(canonical, predicted)
        if self.journal is not None and self.journal.get(canonical) is None:
            self.journal.add({canonical: last})

    def _set_up(self, batch_size: int | None) -> Counting:
        """Make ready to count in slices; halve them where memory runs out."""
        while True:
            try:
                with self._settings():
                    execution = Execution(
                        self.network, self._inputs, batch_size, self._memory, self._screen
                    )
                return Counting(execution, self._inputs, self._labels, self.dataset)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                if batch_size == 1:
                    raise no_room(self.device_label, error) from error
            batch_size = (batch_size or TRIAL_BATCH) // 2
            logger.warning("Out of memory on %s; slices of %d", self.device_label, batch_size)

    @contextlib.contextmanager
    def _settings(self) -> Iterator[None]:
        """Settings of torch that hold while a slice is computed, and not between slices."""
        with torch.inference_mode(), plain_float32():
            yield


def _no_answers(intervention: Intervention, failure: str) -> InterventionError:
    return InterventionError(
        f"There are no answers under {intervention}: {failure}.",
        "Values that give finite logits for every example are needed.",
        "Choose another epoch or another draw.",
    )
