"""ResNet 18, 34, 50, 101 and 152 in the CIFAR and the ImageNet form, with and without BatchNorm.

Blocks are torchvision's (`torchvision.models.resnet`, He et al. 2016), and so are the names. The
CIFAR form begins with a 3×3 convolution of stride 1 and no pooling. Without normalisation nothing
takes the place of BatchNorm: convolutions have no bias in either form.

Initial values: with BatchNorm torchvision's. Without it these would double the variance in each
block, so that the logits of a ResNet-152 begin near 10⁷. The values are then ours: normal with
variance 2/fan_in (He et al. 2015), the last convolution of each block divided by √(number of
blocks), so that all blocks together add about as much to the signal as there was. How the paper's
networks without normalisation began could not be read.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck

from explorer.weights.families.family import Family, Size, Sizes, scaled
from explorer.weights.families.images import image_sizes, one_image
from explorer.weights.families.initialisers import (
    TORCH,
    Table,
    draw_tensors,
    fan_in_normal,
    fan_out_normal,
)

_DEPTHS: dict[int, tuple[type[BasicBlock | Bottleneck], tuple[int, ...]]] = {
    18: (BasicBlock, (2, 2, 2, 2)),
    34: (BasicBlock, (3, 4, 6, 3)),
    50: (Bottleneck, (3, 4, 6, 3)),
    101: (Bottleneck, (3, 4, 23, 3)),
    152: (Bottleneck, (3, 8, 36, 3)),
}
"""Depth → the block, and how many of them each of the four stages has."""


class ResNet(nn.Module):
    """Stem, four stages of residual blocks, mean over the image, linear output."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        block, counts = _DEPTHS[sizes["depth"]]
        self.normalisation = nn.BatchNorm2d if sizes["batchnorm"] else nn.Identity
        planes = scaled(64, sizes["width"])
        kernel, stride = (7, 2) if sizes["imagenet"] else (3, 1)
        self.conv1 = nn.Conv2d(sizes["channels"], planes, kernel, stride, kernel // 2, bias=False)
        self.bn1 = self.normalisation(planes)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1) if sizes["imagenet"] else nn.Identity()
        inputs = planes
        for stage, count in enumerate(counts):
            self.add_module(f"layer{stage + 1}", self._stage(block, inputs, planes, count, stage))
            inputs, planes = planes * block.expansion, planes * 2
        self.fc = nn.Linear(inputs, sizes["classes"])

    def _stage(
        self,
        block: type[BasicBlock | Bottleneck],
        inputs: int,
        planes: int,
        count: int,
        stage: int,
    ) -> nn.Sequential:
        """`count` blocks, the first of which halves the side except in the first stage."""
        outputs, stride = planes * block.expansion, 1 if stage == 0 else 2
        projection = None
        if stride != 1 or inputs != outputs:
            convolution = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            projection = nn.Sequential(convolution, self.normalisation(outputs))
        norm = self.normalisation
        first = block(inputs, planes, stride, projection, norm_layer=norm)
        rest = [block(outputs, planes, norm_layer=norm) for _ in range(1, count)]
        return nn.Sequential(first, *rest)

    def forward(self, x: Tensor) -> Tensor:
        """(example, channel, side, side) → (example, classes) logits."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))  # (example, planes, side, side)
        for stage in range(1, 5):
            x = self.get_submodule(f"layer{stage}")(x)
        logits: Tensor = self.fc(x.mean((2, 3)))
        return logits


def _unit(_sizes: Sizes, name: str) -> str:
    part, *rest = name.split(".")
    if part.startswith("layer"):
        return f"stage{part.removeprefix('layer')}.resblk{int(rest[0]) + 1}"
    return "final_linear" if part == "fc" else "stage0"


def _initialise(
    module: nn.Module, names: tuple[str, ...], generator: torch.Generator
) -> dict[str, Tensor]:
    """torchvision's values where the network has BatchNorm, else smaller last convolutions."""
    parts = list(module.modules())
    if any(isinstance(part, nn.BatchNorm2d) for part in parts):
        return draw_tensors(_NORMALISED, module, names, generator)
    fresh = draw_tensors(_BARE, module, names, generator)
    blocks = sum(isinstance(part, (BasicBlock, Bottleneck)) for part in parts)
    for name in names:
        if _ends_a_block(module, name):
            fresh[name] /= math.sqrt(blocks)
    return fresh


_NORMALISED: Table = {**TORCH, nn.Conv2d: {"weight": fan_out_normal}}
_BARE: Table = {**TORCH, nn.Conv2d: {"weight": fan_in_normal}}


def _ends_a_block(module: nn.Module, name: str) -> bool:
    """Whether a tensor is the weight of a block's last convolution."""
    path, _, part = name.removesuffix(".weight").rpartition(".")
    block = module.get_submodule(path)
    last = "conv3" if isinstance(block, Bottleneck) else "conv2"
    return isinstance(block, (BasicBlock, Bottleneck)) and part == last


RESNET = Family(
    name="resnet",
    takes={
        "depth": Size(18, "layers with weights", choices=tuple(_DEPTHS)),
        "width": Size(1.0, "multiplier of all widths", "factor"),
        "batchnorm": Size(0, "batch normalisation", "switch"),
        "imagenet": Size(0, "the stem for large images", "switch"),
        **image_sizes(classes=10, side=32),
    },
    module=ResNet,
    unit=_unit,
    initialise=_initialise,
    example=one_image,
    skips=lambda unit: ".resblk" in unit,
)
