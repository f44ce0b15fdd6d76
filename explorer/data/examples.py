"""Labelled examples: what a network is tested on, and what it is trained with."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import IterableDataset

from explorer.errors import DataError

MEMORY_BUDGET = 4 * 2**30
"""Bytes that a test set or a text may take in memory before a limit is asked for."""


@dataclass(frozen=True)
class LabelledExamples:
    """Labelled examples held in memory."""

    inputs: Tensor
    """(example, …) float32, normalised as in training; of text (example, position) int64 tokens."""
    labels: Tensor
    """(example,) int64, 0 … classes − 1; (example, position) where each position has an answer."""
    name: str
    """Name of the dataset."""
    content_hash: str
    """sha256 over inputs and labels, hexadecimal."""
    class_names: tuple[str, ...] = ()
    """Name of each label, of texts the text of each token; empty where they have none."""

    @property
    def chance_error(self) -> float:
        """Error of always answering the most frequent label."""
        counts = torch.bincount(self.labels.flatten())
        return 1.0 - float(counts.max()) / self.labels.numel()

    def __len__(self) -> int:
        return len(self.labels)


class TrainingSet(Protocol):
    """Training examples, possibly drawn anew for every epoch."""

    @property
    def name(self) -> str:
        """Name of the dataset."""

    def __len__(self) -> int: ...

    def batches(
        self, batch_size: int, generator: torch.Generator, device: torch.device
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """One epoch: inputs and labels on the device, augmented, normalised.

        All chance, the order of the examples included, comes from the generator, which lives
        on the CPU so that every device sees the same epoch. The last batch may be smaller.
        """

    def evaluation(self, limit: int | None = None) -> LabelledExamples:
        """Training examples as they are without augmentation, for the training error.

        With a limit, at most so many, evenly spread over the set.
        """


def batch_order(
    count: int, batch_size: int, generator: torch.Generator, device: torch.device
) -> tuple[Tensor, ...]:
    """Draw the order of one epoch: for each batch the numbers of its examples, on the device."""
    # copied in one piece: a copy per batch would make a GPU wait
    batches: tuple[Tensor, ...] = (
        torch.randperm(count, generator=generator).to(device).split(batch_size)
    )
    return batches


def spread(count: int, limit: int | None) -> Tensor:
    """Numbers of at most `limit` of `count` examples, evenly spread, the first among them."""
    if limit is None or limit >= count:
        return torch.arange(count)
    return torch.arange(limit) * count // limit


def examples_of(
    inputs: Tensor, labels: Tensor, name: str, class_names: tuple[str, ...] = ()
) -> LabelledExamples:
    """Put inputs and labels that are known to fit together with their hash."""
    digest = hashlib.sha256(inputs.contiguous().numpy().data)
    digest.update(labels.contiguous().numpy().data)
    return LabelledExamples(inputs, labels, name, digest.hexdigest(), class_names)


# --- what users bring ------------------------------------------------------------------------


def from_arrays(inputs: Tensor, labels: Tensor, name: str) -> LabelledExamples:
    """Labelled examples from a pair, checked.

    Raises
    ------
    DataError
        Not one label per example or position, no example, or labels that are no class numbers.
    """
    whole = not (labels.is_floating_point() or labels.is_complex())
    fitting = labels.ndim in (1, 2) and labels.shape == inputs.shape[: labels.ndim]
    if not fitting or not labels.numel() or not whole:
        raise DataError(
            f"Inputs have shape {tuple(inputs.shape)}, labels {tuple(labels.shape)} "
            f"of {labels.dtype}.",
            "Inputs (example, …) and as many integer labels (example,) are needed, at least one; "
            "or (example, position, …) and (example, position).",
            "Check that both come from the same split and that labels are class numbers.",
        )
    if int(labels.min()) < 0:
        raise DataError(
            f"The smallest label is {int(labels.min())}.",
            "Labels are class numbers from 0 on.",
            "Shift the labels so that the first class is 0.",
        )
    if inputs.is_floating_point():
        inputs = inputs.float()
    return examples_of(inputs.cpu(), labels.long().cpu(), name)


def from_dataset(dataset: Any) -> LabelledExamples:
    """Labelled examples from a torch Dataset, read once from its first item to its last.

    Raises
    ------
    DataError
        The items are not pairs, there is none, or they do not stack to one tensor.
    """
    if isinstance(dataset, IterableDataset):
        pairs = list(dataset)
    else:
        pairs = [dataset[i] for i in range(len(dataset))]
    name = type(dataset).__name__
    if not pairs or any(not isinstance(pair, (tuple, list)) or len(pair) != 2 for pair in pairs):
        raise DataError(
            f"The dataset {name} has {len(pairs)} items that are not all pairs.",
            "Each item must be a pair (input, label), and there must be at least one.",
            "Wrap the dataset so that dataset[i] returns (input, label).",
        )
    inputs, labels = ([pair[side] for pair in pairs] for side in (0, 1))
    found = from_arrays(_stacked(inputs, "inputs", name), _stacked(labels, "labels", name), name)
    return replace(found, class_names=_class_names(dataset))


def _class_names(dataset: Any) -> tuple[str, ...]:
    """Names of the classes, where a dataset lists them as torchvision's do."""
    names = getattr(dataset, "classes", ())
    return tuple(map(str, names)) if isinstance(names, (list, tuple)) else ()


def _stacked(items: list[Any], what: str, name: str) -> Tensor:
    """Stack the items of a dataset, explaining why that is not possible."""
    try:
        return torch.stack([torch.as_tensor(item) for item in items])
    except (TypeError, ValueError, RuntimeError) as error:
        kinds = sorted({_kind(item) for item in items})
        raise DataError(
            f"The {what} of the dataset {name} do not stack: {', '.join(kinds[:4])}.",
            "Numbers, arrays or tensors of one shape are needed.",
            "Give the dataset a transform that makes tensors of one size, for example "
            "torchvision.transforms.v2 with Resize, ToImage and ToDtype.",
        ) from error


def _kind(item: Any) -> str:
    shape = getattr(item, "shape", None)
    return type(item).__name__ if shape is None else f"{type(item).__name__} {tuple(shape)}"
