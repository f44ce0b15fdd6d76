"""Datasets: the embedded digits, plain and framed, and whatever the user brings.

Test images are the same on every platform and in every session: they are built in integer
arithmetic from scikit-learn's digits and numpy's frozen legacy generator.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from torch import Tensor
from torch.utils.data import Dataset

from explorer.errors import DataError, unknown_name

SPLIT_SEED = 0
"""Seed of the one permutation of the 1,797 originals that makes the split."""

TEST_ORIGINALS = 360
"""The first 360 originals of the permutation are the test set (a fifth)."""

SHIFTS_PER_TEST_IMAGE = 5
MAX_SHIFT = 4
FRAMED_SIDE = 28
SCALED_SIDE = 20
"""MNIST's form: the digit scaled into 20×20 and placed on a 28×28 canvas."""


@dataclass(frozen=True)
class LabelledExamples:
    """Labelled examples held in memory."""

    inputs: Tensor
    """(example, …) float32, normalised as in training."""
    labels: Tensor
    """(example,) int64, 0 … classes − 1."""
    name: str
    """Name of the dataset."""
    content_hash: str
    """sha256 over inputs and labels, hexadecimal."""

    @property
    def chance_error(self) -> float:
        """Error of always answering the most frequent label."""
        counts = torch.bincount(self.labels)
        return 1.0 - float(counts.max()) / len(self.labels)

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class TrainingSet:
    """Training examples, possibly drawn anew for every epoch."""

    name: str
    """Name of the dataset."""
    labels: Tensor
    """(example,) int64."""
    inputs: Callable[[torch.Generator], Tensor]
    """Inputs of one epoch, (example, …) float32, in the order of `labels`."""

    def __len__(self) -> int:
        return len(self.labels)


def load_test_set(name: str) -> LabelledExamples:
    """Test examples of a named dataset.

    Parameters
    ----------
    name : str
        ``"digits"`` (360 images of 1×8×8) or ``"digits28"`` (the same originals framed as
        MNIST's are, each at five fixed shifts: 1,800 images of 1×28×28).

    Returns
    -------
    LabelledExamples
    --------

    Raises
    ------
    UnknownNameError
        No dataset has this name.
    """
    if name not in _TEST_SETS:
        raise unknown_name("dataset", name, _TEST_SETS)
    return _TEST_SETS[name]()


def load_training_set(name: str) -> TrainingSet:
    """Training examples of a named dataset.

    Parameters
    ----------
    name : str
        ``"digits"`` (1,437 images of 1×8×8) or ``"digits28"`` (the same originals framed, each
        at a random shift of up to ±4 pixels drawn anew every epoch).

    Returns
    -------
    TrainingSet

    Raises
    ------
    UnknownNameError
        No dataset has this name.
    """
    if name not in _TRAINING_SETS:
        raise unknown_name("dataset", name, _TRAINING_SETS)
    return _TRAINING_SETS[name]()


def as_examples(data: str | LabelledExamples | Dataset[Any] | tuple[Any, Any]) -> LabelledExamples:
    """Bring what a user may pass as test data into one form.

    Parameters
    ----------
    data : str, LabelledExamples, torch Dataset of (input, label), or pair (inputs, labels)
        A pair holds arrays or tensors: (example, …) numbers and (example,) integers.

    Returns
    -------
    LabelledExamples
    --------

    Raises
    ------
    UnknownNameError
        A name that no dataset has.
    DataError
        Anything that is not a non-empty set of labelled examples.
    """
    if isinstance(data, LabelledExamples):
        return data
    if isinstance(data, str):
        return load_test_set(data)
    if isinstance(data, tuple) and len(data) == 2:
        return _from_arrays(torch.as_tensor(data[0]), torch.as_tensor(data[1]), "arrays")
    if hasattr(data, "__getitem__") and hasattr(data, "__len__"):
        return _from_dataset(data)
    raise DataError(
        f"The test data is a {type(data).__name__}.",
        "A dataset's name, a torch Dataset of (input, label), or a pair (inputs, labels) will do.",
        "Pass data=(inputs, labels) with one integer label per input.",
    )


def _from_dataset(dataset: Any) -> LabelledExamples:
    pairs = [dataset[i] for i in range(len(dataset))]
    if not pairs or any(not isinstance(pair, (tuple, list)) or len(pair) != 2 for pair in pairs):
        raise DataError(
            f"The dataset {type(dataset).__name__} has {len(pairs)} items that are not all pairs.",
            "Each item must be a pair (input, label), and there must be at least one.",
            "Wrap the dataset so that dataset[i] returns (input, label).",
        )
    inputs = torch.stack([torch.as_tensor(x) for x, _ in pairs])
    labels = torch.as_tensor([int(y) for _, y in pairs])
    return _from_arrays(inputs, labels, type(dataset).__name__)


