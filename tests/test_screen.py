"""Lower precision as a screen: float32's labels, and doubt where there is reason to."""

from __future__ import annotations

import logging
import math

import pytest
import torch
from torch import nn

import explorer as lx
from explorer.engine import counting
from explorer.engine import screen as screen_module
from explorer.engine.estimate import Ranking
from explorer.engine.evaluator import Evaluator
from explorer.engine.execution import Execution
from explorer.engine.forward import difference
from explorer.engine.interventions import Intervention, Noise
from explorer.engine.memory import best_batch
from explorer.engine.network import FinalNetwork
from explorer.engine.recording import record
from explorer.engine.replay import Replay
from explorer.engine.screen import (
    Watch,
    decision_in,
    in_batches,
    largest_error,
    low_precision,
    margins,
)
from explorer.errors import InterventionError
from explorer.weights.stack import layer_names
from tests import toy

INTACT = Intervention(())
needs_bfloat16 = pytest.mark.skipif(
    low_precision(torch.device("cpu")) is None, reason="needs a processor that multiplies bfloat16"
)


@pytest.fixture(scope="module")
def interventions(bundled):
    layers = layer_names(bundled)
    single = [lx.reinitialise(layer, e) for layer in layers for e in (0, 2, 40)]
    fresh = [lx.rerandomise(layer, 0) for layer in layers]
    noisy = Intervention((("layer2", Noise(0.02)), ("layer3", Noise(0.02))))
    return [*single, *fresh, noisy, lx.reinitialise(layers, 1), INTACT]


def test_logits_differ_by_a_share_of_the_largest():
    expected = torch.tensor([[4.0, -8.0]])
    assert difference(expected.clone(), expected) == 0
    assert difference(torch.tensor([[2.0, -8.0]]), expected) == 0.25
    assert difference(torch.tensor([[math.nan, -8.0]]), expected) == math.inf


def counts(estimate):
    return estimate.errors, estimate.agreements, estimate.turned_wrong, estimate.nonfinite


def counted(run, interventions):
    replacements = [run.network.replacement(i) for i in interventions]
    *_, last = run.count(replacements)
    return last


def lowered(monkeypatch, dtype):
    """Have the processor screen in this precision, fast or not."""
    monkeypatch.setattr("explorer.engine.execution.low_precision", lambda _device: dtype)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_screen_gives_the_counts_of_float32(bundled, interventions, monkeypatch, dtype):
    lowered(monkeypatch, dtype)
    exact = counted(Evaluator(bundled, device="cpu"), interventions)
    run = Evaluator(bundled, device="cpu", screen=True)
    assert f"{str(dtype)[6:]} first, float32 where a margin is thin" in run.execution
    for intervention, found, expected in zip(
        interventions, counted(run, interventions), exact, strict=True
    ):
        assert counts(found) == counts(expected), str(intervention)
        assert found.loss == pytest.approx(expected.loss, rel=0.02)


def test_without_its_checks_the_screen_gives_other_labels(bundled, interventions, monkeypatch):
    """The test above can fail: bfloat16 alone does get labels wrong here."""
    lowered(monkeypatch, torch.bfloat16)
    exact = counted(Evaluator(bundled, device="cpu"), interventions)
    monkeypatch.setattr(screen_module, "SAFETY", 0.0)
    run = Evaluator(bundled, device="cpu", screen=True)
    found = counted(run, interventions)
    assert any(counts(a) != counts(b) for a, b in zip(found, exact, strict=True))


@pytest.fixture
def checked(monkeypatch):
    """What float32 decides: per walk how many examples under how many interventions."""
    found = []
    original = Execution.exact
    monkeypatch.setattr(
        Execution,
        "exact",
        lambda self, inputs, checks: (
            found.append((len(inputs), len(checks))) or original(self, inputs, checks)
        ),
    )
    return found


def test_most_examples_are_settled_in_lower_precision(bundled, interventions, checked, monkeypatch):
    lowered(monkeypatch, torch.bfloat16)
    run = Evaluator(bundled, device="cpu", screen=True)
    counted(run, interventions)
    decided = sum(examples * checks for examples, checks in checked)
    assert 0 < decided < 0.2 * len(interventions) * run.total


def overflowing():
    """Logits that are too large for float16 where the inputs are."""
    states = toy.switch_states()
    for state in states:
        state["first.weight"] *= 3000.0
    return lx.open_stack(states, model=toy.Switch())


