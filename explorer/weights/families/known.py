"""The families that exist, by name."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import nn

from explorer.errors import UnknownNameError, unknown_name
from explorer.weights.families.family import Family
from explorer.weights.families.fcn import FCN


def _vgg() -> Family:
    from explorer.weights.families.vgg import VGG

    return VGG


def _resnet() -> Family:
    from explorer.weights.families.resnet import RESNET

    return RESNET


def _vit() -> Family:
    from explorer.weights.families.vit import VIT

    return VIT


def _mixer() -> Family:
    from explorer.weights.families.mixer import MIXER

    return MIXER


def _transformer() -> Family:
    from explorer.weights.families.transformer import TRANSFORMER

    return TRANSFORMER


def _library(name: str) -> Family:
    from explorer.weights.families.library import library_family

    return library_family(name)


_LOADERS: Mapping[str, Callable[[], Family]] = {
    "fcn": lambda: FCN,
    "vgg": _vgg,
    "resnet": _resnet,
    "vit": _vit,
    "mixer": _mixer,
    "transformer": _transformer,
}
"""Loaded when first asked for: torchvision takes a second and 160 MB, which an FCN does without."""


def _language(name: str) -> Family:
    from explorer.weights.families.language import language_family

    return language_family(name)


_PREFIXES: Mapping[str, Callable[[str], Family]] = {
    "torchvision/": _library,
    "timm/": _library,
    "transformers/": _language,
}
"""Beginnings of names of networks from libraries."""


class Families(Mapping[str, Family]):
    """Our families by name, and those of libraries with the library's name before theirs.

    The latter are ``torchvision/NAME``, ``timm/NAME`` and ``transformers/TYPE``. Iteration gives
    our own only.
    """

    def __getitem__(self, name: str) -> Family:
        """Return the family of this name, or say which there are."""
        if name in _LOADERS:
            return _LOADERS[name]()
        for prefix, load in _PREFIXES.items():
            if isinstance(name, str) and name.startswith(prefix):
                return load(name)
        error = unknown_name("family", name, _LOADERS)
        raise UnknownNameError(
            error.came,
            f"{error.accepted} torchvision/NAME, timm/NAME and transformers/TYPE will also do.",
            error.advice,
        )

    def __iter__(self) -> Iterator[str]:
        return iter(_LOADERS)

    def __len__(self) -> int:
        return len(_LOADERS)


FAMILIES = Families()


def find_family(name: str) -> Family:
    """Return the family of this name.

    Raises
    ------
    UnknownNameError
        No family has this name, or the library it is from is not installed.
    """
    return FAMILIES[name]


def build_network(name: str, sizes: Mapping[str, Any]) -> nn.Module:
    """Build a family's member; its parameters still hold arbitrary values.

    Raises
    ------
    UnknownNameError
        No family has this name.
    StackError
        A size is unknown, or its value is not one that it takes.
    """
    return find_family(name).build(sizes)


def diagram(name: str, sizes: Mapping[str, Any] | None = None) -> str:
    """Draw a family's member: its layers in forward order with their numbers of parameters.

    Parameters
    ----------
    name : str
        Name of the family.
    sizes : mapping, optional
        Sizes that differ from the family's defaults.

    Returns
    -------
    str
        Several lines; ``↷`` marks a layer that a skip connection leads around.

    Raises
    ------
    UnknownNameError
        No family has this name.
    StackError
        A size is unknown, or its value is not one that it takes.
    """
    return find_family(name).diagram(sizes or {})
