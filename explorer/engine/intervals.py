"""How far a share of some examples may lie from the true one; needs no torch."""

from __future__ import annotations

import math

Z_95 = 1.959963984540054
"""97.5 % quantile of the standard normal distribution."""


def wilson_interval(errors: float, examples: int) -> tuple[float, float]:
    """95 % interval of a proportion (Wilson, 1927).

    Parameters
    ----------
    errors, examples : int
        0 ≤ errors ≤ examples, examples ≥ 1.

    Returns
    -------
    tuple of float
        Lower and upper end, within 0…1.
    """
    p, z2 = errors / examples, Z_95**2
    centre = (p + z2 / (2 * examples)) / (1 + z2 / examples)
    spread = Z_95 / (1 + z2 / examples)
    half = spread * math.sqrt(p * (1 - p) / examples + z2 / (4 * examples**2))
    # p is in it, which rounding could deny at 0 and 1
    return max(0.0, min(p, centre - half)), min(1.0, max(p, centre + half))
