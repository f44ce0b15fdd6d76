"""What is done to training examples on purpose: crops, flips, noise in the labels; and the scale.

Chance is drawn on the CPU, one small tensor per epoch; the work is done in batches, wherever the
images are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from explorer.errors import UsageError

GREY_LEVELS = 256


@dataclass(frozen=True)
class Scale:
    """Normalisation of pixels: subtract a mean, divide by a standard deviation."""

    mean: tuple[float, ...]
    """Of all channels together (one number) or of each; grey levels 0 … 255."""
    deviation: tuple[float, ...]
    """As many numbers, in the same unit."""

    def on(self, device: torch.device) -> Callable[[Tensor], Tensor]:
        """Prepare the normalisation of (…, channel, row, column) images on a device."""
        # As tensors, since a division by a Python number is a multiplication by its reciprocal
        # on CUDA: every device is to give the same bits.
        mean, deviation = (
            torch.tensor(v, dtype=torch.float32, device=device).view(-1, 1, 1)
            for v in (self.mean, self.deviation)
        )
        return lambda images: (images.float() - mean) / deviation


def scale_of(counts: Tensor) -> Scale:
    """Global scale from how often each grey level occurs; exact until the last division.

    Parameters
    ----------
    counts : (256,) int64

    Returns
    -------
    Scale
        A set of a single grey level keeps its unit: deviation 1.
    """
    levels = list(enumerate(counts.tolist()))
    total = sum(n for _, n in levels)
    first = sum(v * n for v, n in levels)
    second = sum(v * v * n for v, n in levels)
    variance = (total * second - first**2) / total**2
    return Scale((first / total,), (variance**0.5 or 1.0,))


def grey_levels(images: Tensor) -> Tensor:
    """How often each grey level occurs, as (256,) int64."""
    return torch.bincount(images.flatten(), minlength=GREY_LEVELS)


@dataclass(frozen=True)
class CropAndFlip:
    """Zero-padding, a random crop of the old size, and a random horizontal flip."""

    pad: int = 4
    """Pixels of value 0 added on each side before the crop; 4 as in the paper for CIFAR-10."""
    flip: bool = True
    """Mirror every second image, by chance."""

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Draw what happens to each image: (image, 3) row, column 0 … 2·pad, mirrored 0 or 1."""
        corners = torch.randint(0, 2 * self.pad + 1, (count, 2), generator=generator)
        mirrored = torch.randint(0, 1 + self.flip, (count, 1), generator=generator)
        return torch.cat((corners, mirrored), dim=1)

    def __call__(self, images: Tensor, moves: Tensor) -> Tensor:
        """Crop and flip (image, channel, row, column) images as drawn, in one gather."""
        count, channels, height, width = images.shape
        device = images.device
        padded = functional.pad(images, (self.pad,) * 4)
        row, column, mirrored = moves.unsqueeze(2).unbind(1)  # (image, 1) each
        rows = row + torch.arange(height, device=device)  # (image, row)
        across = torch.arange(width, device=device)
        columns = column + torch.where(mirrored == 1, width - 1 - across, across)
        return padded[
            torch.arange(count, device=device)[:, None, None, None],
            torch.arange(channels, device=device)[None, :, None, None],
            rows[:, None, :, None],
            columns[:, None, None, :],
        ]


def with_label_noise(labels: Tensor, share: float, seed: int, classes: int) -> Tensor:
    """Replace a share of the labels by uniformly random ones.

    Parameters
    ----------
    labels : int64 of any shape
    share : float
        0 … 1; the number of labels drawn anew is rounded. A drawn label may be the old one.
    seed : int
        Fixes which labels are replaced and by what; the same in every epoch.
    classes : int
        Labels are drawn from 0 … classes − 1.

    Returns
    -------
    Tensor
        New labels; the old ones, not copied, where the share is 0.

    Raises
    ------
    UsageError
        The share is not within 0 … 1.
    """
    if not 0 <= share <= 1:
        raise UsageError(
            f"The label noise is {share}.",
            "A share of the training labels from 0 to 1 is needed.",
            "Use 0 for the true labels, 1 for labels that are all random.",
        )
    chosen = round(share * labels.numel())
    if not chosen:
        return labels
    digest = hashlib.sha256(f"{seed}/label noise".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
    where = torch.randperm(labels.numel(), generator=generator)[:chosen]
    noisy = labels.flatten().clone()
    noisy[where] = torch.randint(0, classes, (chosen,), generator=generator).to(noisy.dtype)
    return noisy.view_as(labels)
