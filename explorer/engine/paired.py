"""Tests of paired answers: is the error of a patched network larger, and by more than a margin.

n examples are answered by the intact and by the patched network. b of them turn wrong, c turn
right, and Δ = P(turns wrong) − P(turns right) is how much the error grows.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.stats import beta, binom, binomtest

DISCORDANT_GAMMA = 1e-6
"""γ of Berger & Boos: the share of examples that change may lie outside its interval this often;
added to each p value, which cannot be smaller."""

POINTS = 21
"""Values of that share, evenly over its interval, at which the tail is computed."""

TAIL = 1e-13
"""Probability, at either end, of numbers of changed examples that are not summed but added."""


def mcnemar(turned_wrong: int, turned_right: int) -> float:
    """P value of the exact McNemar test that the error is neither larger nor smaller.

    Parameters
    ----------
    turned_wrong, turned_right : int
        b and c. Under the hypothesis Δ = 0, b of the b + c that changed is Binomial(b + c, ½).

    Returns
    -------
    float
        Two-sided; 1 where nothing changed.

    References
    ----------
    McNemar, Psychometrika 12, 153–157, 1947, in its exact, binomial form.
    """
    changed = turned_wrong + turned_right
    return float(binomtest(turned_wrong, changed).pvalue) if changed else 1.0


@lru_cache(maxsize=65536)
def p_within(turned_wrong: int, turned_right: int, examples: int, margin: float) -> float:
    """P value of H0: Δ ≥ ε against H1: Δ < ε; small where the error stays within the margin.

    Parameters
    ----------
    turned_wrong, turned_right, examples : int
        b, c and n.
    margin : float
        ε, a difference of errors, 0…1.

    Returns
    -------
    float
        For ε > 0 the largest tail probability P(D ≤ b − c) under Δ = ε over a 1 − γ interval
        (Clopper–Pearson) of ψ, the share of examples that change, plus γ: at most α with
        probability at most α, whatever ψ. For ε = 0 the exact, conditional McNemar test.

    References
    ----------
    Non-inferiority of paired proportions: Tango, Statistics in Medicine 17, 891–908, 1998, whose
    hypotheses these are; the test is not his score test but is unconditional and exact, as
    Sidik, Statistics in Medicine 22, 265–278, 2003, with the interval of Berger & Boos, JASA 89,
    1012–1016, 1994.
    """
    difference = turned_wrong - turned_right
    if margin == 0:
        return float(binom.cdf(turned_wrong, turned_wrong + turned_right, 0.5))
    low, high = _share_that_changes(turned_wrong + turned_right, examples)
    if high < margin:  # no Δ ≥ ε with so few that change
        return DISCORDANT_GAMMA
    shares = np.linspace(max(low, margin), high, POINTS)
    tails = _tail(examples, shares, np.full(POINTS, margin), difference, below=True)
    return min(1.0, float(tails.max()) + DISCORDANT_GAMMA)


@lru_cache(maxsize=65536)
def p_beyond(turned_wrong: int, turned_right: int, examples: int, margin: float) -> float:
    """P value of H0: Δ ≤ ε against H1: Δ > ε; small where the error goes beyond the margin.

    Parameters and references are those of `p_within`; the tail is P(D ≥ b − c), and for ε = 0
    this is the exact, one-sided McNemar test.

    Returns
    -------
    float
    """
    changed, difference = turned_wrong + turned_right, turned_wrong - turned_right
    if margin == 0:
        return float(binom.sf(turned_wrong - 1, changed, 0.5))
    shares = np.linspace(*_share_that_changes(changed, examples), POINTS)
    tails = _tail(examples, shares, np.minimum(margin, shares), difference, below=False)
    return min(1.0, float(tails.max()) + DISCORDANT_GAMMA)


def holm(p_values: Sequence[float] | NDArray[np.float64]) -> NDArray[np.float64]:
    """P values corrected for their number, whatever their dependence.

    Parameters
    ----------
    p_values : sequence of float
        NaN for what was not tested, which counts for nothing.

    Returns
    -------
    numpy.ndarray
        The same shape; rejecting where one is at most α makes any false rejection at all with
        probability at most α.

    References
    ----------
    Holm, Scandinavian Journal of Statistics 6, 65–70, 1979.
    """
    raw = np.asarray(p_values, float)
    flat = raw.ravel()
    order = np.argsort(flat)[: np.isfinite(flat).sum()]  # NaN come last
    steps = np.arange(len(order), 0, -1)
    found = np.full(flat.shape, np.nan)
    found[order] = np.minimum(1.0, np.maximum.accumulate(flat[order] * steps))
    return found.reshape(raw.shape)


@lru_cache(maxsize=65536)
def exact_interval(errors: int, examples: int, level: float) -> tuple[float, float]:
    """1 − level interval of a proportion that never covers too seldom.

    References
    ----------
    Clopper & Pearson, Biometrika 26, 404–413, 1934.
    """
    low = beta.ppf(level / 2, errors, examples - errors + 1) if errors else 0.0
    high = beta.ppf(1 - level / 2, errors + 1, examples - errors) if errors < examples else 1.0
    return float(low), float(high)


def _share_that_changes(changed: int, examples: int) -> tuple[float, float]:
    low, high = exact_interval(changed, examples, DISCORDANT_GAMMA)
    return max(low, 1e-300), high  # 0 of 0 has no direction


def _tail(
    examples: int,
    shares: NDArray[np.float64],
    increases: NDArray[np.float64],
    difference: int,
    *,
    below: bool,
) -> NDArray[np.float64]:
    """P(D ≤ difference), or P(D ≥ difference), D being wrong minus right, for each share.

    Given that m examples change, Binomial(m, (ψ + Δ) / 2ψ) of them turn wrong; m itself is
    Binomial(n, ψ).
    """
    psi, delta = shares[:, None], increases[:, None]  # (share, 1)
    first, last = binom.ppf(TAIL, examples, shares[0]), binom.isf(TAIL, examples, shares[-1])
    m = np.arange(first, last + 1)  # (changed,)
    wrong = np.minimum(1.0, (psi + delta) / (2 * psi))
    if below:
        given = binom.cdf(np.floor((m + difference) / 2), m, wrong)
    else:
        given = binom.sf(np.ceil((m + difference) / 2) - 1, m, wrong)
    with np.errstate(under="ignore"):  # what is too small for float64 is 0 here
        total: NDArray[np.float64] = (binom.pmf(m, examples, psi) * given).sum(1) + 2 * TAIL
    return total
