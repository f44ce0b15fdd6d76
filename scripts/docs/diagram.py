"""Draw docs/images/partial-re-execution.svg, the picture of how a cell is measured: make plots."""

from __future__ import annotations

from collections.abc import Sequence

from scripts.docs.drawing import picture, rectangle, text

LAYERS = 4
BOX, SPACE, LEFT, ROW = 84, 26, 168, 74
KEPT, RUNS, REPLACED = "#e9e6e1", "#5b7fa6", "#8c1515"


def partial_re_execution() -> str:
    """Return the picture, as SVG: the intact pass, and three cells that start from its values."""
    pieces = [*row(70, "intact pass", "runs once", 1, ()), *kept_values(70)]
    for number, layer in enumerate((2, 3, 4), start=1):
        y = 70 + ROW * number + 26
        runs = LAYERS - layer + 1
        words = f"{runs} of {LAYERS} run again" if runs > 1 else f"1 of {LAYERS} runs again"
        pieces += row(y, f"layer {layer} ← epoch 0", words, layer, (layer,))
    pieces += legend(70 + ROW * 4 + 22)
    return picture("A cell runs what depends on its layer, and nothing else", pieces, 420)


def row(y: float, name: str, words: str, first: int, replaced: Sequence[int]) -> list[str]:
    """Draw the boxes of one pass; those before the layer `first` do not run."""
    pieces = [
        text(LEFT - 16, y + 20, name, anchor="end", weight="bold"),
        text(LEFT - 16, y + 37, words, anchor="end", size=12),
    ]
    for layer in range(1, LAYERS + 1):
        x = LEFT + (layer - 1) * (BOX + SPACE)
        runs = layer >= first
        colour = REPLACED if layer in replaced else RUNS if runs else KEPT
        pieces.append(rectangle(x, y, BOX, 46, colour))
        shade = "#fff" if runs else "#777"
        pieces.append(text(x + BOX / 2, y + 28, f"layer {layer}", anchor="middle", fill=shade))
        if runs or layer + 1 == first:
            pieces.append(arrow(x + BOX, y + 23, x + BOX + SPACE, dashed=not runs))
    end = LEFT + LAYERS * (BOX + SPACE)
    pieces.append(text(end + 6, y + 28, "labels"))
    return pieces


def kept_values(y: float) -> list[str]:
    """Draw what is kept between the layers of the intact pass, and who goes on from it."""
    pieces = []
    for number, layer in enumerate((2, 3, 4), start=1):
        x = LEFT + (layer - 1) * (BOX + SPACE) - SPACE / 2
        below = y + ROW * number + 26 + 23
        pieces.append(
            f'<path d="M{x} {y + 23} V{below}" stroke="#777" stroke-dasharray="3 4" fill="none"/>'
        )
        pieces.append(f'<circle cx="{x}" cy="{y + 23}" r="5" fill="#d9a441" stroke="#7a5a16"/>')
    return pieces


def arrow(x0: float, y: float, x1: float, *, dashed: bool) -> str:
    """Draw an arrow to the right; a dashed one brings a kept value."""
    dash = ' stroke-dasharray="3 4"' if dashed else ""
    middle = (x0 + x1) / 2 if dashed else x0
    head = f"M{x1 - 6} {y - 4} L{x1 - 1} {y} L{x1 - 6} {y + 4}"
    return (
        f'<path d="M{middle} {y} H{x1 - 1}" stroke="#777" fill="none"{dash}/>'
        f'<path d="{head}" stroke="#777" fill="none"/>'
    )


def legend(y: float) -> list[str]:
    """Draw what each colour means."""
    pieces, x = [], 24.0
    words = (
        (RUNS, "runs"),
        (REPLACED, "runs with the replaced values"),
        (KEPT, "does not run, its values are known"),
    )
    for colour, meaning in words:
        pieces += [rectangle(x, y, 13, 13, colour), text(x + 20, y + 11, meaning, size=12)]
        x += 38 + 6.1 * len(meaning)
    pieces.append(f'<circle cx="{x + 6}" cy="{y + 7}" r="5" fill="#d9a441" stroke="#7a5a16"/>')
    pieces.append(text(x + 18, y + 11, "kept value", size=12))
    return pieces
