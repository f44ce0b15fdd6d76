"""Every source gives the tensors it says, and the ends of its scale are exact."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import explorer as lx
from explorer.engine.evaluator import Evaluator
from explorer.engine.interventions import (
    Epoch,
    FreshDraw,
    Intervention,
    Mixture,
    Moments,
    Noise,
    Skip,
    Zeros,
)
from explorer.errors import InterventionError, UnknownNameError
from explorer.weights.families.known import build_network, find_family
from explorer.weights.fresh import fresh_layer
from explorer.weights.stack import read_layer
from tests import toy

INTACT = Intervention(())


@pytest.fixture(scope="module")
def evaluator(bundled):
    return Evaluator(bundled, device="cpu")


def put(layer, source):
    return Intervention(((layer, source),))


def tensors(evaluator, layer, source):
    return evaluator.network.replacement(put(layer, source))


def test_zeros_are_zero_in_every_parameter(evaluator):
    found = tensors(evaluator, "layer2", Zeros())
    assert set(found) == {"layer2.weight", "layer2.bias"}
    assert not any(tensor.any() for tensor in found.values())


def test_zeros_leave_running_statistics_alone():
    stack = lx.open_stack(toy.conv_states(), model=toy.ConvNet())
    run = Evaluator(stack, model=toy.ConvNet(), data=toy.conv_examples(), device="cpu")
    assert set(tensors(run, "norm", Zeros())) == {"norm.weight", "norm.bias"}


def test_trained_moments_keep_mean_and_deviation_and_nothing_else(bundled, evaluator):
    found = tensors(evaluator, "layer1", Moments())["layer1.weight"]
    trained = torch.from_numpy(read_layer(bundled, "layer1", 100)["layer1.weight"])
    assert float(found.mean()) == pytest.approx(float(trained.mean()), abs=3e-4)
    assert float(found.std()) == pytest.approx(float(trained.std()), rel=0.01)
    correlation = torch.corrcoef(torch.stack([found.ravel(), trained.ravel()]))[0, 1]
    assert abs(float(correlation)) < 0.02


def test_noise_has_its_standard_deviation_and_grows_the_error(bundled, evaluator):
    trained = torch.from_numpy(read_layer(bundled, "layer1", 100)["layer1.weight"])
    found = tensors(evaluator, "layer1", Noise(0.1))["layer1.weight"]
    assert float((found - trained).std()) == pytest.approx(0.1, rel=0.01)
    errors = [evaluator.result(put("layer1", Noise(s))).errors for s in (0.001, 0.1, 1.0)]
    assert errors == sorted(errors)
    assert errors[2] > errors[0]


@pytest.mark.parametrize("around", [Epoch(0), Mixture(Epoch(0), 0.25)])
def test_noise_around_a_point_is_the_noise_around_the_trained_layer_moved_there(evaluator, around):
    """θ(α) + u: common random numbers, so that points are compared draw by draw."""
    trained = tensors(evaluator, "layer3", Noise(0.1, 4, 7))
    final = evaluator.network._state
    there, moved = (tensors(evaluator, "layer3", s) for s in (around, Noise(0.1, 4, 7, around)))
    for name, tensor in moved.items():
        torch.testing.assert_close(tensor - there[name], trained[name] - final[name])
        assert not torch.equal(tensor, there[name])


def test_noise_around_an_epoch_takes_its_running_statistics_along_without_noise():
    stack = lx.open_stack(toy.conv_states(), model=toy.ConvNet())
    run = Evaluator(stack, model=toy.ConvNet(), data=toy.conv_examples(), device="cpu")
    found = tensors(run, "norm", Noise(0.5, around=Epoch(0)))
    start = tensors(run, "norm", Epoch(0))
    assert set(found) == set(start)
    for name, tensor in found.items():
        assert torch.equal(tensor, start[name]) == (
            name.rpartition(".")[2] not in ("weight", "bias")
        )


def test_no_noise_around_a_point_is_that_point(evaluator):
    for around in (Epoch(0), Mixture(Epoch(0), 0.25)):
        still = evaluator.result(put("layer1", Noise(0.0, around=around)))
        assert still == evaluator.result(put("layer1", around))


@pytest.mark.parametrize(
    "source",
    [
        *(Noise(0.0), Mixture(Epoch(0), 1.0), Mixture(Epoch(100), 0.3)),
        Noise(0.0, around=Mixture(Epoch(0), 1.0)),
    ],
)
def test_the_trained_end_is_the_final_network_exactly(evaluator, source):
    assert evaluator.result(put("layer1", source)) == evaluator.result(INTACT)
    assert evaluator.network.canonical(put("layer1", source)) == INTACT


@pytest.mark.parametrize("source", [Epoch(0), FreshDraw(1), Zeros(), Noise(0.5)])
def test_the_other_end_of_a_mixture_is_its_source_exactly(evaluator, source):
    start = tensors(evaluator, "layer3", source)
    mixed = tensors(evaluator, "layer3", Mixture(source, 0.0))
    assert all(torch.equal(start[name], mixed[name]) for name in start)


def test_the_middle_of_a_mixture_is_the_mean(bundled, evaluator):
    first, last = (read_layer(bundled, "layer4", e)["layer4.bias"] for e in (0, 100))
    found = tensors(evaluator, "layer4", Mixture(Epoch(0), 0.5))["layer4.bias"]
    torch.testing.assert_close(found, torch.from_numpy((first + last) / 2))


def test_counters_in_a_mixture_stay_whole_and_final():
    stack = lx.open_stack(toy.conv_states(), model=toy.ConvNet())
    run = Evaluator(stack, model=toy.ConvNet(), data=toy.conv_examples(), device="cpu")
    found = tensors(run, "norm", Mixture(Epoch(0), 0.5))
    assert found["norm.num_batches_tracked"].dtype == torch.int64


@pytest.mark.parametrize("kind", [Moments, lambda d, s: Noise(0.1, d, s), FreshDraw])
def test_draws_are_repeatable_and_differ_by_number_and_seed(evaluator, kind):
    one, again, other, seed = (
        tensors(evaluator, "layer4", kind(d, s))["layer4.weight"]
        for d, s in ((0, 0), (0, 0), (1, 0), (0, 1))
    )
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert not torch.equal(one, seed)


def test_layers_from_different_sources_go_together(evaluator):
    joint = Intervention((("layer3", Mixture(Epoch(0), 0.5)), ("layer4", Noise(0.01))))
    assert evaluator.result(joint).exact
    assert str(joint) == "layer3 ← 0.5 final + 0.5 epoch 0, layer4 ← final + noise 0.01, draw 0"


@pytest.mark.parametrize("source", [Mixture(Epoch(7), 0.5), Noise(0.1, around=Epoch(7))])
def test_an_unknown_epoch_inside_another_source_is_refused(evaluator, source):
    with pytest.raises(UnknownNameError, match="no epoch 7"):
        evaluator.estimates(put("layer1", source))


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_a_share_that_is_no_fraction_is_refused(share):
    with pytest.raises(InterventionError, match=r"share of a mixture is(.|\n)*from 0"):
        Mixture(Zeros(), share)


@pytest.mark.parametrize("sigma", [-1.0, float("nan"), float("inf")])
def test_noise_that_is_no_deviation_is_refused(sigma):
    with pytest.raises(InterventionError, match=r"standard deviation is(.|\n)*0 or larger"):
        Noise(sigma)


# --- skipping --------------------------------------------------------------------------------


class Square(nn.Module):
    """Layers that can be the identity, and one that cannot."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1, groups=2)
        self.wide = nn.Conv2d(4, 4, (3, 5), padding=(2, 4), dilation=2, bias=False)
        self.norm = nn.BatchNorm2d(4)
        self.linear = nn.Linear(4, 4)
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        x = self.norm(self.wide(self.conv(x)))
        return self.head(self.linear(x.mean((2, 3))))


