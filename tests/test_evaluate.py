"""Interventions carried out: right labels, partial counts, and a network nobody changes."""

from __future__ import annotations

import copy
import hashlib
import math
import random

import numpy as np
import pytest
import torch
import torchvision
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional
from torch.utils.data import TensorDataset

import explorer as lx
from explorer.data.datasets import as_examples, load_test_set
from explorer.engine.estimate import COUNTED, Ranking, score, wilson_interval
from explorer.engine.evaluator import Evaluator
from explorer.engine.execution import Execution
from explorer.engine.forward import Forward
from explorer.engine.interventions import Epoch, FreshDraw, Intervention, Noise
from explorer.engine.provenance import provenance_of
from explorer.errors import (
    CheckpointError,
    DataError,
    InterventionError,
    StackError,
    UnknownNameError,
    UsageError,
)
from explorer.weights.families.known import build_network
from explorer.weights.stack import layer_names, read_epoch, read_layer
from tests import naive, toy
from tests.test_distances import damage

INTACT = Intervention(())


def fingerprint(module):
    """Hash over every tensor and training flag of a module."""
    digest = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tensor.requires_grad}".encode())
        digest.update(tensor.numpy().tobytes())
    for name, part in module.named_modules():
        digest.update(f"{name} {part.training}".encode())
    for name, parameter in module.named_parameters():
        digest.update(f"{name} {parameter.requires_grad}".encode())
    return digest.hexdigest()


def tensors(arrays):
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


@pytest.fixture(scope="module")
def evaluator(bundled):
    return Evaluator(bundled, device="cpu")


@pytest.fixture
def conv():
    """Stack, network and examples with batch normalisation and dropout."""
    model = toy.ConvNet()
    return lx.open_stack(toy.conv_states(), model=model), model, toy.conv_examples()


def predicted(evaluator, intervention):
    """Labels by the engine, in the order of the dataset."""
    prepared = evaluator._counting.execution._pass.prepare(
        evaluator.network.replacement(intervention)
    )
    parts = []
    for inputs in evaluator._counting._inputs.split(evaluator.batch_size):
        with torch.inference_mode():
            ((_, logits),) = evaluator._counting.execution._pass.run(
                inputs, [prepared], intact=False
            )
        parts.append(logits.argmax(1))
    order = torch.randperm(evaluator.total, generator=torch.Generator().manual_seed(190201996))
    labels = torch.empty(evaluator.total, dtype=torch.int64)
    labels[order] = torch.cat(parts)[: evaluator.total]
    return labels


def test_labels_equal_those_of_copying_the_model_for_every_cell(bundled, evaluator):
    network = build_network("fcn", bundled.attrs["sizes"])
    final = tensors(read_epoch(bundled, 100))
    examples = load_test_set("digits28")
    for layer in layer_names(bundled):
        for epoch in (0, 3, 40):
            replacement = tensors(read_layer(bundled, layer, epoch))
            expected = naive.labels(network, final, replacement, examples.inputs)
            found = predicted(evaluator, lx.reinitialise(layer, epoch))
            assert torch.equal(found, expected), (layer, epoch)
            counted = evaluator.result(lx.reinitialise(layer, epoch)).errors
            assert counted == int((expected != examples.labels).sum())


def test_a_network_with_buffers_and_dropout_gives_the_labels_of_the_plain_pass(conv):
    stack, model, (inputs, _) = conv
    evaluator = Evaluator(stack, model=model, data=toy.conv_examples(), device="cpu")
    final = tensors(read_epoch(stack, 2))
    for layer in ("conv", "norm", "head"):
        replacement = tensors(read_layer(stack, layer, 0))
        expected = naive.labels(model, final, replacement, inputs)
        assert torch.equal(predicted(evaluator, lx.reinitialise(layer, 0)), expected), layer


def test_the_toy_network_gives_the_errors_of_a_calculation_by_hand(switch):
    run = Evaluator(switch, model=toy.Switch(), data=toy.one_hot_examples(), device="cpu")
    assert run.result(INTACT).errors == 0
    assert run.result(lx.reinitialise("first", 0)).errors == 8  # everything becomes class 0
    assert run.result(lx.reinitialise("second", 1)).errors == 8  # everything becomes class 1
    assert run.result(lx.reinitialise("first", 1)).errors == 0  # that layer did not change there
    assert run.result(lx.reinitialise(["first", "second"], 0)).agreements == 4


