"""Each family in the engine: cells are those of a plain forward pass, drawn by its initialiser."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import explorer as lx
from explorer.engine.recording import record
from explorer.weights.families.known import find_family
from explorer.weights.fresh import fresh_layer
from tests import naive
from tests.members import CLASSES, IMAGE_CLASSIFIERS, MEMBERS, examples, initial_state


def moved_state(member, draw):
    """A state in which nothing is zero, so that every layer matters."""
    _, state = initial_state(member, draw)
    generator = torch.Generator().manual_seed(draw)
    return {
        name: tensor + 0.2 * torch.rand(tensor.shape, generator=generator)
        if tensor.is_floating_point()
        else tensor + draw
        for name, tensor in state.items()
    }


def open_member(member):
    """Two states as a stack that knows its family, under a layer scheme that is a function."""
    name, sizes = MEMBERS[member]
    layers = find_family(name).layers(sizes)
    unit = {tensor: layer for layer, names in layers.items() for tensor in names}
    network, _ = initial_state(member)
    states = [moved_state(member, draw) for draw in (0, 1)]
    stack = lx.open_stack(iter(states), model=network, layers=unit.__getitem__)
    stack.attrs.update(family=name, sizes=sizes)
    return stack, network, states, layers


@pytest.mark.parametrize("member", IMAGE_CLASSIFIERS)
def test_a_sweep_equals_its_plain_twin(member):
    stack, network, states, layers = open_member(member)
    inputs = examples(member, 40)
    truth = torch.randint(0, CLASSES, (40,), generator=torch.Generator().manual_seed(1))
    result = lx.sweep(stack, data=(inputs, truth), draws=1, device="cpu", progress=False)

    def error(replacement):
        labels = naive.labels(network, states[1], replacement, inputs)
        return float((labels != truth).float().mean())

    assert result.layer.values.tolist() == list(layers)
    assert set(result.reason.values.ravel()) | set(result.rerandomized_reason.values.ravel()) == {
        ""
    }
    for layer, names in layers.items():
        earlier = {name: states[0][name] for name in names}
        fresh = fresh_layer(network, MEMBERS[member][0], layer, names, 0, 0)
        cell = result.sel(layer=layer)
        np.testing.assert_allclose(cell.error, [error(earlier), error({})], atol=1e-6)
        np.testing.assert_allclose(cell.rerandomized_error, [error(fresh)], atol=1e-6)
    np.testing.assert_allclose(result.fullmodel_error, [error(states[0]), error({})], atol=1e-6)


@pytest.mark.parametrize("member", MEMBERS)
def test_the_forward_pass_can_be_recorded(member):
    network, _ = initial_state(member)
    tensors = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    state = {name: tensor.detach() for name, tensor in tensors.items()}
    program = record(network, state, examples(member))
    assert program.flops > 0


@pytest.mark.parametrize(
    ("member", "scheme", "layers"),
    [
        ("vgg11", [r"^features", r"^classifier"], ["features", "classifier"]),
        (
            "resnet34-bn",
            {"stem": r"^(conv1|bn1)", "body": r"^layer", "out": r"^fc"},
            ["stem", "body", "out"],
        ),
        ("vit", lambda name: "attention" if "attention" in name else "rest", ["rest", "attention"]),
        ("mixer", [r"blocks\.\d+", r"^\w+"], ["stem", "blocks.0", "blocks.1", "norm", "head"]),
    ],
)
def test_users_layer_schemes_divide_the_families(member, scheme, layers):
    network, state = initial_state(member)
    stack = lx.open_stack([state], model=network, layers=scheme)
    assert stack.attrs["layers"] == layers
