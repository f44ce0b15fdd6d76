"""Training a ResNet-18 in the CIFAR form, against a plain loop over torchvision's transforms.

Plain: a DataLoader whose workers pad, crop, flip and normalise image by image, and a loop around
it with torch's default arithmetic, once more under bfloat16 autocast on a GPU. Ours: the images
stay on the device as bytes and are augmented there, batch by batch, with algorithms that give the
same bits every time. Same network, optimiser, batches of 128 and random CIFAR-shaped images, all in
one process, in turn, the best of some passes after one that warms up.

    python benchmarks/bench_training.py [--device cuda] [--images N] [--width W] [--out FILE.md]
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import os
import platform
import time
from dataclasses import replace
from pathlib import Path
from unittest import mock

import torch
import torchvision
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

import explorer as lx
from explorer.data.augment import CropAndFlip, grey_levels, scale_of
from explorer.data.examples import LabelledExamples
from explorer.data.images import ImagesTraining
from explorer.training import loop
from explorer.training.device import threads
from explorer.training.loop import Trainer, initial_network
from explorer.training.recipes import find_experiment
from explorer.training.settings import with_settings
from explorer.weights.families.known import find_family

CIFAR10 = 50_000
"""Images of an epoch; a hundred of them are the last column."""


class Pictures(Dataset):
    """Images as torchvision's datasets give them: PIL pictures through transforms, one by one."""

    def __init__(self, pixels, labels, scale):
        self.pixels = pixels.permute(0, 2, 3, 1).numpy()  # (image, row, column, channel)
        self.labels = labels.tolist()
        mean, deviation = (v[0] / 255 for v in (scale.mean, scale.deviation))
        self.change = transforms.Compose(
            [
                transforms.ToPILImage(),
                transforms.RandomCrop(32, padding=4),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize([mean] * 3, [deviation] * 3),
            ]
        )

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, number):
        return self.change(self.pixels[number]), self.labels[number]


def main():
    """Time every loop and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--images", type=int, help="default 50,000 on a GPU, else 512")
    parser.add_argument("--width", type=float, help="default 1 on a GPU, else 0.25")
    parser.add_argument("--passes", type=int, default=2, help="timed passes of each loop")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="of the plain loop")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    device = torch.device(options.device)
    cuda = device.type == "cuda"
    options.images = options.images or (CIFAR10 if cuda else 512)
    options.width = options.width or (1.0 if cuda else 0.25)

    pixels = torch.randint(0, 256, (options.images, 3, 32, 32), dtype=torch.uint8)
    labels = torch.randint(0, 10, (options.images,))
    experiment = find_experiment("resnet18-cifar10")
    settings = {"width": options.width, "learning_rate": 1e-4, "threads": torch.get_num_threads()}
    experiment = with_settings(experiment, settings)
    works = {f"plain, {options.workers} workers, torch's default": plain}
    works |= {"plain, bf16 autocast": plain_bf16} if cuda else {}
    for precision in ("float32", "tf32", "bf16") if cuda else ("float32",):
        works[f"ours, {precision}"] = ours(precision)
    lines = [header(options), "", TABLE]
    base = None
    for name, work in works.items():
        with threads(experiment.recipe.threads):
            speed = work(experiment, pixels, labels, device, options)
        base = base or speed
        minutes = 100 * CIFAR10 / speed / 60
        lines.append(f"| {name} | {speed:,.0f} | {speed / base:.1f}× | {minutes:,.1f} min |")
        print(lines[-1], flush=True)
    text = "\n".join(lines)
    print("\n" + text)
    if options.out:
        options.out.write_text(text + "\n", encoding="utf-8")


TABLE = "| loop | images per second | against the first | 100 epochs of 50,000 |\n|---|---|---|---|"


def header(options):
    """Date, machine, versions and sizes."""
    cuda = options.device.startswith("cuda")
    name = torch.cuda.get_device_name() if cuda else platform.machine()
    return (
        f"{datetime.date.today()} · {name}, {os.cpu_count()} cores, {torch.get_num_threads()} "
        f"threads · Python {platform.python_version()}, torch {torch.__version__}, torchvision "
        f"{torchvision.__version__}, layer-explorer {lx.__version__} · ResNet-18 (CIFAR form, no "
        f"normalisation) of width {options.width:g}, {options.images:,} random images, batches of "
        f"128, forward, backward and step"
    )


def ours(precision):
    """Our loop in a precision."""

    def work(experiment, pixels, labels, device, options):
        scale = scale_of(grey_levels(pixels))
        images = ImagesTraining("random", pixels, labels, scale, CropAndFlip())
        few = LabelledExamples(torch.zeros(1, 3, 32, 32), labels[:1], "random", "")
        recipe = replace(experiment.recipe, precision=precision)
        with (
            mock.patch.object(loop, "load_training_set", return_value=images),
            mock.patch.object(loop, "load_test_set", return_value=few),
        ):
            trainer = Trainer(replace(experiment, recipe=recipe), device)

        def once(epoch):
            with loop.reproducible(device):
                trainer._pass(epoch, lambda step: None)

        return best_speed(once, options)

    return work


def plain(experiment, pixels, labels, device, options, autocast=contextlib.nullcontext):
    """A loop as in torchvision's references."""
    network = initial_network(
        experiment, find_family(experiment.family).layers(experiment.sizes)
    ).to(device)
    recipe = experiment.recipe
    optimiser = torch.optim.SGD(network.parameters(), recipe.learning_rate, recipe.momentum)
    loader = DataLoader(
        Pictures(pixels, labels, scale_of(grey_levels(pixels))),
        batch_size=recipe.batch_size,
        shuffle=True,
        num_workers=options.workers,
        pin_memory=device.type == "cuda",
        persistent_workers=options.workers > 0,
    )
    loss_of = nn.CrossEntropyLoss()

    def once(_epoch):
        network.train()
        for inputs, answers in loader:
            inputs = inputs.to(device, non_blocking=True)
            answers = answers.to(device, non_blocking=True)
            with autocast():
                loss = loss_of(network(inputs), answers)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        if device.type == "cuda":
            torch.cuda.synchronize()

    return best_speed(once, options)


def plain_bf16(experiment, pixels, labels, device, options):
    """The same under autocast."""

    def autocast():
        return torch.autocast("cuda", torch.bfloat16)

    return plain(experiment, pixels, labels, device, options, autocast)


def best_speed(once, options):
    """Images per second of the best pass; the first one warms up and does not count."""
    times = []
    for epoch in range(1, options.passes + 2):
        start = time.perf_counter()
        once(epoch)
        times.append(time.perf_counter() - start)
    return options.images / min(times[1:])


if __name__ == "__main__":
    main()
