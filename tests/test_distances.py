"""Distances over (layer, epoch)."""

from __future__ import annotations

import gc
import math
import weakref

import numpy as np
import pytest
import torch

import explorer as lx
from explorer.errors import UnknownNameError
from explorer.stats import distances as module
from explorer.stats.distances import BLOCK, MEASURES, TOGETHER, measure, tensor_statistics
from explorer.stats.kernels import STATISTICS, four_statistics
from explorer.weights.stack import read_layer
from tests import naive, toy


@pytest.fixture(scope="module")
def distances(bundled):
    return lx.distances(bundled)


def test_no_layer_is_away_from_itself_at_initialisation(distances):
    for name in MEASURES:
        assert (distances[name].sel(epoch=0) == 0).all(), name


def test_l2_equals_the_sum_written_out(bundled, distances):
    start, now = (read_layer(bundled, "layer4", epoch) for epoch in (0, 100))
    expected = naive.l2(start, now)
    assert float(distances.l2.sel(layer="layer4", epoch=100)) == pytest.approx(expected, rel=1e-12)


def test_every_normalisation_follows_its_formula_by_hand():
    start = {"w": np.zeros((2, 4), np.float32), "b": np.array([3.0, 4.0], np.float32)}
    now = {"w": np.full((2, 4), 2.0, np.float32), "b": np.array([3.0, 4.0], np.float32)}
    values = measure(start, now, {"w": 4, "b": 4})
    assert values == pytest.approx(
        {
            "l1": 16,
            "l2": math.sqrt(32),
            "l2_per_sqrt_m": math.sqrt(32 / 10),
            "l2_per_sqrt_fan_in": math.sqrt(32 / 4),
            "l2_relative": math.sqrt(32) / 5,
            "linf": 2,
            "cosine": 1 - 25 / (5 * math.sqrt(25 + 32)),
            "nonfinite": 0,
        }
    )


def test_the_layer_that_moved_most_is_not_the_critical_one(distances):
    """The paper's point, Fig. 1: norms are too coarse."""
    final = distances.l2_per_sqrt_m.sel(epoch=100)
    assert final.idxmax("layer").item() == "layer4"
    assert final.idxmin("layer").item() != "layer4"


def test_fresh_draws_are_the_yard_stick_and_differ(distances):
    assert distances.fresh_l2.dims == ("layer", "draw")
    assert (distances.fresh_l2 > 0).all()
    assert len(np.unique(distances.fresh_l2.values)) == distances.fresh_l2.size
    assert distances.attrs["yardstick"].startswith("fresh draws")


def test_two_uniform_draws_are_as_far_apart_as_probability_says(distances):
    """Var(U(±b) − U(±b)) = 2·b²/3 with b = 1/√fan_in."""
    expected = math.sqrt(2 / 3 / 784)
    found = distances.fresh_l2_per_sqrt_m.sel(layer="layer1").values
    np.testing.assert_allclose(found, expected, rtol=0.01)


def test_nan_weights_are_counted_and_leave_no_distance():
    states = toy.switch_states()
    states[1]["first.weight"][0, 0] = math.nan
    result = lx.distances(lx.open_stack(states))
    assert int(result.nonfinite.sel(layer="first", epoch=1)) == 1
    assert math.isnan(float(result.l2.sel(layer="first", epoch=1)))
    assert float(result.l2.sel(layer="first", epoch=2)) == 5.0


def test_a_nan_in_the_reference_leaves_no_distance_anywhere():
    states = toy.switch_states()
    states[0]["first.weight"][0, 0] = math.nan
    result = lx.distances(lx.open_stack(states))
    assert (result.nonfinite.sel(layer="first") == 1).all()
    assert np.isnan(result.l2.sel(layer="first")).all()


def test_buffers_do_not_count_as_weights():
    stack = lx.open_stack(toy.conv_states(), model=toy.ConvNet())
    result = lx.distances(stack)
    assert result.parameters.sel(layer="norm").item() == 8
    start, now = toy.conv_states()[0], toy.conv_states()[2]
    only = {name: t.numpy() for name, t in start.items() if name in ("norm.weight", "norm.bias")}
    later = {name: now[name].numpy() for name in only}
    assert float(result.l2.sel(layer="norm", epoch=2)) == pytest.approx(naive.l2(only, later))


def test_without_a_model_there_is_no_yard_stick_and_it_is_said(switch):
    result = lx.distances(switch)
    assert "fresh_l2" not in result
    assert result.attrs["yardstick"].startswith("none: the stack names no known family")


def test_the_reference_can_be_any_epoch(switch):
    result = lx.distances(switch, reference=2)
    assert result.l2.sel(layer="first").values.tolist() == [5.0, 0.0, 0.0]


def test_an_unknown_reference_epoch_is_refused_with_the_list(bundled):
    with pytest.raises(UnknownNameError, match=r"no epoch 7(.|\n)*Known: 0, 1, 2, 3, 8, 40"):
        lx.distances(bundled, reference=7)