def _from_arrays(inputs: Tensor, labels: Tensor, name: str) -> LabelledExamples:
    whole = not (labels.is_floating_point() or labels.is_complex())
    if labels.ndim != 1 or len(labels) != len(inputs) or not len(labels) or not whole:
        raise DataError(
            f"Inputs have shape {tuple(inputs.shape)}, labels {tuple(labels.shape)} "
            f"of {labels.dtype}.",
            "Inputs (example, …) and as many integer labels (example,) are needed, at least one.",
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
    digest = hashlib.sha256(inputs.contiguous().numpy().tobytes())
    digest.update(labels.long().contiguous().numpy().tobytes())
    return LabelledExamples(inputs, labels.long(), name, digest.hexdigest())


# --- the embedded digits ---------------------------------------------------------------------


@functools.cache
def _originals() -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.intp]]:
    """Grey levels 0…16 as (1797, 8, 8), labels, and the permutation that splits them."""
    digits = load_digits()
    order = np.random.RandomState(SPLIT_SEED).permutation(len(digits.target))
    return digits.images.astype(np.int64), digits.target.astype(np.int64), order


def _split(part: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    images, labels, order = _originals()
    chosen = order[:TEST_ORIGINALS] if part == "test" else order[TEST_ORIGINALS:]
    return images[chosen], labels[chosen]


def _scaled(images: NDArray[np.int64]) -> NDArray[np.int64]:
    """Bilinear 8×8 → 20×20: source position 0.4·i − 0.3, clamped at the border.

    Pixels stay integers, 0…1600: 16 grey levels times 10×10 weight steps.
    """
    side = images.shape[1]
    weights = np.zeros((SCALED_SIDE, side), dtype=np.int64)
    for i in range(SCALED_SIDE):
        left, tenths = divmod(max(0, 4 * i - 3), 10)
        weights[i, left] += 10 - tenths
        weights[i, min(left + 1, side - 1)] += tenths
    return weights @ images @ weights.T


def _framed(scaled: NDArray[np.int64], shifts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Place (n, 20, 20) images on 28×28 canvases; shifts (n, 2) are 0…8, 4 being the middle."""
    canvas = np.zeros((len(scaled), FRAMED_SIDE, FRAMED_SIDE), dtype=np.int64)
    for image, target, (row, column) in zip(scaled, canvas, shifts, strict=True):
        target[row : row + SCALED_SIDE, column : column + SCALED_SIDE] = image
    return canvas


def _normalise(pixels: NDArray[np.int64], training: NDArray[np.int64], area: int) -> Tensor:
    """Subtract mean, divide by standard deviation, both over all training pixels.

    `area` is the number of pixels per training image, frame included, which adds only zeros.
    """
    count = len(training) * area
    mean = int(training.sum()) / count
    deviation = (int((training**2).sum()) / count - mean**2) ** 0.5
    normalised = (pixels.astype(np.float64) - mean) / deviation
    return torch.from_numpy(normalised.astype(np.float32)).unsqueeze(1)  # (n, 1, side, side)


def _integer_hash(name: str, pixels: NDArray[np.int64], labels: NDArray[np.int64]) -> str:
    digest = hashlib.sha256(name.encode())
    digest.update(pixels.astype("<u2").tobytes())
    digest.update(labels.astype("<u2").tobytes())
    return digest.hexdigest()


@functools.cache
def _digits_test() -> LabelledExamples:
    pixels, labels = _split("test")
    inputs = _normalise(pixels, _split("train")[0], 64)
    hashed = _integer_hash("digits", pixels, labels)
    return LabelledExamples(inputs, torch.from_numpy(labels), "digits", hashed)


@functools.cache
def _digits28_test() -> LabelledExamples:
    images, labels = _split("test")
    scaled = np.repeat(_scaled(images), SHIFTS_PER_TEST_IMAGE, axis=0)
    labels = np.repeat(labels, SHIFTS_PER_TEST_IMAGE)
    shifts = np.random.RandomState(SPLIT_SEED + 1).randint(
        0, 2 * MAX_SHIFT + 1, size=(len(scaled), 2)
    )
    pixels = _framed(scaled, shifts)
    inputs = _normalise(pixels, _scaled(_split("train")[0]), FRAMED_SIDE**2)
    hashed = _integer_hash("digits28", pixels, labels)
    return LabelledExamples(inputs, torch.from_numpy(labels), "digits28", hashed)


def _digits_training() -> TrainingSet:
    pixels, labels = _split("train")
    inputs = _normalise(pixels, pixels, 64)
    return TrainingSet("digits", torch.from_numpy(labels), lambda generator: inputs)


def _digits28_training() -> TrainingSet:
    images, labels = _split("train")
    scaled = _scaled(images)

    def inputs(generator: torch.Generator) -> Tensor:
        shifts = torch.randint(0, 2 * MAX_SHIFT + 1, (len(scaled), 2), generator=generator)
        return _normalise(_framed(scaled, shifts.numpy()), scaled, FRAMED_SIDE**2)

    return TrainingSet("digits28", torch.from_numpy(labels), inputs)


_TEST_SETS: dict[str, Callable[[], LabelledExamples]] = {
    "digits": _digits_test,
    "digits28": _digits28_test,
}
_TRAINING_SETS: dict[str, Callable[[], TrainingSet]] = {
    "digits": _digits_training,
    "digits28": _digits28_training,
}
