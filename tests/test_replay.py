"""Partial re-execution: the labels of the plain pass, with only the dependents computed."""

from __future__ import annotations

import contextlib
import logging
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
import torchvision
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.func import functional_call
from torch.nn import functional

import explorer as lx
from explorer.engine import winograd
from explorer.engine.evaluator import Evaluator
from explorer.engine.execution import Execution
from explorer.engine.passes import INTACT
from explorer.engine.recording import RECORDING_ERRORS, record
from explorer.engine.replay import Replay
from tests import toy

CHANNELS = 4


class Block(nn.Module):
    """One random piece of a network, (example, 4, 6, 6) → the same shape."""

    def __init__(self, kind):
        super().__init__()
        self.kind = kind
        self.conv = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1)
        self.norm = nn.BatchNorm2d(CHANNELS)
        self.join = nn.Conv2d(2 * CHANNELS, CHANNELS, 1)
        self.attention = nn.MultiheadAttention(CHANNELS, 2, batch_first=True)

    def forward(self, x):
        if self.kind == "residual":
            return x + functional.relu(self.norm(self.conv(x)), inplace=True)
        if self.kind == "concatenate":
            return self.join(torch.cat([x, torch.tanh(self.conv(x))], 1))
        if self.kind == "attention":
            tokens = x.flatten(2).transpose(1, 2)  # (example, 36, 4)
            mixed, _ = self.attention(tokens, tokens, tokens)
            return x + mixed.transpose(1, 2).reshape(x.shape)
        if self.kind == "inplace":
            y = self.conv(x)
            y[:, 0] += 1.0
            y.mul_(0.5)
            return y
        return functional.dropout(self.conv(x), training=self.training)


class RandomNet(nn.Module):
    """A chain of blocks, the first of them possibly used twice, with one or two heads."""

    def __init__(self, kinds, shared, branches):
        super().__init__()
        self.blocks = nn.ModuleList([Block(kind) for kind in kinds])
        self.shared, self.branches = shared, branches
        self.heads = nn.ModuleList([nn.Linear(CHANNELS, 3) for _ in range(branches)])

    def forward(self, x):
        start = x = x.expand(-1, CHANNELS, -1, -1)
        for block in self.blocks:
            x = block(x)
        if self.shared:
            x = self.blocks[0](x) + start
        pooled = x.mean((2, 3))
        return sum(head(pooled * (k + 1)) for k, head in enumerate(self.heads))


def state_of(module):
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    return {name: tensor.detach() for name, tensor in tensors.items()}


def assert_close(found, expected):
    """Within a ten-thousandth of the largest logit: rounding of another order of sums."""
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4 * float(expected.abs().max()))


@contextlib.contextmanager
def small_ones_in_tiles(wanted=True):
    """Convolutions of few channels, too, are run tile by tile."""
    with pytest.MonkeyPatch.context() as patch:
        if wanted:
            patch.setattr(winograd, "LEAST_CHANNELS", 1)
            patch.setattr(winograd, "LEAST_TILES", {True: 1, False: 1})
        yield


