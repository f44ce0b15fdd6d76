"""Every source gives the tensors it says, and the ends of its scale are exact."""

from __future__ import annotations

import pytest
import torch

import explorer as lx
from explorer.engine.evaluate import Evaluator
from explorer.engine.interventions import (
    Epoch,
    FreshDraw,
    Intervention,
    Mixture,
    Moments,
    Noise,
    Zeros,
)
from explorer.errors import InterventionError, UnknownNameError
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


@pytest.mark.parametrize("source", [Noise(0.0), Mixture(Epoch(0), 1.0), Mixture(Epoch(100), 0.3)])
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


def test_an_unknown_epoch_inside_a_mixture_is_refused(evaluator):
    with pytest.raises(UnknownNameError, match="no epoch 7"):
        evaluator.estimates(put("layer1", Mixture(Epoch(7), 0.5)))


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_a_share_that_is_no_fraction_is_refused(share):
    with pytest.raises(InterventionError, match=r"share of a mixture is(.|\n)*from 0"):
        Mixture(Zeros(), share)


@pytest.mark.parametrize("sigma", [-1.0, float("nan"), float("inf")])
def test_noise_that_is_no_deviation_is_refused(sigma):
    with pytest.raises(InterventionError, match=r"standard deviation is(.|\n)*0 or larger"):
        Noise(sigma)
