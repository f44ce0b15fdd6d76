"""Sheets, words, boxes and lines of the pictures in docs/images, as SVG."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

WIDTH = 720
"""Pixels of every picture; pages show it narrower where they are."""


def picture(title: str, pieces: Sequence[str], height: float) -> str:
    """Put the pieces on a white sheet, which stays white in a dark page."""
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" '
            'font-family="system-ui, -apple-system, Segoe UI, DejaVu Sans, sans-serif" '
            f'font-size="13" fill="#222" role="img"><title>{escape(title)}</title>',
            f'<rect width="{WIDTH}" height="{height:.0f}" rx="6" fill="#fff"/>',
            text(20, 26, title, size=15, weight="bold"),
            *pieces,
            "</svg>\n",
        ]
    )


def text(
    x: float,
    y: float,
    content: str,
    *,
    anchor: str = "start",
    size: int = 13,
    weight: str = "",
    fill: str = "",
) -> str:
    """Write a line of text; `y` is its base line."""
    place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}"'
    place += f' font-weight="{weight}"' if weight else ""
    place += f' fill="{fill}"' if fill else ""
    return f"<text {place}>{escape(content)}</text>"


def rectangle(x: float, y: float, width: float, height: float, colour: str) -> str:
    """Draw a filled rectangle."""
    size = f'width="{max(width, 1):.1f}" height="{height:.1f}"'
    return f'<rect x="{x:.1f}" y="{y:.1f}" {size} fill="{colour}"/>'


def line(x0: float, y0: float, x1: float, y1: float) -> str:
    """Draw a thin line of the grid."""
    return f'<line x1="{x0:.1f}" y1="{y0:.1f}" x2="{x1:.1f}" y2="{y1:.1f}" stroke="#ddd"/>'
