"""The list of what a reader has measured, joint interventions and sources without a column too."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import pandas as pd

from explorer.engine.interventions import Intervention
from explorer.ui.results import Counts
from explorer.ui.selection import Choice
from explorer.ui.wording import interval, percent

SHOWN = 30
"""Lines of the list on the page, the newest first."""


@dataclass(frozen=True)
class Measured:
    """One intervention that has been measured."""

    choice: Choice
    """What the reader chose."""

    intervention: Intervention
    """What was put back."""

    error: float
    """Test error, a fraction in [0, 1]; NaN if it could not be measured."""

    error_low: float
    """Lower end of its 95 % interval."""

    error_high: float
    """Upper end of its 95 % interval."""

    examples: int
    """Test examples behind it."""

    turned_wrong: int
    """Examples that were right with the trained network and are wrong now."""

    turned_right: int
    """Examples that were wrong with the trained network and are right now."""

    failure: str
    """Why there is no number; empty if there is one."""

    @classmethod
    def of(cls, choice: Choice, intervention: Intervention, counts: Counts) -> Measured:
        """Return what the last counts of an intervention say; of a failure, no number holds."""
        if counts.failure:
            nan = math.nan
            return cls(choice, intervention, nan, nan, nan, 0, 0, 0, counts.failure)
        return cls(
            choice,
            intervention,
            counts.error,
            counts.error_low,
            counts.error_high,
            counts.examples,
            counts.turned_wrong,
            counts.turned_right,
            failure="",
        )


NUMBERS = ("error", "error_low", "error_high", "examples", "turned_wrong", "turned_right")


def measured_frame(entries: Sequence[Measured]) -> pd.DataFrame:
    """Return the list as a table, one row per measurement in the order of time."""
    columns = ["intervention", *NUMBERS, "failure"]
    rows = [
        [str(one.intervention), *(getattr(one, name) for name in NUMBERS), one.failure]
        for one in entries
    ]
    return pd.DataFrame(rows, columns=columns)


def measured_html(entries: Sequence[Measured]) -> str:
    """Return the newest entries as an HTML table; every name is escaped."""
    if not entries:
        return "<p>Nothing yet: what you measure is listed here, joint interventions too.</p>"
    rows = "".join(_row(one) for one in reversed(entries[-SHOWN:]))
    more = len(entries) - SHOWN
    note = f"<p>and {more:,} earlier; all of them are in the CSV file.</p>" if more > 0 else ""
    return (
        "<table><caption>Measured here, newest first.</caption><thead><tr>"
        '<th scope="col">put back</th><th scope="col">test error</th>'
        '<th scope="col">95 % interval</th><th scope="col">examples</th>'
        '<th scope="col">turned wrong</th><th scope="col">turned right</th></tr></thead>'
        f"<tbody>{rows}</tbody></table>{note}"
    )


def _row(one: Measured) -> str:
    name = f'<th scope="row">{escape(str(one.choice))}</th>'
    if one.failure:
        return f'<tr>{name}<td colspan="5">{escape(one.failure)}</td></tr>'
    cells = (
        percent(one.error),
        interval(one.error_low, one.error_high),
        f"{one.examples:,}",
        f"{one.turned_wrong:,}",
        f"{one.turned_right:,}",
    )
    return f"<tr>{name}{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"
