"""Numbers in the tables of benchmarks/results, which are Markdown."""

from __future__ import annotations

import re

from scripts.docs.links import ROOT

Row = dict[str, str]


def table(page: str, column: str) -> list[Row]:
    """Return the rows of the table that has a column.

    Parameters
    ----------
    page : str
        Name of a file in benchmarks/results, without its end.
    column : str
        Heading of a column that only this table of the page has.

    Returns
    -------
    list of dict
        Heading → text of the cell, without asterisks.

    Raises
    ------
    ValueError
        No table of the page, or more than one, has the column.
    """
    text = (ROOT / "benchmarks" / "results" / f"{page}.md").read_text(encoding="utf-8")
    blocks = re.findall(r"(?:^ *\|.*\n)+", text, re.MULTILINE)
    tables = [[cells(line) for line in block.splitlines()] for block in blocks]
    found = [rows for rows in tables if column in rows[0]]
    if len(found) != 1:
        raise ValueError(f"{page}.md has {len(found)} tables with a column {column!r}, not one.")
    heading, _, *rows = found[0]
    return [dict(zip(heading, row, strict=True)) for row in rows]


def cells(line: str) -> list[str]:
    """Split a line of a table."""
    return [cell.strip().replace("**", "") for cell in line.strip().strip("|").split("|")]


def number(text: str) -> float:
    """Return the first number of a cell: 9.01 of "9.01 s", 3.8 of "3.8×", 1e5 of "1e5, in cache".

    Raises
    ------
    ValueError
        There is none.
    """
    found = re.match(r"[\d,]+(?:\.\d+)?(?:e\d+)?", text)
    if not found:
        raise ValueError(f"No number in the cell {text!r}.")
    return float(found[0].replace(",", ""))