def test_what_overflows_in_lower_precision_is_counted_in_float32(monkeypatch):
    lowered(monkeypatch, torch.float16)
    inputs, labels = (
        tensor.repeat(10, *[1] * (tensor.ndim - 1)) for tensor in toy.one_hot_examples()
    )
    inputs[::15] *= 100.0
    stack, model = overflowing(), toy.Switch()
    runs = [
        Evaluator(stack, model=model, data=(inputs, labels), device="cpu", screen=screen)
        for screen in (False, True)
    ]
    prepared = []
    original = Execution.prepare
    monkeypatch.setattr(
        Execution,
        "prepare",
        lambda self, r, *, low=False: prepared.append(low) or original(self, r, low=low),
    )
    checked = []
    exact = Execution.exact
    monkeypatch.setattr(
        Execution, "exact", lambda self, x, *rest: checked.append(x) or exact(self, x, *rest)
    )
    plain, screened = (run.result(lx.reinitialise("first", 0)) for run in runs)
    assert checked[0].abs().max() < 100  # nothing is learnt from what overflows
    assert prepared == [False, True]  # not counted again in float32 as a whole
    assert counts(screened) == counts(plain)
    assert screened.nonfinite == 0
    assert screened.loss == pytest.approx(plain.loss, abs=1e-3)


def test_nan_weights_are_a_failure_also_with_a_screen(monkeypatch):
    lowered(monkeypatch, torch.bfloat16)
    states = toy.switch_states()
    states[0]["first.bias"][0] = float("nan")
    stack = lx.open_stack(states)
    run = Evaluator(
        stack, model=toy.Switch(), data=toy.one_hot_examples(), device="cpu", screen=True
    )
    with pytest.raises(InterventionError, match=r"NaN or infinite weights: 1 of first\.bias"):
        run.result(lx.reinitialise("first", 0))
    assert run.result(lx.reinitialise("second", 1)).failure == ""


def test_an_intervention_with_thin_margins_only_is_counted_in_float32(bundled, monkeypatch):
    """Zero weights in the last layer: all examples have the same logits, nothing is sure."""
    lowered(monkeypatch, torch.bfloat16)
    run = Evaluator(bundled, device="cpu", screen=True)
    passes = []
    original = Replay._rerun
    monkeypatch.setattr(
        Replay, "_rerun", lambda self, p, *a: passes.append(p.low) or original(self, p, *a)
    )
    flat = {name: torch.zeros(s) for name, s in (("layer4.weight", (10, 256)), ("layer4.bias", 10))}
    *_, (last,) = run.count([flat])
    assert last.examples == 1800
    assert passes.count(True) == 1


def test_an_error_that_grows_beyond_what_was_remembered_means_counting_again(
    bundled, interventions, monkeypatch
):
    lowered(monkeypatch, torch.bfloat16)
    exact = counted(Evaluator(bundled, device="cpu"), interventions)
    monkeypatch.setattr(Watch, "failed", property(lambda self: True))
    run = Evaluator(bundled, device="cpu", screen=True)
    found = counted(run, interventions)
    assert [counts(e) for e in found] == [counts(e) for e in exact]
    assert [e.loss for e in found] == pytest.approx([e.loss for e in exact], rel=1e-6)


def test_tolerance_and_screen_together_stop_early_with_the_labels_of_float32(
    bundled, interventions, monkeypatch
):
    lowered(monkeypatch, torch.bfloat16)
    runs = [Evaluator(bundled, device="cpu", screen=screen) for screen in (False, True)]
    lasts = []
    for run in runs:
        replacements = [run.network.replacement(i) for i in interventions]
        *_, last = run.count(replacements, tolerance=0.03)
        lasts.append(last)
    for plain, screened in zip(*lasts, strict=True):
        assert screened.examples == plain.examples < 1800
        assert counts(screened) == counts(plain)


def test_a_processor_without_a_faster_precision_says_so_and_counts_in_float32(
    bundled, monkeypatch, caplog
):
    lowered(monkeypatch, None)
    with caplog.at_level(logging.WARNING, logger="explorer"):
        run = Evaluator(bundled, device="cpu", screen=True)
    assert "does not screen in lower precision: this device has no faster" in caplog.text
    assert run.screen == "none"
    assert run.result(INTACT).errors == 53

    def forward(self, x):
        return super().forward(x) + torch.special.i0e(self.first.bias)


class Inverting(toy.Switch):
    """Needs an operation that has no lower precision."""

    def forward(self, x):
        y = super().forward(x)
        return y + 0 * torch.linalg.inv(y.diag_embed() * 0 + torch.eye(toy.CLASSES)).sum(2)


