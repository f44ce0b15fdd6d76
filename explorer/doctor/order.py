"""Whether the checkpoints lie on one path, in the order of their numbers.

What is compared are distances between a checkpoint, the one before and the one before that, of
each layer and of these layers together. The detour through a checkpoint is (a + b) / c: a and b its
distances to its two neighbours, c theirs from each other. It is 1 on a straight way, √2 on a random
walk of equal steps, 2 where checkpoints scatter about a point, and at most 1 + √2 where the scatter
gets smaller from one to the next, as after a drop of the learning rate. (In many dimensions the
squared distance of two independent ones is the sum of their variances v: with v₀ ≥ v₁ ≥ v₂ the
detour (√(v₀+v₁) + √(v₁+v₂)) / √(v₀+v₂) is largest for v₀ = v₁ and v₂ = 0.) More than that is
`DETOUR`.

Two checkpoints i, i+1 have changed places where i+1 is nearer to i−1 than i is, and i nearer to i+2
than i+1 is. On a straight way and on a random walk neither is so; where checkpoints scatter about a
point, the first needs vᵢ > vᵢ₊₁ and the second the contrary, so that they are never so together,
whatever the learning rate did. `CLOSER` leaves room for chance.

Both arguments need many dimensions: layers below `FEWEST` parameters are left out.
At 1,000, three independent checkpoints of equal scatter exceed `DETOUR` about as often as a χ² of
1,000 degrees is below 0.64 of its mean: once in 10²⁰. A network that moves in few directions only
can exceed it more often, and so may a learning rate that rises and falls between checkpoints; that
is why the finding is a warning and not an error.

Seen without a false alarm: the seven bundled stacks (largest detour 1.49; the lesser of a pair's
two ratios at most 0.73) and 22 other runs of an FCN 3×64 with 41 to 101 checkpoints, single steps
among them, learning rates 0.03 to 0.5, with and without batch normalisation and weight decay (1.58
and 0.83; 1.00 where a run had diverged and stood still). Of the 73 pairs of neighbours of the
bundled stacks, exchanged one pair at a time, 61 were found, and all 59 that have both neighbours.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from explorer.doctor.findings import Finding, some
from explorer.doctor.passage import Chart
from explorer.doctor.patient import Patient

DETOUR = 2.5
"""Detour above which a checkpoint is off the path; 1 + √2 = 2.41 and some room."""

CLOSER = 1.05
"""How many times as far as the exchanged one a checkpoint has to be from both its neighbours."""

FEWEST = 1000
"""Parameters below which distances of a layer say little."""

Steps = NDArray[np.float64]
"""(2, chain) distances to the one before and to the one before that."""


def order_findings(patient: Patient, chart: Chart, explained: frozenset[int]) -> Iterator[Finding]:
    """Judge the order; `explained` are positions whose oddness has been reported already."""
    positions = list(chart.chain)
    judged = {n: chart.steps[n] for n in patient.layers if _size(patient, n) >= FEWEST}
    if len(positions) < 3 or not judged:
        yield Finding("note", "order", _too_few(len(positions)))
        return
    whole = np.sqrt(sum(judged.values(), np.zeros((2, len(positions)))))
    steps = {layer: np.sqrt(squared) for layer, squared in judged.items()}
    skipped = {at for at, k in enumerate(positions) if k in explained or k in chart.problems}
    found = list(_exchanged(patient, positions, whole, skipped))
    for _, finding in found:
        yield finding
    used = skipped.union(*(pair for pair, _ in found))
    detours = {layer: _detours(one) for layer, one in steps.items()}
    between = [
        at
        for at in range(1, len(positions) - 1)
        if not used & {at - 1, at, at + 1} and all(np.isfinite(d[at]) for d in detours.values())
    ]
    off = [
        _off_the_path(patient, [positions[at + k] for k in (-1, 0, 1)], {n: d[at] for n, d in far})
        for at in between
        if (far := [(n, d) for n, d in detours.items() if d[at] > DETOUR])
    ]
    yield from off
    if not between and not found:
        yield Finding(
            "note", "order", "Cannot be judged: too many of them are damaged or repeated."
        )
    elif not found and not off:
        most = max(d[at] for d in detours.values() for at in between)
        yield Finding(
            "ok",
            "order",
            f"{len(between)} of {len(positions) - 2} lie on the path between their neighbours: the "
            f"largest detour is {most:.2f} of {DETOUR}.",
        )


def _off_the_path(patient: Patient, three: Sequence[int], far: dict[str, float]) -> Finding:
    """A checkpoint, between two others, that is far from the path in some layers."""
    before, this, after = (patient.items[k].number for k in three)
    worst = max(far, key=lambda layer: far[layer])
    return Finding(
        "warning",
        "order",
        f"Far off the path between {before} and {after} in {some(list(far))}: the way through it "
        f"is {far[worst]:.1f} times as long as the direct one ({worst}).",
        "Look whether it belongs to another run or another number, or is damaged.",
        (this,),
        layer=worst if len(far) == 1 else "",
    )


def _exchanged(
    patient: Patient, positions: Sequence[int], whole: Steps, skipped: set[int]
) -> Iterator[tuple[tuple[int, int], Finding]]:
    """Pairs that have changed places, those first whose exchange shortens the path most."""
    gains = []
    for at in range(1, len(positions) - 2):
        one, two = whole  # one[k]: from k−1 to k, two[k]: from k−2 to k
        to_before, to_after = (one[at], two[at + 1]), (one[at + 2], two[at + 2])
        if all(far > CLOSER * near for far, near in (to_before, to_after)):
            gains.append((one[at] + one[at + 2] - two[at + 1] - two[at + 2], at))
    used = set(skipped)
    for _, at in sorted(gains, reverse=True):
        if used & {at - 1, at, at + 1, at + 2}:
            continue
        used |= {at, at + 1}
        first, second = (patient.items[positions[at + k]].number for k in (0, 1))
        shorter = (whole[0][at] + whole[0][at + 2]) / (whole[1][at + 1] + whole[1][at + 2])
        yield (
            (at, at + 1),
            Finding(
                "warning",
                "order",
                f"{first} and {second} seem to have changed places: their neighbours are "
                f"{shorter:.1f} times nearer to them the other way round.",
                "Compare with the run's log, and exchange their numbers.",
                (first, second),
            ),
        )


def _detours(steps: Steps) -> Steps:
    """Detour through each position, NaN for the first and the last; 1 where nothing moved."""
    one, two = steps
    detours = np.full(one.size, np.nan)
    through = one[1:-1] + one[2:]
    with np.errstate(divide="ignore", invalid="ignore"):
        detours[1:-1] = np.where(through == 0, 1.0, through / two[2:])
    return detours


def _size(patient: Patient, layer: str) -> int:
    trained = set(patient.parameters) & set(patient.layers[layer])
    return sum(int(np.prod(patient.specs[name].shape)) for name in trained)


def _too_few(checkpoints: int) -> str:
    if checkpoints < 3:
        return f"Cannot be judged: {checkpoints} checkpoints can be compared, and it takes three."
    return f"Cannot be judged: no layer has {FEWEST} parameters, and fewer say too little."