@pytest.fixture
def square():
    states = []
    for seed in range(2):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            net = Square().train()
            net(3 * torch.randn(64, 4, 6, 6) + 1)
            states.append({n: t.clone() for n, t in net.state_dict().items()})
    model = Square()
    stack = lx.open_stack(states, model=model)
    data = torch.randn(20, 4, 6, 6), torch.arange(20) % 3
    return Evaluator(stack, model=model, data=data, device="cpu")


@pytest.mark.parametrize("layer", ["conv", "wide", "norm", "linear"])
def test_a_skipped_layer_passes_its_input_on(square, layer):
    found = tensors(square, layer, Skip())
    module = square.network._module.get_submodule(layer)
    inputs = torch.randn(5, 4) if layer == "linear" else torch.randn(5, 4, 6, 6)
    own = {name.rpartition(".")[2]: tensor for name, tensor in found.items()}
    torch.testing.assert_close(torch.func.functional_call(module, own, (inputs,)), inputs)
    assert square.result(Intervention(((layer, Skip()),))).exact


def test_a_layer_that_cannot_pass_its_input_on_says_so(square):
    with pytest.raises(InterventionError, match=r"head cannot be skipped(.|\n)*out_features=3"):
        square.result(Intervention((("head", Skip()),)))


def test_half_a_skip_is_half_way_to_the_identity(square):
    found = tensors(square, "linear", Mixture(Skip(), 0.5))
    final = square.network._state["linear.weight"]
    torch.testing.assert_close(found["linear.weight"], (torch.eye(4) + final) / 2)


def test_every_source_has_words():
    mixture = Mixture(Skip(), 0.25)
    noise = Noise(0.1), Noise(0.1, around=Mixture(Epoch(3), 0.5))
    said = [str(s) for s in (Skip(), Zeros(), Epoch(3), *noise, mixture)]
    assert said == [
        "skipped",
        "zeros",
        "epoch 3",
        "final + noise 0.1, draw 0",
        "0.5 final + 0.5 epoch 3 + noise 0.1, draw 0",
        "0.25 final + 0.75 skipped",
    ]


def test_a_residual_block_is_skipped_and_one_with_a_projection_is_not():
    family = find_family("resnet")
    sizes = {"depth": 18, "width": 0.0625, "batchnorm": 1, "channels": 1, "side": 8, "classes": 3}
    sizes = {name: value for name, value in sizes.items() if name in family.sizes}
    model, units = build_network("resnet", sizes), family.layers(sizes)
    states = []
    for draw in range(2):
        draws = [fresh_layer(model, "resnet", u, names, draw, 0) for u, names in units.items()]
        states.append({name: tensor for one in draws for name, tensor in one.items()})
    member = {name: unit for unit, names in units.items() for name in names}
    stack = lx.open_stack(states, model=model, layers=member.__getitem__)
    stack.attrs.update(family="resnet", sizes=sizes)
    data = torch.randn(12, *family.input_shape(sizes)), torch.arange(12) % 3
    run = Evaluator(stack, model=model, data=data, device="cpu")
    found = tensors(run, "stage1.resblk2", Skip())
    block = run.network._module.get_submodule("layer1.1")
    own = {n.removeprefix("layer1.1."): t for n, t in found.items()}
    values = torch.rand(2, block.conv1.in_channels, 8, 8)
    assert torch.equal(torch.func.functional_call(block, own, (values,)), values)
    with pytest.raises(InterventionError, match=r"stage2.resblk1 cannot be skipped"):
        tensors(run, "stage2.resblk1", Skip())
