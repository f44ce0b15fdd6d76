"""Singular values and dead units of one weight matrix."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import eigvalsh
from scipy.sparse.linalg import svds

EXACT_UP_TO = 512
"""Rows or columns, whichever are fewer, up to which the largest singular value is that of a
dense eigenvalue problem; beyond, Lanczos finds it."""

Weights = NDArray[Any]


def as_matrix(weights: Weights) -> NDArray[np.float64]:
    """A parameter as (output, everything that feeds it), float64; convolutions are unfolded."""
    matrix: NDArray[np.float64] = np.asarray(weights, np.float64).reshape(len(weights), -1)
    return matrix


def spectral_norm(
    matrix: NDArray[np.float64], exact_up_to: int = EXACT_UP_TO
) -> tuple[float, float]:
    """Largest singular value, and how far it may be off.

    Parameters
    ----------
    matrix : (output, input) float64
    exact_up_to : int
        Rows or columns, whichever are fewer, up to which LAPACK finds the largest eigenvalue of
        WWᵀ or WᵀW, the smaller of both.

    Returns
    -------
    tuple of float
        The value, and 0 for LAPACK, which is off by rounding alone; for Lanczos (ARPACK) the
        residual max(‖Wv − σu‖, ‖Wᵀu − σv‖), within which a singular value of the matrix lies, and
        σ is never above the largest. NaN for weights that are not finite.

    Notes
    -----
    Squaring costs the small singular values their digits, not the largest: √λ of an eigenvalue
    that is off by k·ε·‖W‖² is off by k·ε·‖W‖/2. It takes a half to a tenth of the time of all
    singular values. A power of two is taken out first, so that no square over- or underflows.

    References
    ----------
    The bound: Parlett, The Symmetric Eigenvalue Problem, 1998, theorem 4.5.1, for the symmetric
    matrix (0 W; Wᵀ 0).
    """
    if not np.isfinite(matrix).all():
        return np.nan, np.nan
    if min(matrix.shape) <= exact_up_to or not matrix.any():
        return _dense(matrix), 0.0
    start = np.random.default_rng(0).normal(size=min(matrix.shape))  # the same number every time
    u, s, vt = svds(matrix, k=1, v0=start)
    left, value, right = u[:, 0], float(s[0]), vt[0]
    misses = (matrix @ right - value * left, matrix.T @ left - value * right)
    return value, max(float(np.linalg.norm(miss)) for miss in misses)


def _dense(matrix: NDArray[np.float64]) -> float:
    """Largest singular value, from the largest eigenvalue of the smaller Gram matrix."""
    rows, columns = matrix.shape
    _, power = np.frexp(np.abs(matrix).max())
    wide = np.ldexp(matrix if rows <= columns else matrix.T, -power)
    last = min(matrix.shape) - 1
    (largest,) = eigvalsh(wide @ wide.T, subset_by_index=(last, last), check_finite=False)
    return float(np.ldexp(np.sqrt(max(largest, 0.0)), power))


def spectrum(matrix: NDArray[np.float64]) -> dict[str, float]:
    """What is told of a matrix.

    Parameters
    ----------
    matrix : (output, input) float64

    Returns
    -------
    dict
        spectral_norm and spectral_error as in `spectral_norm`; stable_rank ‖W‖_F² / ‖W‖₂², from 1
        to the rank, NaN for a matrix of zeros; dead_in, the share of outputs whose incoming
        weights are all 0; dead_out, the share of inputs whose outgoing weights are.

    References
    ----------
    Stable rank: Rudelson & Vershynin, Journal of the ACM 54(4), 2007.
    """
    norm, error = spectral_norm(matrix)
    used = matrix != 0
    return {
        "spectral_norm": norm,
        "spectral_error": error,
        "stable_rank": float((matrix**2).sum()) / norm**2 if norm else np.nan,
        "dead_in": float(1 - used.any(1).mean()),
        "dead_out": float(1 - used.any(0).mean()),
    }
