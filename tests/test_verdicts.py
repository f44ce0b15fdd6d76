"""Verdicts with statistics, against sums written out, exact sizes, and a copied network."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
import torch
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import multinomial

import explorer as lx
from explorer.data.datasets import load_test_set
from explorer.engine.judging import judge
from explorer.engine.paired import (
    DISCORDANT_GAMMA,
    exact_interval,
    holm,
    mcnemar,
    p_beyond,
    p_within,
)
from explorer.engine.results import empty_results
from explorer.errors import UsageError
from explorer.weights.families.known import build_network
from explorer.weights.stack import read_epoch
from tests import naive, toy

# --- the tests of one cell ------------------------------------------------------------------------


def half(k, m):
    """P(X ≤ k) for X of m fair coins, written out."""
    return sum(math.comb(m, j) for j in range(k + 1)) / 2**m


@given(st.integers(0, 30), st.integers(0, 30))
def test_without_a_margin_the_tests_are_mcnemars(wrong, right):
    changed = wrong + right
    two_sided = min(1.0, 2 * half(min(wrong, right), changed)) if changed else 1.0
    assert mcnemar(wrong, right) == pytest.approx(two_sided, rel=1e-9)
    assert p_within(wrong, right, 100, 0.0) == pytest.approx(half(wrong, changed))
    above = 1 - half(wrong - 1, changed) if wrong else 1.0
    assert p_beyond(wrong, right, 100, 0.0) == pytest.approx(above, abs=1e-12)


def tail_by_hand(n, share, increase, keep):
    """Sum the trinomial probabilities of every (wrong, right) whose difference is to be kept."""
    up, down = (share + increase) / 2, (share - increase) / 2
    return sum(
        math.comb(n, b) * math.comb(n - b, c) * up**b * down**c * (1 - share) ** (n - b - c)
        for b in range(n + 1)
        for c in range(n + 1 - b)
        if keep(b - c)
    )


@pytest.mark.parametrize(
    ("wrong", "right", "n"),
    # of the last two the largest tail lies inside the interval, where the shares stand close
    [(0, 0, 12), (3, 1, 12), (1, 6, 20), (9, 2, 20), (3, 6, 12), (6, 3, 12)],
)
def test_a_margin_test_is_the_largest_tail_over_the_interval_of_the_share_that_changes(
    wrong, right, n
):
    margin = 0.1
    low, high = exact_interval(wrong + right, n, DISCORDANT_GAMMA)
    within = [
        tail_by_hand(n, share, margin, lambda d: d <= wrong - right)
        for share in np.linspace(max(low, margin), high, 21)
    ]
    beyond = [
        tail_by_hand(n, share, min(margin, share), lambda d: d >= wrong - right)
        for share in np.linspace(low, high, 21)
    ]
    for found, tails in ((p_within, within), (p_beyond, beyond)):
        expected = min(1.0, max(tails) + DISCORDANT_GAMMA)
        assert found(wrong, right, n, margin) == pytest.approx(expected, rel=1e-6)


def test_where_too_few_change_for_the_margin_only_the_interval_can_be_wrong():
    assert p_within(0, 0, 100, 0.5) == p_within(3, 0, 100, 0.5) == DISCORDANT_GAMMA
    _, high = exact_interval(0, 100, DISCORDANT_GAMMA)  # where none of 100 changes half as often
    assert p_within(0, 0, 100, high) == pytest.approx(1.5 * DISCORDANT_GAMMA)


@pytest.mark.parametrize("margin", [0.04, 0.15])
def test_a_false_alarm_is_never_more_probable_than_the_level(margin):
    """The exact size at the border Δ = ε, for many shares between the 21 that are computed."""
    n = 16
    cells = [(b, c) for b in range(n + 1) for c in range(n + 1 - b)]
    p = np.array([(p_within(*bc, n, margin), p_beyond(*bc, n, margin)) for bc in cells])
    counts = np.array([(b, c, n - b - c) for b, c in cells])
    largest = 0.0
    for share in np.linspace(margin, 1, 53):
        weights = [(share + margin) / 2, (share - margin) / 2, 1 - share]
        probability = multinomial.pmf(counts, n, weights)
        for level in (0.01, 0.05, 0.2):
            alarms = [(probability * (p[:, side] <= level)).sum() for side in (0, 1)]
            assert max(alarms) <= level
            largest = max(largest, max(alarms) / level)
    assert largest > 0.4  # and it is not merely never rejecting


def test_both_tests_settle_what_is_far_from_the_margin_and_neither_what_is_on_it():
    assert p_within(10, 2, 1800, 0.085) < 1e-5 < 0.9 < p_beyond(10, 2, 1800, 0.085)
    assert p_beyond(1200, 5, 1800, 0.085) < 1e-5 < 0.9 < p_within(1200, 5, 1800, 0.085)
    assert min(p_within(160, 7, 1800, 0.085), p_beyond(160, 7, 1800, 0.085)) > 0.2


def test_more_of_the_same_examples_settle_it():
    small, large = (p_within(wrong, 0, n, 0.1) for wrong, n in ((4, 50), (160, 2000)))
    assert large < 0.01 < small


def test_holm_corrects_as_r_does_and_leaves_what_was_not_tested():
    found = holm([0.01, 0.04, math.nan, 0.03, 0.005])  # p.adjust(…, "holm") in R
    np.testing.assert_allclose(found, [0.03, 0.06, math.nan, 0.06, 0.02])
    assert holm(np.full((2, 3), 0.9)).tolist() == [[1.0] * 3] * 2


@settings(max_examples=30)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_never_rejects_more_than_the_uncorrected_nor_less_than_bonferroni(p):
    corrected = holm(p)
    assert (corrected >= np.array(p)).all()
    assert (corrected <= np.minimum(1, len(p) * np.array(p)) + 1e-15).all()


@pytest.mark.slow
def test_any_false_statement_about_a_run_is_as_rare_as_the_level_says():
    """400 runs of 20 cells on the same examples, every increase exactly on the margin."""
    generator = np.random.default_rng(7)
    n, cells, margin, share, runs = 300, 20, 0.1, 0.2, 400
    up = (share + margin) / 2
    false = 0
    for _ in range(runs):
        common = generator.random(n)  # cells of one run are alike: they share their examples
        own = generator.random((cells, n))
        draw = np.where(generator.random((cells, n)) < 0.5, common, own)
        b, c = (draw < up).sum(1), (draw > 1 - (share - up)).sum(1)
        p = [(p_within(*bc, n, margin), p_beyond(*bc, n, margin)) for bc in zip(b, c, strict=True)]
        false += bool((holm(p) <= 0.05).any())
    assert false / runs <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / runs)


# --- the verdicts of a run ------------------------------------------------------------------------


def sweep_of(*rows, n=1000, final=20, epochs=None):
    """A sweep with the given (wrong, right) per epoch and layer, None where not measured."""
    epochs = list(range(len(rows[0]) + 1)) if epochs is None else epochs
    found = empty_results([f"layer{k}" for k in range(len(rows))], epochs, 0, "not measured")
    for row, cells in enumerate(rows):
        for column, cell in enumerate([*cells, (0, 0)]):
            if cell is None:
                continue
            wrong, right = cell
            for name, value in (
                ("turned_wrong", wrong),
                ("turned_right", right),
                ("examples", n),
                ("error", (final + wrong - right) / n),
            ):
                found[name].values[row, column] = value
    ends = {"final_error": final / n, "chance_error": 0.9, "examples": n, "final_epoch": epochs[-1]}
    return found.assign_attrs(ends, checkpoint_unit="epoch", stack="toy")


FAR, NEAR, HERE = (600, 0), (5, 1), (95, 7)
"""Beyond, within and on the margin of 8.8 points, of 1,000 examples."""


@pytest.mark.parametrize(
    ("cells", "verdict", "recovery", "rises", "because"),
    [
        ([NEAR, NEAR], "robust", 0, False, "All 2 earlier epochs are within the margin; the least"),
        ([FAR, NEAR], "critical", 1, False, r"epoch 0: \+60.0 points, corrected p .*, beyond the"),
        ([FAR, HERE], "critical", 2, False, "epoch 0"),
        ([NEAR, FAR], "mixed", 2, True, r"epoch 0: \+0.4 .* within .* epoch 1: \+60.0 .* beyond"),
        ([HERE, NEAR], "undecided", 1, False, r"epoch 0: \+8.8 points, .* neither within nor"),
        ([NEAR, HERE], "undecided", 2, True, r"epoch 1: \+8.8 points"),
        ([HERE, FAR], "undecided", 2, True, "epoch 0"),
        ([FAR, (850, 0)], "critical", 2, True, "epoch 0"),
        ([None, NEAR], "not known", 1, False, "Not measured on all examples: epoch 0"),
        ([NEAR, None], "not known", 2, False, "Not measured on all examples: epoch 1"),
        ([FAR, None], "critical", 2, False, "epoch 0"),
        ([NEAR], "robust", 0, False, r"epoch 0: \+0.4 points, corrected p .*, within the margin"),
        ([], "not known", 0, False, "There is no earlier epoch than the trained network"),
    ],
)
def test_a_profile_comes_to_a_verdict_and_says_how(cells, verdict, recovery, rises, because):
    found = judge(sweep_of(cells))
    assert found.attrs["margin"] == pytest.approx(0.088)
    assert found["verdict"].item() == verdict
    assert found["recovery"].item() == recovery
    assert found["not_monotone"].item() == rises
    assert re.search(because, found["because"].item())


def test_the_last_epoch_is_the_trained_network_and_no_test():
    found = judge(sweep_of([NEAR, FAR], [FAR, NEAR]))
    assert found["state"].values[:, -1].tolist() == ["trained", "trained"]
    assert np.isnan(found["p_within"].values[:, -1]).all()
    assert found.attrs["tests"] == 8


def test_epochs_in_another_order_give_the_same():
    sweep = sweep_of([FAR, NEAR, HERE], [NEAR, NEAR, FAR])
    xr.testing.assert_identical(judge(sweep), judge(sweep.isel(epoch=[2, 0, 3, 1])))
    xr.testing.assert_identical(judge(sweep), judge(sweep.transpose()))


def test_a_cell_that_was_not_measured_to_the_end_is_not_tested():
    sweep = sweep_of([NEAR, NEAR])
    sweep["examples"].values[0, 1] = 400  # tolerance, or Ctrl-C: when to stop depended on the data
    found = judge(sweep)
    assert found["state"].values.tolist() == [["within", "not measured", "trained"]]
    assert found["verdict"].item() == "not known"


@pytest.mark.parametrize(
    ("final", "because"),
    [
        (math.nan, "The error of the trained network is not known"),
        (0.95, "The trained network is worse than chance"),
    ],
)
def test_without_a_way_to_chance_nothing_is_tested_and_every_layer_says_so(final, because):
    sweep = sweep_of([NEAR, NEAR], [FAR, NEAR]).assign_attrs(final_error=final)
    found = judge(sweep)
    assert found["verdict"].values.tolist() == ["not known"] * 2
    assert all(text.startswith(because) for text in found["because"].values)
    assert found.attrs["tests"] == 0
    assert judge(sweep, margin=0.05)["verdict"].values.tolist() == ["robust", "critical"]


def test_more_cells_make_a_verdict_harder():
    cell = (62, 0)
    alone, among = judge(sweep_of([cell])), judge(sweep_of(*[[cell] * 8] * 8))
    assert alone["p_within_holm"].values[0, 0] == 2 * alone["p_within"].values[0, 0]
    assert alone["verdict"].item() == "robust"
    assert set(among["verdict"].values) == {"undecided"}
    np.testing.assert_allclose(
        among["p_within_holm"].values[0, 0], 128 * p_within(62, 0, 1000, 0.088), rtol=1e-6
    )


def test_the_margin_is_a_share_of_the_way_to_chance_or_stated():
    sweep = sweep_of([(60, 0)])
    assert lx.verdicts(sweep, threshold=0.2).attrs["margin"] == pytest.approx(0.176)
    stated = lx.verdicts(sweep, margin=0.02)
    assert (stated.attrs["margin"], stated["verdict"].item()) == (0.02, "critical")
    assert math.isnan(stated.attrs["threshold"])
    assert lx.verdicts(sweep, margin=0.0)["p_beyond"].values[0, 0] == pytest.approx(0.5**60)


def test_a_stricter_level_shows_less():
    sweep = sweep_of([(62, 0)])
    assert lx.verdicts(sweep)["verdict"].item() == "robust"
    assert lx.verdicts(sweep, level=1e-4)["verdict"].item() == "undecided"


def test_seeds_are_set_beside_each_other_with_how_far_they_agree():
    one, other = sweep_of([NEAR, NEAR], [FAR, NEAR]), sweep_of([NEAR, FAR], [FAR, HERE], final=40)
    found = lx.verdicts({"a": one, "b": other, "c": one})
    assert found["verdict"].dims == ("run", "layer")
    assert found["final_error"].values.tolist() == [0.02, 0.04, 0.02]
    assert found["run"].values.tolist() == ["a", "b", "c"]
    assert found["verdict"].values.tolist() == [
        ["robust", "critical"],
        ["mixed", "critical"],
        ["robust", "critical"],
    ]
    assert found["common"].values.tolist() == ["robust", "critical"]
    np.testing.assert_allclose(found["agreement"], [1 / 3, 1])
    np.testing.assert_allclose(found["margin"], [0.088, 0.086, 0.088])
    assert np.isnan(lx.verdicts([one])["agreement"]).all()


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda s: lx.verdicts(s, threshold=10), r"threshold is 10(.|\n)*Divide a percentage"),
        (lambda s: lx.verdicts(s, level=5), r"level is 5(.|\n)*0\.05 is the usual"),
        (lambda s: lx.verdicts(s, margin=-0.1), r"margin is -0\.1"),
        (lambda s: lx.verdicts([]), "There are no runs"),
        (lambda s: lx.verdicts([s, s.isel(epoch=[0, 2])]), r"run 1 has other epochs(.|\n)*sel"),
        (lambda s: lx.verdicts(s.drop_vars("turned_wrong")), r"no counts(.|\n)*figures of a paper"),
    ],
)
def test_what_cannot_be_judged_is_refused(call, match):
    with pytest.raises(UsageError, match=match):
        call(sweep_of([NEAR, NEAR]))


def test_a_stack_is_swept_first(switch):
    found = lx.verdicts(
        switch, model=toy.Switch(), data=toy.one_hot_examples(), device="cpu", progress=False
    )
    assert found["turned_wrong"].values.tolist() == [[8, 0, 0], [0, 8, 0]]
    assert found.attrs["examples"] == 12
    assert found["state"].values[:, -1].tolist() == ["trained", "trained"]


def test_the_counts_behind_a_verdict_are_those_of_a_copied_network(bundled):
    """A deep copy, load_state_dict and a whole pass, as public code does it."""
    found = lx.verdicts("fcn3x256-digits")
    examples = load_test_set("digits28")
    network = build_network(bundled.attrs["family"], bundled.attrs["sizes"])
    final, first = (
        {name: torch.from_numpy(array) for name, array in read_epoch(bundled, epoch).items()}
        for epoch in (100, 0)
    )
    intact = naive.labels(network, final, {}, examples.inputs) == examples.labels
    for layer in ("layer1", "layer4"):
        early = {name: tensor for name, tensor in first.items() if name.startswith(layer)}
        patched = naive.labels(network, final, early, examples.inputs) == examples.labels
        b, c = int((intact & ~patched).sum()), int((~intact & patched).sum())
        cell = found.sel(layer=layer, epoch=0)
        assert (int(cell["turned_wrong"]), int(cell["turned_right"])) == (b, c)
        assert float(cell["p_within"]) == p_within(b, c, 1800, found.attrs["margin"])
        assert float(cell["p_mcnemar"]) == mcnemar(b, c)


def test_the_bundled_network_is_judged_more_carefully_than_by_the_threshold_alone():
    """Layer 4 stays under the threshold, but 1,800 examples do not show that it does."""
    found = lx.verdicts("fcn3x256-digits")
    assert found["verdict"].values.tolist() == ["critical", "undecided", "robust", "undecided"]
    assert float(found["increase"].sel(layer="layer4", epoch=0)) < found.attrs["margin"]
    assert found["recovery"].values.tolist() == [40, 40, 0, 3]