def test_a_network_that_does_not_run_in_lower_precision_is_counted_in_float32(monkeypatch, caplog):
    lowered(monkeypatch, torch.bfloat16)
    model = Inverting()
    stack = lx.open_stack(toy.switch_states(), model=model)
    with caplog.at_level(logging.WARNING, logger="explorer"):
        run = Evaluator(stack, model=model, data=toy.one_hot_examples(), device="cpu", screen=True)
    assert "the network does not run in it" in caplog.text
    assert run.result(lx.reinitialise("first", 0)).errors == 8


@needs_bfloat16
def test_a_sweep_says_whether_it_was_screened(bundled):
    result = lx.sweep(
        bundled, layers=["layer4"], draws=1, screen=True, progress=False, device="cpu"
    )
    assert result.attrs["screen"] == "bfloat16"
    assert "float32 where a margin is thin" in result.attrs["execution"]


def test_margins_are_shares_of_the_spread_of_the_logits():
    inf, nan = math.inf, math.nan
    rows = [[3.0, 1, -1], [5, 5, 5], [1, nan, 0], [1, inf, 0], [1, -inf, 0], [-3.0, 1, 1.5]]
    found = margins(Ranking(torch.tensor(rows)))
    # 2 apart, at most 2 from the mean; 0.5 apart, the smallest farthest from it
    assert found.tolist() == pytest.approx([1.0, -1, -1, -1, -1, 0.5 / (3 - 1 / 6)])


def test_the_error_is_that_of_a_difference_between_two_logits():
    low = torch.tensor([[2.0, 0.0, -2.0], [float("inf"), 0.0, 0.0]])
    exact = torch.tensor([[2.5, 0.5, -2.0], [1.0, 0.0, 0.0]])
    assert largest_error(low, exact) == 0.25  # an offset of all logits would not count
    assert largest_error(low[1:], exact[1:]) == math.inf  # nothing is known of it


def test_what_shows_no_error_neither_settles_a_label_nor_unsettles_one():
    finite, overflown = torch.tensor([[2.0, 0.0, -2.0]]), torch.tensor([[math.inf, 0.0, 0.0]])
    watch = Watch()
    watch.learn(overflown, finite)
    assert watch.doubtful == math.inf  # everything, until something is known
    watch = Watch()
    watch.learn(finite, finite + torch.tensor([[0.5, 0.0, 0.0]]))
    watch.learn(overflown, finite)
    assert watch.doubtful == 3 * 0.25
    assert not watch.failed


def test_interventions_learn_their_errors_from_the_same_examples(
    bundled, interventions, checked, monkeypatch
):
    """One walk in float32 for all of them, whose prefix is the same."""
    lowered(monkeypatch, torch.bfloat16)
    run = Evaluator(bundled, device="cpu", screen=True)
    counted(run, interventions)
    changed = sum(bool(run.network.replacement(one)) for one in interventions)
    assert checked[0] == (run._counting.execution.check_size, changed)


def test_what_is_doubtful_under_several_interventions_is_decided_in_one_walk(
    bundled, interventions, checked, monkeypatch
):
    """Their examples together are no more than one of them may have."""
    lowered(monkeypatch, torch.bfloat16)
    monkeypatch.setattr("explorer.engine.execution.CHECK_SHARE", 1)
    run = Evaluator(bundled, device="cpu", screen=True)
    together = counted(run, interventions)
    shared = list(checked)
    assert all(examples <= run._counting.execution.check_size for examples, _ in shared)
    assert max(checks for _, checks in shared[1:]) > 1
    checked.clear()
    monkeypatch.setattr(counting, "in_batches", lambda thin, _: [{k: v} for k, v in thin.items()])
    alone = counted(run, interventions)
    assert len(checked) > len(shared)
    assert list(map(counts, together)) == list(map(counts, alone))


@pytest.mark.parametrize(
    ("size", "expected"), [(3, [["a", "b"], ["c"], ["d"]]), (4, [["a", "b", "c"], ["d"]])]
)
def test_interventions_share_a_batch_as_long_as_their_examples_fit(size, expected):
    numbers = {"a": [1, 2], "b": [3, 1], "c": [2, 4], "d": [5, 6, 7, 8]}
    thin = {name: (torch.tensor(some), torch.empty(0)) for name, some in numbers.items()}
    assert [list(batch) for batch in in_batches(thin, size)] == expected
    assert list(in_batches({}, size)) == []


