"""A comparison of stacks as text, and as one HTML file that needs neither Python nor a network."""

from __future__ import annotations

import math
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

import pandas as pd

from explorer.engine.across import Across, each_of
from explorer.inventory.placing import placed
from explorer.tables import Cell, Row, Table, table_html
from explorer.ui.wording import percent

COUNTED = ("robust", "mixed", "critical", "undecided", "not_known")
"""Verdicts in the order of the columns."""


def comparison_frame(found: Across) -> pd.DataFrame:
    """Return the table as it is shown: words, percent, a dash where there is nothing."""
    table = found.table
    shown = pd.DataFrame(index=table.index.rename(None))
    shown["layers"] = table["layers"].astype(str)
    shown["parameters"] = [_number(n, "{:,.0f}") for n in table["parameters"]]
    shown["trained error"] = list(map(percent, table["final_error"]))
    for word in COUNTED:
        if word != "not_known" or table[word].any():
            shown[word.replace("_", " ")] = table[word].astype(str)
    shown["parameters in critical"] = _shares(table["critical_parameters_share"])
    shown["damage, first"] = _shares(table["mean_damage"])
    shown["damage, fresh"] = _shares(table["mean_rerandomized_damage"])
    if table["effective_parameters"].notna().any():
        shown["effective parameters"] = [
            f"{_number(n, '{:,.0f}')} ({share})" if math.isfinite(n) else "–"
            for n, share in zip(
                table["effective_parameters"], _shares(table["effective_share"]), strict=True
            )
        ]
    if table["rank_agreement"].notna().any():
        shown["rank agreement"] = [_number(r, "{:+.2f}") for r in table["rank_agreement"]]
        shown["same verdicts"] = _shares(table["verdict_agreement"])
    return shown


def comparison_rule(found: Across) -> str:
    """Say in a few sentences what the columns mean."""
    table = found.table
    tested = "tested verdicts" if table["tested"].all() else "verdicts, not all of them tested"
    margins = ", ".join(f"{label} {100 * m:.1f}" for label, m in table["margin"].items())
    parts = [
        f"Counts are of layers: {tested}; margins ε in points: {margins}.",
        "Damage is the share of the way from a network's own trained error to its own chance, "
        "mean over the layers: each put back to the first checkpoint, or given fresh draws.",
    ]
    if table["rank_agreement"].notna().any():
        parts.append(
            "Agreement is that with the other stacks whose layers have the same names: mean rank "
            "correlation of the layers' damage at the first checkpoint, and share of layers with "
            "the same verdict."
        )
    if found.attrs["missing"]:
        parts.append(f"Stopped before: {found.attrs['missing']}.")
    stopped = [str(label) for label, done in table["complete"].items() if not done]
    if stopped:
        parts.append(f"Stopped within: {', '.join(stopped)}.")
    return " ".join(parts)


def comparison_text(found: Across) -> str:
    """Write the table of a comparison as text, with what it means."""
    return f"{comparison_frame(found).to_string()}\n\n{comparison_rule(found)}"


def comparison_html(found: Across) -> str:
    """Write the table of a comparison as HTML; every name is escaped."""
    frame = comparison_frame(found)
    rows = [
        Row(str(label), tuple(Cell(str(word)) for word in line))
        for label, line in zip(frame.index, frame.values.tolist(), strict=True)
    ]
    caption = "Verdicts, damage and agreement of each stack"
    return table_html(Table(caption, tuple(frame.columns), tuple(rows)))


def write_comparison(found: Across, path: str | Path) -> Path:
    """Write a self-contained, interactive page, whole or not at all.

    Parameters
    ----------
    found : DataTree
        As `explorer.compare` returns it.
    path : str or Path
        The file to write.

    Returns
    -------
    Path
        Where it lies.

    Raises
    ------
    CheckpointError
        The folder cannot be written to.
    """
    target = Path(path)
    with placed(target) as temporary:
        temporary.write_text(comparison_page(found), encoding="utf-8")
    return target


def comparison_page(found: Across) -> str:
    """Return the page of a comparison; every name that comes from data is escaped."""
    from bokeh.embed import components
    from bokeh.resources import Resources

    from explorer.ui.across_figure import MARKS, depth_figure, multiples_of, scale_figure

    multiples = multiples_of(found)
    curves = [depth_figure(found, fresh) for fresh in (False, True)]
    script, divs = components((scale_figure(), *multiples, *curves))
    boxes = [f"<figure>{div}</figure>" for div in divs]
    template = Template((files("explorer.ui") / "across.html").read_text(encoding="utf-8"))
    return template.substitute(
        title=escape(", ".join(found.table.index)),
        table=comparison_html(found),
        rule=escape(comparison_rule(found)),
        marks=escape(" · ".join(f"{mark} {word}" for word, mark in MARKS.items())),
        scale=boxes[0],
        multiples="".join(boxes[1 : 1 + len(multiples)]),
        curves="".join(boxes[1 + len(multiples) :]),
        provenance=_provenance(found),
        bokehjs=Resources(mode="inline", components=["bokeh"]).render_js(),
        script=script,
    )


def _provenance(found: Across) -> str:
    """Attributes of the sweeps, a column each, as HTML."""
    nodes = dict(each_of(found))
    names = dict.fromkeys(str(name) for node in nodes.values() for name in node.attrs)
    rows = [
        Row(name, tuple(Cell(str(n.attrs.get(name, "")), words=True) for n in nodes.values()))
        for name in names
    ]
    return table_html(Table("Attributes of the sweeps", tuple(nodes), tuple(rows)))


def _number(number: float, form: str) -> str:
    return form.format(number) if math.isfinite(number) else "–"


def _shares(column: Any) -> list[str]:
    return [_number(100 * share, "{:.0f}\u00a0%") for share in column]
