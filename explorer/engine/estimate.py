"""Counts over some of the test examples, and what they say about the error."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from explorer.engine.intervals import wilson_interval

MOST_NATS = 700.0
"""Loss above which exp has no floating-point number."""


@dataclass(frozen=True)
class Estimate:
    """Counts after some of the test examples."""

    examples: int
    """Test examples seen so far."""
    total: int
    """Test examples in all."""
    errors: int
    """Of those seen, misclassified."""
    loss_sum: float
    """Cross-entropy summed over those seen, nats."""
    agreements: int
    """Of those seen, predicted as the intact network does."""
    nonfinite: int
    """Of those seen, with a NaN or infinity among the logits; above 0 no other count holds."""
    turned_wrong: int = 0
    """Of those seen, right with the intact network and wrong now."""
    turned_right: int = 0
    """Of those seen, wrong with the intact network and right now."""

    @property
    def error(self) -> float:
        """Share of examples misclassified, 0…1."""
        return self.errors / self.examples

    @property
    def error_low(self) -> float:
        """Lower end of the 95 % Wilson interval of the error."""
        return wilson_interval(self.errors, self.examples)[0]

    @property
    def error_high(self) -> float:
        """Upper end of the 95 % Wilson interval of the error."""
        return wilson_interval(self.errors, self.examples)[1]

    @property
    def half_width(self) -> float:
        """Half the length of the error's 95 % interval; 0 once every example has been seen."""
        return 0.0 if self.exact else (self.error_high - self.error_low) / 2

    @property
    def loss(self) -> float:
        """Mean cross-entropy, nats per example."""
        return self.loss_sum / self.examples

    @property
    def perplexity(self) -> float:
        """Of a language model: exp of the loss, as if it chose among so many tokens evenly."""
        return math.exp(min(self.loss, MOST_NATS))

    @property
    def agreement(self) -> float:
        """Share of predictions equal to the intact network's, 0…1."""
        return self.agreements / self.examples

    @property
    def exact(self) -> bool:
        """Whether every test example has been seen."""
        return self.examples == self.total

    @property
    def failure(self) -> str:
        """Why the counts do not hold; empty when they do."""
        if self.nonfinite:
            return f"NaN or infinite logits for {self.nonfinite} of {self.examples} examples"
        return "" if math.isfinite(self.loss_sum) else "the loss is too large for float32"


def two_largest(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Largest and second largest logit of each example; `topk` takes six times as long.

    Parameters
    ----------
    logits : Tensor
        (…, example, class).

    Returns
    -------
    tuple of Tensor
        (…, example) each; equal where two are the largest, NaN where the largest is.
    """
    first, at = logits.max(-1, keepdim=True)
    second = logits.scatter(-1, at, -math.inf).amax(-1)
    return first.squeeze(-1), second


COUNTED = ("errors", "loss_sum", "agreements", "nonfinite", "turned_wrong", "turned_right")
"""What `score` gives for each example, in this order; each is a field of an `Estimate`."""


def score(logits: Tensor, labels: Tensor, intact: Tensor) -> Tensor:
    """What every example adds to the counts of every intervention.

    Parameters
    ----------
    logits : Tensor
        (intervention, example, class).
    labels, intact : Tensor
        (example,) true labels, and labels the intact network predicts.

    Returns
    -------
    Tensor
        (quantity, intervention, example) float32; the quantities are `COUNTED`, 0 or 1 but for
        the loss (cross-entropy, nats).
    """
    predicted = logits.argmax(2)  # (intervention, example)
    true = logits.gather(2, labels.expand(len(logits), -1).unsqueeze(2)).squeeze(2)
    wrong, was_wrong = predicted != labels, intact != labels
    parts = {
        "errors": wrong,
        "loss_sum": logits.logsumexp(2) - true,
        "agreements": predicted == intact,
        "nonfinite": ~torch.isfinite(logits.abs().amax(2)),  # which hands NaN on; a third of all(2)
        "turned_wrong": wrong & ~was_wrong,
        "turned_right": ~wrong & was_wrong,
    }
    return torch.stack([parts[name].float() for name in COUNTED])


def estimate(examples: int, total: int, sums: Iterable[float]) -> Estimate:
    """Put sums of `score` over the examples seen so far into words.

    Parameters
    ----------
    examples, total : int
        Examples seen, and in all.
    sums : iterable of float
        One for each of `COUNTED`.

    Returns
    -------
    Estimate
    """
    counts = {
        name: value if name == "loss_sum" else round(value)
        for name, value in zip(COUNTED, sums, strict=True)
    }
    return Estimate(examples, total, **counts)  # type: ignore[arg-type]  # by name, see COUNTED
