"""The valley between a layer's start and its end: which points (α, σ) in it are good enough.

What is compared is a mean over pairs of test example and noise draw, and no pair takes anything
away from it: neither a cross-entropy nor a mistake is negative. So as soon as the sum over the
pairs seen is above what all pairs together may have, the point is too bad whatever the rest is
(but for the rounding of float32, some 1e-7 nats a pair).
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from explorer.engine.estimate import Estimate
from explorer.engine.evaluator import Evaluator
from explorer.engine.finite import NOT_FINITE
from explorer.engine.interventions import Epoch, Intervention, Mixture, Noise, Source
from explorer.engine.measuring import Outcome, measure

Quantity = Literal["loss", "error"]
"""What is compared with the final network's."""

Place = tuple[int, int]
"""Indices of α and σ."""


@dataclass(frozen=True)
class Valley:
    """The grid of points, and how they are judged."""

    epoch: int
    """Epoch of the start θ_0."""
    alphas: tuple[float, ...]
    """Shares α of the final layer, 0…1, rising."""
    sigmas: tuple[float, ...]
    """Deviations σ of the noise, ≥ 0, rising."""
    draws: int
    """Draws of the noise, ≥ 1; the same for all points of a layer."""
    seed: int
    """Seed of the draws."""
    quantity: Quantity
    """What is compared."""
    every_cell: bool = False
    """Whether all points are measured, with all draws to the end."""

    def interventions(self, layer: str, place: Place) -> tuple[Intervention, ...]:
        """Return what is put in at a point: one intervention per draw, or one without noise."""
        alpha, sigma = self.alphas[place[0]], self.sigmas[place[1]]
        start = None if alpha == 1 else _towards_final(self.epoch, alpha)
        if sigma > 0:
            sources: list[Source] = [
                Noise(sigma, draw, self.seed, start) for draw in range(self.draws)
            ]
            return tuple(Intervention(((layer, source),)) for source in sources)
        return (Intervention(() if start is None else ((layer, start),)),)

    def ratio(self, place: Place) -> float:
        """α/σ, whose square times the squared distance is the criticality."""
        return self.alphas[place[0]] / self.sigmas[place[1]]


def _towards_final(epoch: int, alpha: float) -> Epoch | Mixture:
    return Epoch(epoch) if alpha == 0 else Mixture(Epoch(epoch), alpha)


@dataclass(frozen=True)
class Point:
    """What is known of one point (α, σ)."""

    examples: int
    """Pairs of test example and draw seen."""
    total: int
    """Pairs in all."""
    errors: int
    """Of those seen, misclassified."""
    loss_sum: float
    """Cross-entropy summed over those seen, nats; NaN where it cannot be measured."""
    good_enough: bool
    """Whether the mean over all pairs is within the limit."""
    reason: str = ""
    """Why it could not be measured."""

    @property
    def error(self) -> float:
        """Mean test error over the pairs seen."""
        return self.errors / self.examples

    @property
    def loss(self) -> float:
        """Mean cross-entropy over the pairs seen, nats."""
        return self.loss_sum / self.examples


@dataclass(frozen=True)
class LayerSearch:
    """How far the search for one layer's criticality has come."""

    points: Mapping[Place, Point]
    """Indices of α and σ → what is known there."""
    best: Place | None
    """Of the points that are good enough, that of the smallest α/σ."""
    passes: float
    """Passes over the test set so far."""
    rows_done: int
    """Shares α that are dealt with."""
    finished: bool
    """Whether the search has come to its end."""
    reason: str
    """Why it could not; empty where it could."""


def search(evaluator: Evaluator, layer: str, valley: Valley, limit: float) -> Iterator[LayerSearch]:
    """Look for the point of a layer that is good enough and has the smallest α/σ.

    To stop, do not ask for the next.

    Where no noise at all is too bad already, noise is as well. For each other α, from the start on,
    only the σ matter that would make α/σ smaller than it is already: if the smallest of them is too
    much, so are the others, and else the largest that is good enough is found by bisection. All
    three take it that more noise is never better, which is so
    for the mean over all noise where the loss is convex in the layer; `Valley.every_cell` tells.

    Parameters
    ----------
    evaluator : Evaluator
        Test set and final network.
    layer : str
        One of the stack's.
    valley : Valley
        The points.
    limit : float
        Largest mean of the quantity that is good enough.

    Yields
    ------
    LayerSearch
        After each slice of the test examples; the last one is finished.
    """
    walk = _Walk(evaluator, layer, valley, limit)
    rows = len(valley.alphas)
    if not valley.every_cell and valley.sigmas[0] == 0:
        for _ in walk.without_noise():
            yield walk.known(0)
    for row in range(0 if walk.reason else rows):
        for _ in walk.whole_row(row) if valley.every_cell else walk.bisected_row(row):
            yield walk.known(row)
        if walk.reason:
            break
    yield replace(walk.known(rows), finished=True)


