"""A sweep as text: layers × checkpoints, the fresh draws first, and each layer's verdict."""

from __future__ import annotations

import numpy as np
import pandas as pd
import xarray as xr

from explorer.engine.intact import doubt_about
from explorer.engine.overview import mean_of_draws, missing, sweep_table
from explorer.engine.verdicts import DEFAULT_THRESHOLD, verdicts
from explorer.tables import table_html
from explorer.ui.grid import FRESH, WHOLE_NETWORK, unit_of
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
    frame.insert(0, FRESH, mean_of_draws(sweep).to_series())
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
        *filter(None, [doubt_about(sweep.attrs)]),
        *missing(sweep),
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
    return table_html(sweep_table(sweep, threshold))
