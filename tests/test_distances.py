"""Distances over (layer, epoch)."""

from __future__ import annotations

import itertools
import math
import re
import weakref
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch.utils._python_dispatch import TorchDispatchMode

import explorer as lx
from explorer.errors import StackError, UnknownNameError, UsageError
from explorer.stats import blocks, tensors, torch_kernels
from explorer.stats.distances import MEASURES, measure, stack_distances, state_distances
from explorer.stats.kernels import BLOCK, STATISTICS, four_statistics
from explorer.stats.tensors import TOGETHER, tensor_statistics
from explorer.weights.families.known import build_network
from explorer.weights.fresh import fresh_layer
from explorer.weights.stack import (
    epoch_numbers,
    layer_names,
    layer_variables,
    read_epoch,
    read_layer,
)
from tests import naive, toy


@pytest.fixture(scope="module")
def distances(bundled):
    return lx.distances(bundled)


def test_no_layer_is_away_from_itself_at_initialisation(distances):
    for name in MEASURES:
        assert (distances[name].sel(epoch=0) == 0).all(), name


def test_distances_say_of_which_stack_they_are(bundled, distances):
    for name, value in (("stack", bundled.attrs["name"]), ("reference_epoch", 0)):
        assert distances.attrs[name] == value
    assert distances.attrs["content_hash"] == bundled.attrs["content_hash"] != ""


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


