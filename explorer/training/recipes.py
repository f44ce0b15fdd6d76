"""The named stacks that have a recipe: the bundled ones and the paper's experiments."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from explorer.errors import unknown_name
from explorer.training.recipe import Recipe


@dataclass(frozen=True)
class Experiment:
    """Everything that fixes a training run."""

    name: str
    """Name of the stack."""
    title: str
    """One line for people."""
    family: str
    """Name of the family."""
    sizes: Mapping[str, float]
    """Sizes of its member."""
    dataset: str
    """Name of the dataset."""
    recipe: Recipe
    """How it is trained."""
    keep: tuple[int, ...]
    """Epochs whose checkpoint is kept; 0 and the last are always."""
    seed: int = 0
    """Seed of initialisation, shifts and order."""
    steps: tuple[int, ...] = ()
    """Optimiser steps whose checkpoint is kept as well; the stack then counts steps."""

    @property
    def unit(self) -> str:
        """What its checkpoints count: ``"epoch"`` or ``"step"``, never both."""
        return "step" if self.steps else "epoch"


# Known of the paper's recipe: SGD with momentum 0.9, 100 epochs, the rate × 0.2 at 30, 60 and 90,
# batch 128, augmentation of CIFAR-10 and ImageNet, the library's default initialisers; for the
# language model Adam, 20 epochs and a vocabulary of 30,000. Not known: base rates and weight
# decays, and the sizes and schedule of the language model. These are ours: no weight decay, and
# the rates below. Which epochs are kept follows the columns of the paper's figures.

FCN_RATE = 0.03
"""Base rate of the FCNs, chosen on the digits; see docs/decisions/0004."""
CONVOLUTIONAL_RATE = 0.05
"""Base rate of VGG and ResNet, which a re-implementation of the paper uses for its ResNet."""

_FCN_EPOCHS = (0, 1, 2, 3, 8, 40, 90, 100)
_CONVOLUTIONAL_EPOCHS = (0, 1, 10, 100)
_DOZEN = (0, 1, 2, 3, 5, 8, 15, 30, 40, 60, 90, 100)
_NORMALISATION = ("no normalisation", "with BatchNorm")
_WITH_ADAM = Recipe(
    batch_size=32,
    optimiser="adam",
    learning_rate=2e-3,
    schedule="cosine",
    warmup=5,
    clip_norm=1.0,
)
_DIGITS = {"classes": 10, "channels": 1, "side": 16}


def _fcn(depth: int, width: int, dataset: str, title: str, inputs: int) -> Experiment:
    return Experiment(
        name=f"fcn{depth}x{width}-{dataset}",
        title=f"FCN {depth}×{width} on {title}",
        family="fcn",
        sizes={"depth": depth, "width": width, "inputs": inputs, "classes": 10},
        dataset=dataset,
        recipe=Recipe(learning_rate=FCN_RATE),
        keep=_FCN_EPOCHS,
    )


def _on_cifar10(family: str, word: str, depth: int, batchnorm: int) -> Experiment:
    return Experiment(
        name=f"{family}{depth}{'bn' if batchnorm else ''}-cifar10",
        title=f"{word}-{depth} on CIFAR-10, {_NORMALISATION[batchnorm]}",
        family=family,
        sizes={"depth": depth, "batchnorm": batchnorm, "classes": 10, "channels": 3, "side": 32},
        dataset="cifar10",
        recipe=Recipe(learning_rate=CONVOLUTIONAL_RATE),
        keep=_CONVOLUTIONAL_EPOCHS,
    )


_BUNDLED = (
    Experiment(
        name="fcn3x256-digits",
        title="FCN 3×256 on framed digits (28×28)",
        family="fcn",
        sizes={"depth": 3, "width": 256, "inputs": 784, "classes": 10},
        dataset="digits28",
        recipe=Recipe(learning_rate=FCN_RATE),
        keep=_FCN_EPOCHS,
    ),
    Experiment(
        name="vgg11-digits",
        title="VGG-11, a tenth as wide, on framed digits (16×16)",
        family="vgg",
        sizes={"depth": 11, "width": 0.1, "batchnorm": 0, **_DIGITS},
        dataset="digits16",
        recipe=Recipe(
            batch_size=32, learning_rate=0.01
        ),  # from 0.03 on, networks without normalisation went back to chance
        keep=_DOZEN,
    ),
    Experiment(
        name="resnet18-digits",
        title="ResNet-18, a tenth as wide, no normalisation, on framed digits (16×16)",
        family="resnet",
        sizes={"depth": 18, "width": 0.1, "batchnorm": 0, **_DIGITS},
        dataset="digits16",
        recipe=Recipe(batch_size=32, learning_rate=0.01),
        keep=_DOZEN,
    ),
    Experiment(
        name="resnet18bn-digits",
        title="ResNet-18, a tenth as wide, with BatchNorm, on framed digits (16×16)",
        family="resnet",
        sizes={"depth": 18, "width": 0.1, "batchnorm": 1, **_DIGITS},
        dataset="digits16",
        recipe=Recipe(batch_size=32, learning_rate=CONVOLUTIONAL_RATE),
        keep=_DOZEN,
    ),
    Experiment(
        name="vit-digits",
        title="Vision transformer (6 blocks of width 32) on framed digits (16×16)",
        family="vit",
        sizes={"depth": 6, "heads": 4, "width": 0.125, "patch": 4, **_DIGITS},
        dataset="digits16",
        recipe=_WITH_ADAM,
        keep=_DOZEN,
    ),
    Experiment(
        name="mixer-digits",
        title="MLP-Mixer (6 blocks of width 42) on framed digits (16×16)",
        family="mixer",
        sizes={"depth": 6, "width": 0.055, "patch": 4, **_DIGITS},
        dataset="digits16",
        recipe=_WITH_ADAM,
        keep=_DOZEN,
    ),
    Experiment(
        name="transformer-text",
        title="Transformer (4 blocks of width 40) on the characters of pydoc's topics",
        family="transformer",
        sizes={
            **{"depth": 4, "heads": 4, "width": 0.16, "vocabulary": 94},
            **{"positions": 64, "tied": 0},
        },
        dataset="pydoc-text",
        recipe=Recipe(
            epochs=20,
            batch_size=32,
            optimiser="adam",
            learning_rate=2e-3,
            schedule="cosine",
            warmup=1,
            clip_norm=1.0,
        ),
        keep=(0, 1, 2, 3, 4, 6, 8, 10, 13, 16, 18, 20),
    ),
)
_PAPER = (
    *(_fcn(d, w, "mnist", "MNIST", 28 * 28) for d, w in ((3, 256), (5, 512))),
    *(_fcn(d, w, "cifar10", "CIFAR-10", 3 * 32 * 32) for d, w in ((3, 256), (5, 512))),
    *(_on_cifar10("vgg", "VGG", d, b) for b in (0, 1) for d in (11, 13, 16, 19)),
    *(_on_cifar10("resnet", "ResNet", d, b) for b in (0, 1) for d in (18, 34, 50, 101, 152)),
    Experiment(
        name="resnet50-imagenet",
        title="ResNet-50 on ImageNet, with BatchNorm",  # that it has BatchNorm is our reading
        family="resnet",
        sizes={
            **{"depth": 50, "batchnorm": 1, "imagenet": 1},
            **{"classes": 1000, "channels": 3, "side": 224},
        },
        dataset="folder:imagenet",
        recipe=Recipe(learning_rate=CONVOLUTIONAL_RATE),
        keep=_CONVOLUTIONAL_EPOCHS,
    ),
    Experiment(
        name="transformer-lm1b",
        title="Transformer language model on the One Billion Word Benchmark",
        family="transformer",
        sizes={
            **{"depth": 6, "heads": 8, "width": 1.0, "vocabulary": 30_000},
            **{"positions": 64, "tied": 0},
        },
        dataset="text:lm1b,length=64,tokenizer=lm1b.model",
        recipe=Recipe(epochs=20, optimiser="adam", learning_rate=3e-4, warmup=0.1, clip_norm=1.0),
        keep=(0, 1, 2, 3, 5, 10, 20),
    ),
)

BUNDLED: tuple[str, ...] = tuple(e.name for e in _BUNDLED)
"""Names of the experiments whose stacks come along; each has at most 6 MB, but for the first."""
EXPERIMENTS: Mapping[str, Experiment] = {e.name: e for e in (*_BUNDLED, *_PAPER)}


def find_experiment(name: str) -> Experiment:
    """Return the experiment of this name.

    Raises
    ------
    UnknownNameError
        Nothing of this name can be trained.
    """
    if name not in EXPERIMENTS:
        raise unknown_name("experiment", name, EXPERIMENTS)
    return EXPERIMENTS[name]
