"""Lower precision as a screen: which labels it settles, and which float32 has to.

A pass in lower precision gives each logit with an error. A label can only come out wrong where
the two largest logits are closer than the errors of both. The error is not bounded in advance but
measured: on some examples of the first slice, the same for all interventions and those of the
thinnest margins, and then on all that float32 has to decide. Margins more than `SAFETY` times wider
than the largest error seen settle a label.

Measured, not proven: see docs/decisions/0008.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

import torch
from torch import Tensor

from explorer.engine.estimate import Ranking
from explorer.engine.program import Program, fixed_values

Name = TypeVar("Name", bound=Hashable)

_OPERANDS = ("Tensor", "Scalar")

SAFETY = 3.0
"""Margins wider than this many times the largest error seen settle a label."""

KEPT = 4.0
"""How much larger than at first the error may turn out before the screen is given up."""

HOPELESS = 0.25
"""Share of doubtful examples above which an intervention is counted in float32 throughout."""


DECISIONS = frozenset(
    f"aten.{name}"
    for name in (
        *("argmax", "argmin", "topk", "sort", "sort.stable", "argsort", "kthvalue", "sign", "sgn"),
        *("floor", "ceil", "round", "trunc", "bucketize.Tensor", "searchsorted.Tensor"),
        *(f"{name}.{of}" for name in ("eq", "ne", "lt", "le", "gt", "ge") for of in _OPERANDS),
    )
)
"""Operators of which a rounding error in what they read can change the result altogether."""


def decision_in(program: Program) -> str:
    """Name of an operator that compares values of the examples; empty where there is none.

    A value just below another may come out just above it in lower precision, which changes the
    logits by more than any error that is measured on a few examples.

    Parameters
    ----------
    program : Program
        The recorded pass.
    """
    fixed = fixed_values(program)
    for one in program.operations:
        compared = [v for v in one.reads if v not in fixed and v in program.dtypes]
        if one.name in DECISIONS and any(program.dtypes[v].is_floating_point for v in compared):
            return one.name
    return ""


def low_precision(device: torch.device) -> torch.dtype | None:
    """Return the faster precision of a device, or None where there is none.

    bfloat16 on processors that multiply it in hardware, and float16, which has three bits more,
    on CUDA devices.
    """
    if device.type == "cuda":
        return torch.float16
    if device.type == "cpu" and torch.cpu._is_avx512_bf16_supported():  # AMX implies it
        return torch.bfloat16
    return None


def scale(ranking: Ranking) -> Tensor:
    """Largest distance of a logit from the mean of its example's, (…, example)."""
    mean = ranking.logits.mean(-1)
    return torch.maximum(ranking.largest - mean, mean - ranking.smallest)


def margins(ranking: Ranking) -> Tensor:
    """Distance between the two largest logits, as a share of the example's `scale`.

    Parameters
    ----------
    ranking : Ranking
        Of logits (…, example, class).

    Returns
    -------
    Tensor
        (…, example), 0…2; −1 where a logit is not finite.
    """
    share = (ranking.largest - ranking.second) / scale(ranking)
    return share.nan_to_num(nan=-1.0)  # also 0 / 0: all logits equal


def largest_error(low: Tensor, exact: Tensor) -> float:
    """Largest error of a difference between two logits, as a share of the example's `scale`.

    Parameters
    ----------
    low, exact : Tensor
        (example, class) logits in lower precision and in float32. Examples that are not finite
        in lower precision are passed over: their margin is −1.

    Returns
    -------
    float
        Infinite where no example is finite: nothing is known of the error then.
    """
    off = low - exact
    share = (off.amax(1) - off.amin(1)) / scale(Ranking(low))
    finite = share[torch.isfinite(share)]
    return float(finite.max()) if len(finite) else math.inf


def error_to_go_by(low: Tensor, exact: Tensor) -> float | None:
    """Return the `largest_error`, or None where it leaves too many labels open.

    Parameters
    ----------
    low, exact : Tensor
        (example, class) logits of the same examples in lower precision and in float32.
    """
    error = largest_error(low, exact)
    open_to = margins(Ranking(low)) <= SAFETY * error
    return error if float(open_to.float().mean()) <= HOPELESS else None


Thin = tuple[Tensor, Tensor]
"""Examples (example,) that float32 has to decide, and their logits in lower precision."""


@dataclass
class Watch:
    """The examples of one intervention whose label the screen may not settle."""

    error: float = 0.0
    """Largest error seen, as `largest_error` measures it."""
    bound: float = math.inf
    """Margins up to this are remembered; set from the first error seen."""
    _examples: list[Tensor] = field(default_factory=list)
    _margins: list[Tensor] = field(default_factory=list)
    _logits: list[Tensor] = field(default_factory=list)

    @classmethod
    def knowing(cls, error: float) -> Watch:
        """Return one that has seen an error already."""
        return cls(error, SAFETY * KEPT * error)

    @property
    def doubtful(self) -> float:
        """Margin up to which float32 decides."""
        return SAFETY * self.error

    @property
    def failed(self) -> bool:
        """Whether the error is so large that examples to be checked were not remembered."""
        return self.doubtful > self.bound

    def keep(self, examples: Tensor, margin: Tensor, logits: Tensor) -> None:
        """Remember the examples with a thin margin.

        Parameters
        ----------
        examples : Tensor
            (example,) their numbers.
        margin : Tensor
            (example,) as `margins` gives it.
        logits : Tensor
            (example, class) in lower precision.
        """
        thin = (margin <= self.bound).nonzero()[:, 0]
        self._examples.append(examples[thin])
        self._margins.append(margin[thin])
        self._logits.append(logits[thin])

    def thinnest(self, size: int) -> Iterator[Thin]:
        """Hand out what float32 has to decide, thinnest margin first; each example once.

        Call `learn` for each batch before the next.

        Parameters
        ----------
        size : int
            Most examples at a time.

        Yields
        ------
        tuple of Tensor
            (example,) their numbers, and (example, class) their logits in lower precision.
        """
        margin = torch.cat(self._margins)
        order = margin.argsort()
        examples, logits = (torch.cat(x)[order] for x in (self._examples, self._logits))
        sorted_margins = margin[order].tolist()
        start = 0
        while start < len(order) and sorted_margins[start] <= self.doubtful:
            stop = min(start + size, len(order))
            self._examples, self._margins = [examples[stop:]], [margin[order[stop:]]]
            self._logits = [logits[stop:]]
            yield examples[start:stop], logits[start:stop]
            start = stop

    def learn(self, low: Tensor, exact: Tensor) -> None:
        """Learn from examples that have been computed both ways."""
        error, first = largest_error(low, exact), math.isinf(self.bound)
        if math.isfinite(error) or first:
            self.error = max(self.error, error)
        if first:
            self.bound = SAFETY * KEPT * self.error


def in_batches(thin: Mapping[Name, Thin], size: int) -> Iterator[dict[Name, Thin]]:
    """Put together those whose examples are no more than `size` in all, in order."""
    batch: dict[Name, Thin] = {}
    there: set[int] = set()
    for name, some in thin.items():
        own = set(some[0].tolist())
        if batch and len(there | own) > size:
            yield batch
            batch, there = {}, set()
        batch[name] = some
        there |= own
    if batch:
        yield batch
