"""The embedded digits: scikit-learn's 1,797 images, plain and framed in three sizes.

Test images are the same on every platform and in every session: they are built in integer
arithmetic from scikit-learn's digits and numpy's frozen legacy generator.
"""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from explorer.data.augment import with_label_noise
from explorer.data.examples import LabelledExamples, batch_order, examples_of, spread

CLASSES = 10

SPLIT_SEED = 0
"""Seed of the one permutation of the 1,797 originals that makes the split."""

TEST_ORIGINALS = 360
"""The first 360 originals of the permutation are the test set (a fifth)."""


@dataclass(frozen=True)
class Form:
    """How the 8×8 originals are scaled and placed on a canvas; one channel in all forms."""

    scaled: int
    """Side of the scaled digit in pixels; 8 leaves it as it is."""
    max_shift: int
    """Largest shift from the middle; the frame is just so wide that nothing is cut off."""
    copies: int
    """Shifts, drawn once and for all, at which each test original stands."""

    @property
    def side(self) -> int:
        """Side of the canvas."""
        return self.scaled + 2 * self.max_shift


FORMS = {
    "digits": Form(scaled=8, max_shift=0, copies=1),
    "digits16": Form(scaled=12, max_shift=2, copies=5),
    "digits28": Form(scaled=20, max_shift=4, copies=5),  # as MNIST's: 20×20 on 28×28
    "digits32": Form(scaled=24, max_shift=4, copies=5),  # CIFAR's size
}


@dataclass(frozen=True)
class DigitsTraining:
    """The 1,437 training originals, each at a shift drawn anew every epoch."""

    name: str
    """Name of the dataset."""
    labels: Tensor
    """(example,) int64."""
    inputs: Callable[[torch.Generator], Tensor]
    """Inputs of one epoch, (example, 1, row, column) float32, in the order of `labels`."""
    plain: Tensor
    """Inputs without a shift."""

    def __len__(self) -> int:
        return len(self.labels)

    def batches(
        self, batch_size: int, generator: torch.Generator, device: torch.device
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """One epoch; shifts are drawn first, then the order."""
        inputs = self.inputs(generator).to(device)
        labels = self.labels.to(device)
        for chosen in batch_order(len(self), batch_size, generator, device):
            yield inputs[chosen], labels[chosen]

    def evaluation(self, limit: int | None = None) -> LabelledExamples:
        """Training examples in the middle of their frames."""
        chosen = spread(len(self), limit)
        return examples_of(self.plain[chosen], self.labels[chosen], self.name)


@functools.cache
def digits_test(name: str) -> LabelledExamples:
    """Test examples in one of the FORMS."""
    form = FORMS[name]
    images, labels = split("test")
    pixels = np.repeat(scaled(images, form.scaled), form.copies, axis=0)
    labels = np.repeat(labels, form.copies)
    generator = np.random.RandomState(SPLIT_SEED + 1)
    shifts = generator.randint(0, 2 * form.max_shift + 1, size=(len(pixels), 2))
    pixels = framed(pixels, shifts, form.side)
    inputs = _normalise(pixels, scaled(split("train")[0], form.scaled))
    return LabelledExamples(
        inputs,
        torch.from_numpy(labels),
        name,
        _integer_hash(name, pixels, labels),
        tuple(map(str, range(CLASSES))),
    )


def digits_training(name: str, augment: bool, label_noise: float, seed: int) -> DigitsTraining:
    """Training examples in one of the FORMS; without augmentation all stand in the middle."""
    form = FORMS[name]
    images, labels = split("train")
    digits = scaled(images, form.scaled)

    def placed(shifts: NDArray[np.int64]) -> Tensor:
        return _normalise(framed(digits, shifts, form.side), digits)

    def inputs(generator: torch.Generator) -> Tensor:
        size = (len(digits), 2)
        return placed(torch.randint(0, 2 * form.max_shift + 1, size, generator=generator).numpy())

    plain = placed(np.full((len(digits), 2), form.max_shift))
    drawn = inputs if augment and form.max_shift else lambda generator: plain
    noisy = with_label_noise(torch.from_numpy(labels), label_noise, seed, CLASSES)
    return DigitsTraining(name, noisy, drawn, plain)


@functools.cache
def _originals() -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.intp]]:
    """Grey levels 0…16 as (1797, 8, 8), labels, and the permutation that splits them."""
    table = _table()
    images, labels = table[:, :-1].reshape(-1, 8, 8), table[:, -1]
    return images, labels, np.random.RandomState(SPLIT_SEED).permutation(len(labels))


