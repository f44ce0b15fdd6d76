"""Colours that stand for numbers: ramps, what can be read on them, contrast.

Pure functions without any drawing library; heatmaps, tables and reports share them.
"""

from __future__ import annotations

Ramp = tuple[tuple[int, int, int], ...]
"""Colours at equal steps, from low to high."""

REDS: Ramp = ((255, 255, 255), (253, 212, 194), (251, 106, 74), (190, 22, 28), (88, 0, 13))
"""White to dark red, the paper's colours for the error; luminance falls, so it reads in grey."""

BLUES: Ramp = ((255, 255, 255), (204, 224, 241), (107, 174, 214), (24, 100, 170), (8, 37, 87))
"""White to dark blue, for distances."""

BLUE_TO_RED: Ramp = (
    (20, 82, 150),
    (82, 156, 206),
    (255, 255, 255),
    (251, 106, 74),
    (88, 0, 13),
)
"""Blue below, white in the middle, red above: told apart with any kind of colour vision."""


def shade(ramp: Ramp, share: float) -> str:
    """Return the colour at a share in [0, 1] of the ramp, as #rrggbb."""
    at = share * (len(ramp) - 1)
    below = min(int(at), len(ramp) - 2)
    mixed = [a + (b - a) * (at - below) for a, b in zip(ramp[below], ramp[below + 1], strict=True)]
    return "#" + "".join(f"{round(channel):02x}" for channel in mixed)


def palette(ramp: Ramp, steps: int = 128) -> list[str]:
    """Return the ramp as a list of colours, for a colour bar."""
    return [shade(ramp, step / (steps - 1)) for step in range(steps)]


def ink(colour: str) -> str:
    """Return black or white, whichever stands out more on a colour (WCAG 2 contrast)."""
    return "#111111" if contrast(colour, "#111111") >= contrast(colour, "#ffffff") else "#ffffff"


def contrast(one: str, other: str) -> float:
    """Return the WCAG 2 contrast ratio of two colours, 1 (equal) to 21 (black on white)."""
    light, dark = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def _luminance(colour: str) -> float:
    """Relative luminance of an sRGB colour (WCAG 2.2, definition)."""
    channels = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return sum(part * weight for part, weight in zip(linear, (0.2126, 0.7152, 0.0722), strict=True))