def test_the_first_recording_serves_for_the_checks_of_small_slices(monkeypatch):
    lowered(monkeypatch, torch.bfloat16)
    sizes = {"record": [], "logits": []}

    def sized(name):
        original = getattr(FinalNetwork, name)
        return lambda self, inputs, *a: (
            sizes[name].append(len(inputs)) or original(self, inputs, *a)
        )

    for name in sizes:
        monkeypatch.setattr(FinalNetwork, name, sized(name))
    model = toy.ConvNet()
    stack = lx.open_stack(toy.conv_states(), model=model)
    run = Evaluator(stack, model=model, data=toy.conv_examples(), device="cpu", screen=True)
    assert sizes["record"] == [8, run.batch_size]
    # compared with the plain pass: as it is in slices and in checks, changed on a few examples
    assert sizes["logits"] == [run.batch_size, 8, 8]


def test_checks_that_give_other_logits_than_the_plain_pass_are_not_trusted(
    bundled, monkeypatch, caplog
):
    lowered(monkeypatch, torch.bfloat16)
    original = Execution._differs

    def differs(self, replay, inputs, replacement):
        found = original(self, replay, inputs, replacement)
        return 0.1 if replay is self._check_pass and not replacement else found

    monkeypatch.setattr(Execution, "_differs", differs)
    with caplog.at_level(logging.WARNING, logger="explorer"):
        run = Evaluator(bundled, device="cpu", screen=True)
    assert "its checks gave other logits than the plain pass" in caplog.text
    assert run.screen == "none"
    exact = Evaluator(bundled, device="cpu").result(lx.reinitialise("layer2", 0))
    assert counts(run.result(lx.reinitialise("layer2", 0))) == counts(exact)


def test_the_screened_network_is_never_written_to(bundled, monkeypatch):
    lowered(monkeypatch, torch.bfloat16)
    run = Evaluator(bundled, device="cpu", screen=True)
    before = {n: t.clone() for n, t in run.network._module.state_dict().items()}
    run.result(lx.reinitialise("layer1", 0))
    after = run.network._module.state_dict()
    assert all(torch.equal(before[n], after[n]) for n in before)


class Residual(nn.Module):
    """Convolutions, normalisation, pooling and a skip connection."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(1, 8, 3, padding=1)
        self.block = nn.Sequential(
            nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 1)
        )
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        x = torch.relu(self.stem(x))
        return self.head(torch.relu(x + self.block(x)).amax((2, 3)))


def test_convolutions_and_normalisation_are_screened_to_the_labels_of_float32(monkeypatch):
    lowered(monkeypatch, torch.bfloat16)
    states = []
    for seed in range(3):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            states.append(Residual().state_dict())
    generator = torch.Generator().manual_seed(0)
    data = torch.randn(500, 1, 8, 8, generator=generator), torch.arange(500) % 5
    model = Residual()
    stack = lx.open_stack(states, model=model)
    plain, screened = (
        Evaluator(stack, model=model, data=data, device="cpu", screen=screen)
        for screen in (False, True)
    )
    assert screened.screen == "bfloat16"
    assert isinstance(screened.network, FinalNetwork)
    wanted = [lx.reinitialise(layer, e) for layer in layer_names(stack) for e in (0, 1)]
    for found, expected in zip(counted(screened, wanted), counted(plain, wanted), strict=True):
        assert counts(found) == counts(expected)


def recorded(module, inputs, dtype=torch.float16):
    state = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    state = {name: tensor.detach() for name, tensor in state.items()}
    return Replay(record(module.eval(), state, inputs), state, dtype), state


def test_what_only_a_batch_normalisation_reads_stays_in_float32():
    """A variance may be too small or too large for float16, and cuDNN asks for float32."""
    replay, state = recorded(toy.ConvNet(), torch.randn(2, 1, 6, 6))
    state["norm.running_var"].fill_(1e6)
    program = replay.program
    named = {program.names[k] for k in program.statistics}
    assert named == {f"norm.{n}" for n in ("weight", "bias", "running_mean", "running_var")}
    prepared = replay.prepare(state, low=True)
    kinds = {program.names[k]: v.dtype for k, v in prepared.values.items() if k < len(state)}
    assert kinds["norm.running_var"] == torch.float32
    assert kinds["conv.weight"] == kinds["head.bias"] == torch.float16


def test_a_statistic_that_something_else_reads_too_is_rounded():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm1d(3)

        def forward(self, x):
            return self.norm(x) + self.norm.bias

    replay, _ = recorded(Twice(), torch.randn(2, 3))
    program = replay.program
    named = {program.names[k] for k in program.statistics}
    assert named == {f"norm.{n}" for n in ("weight", "running_mean", "running_var")}


def test_images_go_channels_last_in_lower_precision_and_nothing_else_does():
    module = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(2), nn.Flatten(1)
    )
    replay, _ = recorded(module, torch.randn(2, 3, 6, 5))
    program = replay.program
    shapes = [program.shapes.get(k) for k in sorted(program.images)]
    assert (2, 3, 6, 5) in shapes
    assert shapes.count((2, 4, 4, 3)) >= 3  # of the convolution, the normalisation and the ReLU
    assert (2, 4, 12) not in shapes
    # on CUDA devices float32 has them channels first
    rounded = replay._low.rounding(program.number("0.weight"), torch.randn(4, 3, 3, 3))
    assert rounded.is_contiguous(memory_format=torch.channels_last)
    assert rounded.dtype == torch.float16


@pytest.mark.parametrize(
    ("flops", "expected"), [(0.0, 1024), (1e9, 512), (1e9 / 4, 1024), (1e11, 16)]
)
def test_on_cuda_the_first_slice_takes_hundredths_of_a_second(flops, expected):
    assert best_batch(1e3, 1e3, flops, 10_000, torch.device("cuda"), 10**9) == expected
    assert best_batch(1e3, 1e3, flops, 10_000, torch.device("cpu"), 10**9) == 1024


@pytest.mark.parametrize(
    ("largest", "total", "expected"),
    [(1e3, 100_000, 1024), (1e3, 4000, 256), (2**16, 100_000, 256), (2**16 + 4, 100_000, 128)],
)
def test_on_a_cpu_slices_fill_fast_memory_and_leave_something_to_watch(largest, total, expected):
    assert best_batch(largest, largest, 0.0, total, torch.device("cpu"), 10**9) == expected


class PerPosition(nn.Module):
    """Logits for every token of a text."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(7, 6)
        self.head = nn.Linear(6, 7)

    def forward(self, tokens):
        return self.head(self.embedding(tokens))


