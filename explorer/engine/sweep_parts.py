"""A sweep part by part, with a network that is loaded already."""

from __future__ import annotations

from collections.abc import Sequence

from explorer.engine.choosing import chosen
from explorer.engine.evaluator import Evaluator
from explorer.engine.interventions import Intervention, canonical
from explorer.engine.journal import Journal
from explorer.engine.measuring import Outcome, measure
from explorer.engine.parts import Part, Parts
from explorer.engine.provenance import provenance_of
from explorer.engine.results import Sweep, empty_results
from explorer.engine.sweep import NOT_REACHED, examples_seen, fill_in, plan_sweep
from explorer.weights.stack import epoch_numbers, layer_names


def sweep_parts(
    evaluator: Evaluator,
    *,
    epochs: Sequence[int] | None = None,
    draws: int = 3,
    seed: int = 0,
    journal: Journal | None = None,
    by_layer: bool = True,
) -> Parts:
    """Do what `explorer.sweep` does with all layers; a part after each slice of the examples.

    Parameters
    ----------
    evaluator : Evaluator
        Test set and final network.
    epochs, draws, seed
        As in `explorer.sweep`.
    journal : Journal, optional
        What it holds is not measured again, and finished counts are added to it.
    by_layer : bool
        Finish one layer before the next is begun.
    """
    stack = evaluator.network.stack
    layers, available = layer_names(stack), epoch_numbers(stack)
    taken = chosen("epoch", epochs, available)
    planned = plan_sweep(layers, layers, taken, draws, seed)
    cells = {cell: canonical(cell.intervention, layers, available) for cell in planned}
    wanted = list(dict.fromkeys([Intervention(()), *cells.values()]))
    attrs = {**provenance_of(evaluator), "tolerance": 0.0, "seed": seed, "draws": draws}
    outcomes: dict[Intervention, Outcome] = {}
    total = len(wanted) * evaluator.total
    finished = False

    def dataset() -> Sweep:
        result = empty_results(layers, taken, draws, NOT_REACHED)
        result.attrs.update(attrs, complete=int(finished))
        fill_in(result, cells, outcomes, evaluator.chance_error)
        return result

    yield Part(0, total, dataset)
    for some in measure(evaluator, wanted, journal=journal, by_layer=by_layer):
        outcomes |= some
        yield Part(sum(map(examples_seen, outcomes.values())), total, dataset)
    finished = True
    yield Part(total, total, dataset)
