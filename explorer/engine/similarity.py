"""How alike two networks answer: sums over examples of what compares their logits."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from explorer.engine.answers import in_double
from explorer.engine.inside import Inside

MOST_CLASSES = 2048
"""Classes or features up to which CKA and the error of each class are found: it holds sums of
class × class."""

BINS = 15
"""Bins of equal width over the confidence 0…1, as Guo et al. 2017 take them."""


@dataclass(eq=False)
class Moments:
    """Sums of two sets of features of the same examples, from which their CKA follows."""

    examples: int = 0
    """Examples added."""
    sums: list[Tensor] = field(default_factory=list)
    """Σx, Σy, (class,) each."""
    products: list[Tensor] = field(default_factory=list)
    """Σxyᵀ, Σxxᵀ, Σyyᵀ, (class, class) each."""

    def add(self, x: Tensor, y: Tensor) -> None:
        """Add examples, (example, class) float64 each."""
        sums, products = [x.sum(0), y.sum(0)], [x.T @ y, x.T @ x, y.T @ y]
        self.examples += len(x)
        if not self.sums:
            self.sums, self.products = sums, products
            return
        self.sums = [a + b for a, b in zip(self.sums, sums, strict=True)]
        self.products = [a + b for a, b in zip(self.products, products, strict=True)]

    def cka(self) -> float:
        """Linear centred kernel alignment of all examples, 0…1; NaN where one does not vary.

        ‖Y_cᵀX_c‖² / (‖X_cᵀX_c‖ ‖Y_cᵀY_c‖) with Frobenius norms and centred columns: the alignment
        of the whole example × example Gram matrices, exactly, without building them.

        References
        ----------
        Kornblith, Norouzi, Lee, Hinton, ICML 2019, arXiv 1905.00414, eq. 3 and section 3.
        """
        if not self.examples:
            return math.nan
        x, y = self.sums
        pairs = ((x, y), (x, x), (y, y))
        xy, xx, yy = (
            float((product - torch.outer(a, b) / self.examples).norm())
            for product, (a, b) in zip(self.products, pairs, strict=True)
        )
        varies = min(xx, yy) > 1e-12 * max(float(p.norm()) for p in self.products)
        return xy**2 / (xx * yy) if varies else math.nan


@dataclass(eq=False)
class Comparison:
    """An intervention against the trained network, added up over the examples.

    Parameters
    ----------
    classes : int
        Width of the logits.
    """

    classes: int
    examples: int = 0
    """Labels added."""
    cosine: float = 0.0
    """Sum of the cosines between both softmax outputs."""
    divergence: float = 0.0
    """Sum of their Jensen–Shannon divergences, nats."""
    finite: bool = True
    """Whether all logits were."""
    moments: Moments = field(default_factory=Moments)
    """For CKA."""
    penultimate: Moments = field(default_factory=Moments)
    """For that of what the last linear map reads."""
    active: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, bool))
    """(unit,) whether it has been active; empty where that is not watched."""
    bins: NDArray[np.float64] = field(default_factory=lambda: np.zeros((3, BINS)))
    """Per bin of confidence: examples, sum of confidences, right answers."""
    wrong: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    """(class,) misclassified examples of each class."""

    def add(self, labels: Tensor, intact: Tensor, patched: Tensor) -> None:
        """Add examples: (label,) classes, and (label, class) float64 logits of both networks."""
        self.examples += len(labels)
        self.finite &= bool(torch.isfinite(patched).all())
        if not self.finite:
            return
        log_p, log_q = intact.log_softmax(1), patched.log_softmax(1)
        p, q = log_p.exp(), log_q.exp()
        self.cosine += float(((p * q).sum(1) / (p.norm(dim=1) * q.norm(dim=1))).sum())
        self.divergence += float(jensen_shannon(log_p, log_q).sum())
        if self.classes <= MOST_CLASSES:
            self.moments.add(intact, patched)
        self._count(labels, q)

    def add_inside(self, intact: Inside, patched: Inside) -> None:
        """Add what happens inside both networks."""
        active = patched.active.cpu().numpy()
        self.active = active if not self.active.size else self.active | active
        if self.finite and patched.penultimate.shape[1] <= MOST_CLASSES:
            self.penultimate.add(in_double(intact.penultimate), in_double(patched.penultimate))

    def _count(self, labels: Tensor, q: Tensor) -> None:
        """Sort the answers by how sure they are, and by the class that is right."""
        confidence, answer = (found.cpu().numpy() for found in q.max(1))
        true = labels.cpu().numpy()
        right = answer == true
        at = np.clip(np.ceil(confidence * BINS).astype(int) - 1, 0, BINS - 1)  # (k/15, (k+1)/15]
        for row, weights in enumerate((None, confidence, right.astype(float))):
            self.bins[row] += np.bincount(at, weights, BINS)
        if self.classes <= MOST_CLASSES:
            found = np.bincount(true[~right], minlength=self.classes)
            self.wrong = found if not self.wrong.size else self.wrong + found

    @property
    def ece(self) -> float:
        """Expected calibration error, 0…1: Σ (n_b/n) |share right in bin b − mean confidence|.

        References
        ----------
        Naeini, Cooper, Hauskrecht, AAAI 2015; Guo, Pleiss, Sun, Weinberger, ICML 2017, eq. 3.
        """
        _, confidence, right = self.bins
        return float(np.abs(right - confidence).sum() / self.examples)

    @property
    def error(self) -> float:
        """Share of examples misclassified."""
        return float(1 - self.bins[2].sum() / self.examples)


Compared = Comparison | str
"""What an intervention did to the outputs, or why that is not known."""


def jensen_shannon(log_p: Tensor, log_q: Tensor) -> Tensor:
    """Jensen–Shannon divergence of each pair of rows, nats: 0 for equal ones, at most ln 2.

    ½ KL(p ‖ m) + ½ KL(q ‖ m) with m = (p + q)/2.

    Parameters
    ----------
    log_p, log_q : Tensor
        (example, class) natural logarithms of probabilities.

    Returns
    -------
    Tensor
        (example,).

    References
    ----------
    Lin, IEEE Transactions on Information Theory 37, 145–151, 1991.
    """
    log_m = torch.logaddexp(log_p, log_q) - math.log(2)
    parts = [(log.exp() * (log - log_m)).sum(1) for log in (log_p, log_q)]
    return ((parts[0] + parts[1]) / 2).clamp(min=0)
