"""Fresh draws come from each layer's own initialiser, seeded per (layer, draw)."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from explorer.errors import InterventionError, UnknownNameError
from explorer.weights.families.known import FAMILIES, build_network
from explorer.weights.fresh import fresh_layer, layer_seed
from explorer.weights.stack import layer_names, read_layer
from tests import toy

SIZES = {"depth": 2, "width": 64, "inputs": 100, "classes": 10}
NAMES = ("layer1.weight", "layer1.bias")


@pytest.fixture
def network():
    return build_network("fcn", SIZES)


def draw(network, number=0, seed=0, family="fcn", layer="layer1", names=NAMES):
    return fresh_layer(network, family, layer, names, number, seed)


def same(a, b):
    return all(torch.equal(a[name], b[name]) for name in a)


def test_a_draw_is_repeatable_and_others_differ(network):
    assert same(draw(network), draw(network))
    assert not same(draw(network), draw(network, number=1))
    assert not same(draw(network), draw(network, seed=1))


def test_drawing_leaves_the_networks_tensors_alone(network):
    network.load_state_dict({n: torch.ones_like(t) for n, t in network.state_dict().items()})
    before = {name: t.clone() for name, t in network.state_dict().items()}
    draw(network)
    assert all(torch.equal(before[n], t) for n, t in network.state_dict().items())


def test_the_global_generator_goes_on_as_if_nothing_had_been_drawn():
    network = toy.ConvNet()
    state = torch.get_rng_state()
    fresh_layer(network, "", "conv", ("conv.weight", "conv.bias"), 0, 0)
    assert torch.equal(state, torch.get_rng_state())


def test_the_bundled_stack_begins_with_the_draw_that_training_begins_with(bundled):
    """FCN draws are the same bits as when the stack was trained."""
    network = build_network("fcn", bundled.attrs["sizes"])
    for layer in layer_names(bundled):
        start = read_layer(bundled, layer, 0)
        fresh = fresh_layer(network, "fcn", layer, tuple(start), -1, 0)
        assert all(torch.equal(fresh[name], torch.from_numpy(start[name])) for name in start)


def test_fcn_draws_have_the_distribution_of_pytorchs_linear(network):
    fresh = draw(network)
    bound = 1 / math.sqrt(100)
    assert float(fresh["layer1.weight"].abs().max()) <= bound
    assert float(fresh["layer1.weight"].std()) == pytest.approx(bound / math.sqrt(3), rel=0.02)
    linear = nn.Linear(100, 64)
    assert float(linear.weight.detach().std()) == pytest.approx(bound / math.sqrt(3), rel=0.02)


def test_a_module_of_ones_own_is_drawn_by_its_reset_parameters():
    network = toy.ConvNet()
    names = tuple(f"norm.{n}" for n in ("weight", "bias", "running_mean", "running_var"))
    with torch.no_grad():
        network.norm.running_mean.fill_(3.0)
        network.norm.weight.fill_(7.0)
    fresh = fresh_layer(network, "", "norm", names, 0, 0)
    assert fresh["norm.weight"].tolist() == [1.0] * 4
    assert fresh["norm.running_mean"].tolist() == [0.0] * 4
    assert network.norm.weight.tolist() == [7.0] * 4


def test_attention_is_drawn_as_its_constructor_draws_it():
    network = nn.ModuleDict({"mix": nn.MultiheadAttention(64, 4)})
    names = ("mix.in_proj_weight", "mix.in_proj_bias")
    fresh = fresh_layer(network, "", "mix", names, 0, 0)
    assert tuple(fresh) == names
    assert not fresh["mix.in_proj_bias"].any()
    bound = math.sqrt(6 / (64 + 192))
    assert float(fresh["mix.in_proj_weight"].std()) == pytest.approx(bound / math.sqrt(3), rel=0.02)
    again = fresh_layer(network, "", "mix", names, 1, 0)
    assert not same(fresh, again)
    assert same(fresh, fresh_layer(network, "", "mix", names, 0, 0))


class Bare(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(2))


def test_a_module_without_an_initialiser_is_refused_by_name():
    network = nn.Sequential(Bare())
    with pytest.raises(InterventionError, match=r"0 \(Bare\) has no reset_parameters"):
        fresh_layer(network, "", "0", ("0.scale",), 0, 0)


def drawn(module):
    """A fresh draw of all that a module owns, where it is part of a network."""
    names = tuple(n for n in nn.Sequential(module).state_dict() if n.count(".") == 1)
    return fresh_layer(nn.Sequential(module), "", "0", names, 0, 0)


def test_a_module_that_has_kept_a_tensor_of_a_computation_is_drawn():
    linear = nn.Linear(4, 4)
    linear.stashed = linear(torch.ones(4))
    expected = drawn(nn.Linear(4, 4))
    assert same(expected, drawn(linear))
    assert linear.stashed.requires_grad


def test_layer_seeds_are_the_same_on_every_platform():
    assert layer_seed(0, "layer1", 0) == 2533936700026874300
    assert layer_seed(0, "layer1", 1) != layer_seed(1, "layer1", 0)


def test_fcn_has_the_papers_layers_and_parameters():
    network = build_network("fcn", dict(FAMILIES["fcn"].sizes))
    assert sum(p.numel() for p in network.parameters()) == 335_114
    assert list(FAMILIES["fcn"].layers({"depth": 3})) == ["layer1", "layer2", "layer3", "layer4"]


def test_an_unknown_family_is_refused():
    with pytest.raises(UnknownNameError, match=r"no family 'fcm'(.|\n)*'fcn'"):
        build_network("fcm", SIZES)


def test_sizes_that_are_left_out_are_the_familys_defaults():
    network = build_network("fcn", {"depth": 1})
    shapes = [tuple(tensor.shape) for tensor in network.state_dict().values()]
    assert shapes == [(256, 784), (256,), (10, 256), (10,)]
