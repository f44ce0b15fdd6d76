"""Image folders as ImageNet's: train/CLASS/*.JPEG and val/CLASS/*.JPEG, read as they are needed.

Training images are random crops, test images centre crops of the same scale, as in the paper.
Decoding is done by worker processes; what they hand over is bytes, normalised on the device.
"""

# torchvision is imported inside functions: it takes a second, which the embedded data sets need
# not pay.

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from explorer.data.augment import GREY_LEVELS, Scale, grey_levels, scale_of, with_label_noise
from explorer.data.examples import MEMORY_BUDGET, LabelledExamples, examples_of, spread
from explorer.errors import DataError

TRAIN, TEST = "train", "val"
"""Names of the two parts below the folder, as in ImageNet."""

DEFAULT_SIDE = 224
RESIZED = 8 / 7
"""Shorter side after resizing, in sides of the crop: 256 for a crop of 224."""

SCALE_IMAGES = 5_000
"""Training images, evenly spread, whose pixels give the global scale; all where there are fewer."""

SCALES = {
    "imagenet": Scale(
        tuple(255 * v for v in (0.485, 0.456, 0.406)), tuple(255 * v for v in (0.229, 0.224, 0.225))
    ),  # what torchvision's own weights were trained with
    "half": Scale((127.5,), (127.5,)),  # −1 … 1, as published ViT and Mixer weights expect
}
"""Scales beside "global", which is the paper's: one mean and deviation from the training images."""

READ_AT_ONCE = 64
"""Images of a batch where the batch does not matter."""

MOST_WORKERS = 8
IMAGES_PER_WORKER = 100
"""A worker takes seconds to start, in which this process has read about so many images."""


@dataclass(frozen=True)
class FolderForm:
    """Where an image folder is and what is made of its images."""

    name: str
    """The data set's whole name, ``folder:PATH,…``."""
    path: Path
    """Folder with train/ and val/."""
    side: int = DEFAULT_SIDE
    """Side of the crop in pixels."""
    limit: int | None = None
    """At most so many test images, evenly spread over the classes; None for all."""
    scale: str = "global"
    """``"global"`` or one of SCALES."""


@dataclass(frozen=True)
class Crops(Dataset[tuple[Tensor, int] | DataError]):
    """Crops of image files; an error is handed over as a value, since it has to cross processes."""

    samples: Sequence[tuple[str, int]]
    """File and label of each image."""
    side: int
    """Of the crop, in pixels."""
    seed: int | None = None
    """Of the random crops, which depend on nothing but it and the image; None for centre crops."""

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, number: int) -> tuple[Tensor, int] | DataError:
        from torchvision.datasets.folder import default_loader
        from torchvision.transforms import functional

        path, label = self.samples[number]
        try:
            image = default_loader(path)  # RGB
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            return DataError(
                f"{path} is not a readable image: {error}.",
                "Whole files in a format that Pillow reads are needed.",
                "Restore the file or remove it.",
            )
        pixels = functional.pil_to_tensor(functional.resize(image, round(self.side * RESIZED)))
        top, left = self._corner(number, *pixels.shape[1:])
        return pixels[:, top : top + self.side, left : left + self.side], label

    def _corner(self, number: int, height: int, width: int) -> tuple[int, int]:
        spare = height - self.side, width - self.side
        if self.seed is None:
            return spare[0] // 2, spare[1] // 2
        generator = torch.Generator().manual_seed(self.seed + number)
        row, column = torch.rand(2, generator=generator, dtype=torch.float64).tolist()
        return int(row * (spare[0] + 1)), int(column * (spare[1] + 1))


