"""Tested verdicts as a table for a page, and as text for the command line."""

from __future__ import annotations

import math

import pandas as pd
import xarray as xr

from explorer.tables import Cell, Row, Table, table_html
from explorer.ui.grid import unit_of
from explorer.ui.wording import percent, tick


def tested_rule(judged: xr.Dataset) -> str:
    """Say in a few sentences what was tested and what the words mean."""
    unit, margin = unit_of(judged.attrs), float(judged.attrs["margin"])
    if not math.isfinite(margin):
        return "Nothing can be tested before the trained network's error is known."
    return (
        f"Paired tests on {int(judged.attrs['examples']):,} test examples, margin ε = "
        f"{100 * margin:.1f} points. A cell is within if an increase of the error of ε or more is "
        "rejected, beyond if an increase of ε or less is; both tests of all cells are corrected "
        f"together (Holm, {int(judged.attrs['tests'])} tests), so that all words hold at once with "
        f"probability {tick(1 - float(judged.attrs['level']))}. robust: every {unit} is within; "
        f"critical: the first is beyond; mixed: the first is within, a later one beyond; "
        "undecided: the examples do not show any of these."
    )


def verdict_html(judged: xr.Dataset) -> str:
    """Write verdicts, how each came about and since when layers recover, as an HTML table.

    Parameters
    ----------
    judged : xarray.Dataset
        Of one run, as `explorer.verdicts` returns it.

    Returns
    -------
    str
        HTML; every name is escaped.
    """
    frame = _frame(judged)
    rows = tuple(
        Row(str(layer), tuple(Cell(str(word), words=True) for word in line))
        for layer, line in zip(frame.index, frame.values.tolist(), strict=True)
    )
    return table_html(Table(tested_rule(judged), tuple(map(str, frame.columns)), rows))


def verdict_text(judged: xr.Dataset) -> str:
    """Write verdicts of one run, or of several beside each other, as text."""
    if "run" not in judged.dims:
        final = percent(float(judged.attrs["final_error"]))
        head = f"{judged.attrs.get('stack_title', '')}: trained network's error {final}"
        return "\n\n".join([head, _frame(judged).to_string(), tested_rule(judged)])
    frame = pd.DataFrame(
        judged["verdict"].values.T, judged["layer"].values, judged["run"].values.astype(str)
    )
    frame["common"] = judged["common"].values
    frame["agreement"] = [f"{share:.2f}" for share in judged["agreement"].values]
    agree = "agreement: share of pairs of runs with the same verdict."
    parts = [verdict_text(alone(judged, run)) for run in judged["run"].values]
    return "\n\n".join([frame.to_string(), agree, *parts])


def alone(judged: xr.Dataset, run: str) -> xr.Dataset:
    """Take one of several runs, as if it had been judged alone."""
    own = {name: judged[name].sel(run=run).item() for name in ("margin", "final_error")}
    one = judged.sel(run=run, drop=True)
    return one.assign_attrs({"stack_title": str(run), **judged.attrs, **own})


def _frame(judged: xr.Dataset) -> pd.DataFrame:
    unit = unit_of(judged.attrs)
    since = [
        "never" if math.isnan(epoch) else f"{unit} {int(epoch)}"
        for epoch in judged["recovery"].values
    ]
    return pd.DataFrame(
        {
            "verdict": judged["verdict"].values,
            "within from": since,
            "rises again": ["yes" if rises else "" for rises in judged["not_monotone"].values],
            "because": judged["because"].values,
        },
        judged["layer"].values,
    )
