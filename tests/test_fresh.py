"""Fresh draws come from each layer's own initialiser, seeded per (layer, draw)."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

import explorer as lx
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


class Adapted(nn.Linear):
    """A linear layer with an adapter (LoRA) that its class's reset_parameters does not know."""

    def __init__(self):
        super().__init__(4, 4)
        self.lora = nn.Parameter(torch.zeros(4, 2))


class Own(nn.Module):
    """A scale and a shift, drawn by what is given, and a buffer."""

    def __init__(self, draw):
        super().__init__()
        self.scale, self.shift = (nn.Parameter(torch.full((4,), 3.0)) for _ in range(2))
        self.register_buffer("mask", torch.full((4,), 5.0))
        self.draw = draw

    def reset_parameters(self):
        nn.init.normal_(self.shift)
        self.draw(self)


def pruned():
    layer = nn.Linear(4, 4)
    prune.l1_unstructured(layer, "weight", 3)
    return layer


def renormalised(module):
    module.scale.data /= module.scale.norm()


def half(module):
    module.scale.data[:2] = torch.randn(2)


def finite(module):
    nn.init.normal_(module.scale, std=float(1 + 0 * module.scale.mean()))


def by_its_size(module):
    nn.init.normal_(module.scale, std=float(module.scale.abs().mean()))


def drawn(module):
    """A fresh draw of all that a module owns, where it is part of a network."""
    names = tuple(n for n in nn.Sequential(module).state_dict() if n.count(".") == 1)
    return fresh_layer(nn.Sequential(module), "", "0", names, 0, 0)


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning", "ignore:Complex:UserWarning")
@pytest.mark.parametrize(
    ("module", "left"),
    [
        (lambda: nn.utils.weight_norm(nn.Linear(4, 4)), "0.weight_g"),
        (lambda: nn.utils.spectral_norm(nn.Linear(4, 4)), "0.weight_orig"),
        (pruned, "0.weight_orig"),
        (Adapted, "0.lora"),
        (lambda: Own(lambda module: None), "0.scale"),
        (lambda: Own(half), "0.scale"),
        (lambda: Own(renormalised), "0.scale"),
        (lambda: Own(by_its_size), "0.scale"),
        (lambda: Own(lambda module: None).bfloat16(), "0.scale"),
        (lambda: Own(lambda module: None).to(torch.complex64), "0.scale"),
    ],
)
def test_a_parameter_that_the_initialiser_leaves_alone_is_refused_by_name(module, left):
    module = module()
    before = {name: t.clone() for name, t in module.state_dict().items()}
    with pytest.raises(InterventionError, match=rf"keep trained values(.|\n)*all of {left}\.\n"):
        drawn(module)
    assert same(before, module.state_dict())


@pytest.mark.parametrize(
    "draw",
    [
        finite,
        lambda module: module.scale.data.mul_(0).add_(torch.randn(4)),
        lambda module: setattr(module, "scale", nn.Parameter(torch.randn(4))),
    ],
)
def test_an_initialiser_may_look_at_values_that_make_no_difference(draw):
    fresh = drawn(Own(draw))
    torch.manual_seed(layer_seed(0, "0", 0))
    assert torch.equal(fresh["0.shift"], torch.randn(4))
    assert torch.equal(fresh["0.scale"], torch.randn(4))
    assert fresh["0.mask"].tolist() == [5.0] * 4


def test_a_buffer_made_of_parameters_is_made_of_those_that_are_there():
    def draw(module):
        module.mask.copy_(module.scale)
        nn.init.ones_(module.scale)

    fresh = drawn(Own(draw))
    assert fresh["0.mask"].tolist() == [3.0] * 4
    assert fresh["0.scale"].tolist() == [1.0] * 4


def test_a_layer_that_is_not_drawn_anew_is_a_cell_with_a_reason_and_no_number():
    model = nn.Sequential(Adapted(), nn.Linear(4, 3))
    inputs = torch.randn(20, 4, generator=torch.Generator().manual_seed(0))
    data = inputs, model(inputs).argmax(1)
    stack = lx.open_stack([model.state_dict()], model=model)
    sweep = lx.sweep(stack, data=data, model=model, draws=2)
    errors = sweep.rerandomized_error.sel(layer="0")
    assert errors.isnull().all()
    assert "0.lora" in str(sweep.rerandomized_reason.sel(layer="0").values[0])
    assert sweep.rerandomized_error.sel(layer="1").notnull().all()


def test_a_tensor_that_is_drawn_is_given_where_its_neighbour_is_not_asked_for():
    fresh = fresh_layer(nn.Sequential(Adapted()), "", "0", ("0.weight", "0.bias"), 0, 0)
    assert list(fresh) == ["0.weight", "0.bias"]


def test_a_parametrised_weight_is_refused_and_the_bias_beside_it_drawn():
    network = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 4)))
    fresh = fresh_layer(network, "", "0", ("0.bias",), 0, 0)
    assert not torch.equal(fresh["0.bias"], network[0].bias)
    names = ("0.parametrizations.weight.original0", "0.parametrizations.weight.original1")
    with pytest.raises(InterventionError, match=r"parametrizations\.weight \(Param\w+\) has no"):
        fresh_layer(network, "", "0.parametrizations.weight", names, 0, 0)


def test_a_module_that_has_kept_a_tensor_of_a_computation_is_drawn():
    linear = nn.Linear(4, 4)
    linear.stashed = linear(torch.ones(4))
    expected = drawn(nn.Linear(4, 4))
    assert same(expected, drawn(linear))
    assert linear.stashed.requires_grad


def test_parameters_that_require_gradients_are_drawn_like_others():
    def in_place(module):
        module.scale.normal_()

    assert not torch.equal(drawn(Own(in_place))["0.scale"], torch.full((4,), 3.0))


def failing(module):
    raise KeyError("gain")


def test_an_initialiser_that_fails_is_an_error_of_the_intervention():
    match = r"0 \(Own\) failed: KeyError: 'gain'"
    with pytest.raises(InterventionError, match=match):
        drawn(Own(failing))


class Counting(nn.Linear):
    """A layer with a state of its own beside its tensors."""

    def get_extra_state(self):
        return torch.tensor([1.0, 2.0])

    def set_extra_state(self, state):
        pass


def test_a_modules_extra_state_stays_as_it_is():
    assert list(drawn(Counting(4, 4))) == ["0.weight", "0.bias"]
    assert fresh_layer(nn.Sequential(Counting(4, 4)), "", "0", ("0._extra_state",), 0, 0) == {}


@pytest.mark.parametrize("name", ["0.gain", "1.weight", "gain"])
def test_a_name_that_the_network_does_not_have_is_refused(name):
    with pytest.raises(InterventionError, match=rf"^{name} is no parameter or buffer"):
        fresh_layer(nn.Sequential(nn.Linear(4, 4)), "", "0", (name,), 0, 0)


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
