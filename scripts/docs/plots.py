"""Draw the plots of docs/benchmarks.md from the tables of benchmarks/results: make plots.

The diagram of partial re-execution is drawn with them.

They are SVG files of a few kilobytes, committed, so that the page shows them on a forge as well;
a test draws them again and compares.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from html import escape

from scripts.docs.diagram import partial_re_execution
from scripts.docs.drawing import WIDTH, line, picture, rectangle, text
from scripts.docs.links import ROOT
from scripts.docs.tables import Row, number, table

IMAGES = ROOT / "docs" / "images"

LEFT, RIGHT = 232, 92
BAR, GAP, TOP = 17, 14, 44
OURS = "#8c1515"
COLOURS = {"A": "#5b7fa6", "B": "#b9b3aa", "ours": OURS, "ours, with the screen": "#d9a441"}
OTHERS = (OURS, "#5b7fa6", "#b9b3aa")
"""What is drawn → colour; each is told apart by its lightness too, and the key names it."""


def main() -> int:
    """Write every plot."""
    for name, svg in plots().items():
        (IMAGES / f"{name}.svg").write_text(svg, encoding="utf-8")
        print(f"{name}: {len(svg):,} characters")
    return 0


def plots() -> dict[str, str]:
    """Return path in docs/images, without its end → SVG."""
    return {
        "benchmarks/sweep-cpu": sweep_on_cpu(),
        "benchmarks/growth": growth(),
        "benchmarks/sweep-gpu": sweep_on_gpu(),
        "benchmarks/clicks": clicks(),
        "benchmarks/distances": distances(),
        "partial-re-execution": partial_re_execution(),
    }


# --- what is shown --------------------------------------------------------------------------------


def sweep_on_cpu() -> str:
    """How many times faster a sweep is than A and B, in float32."""
    rows = {row["work"]: row for row in float32(table("sweep-cpu", "click → first estimate"))}
    shown = {
        name: {"than B": number(row["against B"]), "than A": number(row["against A"])}
        for name, row in rows.items()
    }
    return bars("A whole sweep: how many times faster", shown, "×")


def sweep_on_gpu() -> str:
    """Seconds of a sweep on a GPU, with A and B beside it."""
    shown: dict[str, dict[str, float]] = {}
    for row in table("sweep-gpu", "click → first estimate"):
        name = "ours" if row["arithmetic"] == "float32" else "ours, with the screen"
        group = shown.setdefault(row["work"], {})
        group |= {"A": number(row["A"]), "B": number(row["B"]), name: number(row["ours"])}
    return bars("A whole sweep: seconds", shown, " s")


def clicks() -> str:
    """Milliseconds from a click to its first estimate and to its exact error."""
    rows = float32(table("sweep-cpu", "click → first estimate"))
    shown = {
        row["work"]: {
            "first estimate": number(row["click → first estimate"]),
            "exact error": number(row["click → exact"]),
        }
        for row in rows
        if "tolerance" not in row["work"]
    }
    return bars("A click: milliseconds until it shows", shown, " ms")


def distances() -> str:
    """Gigabytes of weights per second, beside a plain sum."""
    shown = {
        row["weights per tensor"]: {
            "ours": number(row["ours, GB/s"]),
            "plain sum": number(row["plain sum, GB/s"]),
        }
        for row in table("distances-cpu", "plain sum, GB/s")
    }
    return bars("Distances: gigabytes read per second, by weights per tensor", shown, " GB/s")


def growth() -> str:
    """Seconds of a sweep against the arithmetic in it."""
    rows = table("sweep-cpu", "GFLOP/s")
    gflop = "GFLOP that depend on the changed layers"
    points = [
        (number(row[gflop]), number(row["ours"]), f"{row['FCN']}, {row['examples']} examples")
        for row in rows
    ]
    return scatter("FCN in float32: time of a sweep", points, gflop, "seconds")


def float32(rows: Sequence[Row]) -> list[Row]:
    """Leave out the rows in a lower precision."""
    return [row for row in rows if row["arithmetic"] == "float32"]


# --- how it is drawn ------------------------------------------------------------------------------


def bars(title: str, groups: Mapping[str, Mapping[str, float]], unit: str) -> str:
    """Draw a group of horizontal bars for each name, all from 0 on one linear scale."""
    kinds = list(dict.fromkeys(kind for group in groups.values() for kind in group))
    free = iter(OTHERS)
    colours = {kind: COLOURS.get(kind) or next(free) for kind in kinds}
    largest = max(value for group in groups.values() for value in group.values())
    scale = (WIDTH - LEFT - RIGHT) / largest
    pieces, y = [*key(colours)], float(TOP + 26)
    for name, group in groups.items():
        middle = y + BAR * len(group) / 2
        pieces += label(name, middle)
        for kind, value in group.items():
            pieces.append(rectangle(LEFT, y, value * scale, BAR - 3, colours[kind]))
            text_x = LEFT + value * scale + 6
            pieces.append(text(text_x, y + BAR - 6, f"{value:,.4g}{unit}", size=12))
            y += BAR
        y += GAP
    return picture(title, pieces, y + 4)


def scatter(title: str, points: Sequence[tuple[float, float, str]], across: str, up: str) -> str:
    """Draw points on two logarithmic axes; each says what it is when one points at it."""
    left, right, top, bottom = 70, WIDTH - 30, TOP + 16, 380
    x = logarithmic([point[0] for point in points], left, right)
    y = logarithmic([point[1] for point in points], bottom, top)
    pieces = []
    for value, at in x.ticks():
        pieces.append(line(at, top, at, bottom))
        pieces.append(text(at, bottom + 18, f"{value:g}", anchor="middle", size=12))
    for value, at in y.ticks():
        pieces.append(line(left, at, right, at))
        pieces.append(text(left - 8, at + 4, f"{value:g}", anchor="end", size=12))
    pieces += [
        f'<circle cx="{x(a):.1f}" cy="{y(b):.1f}" r="5" fill="{OURS}" fill-opacity="0.75">'
        f"<title>{escape(name)}: {b:g} s</title></circle>"
        for a, b, name in points
    ]
    pieces.append(text((left + right) / 2, bottom + 40, across, anchor="middle"))
    pieces.append(text(left - 44, top - 8, up))
    return picture(title, pieces, bottom + 54)


class logarithmic:  # noqa: N801 - it is used as a function
    """Map values to pixels by their logarithm.

    Parameters
    ----------
    values : sequence of float
        What has to fit; above 0.
    first, last : float
        Pixels of the least and of the largest value, before some room at both ends.
    """

    def __init__(self, values: Sequence[float], first: float, last: float) -> None:
        self.low, self.high = math.log10(min(values)) - 0.1, math.log10(max(values)) + 0.1
        self.first, self.last = first, last

    def __call__(self, value: float) -> float:
        share = (math.log10(value) - self.low) / (self.high - self.low)
        return self.first + share * (self.last - self.first)

    def ticks(self) -> list[tuple[float, float]]:
        """List 1, 2 and 5 times the powers of ten that lie within, with their pixels."""
        powers = range(math.floor(self.low), math.ceil(self.high) + 1)
        values = [digit * 10.0**power for power in powers for digit in (1, 2, 5)]
        return [(v, self(v)) for v in values if self.low <= math.log10(v) <= self.high]


def key(colours: Mapping[str, str]) -> list[str]:
    """Draw which colour is what."""
    pieces, x = [], float(LEFT)
    for kind, colour in colours.items():
        pieces += [rectangle(x, TOP - 2, 12, 12, colour), text(x + 18, TOP + 9, kind, size=12)]
        x += 40 + 7.2 * len(kind)
    return pieces


def label(name: str, middle: float) -> list[str]:
    """Write a group's name at the left, in lines of about thirty characters."""
    lines = [""]
    for word in name.split():
        if len(lines[-1]) + len(word) > 30:
            lines.append("")
        lines[-1] = f"{lines[-1]} {word}".strip()
    start = middle - 7.5 * len(lines) + 9
    return [
        text(LEFT - 10, start + 15 * row, content, anchor="end", size=12)
        for row, content in enumerate(lines)
    ]


if __name__ == "__main__":
    sys.exit(main())
