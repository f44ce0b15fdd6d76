"""VGG 11, 13, 16 and 19: stages of 3×3 convolutions with a pooling after each.

Convolutions are torchvision's (`torchvision.models.vgg`, Simonyan and Zisserman 2015). The head
for small images is ours: two hidden layers of 512 units and no dropout; the paper names its
layers, not their widths. ``imagenet=1`` gives torchvision's own head instead, and so the network
that its weights fit.

Initial values: normal with variance 2/fan_in and biases 0 (He et al. 2015) in every form, which
is our choice. torchvision's are made for BatchNorm and for hidden layers of 4096 units; with them
a narrow VGG stays at chance for many epochs of plain SGD. ``torchvision/vgg11`` and its like draw
as torchvision does.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import torchvision.models.vgg as library
from torch import nn

from explorer.weights.families.family import Family, Size, Sizes, scaled
from explorer.weights.families.images import image_sizes, one_image
from explorer.weights.families.initialisers import TORCH, fan_in_normal, from_table, zeros

_CONFIGURATIONS = {11: "A", 13: "B", 16: "D", 19: "E"}
"""Depth → the letter of the original paper's Table 1, by which torchvision keeps them."""

_HEAD = {"0": "fc1", "3": "fc2", "6": "final_linear"}
"""Place in torchvision's classifier → unit."""

_HIDDEN = 512
"""Units of the hidden layers of the head for small images."""


def _module(sizes: Sizes) -> nn.Module:
    width = sizes["width"]
    plan = [s if s == "M" else scaled(s, width) for s in _plan(sizes["depth"])]
    features = library.make_layers(plan, batch_norm=bool(sizes["batchnorm"]))
    features[0] = nn.Conv2d(sizes["channels"], plan[0], kernel_size=3, padding=1)
    for pool in (m for m in features if isinstance(m, nn.MaxPool2d)):
        pool.ceil_mode = True  # five halvings leave something of a side that is no multiple of 32
    network: nn.Module = library.VGG(features, num_classes=sizes["classes"])
    last = plan[-2]
    if sizes["imagenet"]:
        network.classifier = _head(last * 7 * 7, scaled(4096, width), sizes["classes"], 0.5)
    else:
        network.avgpool = nn.AdaptiveAvgPool2d(1)
        network.classifier = _head(last, scaled(_HIDDEN, width), sizes["classes"], 0.0)
    return network


def _head(inputs: int, hidden: int, classes: int, dropout: float) -> nn.Sequential:
    """torchvision's classifier, so that places in it mean the same."""
    return nn.Sequential(
        *(nn.Linear(inputs, hidden), nn.ReLU(True), nn.Dropout(dropout)),
        *(nn.Linear(hidden, hidden), nn.ReLU(True), nn.Dropout(dropout)),
        nn.Linear(hidden, classes),
    )


def _plan(depth: int) -> list[Any]:
    """Widths of the convolutions, and ``"M"`` for a pooling."""
    plan: list[Any] = library.cfgs[_CONFIGURATIONS[depth]]
    return plan


@functools.cache
def _blocks(depth: int, batchnorm: int) -> Mapping[str, str]:
    """Place in the convolutional part → unit; the normalisation stands after its convolution."""
    units: dict[str, str] = {}
    place, stage, block = 0, 1, 0
    for step in _plan(depth):
        if step == "M":
            place, stage, block = place + 1, stage + 1, 0
            continue
        block += 1
        for offset in range(2 if batchnorm else 1):
            units[str(place + offset)] = f"stage{stage}.block{block}"
        place += 3 if batchnorm else 2  # with its ReLU
    return units


def _unit(sizes: Sizes, name: str) -> str:
    part, place, _ = name.split(".")
    if part == "classifier":
        return _HEAD[place]
    return _blocks(sizes["depth"], sizes["batchnorm"])[place]


VGG = Family(
    name="vgg",
    takes={
        "depth": Size(11, "layers with weights", choices=tuple(_CONFIGURATIONS)),
        "width": Size(1.0, "multiplier of all widths", "factor"),
        "batchnorm": Size(0, "batch normalisation", "switch"),
        "imagenet": Size(0, "the head for large images", "switch"),
        **image_sizes(classes=10, side=32),
    },
    module=_module,
    unit=_unit,
    initialise=from_table(
        {
            **TORCH,
            nn.Conv2d: {"weight": fan_in_normal, "bias": zeros},
            nn.Linear: {"weight": fan_in_normal, "bias": zeros},
        }
    ),
    example=one_image,
)
