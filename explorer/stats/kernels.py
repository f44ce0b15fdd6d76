"""The loops over weights: flat contiguous arrays in, numbers out. Nothing else lives here."""

from __future__ import annotations

import numba
import numpy as np

STATISTICS = ("l1", "l2_squared", "linf", "reference_squared", "current_squared", "bad")
"""What the kernels write about a pair of tensors, in this order."""

BLOCK = 16_384
"""Weights whose sums are kept apart before they are added up. The rounding error of a sum grows
with it: 2e-15 here, 1e-14 for 65,536, which is 2 % faster (10⁶ normal weights, 8 to a vector)."""

VECTORS = {"reassoc", "contract"}
"""What the compiler may do to sums so that they use vector registers: order them anew, and round
a product and its sum once. Five times the speed (benchmarks/results/distances-cpu.md). Not
fastmath=True: that would also let it assume that no weight is NaN or infinite."""


@numba.njit(nogil=True, cache=True)
def pair_statistics(reference, current, out):
    """Compare two tensors of which some weights may be NaN or infinite, one weight at a time.

    Parameters
    ----------
    reference, current : (weight,) float32 or float64
        The same tensor at two times.
    out : (6,) float64
        Written in the order of `STATISTICS`: Σ|c−r|, Σ(c−r)², max|c−r|, Σ r², Σ c², and the
        number of weights where either is NaN or infinite; those enter no other statistic.
    """
    l1 = l2 = linf = rr = cc = 0.0
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
        rr += r * r
        cc += c * c
    out[0], out[1], out[2], out[3], out[4], out[5] = l1, l2, linf, rr, cc, bad


@numba.njit(nogil=True, cache=True)
def four_statistics(reference, a, b, c, d, out):
    """Compare one tensor with itself at four other times, in one pass and block by block.

    Of a tensor in pieces of whole blocks, one call after the other gives the bits of a single one.

    Parameters
    ----------
    reference, a, b, c, d : (weight,) float32 or float64, all the same
        One tensor at five times.
    out : (4, 6) float64
        For each of a, b, c, d: what `pair_statistics` writes is added to it, of max|c−r| the
        larger one is kept.
    """
    block = np.empty((4, 6))
    for start in range(0, reference.size, BLOCK):
        r = reference[start : start + BLOCK]
        stop = start + r.size
        currents = (a[start:stop], b[start:stop], c[start:stop], d[start:stop])
        _four_finite(r, currents, block)
        for j in range(4):
            if not np.isfinite(block[j, 2]):
                pair_statistics(r, currents[j], block[j])
            top = max(out[j, 2], block[j, 2])
            out[j] += block[j]
            out[j, 2] = top


@numba.njit(nogil=True, cache=True, fastmath=VECTORS)
def _four_finite(reference, currents, out):
    """One block of `four_statistics`; where a weight is not finite, max|c−r| comes out so too."""
    a, b, c, d = currents
    nothing = (0.0, 0.0, np.int64(0), 0.0)
    at_a, at_b, at_c, at_d = nothing, nothing, nothing, nothing
    rr = 0.0
    for i in range(reference.size):
        r = np.float64(reference[i])
        rr += r * r
        at_a = _add(at_a, r, np.float64(a[i]))
        at_b = _add(at_b, r, np.float64(b[i]))
        at_c = _add(at_c, r, np.float64(c[i]))
        at_d = _add(at_d, r, np.float64(d[i]))
    for j, (l1, l2, top, cc) in enumerate((at_a, at_b, at_c, at_d)):
        linf = np.int64(top).view(np.float64)
        out[j, 0], out[j, 1], out[j, 2], out[j, 3], out[j, 4], out[j, 5] = l1, l2, linf, rr, cc, 0


@numba.njit(nogil=True, cache=True, fastmath=VECTORS)
def _add(sums, r, c):
    """Add one weight to Σ|c−r|, Σ(c−r)², max|c−r| and Σ c².

    The bits of a float64 without its sign, read as an integer, order as the numbers do, with
    infinity and then NaN above all: the maximum is an integer one, and no NaN gets lost in it.
    """
    l1, l2, top, cc = sums
    delta = c - r
    size = np.float64(abs(delta))
    return l1 + size, l2 + delta * delta, max(top, size.view(np.int64)), cc + c * c
