"""Where the names of points stand, so that none covers another name or a point.

Pure functions; only the page knows how wide a text is, so they keep to what is safe.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

FRAME = (310.0, 190.0)
"""Pixels of the frame where the page is narrow; where it is wide, names are farther apart."""

LOWEST, HIGHEST, MARGIN = -0.02, 1.02, 1.12
"""Ends of the axis of errors, and length of that of distances in farthest distances."""

LETTER, LINE, DOT = 7.0, 13.0, 5.0
"""Pixels of a letter of a name, of its line, and from the middle of a point to its edge."""

UP = 13.0
"""Pixels from the middle of a point to that of a name above or below it."""

Side = tuple[float, float, str]
"""Pixels to the right of a point, pixels down, and which end of the name is there."""

SIDES: tuple[Side, ...] = (
    (10.0, 0.0, "left"),
    (-10.0, 0.0, "right"),
    (0.0, -UP, "center"),
    (0.0, UP, "center"),
    (8.0, -UP, "left"),
    (-8.0, -UP, "right"),
    (8.0, UP, "left"),
    (-8.0, UP, "right"),
)
"""Where a name may stand, the best first."""

Box = tuple[float, float, float, float]
"""Left, top, right and bottom, in pixels of the frame."""


def names_beside(
    names: Sequence[str], x: Sequence[float], y: Sequence[float]
) -> dict[str, list[Any]]:
    """Return where the names of points of distance against error stand.

    Parameters
    ----------
    names : sequence of str
        Of each point; one without a name is kept clear of all the same.
    x, y : sequence of float
        Distance, and error as a fraction.

    Returns
    -------
    dict
        name, dx and dy (pixels to the right of the point, and down), align. A name that fits on
        no side of its point is empty.
    """
    width, height = FRAME
    farthest = MARGIN * max(x, default=0.0) or 1.0
    middles = [
        (across / farthest * width, (HIGHEST - up) / (HIGHEST - LOWEST) * height)
        for across, up in zip(x, y, strict=True)
    ]
    taken = [(left - DOT, top - DOT, left + DOT, top + DOT) for left, top in middles]
    placed: dict[str, list[Any]] = {"name": [], "dx": [], "dy": [], "align": []}
    for name, (left, top) in zip(names, middles, strict=True):
        found = _free_side(left, top, LETTER * len(name), taken) if name else None
        if found is not None:
            taken.append(found[1])
        place = (name, *found[0]) if found is not None else ("", *SIDES[0])
        for column, value in zip(placed.values(), place, strict=True):
            column.append(value)
    return placed


def _free_side(x: float, y: float, long: float, taken: Sequence[Box]) -> tuple[Side, Box] | None:
    """Return where a name fits beside a point, with the box that it fills; None if nowhere."""
    for side in SIDES:
        dx, dy, align = side
        left = x + dx - {"left": 0.0, "center": 0.5, "right": 1.0}[align] * long
        box = (left, y + dy - LINE / 2, left + long, y + dy + LINE / 2)
        inside = min(box) >= 0 and box[2] <= FRAME[0] and box[3] <= FRAME[1]
        if inside and not any(_meet(box, other) for other in taken):
            return side, box
    return None


def _meet(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]
