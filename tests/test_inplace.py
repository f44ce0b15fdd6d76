"""Results are written over values that nobody reads again, and over no others."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from explorer.engine.recording import record
from explorer.engine.replay import Replay
from tests.test_replay import assert_replays_equal_plain_passes, perturbed, state_of


@pytest.fixture(autouse=True)
def nothing_is_fused(monkeypatch):
    """Else the operations would be gone: see test_fusing."""
    monkeypatch.setattr("explorer.engine.replay.can_fuse", lambda: False)


def calls(module, inputs, changed):
    """Names of the operators that run again when some tensors change."""
    state = state_of(module.eval())
    replay = Replay(record(module, state, inputs), state)
    prepared = replay.prepare(perturbed(state, changed))
    return [str(o.call) for o in replay._reruns[prepared.plan.names, False].written_over]


class Net(nn.Module):
    """Convolution, normalisation and a forward pass of one's choice."""

    def __init__(self, finish):
        super().__init__()
        self.conv, self.norm, self.finish = nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2), finish

    def forward(self, x):
        return self.finish(self.norm(self.conv(x)), x).mean((2, 3))


INPUTS = torch.randn(3, 2, 4, 4, generator=torch.Generator().manual_seed(0))


def test_an_activation_is_written_over_what_only_it_reads():
    net = Net(lambda y, x: functional.relu(y))
    assert "aten.relu_.default" in calls(net, INPUTS, ["conv.weight"])
    assert_replays_equal_plain_passes(net, INPUTS)


def test_a_value_with_a_second_reader_is_kept():
    net = Net(lambda y, x: functional.relu(y) * y)
    assert "aten.relu.default" in calls(net, INPUTS, ["conv.weight"])
    assert_replays_equal_plain_passes(net, INPUTS)


def test_a_value_of_which_there_is_a_view_is_kept():
    net = Net(lambda y, x: functional.relu(y) + y.flip(0).flip(0).view(y.shape))
    assert "aten.relu.default" in calls(net, INPUTS, ["conv.weight"])
    net = Net(lambda y, x: functional.relu(y.transpose(2, 3)) + y)
    assert "aten.relu.default" in calls(net, INPUTS, ["conv.weight"])
    assert_replays_equal_plain_passes(net, INPUTS)


def test_a_sum_is_written_over_the_branch_and_never_over_the_intact_passs_value():
    for finish in (lambda y, x: y + x, lambda y, x: x + y):
        net = Net(finish)
        assert "aten.add_.Tensor" in calls(net, INPUTS, ["conv.weight"])
        kept = INPUTS.clone()
        assert_replays_equal_plain_passes(net, INPUTS)
        assert torch.equal(INPUTS, kept)


def test_a_sum_with_a_factor_is_not_turned_around():
    net = Net(lambda y, x: torch.add(x, y, alpha=2))
    assert "aten.add.Tensor" in calls(net, INPUTS, ["conv.weight"])
    assert_replays_equal_plain_passes(net, INPUTS)


def test_a_smaller_value_that_is_broadcast_is_kept():
    net = Net(lambda y, x: y.mean((2, 3), keepdim=True).relu() + x)
    assert "aten.add.Tensor" in calls(net, INPUTS, ["conv.weight"])
    net = Net(lambda y, x: functional.adaptive_avg_pool2d(y, 1) * 2.0 + x)
    assert "aten.add.Tensor" in calls(net, INPUTS, ["conv.weight"])
    assert_replays_equal_plain_passes(net, INPUTS)


def test_the_tensors_of_the_network_and_of_the_intervention_are_never_written_over():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale, self.head = nn.Parameter(torch.ones(4)), nn.Linear(4, 3)

        def forward(self, x):
            return self.head(torch.relu(self.scale) * x)

    module, inputs = Scaled().eval(), torch.randn(5, 4)
    state = state_of(module)
    replacement = perturbed(state, ["scale"])
    kept = {n: t.clone() for n, t in replacement.items()}
    with torch.no_grad():
        replay = Replay(record(module, state, inputs), state)
        for _ in range(3):
            dict(replay.run(inputs, [replay.prepare(replacement)], intact=True))
    assert torch.equal(replacement["scale"], kept["scale"])
    assert torch.equal(module.scale, torch.ones(4))
