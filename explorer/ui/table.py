"""A sweep as text: layers × epochs, the fresh draws first, and each layer's verdict."""

from __future__ import annotations

import numpy as np
import pandas as pd
import xarray as xr

from explorer.engine.verdicts import DEFAULT_THRESHOLD, verdicts
from explorer.ui.grid import FRESH, WHOLE_NETWORK


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
    lines = [
        f"{sweep.attrs['stack_title']}: test error in % after putting one layer back to an epoch",
        "",
        shown.to_string(),
        "",
        f"{FRESH}: mean of {sweep.sizes['draw']} fresh draws. {WHOLE_NETWORK}: every layer from "
        "that epoch, the learning curve.",
        f"critical: at some epoch the error goes more than {threshold:.0%} of the way from the "
        f"final {final:.1%} to chance, {chance:.1%}.",
        *_missing(sweep),
    ]
    return "\n".join(lines)


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
