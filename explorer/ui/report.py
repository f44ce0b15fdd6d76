"""A sweep and its distances as one HTML file that needs neither Python nor a network."""

from __future__ import annotations

import math
from collections.abc import Iterable
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template

import xarray as xr
from bokeh.embed import components
from bokeh.models import ColumnDataSource
from bokeh.resources import Resources

from explorer.colours import BLUES, REDS
from explorer.engine.intact import doubt_about
from explorer.engine.results import warn_if_changed
from explorer.engine.verdicts import DEFAULT_THRESHOLD, verdicts
from explorer.inventory.placing import placed
from explorer.ui.grid import FRESH, WHOLE_NETWORK, Grid, Unit, unit_of
from explorer.ui.painting import distance_columns, distance_reading, error_columns, error_scale
from explorer.ui.panes import alert
from explorer.ui.results import Reading, from_sweep, readings
from explorer.ui.verdict_table import verdict_html
from explorer.ui.views import Heatmap
from explorer.ui.wording import (
    DISTANCE_LEGEND,
    MEASURES,
    WIDEST_DISTANCE,
    error_legend,
    percent,
    size_of,
    tick,
    title_of,
)

MEASURE = "l2_per_sqrt_m"
"""The distance that the report shows."""


def write_report(sweep: xr.Dataset, distances: xr.Dataset, path: str | Path) -> Path:
    """Write a self-contained, interactive page.

    Parameters
    ----------
    sweep : xarray.Dataset
        As `explorer.sweep` returns it.
    distances : xarray.Dataset
        As `explorer.distances` returns it, of the same stack.
    path : str or Path
        The file to write; a file that is there is replaced as a whole or not at all.

    Returns
    -------
    Path
        Where it lies.

    Raises
    ------
    CheckpointError
        The folder cannot be written to.

    Warns
    -----
    ChangedStackWarning
        The distances were computed from other checkpoints than the sweep.
    """
    target = Path(path)
    warn_if_changed(distances.attrs, str(sweep.attrs.get("content_hash", "")), "These distances")
    page = report_page(sweep, distances)
    with placed(target) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return target


def report_page(
    sweep: xr.Dataset, distances: xr.Dataset, threshold: float = DEFAULT_THRESHOLD
) -> str:
    """Return the page of a report; every name that comes from data is escaped.

    Verdicts call a layer good enough up to the threshold, a share of the way to chance.
    """
    grid = grid_of(sweep)
    from explorer.engine.judging import judge  # scipy.stats, which the explorer's start needs not

    results = from_sweep(sweep, grid)
    script, (errors, moved) = _pictures(results, distances, grid)
    template = Template((files("explorer.ui") / "report.html").read_text(encoding="utf-8"))
    final, chance = float(sweep.attrs["final_error"]), float(sweep.attrs["chance_error"])
    return template.substitute(
        title=escape(title_of(sweep.attrs)),
        facts=escape(
            f"Final test error {percent(final)} · chance {percent(chance)} · "
            f"{int(sweep.attrs['examples']):,} test examples of {sweep.attrs['dataset']}"
        ),
        doubt=alert(doubt_about(sweep.attrs)),
        legend=f"{error_legend(grid.unit)} {DISTANCE_LEGEND} Hover over a cell for its numbers.",
        measure=escape(f"Distance from the start, {MEASURES[MEASURE]}"),
        errors=errors,
        distances=moved,
        rule=escape(_rule(final, chance, grid.unit, threshold)),
        error_table=_error_table(results, grid, threshold),
        tested=verdict_html(judge(results, threshold)),
        reasons=_reasons(results, grid),
        distance_table=_distance_table(distances, grid),
        provenance=_provenance(sweep),
        bokehjs=Resources(mode="inline", components=["bokeh"]).render_js(),
        script=script,
    )


def grid_of(sweep: xr.Dataset) -> Grid:
    """Return the cells that a sweep has."""
    return Grid(
        tuple(str(layer) for layer in sweep["layer"].values),
        tuple(int(epoch) for epoch in sweep["epoch"].values),
        sweep.sizes["draw"],
        unit_of(sweep.attrs),
    )


