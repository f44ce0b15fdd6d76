"""One tiny member of every form of every family, to be built, drawn and run in no time."""

from __future__ import annotations

import torch

from explorer.weights.families.known import find_family
from explorer.weights.fresh import fresh_layer

CLASSES = 4
SMALL = {"classes": CLASSES, "channels": 2, "side": 8}
VGG = {"width": 1 / 16, **SMALL}
RESNET = {"width": 1 / 16, **SMALL}
WORDS = {"depth": 2, "heads": 2, "width": 1 / 16, "vocabulary": 11, "positions": 6}

MEMBERS = {
    "fcn": ("fcn", {"depth": 2, "width": 8, "inputs": 36, "classes": CLASSES}),
    "fcn-bn": ("fcn", {"depth": 2, "width": 8, "inputs": 36, "classes": CLASSES, "batchnorm": 1}),
    "vgg11": ("vgg", VGG),
    "vgg19-bn": ("vgg", {**VGG, "depth": 19, "batchnorm": 1}),
    "vgg13-imagenet": ("vgg", {**VGG, "depth": 13, "imagenet": 1, "width": 1 / 64}),
    "resnet18": ("resnet", RESNET),
    "resnet50": ("resnet", {**RESNET, "depth": 50}),
    "resnet34-bn": ("resnet", {**RESNET, "depth": 34, "batchnorm": 1}),
    "resnet50-imagenet": ("resnet", {**RESNET, "depth": 50, "imagenet": 1, "batchnorm": 1}),
    "vit": ("vit", {"depth": 2, "heads": 2, "width": 1 / 16, "patch": 4, **SMALL}),
    "mixer": ("mixer", {"depth": 2, "width": 1 / 64, "patch": 4, **SMALL}),
    "transformer": ("transformer", WORDS),
    "transformer-tied": ("transformer", {**WORDS, "tied": 1}),
}
"""Name of the member → family and sizes."""

IMAGE_CLASSIFIERS = [name for name in MEMBERS if not name.startswith("transformer")]


def skeleton(name, **sizes):
    """A member without memory."""
    return find_family(name).skeleton(sizes)


def count(module):
    """Its number of parameters."""
    return sum(p.numel() for p in module.parameters())


def initial_state(member, draw=0):
    """A network in evaluation mode and the state that a draw of all its layers gives."""
    name, sizes = MEMBERS[member]
    family = find_family(name)
    network = family.build(sizes).eval()
    state = {}
    for layer, names in family.layers(sizes).items():
        state |= fresh_layer(network, name, layer, names, draw, 0)
    network.load_state_dict(state)
    return network, state


def examples(member, count=16):
    """Random examples of the shape that a member takes."""
    name, sizes = MEMBERS[member]
    shape = find_family(name).input_shape(sizes)
    generator = torch.Generator().manual_seed(3)
    if name == "transformer":
        return torch.randint(0, sizes["vocabulary"], (count, *shape), generator=generator)
    return torch.randn(count, *shape, generator=generator)
