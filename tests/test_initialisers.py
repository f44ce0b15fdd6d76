"""Initialisers: every tensor gets values, from the distribution that its family documents."""

from __future__ import annotations

import math

import pytest
import torch
import torchvision
from torch import nn

from explorer.errors import InterventionError
from explorer.weights.families.initialisers import TORCH, draw_tensors
from explorer.weights.families.known import find_family
from tests.members import MEMBERS, initial_state

CONSTANT = {"bn1.weight": 1.0, "bn1.bias": 0.0, "bn1.running_mean": 0.0, "bn1.running_var": 1.0}


def draw(name, sizes, seed=0, names=None):
    family = find_family(name)
    network = family.skeleton(sizes)
    names = tuple(network.state_dict()) if names is None else names
    return family.initialise(network, names, torch.Generator().manual_seed(seed))


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("member", MEMBERS)
def test_every_tensor_gets_a_value_of_its_own_shape_and_type(member):
    name, sizes = MEMBERS[member]
    expected = find_family(name).skeleton(sizes).state_dict()
    fresh = draw(name, sizes)
    assert list(fresh) == list(expected)
    for key, tensor in fresh.items():
        assert (tensor.shape, tensor.dtype) == (expected[key].shape, expected[key].dtype), key
        assert tensor.device.type == "cpu"
        assert torch.isfinite(tensor).all(), key


@pytest.mark.parametrize("member", MEMBERS)
def test_a_draw_is_repeatable_and_others_differ_wherever_something_is_drawn(member):
    name, sizes = MEMBERS[member]
    first, again, other = draw(name, sizes), draw(name, sizes), draw(name, sizes, seed=1)
    assert same(first, again)
    for key, tensor in first.items():
        drawn = not (tensor == tensor.flatten()[0]).all()
        assert torch.equal(tensor, other[key]) != drawn, key


@pytest.mark.parametrize("member", MEMBERS)
def test_the_network_is_only_read(member):
    name, _ = MEMBERS[member]
    network, _ = initial_state(member)
    before = {key: tensor.clone() for key, tensor in network.state_dict().items()}
    modes = [part.training for part in network.modules()]
    find_family(name).initialise(network, tuple(before), torch.Generator().manual_seed(9))
    assert same(before, dict(network.state_dict()))
    assert modes == [part.training for part in network.modules()]


def test_torchs_global_generator_takes_no_part():
    before = torch.get_rng_state()
    for name, sizes in MEMBERS.values():
        draw(name, sizes)
    assert torch.equal(before, torch.get_rng_state())


def he_normal(fan_in):
    return math.sqrt(2 / fan_in)


def he_uniform_third(fan_in):
    return 1 / math.sqrt(3 * fan_in)  # uniform in ±1/√fan_in


def glorot(fan_in, fan_out):
    return math.sqrt(2 / (fan_in + fan_out))


BARE = {"width": 0.5, "depth": 18}
VIT = {"depth": 2, "heads": 4, "width": 0.5, "patch": 4, "side": 32}


