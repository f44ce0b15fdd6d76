"""Linear maps with what follows them as one operation: the same numbers, and nothing goes amiss."""

from __future__ import annotations

import dataclasses
import itertools

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from explorer.engine import fused
from explorer.engine.fused import (
    ACTIVATIONS,
    AFTER_SUM,
    Convolve,
    Fused,
    Multiply,
    Weights,
    can_fuse,
    pitch_of,
)
from explorer.engine.passes import INTACT
from explorer.engine.recording import record
from explorer.engine.replay import Replay
from tests.test_replay import assert_close, assert_replays_equal_plain_passes, perturbed, state_of

pytestmark = pytest.mark.skipif(not can_fuse(), reason="torch was built without oneDNN")

PAIRS = st.tuples(st.integers(1, 3), st.integers(1, 3))
CHOSEN = st.sampled_from([None, *ACTIVATIONS])


def images(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def assert_same(found, expected):
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@settings(max_examples=150)
@given(
    st.tuples(st.integers(1, 9), st.integers(1, 9)),
    PAIRS,
    PAIRS,
    st.tuples(st.integers(0, 2), st.integers(0, 2)),
    PAIRS,
    st.sampled_from([1, 2]),
    st.sampled_from([1, 2, 3, 6]),
    st.booleans(),
    CHOSEN,
)
def test_a_convolution_gives_the_same_side_by_side_or_not_with_what_follows_it(
    size, kernel, stride, padding, dilation, groups, per_row, adds, activation
):
    assume(
        all(
            n + 2 * p > d * (k - 1)
            for n, p, d, k in zip(size, padding, dilation, kernel, strict=True)
        )
    )
    x, weight = images(6, 4, *size), images(8, 4 // groups, *kernel, seed=1)
    bias = images(8, seed=2) if groups == 1 else None
    expected = functional.conv2d(x, weight, bias, stride, padding, dilation, groups)
    assume(expected.shape[3] * stride[1] <= pitch_of(size[1], padding[1], stride[1]))
    assume(not adds or activation in (None, *AFTER_SUM))
    other = images(*expected.shape, seed=3) if adds else None
    expected = expected if other is None else expected + other
    call = Convolve(stride, padding, dilation, groups, activation, per_row)
    with torch.inference_mode():
        weights = Weights(weight, bias)
        found, again = (
            call(x.contiguous(memory_format=layout), weights, other)
            for layout in (torch.channels_last, torch.contiguous_format)
        )
    assert_same(found, expected if activation is None else activation(expected))
    assert torch.equal(found, again)  # whatever wrote the images
    assert found.is_contiguous(memory_format=torch.channels_last)


@given(CHOSEN, st.booleans())
def test_a_product_gives_the_same_with_what_follows_it(activation, large):
    x, weight, bias = images(6, 5), images(4, 5, seed=1), images(4, seed=2)
    expected = functional.linear(x, weight, bias)
    expected = (expected if activation is None else activation(expected)).reshape(2, 3, 4)
    with pytest.MonkeyPatch.context() as patch, torch.inference_mode():
        patch.setattr(fused, "MOST_PACKED", 0 if large else 1000)
        weights = Weights(weight, bias)
        assert_same(Multiply(activation, (2, 3, 4))(x, weights), expected)
        (packed, _) = weights.packed(torch.float32, lambda tensor: tensor)
        assert packed.is_mkldnn is not large  # no second copy of a large one


def steps(module, inputs, *changed, low=False):
    """What runs again for every slice when some tensors change."""
    state = state_of(module.eval())
    replay = Replay(record(module, state, inputs), state, torch.bfloat16)
    return replay.prepare(perturbed(state, changed), low=low).steps


def names(some):
    """Operators of torch, and of what is fused how many there were."""
    return [one.name for one in some]


class Block(nn.Module):
    """A residual block with what is done in the end as one likes."""

    def __init__(self, finish, channels=4):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(channels, channels, 3, padding=1), nn.BatchNorm2d(channels)
        self.finish = finish
        with torch.no_grad():
            self.norm.running_mean.copy_(images(channels, seed=5))
            self.norm.running_var.copy_(images(channels, seed=6).abs() + 0.1)
            self.norm.running_var[0] = 1e-5  # as much as what is added to it

    def forward(self, x):
        return self.finish(self.norm(self.conv(x)), x, self.norm).mean((2, 3))


INPUTS = images(6, 4, 5, 5)

WHOLE = {
    "activation": lambda y, x, norm: functional.relu(y),
    "sum": lambda y, x, norm: y + x,
    "sum the other way": lambda y, x, norm: x + y,
    "sum and activation": lambda y, x, norm: functional.relu(x + y),
    "nothing": lambda y, x, norm: y,
}


@pytest.mark.parametrize("finish", WHOLE.values(), ids=WHOLE)
def test_a_block_is_one_operation(finish):
    module = Block(finish)
    assert_replays_equal_plain_passes(module, INPUTS)
    for low in (False, True):
        first, *rest = steps(module, INPUTS, "conv.weight", low=low)
        assert isinstance(first.call, Fused)
        assert names(rest) == ["aten.mean.dim"]


APART = {
    "another activation after a sum": lambda y, x, norm: functional.silu(x + y),
    "an activation with options": lambda y, x, norm: functional.gelu(y, approximate="tanh"),
    "a second reader": lambda y, x, norm: functional.relu(y) + y.flip(0),
    "a sum with itself": lambda y, x, norm: y + y,
    "a multiple": lambda y, x, norm: torch.add(x, y, alpha=2),
    "a sum of other shapes": lambda y, x, norm: y + x[:1],
    "a sum with a number": lambda y, x, norm: y + 3,
    "a sum with a tensor of the network": lambda y, x, norm: y + norm.bias.view(1, -1, 1, 1),
    "a second normalisation": lambda y, x, norm: norm(y),
}


@pytest.mark.parametrize("finish", APART.values(), ids=APART)
def test_what_is_not_the_same_is_left_as_it_is(finish):
    module = Block(finish)
    assert_replays_equal_plain_passes(module, INPUTS)
    first, second, *_ = steps(module, INPUTS, "conv.weight")
    summed = "silu" in str(second.call)
    assert first.name == f"aten.convolution and {3 if summed else 2} more"
    assert first.call.activation is None
    assert not isinstance(second.call, Fused)


def test_of_two_convolutions_that_are_added_one_takes_the_sum():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 1)

        def forward(self, x):
            return functional.relu(self.one(x) + self.two(x)).mean((2, 3))

    module = Two()
    assert_replays_equal_plain_passes(module, INPUTS)
    both = steps(module, INPUTS, "one.weight", "two.weight")
    assert names(both) == [
        "aten.convolution and 0 more",
        "aten.convolution and 2 more",
        "aten.mean.dim",
    ]
    (first, _) = steps(module, INPUTS, "two.weight")
    assert first.name == "aten.convolution and 2 more"


@pytest.mark.parametrize(
    ("width", "padding", "kernel", "stride", "expected"),
    [
        *[(5, 1, 3, 1, 6), (7, 1, 3, 2, 6), (2, 1, 3, 1, 12), (8, 1, 3, 1, 1), (5, 0, 1, 1, 1)],
        *[(5, 3, 3, 1, 1), (5, 2, 3, 1, 6), (4, 0, 2, 2, 12), (1, 1, 3, 1, 12)],
    ],
)
def test_narrow_images_lie_side_by_side(width, padding, kernel, stride, expected):
    """Not images that are wide enough, pixels one by one, nor results that would overlap."""
    conv = nn.Conv2d(2, 2, kernel, stride, padding)
    module, inputs = nn.Sequential(conv, nn.Flatten(2), nn.Flatten()), images(12, 2, width, width)
    first, *_ = steps(module, inputs, "0.weight")
    assert first.call.per_row == expected
    assert_replays_equal_plain_passes(module, inputs)


def test_statistics_of_the_batch_are_not_folded():
    module = Block(lambda y, x, norm: functional.relu(y))
    module.norm = nn.BatchNorm2d(4, track_running_stats=False)
    first, second, *_ = steps(module, INPUTS, "conv.weight")
    assert (first.name, second.name) == ("aten.convolution and 0 more", "aten.native_batch_norm")
    assert_replays_equal_plain_passes(module, INPUTS)


def test_a_normalisation_by_the_batch_that_also_has_statistics_is_not_folded():
    class Trains(Block):
        def forward(self, x):
            norm, y = self.norm, self.conv(x)
            parts = norm.weight, norm.bias, norm.running_mean, norm.running_var
            return torch.native_batch_norm(y, *parts, True, 0.0, 1e-5)[0].mean((2, 3))

    module = Trains(None)
    assert steps(module, INPUTS, "conv.weight")[0].name == "aten.convolution and 0 more"
    assert_replays_equal_plain_passes(module, INPUTS)


def test_a_normalisation_without_scale_and_shift_is_folded():
    module = Block(lambda y, x, norm: functional.relu(y))
    module.norm.register_parameter("weight", None)
    module.norm.register_parameter("bias", None)
    assert len(steps(module, INPUTS, "conv.weight")) == 2
    assert_replays_equal_plain_passes(module, INPUTS)


def test_where_only_the_normalisation_is_replaced_the_convolution_is_reused():
    module = Block(lambda y, x, norm: functional.relu(y))
    again = steps(module, INPUTS, "norm.weight")
    assert names(again)[0] == "aten.native_batch_norm"
    assert not any(isinstance(one.call, Fused) for one in again)


def test_the_result_of_the_network_is_not_lost_inside_an_operation():
    """The logits are a convolution's, and an activation that nobody asks for follows."""

    class Ends(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(4, 3, 5)

        def forward(self, x):
            y = self.conv(x)
            functional.relu(y)
            return y.flatten(1)

    assert_replays_equal_plain_passes(Ends(), INPUTS)


WIDE = 32


@pytest.mark.parametrize("tokens", [False, True])
def test_a_layer_with_a_costly_activation_is_fused_and_with_a_cheap_one_keeps_its_bits(tokens):
    inputs = images(6, 3, WIDE) if tokens else images(6, WIDE)
    for activation, fuses in ((nn.GELU(), True), (nn.ReLU(), False)):
        module = nn.Sequential(nn.Linear(WIDE, WIDE), activation, nn.Linear(WIDE, 3))
        replay, _ = assert_replays_equal_plain_passes(module, inputs)
        again = steps(module, inputs, "0.weight")
        assert any(isinstance(one.call, Fused) for one in again) is fuses
        low = steps(module, inputs, "0.weight", low=True)
        assert isinstance(next(o for o in low if "addmm" in o.name).call, Multiply)
        state = state_of(module)
        ((_, found),) = replay.run(inputs, [replay.prepare({})], intact=False)
        if not fuses:
            assert torch.equal(found, torch.func.functional_call(module, state, (inputs,)))


def test_a_narrow_layer_is_left_as_it_is():
    module = nn.Sequential(nn.Linear(WIDE, WIDE - 1), nn.GELU(), nn.Linear(WIDE - 1, 3))
    assert not any(isinstance(o.call, Fused) for o in steps(module, images(6, WIDE), "0.weight"))


@torch.no_grad()
def test_what_is_folded_gets_numbers_that_no_operation_has():
    """Also where a program has results whose shapes nobody noted, as the watched one has."""
    module = Block(lambda y, x, norm: functional.relu(y)).eval()
    state = state_of(module)
    program = record(module, state, INPUTS)
    shapes = {k: shape for k, shape in program.shapes.items() if k < program.output - 1}
    replay = Replay(dataclasses.replace(program, shapes=shapes), state)
    prepared = replay.prepare(perturbed(state, ["conv.weight"]))
    assert prepared.values.keys().isdisjoint(one.value for one in program.operations)


def test_double_precision_is_left_as_it_is():
    module = Block(lambda y, x, norm: functional.relu(y)).double()
    assert not any(isinstance(o.call, Fused) for o in steps(module, INPUTS.double(), "conv.weight"))


def test_without_the_operators_everything_runs_as_it_was_recorded(monkeypatch):
    monkeypatch.setattr(torch.ops, "mkldnn", object())
    can_fuse.cache_clear()
    try:
        assert not can_fuse()
        module = Block(lambda y, x, norm: functional.relu(y))
        again = steps(module, INPUTS, "conv.weight")
        assert not any(isinstance(one.call, Fused) for one in again)
    finally:
        can_fuse.cache_clear()


@torch.no_grad()
def test_an_intervention_keeps_nothing_that_no_step_reads():
    """The weight as it was handed in would lie in memory beside the folded and the packed one."""
    module = Block(lambda y, x, norm: functional.relu(y)).eval()
    state = state_of(module)
    replay = Replay(record(module, state, INPUTS), state)
    prepared = replay.prepare(perturbed(state, ["conv.weight", "norm.weight"]))
    assert [type(value) for value in prepared.values.values()] == [Weights]


@torch.no_grad()
def test_weights_of_the_same_tensors_are_made_once():
    """A layer from an epoch, and the whole network from it; not tensors that are only equal."""
    module = Block(lambda y, x, norm: functional.relu(y)).eval()
    state = state_of(module)
    replay = Replay(record(module, state, INPUTS), state)
    conv = perturbed(state, ["conv.weight", "conv.bias"])
    both = conv | perturbed(state, ["norm.weight"])

    def weights_of(replacement):
        (found,) = replay.prepare(replacement).values.values()
        return found

    first = weights_of(conv)
    assert weights_of(dict(conv)) is first
    assert weights_of({name: tensor.clone() for name, tensor in conv.items()}) is not first
    assert weights_of(conv | {"conv.bias": state["conv.bias"]}) is not first
    other = weights_of(both)
    assert other is not first
    assert weights_of(dict(both)) is other


@torch.no_grad()
def test_weights_are_those_of_the_tensors_that_are_there_now():
    """Also where memory, and with it the identity of an object, is used again."""
    module = Block(lambda y, x, norm: functional.relu(y)).eval()
    state = state_of(module)
    replay = Replay(record(module, state, INPUTS), state)
    kept = []
    for seed in range(20):
        replacement = perturbed(state, ["conv.weight"], seed=seed)
        prepared = replay.prepare(replacement)
        kept += prepared.values.values()
        ((_, found),) = replay.run(INPUTS, [prepared], intact=False)
        assert_close(found, torch.func.functional_call(module, replacement, (INPUTS,)))
        del prepared, replacement
    assert len({id(one) for one in kept}) == 20


@torch.no_grad()
def test_weights_of_what_is_computed_from_tensors_are_not_mixed_up():
    """Weight normalisation: the kernel of the convolution is itself computed."""
    conv = nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 4, 3))
    module = nn.Sequential(conv, nn.ReLU(), nn.Flatten()).eval()
    state = state_of(module)
    replay = Replay(record(module, state, INPUTS), state)
    bias = perturbed(state, ["0.bias"])
    scale = [n for n in state if n.endswith("original0")]
    replacements = [bias | perturbed(state, scale, seed=seed) for seed in (1, 2)]
    prepared = [replay.prepare(one) for one in replacements]
    for k, found in replay.run(INPUTS, prepared, intact=False):
        assert_close(found, torch.func.functional_call(module, replacements[k], (INPUTS,)))