def perturbed(state, names, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return {
        n: state[n] + torch.rand(state[n].shape, generator=generator).to(state[n].dtype)
        for n in names
    }


@torch.no_grad()
def assert_replays_equal_plain_passes(module, inputs):
    """Every module's tensors alone, and all together, against functional_call."""
    state = state_of(module.eval())
    replay = Replay(record(module, state, inputs), state)
    modules = {name.rpartition(".")[0] for name in state}
    groups = [[n for n in state if n.rpartition(".")[0] == m] for m in sorted(modules)]
    replacements = [perturbed(state, names) for names in [*groups, list(state)]]
    prepared = [replay.prepare(replacement) for replacement in replacements]
    found = dict(replay.run(inputs, prepared, intact=True))
    for position, replacement in [*enumerate(replacements), (INTACT, {})]:
        expected = functional_call(module, replacement, (inputs,))
        assert torch.equal(found[position].argmax(1), expected.argmax(1))
        assert_close(found[position], expected)
    return replay, groups


KINDS = st.sampled_from(["residual", "concatenate", "attention", "inplace", "dropout"])


@pytest.mark.parametrize("tiles", [False, True])
@settings(max_examples=25, suppress_health_check=list(HealthCheck))
@given(
    st.lists(KINDS, min_size=1, max_size=4), st.booleans(), st.integers(1, 2), st.integers(0, 99)
)
def test_any_network_replays_to_the_logits_of_the_plain_pass(tiles, kinds, shared, branches, seed):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = RandomNet(kinds, shared, branches)
        inputs = torch.randn(5, 1, 6, 6)
    with small_ones_in_tiles(tiles):
        assert_replays_equal_plain_passes(module, inputs)


def test_the_network_and_its_inputs_are_not_written_to():
    module, inputs = RandomNet(["inplace", "residual"], True, 1).eval(), torch.randn(5, 1, 6, 6)
    before = {n: t.clone() for n, t in state_of(module).items()}
    kept = inputs.clone()
    assert_replays_equal_plain_passes(module, inputs)
    assert torch.equal(inputs, kept)
    assert all(torch.equal(before[n], t) for n, t in state_of(module).items())


def test_a_plan_runs_what_depends_on_the_layer_and_nothing_else():
    module = nn.Sequential(
        nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4), nn.ReLU(), nn.Linear(4, 3)
    )
    replay, _ = assert_replays_equal_plain_passes(module, torch.randn(10, 8))
    flops = [2 * 10 * 8 * 16, 2 * 10 * 16 * 4, 2 * 10 * 4 * 3]
    for k, layer in enumerate(("0", "2", "4")):
        plan = replay.plan([f"{layer}.weight", f"{layer}.bias"])
        assert plan.flops == sum(flops[k:])
        assert plan.total_flops == sum(flops)
        assert len(plan.needs) == 1
    text = str(replay.plan(["4.weight"]))
    assert "runs again: 1 of" in text
    assert "240 of 4,080 FLOPs per batch (6%)" in text


def test_operations_before_the_layer_run_once_for_all_interventions(monkeypatch):
    module = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    state, inputs = state_of(module), torch.randn(4, 8)
    replay = Replay(record(module, state, inputs), state)
    prepared = [replay.prepare(perturbed(state, ["2.weight"], seed)) for seed in range(6)]
    ran = []
    original = type(replay.program.operations[0]).run
    monkeypatch.setattr(
        "explorer.engine.program.Operation.run",
        lambda self, values: ran.append(self.name) or original(self, values),
    )
    assert len(dict(replay.run(inputs, prepared, intact=True))) == 7
    assert ran.count("aten.relu") == 1
    assert ran.count("aten.addmm") == 1 + 1 + 6  # two of the intact pass, one an intervention


def test_values_are_let_go_when_nobody_will_read_them():
    """Peak of live values along a deep chain stays the same whatever its depth."""

    def peak(depth):
        layers = [nn.Linear(8, 8) for _ in range(depth)]
        module = nn.Sequential(*layers, nn.Linear(8, 3)).eval()
        state = state_of(module)
        replay = Replay(record(module, state, torch.randn(4, 8)), state)
        prepared = [replay.prepare(perturbed(state, [f"{k}.weight"])) for k in range(depth)]
        walk = replay._walks[False].find([p.plan for p in prepared], True, ())
        live, most = 0, 0
        for step in range(len(walk.operations) + 1):
            live += step > 0
            most = max(most, live)
            live -= len(walk.release[step])
        return most

    assert peak(4) == peak(12) <= 3


TORCHVISION = {
    "resnet18": 64,
    "vgg11_bn": 64,
    "densenet121": 64,
    "mobilenet_v3_small": 64,
    "googlenet": 64,
    "swin_t": 64,
}