def test_putting_a_layer_to_the_final_epoch_is_the_final_network_exactly(bundled, evaluator):
    final = evaluator.result(INTACT)
    for layer in layer_names(bundled):
        assert evaluator.result(lx.reinitialise(layer, 100)) == final
    assert final.agreement == 1.0


def test_all_layers_jointly_are_the_whole_network_of_that_epoch(bundled, evaluator):
    network = build_network("fcn", bundled.attrs["sizes"])
    network.load_state_dict(tensors(read_epoch(bundled, 3)))
    with torch.no_grad():
        expected = network(load_test_set("digits28").inputs).argmax(1)
    joint = lx.reinitialise(layer_names(bundled), 3)
    assert torch.equal(predicted(evaluator, joint), expected)


def test_layers_can_go_to_different_epochs_at_once(switch):
    run = Evaluator(switch, model=toy.Switch(), data=toy.one_hot_examples(), device="cpu")
    changes = lx.reinitialise("first", 0).changes + lx.reinitialise("second", 1).changes
    assert run.result(Intervention(changes)).errors == 8  # 5 for class 0 beats 2 for class 1


def test_partial_counts_grow_and_the_last_is_exact(bundled):
    estimates = list(Evaluator(bundled, device="cpu").estimates(lx.reinitialise("layer1", 0)))
    assert [e.examples for e in estimates] == [*range(128, 1800, 128), 1800]
    assert [e.exact for e in estimates] == [False] * 14 + [True]
    for estimate in estimates:
        assert 0 <= estimate.error_low <= estimate.error <= estimate.error_high <= 1
        assert estimate.total == 1800


def test_scores_equal_a_count_by_hand_and_one_bad_logit_spoils_its_example():
    nan, inf = math.nan, math.inf
    logits = torch.tensor(
        [[[2.0, 0, 0], [0, 3, 0], [0, nan, 1]], [[0, 1, 0], [-inf, 0, 1], [9, 0, 0]]]
    )
    labels, intact = torch.tensor([0, 1, 2]), torch.tensor([0, 0, 0])
    sums = score(Ranking(logits[:, :2]), labels[:2], intact[:2]).sum(2)
    counted = dict(zip(COUNTED, sums.tolist(), strict=True))
    assert (counted["errors"], counted["agreements"]) == ([0, 2], [1, 0])
    assert counted["nonfinite"] == [0, 1]
    assert (counted["turned_wrong"], counted["turned_right"]) == ([0, 1], [1, 0])
    assert counted["loss_sum"][0] == pytest.approx(
        math.log(1 + 2 / math.e**2) + math.log(1 + 2 / math.e**3)
    )
    scores = score(Ranking(logits), labels, intact)
    assert scores[COUNTED.index("nonfinite")].sum(1).tolist() == [1, 1]
    infinite = score(Ranking(torch.tensor([[[inf, 0, 0], [0, 1, -inf]]])), labels[:2], intact[:2])
    assert infinite[COUNTED.index("nonfinite")].tolist() == [[1, 1]]


def test_the_order_of_examples_is_shuffled_but_fixed(bundled, evaluator):
    labels = load_test_set("digits28").labels
    assert not torch.equal(evaluator._labels, labels)
    assert torch.equal(evaluator._labels, Evaluator(bundled, device="cpu")._labels)
    assert torch.equal(evaluator._labels.sort().values, labels.sort().values)


def test_counts_do_not_depend_on_the_batch_size(bundled, evaluator):
    small = Evaluator(bundled, device="cpu", batch_size=7)
    assert small.result(lx.reinitialise("layer2", 0)).errors == (
        evaluator.result(lx.reinitialise("layer2", 0)).errors
    )


def test_loss_is_the_mean_cross_entropy(switch):
    run = Evaluator(switch, model=toy.Switch(), data=toy.one_hot_examples(), device="cpu")
    expected = -math.log(math.e / (math.e + 2))
    assert run.result(INTACT).loss == pytest.approx(expected, rel=1e-6)


def test_evaluate_streams_like_the_evaluator(bundled, evaluator):
    *_, last = lx.evaluate(bundled, lx.rerandomise("layer1"), device="cpu")
    assert last == evaluator.result(lx.rerandomise("layer1"))
    assert last.exact


