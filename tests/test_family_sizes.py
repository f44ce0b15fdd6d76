"""Sizes of families: numbers of parameters, whose weights fit, and which values are refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import torchvision
from torch.func import functional_call

from explorer.errors import ManifestError, StackError
from explorer.inventory.manifest import load_manifest
from explorer.weights.families.known import FAMILIES, build_network, find_family
from tests.members import CLASSES, MEMBERS, count, skeleton

LARGE = {"imagenet": 1, "classes": 1000, "side": 224}


def shapes(module):
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}


def test_full_width_members_on_the_meta_device_have_the_known_numbers_of_parameters():
    vgg = skeleton("vgg", depth=19)
    with torch.device("meta"):
        theirs = torchvision.models.vgg19()
    assert count(vgg.features) == count(theirs.features) == 20_024_384
    assert count(vgg) == 20_024_384 + 2 * (512 * 512 + 512) + 512 * 10 + 10
    assert count(skeleton("vgg", depth=19, **LARGE)) == 143_667_240
    assert count(skeleton("resnet", depth=152, batchnorm=1, **LARGE)) == 60_192_808
    assert count(skeleton("vit")) == 86_567_656
    assert count(skeleton("mixer")) == 59_880_472
    assert all(p.is_meta for p in skeleton("vgg").parameters())


@pytest.mark.parametrize("depth", [18, 34, 50, 101, 152])
def test_torchvisions_resnet_weights_fit_the_imagenet_form(depth):
    with torch.device("meta"):
        theirs = torchvision.models.get_model(f"resnet{depth}")
    assert shapes(skeleton("resnet", depth=depth, batchnorm=1, **LARGE)) == shapes(theirs)


@pytest.mark.parametrize(("depth", "batchnorm"), [(11, 0), (13, 1), (16, 0), (19, 1)])
def test_torchvisions_vgg_weights_fit_the_imagenet_form(depth, batchnorm):
    with torch.device("meta"):
        theirs = torchvision.models.get_model(f"vgg{depth}{'_bn' if batchnorm else ''}")
    assert shapes(skeleton("vgg", depth=depth, batchnorm=batchnorm, **LARGE)) == shapes(theirs)


@pytest.mark.parametrize(
    ("their_name", "sizes"),
    [
        ("vit_b_16", {}),
        ("vit_l_32", {"depth": 24, "heads": 16, "patch": 32}),
        ("vit_h_14", {"depth": 32, "heads": 16, "width": 1.25, "patch": 14}),
    ],
)
def test_torchvisions_vit_weights_fit(their_name, sizes):
    with torch.device("meta"):
        theirs = torchvision.models.get_model(their_name)
    assert shapes(skeleton("vit", **sizes)) == shapes(theirs)


@torch.no_grad()
def test_a_small_resnet_with_torchvisions_weights_computes_what_torchvisions_does():
    torch.manual_seed(0)
    theirs = torchvision.models.resnet18(num_classes=CLASSES).eval()
    ours = build_network("resnet", {"batchnorm": 1, "imagenet": 1, "classes": CLASSES}).eval()
    inputs = torch.randn(2, 3, 64, 64)
    found = functional_call(ours, theirs.state_dict(), (inputs,))
    torch.testing.assert_close(found, theirs(inputs))


@torch.no_grad()
def test_a_small_vgg_with_torchvisions_weights_computes_what_torchvisions_does():
    torch.manual_seed(0)
    theirs = torchvision.models.vgg11_bn(num_classes=CLASSES).eval()
    sizes = {"batchnorm": 1, "imagenet": 1, "classes": CLASSES}
    ours = skeleton("vgg", **sizes).eval()
    inputs = torch.randn(1, 3, 64, 64)
    found = functional_call(ours, theirs.state_dict(), (inputs,))
    torch.testing.assert_close(found, theirs(inputs))


@torch.no_grad()
@pytest.mark.parametrize("training", [False, True])
def test_a_small_vit_with_torchvisions_weights_computes_what_torchvisions_does(training):
    torch.manual_seed(0)
    theirs = torchvision.models.VisionTransformer(16, 4, 3, 2, 32, 128, num_classes=CLASSES)
    torch.nn.init.normal_(theirs.heads.head.weight)
    theirs.train(training)
    sizes = {"side": 16, "patch": 4, "depth": 3, "heads": 2, "width": 0.25, "classes": CLASSES}
    ours = skeleton("vit", **sizes).train(training)
    inputs = torch.randn(3, 3, 16, 16)
    found = functional_call(ours, theirs.state_dict(), (inputs,))
    torch.testing.assert_close(found, theirs(inputs))


@pytest.mark.parametrize("side", [8, 16, 28, 32])
@pytest.mark.parametrize("name", ["vgg", "resnet"])
def test_small_images_of_any_side_will_do(name, side):
    sizes = {"width": 1 / 32, "side": side, "channels": 1, "classes": CLASSES, "batchnorm": 1}
    network = build_network(name, sizes)
    network.train()
    assert network(torch.randn(3, 1, side, side)).shape == (3, CLASSES)


def test_the_cifar_form_looks_at_every_pixel_and_the_imagenet_form_at_a_quarter_of_a_quarter():
    sides = []
    for imagenet in (0, 1):
        network = build_network("resnet", {"imagenet": imagenet, "width": 1 / 16}).eval()
        network.layer1.register_forward_hook(lambda _m, inputs, _o: sides.append(inputs[0].shape))
        network(torch.zeros(1, 3, 32, 32))
    assert [tuple(shape[2:]) for shape in sides] == [(32, 32), (8, 8)]


def test_a_network_without_normalisation_has_none():
    for name in ("fcn", "vgg", "resnet"):
        assert not list(skeleton(name).buffers())
        assert list(skeleton(name, batchnorm=1).buffers())


@pytest.mark.parametrize("name", [name for name in FAMILIES if name != "fcn"])
def test_a_quarter_of_the_width_has_about_a_sixteenth_of_the_weights(name):
    sizes = {"vocabulary": 10, "positions": 8} if name == "transformer" else {"classes": 10}
    ratio = count(skeleton(name, **sizes)) / count(skeleton(name, **sizes, width=0.25))
    assert 11 < ratio < 17


def test_a_tied_head_is_the_embedding():
    plain, tied = (skeleton("transformer", tied=k) for k in (0, 1))
    assert count(plain) - count(tied) == 30_000 * 512 + 30_000
    assert find_family("transformer").layers({"tied": 1})["head"] == ("norm.weight", "norm.bias")


@pytest.mark.parametrize(
    ("name", "sizes", "match"),
    [
        (
            "fcn",
            {"heads": 2},
            r"sizes of a fcn network(.|\n)*heads is 2(.|\n)*depth, width, inputs",
        ),
        ("fcn", {"width": 0.5}, r"width is 0.5(.|\n)*width is a whole number from 1"),
        ("fcn", {"depth": 0}, r"depth is 0(.|\n)*depth is a whole number from 1"),
        ("fcn", {"depth": True}, r"depth is True(.|\n)*a whole number from 1"),
        ("fcn", {"batchnorm": 2}, r"batchnorm is 2(.|\n)*batchnorm is 0 or 1"),
        ("vgg", {"depth": 12}, r"depth is 12(.|\n)*depth is one of 11, 13, 16, 19"),
        ("resnet", {"width": 0}, r"width is 0(.|\n)*width is a positive number"),
        ("resnet", {"width": float("inf")}, r"width is inf(.|\n)*width is a positive number"),
        ("resnet", {"width": "wide"}, r"width is 'wide'(.|\n)*width is a positive number"),
        ("resnet", {"depth": 20}, r"depth is one of 18, 34, 50, 101, 152(.|\n)*'width': 1.0"),
        ("vit", {"side": 28, "patch": 8}, r"side=28 and patch=8(.|\n)*multiple of the patch"),
        ("mixer", {"side": 28, "patch": 8}, r"of a mixer network were side=28 and patch=8"),
    ],
)
def test_sizes_that_a_family_does_not_take_are_refused(name, sizes, match):
    with pytest.raises(StackError, match=match):
        build_network(name, sizes)


def test_sizes_may_come_as_numpy_numbers_and_booleans():
    sizes = {"depth": np.int64(34), "width": np.float32(0.25), "batchnorm": True}
    settled = find_family("resnet").settled(sizes)
    changed = {"depth": 34, "width": 0.25, "batchnorm": 1}
    assert settled == {**find_family("resnet").sizes, **changed}
    assert {key: type(settled[key]) for key in changed} == {
        key: type(value) for key, value in changed.items()
    }


def test_a_whole_width_is_the_same_as_a_decimal_one():
    assert find_family("resnet").settled({"width": 1}) == find_family("resnet").sizes


def test_building_draws_nothing_from_torchs_generator():
    for name, sizes in MEMBERS.values():
        before = torch.get_rng_state()
        build_network(name, sizes)
        assert torch.equal(before, torch.get_rng_state())


# --- in a manifest --------------------------------------------------------------------------------


def with_family(folder, **family):
    path = folder / "stack.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    content["stacks"][0]["family"].update(family)
    path.write_text(json.dumps(content), encoding="utf-8")
    return load_manifest(path)


def test_a_manifest_holds_widths_switches_and_families_of_libraries(copied):
    sizes = {"width": 0.25, "batchnorm": 0, "depth": 18}
    (entry,) = with_family(copied, name="torchvision/resnet18", sizes=sizes).stacks.values()
    assert (entry.family, entry.sizes) == ("torchvision/resnet18", sizes)


@pytest.mark.parametrize(
    ("family", "match"),
    [
        ({"sizes": {"width": -0.5}}, r"family\.sizes\.width: -0\.5 is less than"),
        ({"sizes": {"width": "wide"}}, r"family\.sizes\.width: 'wide' is not of type 'number'"),
        ({"name": "../fcn"}, r"family\.name: '\.\./fcn' does not match"),
    ],
)
def test_a_family_that_cannot_be_is_refused_with_its_key(copied, family, match):
    with pytest.raises(ManifestError, match=match):
        with_family(copied, **family)
