"""Networks that use one module, or one tensor, in several places."""

from __future__ import annotations

import copy

import pytest
import torch
import xarray as xr
from torch import nn

import explorer as lx
from explorer.engine.calling import call_with, first_names, places_of
from explorer.engine.evaluator import Evaluator
from explorer.engine.network import FinalNetwork

OPTIONS = {"device": "cpu", "draws": 1, "progress": False}


class Twice(nn.Module):
    """One block under two names, with batch normalisation, and between them its twin."""

    def __init__(self):
        super().__init__()
        block = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.ReLU())
        self.first, self.between, self.again = block, nn.Linear(4, 4), block
        self.between.weight = block[0].weight
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        return self.head(self.again(self.between(self.first(x))))


class Branching(Twice):
    """The same with control flow that depends on values: submodules are reused."""

    def forward(self, x):
        return super().forward(x if float(x.sum()) < 1e9 else -x)


class OneTensor(nn.Module):
    """One parameter under two names of one module."""

    def __init__(self):
        super().__init__()
        self.one = nn.Parameter(torch.randn(4, 4))
        self.other = self.one
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        return self.head((x @ self.one).relu() @ self.other)


NETWORKS = (Twice, Branching, OneTensor)


def states(network):
    found = []
    for seed in range(3):
        torch.manual_seed(seed)
        one = network()
        for tensor in (*one.parameters(), *one.buffers()):
            if tensor.ndim == 1:
                tensor.data.uniform_(0.5, 2.0)
        found.append(copy.deepcopy(one.state_dict()))
    return found


def examples(count=40):
    generator = torch.Generator().manual_seed(3)
    return torch.randn(count, 4, generator=generator), torch.arange(count) % 3


def test_every_place_of_a_tensor_is_known_and_a_module_of_two_names_counts_once():
    found = places_of(Twice())
    assert found["first.0.weight"] == ("first.0.weight", "between.weight")
    assert found["first.1.running_mean"] == ("first.1.running_mean",)
    assert not any(name.startswith("again") for name in found)
    assert places_of(OneTensor())["one"] == ("one", "other")
    names = first_names(Twice())
    assert names["again.1.running_mean"] == "first.1.running_mean"
    assert names["between.weight"] == names["again.0.weight"] == "first.0.weight"
    assert names["between.bias"] == "between.bias"


@pytest.mark.parametrize("network", NETWORKS)
def test_a_call_with_other_tensors_leaves_a_network_as_it_was(network):
    module, (inputs, _) = network().eval(), examples()
    before, tensors = copy.deepcopy(module.state_dict()), dict(module.named_parameters())
    plain = module(inputs)
    put = {name: torch.full_like(t, 0.25) for name, t in tensors.items()}
    other = call_with(module, put, inputs)
    assert not torch.allclose(other, plain)
    assert dict(module.named_parameters()).keys() == tensors.keys()
    assert all(module.get_parameter(name) is t for name, t in tensors.items())
    assert all(torch.equal(t, before[name]) for name, t in module.state_dict().items())
    module.load_state_dict(
        {
            **before,
            **{n: put[first_names(module)[n]] for n in before if first_names(module)[n] in put},
        }
    )
    torch.testing.assert_close(module(inputs), other)


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("screen", [False, True])
def test_a_sweep_of_shared_modules_equals_a_plain_twin(network, screen):
    checkpoints, (inputs, labels) = states(network), examples()
    stack = lx.open_stack(checkpoints, model=network())
    data = inputs, labels
    found = lx.sweep(stack, model=network(), data=data, screen=screen, **OPTIONS)
    for layer in found.layer.values:
        for epoch in found.epoch.values:
            twin = network()
            twin.load_state_dict(checkpoints[-1])
            held = {n: t for n, t in twin.state_dict(keep_vars=True).items()}
            with torch.no_grad():
                for array in stack[str(layer)].data_vars.values():
                    name = array.attrs["parameter"]
                    held[name].copy_(checkpoints[epoch][name])
                logits = twin.eval()(inputs)
            cell = found.sel(layer=layer, epoch=epoch)
            wrong = (logits.argmax(1) != labels).float().mean().item()
            assert cell.error.item() == pytest.approx(wrong)
            loss = nn.functional.cross_entropy(logits, labels).item()
            assert cell.loss.item() == pytest.approx(loss, rel=1e-2 if screen else 1e-5)
    assert found.loss.values.std() > 0.01
    again = lx.sweep(stack, model=network(), data=data, screen=screen, **OPTIONS)
    xr.testing.assert_equal(again, found)


@pytest.mark.parametrize("batchnorm", ["with_layer", "weights_only", "recalibrate"])
def test_statistics_of_a_shared_module_follow_the_policy(batchnorm):
    checkpoints, data = states(Twice), examples()
    stack = lx.open_stack(checkpoints, model=Twice())
    options = {"model": Twice(), "data": data, "batchnorm": batchnorm, "calibration": data[0]}
    network = Evaluator(stack, device="cpu", **options).network
    put = network.replacement(lx.reinitialise("again.1", 0))
    moved = {"first.1.weight", "first.1.bias"}
    buffers = {"first.1.running_mean", "first.1.running_var"}
    assert set(put) - {"first.1.num_batches_tracked"} <= moved | buffers
    assert bool(buffers & set(put)) == (batchnorm != "weights_only")


def test_recording_leaves_a_network_with_a_shared_module_as_it_was():
    stack = lx.open_stack(states(Twice), model=Twice())
    network = FinalNetwork(stack, model=Twice(), device="cpu")
    before = network.logits(examples()[0], {})
    network.record(examples()[0])
    torch.testing.assert_close(network.logits(examples()[0], {}), before, rtol=0, atol=0)