def _pictures(
    results: xr.Dataset, distances: xr.Dataset, grid: Grid
) -> tuple[str, tuple[str, str]]:
    """Both heatmaps, with one mark between them that follows the pointer."""
    marker = ColumnDataSource({"x": [], "y": []})
    size = f"{size_of(grid)}; the table below has them too"
    errors = Heatmap(grid, REDS, f"Heatmap of the test error, {size}", marker=marker)
    moved = Heatmap(
        grid,
        BLUES,
        f"Heatmap of the distance, {size}",
        whole_network=False,
        number_size=10,
        widest=WIDEST_DISTANCE,
        marker=marker,
    )
    scale = error_scale(results.attrs["final_error"], results.attrs["chance_error"])
    errors.paint(error_columns(results, grid, scale), scale)
    moved.paint(*distance_columns(distances, grid, MEASURE))
    for heatmap in (errors, moved):
        heatmap.mark_what_is_hovered()
    script, divs = components((errors.figure, moved.figure))
    return script, divs


def _rule(final: float, chance: float, unit: Unit, threshold: float) -> str:
    if unit == "checkpoint":
        return "There is one checkpoint, the trained network: no layer can be called critical."
    ours = threshold == DEFAULT_THRESHOLD
    whose = "is ours" if ours else "was chosen by the reader of the explorer"
    border = final + threshold * (chance - final)
    return (
        f"A layer is called critical when putting it back to the first {unit} takes the error "
        f"more than {tick(threshold)} of the way from the final error to chance, here "
        f"above {percent(border)}; mixed when only the values of a later {unit} do; else robust. "
        f"The paper gives no number; this threshold {whose}."
    )


def _error_table(results: xr.Dataset, grid: Grid, threshold: float) -> str:
    words = verdicts(results, threshold).to_series()
    rows = []
    for layer in grid.rows:
        cells = [cell for cell in grid.cells if cell.layer == layer]
        numbers = [_error_cell(reading) for reading in readings(results, cells)]
        if layer is None and grid.draws:
            numbers.insert(0, "<td></td>")
        word = "" if layer is None else str(words[layer])
        kind = ' class="fullmodel"' if layer is None else ""
        rows.append(
            f'<tr{kind}><th scope="row">{escape(layer or WHOLE_NETWORK)}</th>'
            f'<td class="word {escape(word)}">{escape(word)}</td>{"".join(numbers)}</tr>'
        )
    caption = (
        f"Test error in % after putting the layer back to the {grid.unit}; {FRESH}: mean of draws."
    )
    return _table(caption, ["layer", "verdict", *_columns(grid)], rows)


def _distance_table(distances: xr.Dataset, grid: Grid) -> str:
    rows = []
    for layer in grid.layers:
        cells = [cell for cell in grid.cells if cell.layer == layer]
        found = [distance_reading(distances, cell, MEASURE) for cell in cells]
        numbers = [
            f"<td>{'–' if math.isnan(one.value) else f'{one.value:.3g}'}</td>" for one in found
        ]
        rows.append(f'<tr><th scope="row">{escape(layer)}</th>{"".join(numbers)}</tr>')
    start = int(distances.attrs["reference_epoch"])
    unit = grid.unit
    caption = f"{MEASURES[MEASURE]} between the layer at the {unit} and at {unit} {start}."
    return _table(caption, ["layer", *_columns(grid)], rows)


def _columns(grid: Grid) -> list[str]:
    return list(grid.source_labels.values())


def _error_cell(reading: Reading) -> str:
    if math.isnan(reading.value):
        return f'<td title="{escape(reading.reason)}">–</td>'
    about = "≈" if reading.state == "estimated" else ""
    return f"<td>{about}{100 * reading.value:.1f}</td>"


def _table(caption: str, head: Iterable[str], rows: Iterable[str]) -> str:
    heads = "".join(f'<th scope="col">{escape(name)}</th>' for name in head)
    return (
        f"<table><caption><span>{escape(caption)}</span></caption>"
        f"<thead><tr>{heads}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
    )


def _reasons(results: xr.Dataset, grid: Grid) -> str:
    """Every cell without a number, and why."""
    found = zip(grid.cells, readings(results, grid.cells), strict=True)
    missing = [f"{cell}: {one.reason}" for cell, one in found if math.isnan(one.value)]
    if not missing:
        return ""
    items = "".join(f"<li>{escape(line)}</li>" for line in missing)
    return f'<h2>Not measured</h2><ul class="reasons">{items}</ul>'


def _provenance(sweep: xr.Dataset) -> str:
    return "".join(
        f'<tr><th scope="row">{escape(str(name))}</th><td>{escape(str(value))}</td></tr>'
        for name, value in sweep.attrs.items()
    )