def test_a_network_that_answers_at_several_positions_is_not_screened(monkeypatch, caplog):
    lowered(monkeypatch, torch.bfloat16)
    tokens = torch.arange(60).reshape(10, 6) % 7
    stack = lx.open_stack([PerPosition().state_dict() for _ in range(2)], model=PerPosition())
    options = {"model": PerPosition(), "data": (tokens, tokens), "device": "cpu"}
    with caplog.at_level(logging.WARNING, logger="explorer"):
        run = Evaluator(stack, **options, screen=True)
        assert run.screen == "none"
    assert run._counting.execution.first_logits is None  # they may be very many
    assert "the network answers at several positions" in caplog.text
    assert run.result(INTACT) == Evaluator(stack, **options).result(INTACT)


class Routed(nn.Module):
    """One of two experts, chosen by the larger of two values."""

    def __init__(self):
        super().__init__()
        self.a, self.gate = nn.Linear(12, 32), nn.Linear(32, 2)
        self.experts = nn.ModuleList([nn.Linear(32, 5) for _ in range(2)])

    def forward(self, x):
        hidden = torch.relu(self.a(x))
        first = self.gate(hidden).argmax(1, keepdim=True) == 0
        return torch.where(first, self.experts[0](hidden), self.experts[1](hidden))


def test_a_network_that_decides_by_comparing_is_not_screened(caplog):
    """A value just below another may be rounded above it: no margin tells of that."""
    network = Routed()
    stack = lx.open_stack([network.state_dict()], model=network)
    data = (torch.rand(500, 12), torch.randint(0, 5, (500,)))
    run = Evaluator(stack, model=network, data=data, device="cpu", screen=True)
    assert run.screen == "none"
    if low_precision(torch.device("cpu")) is not None:
        assert "decides by comparing values (aten.argmax)" in caplog.text


def test_comparing_positions_is_no_decision():
    """A causal mask compares numbers of positions, which depend on no example."""

    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            self.a = nn.Linear(12, 5)

        def forward(self, x):
            places = torch.arange(12.0)
            return self.a(x * (places > 3) + x.clamp(min=0))

    network = Masked()
    program = record(network, dict(network.named_parameters()), torch.rand(4, 12))
    assert any(one.name.startswith("aten.gt") for one in program.operations)
    assert decision_in(program) == ""
