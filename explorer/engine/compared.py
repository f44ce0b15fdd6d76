"""Patched networks against the trained one: their answers, compared and added up by slices."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from torch import Tensor

from explorer.engine.answers import Answers, pooled
from explorer.engine.evaluator import Evaluator
from explorer.engine.inside import Watch
from explorer.engine.interventions import Intervention
from explorer.engine.memory import is_out_of_memory
from explorer.engine.similarity import Compared, Comparison, Slice
from explorer.engine.sweep import NOT_REACHED, Cell
from explorer.errors import CheckpointError, InterventionError

INTACT = Cell("intact", (), Intervention(()))
"""The trained network, compared with itself."""

REMEMBERED = 128 * 2**20
"""Bytes of the trained network's answers that are kept from one layer to the next; where they
take more, they are computed anew with each layer."""


def compare(
    evaluator: Evaluator, cells: Sequence[Cell], watch: Watch | None = None
) -> Iterator[dict[Cell, Compared]]:
    """Compare outputs cell by cell, one layer at a time; first the trained network's with itself.

    Parameters
    ----------
    evaluator : Evaluator
        Network and test set.
    cells : sequence of Cell
        Those of one layer follow each other. What is bit for bit the trained network gets its
        comparison.
    watch : Watch, optional
        Of the same evaluator: what happens inside is compared as well.

    Yields
    ------
    dict
        Cell → comparison over all examples, or the reason why there is none; empty after each
        slice of the examples before the last.
    """
    groups: dict[tuple[str, ...], list[Cell]] = {}
    for cell in cells:
        groups.setdefault(cell.intervention.layers, []).append(cell)
    trained = _Trained(evaluator)
    yield from trained.measure(watch)
    yield {INTACT: trained.itself}
    for group in groups.values():
        yield from _group(trained, group, watch if trained.watched else None)


def _group(
    trained: _Trained, cells: Sequence[Cell], watch: Watch | None
) -> Iterator[dict[Cell, Compared]]:
    found: dict[Cell, Compared] = {}
    replacements: dict[Cell, Mapping[str, Tensor]] = {}
    for cell in cells:
        try:
            replacements[cell] = trained.replacement(cell.intervention)
        except (CheckpointError, InterventionError) as error:
            found[cell] = str(error)
    try:
        for some in trained.compared(replacements, watch):
            yield {}
            found |= some
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        trained.slices = None
        if watch is not None:  # which keeps more at once
            yield from _group(trained, cells, None)
            return
        found |= dict.fromkeys(replacements, trained.no_memory)
    yield found


class _Trained:
    """The trained network, with which interventions are compared."""

    def __init__(self, evaluator: Evaluator) -> None:
        self._evaluator = evaluator
        self.no_memory = f"out of memory on {evaluator.device_label}"
        self.itself: Compared = NOT_REACHED
        self.slices: list[Slice] | None = None

    @property
    def watched(self) -> bool:
        """Whether it is known what happens inside it."""
        return isinstance(self.itself, Comparison) and bool(self.itself.active.size)

    def replacement(self, intervention: Intervention) -> Mapping[str, Tensor]:
        """Tensors that an intervention puts in; none where it is the trained network."""
        network = self._evaluator.network
        return network.replacement(network.canonical(intervention))

    def measure(self, watch: Watch | None) -> Iterator[dict[Cell, Compared]]:
        """Compare it with itself, and keep its answers where there is room; yield nothing new."""
        slices: list[Slice] = []
        room, one = REMEMBERED, None
        try:
            for answers in pooled(self._evaluator.answers([], watch)):
                if answers is not None:
                    some = _slice(answers)
                    one = one or Comparison(some.logits.shape[1])
                    one.add(some)
                    if answers.intact_inside is not None:
                        one.add_inside(some, answers.intact_inside)
                    room -= some.bytes
                    slices = [*slices, some] if room >= 0 else []
                yield {}
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            slices.clear()
            if watch is not None:  # as above
                yield from self.measure(None)
                return
            self.itself = self.no_memory
            return
        assert one is not None  # a test set has examples
        self.itself = one if one.finite else NOT_FINITE
        self.slices = slices if room >= 0 else None

    def compared(
        self, replacements: Mapping[Cell, Mapping[str, Tensor]], watch: Watch | None
    ) -> Iterator[dict[Cell, Compared]]:
        """Add up slice after slice; the last dict is of all examples, those before are empty."""
        itself, known = self.itself, self.slices
        if isinstance(itself, str):
            yield dict.fromkeys(replacements, f"the trained network: {itself}")
            return
        own = {cell: tensors for cell, tensors in replacements.items() if tensors}
        same: dict[Cell, Compared] = dict.fromkeys(replacements.keys() - own.keys(), itself)
        comparisons = {cell: Comparison(itself.classes, itself) for cell in own}
        stream = self._evaluator.answers(list(own.values()), watch, known is None) if own else ()
        coming = iter(known or ())
        for answers in pooled(stream):
            if answers is not None:
                some = _slice(answers) if known is None else next(coming)
                for k, one in enumerate(comparisons.values()):
                    one.add(some, answers.patched[k])
                    if answers.inside:
                        one.add_inside(some, answers.inside[k])
            yield {}
        yield same | {c: one if one.finite else NOT_FINITE for c, one in comparisons.items()}


NOT_FINITE = "NaN or infinite logits"
"""Why there is no comparison."""


def _slice(answers: Answers) -> Slice:
    assert answers.intact is not None  # it was asked for
    return Slice.of(answers.labels, answers.intact, answers.intact_inside)