def test_an_altered_checkpoint_leaves_nan_and_its_reason(copied):
    stack = lx.open_stack(copied)
    damage(copied / "epoch-0008.safetensors")
    result = lx.distances(stack)
    assert np.isnan(result.l2.sel(epoch=8)).all()
    assert "has been altered" in str(result.reason.sel(layer="layer2", epoch=8).item())
    assert np.isfinite(result.l2.sel(epoch=40)).all()


def damage(path):
    """Flip one bit in the middle of a file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))


def test_float16_and_float64_weights_are_measured_too():
    for dtype in (torch.float16, torch.float64):
        states = [{n: t.to(dtype) for n, t in s.items()} for s in toy.switch_states()]
        assert float(lx.distances(lx.open_stack(states)).l2.sel(layer="first", epoch=2)) == 5.0


# --- many weights, many epochs --------------------------------------------------------------------


def random_tensors(count, size):
    return list(np.random.default_rng(0).normal(size=(count, size)).astype(np.float32))


def exact(start, now):
    """In the order of STATISTICS, rounded once."""
    r, c = start.astype(float), now.astype(float)
    sums = (abs(c - r), (c - r) ** 2, r * r, c * c)
    l1, l2, rr, cc = (math.fsum(terms) for terms in sums)
    return [l1, l2, abs(c - r).max(), rr, cc, 0]


@pytest.mark.parametrize("size", [BLOCK - 1, BLOCK, 4 * BLOCK + 12_345])
def test_sums_of_float32_have_the_accuracy_of_float64(size):
    start, *others = random_tensors(1 + TOGETHER + 2, size)
    found = tensor_statistics(start, others)
    expected = [exact(start, now) for now in others]
    np.testing.assert_allclose(found, expected, rtol=5e-15, atol=0)


def test_a_weight_is_seen_wherever_it_is():
    start = np.zeros(2 * BLOCK + 3, np.float32)
    for place in (0, BLOCK - 1, BLOCK, 2 * BLOCK, start.size - 1):
        now = start.copy()
        now[place] = 2.0
        assert tensor_statistics(start, [now])[0].tolist() == [2, 4, 2, 0, 4, 0]
        now[place] = math.nan
        assert tensor_statistics(start, [now])[0].tolist() == [0, 0, 0, 0, 0, 1]


def test_an_epoch_has_the_same_distance_in_any_company():
    start, *others = random_tensors(1 + TOGETHER + 1, 1000)
    alone = [tensor_statistics(start, [now])[0] for now in others]
    np.testing.assert_allclose(tensor_statistics(start, others), alone, rtol=5e-15)


def test_each_epoch_of_a_long_stack_keeps_its_place():
    states = [{"a.weight": np.full((3, 1), float(k))} for k in range(2 * TOGETHER + 3)]
    result = lx.distances(lx.open_stack(states), reference=5)
    assert result.linf.sel(layer="a").values.tolist() == [abs(k - 5) for k in range(11)]


@pytest.mark.parametrize(("budget", "held"), [(10**9, 1 + TOGETHER), (2 * 800, 1 + 2), (1, 1 + 1)])
def test_no_more_epochs_are_in_memory_than_the_budget_allows(monkeypatch, budget, held):
    read_so_far, most = [], []

    def read(position):
        values = np.full(100, float(position))  # 800 bytes
        read_so_far.append(weakref.ref(values))
        gc.collect()
        most.append(sum(reference() is not None for reference in read_so_far))
        return values

    monkeypatch.setattr(module, "BUDGET", budget)
    module._parameter_totals(read, 0, [], [""] * 11)
    assert max(most) == held


def test_the_kernel_is_compiled_once_per_dtype_whatever_comes():
    weights = np.arange(8.0, dtype=np.float32)
    frozen = weights.copy()
    frozen.flags.writeable = False
    unaligned = np.frombuffer(b"x" + weights.tobytes(), np.float32, offset=1)
    for dtype in (float, np.float32):
        tensor_statistics(weights.astype(dtype), [weights.astype(dtype)])
    compiled = set(four_statistics.signatures)
    big_endian, spread = weights.astype(">f4"), np.repeat(weights, 2)[::2]
    for other in (weights, frozen, unaligned, big_endian, spread, weights.astype(np.float16)):
        assert tensor_statistics(weights, [other])[0].tolist() == [0, 0, 0, 140, 140, 0]
        assert tensor_statistics(other, [weights])[0].tolist() == [0, 0, 0, 140, 140, 0]
    tensor_statistics(weights, [weights.astype(float)])
    tensor_statistics(weights.astype(int), [weights])
    assert set(four_statistics.signatures) == compiled


def test_no_others_give_no_rows():
    assert tensor_statistics(np.ones(3, np.float32), []).shape == (0, len(STATISTICS))


@pytest.mark.parametrize(
    ("now", "expected"),
    [
        ([1.0, 1e-9], 5e-19),
        ([0.0, 7.0], 1.0),
        ([-3.0, 0.0], 2.0),
        ([5.0, 0.0], 0.0),
        ([0.0, 0.0], math.nan),
    ],
)
def test_the_cosine_is_exact_for_small_and_large_angles(now, expected):
    found = measure({"w": np.array([1.0, 0.0])}, {"w": np.array(now)}, {"w": 2})["cosine"]
    assert found == pytest.approx(expected, rel=1e-12, abs=0, nan_ok=True)
