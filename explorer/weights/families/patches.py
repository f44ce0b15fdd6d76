"""What families that cut images into patches have in common: embedding and head."""

from __future__ import annotations

from torch import nn

from explorer.errors import StackError
from explorer.weights.families.family import Sizes
from explorer.weights.families.initialisers import Table, fan_in_truncated, zeros


class Patches(nn.Conv2d):
    """Cuts an image into patches and embeds each."""

    def __init__(self, channels: int, hidden: int, patch: int) -> None:
        super().__init__(channels, hidden, kernel_size=patch, stride=patch)


class ZeroHead(nn.Linear):
    """Output layer that begins at zero, so that at first all classes are equally likely."""


PATCHES: Table = {
    Patches: {"weight": fan_in_truncated, "bias": zeros},
    ZeroHead: {"weight": zeros, "bias": zeros},
}
"""torchvision's initial values for its vision transformer."""


def patches_a_side(family: str, sizes: Sizes) -> int:
    """Patches along one side of the image.

    Raises
    ------
    StackError
        The patches do not fill the image.
    """
    side, patch = sizes["side"], sizes["patch"]
    if side % patch:
        raise StackError(
            f"The sizes of a {family} network were side={side} and patch={patch}.",
            "The side has to be a multiple of the patch.",
            "Choose a patch that divides the side, or enlarge the images.",
        )
    return int(side // patch)
