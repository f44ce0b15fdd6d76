"""Tables in HTML whose cells carry colours, for notebooks and reports; they need no script.

Every string is escaped. Each row brings its own ground and ink, so that a table can be read on a
light page as on a dark one; what stands outside the table takes the page's colours.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from explorer.colours import REDS, Ramp, ink, shade

MOST_ROWS = 40
"""Rows of a table in a notebook; of more, the middle ones are left out and counted."""

MOST_COLUMNS = 16
"""Columns of a table in a notebook; the same holds for them."""

_GROUP = 'style="color:#111;text-align:right"'
_ROW = '<tr style="background:#fff">'
_LEFT = ' style="text-align:left"'


@dataclass(frozen=True)
class Cell:
    """One cell of a table."""

    text: str
    """What stands in it."""
    share: float = math.nan
    """Place on the table's ramp, cut off at 0 and 1; NaN: no colour."""
    words: bool = False
    """Words and no number: they begin at the left."""


@dataclass(frozen=True)
class Row:
    """One row of a table."""

    name: str
    """What the row is about."""
    cells: tuple[Cell, ...]
    """As many as the table has columns."""


@dataclass(frozen=True)
class Table:
    """What a table shows."""

    caption: str
    """What the numbers are, in a sentence."""
    columns: tuple[str, ...]
    """Heads of the columns, without that of the rows' names."""
    rows: tuple[Row, ...]
    """From top to bottom."""
    ramp: Ramp = REDS
    """Colours of the cells."""


def table_html(table: Table, most_rows: int | None = None, most_columns: int | None = None) -> str:
    """Write a table as HTML.

    Parameters
    ----------
    table : Table
        What it shows.
    most_rows, most_columns : int, optional
        Of more than so many, the middle ones are left out and counted; default all are shown.

    Returns
    -------
    str
        One ``<table>``; every string is escaped.
    """
    places = shown(len(table.columns), most_columns)
    gap = f"… {len(table.columns) - len(places) + 1} more"
    heads = [gap if place is None else escape(table.columns[place]) for place in places]
    left = [_LEFT if place is not None and _says_words(table, place) else "" for place in places]
    head = "".join(
        f'<th scope="col"{style}>{text}</th>' for style, text in zip(left, heads, strict=True)
    )
    chosen = shown(len(table.rows), most_rows)
    left_out = f"{len(table.rows) - len(chosen) + 1} more are not shown"
    rest = f'{_ROW}<th>…</th><td colspan="{len(places)}"{_LEFT}>{left_out}</td></tr>'
    body = [rest if at is None else _line(table.rows[at], places, table.ramp) for at in chosen]
    return (
        f"<table><caption>{escape(table.caption)}</caption>"
        f"<thead {_GROUP}>{_ROW}<td></td>{head}</tr></thead>"
        f"<tbody {_GROUP}>{''.join(body)}</tbody></table>"
    )


def shown(count: int, most: int | None) -> list[int | None]:
    """Positions that are shown of so many, the first three quarters and the last; None: a gap."""
    if most is None or count <= most:
        return list(range(count))
    front = most * 3 // 4
    return [*range(front), None, *range(count - (most - front), count)]


def page_html(title: str, facts: Mapping[str, str], table: str, notes: Sequence[str]) -> str:
    """Write a title, facts and a table that is HTML already, and notes below it.

    Parameters
    ----------
    title : str
        One line.
    facts : mapping
        Name → value, both short; those without a value are left out.
    table : str
        As `table_html` returns it.
    notes : sequence of str
        A line each; ``code`` between backquotes is set as code.

    Returns
    -------
    str
        HTML; the title, the facts and the notes are escaped.
    """
    said = " · ".join(
        f"{escape(name)} <b>{escape(value)}</b>" for name, value in facts.items() if value
    )
    below = "".join(f"<div>{_with_code(note)}</div>" for note in notes)
    return f"<div><div><b>{escape(title)}</b></div><div>{said}</div>{table}{below}</div>"


def without_code(text: str) -> str:
    """Return a text for a note in which nothing is set as code, whatever names are in it."""
    return text.replace("`", "´")


def percent(fraction: float) -> str:
    """Return an error for a cell: 0.0294 → "2.9"; a dash where it was not measured."""
    return f"{100 * fraction:.1f}" if math.isfinite(fraction) else "–"


def _says_words(table: Table, column: int) -> bool:
    """Tell whether a column holds words, so that its head begins at the left as they do."""
    return bool(table.rows) and all(row.cells[column].words for row in table.rows)


def _line(row: Row, places: Sequence[int | None], ramp: Ramp) -> str:
    cells = ("<td>…</td>" if at is None else _cell(row.cells[at], ramp) for at in places)
    return f'{_ROW}<th scope="row"{_LEFT}>{escape(row.name)}</th>{"".join(cells)}</tr>'


def _cell(cell: Cell, ramp: Ramp) -> str:
    text = escape(cell.text)
    if not math.isfinite(cell.share):
        return f"<td{_LEFT if cell.words else ''}>{text}</td>"
    colour = shade(ramp, min(1.0, max(0.0, cell.share)))
    if colour == "#ffffff":  # the row's own ground
        return f"<td>{text}</td>"
    on_dark = ";color:#fff" if ink(colour) == "#ffffff" else ""
    return f'<td style="background:{colour}{on_dark}">{text}</td>'


def _with_code(note: str) -> str:
    """Escape a note, and set what stands between backquotes as code."""
    parts = escape(note).split("`")
    if len(parts) % 2 == 0:  # a backquote without its partner stands for itself
        return escape(note)
    return "".join(f"<code>{p}</code>" if k % 2 else p for k, p in enumerate(parts))
