"""A sweep as text: layers × checkpoints, the fresh draws first, and each layer's verdict."""

from __future__ import annotations

from html import escape

import numpy as np
import pandas as pd
import xarray as xr

from explorer.colours import REDS, ink, shade
from explorer.engine.verdicts import DEFAULT_THRESHOLD, verdicts
from explorer.ui.grid import FRESH, WHOLE_NETWORK, unit_of
from explorer.ui.painting import Scale, error_scale
from explorer.ui.wording import ONE


def sweep_frame(sweep: xr.Dataset, threshold: float = DEFAULT_THRESHOLD) -> pd.DataFrame:
    """Arrange a sweep as in the paper's Fig. 1, with a column of verdicts.

    Parameters
    ----------
    sweep : xarray.Dataset
        As `explorer.sweep` returns it.
    threshold : float
        Share of the way to chance above which a layer is critical.

    Returns
    -------
    pandas.DataFrame
        One row per layer and one for the full model; columns ReRnd (mean of the draws), the
        epochs, verdict. Errors are fractions, NaN where not measured.
    """
    frame = pd.DataFrame(sweep["error"].values, sweep["layer"].values, sweep["epoch"].values)
    frame.insert(0, FRESH, sweep["rerandomized_error"].mean("draw").to_series())
    frame["verdict"] = verdicts(sweep, threshold).to_series()
    curve = sweep["fullmodel_error"].values.tolist()
    frame.loc[WHOLE_NETWORK] = [np.nan, *curve, ""]
    frame.index.name, frame.columns.name = None, None
    return frame


def sweep_text(sweep: xr.Dataset, threshold: float = DEFAULT_THRESHOLD) -> str:
    """Write a sweep as a table in percent, with what the verdicts mean and what is missing."""
    frame = sweep_frame(sweep, threshold)
    numbers = frame.columns.drop("verdict")
    shown = frame.copy().astype(object)
    for column in numbers:
        shown[column] = [f"{100 * e:.1f}" if np.isfinite(e) else "–" for e in frame[column]]
    final, chance = float(sweep.attrs["final_error"]), float(sweep.attrs["chance_error"])
    unit = unit_of(sweep.attrs)
    lines = [
        f"{sweep.attrs['stack_title']}: test error in % after putting one layer back to "
        f"{ONE[unit]}",
        "",
        shown.to_string(),
        "",
        f"{FRESH}: mean of {sweep.sizes['draw']} fresh draws. {WHOLE_NETWORK}: every layer from "
        f"that {unit}, the learning curve.",
        f"critical: at the first {unit} the error goes more than {threshold:.0%} of the way from "
        f"the final {final:.1%} to chance, {chance:.1%}; mixed: only at a later {unit}.",
        *_missing(sweep),
    ]
    return "\n".join(lines)


def sweep_html(sweep: xr.Dataset, threshold: float = DEFAULT_THRESHOLD) -> str:
    """Write a sweep as a table whose cells have the heatmap's colours; it needs no script.

    Parameters
    ----------
    sweep : xarray.Dataset
        As `explorer.sweep` returns it.
    threshold : float
        Share of the way to chance above which a layer is critical.

    Returns
    -------
    str
        HTML; every name is escaped.
    """
    frame = sweep_frame(sweep, threshold)
    numbers = frame.columns.drop("verdict")
    final, chance = float(sweep.attrs["final_error"]), float(sweep.attrs["chance_error"])
    scale = error_scale(final, chance)
    head = "".join(f'<th scope="col">{column}</th>' for column in (*numbers, "verdict"))
    rows = []
    for name, row in frame.iterrows():
        cells = "".join(_painted(float(row[column]), scale) for column in numbers)
        verdict = escape(str(row["verdict"]))
        rows.append(f'<tr><th scope="row">{escape(str(name))}</th>{cells}<td>{verdict}</td></tr>')
    caption = (
        f"{escape(str(sweep.attrs['stack_title']))}: test error in % after one layer (row) was put "
        f"back to one {unit_of(sweep.attrs)} (column); trained {final:.1%}, chance {chance:.1%}"
    )
    return (
        f"<table><caption>{caption}</caption><thead><tr><td></td>{head}</tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table>"
    )


def _painted(error: float, scale: Scale) -> str:
    if not np.isfinite(error):
        return "<td>–</td>"
    colour = shade(REDS, scale.share(error))
    style = f"background:{colour};color:{ink(colour)};text-align:right"
    return f'<td style="{style}">{100 * error:.1f}</td>'


def _missing(sweep: xr.Dataset) -> list[str]:
    """One line per reason why a cell has no number, or only an estimate."""
    reasons: dict[str, int] = {}
    for name in ("reason", "rerandomized_reason", "fullmodel_reason"):
        for reason in sweep[name].values.ravel():
            if reason:
                reasons[str(reason)] = reasons.get(str(reason), 0) + 1
    lines = [f"–: {count} cells, {reason}" for reason, count in reasons.items()]
    fewest, total = int(sweep["examples"].min()), int(sweep.attrs["examples"])
    if 0 < fewest < total:
        lines.append(f"estimated: the fewest examples behind a cell are {fewest} of {total}.")
    return lines
