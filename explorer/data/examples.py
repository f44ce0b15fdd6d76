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


IGNORED = -100
"""Label that torch's losses leave out unless they are told another one."""


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
        _, counts = self.labels.unique(return_counts=True)  # whatever the numbers of the classes
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


def check_plain(values: Tensor, what: str) -> None:
    """Refuse a tensor whose numbers do not lie in memory one beside the other.

    Raises
    ------
    DataError
        It is sparse, nested or quantised, or lies on the meta device.
    """
    if values.is_meta:
        kind, advice = "on the meta device, where tensors have no values", "Load the values first."
    elif values.is_nested:
        kind, advice = "a nested tensor", "Give all examples one shape, for example by padding."
    elif values.layout != torch.strided:
        kind = f"a tensor of layout {str(values.layout).removeprefix('torch.')}"
        advice = "Pass what its to_dense() returns."
    elif values.is_quantized:
        kind, advice = f"a quantised tensor, {values.dtype}", "Pass what its dequantize() returns."
    else:
        return
    raise DataError(f"The {what} are {kind}.", "A plain tensor of numbers is needed.", advice)


def from_arrays(inputs: Tensor, labels: Tensor, name: str) -> LabelledExamples:
    """Labelled examples from a pair, checked.

    Raises
    ------
    DataError
        Not one label per example or position, no example, labels that are no class numbers, or
        what is no plain tensor.
    """
    check_plain(inputs, "inputs")
    check_plain(labels, "labels")
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
    labels = labels.long().cpu()
    _check_classes(labels)
    if inputs.is_floating_point():
        inputs = inputs.float()
    return examples_of(inputs.cpu(), labels, name)


def _check_classes(labels: Tensor) -> None:
    """Refuse labels that are no numbers of classes."""
    left_out = labels == IGNORED
    if left_out.any():
        which = "labels != -100" if labels.ndim == 1 else "(labels != -100).all(1)"
        raise DataError(
            f"{int(left_out.sum())} of {labels.numel()} labels are {IGNORED}, by which torch's "
            "losses know what they are not to count (ignore_index).",
            "Labels are class numbers from 0 on, and each of them counts.",
            f"Leave those examples out: keep = {which}; data=(inputs[keep], labels[keep]).",
        )
    if int(labels.min()) < 0:
        raise DataError(
            f"The smallest label is {int(labels.min())}.",
            "Labels are class numbers from 0 on.",
            "Shift the labels so that the first class is 0.",
        )


def from_dataset(dataset: Any) -> LabelledExamples:
    """Labelled examples from a torch Dataset, read once from its first item to its last.

    Raises
    ------
    DataError
        There are no items 0, 1, 2, …, they are not pairs, or they do not stack to one tensor.
    """
    name = type(dataset).__name__
    pairs = list(dataset) if isinstance(dataset, IterableDataset) else _items(dataset, name)
    if not pairs or any(not isinstance(pair, (tuple, list)) or len(pair) != 2 for pair in pairs):
        raise DataError(
            f"The dataset {name} has {len(pairs)} items that are not all pairs.",
            "Each item must be a pair (input, label), and there must be at least one.",
            "Wrap the dataset so that dataset[i] returns (input, label).",
        )
    inputs, labels = ([pair[side] for pair in pairs] for side in (0, 1))
    found = from_arrays(_stacked(inputs, "inputs", name), _stacked(labels, "labels", name), name)
    return replace(found, class_names=_class_names(dataset))


def _items(dataset: Any, name: str) -> list[Any]:
    try:
        return [dataset[i] for i in range(len(dataset))]
    except KeyError as error:  # of a mapping, or a table
        raise DataError(
            f"The test data is a {name} without an item {error}.",
            "A torch Dataset has the items 0, 1, 2, …, each a pair (input, label).",
            "Pass the columns that are meant as a pair: data=(inputs, labels).",
        ) from error


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