def stream(
    crops: Crops, order: Tensor, batch_size: int, workers: int | None = None, pinned: bool = False
) -> Iterator[tuple[Tensor, Tensor]]:
    """Read crops in an order: pixels (example, 3, side, side) uint8 and labels, batch by batch.

    Raises
    ------
    DataError
        An image cannot be read.
    """
    if workers is None:
        workers = min(MOST_WORKERS, _processors(), len(order) // IMAGES_PER_WORKER)
    loader = DataLoader(
        crops,
        batch_size=batch_size,
        sampler=order.tolist(),
        num_workers=workers,
        collate_fn=_collated,
        pin_memory=pinned,
        generator=torch.Generator(),  # its own: the session's stays where it is
    )
    for batch in loader:
        if isinstance(batch, DataError):
            raise batch
        yield batch


@dataclass(frozen=True)
class FolderTraining:
    """Training images of a folder, read anew in every epoch."""

    form: FolderForm
    """Where they are and what is made of them."""
    samples: Sequence[tuple[str, int]]
    """File and label of each image."""
    scale: Scale
    """Of the pixels."""
    augment: bool = True
    """Random crops; False for centre crops."""
    workers: int | None = None
    """Processes that read; None for as many as are worth it."""

    @property
    def name(self) -> str:
        """Name of the dataset."""
        return self.form.name

    def __len__(self) -> int:
        return len(self.samples)

    def batches(
        self, batch_size: int, generator: torch.Generator, device: torch.device
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """One epoch; the seed of the crops is drawn first, then the order."""
        seed = int(torch.randint(2**48, (1,), generator=generator))
        order = torch.randperm(len(self), generator=generator)
        crops = Crops(self.samples, self.form.side, seed if self.augment else None)
        normalise = self.scale.on(device)
        pinned = device.type == "cuda"
        for pixels, labels in stream(crops, order, batch_size, self.workers, pinned):
            here = pixels.to(device, non_blocking=pinned)
            yield normalise(here), labels.to(device, non_blocking=pinned)

    def evaluation(self, limit: int | None = None) -> LabelledExamples:
        """Centre crops of training images; without a limit as many as the memory budget allows."""
        fitting = min(limit or len(self), MEMORY_BUDGET // _bytes_each(self.form.side))
        return _held(self.form, self.samples, spread(len(self), fitting), self.scale)


def folder_test(form: FolderForm) -> LabelledExamples:
    """Centre crops of the images in val/.

    Raises
    ------
    DataError
        The folder is not as ImageNet's, an image cannot be read, or all would not fit in memory.
    """
    # unlike Path.is_dir, this says no of a name that no folder can have
    training = _samples(form, TRAIN) if os.path.isdir(form.path / TRAIN) else None
    samples, classes = _samples(form, TEST)
    if training is not None and training[1] != classes:
        different = sorted(set(classes) ^ set(training[1]))
        raise DataError(
            f"{form.path}: {TRAIN} and {TEST} differ in the classes {', '.join(different[:5])}.",
            "Both parts need the same class folders, since classes are numbered in their order.",
            "Add the missing folders, or move the superfluous ones away.",
        )
    chosen = spread(len(samples), form.limit)
    most = MEMORY_BUDGET // _bytes_each(form.side)
    if len(chosen) > most:
        raise DataError(
            f"{len(chosen)} test images of {form.side}×{form.side} would take "
            f"{len(chosen) * _bytes_each(form.side) / 2**30:.1f} GiB of memory.",
            f"Up to {most} of them fit into {MEMORY_BUDGET / 2**30:.0f} GiB.",
            f"Write '{form.name},limit={most}' for an evenly spread part of them.",
        )
    held = _held(form, samples, chosen, _scale(form))
    return replace(held, class_names=tuple(classes))


def folder_training(
    form: FolderForm, augment: bool, label_noise: float, seed: int
) -> FolderTraining:
    """Training images in train/.

    Raises
    ------
    DataError
        The folder is not as ImageNet's, or an image cannot be read.
    """
    samples, classes = _samples(form, TRAIN)
    labels = torch.tensor([label for _, label in samples])
    noisy = with_label_noise(labels, label_noise, seed, len(classes)).tolist()
    files = [(path, label) for (path, _), label in zip(samples, noisy, strict=True)]
    return FolderTraining(form, files, _scale(form), augment)


def _samples(form: FolderForm, part: str) -> tuple[list[tuple[str, int]], list[str]]:
    """Files with labels, and the class names whose order gives the labels."""
    from torchvision.datasets import ImageFolder

    try:
        found = ImageFolder(str(form.path / part))
    except OSError as error:
        raise DataError(
            f"{form.path / part} is not a folder of classes: {error}",
            f"Images are expected in {TRAIN}/CLASS/ and {TEST}/CLASS/ of {form.path}.",
            "Correct the path, or sort the images into class folders.",
        ) from error
    return found.samples, found.classes


def _scale(form: FolderForm) -> Scale:
    return SCALES[form.scale] if form.scale in SCALES else _global_scale(form)


@functools.lru_cache(maxsize=8)
def _global_scale(form: FolderForm) -> Scale:
    """One mean and deviation from centre crops of training images."""
    samples, _ = _samples(form, TRAIN)
    counts = torch.zeros(GREY_LEVELS, dtype=torch.int64)
    chosen = spread(len(samples), SCALE_IMAGES)
    for pixels, _ in stream(Crops(samples, form.side), chosen, READ_AT_ONCE):
        counts += grey_levels(pixels)
    return scale_of(counts)


def _held(
    form: FolderForm, samples: Sequence[tuple[str, int]], chosen: Tensor, scale: Scale
) -> LabelledExamples:
    """Read the chosen images into memory."""
    normalise: Callable[[Tensor], Tensor] = scale.on(torch.device("cpu"))
    inputs = torch.empty((len(chosen), 3, form.side, form.side))
    start = 0
    for pixels, _ in stream(Crops(samples, form.side), chosen, READ_AT_ONCE):
        inputs[start : start + len(pixels)] = normalise(pixels)
        start += len(pixels)
    labels = torch.tensor([samples[number][1] for number in chosen.tolist()])
    return examples_of(inputs, labels, form.name)


def _collated(
    items: list[tuple[Tensor, int] | DataError],
) -> tuple[Tensor, Tensor] | DataError:
    pairs = []
    for item in items:
        if isinstance(item, DataError):
            return item
        pairs.append(item)
    return torch.stack([pixels for pixels, _ in pairs]), torch.tensor([label for _, label in pairs])


def _bytes_each(side: int) -> int:
    return 3 * side * side * 4  # three channels of float32


def _processors() -> int:
    """Processors that this process may use, which in a container are fewer than there are."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