@given(st.integers(1, 10_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_interval_holds_the_proportion_and_stays_within_0_and_1(counts):
    errors, examples = counts
    low, high = wilson_interval(errors, examples)
    assert 0 <= low <= errors / examples + 1e-12
    assert errors / examples - 1e-12 <= high <= 1


def test_wilson_interval_equals_a_published_value():
    """Newcombe, Statistics in Medicine 17, 1998, table I: 81 of 263 gives .2553 to .3662."""
    assert wilson_interval(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)


def test_wilson_interval_covers_95_of_100_samples():
    rng = np.random.default_rng(0)
    hits = [low <= 0.3 <= high for low, high in map(wilson_of, rng.binomial(200, 0.3, 2000))]
    assert 0.93 < np.mean(hits) < 0.97


def wilson_of(errors):
    return wilson_interval(int(errors), 200)


# --- nothing changes -------------------------------------------------------------------------


class BrokenForwardError(Exception):
    """A failure in the middle of the forward pass."""


class Failing(toy.ConvNet):
    """Fails when told to; its control flow depends on data, so that it cannot be recorded."""

    failing = False

    def forward(self, x):
        if self.failing and bool(x.isfinite().all()):
            raise BrokenForwardError
        return super().forward(x) if bool(x.isfinite().all()) else x


def outcome_success(run):
    run.result(lx.reinitialise("conv", 0))


def outcome_cancel(run):
    stream = run.estimates(lx.reinitialise("norm", 0))
    next(stream)
    stream.close()


def outcome_exception(run):
    stream = run.estimates(lx.rerandomise("head"))
    next(stream)
    Failing.failing = True
    try:
        with pytest.raises(BrokenForwardError, match=r"^$"):
            next(stream)
    finally:
        Failing.failing = False


@pytest.mark.parametrize(
    ("outcome", "kind"),
    [
        (outcome_success, toy.ConvNet),
        (outcome_success, Failing),
        (outcome_cancel, toy.ConvNet),
        (outcome_exception, Failing),
    ],
)
def test_the_users_model_is_as_before_after(outcome, kind):
    model = kind()
    model.train()
    model.head.bias.requires_grad_(False)
    before = fingerprint(model)
    stack = lx.open_stack(toy.conv_states(), model=model)
    run = Evaluator(stack, model=model, data=toy.conv_examples(77), device="cpu")
    private = fingerprint(run.network._module)
    outcome(run)
    assert fingerprint(model) == before
    assert fingerprint(run.network._module) == private


def test_200_random_starts_and_stops_leave_every_tensor_as_it_was():
    model = toy.ConvNet()
    stack = lx.open_stack(toy.conv_states(), model=model)
    run = Evaluator(stack, model=model, data=toy.conv_examples(300), device="cpu", batch_size=32)
    before, private = fingerprint(model), fingerprint(run.network._module)
    expected = run.result(lx.reinitialise("conv", 0))
    rng = random.Random(0)
    layers, sources = ("conv", "norm", "head"), (Epoch(0), Epoch(1), FreshDraw(0), Noise(0.1))
    for _ in range(200):
        chosen = rng.sample(layers, rng.randint(1, 3))
        stream = run.estimates(Intervention(tuple((n, rng.choice(sources)) for n in chosen)))
        for _ in range(rng.randint(0, 10)):
            next(stream, None)
        stream.close()
    assert fingerprint(model) == before
    assert fingerprint(run.network._module) == private
    run._remembered.clear()
    assert run.result(lx.reinitialise("conv", 0)) == expected


def test_the_fingerprint_sees_a_single_changed_bit():
    model = toy.ConvNet()
    before = fingerprint(model)
    model.norm.running_mean[0] += 1e-6
    assert fingerprint(model) != before


def test_global_settings_of_torch_are_as_before(bundled, monkeypatch):
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.fp32_precision, cudnn.benchmark, cudnn.deterministic
    matmul.fp32_precision, cudnn.benchmark, cudnn.deterministic = "tf32", True, False
    seen = []
    original = Execution.run

    def run(self, *arguments, **options):
        seen.append((matmul.fp32_precision, cudnn.benchmark, cudnn.deterministic))
        return original(self, *arguments, **options)

    monkeypatch.setattr(Execution, "run", run)
    try:
        list(lx.evaluate(bundled, lx.rerandomise("layer1"), device="cpu"))
        assert set(seen) == {("ieee", False, True)}
        assert (matmul.fp32_precision, cudnn.benchmark, cudnn.deterministic) == (
            "tf32",
            True,
            False,
        )
    finally:
        matmul.fp32_precision, cudnn.benchmark, cudnn.deterministic = before
    assert torch.equal(state, torch.get_rng_state())
    assert torch.get_num_threads() == threads
    assert torch.is_grad_enabled()


# --- batch normalisation ---------------------------------------------------------------------


def test_weights_only_leaves_running_statistics_where_they_are(conv):
    stack, model, data = conv
    runs = {
        policy: Evaluator(stack, model=model, data=data, device="cpu", batchnorm=policy)
        for policy in ("with_layer", "weights_only")
    }
    both = lx.reinitialise(["conv", "norm"], 0)
    put = {policy: set(run.network.replacement(both)) for policy, run in runs.items()}
    assert put["weights_only"] == {"conv.weight", "conv.bias", "norm.weight", "norm.bias"}
    assert put["with_layer"] - put["weights_only"] == {
        "norm.running_mean",
        "norm.running_var",
        "norm.num_batches_tracked",
    }


def test_an_unknown_batchnorm_policy_is_refused_with_the_list(bundled):
    with pytest.raises(UsageError, match=r"policy is 'move'(.|\n)*with_layer, weights_only"):
        Evaluator(bundled, batchnorm="move")


@pytest.fixture
def deep():
    """Two normalised convolutions after each other, and calibration inputs."""
    states = []
    for seed in range(2):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            net = toy.DeepConvNet().train()
            net(2 * torch.randn(64, 1, 6, 6))
            states.append({n: t.clone() for n, t in net.state_dict().items()})
    inputs = torch.randn(300, 1, 6, 6, generator=torch.Generator().manual_seed(3))
    return lx.open_stack(states, model=toy.DeepConvNet()), inputs


def recalibrating(deep):
    stack, inputs = deep
    return Evaluator(
        stack,
        model=toy.DeepConvNet(),
        data=toy.conv_examples(),
        device="cpu",
        batchnorm="recalibrate",
        calibration=inputs,
    )


def test_recalibration_takes_statistics_anew_for_the_layer_and_those_after_it(deep):
    run = recalibrating(deep)
    first = run.network.replacement(lx.reinitialise(["conv1"], 0))
    second = run.network.replacement(lx.reinitialise(["conv2"], 0))
    assert {n for n in first if "running" in n} == {
        f"norm{k}.running_{part}" for k in (1, 2) for part in ("mean", "var")
    }
    assert {n for n in second if "running" in n} == {"norm2.running_mean", "norm2.running_var"}


def test_recalibrated_statistics_are_those_of_the_changed_networks_own_values(deep):
    run = recalibrating(deep)
    found = run.network.replacement(lx.reinitialise(["conv1"], 0))
    with torch.no_grad():
        values = functional.conv2d(deep[1], found["conv1.weight"], found["conv1.bias"], padding=1)
    batches = values.split(128)
    mean = torch.stack([b.mean((0, 2, 3)) for b in batches]).mean(0)
    variance = torch.stack([b.var((0, 2, 3)) for b in batches]).mean(0)
    torch.testing.assert_close(found["norm1.running_mean"], mean)
    torch.testing.assert_close(found["norm1.running_var"], variance)


def test_recalibration_keeps_the_final_network_and_every_tensor_as_they_are(deep):
    run, plain = (
        recalibrating(deep),
        Evaluator(deep[0], model=toy.DeepConvNet(), data=toy.conv_examples(), device="cpu"),
    )
    private = fingerprint(run.network._module)
    assert run.network.replacement(lx.reinitialise(["conv1", "norm1"], 1)) == {}
    assert run.result(lx.reinitialise("conv1", 1)) == plain.result(INTACT)
    assert run.result(lx.reinitialise("conv1", 0)) != plain.result(lx.reinitialise("conv1", 0))
    assert fingerprint(run.network._module) == private


def test_recalibration_without_training_examples_says_what_to_pass(conv):
    stack, model, data = conv
    with pytest.raises(DataError, match=r"names no dataset(.|\n)*Pass calibration="):
        Evaluator(stack, model=model, data=data, batchnorm="recalibrate")


@pytest.mark.parametrize(
    ("calibration", "match"),
    [
        ("digits", r"calibration is a str, 'digits'(.|\n)*Leave it out"),
        (
            (torch.zeros(4, 1, 6, 6), torch.zeros(4)),
            r"a tuple of inputs and labels(.|\n)*inputs alone",
        ),
        (toy.conv_examples(), r"calibration is a (tuple|LabelledExamples) of inputs and labels"),
        (5, r"calibration examples have shape \(\)(.|\n)*at least one training input"),
        (torch.zeros(0, 1, 6, 6), r"calibration examples have shape \(0, 1, 6, 6\)"),
        ({"x": 1}, r"calibration examples are a dict that makes no tensor"),
        (TensorDataset(torch.zeros(4)), r"calibration examples are a TensorDataset"),
        (torch.zeros(4, 1, 6, 6).to_sparse(), r"calibration examples are .* layout sparse_coo"),
        (torch.zeros(4, 1, 6, 6, device="meta"), r"calibration examples are on the meta device"),
    ],
)
def test_what_are_no_calibration_inputs_is_refused_with_what_to_pass(deep, calibration, match):
    with pytest.raises(DataError, match=match):
        recalibrating((deep[0], calibration))


class Reader(nn.Module):
    """Normalised embeddings of two tokens, added up."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(5, 4)
        self.norm = nn.BatchNorm1d(4)
        self.head = nn.Linear(4, 3)

    def forward(self, tokens):
        return self.head(self.norm(self.embed(tokens).sum(1)))


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_a_network_of_tokens_is_recalibrated_on_tokens(dtype):
    torch.manual_seed(0)
    stack = lx.open_stack([Reader().state_dict() for _ in range(2)], model=Reader())
    tokens = torch.arange(40).reshape(20, 2) % 5
    run = Evaluator(
        stack,
        model=Reader(),
        data=(tokens, torch.arange(20) % 3),
        device="cpu",
        batchnorm="recalibrate",
        calibration=tokens.to(dtype),
    )
    changed = run.network.replacement(lx.reinitialise("embed", 0))
    expected = changed["embed.weight"][tokens].sum(1).mean(0)
    torch.testing.assert_close(changed["norm.running_mean"], expected)


@pytest.mark.parametrize("kind", [torch.clone, lambda t: t.clone().numpy()])
def test_the_readers_own_calibration_inputs_are_never_written_to(deep, kind):
    class Writes(toy.DeepConvNet):
        def forward(self, x):
            return super().forward(x.mul_(2))

    inputs = kind(deep[1])
    before = torch.as_tensor(inputs).clone()
    data = toy.conv_examples()
    Evaluator(
        deep[0],
        model=Writes(),
        data=data,
        device="cpu",
        batchnorm="recalibrate",
        calibration=inputs,
    )
    assert torch.equal(torch.as_tensor(inputs), before)


# --- remembering, memory, tied tensors -------------------------------------------------------


def test_what_has_been_counted_to_the_end_is_remembered_and_comes_at_once(bundled, monkeypatch):
    run = Evaluator(bundled, device="cpu")
    stream = run.estimates(lx.reinitialise("layer2", 0))
    next(stream)
    stream.close()
    *_, last = run.estimates(lx.reinitialise("layer2", 0))
    monkeypatch.setattr(run, "_counting", None)  # nothing can be counted any more
    assert list(run.estimates(lx.reinitialise("layer2", 0))) == [last]
    with pytest.raises(AttributeError, match="count"):
        list(run.estimates(lx.reinitialise("layer3", 0)))


def test_a_store_answers_in_the_next_session(bundled, tmp_path, monkeypatch):
    store = tmp_path / "cells"
    *_, last = lx.evaluate(bundled, lx.reinitialise("layer2", 0), device="cpu", store=store)
    monkeypatch.setattr(Evaluator, "count", None)
    again = lx.evaluate(bundled, lx.reinitialise("layer2", 0), device="cpu", store=store)
    assert list(again) == [last]
    with pytest.raises(UsageError, match="holds cells whose batchnorm is 'with_layer'"):
        lx.evaluate(bundled, lx.reinitialise("layer2", 0), batchnorm="weights_only", store=store)


def test_where_memory_runs_out_the_slices_are_halved_and_the_counts_are_right(
    bundled, evaluator, monkeypatch, caplog
):
    """Running out is acted out: a slice of more than 20 examples is refused."""
    original = Execution.run

    def run(self, inputs, *rest, **options):
        if len(inputs) > 20:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: 1 bytes")
        yield from original(self, inputs, *rest, **options)

    monkeypatch.setattr(Execution, "run", run)
    small = Evaluator(bundled, device="cpu")
    found = small.result(lx.reinitialise("layer2", 0))
    assert small.batch_size == 16
    assert found.errors == evaluator.result(lx.reinitialise("layer2", 0)).errors
    assert small.result(lx.reinitialise("layer3", 0)).exact


def test_other_errors_are_not_taken_for_a_lack_of_memory(bundled, monkeypatch):
    def run(self, *_, **__):
        raise RuntimeError("something else")

    evaluator = Evaluator(bundled, device="cpu")
    monkeypatch.setattr(Execution, "run", run)
    with pytest.raises(RuntimeError, match="something else"):
        evaluator.result(INTACT)


@pytest.mark.parametrize(("memory", "expected"), [(None, 128), (500_000, 32), (1, 1)])
def test_a_smaller_memory_budget_makes_smaller_slices(bundled, memory, expected):
    run = Evaluator(bundled, device="cpu", memory=memory)
    assert run.batch_size == expected
    assert run.result(INTACT).errors == 53


def test_a_memory_budget_of_nothing_is_refused(bundled):
    with pytest.raises(UsageError, match="memory is 0"):
        Evaluator(bundled, device="cpu", memory=0)


def test_a_layer_that_never_changed_costs_nothing():
    states = toy.switch_states()
    for state in states:
        state["first.bias"] = torch.zeros(3)
    stack = lx.open_stack(states, model=toy.Switch())
    run = Evaluator(stack, model=toy.Switch(), data=toy.one_hot_examples(), device="cpu")
    assert run.network.replacement(lx.reinitialise("first", 0)) == {}
    assert run.plan(lx.reinitialise("first", 0)).flops == 0
    assert run.result(lx.reinitialise("first", 0)) == run.result(INTACT)
    assert (
        run.network.replacement(lx.reinitialise(["first", "second"], 1)).keys() == states[0].keys()
    )


def test_paired_counts_add_up_to_the_change_of_the_error(evaluator):
    intact = evaluator.result(INTACT)
    changed = evaluator.result(lx.reinitialise("layer1", 0))
    assert (intact.turned_wrong, intact.turned_right) == (0, 0)
    assert changed.turned_right > 0
    assert changed.errors - intact.errors == changed.turned_wrong - changed.turned_right


# --- bad input -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("intervention", "match"),
    [
        (lx.reinitialise("layer9", 0), r"no layer 'layer9'(.|\n)*layer1, layer2, layer3, layer4"),
        (lx.reinitialise("layer1", 5), r"no epoch 5(.|\n)*0, 1, 2, 3, 8, 40, 90, 100"),
    ],
)
def test_an_unknown_layer_or_epoch_is_refused_before_the_first_estimate(
    bundled, intervention, match
):
    with pytest.raises(UnknownNameError, match=match):
        lx.evaluate(bundled, intervention)


def test_an_altered_checkpoint_is_refused_and_the_next_evaluation_works(copied):
    stack = lx.open_stack(copied)
    run = Evaluator(stack, device="cpu")
    damage(copied / "epoch-0001.safetensors")
    with pytest.raises(CheckpointError, match="has been altered"):
        run.estimates(lx.reinitialise("layer1", 1))
    assert run.result(lx.reinitialise("layer1", 2)).exact


def test_infinite_logits_are_a_failure_and_not_an_error_rate():
    states = toy.switch_states()
    states[0]["first.bias"][0] = 3e38  # finite, but not twice as much
    states[0]["second.weight"][0, 0] = 2
    stack = lx.open_stack(states)
    run = Evaluator(stack, model=toy.Switch(), data=toy.one_hot_examples(), device="cpu")
    estimate = run.result(lx.reinitialise(["first", "second"], 0))
    assert estimate.failure == "NaN or infinite logits for 12 of 12 examples"
    assert run.result(INTACT).failure == ""


def test_a_stack_without_a_model_is_refused(switch):
    with pytest.raises(StackError, match=r"does not say which network(.|\n)*Pass model="):
        Evaluator(switch, data=toy.one_hot_examples())


def test_a_stack_without_a_dataset_is_refused(switch):
    with pytest.raises(DataError, match=r"does not name a dataset(.|\n)*Pass data="):
        Evaluator(switch, model=toy.Switch())


def test_a_model_of_other_tensors_is_refused(switch):
    with pytest.raises(StackError, match="do not fit the model"):
        Evaluator(switch, model=toy.ConvNet(), data=toy.one_hot_examples())


def test_labels_beyond_the_networks_outputs_are_refused(switch):
    inputs, labels = toy.one_hot_examples()
    run = Evaluator(switch, model=toy.Switch(), data=(inputs, labels + 1), device="cpu")
    with pytest.raises(DataError, match=r"label 3(.|\n)*3 outputs: labels 0 to 2"):
        run.result(INTACT)


class Two(toy.Switch):
    def forward(self, x):
        return super().forward(x), x


def test_a_network_that_gives_no_logits_is_refused(switch):
    run = Evaluator(switch, model=Two(), data=toy.one_hot_examples(), device="cpu")
    with pytest.raises(InterventionError, match=r"output is tuple(.|\n)*\(example, class\)"):
        run.result(INTACT)


@pytest.mark.parametrize(
    ("inputs", "match"),
    [
        (torch.zeros(12, 4), r"shape \(4,\), float32: (.|\n)*shape and kind"),
        (torch.zeros(12, 3, dtype=torch.uint8), r"shape \(3,\), uint8: (.|\n)*images as floats"),
        (torch.zeros(12, 3, dtype=torch.complex64), r"complex64: (.|\n)*shape and kind"),
    ],
)
def test_examples_that_the_network_does_not_run_on_are_refused(switch, inputs, match):
    data = inputs, torch.arange(12) % 3
    with pytest.raises(DataError, match=match):
        Evaluator(switch, model=toy.Switch(), data=data, device="cpu")


def test_a_network_that_lacks_memory_for_a_trial_is_not_taken_for_one_that_does_not_fit():
    class Large(nn.Module):
        def forward(self, inputs):
            raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError, match="CUDA out of memory"):
        Forward(Large(), {}).learn(torch.zeros(2, 3))


def test_a_device_that_is_not_there_is_refused(bundled):
    with pytest.raises(UsageError, match=r"device 'cuda:77' cannot be used"):
        Evaluator(bundled, device="cuda:77")


def test_a_batch_of_nothing_is_refused(bundled):
    with pytest.raises(UsageError, match="batch_size is 0"):
        Evaluator(bundled, batch_size=0)


def test_examples_prepared_once_are_used_as_they_are(bundled):
    examples = as_examples("digits28")
    assert Evaluator(bundled, data=examples, device="cpu").dataset_hash == examples.content_hash


def test_tied_weights_are_replaced_together():
    class Tied(toy.Switch):
        def __init__(self):
            super().__init__()
            self.second.weight = self.first.weight

    model = Tied()
    stack = lx.open_stack(toy.switch_states(), model=model)
    run = Evaluator(stack, model=model, data=toy.one_hot_examples(), device="cpu")
    assert run.result(lx.reinitialise(["first", "second"], 1)).exact
    assert isinstance(model.second, nn.Linear)
    assert run.tied == "first.weight = second.weight"
    assert provenance_of(run)["tied"] == run.tied


@given(st.integers(2, 70), st.integers(0, 2**32 - 1), st.booleans())
def test_a_ranking_is_that_of_a_sort_and_the_first_of_equals_is_the_label(classes, seed, coarse):
    logits = torch.randn(5, classes, generator=torch.Generator().manual_seed(seed))
    logits = logits.round() if coarse else logits
    ranking = Ranking(logits)
    in_order = logits.sort(1, descending=True).values
    assert torch.equal(ranking.largest, in_order[:, 0])
    assert torch.equal(ranking.second, in_order[:, 1])
    assert torch.equal(ranking.smallest, in_order[:, -1])
    assert torch.equal(ranking.label, logits.argmax(1))
    numbers = logits.tolist()
    assert ranking.label.tolist() == [row.index(max(row)) for row in numbers]


def test_a_nan_among_the_logits_is_the_largest_and_the_smallest():
    ranking = Ranking(torch.tensor([[0.0, math.nan, 1.0]]))
    assert ranking.largest.isnan().all()
    assert ranking.smallest.isnan().all()
    assert ranking.label.tolist() == [1]


def test_a_module_that_insists_on_the_version_of_its_format_is_loaded():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = torchvision.models.mnasnet0_5(num_classes=3)
    states = [copy.deepcopy(model.state_dict()) for _ in range(2)]
    stack = lx.open_stack(states, model=model)
    data = torch.randn(4, 3, 32, 32), torch.arange(4) % 3
    assert Evaluator(stack, model=model, data=data, device="cpu").result(INTACT).exact