class Bare(torch.nn.Module):
    """A layer that cannot be drawn anew."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(4, 3))


def test_a_layer_that_cannot_be_drawn_leaves_all_without_a_yard_stick_and_says_why():
    model = torch.nn.Sequential(torch.nn.Linear(2, 3), Bare(), torch.nn.Linear(3, 2))
    states = [{n: t + k for n, t in model.state_dict().items()} for k in range(3)]
    for source in (lx.open_stack(states, model=model), states):
        found = lx.distances(source, model=model)
        assert "fresh_l2" not in found
        assert found.sizes["draw"] == 0
        assert re.match(r"none: 1 \(Bare\) has no reset_parameters", found.attrs["yardstick"])
        expected = [[0, 9, 18], [0, 12, 24], [0, 8, 16]]
        np.testing.assert_allclose(found.l1, expected, rtol=1e-6)


@pytest.mark.parametrize("kind", ["stack", "states"])
def test_the_draws_of_one_layer_are_held_at_a_time(bundled, monkeypatch, kind):
    alive, original = [], fresh_layer

    def watched(network, family, layer, *arguments):
        others = {name for name, tensor in alive if tensor() is not None and name != layer}
        assert others == set()
        drawn = original(network, family, layer, *arguments)
        alive.extend((layer, weakref.ref(tensor)) for tensor in drawn.values())
        return drawn

    monkeypatch.setattr("explorer.api.fresh_layer", watched)
    network = build_network(bundled.attrs["family"], bundled.attrs["sizes"])
    source = bundled if kind == "stack" else [network.state_dict()] * 2
    found = lx.distances(source, model=network)
    assert found.fresh_l2.sizes == {"layer": 4, "draw": 3}
    assert len(alive) == 4 * 3 * 2


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
    np.testing.assert_allclose(found, expected, rtol=2e-14, atol=0)  # its order of adding varies


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


@pytest.fixture
def long_stack():
    """Eleven epochs of a layer with parameters of several forms, one number among them."""
    random = np.random.default_rng(0)
    forms = {"a.weight": (7, 3, 5), "a.bias": (), "a.long": (2, 60), "a.empty": (0, 3)}
    return lx.open_stack(
        [{n: random.normal(size=shape) for n, shape in forms.items()} for _ in range(11)]
    )


@pytest.mark.parametrize("weights", [1, 2, 14, 16, 100, 10**6])
def test_distances_are_the_same_in_blocks_of_any_size(monkeypatch, long_stack, weights):
    drawn = {"a": [read_layer(long_stack, "a", 1)]}
    expected = stack_distances(long_stack, reference=4, fresh=drawn)
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 8 * weights)
    found = stack_distances(long_stack, reference=4, fresh=drawn)
    xr.testing.assert_allclose(found, expected, rtol=1e-12)
    assert float(found.fresh_l2.isel(draw=0, layer=0)) == float(found.l2.sel(epoch=1).item())


def test_the_blocks_of_a_tensor_hold_each_weight_once_and_are_no_longer_than_asked_for():
    for shape in [(), (0,), (5,), (4, 3), (2, 3, 5), (1, 1, 7)]:
        weights = np.arange(math.prod(shape)).reshape(shape)
        for most in (1, 2, 3, 6, 7, 100):
            cut = blocks._blocks(shape, most)
            found = [weights[block.part] for block in cut]
            before = itertools.accumulate((one.size for one in found), initial=0)
            assert [block.first for block in cut] == list(before)[:-1]
            assert max(one.size for one in found) <= most
            assert np.concatenate([one.ravel() for one in found]).tolist() == [*range(weights.size)]


def test_no_more_blocks_are_in_memory_than_are_compared_and_read_ahead(monkeypatch, long_stack):
    seen, most = [], []
    at = blocks.LayerWeights.at

    def watched(self, name, position, part):
        values = at(self, name, position, part).copy()
        assert values.nbytes <= 80
        seen.append(weakref.ref(values))
        most.append(sum(one() is not None for one in seen))
        return values

    monkeypatch.setattr(blocks, "BLOCK_BYTES", 80)
    monkeypatch.setattr(blocks.LayerWeights, "at", watched)
    stack_distances(long_stack)
    assert len(seen) == 11 * (14 + 1 + 12 + 1)
    assert max(most) <= 1 + TOGETHER + (TOGETHER + 1)


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


def test_the_kernel_gets_aligned_weights_and_a_copy_only_where_they_are_not():
    weights = np.arange(8.0, dtype=np.float32).reshape(2, 4)
    unaligned = np.frombuffer(b"x" + weights.tobytes(), np.float32, offset=1)
    assert tensors._flat(unaligned, weights.dtype).flags.aligned
    assert np.shares_memory(tensors._flat(weights, weights.dtype), weights)
    assert weights.flags.writeable


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


def test_zeros_that_stay_zeros_have_no_angle():
    zeros = {"b": np.zeros(2)}
    assert measure(zeros, zeros, {"b": 1})["cosine"] == 0.0
    assert measure(zeros, zeros, {"b": 1})["l2_relative"] == 0.0


def test_tensors_of_two_shapes_are_refused():
    start = np.zeros((2, 3), np.float32)
    for wrong in (np.zeros((3, 2), np.float32), np.zeros(5), torch.zeros(2, 4)):
        with pytest.raises(StackError, match=r"shape .* compared with one of \(2, 3\)"):
            tensor_statistics(start, [start, wrong])


# --- states that are not in a stack ---------------------------------------------------------------


def layers_of(stack):
    """Layer → parameter → fan_in."""
    return {
        layer: {
            name: array.attrs["fan_in"]
            for name, array in layer_variables(stack, layer).items()
            if not array.attrs["buffer"]
        }
        for layer in layer_names(stack)
    }


def test_states_have_the_distances_of_the_stack_they_came_from(bundled):
    states = {epoch: read_epoch(bundled, epoch) for epoch in epoch_numbers(bundled)}
    drawn = {layer: [states[3], states[8]] for layer in layer_names(bundled)}
    expected = stack_distances(bundled, fresh=drawn)
    as_tensors = {e: {n: torch.tensor(a) for n, a in s.items()} for e, s in states.items()}
    for some in (states, as_tensors):
        found = state_distances(some[0], some.items(), layers_of(bundled), fresh=drawn)
        xr.testing.assert_equal(found, expected)
        assert found.l2.attrs == found.fresh_l2.attrs == {"long_name": "‖Δ‖₂"}


def test_no_more_than_four_states_are_held_at_once():
    held, most = [], []

    def states():
        for epoch in range(2 * TOGETHER + 1):
            state = {"w": np.full(3, float(epoch))}
            held.append(weakref.ref(state["w"]))
            most.append(sum(one() is not None for one in held))
            yield epoch, state
            del state

    found = state_distances({"w": np.zeros(3)}, states(), {"a": {"w": 3}})
    assert found.linf.values.tolist() == [list(range(2 * TOGETHER + 1))]
    assert max(most) == TOGETHER


def test_a_state_without_a_parameter_is_refused_with_those_it_has():
    with pytest.raises(UnknownNameError, match=r"no parameter 'w'(.|\n)*Known: v"):
        state_distances({"w": np.ones(2)}, [(1, {"v": np.ones(2)})], {"a": {"w": 2}})


# --- tensors of torch -----------------------------------------------------------------------------

FLOATS = st.floats(width=32, allow_nan=True, allow_infinity=True)


def test_tensors_are_measured_whatever_their_dtype_and_whether_or_not_they_want_gradients():
    start = torch.arange(8.0).reshape(2, 4)
    for dtype in (torch.bfloat16, torch.float16, torch.float32, torch.float64, torch.int32):
        others = [start.to(dtype), start.t().contiguous().t().to(dtype)]
        for measured in (tensor_statistics, torch_kernels.tensor_statistics):
            found = measured(start.to(dtype) + 1, others)
            assert found.tolist() == [[8, 8, 1, 204, 140, 0]] * 2
    learning = {"w": torch.nn.Parameter(start)}
    assert measure(learning, {"w": np.zeros((2, 4))}, {"w": 4})["l1"] == 28.0


@pytest.mark.parametrize(
    ("device", "there"), [("cuda", True), ("cpu", False), ("mps", False), (None, False)]
)
def test_only_a_device_with_float64_adds_by_itself(device, there):
    tensor = SimpleNamespace(detach=None, device=SimpleNamespace(type=device))
    assert tensors._adds_by_itself(tensor if device else np.ones(2)) == there


def test_what_lies_on_a_device_is_measured_by_torch(monkeypatch):
    start, now = torch.zeros(5), torch.ones(5)
    monkeypatch.setattr(tensors, "_adds_by_itself", lambda values: values is start)
    monkeypatch.setattr(torch_kernels, "tensor_statistics", lambda *pair: pair)
    assert tensor_statistics(start, [now]) == (start, [now])
    assert tensor_statistics(now, [start]).tolist() == [[5, 5, 1, 5, 0, 0]]


@settings(max_examples=100)
@given(
    st.tuples(st.integers(1, 6), st.integers(0, 20)).flatmap(
        lambda shape: arrays(np.float32, shape, elements=FLOATS)
    ),
    st.integers(1, 50),
)
def test_torch_gives_the_numbers_of_the_kernel_in_blocks_of_any_length(weights, held):
    before, torch_kernels.HELD = torch_kernels.HELD, held
    try:
        start, *others = [torch.tensor(one) for one in weights]
        found = torch_kernels.tensor_statistics(start, others)
    finally:
        torch_kernels.HELD = before
    expected = tensor_statistics(weights[0], list(weights[1:]))
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("size", [BLOCK + 1, 1_000_000])
def test_torch_adds_with_the_accuracy_of_float64(size):
    start, *others = random_tensors(3, size)
    others[0].flags.writeable = False
    found = torch_kernels.tensor_statistics(torch.tensor(start), others)
    np.testing.assert_allclose(found, [exact(start, now) for now in others], rtol=5e-15, atol=0)


def test_float64_that_overflows_is_finite_for_torch_as_for_the_kernel():
    start, now = np.array([1e308, 1.0]), np.array([-1e308, math.nan])
    expected = tensor_statistics(start, [now])
    assert expected[0, -1] == 1
    found = torch_kernels.tensor_statistics(torch.tensor(start), [torch.tensor(now)])
    np.testing.assert_array_equal(found, expected)


class Longest(TorchDispatchMode):
    """Remember the most bytes that one operation allocated for one tensor."""

    def __init__(self):
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, operation, types, arguments=(), named=None):
        result = operation(*arguments, **(named or {}))
        given = [one for one in arguments if isinstance(one, torch.Tensor)]
        if isinstance(result, torch.Tensor):
            storage = result.untyped_storage()
            if storage.data_ptr() not in [one.untyped_storage().data_ptr() for one in given]:
                self.bytes = max(self.bytes, storage.nbytes())
        return result


@pytest.mark.parametrize(("size", "count"), [(1000, 3), (10, 70), (100, 2)])
def test_torch_holds_no_more_than_it_says(monkeypatch, size, count):
    monkeypatch.setattr(torch_kernels, "HELD", 100)
    weights = torch.arange(float(size))
    others = [weights + k for k in range(1, count + 1)]
    others[0][0] = math.nan
    with Longest() as longest:
        found = torch_kernels.tensor_statistics(weights, others)
    assert found[-1].tolist()[:3] == [size * count, size * count**2, count]
    assert 0 < longest.bytes <= 8 * 100


def test_state_dicts_have_the_distances_of_the_stack_made_of_them():
    states = toy.conv_states()
    model = toy.ConvNet()
    expected = lx.distances(lx.open_stack(states, model=model), model=model, seed=3)
    found = lx.distances(iter(states), model=model, seed=3)
    xr.testing.assert_allclose(found, expected, rtol=1e-12)
    assert found.attrs["yardstick"] == expected.attrs["yardstick"]
    assert set(found.layer.values) == {"conv", "norm", "head"}


def test_state_dicts_of_nothing_or_from_another_reference_are_refused():
    with pytest.raises(StackError, match=r"no state dicts(.|\n)*At least one"):
        lx.distances([])
    with pytest.raises(UsageError, match="reference of state dicts is 2"):
        lx.distances(toy.conv_states(), reference=2)
    with pytest.raises(UsageError, match="A stack has its layers already"):
        lx.distances(lx.open_stack(toy.conv_states()), layers="fine")


ONE = {"a.weight": torch.ones(2, 2)}


@pytest.mark.parametrize(
    ("stack", "match"),
    [
        ("fcn3x256-digits", r"This str is no stack(.|\n)*open_stack\('fcn3x256-digits'\)"),
        (Path("x.pt"), r"This PosixPath is no stack(.|\n)*open_stack\('x\.pt'\)"),
        (None, r"This NoneType is no stack"),
        (xr.Dataset({"a": ("epoch", [1.0])}), r"This Dataset is no stack"),
        (torch.nn.Linear(1, 1), r"This Linear is no stack"),
        (ONE, r"This dict is a single state dict(.|\n)*Pass \[first"),
        (["a.pt", "b.pt"], r"State dict 0 is a str(.|\n)*Open files with explorer\.open_stack"),
        ([ONE, torch.nn.Linear(1, 1)], r"State dict 1 is a Linear(.|\n)*its state_dict\(\)"),
        ([ONE, {"a.weight": np.ones((2, 2))}], r"'a\.weight' of state dict 1 is a ndarray"),
        ([{5: torch.ones(2)}], r"5 of state dict 0 is a Tensor(.|\n)*Names are texts"),
        ([ONE, {"a.weight": torch.eye(2).to_sparse()}], r"of torch.sparse_coo(.|\n)*to_dense"),
        ([{"a.weight": torch.ones(2, 2, device="meta")}], r"on the meta device(.|\n)*Load"),
        ([{"count": torch.ones(2, dtype=int)}], r"no weights, only \['count'\]"),
    ],
)
def test_what_is_neither_a_stack_nor_state_dicts_is_refused_with_what_to_pass(stack, match):
    with pytest.raises(StackError, match=match):
        lx.distances(stack)


def test_a_stack_without_its_axis_of_epochs_or_its_layers_is_refused(bundled):
    for part in (bundled.isel(epoch=0), bundled["layer1"], xr.DataTree()):
        with pytest.raises(StackError, match=r"is no stack(.|\n)*a selection of its epochs"):
            lx.distances(part)


@pytest.mark.parametrize("options", [{"draws": "x"}, {"seed": None}, {"reference": 0.5}])
def test_numbers_that_are_none_are_refused_for_state_dicts_as_for_stacks(bundled, options):
    for stack in ([ONE], bundled):
        with pytest.raises(UsageError, match=f"{next(iter(options))} is "):
            lx.distances(stack, **options)


def test_beside_the_first_no_more_than_four_state_dicts_are_held():
    held, most = [], []

    def states():
        for epoch in range(2 * TOGETHER + 1):
            state = {"a.weight": torch.full((3,), float(epoch))}
            held.append(weakref.ref(state["a.weight"]))
            most.append(sum(one() is not None for one in held))
            yield state
            del state

    found = lx.distances(states())
    assert found.linf.values.tolist() == [list(range(2 * TOGETHER + 1))]
    assert max(most) == TOGETHER + 1