@pytest.mark.parametrize("name", TORCHVISION)
def test_torchvisions_networks_replay_to_the_plain_logits(name):
    options = {"init_weights": False} if name == "googlenet" else {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = getattr(torchvision.models, name)(weights=None, num_classes=10, **options)
        inputs = torch.randn(2, 3, TORCHVISION[name], TORCHVISION[name])
    check_some_layers(module, inputs)


def test_a_vision_transformer_replays_to_the_plain_labels():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = torchvision.models.VisionTransformer(32, 8, 2, 2, 32, 64, num_classes=10)
        nn.init.normal_(module.heads.head.weight)
        inputs = torch.randn(3, 3, 32, 32)
    assert_replays_equal_plain_passes(module, inputs)


@torch.no_grad()
def check_some_layers(module, inputs):
    """First, middle and last module that own parameters."""
    state = state_of(module.eval())
    replay = Replay(record(module, state, inputs), state)
    modules = list(dict.fromkeys(n.rpartition(".")[0] for n, _ in module.named_parameters()))
    for owner in (modules[0], modules[len(modules) // 2], modules[-1]):
        names = [n for n in state if n.rpartition(".")[0] == owner]
        replacement = perturbed(state, names)
        ((_, found),) = replay.run(inputs, [replay.prepare(replacement)], intact=False)
        expected = functional_call(module, replacement, (inputs,))
        assert_close(found, expected)
        assert torch.equal(found.argmax(1), expected.argmax(1))


def warnings_of(caplog):
    return [r for r in caplog.records if r.name.startswith("explorer")]


class Branching(toy.Switch):
    """Control flow that depends on data."""

    def forward(self, x):
        y = self.first(x)
        return self.second(y if bool((y.sum() > 0).item()) else -y)


class Hidden(toy.Switch):
    """Reads a parameter behind the recorder's back."""

    def forward(self, x):
        return self.second(x + float(self.first.bias.detach().clone().data.tolist()[0]))


@pytest.mark.parametrize("kind", [Branching, Hidden])
def test_what_cannot_be_recorded_is_cut_at_submodules_says_so_once_and_is_right(kind, caplog):
    model = kind()
    stack = lx.open_stack(toy.switch_states(), model=model)
    with caplog.at_level(logging.WARNING, logger="explorer"):
        run = Evaluator(stack, model=model, data=toy.one_hot_examples(), device="cpu")
        counted = [run.result(lx.reinitialise("second", e)).errors for e in (0, 1, 2)]
    assert counted == [0, 8, 0]
    assert "unchanged submodules only: it could not be recorded" in run.execution
    assert len(warnings_of(caplog)) == 1
    assert run.plan(lx.reinitialise("second", 0)) is None


class Changing(toy.Switch):
    """Another network while it is recorded."""

    def forward(self, x):
        return self.second(self.first(x)) * (2.0 if torch._is_functional_tensor(x) else 1.0)


def test_a_recording_that_gives_other_logits_is_given_up(caplog):
    model = Changing()
    stack = lx.open_stack(toy.switch_states(), model=model)
    with caplog.at_level(logging.WARNING, logger="explorer"):
        run = Evaluator(stack, model=model, data=toy.one_hot_examples(), device="cpu")
        assert run.result(lx.reinitialise("first", 0)).errors == 8
    assert "its recorded pass gave other logits than the plain one" in run.execution
    assert len(warnings_of(caplog)) == 1


def test_a_comparison_that_fails_leaves_nothing_behind(bundled, monkeypatch):
    """Slices are larger afterwards than those whose logits were computed."""
    monkeypatch.setattr("explorer.engine.execution.best_batch", lambda *_: 16)
    expected = Evaluator(bundled, device="cpu").result(lx.reinitialise("layer2", 0))
    original = Execution._differs

    def fails(self, replay, inputs, replacement):
        found = original(self, replay, inputs, replacement)
        if replacement:
            raise RECORDING_ERRORS[0]("some operator has no such kernel")
        return found

    monkeypatch.setattr(Execution, "_differs", fails)
    run = Evaluator(bundled, device="cpu")
    assert "could not be recorded" in run.execution
    found = run.result(lx.reinitialise("layer2", 0))
    assert (found.errors, found.turned_wrong) == (expected.errors, expected.turned_wrong)


def test_labels_that_rounding_could_decide_are_taken_from_the_plain_pass(bundled, monkeypatch):
    """A replay that is off by up to 0.3 still gives the right labels, once that is allowed for."""
    run = Evaluator(bundled, device="cpu")
    intervention = lx.reinitialise("layer2", 0)
    right = run.result(intervention)
    original = Replay._rerun
    generator = torch.Generator().manual_seed(0)

    def rough(*arguments):
        logits = original(*arguments)
        return logits + 0.6 * torch.rand(logits.shape, generator=generator) - 0.3

    monkeypatch.setattr(Replay, "_rerun", rough)
    run._remembered.clear()
    assert run.result(intervention).agreements != right.agreements
    monkeypatch.setattr(run._counting.execution, "_difference", 0.01)
    run._remembered.clear()
    again = run.result(intervention)
    assert (again.errors, again.agreements) == (right.errors, right.agreements)


def test_networks_can_be_recorded_in_several_threads_at_once(bundled):
    """The explorer records in the background while a cell of the notebook sweeps."""
    with ThreadPoolExecutor(4) as pool:
        runs = list(pool.map(lambda _: Evaluator(bundled, device="cpu"), range(8)))
    assert {run.execution for run in runs} == {"reuses what an intervention does not change"}
