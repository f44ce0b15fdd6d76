"""Families: what they compute, which units they fall into, and how they are found and shown."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from explorer.errors import UnknownNameError
from explorer.weights.families.known import FAMILIES, build_network, diagram, find_family
from explorer.weights.layers import group_layers
from tests.members import CLASSES, MEMBERS, count, examples, initial_state, skeleton


def blocks(prefix, depth, *parts):
    return [f"{prefix}{k}.{part}" for k in range(1, depth + 1) for part in parts]


def test_there_is_a_tiny_member_of_every_family():
    assert {name for name, _ in MEMBERS.values()} == set(FAMILIES)


@pytest.mark.parametrize("scheme", ["paper", "fine"])
@pytest.mark.parametrize("member", MEMBERS)
def test_every_parameter_and_buffer_is_in_exactly_one_layer(member, scheme):
    name, sizes = MEMBERS[member]
    family = find_family(name)
    state = list(build_network(name, sizes).state_dict())
    layers = group_layers(state, scheme, family.layers(sizes))
    listed = [tensor for names in layers.values() for tensor in names]
    assert sorted(listed) == sorted(state)
    assert all("/" not in layer for layer in layers)


@pytest.mark.parametrize("member", MEMBERS)
def test_logits_have_one_value_per_class_and_are_finite_at_the_start(member):
    network, _ = initial_state(member)
    inputs = examples(member)
    with torch.no_grad():
        logits = network(inputs)
    expected = (*inputs.shape, 11) if inputs.ndim == 2 and not inputs.is_floating_point() else None
    assert logits.shape == (expected or (len(inputs), CLASSES))
    assert torch.isfinite(logits).all()


@pytest.mark.parametrize("member", MEMBERS)
def test_every_parameter_takes_part_in_the_output(member):
    """A gradient reaches it, from a state in which nothing is zero."""
    network, state = initial_state(member)
    generator = torch.Generator().manual_seed(0)
    moved = {
        name: tensor + 0.1 * torch.rand(tensor.shape, generator=generator)
        if tensor.is_floating_point()
        else tensor
        for name, tensor in state.items()
    }
    network.load_state_dict(moved)
    network.train()
    network(examples(member)).square().sum().backward()
    idle = [n for n, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert idle == []


@pytest.mark.parametrize(
    ("name", "sizes", "units"),
    [
        ("fcn", {"batchnorm": 1}, ["layer1", "layer2", "layer3", "layer4"]),
        (
            "vgg",
            {"depth": 11},
            [
                *("stage1.block1", "stage2.block1", "stage3.block1", "stage3.block2"),
                *("stage4.block1", "stage4.block2", "stage5.block1", "stage5.block2"),
                *("fc1", "fc2", "final_linear"),
            ],
        ),
        (
            "resnet",
            {"depth": 50, "imagenet": 1},
            [
                "stage0",
                *(
                    f"stage{s}.resblk{k}"
                    for s, n in enumerate((3, 4, 6, 3), 1)
                    for k in range(1, n + 1)
                ),
                "final_linear",
            ],
        ),
        ("vit", {"depth": 3}, ["embedding", *blocks("layer", 3, "attention", "mlp"), "head"]),
        ("mixer", {"depth": 3}, ["embedding", *blocks("layer", 3, "token_mixing", "mlp"), "head"]),
        ("transformer", {}, ["embedding", *blocks("layer", 6, "attention", "mlp"), "head"]),
    ],
)
def test_units_are_the_papers_in_forward_order(name, sizes, units):
    assert list(find_family(name).layers(sizes)) == units


@pytest.mark.parametrize(("depth", "convolutions"), [(11, 8), (13, 10), (16, 13), (19, 16)])
@pytest.mark.parametrize("batchnorm", [0, 1])
def test_a_unit_of_vgg_is_a_convolution_with_its_normalisation(depth, convolutions, batchnorm):
    layers = find_family("vgg").layers({"depth": depth, "batchnorm": batchnorm})
    assert len(layers) == convolutions + 3
    network = skeleton("vgg", depth=depth, batchnorm=batchnorm)
    for layer, names in layers.items():
        owners = [
            network.get_submodule(p) for p in dict.fromkeys(n.rpartition(".")[0] for n in names)
        ]
        kinds = [type(owner).__name__ for owner in owners]
        if layer.startswith("stage"):
            assert kinds == ["Conv2d", "BatchNorm2d"][: 1 + batchnorm]
        else:
            assert kinds == ["Linear"]


def test_a_residual_block_holds_its_projection():
    layers = find_family("resnet").layers({"depth": 18, "batchnorm": 1})
    assert "layer2.0.downsample.0.weight" in layers["stage2.resblk1"]
    assert "layer2.0.downsample.1.running_mean" in layers["stage2.resblk1"]
    assert not any("downsample" in name for name in layers["stage2.resblk2"])


def test_the_last_norm_belongs_to_the_head_and_positions_to_the_embedding():
    vit = find_family("vit").layers({})
    assert vit["embedding"][0] == "class_token"
    assert vit["embedding"][-1] == "encoder.pos_embedding"
    assert [name.rpartition(".")[0] for name in vit["head"]] == ["encoder.ln"] * 2 + [
        "heads.head"
    ] * 2
    mixer = find_family("mixer").layers({})
    assert [name.rpartition(".")[0] for name in mixer["head"]] == ["norm"] * 2 + ["head"] * 2
    words = find_family("transformer").layers({})
    assert words["embedding"] == ("tokens.weight", "positions.weight")
    assert words["head"] == ("norm.weight", "norm.bias", "head.weight", "head.bias")


def test_normalisation_moves_with_its_linear_layer():
    layers = find_family("fcn").layers({"depth": 1, "batchnorm": 1})
    assert set(layers["layer1"]) == {
        *("layer1.weight", "layer1.bias", "norm1.weight", "norm1.bias"),
        *("norm1.running_mean", "norm1.running_var", "norm1.num_batches_tracked"),
    }
    assert layers["layer2"] == ("layer2.weight", "layer2.bias")


def test_the_language_model_sees_no_later_token():
    network, _ = initial_state("transformer")
    tokens = examples("transformer")
    changed = tokens.clone()
    changed[:, 4] = (changed[:, 4] + 1) % 11
    with torch.no_grad():
        before, after = network(tokens), network(changed)
    torch.testing.assert_close(before[:, :4], after[:, :4])
    assert (before[:, 4:] != after[:, 4:]).any(2).all()


def test_the_language_model_takes_shorter_texts():
    network, _ = initial_state("transformer")
    tokens = examples("transformer")
    with torch.no_grad():
        torch.testing.assert_close(network(tokens[:, :3]), network(tokens)[:, :3])


# --- names and diagrams ---------------------------------------------------------------------------


def test_an_unknown_family_is_refused_with_the_nearest():
    with pytest.raises(UnknownNameError, match=r"'vg'(.|\n)*torchvision/NAME(.|\n)*mean 'vgg'"):
        find_family("vg")
    assert "vg" not in FAMILIES
    assert "" not in FAMILIES


def test_families_are_listed_without_those_of_libraries():
    assert list(FAMILIES) == ["fcn", "vgg", "resnet", "vit", "mixer", "transformer"]
    assert len(FAMILIES) == 6


def test_a_diagram_lists_the_units_with_their_parameters_and_marks_skips():
    sizes = {"width": 1 / 64, "batchnorm": 1, "side": 8}
    text = diagram("resnet", sizes)
    head, example, *lines, legend = text.splitlines()
    network = skeleton("resnet", **sizes)
    assert head.startswith("resnet (depth=18, width=0.015625, batchnorm=1, imagenet=0")
    assert head.endswith(f": {count(network):,} parameters")
    assert example == "  3 × 8 × 8"
    assert lines[0].split() == ["↓", "stage0", "29", "+", "3", "in", "buffers"]
    assert [line.split()[0] for line in lines] == ["↓", *["↷"] * 8, "↓"]
    assert [line.split()[1] for line in lines] == list(find_family("resnet").layers(sizes))
    assert sum(int(line.split()[2].replace(",", "")) for line in lines) == count(network)
    assert "skip connection" in legend


def test_a_diagram_without_skips_has_no_legend():
    assert diagram("fcn").splitlines()[1:] == [
        "  784",
        "  ↓ layer1  200,960",
        "  ↓ layer2   65,792",
        "  ↓ layer3   65,792",
        "  ↓ layer4    2,570",
    ]


@pytest.mark.parametrize("name", FAMILIES)
def test_the_repr_of_a_family_is_the_diagram_of_its_default_member(name):
    assert repr(find_family(name)) == diagram(name)
    assert all(unit in repr(find_family(name)) for unit in find_family(name).layers({}))


def test_blocks_with_a_skip_are_marked_in_every_family_that_has_them():
    for name, skipped in (
        ("vgg", 0),
        ("resnet", 8),
        ("vit", 24),
        ("mixer", 24),
        ("transformer", 12),
    ):
        assert diagram(name).count("\n  ↷ ") == skipped, name


def test_looking_a_family_up_loads_no_library_before_it_is_needed():
    code = (
        "import sys\nfrom explorer.weights.families.known import FAMILIES, build_network\n"
        "build_network('fcn', {})\nassert 'nothing' not in FAMILIES\n"
        "print([m for m in ('torch', 'torchvision', 'timm') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "['torch']", done.stderr


def test_a_plain_network_is_measured_without_torchvision_and_transformers():
    code = (
        "import sys, explorer as lx; stack = lx.open_stack('fcn3x256-digits');"
        "next(lx.evaluate(stack, lx.reinitialise('layer1', 0), device='cpu'));"
        "print({'torchvision', 'transformers'} & set(sys.modules))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ran.stdout.strip() == "set()", ran.stderr
