"""Convolutions tile by tile: the same numbers, rounded hardly more, and only where it pays."""

from __future__ import annotations

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

import explorer as lx
from explorer.engine import convolving, winograd
from explorer.engine.estimate import Ranking
from explorer.engine.evaluator import Evaluator
from explorer.engine.fused import ACTIVATIONS, Convolve, Weights, can_fuse
from explorer.engine.inplace import IN_PLACE
from explorer.engine.passes import INTACT
from explorer.engine.recording import record
from explorer.engine.replay import Replay
from explorer.engine.winograd import POINTS, ConvolveTiles, best_side
from tests.test_fusing import images
from tests.test_replay import (
    assert_replays_equal_plain_passes,
    perturbed,
    small_ones_in_tiles,
    state_of,
)

pytestmark = pytest.mark.skipif(not can_fuse(), reason="torch was built without oneDNN")

SIDES = st.sampled_from(list(POINTS))


@settings(max_examples=100)
@given(
    SIDES,
    st.tuples(st.integers(1, 11), st.integers(1, 11)),
    st.tuples(st.integers(0, 3), st.integers(0, 3)),
    st.tuples(st.integers(1, 3), st.integers(1, 3)),
    st.booleans(),
    st.booleans(),
    st.booleans(),
    st.sampled_from([None, *ACTIVATIONS]),
    st.integers(1, 2000),
)
def test_tiles_give_what_a_convolution_gives_with_what_follows_it(
    side, size, padding, channels, biased, adds, held, activation, chunk
):
    """Images that are no whole tiles, and the last ones of a chunk, included."""
    assume(all(n + 2 * p >= 3 for n, p in zip(size, padding, strict=True)))
    x, weight = images(5, channels[0], *size), images(*channels[::-1], 3, 3, seed=1)
    bias = images(channels[1], seed=2) if biased else None
    expected = functional.conv2d(x.double(), weight.double(), None, 1, padding)
    other = images(*expected.shape, seed=3) if adds else None
    expected = expected + sum(t.double() for t in (bias_of(bias), other) if t is not None)
    expected = expected if activation is None else activation(expected)
    call = ConvolveTiles(side, padding, held, activation and IN_PLACE[activation])
    with torch.inference_mode(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(winograd, "CHUNK", chunk)
        weights = Weights(weight, bias)
        found, again = (
            call(x.contiguous(memory_format=layout), weights, other)
            for layout in (torch.channels_last, torch.contiguous_format)
        )
    torch.testing.assert_close(found, expected.float(), rtol=1e-4, atol=1e-4)
    assert torch.equal(found, again)  # whatever wrote the images
    assert found.is_contiguous(memory_format=torch.channels_last)


def bias_of(bias):
    return None if bias is None else bias.view(1, -1, 1, 1)


@torch.inference_mode()
@pytest.mark.parametrize(("side", "times"), [(2, 2), (4, 6)])
def test_rounding_is_of_the_size_of_a_convolutions(side, times):
    """The usual points 0, ±1, ±2 come to 9 times for tiles of 4."""
    x, weight = images(8, 64, 8, 8).relu(), images(64, 64, 3, 3, seed=1) / 17
    exact = functional.conv2d(x.double(), weight.double(), padding=1)
    found = ConvolveTiles(side, (1, 1), held=True)(x, Weights(weight, None))
    plain = functional.conv2d(x, weight, padding=1)
    error, usual = ((one - exact).square().mean().sqrt() for one in (found, plain))
    assert error < times * usual


@pytest.mark.parametrize(
    ("count", "rows", "columns", "held", "expected"),
    [
        *[(32, 16, 16, True, 4), (32, 14, 14, True, 4), (32, 4, 4, True, 4), (32, 3, 3, True, 4)],
        *[(32, 2, 2, True, 2), (16, 4, 4, True, 2), (8, 4, 4, True, 2), (4, 8, 8, True, 2)],
        *[(7, 4, 4, True, 0), (31, 2, 2, True, 0)],  # too few tiles
        *[(64, 1, 1, True, 0), (64, 1, 4, True, 0), (64, 5, 5, True, 2)],  # much thrown away
        *[(64, 8, 8, False, 4), (63, 8, 8, False, 2), (16, 8, 8, False, 2), (15, 8, 8, False, 0)],
    ],
)
def test_tiles_are_as_large_as_pays(count, rows, columns, held, expected):
    weight = torch.empty(WIDE, WIDE, 3, 3)
    shape = count, WIDE, rows, columns
    assert best_side(shape, weight, (1, 1), (1, 1), held=held) == expected


def test_a_transformed_weight_that_is_not_held_is_not_too_large():
    """512 × 512 channels take 9 MB, 17 of them in tiles of 2 × 2, and 38 in tiles of 4 × 4."""
    weight, shape = torch.empty(512, 512, 3, 3), (64, 512, 8, 8)
    sides = [best_side(shape, weight, (1, 1), (1, 1), held=held) for held in (True, False)]
    assert sides == [4, 2]


WIDE = winograd.LEAST_CHANNELS
INPUTS = images(8, WIDE, 8, 8)


def network(**options):
    """Two convolutions one after the other, the second with these options."""
    options = {"kernel_size": 3, "padding": 1, **options}
    first, second = nn.Conv2d(WIDE, WIDE, 3, padding=1), nn.Conv2d(WIDE, **options)
    return nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), nn.Flatten(2), Mean())


