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
class Gram:
    """Sums of the features of one network."""

    examples: int = 0
    """Rows added."""
    sum: Tensor | None = None
    """Σx, (feature,)."""
    product: Tensor | None = None
    """Σxxᵀ, (feature, feature)."""

    def add(self, x: Tensor) -> None:
        """Add rows, (row, feature) float64."""
        self.examples += len(x)
        self.sum = x.sum(0) if self.sum is None else self.sum + x.sum(0)
        self.product = _added(self.product, x, x)


@dataclass(eq=False)
class Moments:
    """Sums of two sets of features of the same examples, from which their CKA follows."""

    x: Gram
    """Of the trained network, which many comparisons share."""
    y: Gram = field(default_factory=Gram)
    """Of the other; the same object where it is the trained network."""
    cross: Tensor | None = None
    """Σxyᵀ, (feature, feature)."""

    def add(self, x: Tensor, y: Tensor) -> None:
        """Add rows of both, (row, feature) float64 each, but for the sums of x alone."""
        self.y.add(y)
        self.cross = _added(self.cross, x, y)

    def cka(self) -> float:
        """Linear centred kernel alignment of all examples, 0…1; NaN where one does not vary.

        ‖Y_cᵀX_c‖² / (‖X_cᵀX_c‖ ‖Y_cᵀY_c‖) with Frobenius norms and centred columns: the alignment
        of the whole example × example Gram matrices, exactly, without building them.

        References
        ----------
        Kornblith, Norouzi, Lee, Hinton, ICML 2019, arXiv 1905.00414, eq. 3 and section 3.
        """
        x, y, cross = self.x, self.y, self.x.product if self.y is self.x else self.cross
        if cross is None or x.sum is None or y.sum is None:
            return math.nan
        assert x.product is not None  # it comes with its sum
        assert y.product is not None
        products, ends = (cross, x.product, y.product), ((x, y), (x, x), (y, y))
        xy, xx, yy = (
            float((product - torch.outer(a.sum, b.sum) / x.examples).norm())  # type: ignore[arg-type]  # no sum is None
            for product, (a, b) in zip(products, ends, strict=True)
        )
        varies = min(xx, yy) > 1e-12 * max(float(product.norm()) for product in products)
        return xy**2 / (xx * yy) if varies else math.nan


def _added(sums: Tensor | None, x: Tensor, y: Tensor) -> Tensor:
    """Σxyᵀ with more rows."""
    return x.T @ y if sums is None else sums.addmm_(x.T, y)


@dataclass(frozen=True, eq=False)
class Slice:
    """The trained network's answers to some examples, which all comparisons share."""

    labels: Tensor
    """(label,) true classes."""
    logits: Tensor
    """(label, class) float64."""
    log_p: Tensor
    """(label, class) natural logarithms of its softmax outputs."""
    inside: Inside | None
    """What happens inside, where that is watched."""

    @classmethod
    def of(cls, labels: Tensor, logits: Tensor, inside: Inside | None = None) -> Slice:
        """Take the logits (label, class) of the trained network."""
        exact = in_double(logits)
        return cls(labels, exact, exact.log_softmax(1), inside)

    @property
    def bytes(self) -> int:
        """What it takes."""
        own = [self.labels, self.logits, self.log_p]
        if self.inside is not None and self.inside.penultimate is not None:
            own.append(self.inside.penultimate)
        return sum(one.numel() * one.element_size() for one in own)


@dataclass(eq=False)
class Comparison:
    """An intervention against the trained network, added up over the examples.

    Parameters
    ----------
    classes : int
        Width of the logits.
    trained : Comparison, optional
        The trained network's with itself, of the same examples; None for that one.
    """

    classes: int
    trained: Comparison | None = None
    examples: int = 0
    """Labels added."""
    cosine: float = 0.0
    """Sum of the cosines between both softmax outputs."""
    divergence: float = 0.0
    """Sum of their Jensen–Shannon divergences, nats."""
    finite: bool = True
    """Whether all logits were."""
    moments: Moments = field(init=False)
    """For CKA."""
    penultimate: Moments = field(init=False)
    """For that of what the last linear map reads."""
    active: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, bool))
    """(unit,) whether it has been active; empty where that is not watched."""
    bins: NDArray[np.float64] = field(default_factory=lambda: np.zeros((3, BINS)))
    """Per bin of confidence: examples, sum of confidences, right answers."""
    wrong: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    """(class,) misclassified examples of each class."""

    def __post_init__(self) -> None:
        if self.trained is None:
            logits, features = Gram(), Gram()
            self.moments, self.penultimate = Moments(logits, logits), Moments(features, features)
        else:
            self.moments = Moments(self.trained.moments.x)
            self.penultimate = Moments(self.trained.penultimate.x)

    def add(self, some: Slice, logits: Tensor | None = None) -> None:
        """Add examples, with the logits (label, class) of the other network; None: the same."""
        self.examples += len(some.labels)
        patched = some.logits if logits is None else in_double(logits)
        self.finite &= bool(torch.isfinite(patched).all())
        if not self.finite:
            return
        log_q = some.log_p if logits is None else patched.log_softmax(1)
        q = log_q.exp()
        if logits is None:
            self.cosine += len(some.labels)
        else:
            p = some.log_p.exp()
            self.cosine += float(((p * q).sum(1) / (p.norm(dim=1) * q.norm(dim=1))).sum())
            self.divergence += float(jensen_shannon(some.log_p, log_q).sum())
        if self.classes <= MOST_CLASSES:
            if self.trained is None:
                self.moments.x.add(patched)
            else:
                self.moments.add(some.logits, patched)
        self._count(some.labels, q)

    def add_inside(self, some: Slice, own: Inside) -> None:
        """Add what happens inside the other network."""
        active = own.active.cpu().numpy()
        self.active = active if not self.active.size else self.active | active
        assert some.inside is not None
        assert some.inside.penultimate is not None  # of the trained network it is always told
        features = some.inside.penultimate
        if not self.finite or features.shape[1] > MOST_CLASSES:
            return
        if self.trained is None:
            self.penultimate.x.add(in_double(features))
        elif own.penultimate is None:
            self.penultimate = self.trained.penultimate
        else:
            self.penultimate.add(in_double(features), in_double(own.penultimate))

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

    ½ KL(p ‖ m) + ½ KL(q ‖ m) with m = (p + q)/2, written as ½ Σ m h(t) with t = (p − q)/(p + q)
    and h(t) = (1 + t) ln(1 + t) + (1 − t) ln(1 − t), which is never below 0.

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
    share = torch.tanh((log_p - log_q) / 2)  # (p − q)/(p + q)
    return ((log_p.exp() + log_q.exp()) * _spread(share)).sum(1) / 4


def _spread(t: Tensor) -> Tensor:
    """(1 + t) ln(1 + t) + (1 − t) ln(1 − t), exactly 0 at 0 and without cancellation near it."""
    square = t * t
    near = square * (1 + square * (1 / 6 + square / 15))  # t² + t⁴/6 + t⁶/15 + t⁸/28 …
    far = torch.special.xlog1py(1 + t, t) + torch.special.xlog1py(1 - t, -t)
    return torch.where(square < 1e-6, near, far)
