"""The measures of one layer: formulas over the sums that `tensors.py` takes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from explorer.stats.kernels import STATISTICS

MEASURES = {
    "l1": "‖Δ‖₁",
    "l2": "‖Δ‖₂",
    "l2_per_sqrt_m": "‖Δ‖₂ / √m",
    "l2_per_sqrt_fan_in": "‖Δ‖₂ / √fan_in",
    "l2_relative": "‖Δ‖₂ / ‖θ₀‖₂",
    "linf": "max |Δ|",
    "cosine": "1 − cos(θ, θ₀)",
}
"""Measure → how it is written; Δ is the difference to the reference, m the parameter count."""

Totals = Mapping[str, NDArray[np.float64]]
"""Parameter name → (…, statistic) float64, as `STATISTICS` names them."""


def layer_measures(
    totals: Totals, sizes: Mapping[str, int], fan_in: Mapping[str, int]
) -> dict[str, Any]:
    """All measures of one layer, its parameters taken together.

    Parameters
    ----------
    totals : mapping
        Parameter → (statistic,) between two times.
    sizes : mapping
        Parameter → number of weights.
    fan_in : mapping
        Parameter → inputs that feed one output.

    Returns
    -------
    dict
        A number for each of `MEASURES`, and ``nonfinite``; NaN where a weight is not finite, or
        where squares are larger than a float64.
    """
    rows = {name: dict(zip(STATISTICS, totals[name].tolist(), strict=True)) for name in totals}
    total = {key: sum(row[key] for row in rows.values()) for key in STATISTICS}
    total["linf"] = max((row["linf"] for row in rows.values()), default=0.0)
    count = sum(sizes.values())
    scaled = sum(row["l2_squared"] / fan_in[name] for name, row in rows.items())
    l2 = np.sqrt(total["l2_squared"])
    values = {
        "l1": total["l1"],
        "l2": l2,
        "l2_per_sqrt_m": l2 / np.sqrt(max(count, 1)),
        "l2_per_sqrt_fan_in": np.sqrt(scaled),
        "l2_relative": _ratio(l2, np.sqrt(total["reference_squared"])),
        "linf": total["linf"],
        "cosine": _cosine_distance(total),
    }
    bad = int(total["bad"])
    known = {key: not bad and np.isfinite(value) for key, value in values.items()}
    measured = {key: float(value) if known[key] else float("nan") for key, value in values.items()}
    return {**measured, "nonfinite": bad}


def missing_measures() -> dict[str, Any]:
    """What stands where a layer could not be measured."""
    return {**dict.fromkeys(MEASURES, float("nan")), "nonfinite": 0}


def _cosine_distance(total: Mapping[str, float]) -> float:
    """1 − cos in 0…2; 0 for identical weights, NaN where a norm is 0 and the other is not.

    (‖c−r‖² − (‖c‖−‖r‖)²) / (2·‖r‖·‖c‖): the law of cosines. 1 − r·c/(‖r‖·‖c‖) is the same, but
    loses every digit where the angle is small.
    """
    if total["l2_squared"] == 0.0:
        return 0.0
    r, c = np.sqrt(total["reference_squared"]), np.sqrt(total["current_squared"])
    if r == 0.0 or c == 0.0 or not np.isfinite(total["l2_squared"] + r + c):
        return float("nan")
    return float(np.clip((total["l2_squared"] - (c - r) ** 2) / (2 * r * c), 0.0, 2.0))


def _ratio(top: float, bottom: float) -> float:
    """Quotient; 0/0 is 0 (nothing moved), anything else over 0 is NaN."""
    if not np.isfinite(top + bottom):
        return float("nan")
    if bottom == 0.0:
        return 0.0 if top == 0.0 else float("nan")
    return top / bottom
