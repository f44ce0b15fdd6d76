"""The largest set of layers that can be reset together within a margin, from both ends."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from explorer.engine.estimate import Estimate
from explorer.engine.evaluator import Evaluator
from explorer.engine.interventions import Intervention, Source
from explorer.engine.measuring import Outcome, measure
from explorer.errors import UsageError

Sizes = Mapping[str, Mapping[str, int]]
"""Layer → trained tensor → numbers in it."""

Layers = frozenset[str]
"""Layers that are reset together; all others stay as trained."""

Direction = Literal["forward", "backward", "again", "one by one"]
"""Adding layers to none; restoring layers of all; adding to what restoring has left; or the layers
that are each within the margin alone, all together."""


@dataclass(frozen=True)
class Trial:
    """One set of layers on the way, with its exact error."""

    direction: Direction
    """Which search has come by it."""
    layer: str
    """The layer that is reset more than before, or restored; empty for the start of a search."""
    layers: tuple[str, ...]
    """All layers that are reset, in the order of the network."""
    error: float
    """Test error with all of them reset, 0…1; exact."""
    error_low: float
    """Lower end of its 95 % Wilson interval."""
    error_high: float
    """Upper end of its 95 % Wilson interval."""
    parameters_left: int
    """Trained parameters that are still in place; one that layers share counts once."""
    within: bool
    """Whether the error is one that is allowed."""


@dataclass(frozen=True)
class Effective:
    """How far the searches have come."""

    trials: tuple[Trial, ...]
    """In the order in which they were made; the first is the trained network."""
    alone: Mapping[str, Estimate]
    """Layer → counts with it alone reset, as far as they are known; without those that fail."""
    measured: int
    """Sets of layers measured so far."""
    finished: bool
    """Whether all searches have come to their end."""

    @property
    def best(self) -> Trial:
        """The trial within the margin that leaves the fewest parameters, then the most layers."""
        return min(
            (trial for trial in self.trials if trial.within),
            key=lambda trial: (trial.parameters_left, -len(trial.layers), trial.error),
        )


def find_effective(
    evaluator: Evaluator, sources: Mapping[str, Source], allowed_error: float
) -> Iterator[Effective]:
    """Search for the largest set of layers whose joint reset leaves an allowed error.

    To stop, do not ask for the next.

    Parameters
    ----------
    evaluator : Evaluator
        Test set and final network.
    sources : mapping
        Layer → what it is reset to, in the order of the network; layers not named stay.
    allowed_error : float
        Test error, 0…1, up to which a set is within; at least the trained network's.

    Yields
    ------
    Effective
        After each slice of the test examples; the last one is finished. Every set is measured on
        all examples, and once. A layer that cannot be measured alone is left out.

    Raises
    ------
    UnknownNameError
        There is no such layer or epoch.
    UsageError
        No layer may be reset, or none of them can be measured.
    """
    search = Search(evaluator, sources, allowed_error)
    for _ in search.steps():
        yield search.found
    search.finished = True
    yield search.found


class Search:
    """Searches for sets of layers that can be reset together, and what they have measured.

    `explorer.engine.joint` shows the search forward alone; it is this one.
    """

    def __init__(
        self, evaluator: Evaluator, sources: Mapping[str, Source], allowed_error: float
    ) -> None:
        self._evaluator, self._sources, self._allowed = evaluator, dict(sources), allowed_error
        self.layers = list(sources)
        if not sources:
            raise nothing_measurable(())
        evaluator.network.canonical(Intervention(tuple(sources.items())))  # is all of it there?
        self._sizes = evaluator.network.trained_sizes()
        self._large = {layer: sum(self._sizes[layer].values()) for layer in sources}
        self._known: dict[Layers, Outcome] = {}
        self._movable: list[str] = []
        self._done = 0
        self.trials: list[Trial] = []
        self.finished = False

    @property
    def found(self) -> Effective:
        """What is known now."""
        alone = {
            layer: counts
            for layer in self._sources
            if (counts := self._counts(frozenset({layer}))) is not None and counts.exact
        }
        return Effective(tuple(self.trials), alone, self.measured, self.finished)

    @property
    def measured(self) -> int:
        """Sets measured so far: those of the groups that are done, and what is known for good."""
        under_way = list(self._known.values())[self._done :]
        return self._done + sum(map(is_final, under_way))

    @property
    def parameters(self) -> int:
        """Trained parameters of the whole network; one that layers share counts once."""
        return parameters_of(self._sizes)

    def forward(self) -> Iterator[None]:
        """Search forward only, from nothing reset; yield whenever more is known.

        A layer that cannot be measured alone may be with others, and stays among the candidates.
        """
        self._movable = self.layers
        yield from self._forward(frozenset(), "forward")
        if not self.trials:
            raise nothing_measurable(self._known.values())

    def steps(self) -> Iterator[None]:
        """Search; yield whenever more is known."""
        yield from self._measure([frozenset(), *(frozenset({layer}) for layer in self._sources)])
        self._movable = [one for one in self._sources if self._counts(frozenset({one}))]
        if not self._movable:
            raise nothing_measurable(one for layers, one in self._known.items() if layers)
        yield from self._forward(frozenset(), "forward", with_start=True)
        alone = frozenset(one for one in self._movable if self._within(frozenset({one})))
        yield from self._measure([alone])
        self._try("one by one", "", alone)
        yield from self._backward()

    def _forward(
        self, chosen: Layers, direction: Direction, *, with_start: bool = False
    ) -> Iterator[None]:
        """Reset one layer more, the least harmful, as long as the error is allowed."""
        if with_start:
            self._try(direction, "", chosen)
        while left := [layer for layer in self._movable if layer not in chosen]:
            yield from self._measure([chosen | {layer} for layer in left])
            layer = min(left, key=lambda one: (self._error(chosen | {one}), -self._large[one]))
            if not self._try(direction, layer, chosen | {layer}):
                return
            chosen |= {layer}
            yield

    def _backward(self) -> Iterator[None]:
        """Reset all layers; restore one more, the most harmful, until the error is allowed."""
        chosen = frozenset(self._movable)
        yield from self._measure([chosen])
        within = self._try("backward", "", chosen)
        while not within and chosen:
            now = chosen
            yield from self._measure([now - {layer} for layer in now])
            layer = min(
                (one for one in self._movable if one in now),
                key=lambda one: (self._error(now - {one}), self._large[one]),
            )
            chosen = now - {layer}
            within = self._try("backward", layer, chosen)
            yield
        if within:  # what was restored early may be reset after all
            yield from self._forward(chosen, "again")

    def _measure(self, sets: Iterable[Layers]) -> Iterator[None]:
        """Count under each set that has not been counted yet."""
        wanted = {self._intervention(one): one for one in sets if one not in self._known}
        for outcomes in measure(self._evaluator, wanted):
            self._known |= {wanted[one]: outcome for one, outcome in outcomes.items()}
            yield
        self._done = len(self._known)

    def _intervention(self, layers: Layers) -> Intervention:
        return Intervention(
            tuple((name, source) for name, source in self._sources.items() if name in layers)
        )

    def _counts(self, layers: Layers) -> Estimate | None:
        outcome = self._known.get(layers)
        return outcome if isinstance(outcome, Estimate) and not outcome.failure else None

    def _error(self, layers: Layers) -> float:
        counts = self._counts(layers)
        return float("inf") if counts is None else counts.error

    def _within(self, layers: Layers) -> bool:
        return self._error(layers) <= self._allowed

    def _try(self, direction: Direction, layer: str, layers: Layers) -> bool:
        """Note a set that has been measured; one that could not be is not allowed."""
        counts = self._counts(layers)
        if counts is None:
            return False
        within = self._within(layers)
        ordered = tuple(name for name in self._sources if name in layers)
        left = parameters_of(self._sizes, without=layers)
        interval = (counts.error_low, counts.error_high)
        self.trials.append(Trial(direction, layer, ordered, counts.error, *interval, left, within))
        return within


def most_measured(layers: Sequence[str]) -> int:
    """Sets that the searches measure at most: a triangle from either end, some shared."""
    n = len(layers)
    return n * (n + 1) + 3


def parameters_of(sizes: Sizes, without: Iterable[str] = ()) -> int:
    """Trained numbers of a network, but for those of some layers; each counts once."""
    every = {name: size for layer in sizes.values() for name, size in layer.items()}
    gone = {name for layer in without for name in sizes[layer]}
    return sum(size for name, size in every.items() if name not in gone)


def is_final(outcome: Outcome) -> bool:
    """Tell whether nothing more will become known of an intervention."""
    return isinstance(outcome, str) or outcome.exact


def nothing_measurable(outcomes: Iterable[Outcome]) -> UsageError:
    """Say that no layer can be reset, and why none of those that there are."""
    reasons = {one if isinstance(one, str) else one.failure for one in outcomes}
    if not reasons:
        return UsageError(
            "There is no layer to reset.",
            "At least one layer with a source is needed.",
            "Leave layers= out to try all of them.",
        )
    return UsageError(
        f"No layer can be measured: {'; '.join(sorted(reasons))}",
        "Values that are finite and can be read are needed.",
        "Choose another epoch or other layers.",
    )
