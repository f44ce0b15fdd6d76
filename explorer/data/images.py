"""Image sets that torchvision knows: MNIST, Fashion-MNIST, CIFAR-10 and CIFAR-100.

Their files lie where torchvision keeps them (`root/MNIST/raw`, `root/cifar-10-batches-py`), so a
folder that torchvision has filled can be used as it is. Every file is checked against the hash
that torchvision lists before it is parsed; a CIFAR batch, being a pickle, could run code.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from explorer.data.archives import CifarFiles, ImageFiles, MnistFiles
from explorer.data.augment import CropAndFlip, Scale, grey_levels, scale_of, with_label_noise
from explorer.data.examples import LabelledExamples, batch_order, examples_of, spread


@dataclass(frozen=True)
class ImageSet:
    """One of the image sets, and how it is trained with."""

    files: ImageFiles
    """Where it comes from and how its files are read."""
    classes: int
    """Number of classes."""
    augmentation: CropAndFlip | None
    """The paper's for CIFAR; none for MNIST and its like."""


DIGITS = tuple(map(str, range(10)))
CLOTHES = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)

IMAGE_SETS = {
    "mnist": ImageSet(MnistFiles("MNIST", DIGITS), 10, None),
    "fashion-mnist": ImageSet(MnistFiles("FashionMNIST", CLOTHES), 10, None),
    "cifar10": ImageSet(CifarFiles("CIFAR10"), 10, CropAndFlip()),
    "cifar100": ImageSet(CifarFiles("CIFAR100"), 100, CropAndFlip()),
}


@dataclass(frozen=True)
class ImagesTraining:
    """Training images kept as bytes on the device and augmented there, batch by batch."""

    name: str
    """Name of the dataset."""
    pixels: Tensor
    """(example, channel, row, column) uint8."""
    labels: Tensor
    """(example,) int64."""
    scale: Scale
    """From all training pixels."""
    augmentation: CropAndFlip | None = None
    """What is done to the images of a batch, if anything."""
    _held: dict[torch.device, tuple[Tensor, Tensor]] = field(default_factory=dict, repr=False)
    """Pixels and labels on the device of the last epoch."""

    def __len__(self) -> int:
        return len(self.labels)

    def batches(
        self, batch_size: int, generator: torch.Generator, device: torch.device
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """One epoch; crops and flips are drawn first, then the order."""
        pixels, labels = self._on(device)
        normalise = self.scale.on(device)
        change = self.augmentation
        moves = None if change is None else change.draw(len(self), generator).to(device)
        for chosen in batch_order(len(self), batch_size, generator, device):
            images = pixels[chosen]
            if change is not None and moves is not None:
                images = change(images, moves[chosen])
            yield normalise(images), labels[chosen]

    def evaluation(self, limit: int | None = None) -> LabelledExamples:
        """Training images without crop and flip."""
        chosen = spread(len(self), limit)
        inputs = self.scale.on(torch.device("cpu"))(self.pixels[chosen])
        return examples_of(inputs, self.labels[chosen], self.name)

    def _on(self, device: torch.device) -> tuple[Tensor, Tensor]:
        if device not in self._held:
            self._held.clear()
            self._held[device] = self.pixels.to(device), self.labels.to(device)
        return self._held[device]


def images_test(name: str, folder: Path) -> LabelledExamples:
    """Test examples of one of the IMAGE_SETS, normalised by the scale of its training part.

    Raises
    ------
    DataError
        Files are missing or damaged.
    """
    files = IMAGE_SETS[name].files
    files.prepare(name, folder)
    scale = scale_of(grey_levels(files.read(folder, train=True)[0]))
    pixels, labels = files.read(folder, train=False)
    inputs = scale.on(torch.device("cpu"))(pixels)
    return examples_of(inputs, labels, name, files.class_names(folder))


def images_training(
    name: str, folder: Path, augment: bool, label_noise: float, seed: int
) -> ImagesTraining:
    """Training examples of one of the IMAGE_SETS.

    Raises
    ------
    DataError
        Files are missing or damaged.
    """
    chosen = IMAGE_SETS[name]
    chosen.files.prepare(name, folder)
    pixels, labels = chosen.files.read(folder, train=True)
    noisy = with_label_noise(labels, label_noise, seed, chosen.classes)
    augmentation = chosen.augmentation if augment else None
    return ImagesTraining(name, pixels, noisy, scale_of(grey_levels(pixels)), augmentation)