@torch.no_grad()
def test_what_is_known_of_the_intact_pass_has_the_same_bits_whoever_else_asks():
    """Convolution → norm → ReLU three times over: one cell reads what is inside a fused one."""
    layers = [(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU()) for _ in range(3)]
    module = nn.Sequential(*itertools.chain(*layers), nn.Flatten(), nn.Linear(100, 3)).eval()
    state = state_of(module)
    replay = Replay(record(module, state, INPUTS), state)
    replacements = [perturbed(state, some) for some in (["4.weight"], ["6.weight", "4.bias"])]
    prepared = [replay.prepare(one) for one in replacements]
    together = dict(replay.run(INPUTS, prepared, intact=True))
    for k, one in enumerate(prepared):
        ((_, alone),) = replay.run(INPUTS, [one], intact=False)
        assert torch.equal(alone, together[k])
        assert_close(alone, torch.func.functional_call(module, replacements[k], (INPUTS,)))
    ((_, alone),) = replay.run(INPUTS, [], intact=True)
    assert torch.equal(alone, together[INTACT])
    walks = [names(walk.operations) for walk in replay._walks[False]._planned.values()]
    assert walks[0].count("aten.convolution and 3 more") == 3
    assert "aten.convolution" in walks[0]  # once more, for the cell of the normalisation
    assert walks[-1].count("aten.convolution and 3 more") == 3
    assert "aten.convolution" not in walks[-1]