class Mean(nn.Module):
    def forward(self, x):
        return x.mean(2)[:, :10]


def kinds(module, inputs, *changed, low_dtype=None, low=False):
    """How the convolutions are run that run again when some tensors change."""
    state = state_of(module.eval())
    replay = Replay(record(module, state, inputs), state, low_dtype)
    steps = replay.prepare(perturbed(state, changed), low=low).steps
    return [kind(one.call) for one in steps if "convolution" in one.name]


def kind(call):
    if isinstance(call, Convolve):
        return "as it is"
    return f"tiles of {call.side}" + (", held" if call.held else "")


@torch.no_grad()
def test_transformed_weights_are_held_for_the_final_network_and_made_anew_for_a_replaced_one():
    """Every cell would hold four times its layer."""
    module = network(out_channels=WIDE)
    many = images(64, WIDE, 8, 8)
    for changed in ("0.weight", "0.bias"):
        assert kinds(module, many, changed) == ["tiles of 4", "tiles of 4, held"]
    assert kinds(module, many, "2.weight") == ["tiles of 4"]
    assert kinds(module, many, "0.weight", "2.bias") == ["tiles of 4", "tiles of 4"]
    assert kinds(module, INPUTS, "0.weight") == ["as it is", "tiles of 4, held"]  # few images
    for inputs in (INPUTS, many):
        assert_replays_equal_plain_passes(module, inputs)


@torch.no_grad()
def test_the_intact_pass_is_run_in_tiles_whoever_asks():
    module = network(out_channels=WIDE).eval()
    state = state_of(module)
    replay = Replay(record(module, state, INPUTS), state)
    ((_, alone),) = replay.run(INPUTS, [], intact=True)
    together = dict(replay.run(INPUTS, [replay.prepare(perturbed(state, ["2.bias"]))], intact=True))
    assert torch.equal(alone, together[INTACT])
    (walk, *_) = replay._walks[False]._planned.values()
    found = [kind(one.call) for one in walk.operations if "convolution" in one.name]
    assert found == 2 * ["tiles of 4, held"]


@pytest.mark.parametrize(
    "options",
    [
        *[{"stride": 2}, {"dilation": 2, "padding": 2}, {"groups": 2}],
        *[{"kernel_size": 5}, {"kernel_size": (3, 1)}],
    ],
)
@torch.no_grad()
def test_other_convolutions_are_run_as_they_are(options):
    module = network(**{"out_channels": WIDE, **options})
    with small_ones_in_tiles():
        assert kinds(module, INPUTS, "0.weight") == ["tiles of 4", "as it is"]
        assert_replays_equal_plain_passes(module, INPUTS)


@torch.no_grad()
def test_few_channels_are_not_worth_it():
    assert kinds(network(out_channels=WIDE - 1), INPUTS, "0.weight") == 2 * ["as it is"]


@torch.no_grad()
def test_beside_a_lower_precision_nothing_is_held_and_it_has_no_tiles():
    module, many = network(out_channels=WIDE), images(64, WIDE, 8, 8)
    found = [kinds(module, many, "0.weight", low_dtype=torch.bfloat16, low=x) for x in (0, 1)]
    assert found == [2 * ["tiles of 4"], 2 * ["as it is"]]


@torch.no_grad()
def test_no_more_is_held_than_there_is_memory_for(monkeypatch):
    module = network(out_channels=WIDE)
    one = 4 * module[0].weight.nbytes
    for memory, expected in ((2 * one, "tiles of 4, held"), (2 * one - 1, "as it is")):
        monkeypatch.setattr(convolving, "MOST_HELD", memory)
        assert kinds(module, INPUTS, "0.weight") == ["as it is", expected]


class Overflows(nn.Module):
    """A bright pixel overflows and is brought back to 1 after a convolution."""

    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(1, 1, 3, padding=1), nn.Linear(36, 3)
        nn.init.ones_(self.conv.weight)

    def forward(self, x):
        return self.head(torch.tanh(self.conv(x * 1e30)).flatten(1))


def test_where_tiles_give_no_number_the_plain_pass_decides():
    """Infinite values are multiplied by zeros in a transform, and not in a convolution."""
    model = Overflows().eval()
    stack = lx.open_stack([model.state_dict()], model=model, layers="fine")
    data = 1e-30 * images(8, 1, 6, 6), torch.arange(8) % 3
    bright = torch.zeros(8, 1, 6, 6)
    bright[:, 0, 2, 3] = 1e10
    with small_ones_in_tiles(), torch.inference_mode():
        run = Evaluator(
            stack, model=model, data=data, device="cpu", batch_size=8
        )._counting.execution
        expected = model(bright)
        assert expected.isfinite().all()
        (tiled,) = dict(run._pass.run(bright, [], True)).values()
        assert tiled.isnan().all()
        (found,) = dict(run.run(bright, [], True)).values()
        assert run.unsure(Ranking(tiled.unsqueeze(0))) == [0]
    torch.testing.assert_close(found, expected)
