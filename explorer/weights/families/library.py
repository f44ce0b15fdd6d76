"""Networks of torchvision and timm by name, with one layer per module.

Initial values are the library's own: its constructor is run again, so that a fresh draw has the
distribution that training would have begun with, whatever the network's own rules are.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from explorer.errors import UnknownNameError, unknown_name
from explorer.weights.families.chance import own_chance
from explorer.weights.families.family import Family, Size, Sizes
from explorer.weights.families.hollow import hollow
from explorer.weights.layers import group_layers

TORCHVISION, TIMM = "torchvision/", "timm/"

_CLASSES = 1000
"""Of ImageNet, what both libraries build by default."""

_OPTIONS: Mapping[str, Mapping[str, Any]] = {
    # without the auxiliary outputs of training, which torchvision's weights come without, too
    "googlenet": {"aux_logits": False, "init_weights": True},
    "inception_v3": {"aux_logits": False, "init_weights": True},
}


def library_family(name: str) -> Family:
    """Family of a name that begins with ``torchvision/`` or ``timm/``.

    Raises
    ------
    UnknownNameError
        The library has no such network, or is not installed.
    """
    if name.startswith(TIMM):
        return _timm_family(name)
    return _torchvision_family(name)


def _torchvision_family(name: str) -> Family:
    from torchvision import models  # a second and 160 MB, which other families do without

    short = name.removeprefix(TORCHVISION)
    known = models.list_models(module=models)  # classification: others are in submodules
    if short not in known:
        raise unknown_name("family", name, [TORCHVISION + one for one in known])

    def build(classes: int) -> nn.Module:
        options = _OPTIONS.get(short, {})
        network: nn.Module = models.get_model(short, num_classes=classes, **options)
        return network

    def example(_sizes: Sizes) -> tuple[int, ...]:
        trained = models.get_model_weights(short).DEFAULT
        return (3, *trained.transforms().crop_size * 2)  # of one number: it is square

    return _family(name, build, example)


def _timm_family(name: str) -> Family:
    if importlib.util.find_spec("timm") is None:
        raise UnknownNameError(
            f"The family {name!r} is one of timm, which is not installed.",
            "Networks of torchvision, as torchvision/NAME, are always there.",
            "Install it with: pip install timm",
        )
    timm = importlib.import_module("timm")
    short = name.removeprefix(TIMM)
    if not timm.is_model(short):
        raise unknown_name("family", name, [TIMM + one for one in timm.list_models()])

    def build(classes: int) -> nn.Module:
        network: nn.Module = timm.create_model(short, pretrained=False, num_classes=classes)
        return network

    def example(sizes: Sizes) -> tuple[int, ...]:
        with hollow():
            settings: Any = build(sizes["classes"]).default_cfg
        return tuple(settings["input_size"])

    return _family(name, build, example)


def _family(
    name: str,
    build: Callable[[int], nn.Module],
    example: Callable[[Sizes], tuple[int, ...]],
) -> Family:
    return Family(
        name=name,
        takes={"classes": Size(_CLASSES, "classes")},
        module=lambda sizes: build(sizes["classes"]),
        unit=lambda _sizes, tensor: next(iter(group_layers([tensor], "fine"))),
        initialise=functools.partial(_initialise, build),
        example=example,
    )


def _initialise(
    build: Callable[[int], nn.Module],
    module: nn.Module,
    names: tuple[str, ...],
    generator: torch.Generator,
) -> dict[str, Tensor]:
    """Run the library's constructor again, and keep these tensors of what it makes."""
    state = module.state_dict()
    classes = _count_classes(build, state)
    seed = int(torch.randint(2**62, (), generator=generator))
    with own_chance(seed), hollow(keep={state[name].shape for name in names}):
        fresh = build(classes).state_dict()
    return {name: fresh[name].clone() for name in names}


def _count_classes(build: Callable[[int], nn.Module], state: Mapping[str, Tensor]) -> int:
    """Classes of a network: the length of what is not shaped as for ImageNet's."""
    with hollow():
        usual = build(_CLASSES).state_dict()
    other = [t.shape[0] for name, t in state.items() if t.shape != usual[name].shape]
    return other[0] if other else _CLASSES
