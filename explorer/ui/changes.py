"""What an intervention changed: errors of each class, the confusion, and the examples themselves.

Pure functions from answers to HTML; every name that comes from data is escaped.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from explorer.colours import BLUE_TO_RED, ink, shade
from explorer.ui.wording import short_difference, short_percent

Array = NDArray[Any]

MOST_CLASSES = 12
"""Classes that a table shows; of more, those that changed most."""

MOST_WRONG, MOST_RIGHT = 18, 6
"""Examples that are shown of those that turned wrong, and of those that turned right."""

CONTEXT = 28
"""Tokens before the answer that are shown of a text."""

THUMBNAIL = 56
"""Pixels on the page of the longer side of an example."""


@dataclass(frozen=True)
class Changes:
    """Answers of the trained network and of the patched one, and the examples worth a look."""

    title: str
    """What was put back, in words."""

    labels: Array
    """(answer,) true class numbers, in the order of the dataset."""

    intact: Array
    """(answer,) classes that the trained network answers."""

    patched: Array
    """(answer,) classes that the patched network answers."""

    names: tuple[str, ...] = ()
    """Name of each class; empty where they have none."""

    positions: int = 1
    """Answers per example; above 1 for texts."""

    inputs: Mapping[int, Array] = field(default_factory=dict)
    """Number of an example → its inputs, for the examples that are shown."""


def showcase(labels: Array, intact: Array, patched: Array) -> tuple[list[int], list[int]]:
    """Return numbers of answers that turned wrong and right, few enough to be looked at.

    They are taken evenly from all that turned, so that they show more than the first class.
    """
    wrong = np.flatnonzero((patched != labels) & (intact == labels))
    right = np.flatnonzero((patched == labels) & (intact != labels))
    return _spread(wrong, MOST_WRONG), _spread(right, MOST_RIGHT)


def _spread(numbers: Array, most: int) -> list[int]:
    if len(numbers) <= most:
        return [int(number) for number in numbers]
    return [int(numbers[at * len(numbers) // most]) for at in range(most)]


def changes_html(changes: Changes) -> str:
    """Return the whole panel as HTML."""
    wrong = int(((changes.patched != changes.labels) & (changes.intact == changes.labels)).sum())
    right = int(((changes.patched == changes.labels) & (changes.intact != changes.labels)).sum())
    head = (
        f"<p><strong>{escape(changes.title)}</strong>: {wrong:,} of {len(changes.labels):,} "
        f"answers turned wrong, {right:,} turned right.</p>"
    )
    shown = _most_changed(changes)
    parts = [_gallery(changes), _classes_table(changes, shown), _confusion_table(changes, shown)]
    columns = "".join(f"<div>{part}</div>" for part in parts)
    return f'{head}<div class="layer-explorer-changes">{columns}</div>'


def _count(changes: Changes) -> int:
    arrays = (changes.labels, changes.intact, changes.patched)
    return max(len(changes.names), *(int(array.max()) + 1 for array in arrays))


def _name(changes: Changes, number: int) -> str:
    """Return the name of a class, with white space made visible."""
    if number >= len(changes.names):
        return str(number)
    name = changes.names[number]
    return name if name.strip() and name.isprintable() else repr(name)


def _errors(changes: Changes) -> tuple[Array, Array, Array]:
    """Examples, and errors of the trained and of the patched network, of each class."""
    count = _count(changes)
    examples = np.bincount(changes.labels, minlength=count)
    missed = [
        np.bincount(changes.labels[answers != changes.labels], minlength=count)
        for answers in (changes.intact, changes.patched)
    ]
    before, after = (each / np.maximum(examples, 1) for each in missed)
    return examples, before, after


def _most_changed(changes: Changes) -> list[int]:
    """Return the classes to show, in their order."""
    examples, before, after = _errors(changes)
    present = np.flatnonzero(examples)
    turned = np.abs(after - before)[present] * examples[present]
    most = present[np.argsort(-turned, kind="stable")[:MOST_CLASSES]]
    return sorted(int(number) for number in most)


def _classes_table(changes: Changes, shown: Sequence[int]) -> str:
    examples, before, after = _errors(changes)
    rows = "".join(
        f'<tr><th scope="row">{escape(_name(changes, at))}</th><td>{examples[at]:,}</td>'
        f"<td>{short_percent(before[at])}</td>{_bar(after[at])}"
        f"<td>{short_difference(after[at] - before[at])}</td></tr>"
        for at in shown
    )
    left = int((examples > 0).sum()) - len(shown)
    more = f" The {len(shown)} that changed most; {left} more classes." if left else ""
    return (
        f"<table><caption>Test error by class, in %.{more}</caption><thead><tr>"
        '<th scope="col">class</th><th scope="col">examples</th><th scope="col">trained</th>'
        '<th scope="col">now</th><th scope="col">change</th></tr></thead>'
        f"<tbody>{rows}</tbody></table>"
    )


def _bar(error: float) -> str:
    """Return a cell with a number on a bar as long as it."""
    style = f"background:linear-gradient(90deg,#f6b9a5 {100 * error:.0f}%,transparent 0)"
    return f'<td style="min-width:64px;{style}">{short_percent(error)}</td>'


def _confusion_table(changes: Changes, shown: Sequence[int]) -> str:
    place = {number: at for at, number in enumerate(shown)}
    counts = np.zeros((2, len(shown), len(shown)), np.int64)
    for which, answers in enumerate((changes.intact, changes.patched)):
        for true, answered in zip(changes.labels, answers, strict=True):
            if int(true) in place and int(answered) in place:
                counts[which, place[int(true)], place[int(answered)]] += 1
    moved = counts[1] - counts[0]  # (true class, answered class)
    most = max(int(np.abs(moved).max()), 1)
    head = "".join(f'<th scope="col">{escape(_name(changes, at))}</th>' for at in shown)
    rows = []
    for at, line in zip(shown, moved, strict=True):
        cells = "".join(_moved(int(number), most) for number in line)
        rows.append(f'<tr><th scope="row">{escape(_name(changes, at))}</th>{cells}</tr>')
    return (
        '<table class="confusion"><caption>How often a class (row) is answered as (column), '
        "against the trained network: red more often, blue less.</caption><thead><tr><td></td>"
        f"{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
    )


def _moved(number: int, most: int) -> str:
    colour = shade(BLUE_TO_RED, 0.5 + 0.5 * number / most)
    text = f"{number:+d}".replace("-", "−") if number else ""
    return f'<td style="background:{colour};color:{ink(colour)}">{text}</td>'


def _gallery(changes: Changes) -> str:
    wrong, right = showcase(changes.labels, changes.intact, changes.patched)
    parts = []
    for word, numbers in (("wrong", wrong), ("right", right)):
        shown = [_example(changes, number) for number in numbers]
        body = f"<ul>{''.join(shown)}</ul>" if shown else "<p>none</p>"
        kind = "texts" if changes.positions > 1 else "examples"
        parts.append(f"<h3>Turned {word}: {kind} with true class, old and new answer</h3>{body}")
    return "".join(parts)


def _example(changes: Changes, number: int) -> str:
    true, old, new = (
        escape(_name(changes, int(answers[number])))
        for answers in (changes.labels, changes.intact, changes.patched)
    )
    example, position = divmod(number, changes.positions)
    inputs = changes.inputs.get(example)
    right = f'<span class="true">{true}</span>'
    if changes.positions > 1:
        context = "" if inputs is None else _context(changes, inputs, position)
        said = f"{right} was {old}, now <b>{new}</b>"
        return f'<li class="text"><code>{escape(context)}</code> {said}</li>'
    words = f"example {example:,}, class {true}, was answered {old}, now {new}"
    picture = "" if inputs is None else _picture(inputs, words)
    said = f"{right} {old} → <b>{new}</b>"
    return f'<li title="{words}">{picture or f"#{example:,}"}<span>{said}</span></li>'


def _context(changes: Changes, inputs: Array, position: int) -> str:
    """Return the tokens up to and with a position, as text on one line."""
    tokens = [int(token) for token in inputs[max(0, position + 1 - CONTEXT) : position + 1]]
    named = [
        changes.names[token] if token < len(changes.names) else f"‹{token}›" for token in tokens
    ]
    text = "".join(named)
    return "…" + "".join(letter if letter.isprintable() else "⏎" for letter in text)


def _picture(inputs: Array, words: str) -> str:
    """Return an example as an <img>, or nothing where it is no image."""
    pixels = np.asarray(inputs, dtype=float)
    if pixels.ndim == 3 and pixels.shape[0] in (1, 3):  # (channel, row, column)
        pixels = pixels.transpose(1, 2, 0).squeeze()
    grey_or_colour = pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] == 3)
    if not grey_or_colour or not np.isfinite(pixels).all():
        return ""
    low, high = float(pixels.min()), float(pixels.max())
    grey = (255 * (pixels - low) / ((high - low) or 1.0)).round().astype(np.uint8)
    content = io.BytesIO()
    Image.fromarray(grey).save(content, "PNG")
    data = base64.b64encode(content.getvalue()).decode("ascii")
    height, width = grey.shape[:2]
    scale = THUMBNAIL / max(height, width)
    return (
        f'<img alt="{words}" width="{round(width * scale)}" height="{round(height * scale)}" '
        f'src="data:image/png;base64,{data}">'
    )
