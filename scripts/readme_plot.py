"""Draw the README's plot of speed, docs/images/speed.svg, from the tables of benchmarks/results.

Every bar is a cell of such a table; no number is written here. Run with ``make pictures`` after a
benchmark has been measured again; ``--check`` only says whether the picture is what the tables say.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from html import escape
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RESULTS, PICTURE = ROOT / "benchmarks" / "results", ROOT / "docs" / "images" / "speed.svg"

WORKS = {
    "FCN 3×256, 10,000 examples, 20 epochs": "sweep-cpu.md",
    "VGG-11, 256 examples, 5 epochs": "sweep-cpu.md",
    "ViT (6 × 128), 256 examples, 5 epochs": "sweep-cpu.md",
    "ResNet-18, 10,000 examples, 20 epochs": "sweep-gpu.md",
    "ResNet-50, 10,000 examples, 8 epochs": "sweep-gpu.md",
}
"""Work → table that has it."""

DEVICES = {"sweep-cpu.md": "2 CPU cores", "sweep-gpu.md": "one H200 GPU"}

COLOURS = {
    "copy the model, test it, per cell (A)": "#b8bcc2",
    "best plain batch (B)": "#7f8790",
    "Layer Explorer, float32": "#0b57d0",
    "Layer Explorer, screen=True": "#7aa7f0",
}
"""Series → colour of its bars."""

LEFT, RIGHT, WIDE = 300, 790, 900
"""Pixels: where bars begin and where one as long as A ends; width of the picture."""

BAR, GAP = 15, 20
"""Pixels: height of a bar, space between two works."""


@dataclass(frozen=True)
class Bar:
    """One measurement."""

    series: str
    """A key of COLOURS."""

    seconds: float
    """Of a whole sweep."""


def main() -> int:
    """Draw, or compare."""
    drawn = picture({work: bars(RESULTS / file, work) for work, file in WORKS.items()})
    if "--check" in sys.argv[1:]:
        same = PICTURE.exists() and PICTURE.read_text(encoding="utf-8") == drawn
        print(f"{PICTURE.name}: {'as the tables say' if same else 'old; run make pictures'}")
        return 0 if same else 1
    PICTURE.write_text(drawn, encoding="utf-8")
    return 0


def bars(table: Path, work: str) -> list[Bar]:
    """Read the measurements of one work."""
    rows = [row for row in read_table(table) if row["work"] == work]
    if not rows:
        raise SystemExit(f"{table.name} has no row for {work}")
    a, b, ours, screened = COLOURS
    exact = next(row for row in rows if row["arithmetic"] == "float32")
    found = [Bar(a, seconds(exact["A"])), Bar(b, seconds(exact["B"]))]
    found.append(Bar(ours, seconds(exact["ours"])))
    screen = [row for row in rows if row["arithmetic"].endswith("screen")]
    return found + [Bar(screened, seconds(row["ours"])) for row in screen]


def read_table(path: Path) -> list[dict[str, str]]:
    """Read the first table of a Markdown file, column → text."""
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line[:1] == "|"]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    head, _, *rows = cells
    return [dict(zip(head, row, strict=True)) for row in rows if len(row) == len(head)]


def seconds(text: str) -> float:
    """Read "2.36 s"."""
    number, _, unit = text.partition(" ")
    if unit != "s":
        raise SystemExit(f"not a number of seconds: {text}")
    return float(number)


def picture(works: dict[str, list[Bar]]) -> str:
    """Return the plot: a group of bars for each work, its A as long as all others' A."""
    parts, top = [], 84
    for at, series in enumerate(COLOURS):
        x, y = 20 + 300 * (at // 2), 46 + 20 * (at % 2)
        parts.append(rectangle(x, y - 10, 12, 11, COLOURS[series]) + text(x + 18, y, series))
    for work, measured in works.items():
        name, _, size = work.partition(", ")
        parts.append(text(LEFT - 12, top + 12, name, 'text-anchor="end" font-weight="bold"'))
        where = f"{size} · {DEVICES[WORKS[work]]}"
        parts.append(text(LEFT - 12, top + 29, where, 'text-anchor="end" font-size="11"'))
        for bar in measured:
            length = (RIGHT - LEFT) * bar.seconds / measured[0].seconds
            parts.append(rectangle(LEFT, top, length, BAR - 2, COLOURS[bar.series]))
            parts.append(text(LEFT + length + 6, top + 11, words(bar, measured[0])))
            top += BAR
        top += GAP
    title = "Time of a whole sweep, the same labels in every bar"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDE} {top}" role="img" '
        f'font-family="DejaVu Sans, Verdana, Arial, sans-serif" font-size="12.5" fill="#222">\n'
        f"<title>{title}</title>\n"
        f'<rect width="{WIDE}" height="{top}" fill="#fff"/>\n'
        + text(20, 22, title, 'font-size="15" font-weight="bold"')
        + "".join(parts)
        + "</svg>\n"
    )


def words(bar: Bar, slowest: Bar) -> str:
    """Return what stands at the end of a bar."""
    if bar is slowest or bar.series not in list(COLOURS)[2:]:
        return f"{bar.seconds:g} s"
    return f"{bar.seconds:g} s  ({slowest.seconds / bar.seconds:.1f}×)"


def rectangle(x: float, y: float, width: float, height: float, colour: str) -> str:
    """Return one bar."""
    return f'<rect x="{x:g}" y="{y:g}" width="{width:.1f}" height="{height:g}" fill="{colour}"/>\n'


def text(x: float, y: float, words: str, attributes: str = "") -> str:
    """Return a line of text."""
    return f'<text x="{x:.1f}" y="{y:g}" {attributes}>{escape(words)}</text>\n'


if __name__ == "__main__":
    sys.exit(main())
