"""The loops over weights: flat contiguous arrays in, numbers out. Nothing else lives here."""

from __future__ import annotations

import numba
import numpy as np

STATISTICS = ("l1", "l2_squared", "linf", "dot", "reference_squared", "current_squared", "bad")
"""What `pair_statistics` writes, in this order."""


@numba.njit(nogil=True, cache=True)
def pair_statistics(reference, current, out):  # type: ignore[no-untyped-def]
    """Compare two flat arrays of weights in one pass, accumulating in float64.

    Parameters
    ----------
    reference, current : (weight,) float32 or float64
        The same tensor at two times.
    out : (7,) float64
        Written in the order of `STATISTICS`: Σ|c−r|, Σ(c−r)², max|c−r|, Σ r·c, Σ r², Σ c², and
        the number of weights where either is NaN or infinite; those enter no other statistic.
    """
    l1 = l2 = linf = dot = rr = cc = 0.0
    bad = 0
    for i in range(reference.size):
        r, c = np.float64(reference[i]), np.float64(current[i])
        if not (np.isfinite(r) and np.isfinite(c)):
            bad += 1
            continue
        delta = abs(c - r)
        l1 += delta
        l2 += delta * delta
        linf = max(linf, delta)
        dot += r * c
        rr += r * r
        cc += c * c
    out[0], out[1], out[2], out[3], out[4], out[5], out[6] = l1, l2, linf, dot, rr, cc, bad
