"""Networks of torchvision and timm by name."""

from __future__ import annotations

import importlib.machinery
import math
import sys
import types

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torchvision import models

from explorer.errors import StackError, UnknownNameError
from explorer.weights.families.known import FAMILIES, build_network, diagram, find_family
from explorer.weights.layers import group_layers

CLASSES = 3

# one per constructor of torchvision, the small ones
NAMES = [
    *("alexnet", "convnext_tiny", "densenet121", "efficientnet_b0", "googlenet", "inception_v3"),
    *("maxvit_t", "mnasnet0_5", "mobilenet_v2", "mobilenet_v3_small", "regnet_y_400mf", "resnet18"),
    *("shufflenet_v2_x0_5", "squeezenet1_1", "swin_t", "swin_v2_t", "vgg11_bn", "vit_b_32"),
]


def draw(family, network, names, seed=0):
    return family.initialise(network, tuple(names), torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", NAMES)
def test_a_network_of_torchvision_has_one_layer_per_module_and_its_own_names(name):
    family = find_family(f"torchvision/{name}")
    skeleton = family.skeleton({"classes": CLASSES})
    names = list(skeleton.state_dict())
    assert family.layers({"classes": CLASSES}) == group_layers(names, "fine")
    assert not any(".aux" in f".{layer}".lower() for layer in group_layers(names, "fine"))
    shape = family.input_shape({})
    assert shape[0] == 3
    assert shape[1] == shape[2] >= 224


@torch.no_grad()
@pytest.mark.parametrize(
    "name", ["googlenet", "mobilenet_v3_small", "swin_t", "shufflenet_v2_x0_5"]
)
def test_a_network_of_torchvision_gives_finite_logits_at_the_start(name):
    family = find_family(f"torchvision/{name}")
    network = family.build({"classes": CLASSES}).eval()
    state = draw(family, network, network.state_dict())
    inputs = torch.randn(1, *family.input_shape({}), generator=torch.Generator().manual_seed(0))
    logits = functional_call(network, state, (inputs,))
    assert logits.shape == (1, CLASSES)
    assert torch.isfinite(logits).all()


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_a_network_with_outputs_for_training_only_gives_logits_in_training_too(name):
    network = build_network(f"torchvision/{name}", {"classes": CLASSES}).train()
    assert isinstance(network(torch.randn(2, 3, 75, 75)), torch.Tensor)


@pytest.mark.parametrize("name", NAMES)
def test_a_fresh_draw_is_distributed_as_the_librarys_constructor_draws(name):
    family = find_family(f"torchvision/{name}")
    options = (
        {"aux_logits": False, "init_weights": True} if "ogle" in name or "ncep" in name else {}
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        theirs = models.get_model(name, num_classes=CLASSES, **options).state_dict()
    state = family.skeleton({"classes": CLASSES}).state_dict()
    small = [n for n in state if state[n].numel() < 1e6]
    some = [*small[:4], *small[-6:]]
    fresh = draw(family, family.skeleton({"classes": CLASSES}), some)
    assert list(fresh) == list(dict.fromkeys(some))
    for key, tensor in fresh.items():
        assert tensor.shape == theirs[key].shape
        assert not tensor.is_meta
        if (theirs[key] == theirs[key].flatten()[0]).all():
            assert torch.equal(tensor, theirs[key]), key
        elif tensor.numel() > 200:
            error = 6 / math.sqrt(tensor.numel())
            assert float(tensor.std()) == pytest.approx(float(theirs[key].std()), rel=error), key


def test_draws_of_a_library_network_are_repeatable_differ_and_only_read_it():
    family = find_family("torchvision/squeezenet1_1")
    network = family.build({"classes": CLASSES})
    network.load_state_dict(draw(family, network, network.state_dict(), seed=5))
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    generator = torch.get_rng_state()
    names = ("classifier.1.weight", "classifier.1.bias")
    first, again, other = (draw(family, network, names, seed) for seed in (0, 0, 1))
    assert all(torch.equal(first[n], again[n]) for n in names)
    assert not torch.equal(first[names[0]], other[names[0]])
    assert all(torch.equal(before[n], t) for n, t in network.state_dict().items())
    assert torch.equal(generator, torch.get_rng_state())


def test_only_networks_that_classify_images_are_taken_from_torchvision():
    with pytest.raises(UnknownNameError, match=r"no family 'torchvision/resnet51'(.|\n)*resnet50'"):
        find_family("torchvision/resnet51")
    for name in ("fasterrcnn_resnet50_fpn", "deeplabv3_resnet50", "r3d_18", "raft_large"):
        assert f"torchvision/{name}" not in FAMILIES
    assert "torchvision/resnet50" in FAMILIES
    with pytest.raises(StackError, match=r"width is 0.5(.|\n)*take the sizes classes"):
        build_network("torchvision/resnet50", {"width": 0.5})


def test_a_library_network_has_a_diagram():
    lines = diagram("torchvision/alexnet").splitlines()
    assert lines[0] == "torchvision/alexnet (classes=1000): 61,100,840 parameters"
    assert lines[2].split() == ["↓", "features.0", "23,296"]


@pytest.mark.slow
def test_every_classifier_of_torchvision_is_a_family():
    names = models.list_models(module=models)
    assert len(names) >= 80
    for name in names:
        family = find_family(f"torchvision/{name}")
        layers = family.layers({"classes": CLASSES})
        listed = [tensor for group in layers.values() for tensor in group]
        assert sorted(listed) == sorted(family.skeleton({"classes": CLASSES}).state_dict())
        assert len(family.input_shape({})) == 3


class Tiny(nn.Module):
    """What the stand-in for timm makes."""

    def __init__(self, classes):
        super().__init__()
        self.head = nn.Linear(4, classes)
        self.default_cfg = {"input_size": (1, 2, 2)}


@pytest.fixture
def timm(monkeypatch):
    """Put a stand-in with timm's functions in its place."""
    module = types.ModuleType("timm")
    module.__spec__ = importlib.machinery.ModuleSpec("timm", None)
    module.is_model = lambda name: name.partition(".")[0] == "tiny_net"
    module.list_models = lambda: ["tiny_net"]
    module.create_model = lambda name, pretrained, num_classes: Tiny(num_classes)
    monkeypatch.setitem(sys.modules, "timm", module)


@pytest.mark.usefixtures("timm")
def test_a_network_of_timm_is_made_by_timm():
    family = find_family("timm/tiny_net.a1_in1k")
    assert family.layers({"classes": 5}) == {"head": ("head.weight", "head.bias")}
    assert family.input_shape({}) == (1, 2, 2)
    network = family.build({"classes": 5})
    fresh = draw(family, network, network.state_dict())
    assert fresh["head.weight"].shape == (5, 4)
    assert 0 < float(fresh["head.weight"].abs().max()) <= 0.5


@pytest.mark.usefixtures("timm")
def test_a_network_that_timm_does_not_have_is_refused():
    with pytest.raises(UnknownNameError, match=r"no family 'timm/tiny_nett'(.|\n)*'timm/tiny_net'"):
        find_family("timm/tiny_nett")


def test_without_timm_the_error_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(UnknownNameError, match=r"not installed(.|\n)*pip install timm"):
        find_family("timm/mixer_b16_224")
    assert "timm/mixer_b16_224" not in FAMILIES
