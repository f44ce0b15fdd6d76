"""Counts over some of the test examples, and what they say about the error."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

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


class Ranking:
    """The largest and smallest logits of each example; each is found when it is first asked for.

    Parameters
    ----------
    logits : Tensor
        (…, example, class).
    """

    def __init__(self, logits: Tensor) -> None:
        self.logits = logits

    @cached_property
    def _first(self) -> tuple[Tensor, Tensor]:
        return self.logits.max(-1)  # argmax alone takes up to four times as long

    @property
    def label(self) -> Tensor:
        """(…, example) class of the largest logit, the first where several are."""
        return self._first[1]

    @property
    def largest(self) -> Tensor:
        """(…, example); NaN where any logit is."""
        return self._first[0]

    @cached_property
    def second(self) -> Tensor:
        """(…, example) second largest logit, equal to the largest where two are; not for NaN."""
        rest = self.logits.scatter(-1, self.label.unsqueeze(-1), -math.inf)
        return rest.amax(-1)  # topk takes six times as long

    @cached_property
    def smallest(self) -> Tensor:
        """(…, example); NaN where any logit is."""
        return self.logits.amin(-1)


COUNTED = ("errors", "loss_sum", "agreements", "nonfinite", "turned_wrong", "turned_right")
"""What `score` gives for each example, in this order; each is a field of an `Estimate`."""


def score(ranking: Ranking, labels: Tensor, intact: Tensor) -> Tensor:
    """What every example adds to the counts of every intervention.

    Parameters
    ----------
    ranking : Ranking
        Of logits (intervention, example, class).
    labels, intact : Tensor
        (example,) true labels, and labels the intact network predicts.

    Returns
    -------
    Tensor
        (quantity, intervention, example) float32; the quantities are `COUNTED`, 0 or 1 but for
        the loss (cross-entropy, nats).
    """
    logits, predicted = ranking.logits, ranking.label  # (intervention, example)
    true = logits.gather(2, labels.expand(len(logits), -1).unsqueeze(2)).squeeze(2)
    wrong, was_wrong = predicted != labels, intact != labels
    parts = {
        "errors": wrong,
        "loss_sum": logits.logsumexp(2) - true,
        "agreements": predicted == intact,
        "nonfinite": ~(torch.isfinite(ranking.largest) & torch.isfinite(ranking.smallest)),
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