def _table() -> NDArray[np.int64]:
    """Return scikit-learn's digits, one per row: 64 grey levels, and the label.

    Its file is read where it lies, since importing scikit-learn and SciPy for it takes a second
    and 70 MB, of which a small machine has few.
    """
    found = find_spec("sklearn")
    if found is not None and found.origin is not None:
        path = Path(found.origin).parent / "datasets" / "data" / "digits.csv.gz"
        if path.is_file():
            return np.loadtxt(path, delimiter=",", dtype=np.float64).astype(np.int64)
    from sklearn.datasets import load_digits  # another version may keep it elsewhere

    digits = load_digits()
    return np.column_stack([digits.data, digits.target]).astype(np.int64)


def split(part: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Images (n, 8, 8) and labels of the part ``"test"`` or ``"train"``."""
    images, labels, order = _originals()
    chosen = order[:TEST_ORIGINALS] if part == "test" else order[TEST_ORIGINALS:]
    return images[chosen], labels[chosen]


def scaled(images: NDArray[np.int64], side: int) -> NDArray[np.int64]:
    """Bilinear 8×8 → side×side in integers, in units of the squared denominator.

    Pixel i of the result lies at (8·(2i + 1) − side) / (2·side) of the original, clamped at the
    border; for side 20 that is (4i − 3) / 10, and pixels are 0…1600: 16 grey levels times 10×10
    weight steps.
    """
    width = images.shape[1]
    common = math.gcd(2 * width, side - width, 2 * side)
    step, offset, unit = 2 * width // common, (side - width) // common, 2 * side // common
    weights = np.zeros((side, width), dtype=np.int64)
    for i in range(side):
        left, rest = divmod(max(0, step * i - offset), unit)
        weights[i, left] += unit - rest
        weights[i, min(left + 1, width - 1)] += rest
    return weights @ images @ weights.T


def framed(digits: NDArray[np.int64], shifts: NDArray[np.int64], side: int) -> NDArray[np.int64]:
    """Place (n, s, s) digits on side×side canvases; shifts (n, 2) are the upper left corners."""
    canvas = np.zeros((len(digits), side, side), dtype=np.int64)
    along = np.arange(digits.shape[1])
    rows, columns = (shifts[:, axis, None] + along for axis in (0, 1))  # (n, s) each
    canvas[np.arange(len(digits))[:, None, None], rows[:, :, None], columns[:, None, :]] = digits
    return canvas


def _normalise(pixels: NDArray[np.int64], training: NDArray[np.int64]) -> Tensor:
    """Subtract mean, divide by standard deviation, both over all training pixels.

    The frame of the training images, which `training` lacks, counts: it adds only zeros.
    """
    count = len(training) * pixels.shape[1] * pixels.shape[2]
    mean = int(training.sum()) / count
    deviation = (int((training**2).sum()) / count - mean**2) ** 0.5
    normalised = (pixels.astype(np.float64) - mean) / deviation
    return torch.from_numpy(normalised.astype(np.float32)).unsqueeze(1)  # (n, 1, side, side)


def _integer_hash(name: str, pixels: NDArray[np.int64], labels: NDArray[np.int64]) -> str:
    digest = hashlib.sha256(name.encode())
    digest.update(pixels.astype("<u2").tobytes())
    digest.update(labels.astype("<u2").tobytes())
    return digest.hexdigest()