class _Walk:
    """The points of one layer that are known, and the best of them."""

    def __init__(self, evaluator: Evaluator, layer: str, valley: Valley, limit: float) -> None:
        self._evaluator, self._layer, self._valley = evaluator, layer, valley
        self._limit = limit
        self._points: dict[Place, Point] = {}
        self._best: Place | None = None
        self.reason = ""

    def known(self, rows_done: int) -> LayerSearch:
        """Return what is known by now."""
        seen = sum(point.examples for point in self._points.values())
        passes = seen / self._evaluator.total
        return LayerSearch(dict(self._points), self._best, passes, rows_done, False, self.reason)

    def whole_row(self, row: int) -> Iterator[None]:
        """Measure all points of one α, with all draws."""
        places = [(row, column) for column in range(len(self._valley.sigmas))]
        yield from self._measure(places, early=False)

    def without_noise(self) -> Iterator[None]:
        """Measure all α with σ = 0: one pass each, where a point with noise takes `draws`."""
        yield from self._measure([(row, 0) for row in range(len(self._valley.alphas))], early=False)

    def bisected_row(self, row: int) -> Iterator[None]:
        """Find the largest σ that is good enough, if that makes α/σ smaller than it is by now."""
        columns = [
            column
            for column, sigma in enumerate(self._valley.sigmas)
            if sigma > 0 and self._is_better((row, column))
        ]
        if self._best is not None and self._valley.ratio(self._best) == 0:
            return  # α = 0 will do with some noise, and nothing is smaller
        still = self._points.get((row, 0))
        if still is not None and not still.good_enough:
            return
        good, bad = -1, len(columns)  # positions: the last that is known to do, the first not to
        probe = 0 if self._best is not None else bad // 2  # few rows can be better than the best
        while bad - good > 1:
            place = (row, columns[probe])
            yield from self._measure([place], early=True)
            if self.reason:
                return
            good, bad = (probe, bad) if self._points[place].good_enough else (good, probe)
            probe = (good + bad) // 2

    def _is_better(self, place: Place) -> bool:
        ratio = self._valley.ratio
        return self._best is None or ratio(place) < ratio(self._best)

    def _measure(self, places: Sequence[Place], early: bool) -> Iterator[None]:
        """Measure points together, to the end, or `early` only until the one there is is known."""
        owner = {
            intervention: place
            for place in places
            for intervention in self._valley.interventions(self._layer, place)
        }
        done: dict[Intervention, Outcome] = {}
        stream = measure(self._evaluator, owner, journal=self._evaluator.journal)
        with contextlib.closing(stream):
            for some in stream:
                done |= some
                for place in places:
                    self._judge(place, [o for i, o in done.items() if owner[i] == place])
                yield
                if self.reason or (early and self._too_bad(places[0])):
                    return

    def _judge(self, place: Place, outcomes: Sequence[Outcome]) -> None:
        """Add up what the draws of a point have shown by now."""
        counts = [one for one in outcomes if isinstance(one, Estimate)]
        refused = next((one for one in outcomes if isinstance(one, str)), "")
        if refused and not refused.startswith(NOT_FINITE):
            self.reason = refused  # what keeps one point from being measured keeps the others too
            return
        if not counts and not refused:
            return
        total = self._evaluator.total * len(self._valley.interventions(self._layer, place))
        failed = refused or next((one.failure for one in counts if one.failure), "")
        point = Point(
            sum(one.examples for one in counts),
            total,
            sum(one.errors for one in counts),
            math.nan if failed else math.fsum(one.loss_sum for one in counts),
            good_enough=False,
            reason=failed,
        )
        self._points[place] = point
        if point.examples == total and not self._too_bad(place):
            self._points[place] = replace(point, good_enough=True)
            if self._valley.sigmas[place[1]] > 0 and self._is_better(place):
                self._best = place

    def _too_bad(self, place: Place) -> bool:
        """Tell whether no outcome of the pairs that are left can make a point good enough."""
        point = self._points[place]
        amount = point.loss_sum if self._valley.quantity == "loss" else point.errors
        return not amount <= self._limit * point.total or bool(point.reason)
