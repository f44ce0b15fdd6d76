"""Networks as readers have them at hand: wrapped, in other precisions, or no networks at all."""

from __future__ import annotations

import pytest
import torch
import xarray as xr
from torch import nn

import explorer as lx
from explorer.errors import UsageError
from explorer.weights.unwrapped import unwrapped
from tests import toy

OPTIONS = {"device": "cpu", "draws": 1, "progress": False}


def swept(model, states=None, **options):
    """A sweep, everything given to every function."""
    stack = lx.open_stack(toy.conv_states(3) if states is None else states, model=model)
    lx.distances(stack, model=model, draws=1)
    lx.check(stack, model=model, progress=False)
    return lx.sweep(stack, model=model, data=toy.conv_examples(60), **OPTIONS | options)


@pytest.fixture(scope="module")
def plain():
    return swept(toy.ConvNet())


WRAPPERS = {"torch.compile": torch.compile, "data parallel": nn.DataParallel}


@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
def test_a_wrapped_network_is_the_network(plain, wrap):
    xr.testing.assert_equal(swept(wrap(toy.ConvNet())), plain)
    prefix = next(iter(wrap(toy.ConvNet()).state_dict())).partition("conv")[0]
    states = [{prefix + n: t for n, t in one.items()} for one in toy.conv_states(3)]
    xr.testing.assert_equal(swept(wrap(toy.ConvNet()), states), plain)
    network = toy.ConvNet()
    assert unwrapped(wrap(nn.DataParallel(network))) is network


def test_a_network_that_was_compiled_in_place_is_not_compiled_here(plain):
    def refuse(*_arguments):
        raise AssertionError("it was compiled")

    network = toy.ConvNet()
    network.compile(backend=refuse)
    xr.testing.assert_equal(swept(network), plain)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_are_computed_in_float32(dtype):
    """Of the network, of the checkpoints, and of both: the values are rounded once."""
    given = [
        {n: t.to(dtype) if t.is_floating_point() else t for n, t in one.items()}
        for one in toy.conv_states(3)
    ]
    rounded = [
        {n: t.float() if t.is_floating_point() else t for n, t in one.items()} for one in given
    ]
    expected = swept(toy.ConvNet(), rounded)
    assert len(set(expected.error.values.ravel())) > 2
    for model, states in (
        (toy.ConvNet(), given),
        (toy.ConvNet().to(dtype), given),
        (toy.ConvNet().to(dtype), rounded),
    ):
        before = model.conv.weight.dtype
        xr.testing.assert_equal(swept(model, states), expected)
        assert model.conv.weight.dtype == before


def test_a_network_that_mixes_precisions_by_itself_is_left_as_it_is():
    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.wide = nn.Linear(3, 3).double()
            self.head = nn.Linear(3, 3)

        def forward(self, x):
            wide = self.wide(x.double())
            assert wide.dtype == torch.float64
            return self.head(wide.float())

    states = []
    for seed in range(3):
        torch.manual_seed(seed)
        states.append(Mixed().state_dict())
    stack = lx.open_stack(states, model=Mixed())
    found = lx.sweep(stack, model=Mixed(), data=toy.one_hot_examples(), **OPTIONS)
    assert (found.reason == "").all()


class Lazy(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.LazyConv2d(4, 3)


REFUSED = {
    "a class": (lambda: toy.ConvNet, r"a class, ConvNet(.|\n)*model=ConvNet\(…\)"),
    "a function": (lambda: abs, r"built-in function abs(.|\n)*torch\.nn\.Module is needed"),
    "state dicts": (lambda: toy.conv_states(1)[0], r"torch\.nn\.Module is needed"),
    "scripted": (lambda: torch.jit.script(toy.ConvNet()), "compiled to TorchScript"),
    "lazy": (lambda: Lazy(), r"conv\.weight of the model has no shape yet(.|\n)*Run it"),
}


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is")
@pytest.mark.parametrize("make, match", REFUSED.values(), ids=REFUSED)  # noqa: PT006
def test_what_is_no_network_to_measure_is_refused_everywhere(make, match):
    model, states = make(), toy.conv_states(3)
    stack = lx.open_stack(states, model=toy.ConvNet())
    for refuses in (
        lambda: lx.open_stack(states, model=model),
        lambda: lx.check(stack, model=model),
        lambda: lx.distances(stack, model=model),
        lambda: lx.distances(states, model=model),
        lambda: lx.sweep(stack, model=model, data=toy.conv_examples(8), **OPTIONS),
    ):
        with pytest.raises(UsageError, match=match):
            refuses()


def test_shapes_without_values_open_a_stack_and_measure_nothing():
    states, model = toy.conv_states(3), toy.ConvNet().to("meta")
    stack = lx.open_stack(states, model=model)
    assert list(stack.attrs["layers"]) == ["conv", "norm", "head"]
    for refuses in (
        lambda: lx.distances(stack, model=model),
        lambda: lx.sweep(stack, model=model, data=toy.conv_examples(8), **OPTIONS),
    ):
        with pytest.raises(UsageError, match=r"on the meta device(.|\n)*outside of"):
            refuses()
