"""The families that exist, by name."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from explorer.errors import StackError, unknown_name
from explorer.weights.families.family import Family
from explorer.weights.families.fcn import FCN

FAMILIES: Mapping[str, Family] = {family.name: family for family in (FCN,)}


def find_family(name: str) -> Family:
    """Return the family of this name.

    Raises
    ------
    UnknownNameError
        No family has this name.
    """
    if name not in FAMILIES:
        raise unknown_name("family", name, FAMILIES)
    return FAMILIES[name]


def build_network(name: str, sizes: Mapping[str, int]) -> nn.Module:
    """Build a family's member; its parameters still hold arbitrary values.

    Raises
    ------
    UnknownNameError
        No family has this name.
    StackError
        A size is missing, unknown or not positive.
    """
    family = find_family(name)
    if set(sizes) != set(family.sizes) or min(sizes.values()) < 1:
        raise StackError(
            f"The sizes of a {name} network were {dict(sizes)}.",
            f"Positive numbers for {', '.join(family.sizes)} are needed.",
            f"The defaults are {dict(family.sizes)}.",
        )
    return family.build(sizes)