@pytest.mark.parametrize(
    ("name", "sizes", "tensor", "std"),
    [
        ("fcn", {}, "layer1.weight", he_uniform_third(784)),
        ("fcn", {}, "layer2.bias", he_uniform_third(256)),
        ("fcn", {"batchnorm": 1}, "layer2.weight", he_uniform_third(256)),
        ("vgg", {}, "features.3.weight", he_normal(64 * 9)),
        ("vgg", {}, "features.3.bias", 0.0),
        ("vgg", {"batchnorm": 1}, "features.4.weight", he_normal(64 * 9)),
        ("vgg", {}, "classifier.3.weight", he_normal(512)),
        ("vgg", {}, "classifier.3.bias", 0.0),
        ("resnet", BARE, "layer3.0.conv1.weight", he_normal(64 * 9)),
        ("resnet", BARE, "layer3.0.conv2.weight", he_normal(128 * 9) / math.sqrt(8)),
        ("resnet", BARE, "layer3.0.downsample.0.weight", he_normal(64)),
        ("resnet", {**BARE, "depth": 50}, "layer3.0.conv2.weight", he_normal(128 * 9)),
        ("resnet", {**BARE, "depth": 50}, "layer3.0.conv3.weight", he_normal(128) / 4),
        ("resnet", BARE, "fc.weight", he_uniform_third(256)),
        ("vit", VIT, "conv_proj.weight", 1 / math.sqrt(48)),
        ("vit", VIT, "class_token", 0.0),
        ("vit", VIT, "encoder.pos_embedding", 0.02),
        ("vit", VIT, "heads.head.weight", 0.0),
        ("mixer", VIT | {"heads": None}, "stem.proj.weight", 1 / math.sqrt(48)),
        ("mixer", VIT | {"heads": None}, "blocks.1.mlp_tokens.fc1.weight", glorot(64, 192)),
        ("mixer", VIT | {"heads": None}, "blocks.1.mlp_channels.fc2.bias", 1e-6),
        ("mixer", VIT | {"heads": None}, "head.weight", 0.0),
        ("transformer", {}, "tokens.weight", 0.02),
        ("transformer", {}, "positions.weight", 0.02),
        ("transformer", {}, "head.weight", he_uniform_third(512)),
        (
            "transformer",
            {},
            "layers.encoder_layer_1.self_attention.in_proj_weight",
            glorot(512, 1536),
        ),
        (
            "transformer",
            {},
            "layers.encoder_layer_1.self_attention.out_proj.weight",
            he_uniform_third(512),
        ),
        ("transformer", {}, "layers.encoder_layer_1.mlp.0.weight", glorot(512, 2048)),
    ],
)
def test_values_have_the_documented_mean_and_deviation(name, sizes, tensor, std):
    sizes = {key: value for key, value in sizes.items() if value is not None}
    values = draw(name, sizes, names=(tensor,))[tensor]
    error = 4 / math.sqrt(2 * values.numel())  # four standard errors of a normal's deviation
    assert float(values.std(correction=0)) == pytest.approx(std, rel=error, abs=0)
    assert abs(float(values.mean())) <= 4 * std / math.sqrt(values.numel())


@pytest.mark.parametrize(
    ("name", "sizes", "theirs"),
    [
        (
            "resnet",
            {"batchnorm": 1, "imagenet": 1, "classes": 1000},
            lambda: torchvision.models.resnet18(),
        ),
        (
            "vit",
            {"side": 32, "patch": 8, "depth": 2, "heads": 4, "width": 0.5, "classes": 10},
            lambda: torchvision.models.VisionTransformer(32, 8, 2, 4, 128, 512, num_classes=10),
        ),
    ],
)
def test_values_are_distributed_as_torchvisions_are(name, sizes, theirs):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        expected = theirs().state_dict()
    fresh = draw(name, sizes)
    for key, tensor in fresh.items():
        if not tensor.is_floating_point() or (tensor == tensor.flatten()[0]).all():
            assert torch.equal(tensor, expected[key]), key
        elif tensor.numel() >= 1000:
            std = float(expected[key].std())
            error = 6 / math.sqrt(2 * tensor.numel())  # of the difference of two deviations
            assert float(tensor.std()) == pytest.approx(std, rel=error), key
            assert float(tensor.abs().max()) == pytest.approx(
                float(expected[key].abs().max()), rel=0.35
            ), key


def test_batch_normalisation_begins_with_its_usual_constants():
    sizes = {"batchnorm": 1, "width": 1 / 16}
    fresh = draw("resnet", sizes)
    for key, value in CONSTANT.items():
        assert (fresh[key] == value).all()
    assert fresh["bn1.num_batches_tracked"].dtype == torch.int64
    assert int(fresh["bn1.num_batches_tracked"]) == 0


@torch.no_grad()
@pytest.mark.parametrize("depth", [18, 50, 152])
def test_the_logits_of_a_resnet_without_normalisation_do_not_grow_with_its_depth(depth):
    sizes = {"depth": depth, "width": 1 / 8, "side": 16}
    network = find_family("resnet").build(sizes).eval()
    network.load_state_dict(draw("resnet", sizes))
    inputs = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    assert 0.1 < float(network(inputs).std()) < 3


def test_each_tensor_is_drawn_after_the_one_before_it():
    names = ("layer1.weight", "layer1.bias")
    together = draw("fcn", {}, names=names)
    generator = torch.Generator().manual_seed(0)
    network = find_family("fcn").skeleton({})
    for name in names:
        alone = draw_tensors(TORCH, network, (name,), generator)
        assert torch.equal(alone[name], together[name])


def test_a_type_that_the_table_does_not_know_is_refused():
    network = nn.Sequential(nn.GRU(2, 2))
    with pytest.raises(InterventionError, match=r"0\.weight_ih_l0 of a GRU(.|\n)*Linear, Conv2d"):
        draw_tensors(TORCH, network, ("0.weight_ih_l0",), torch.Generator())
