"""Sizes that the families for images have in common."""

from __future__ import annotations

from explorer.weights.families.family import Size, Sizes


def image_sizes(classes: int, side: int) -> dict[str, Size]:
    """Sizes of what goes in and what comes out, with the family's defaults."""
    return {
        "classes": Size(classes, "classes"),
        "channels": Size(3, "channels of an image"),
        "side": Size(side, "height and width of an image, in pixels"),
    }


def one_image(sizes: Sizes) -> tuple[int, ...]:
    """Shape of one image: (channel, side, side)."""
    return sizes["channels"], sizes["side"], sizes["side"]
