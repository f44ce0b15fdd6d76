"""Networks as people write them: what a forward pass does besides computing logits.

It writes, keeps, draws, decides, or reaches its tensors by other ways than their names. Every cell
is that of a plain twin, or the network is refused; nothing of the reader's is changed.
"""

from __future__ import annotations

import copy
import threading
import warnings

import pytest
import torch
import xarray as xr
from torch import nn
from torch.nn import functional
from torch.nn.utils import prune

import explorer as lx
from explorer.engine.evaluator import Evaluator
from explorer.engine.forward import DRAWS, MIXES, Forward, Traits
from explorer.engine.interventions import Intervention, Noise
from explorer.errors import DataError, NumbersWarning, UsageError
from explorer.weights.copying import private_copy
from explorer.weights.stack import content_hash

EXAMPLES, FEATURES, CLASSES = 90, 10, 3
OPTIONS = {"draws": 0, "progress": False, "device": "cpu"}


class Plain(nn.Module):
    """What most of the networks below are but for one thing."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(FEATURES, 16), nn.Linear(16, CLASSES)

    def forward(self, x):
        return self.b(torch.relu(self.a(x)))


class Cells(nn.Module):
    """torch's recurrent cells write inside themselves."""

    def __init__(self, kind):
        super().__init__()
        self.p, self.cell, self.o = nn.Linear(5, 6), kind(6, 8), nn.Linear(8, CLASSES)

    def forward(self, x):
        state = None
        for part in x.split(5, 1):
            state = self.cell(self.p(part), state)
        return self.o(state[0] if isinstance(state, tuple) else state)


class Circular(nn.Module):
    def __init__(self):
        super().__init__()
        self.c, self.b = nn.Conv1d(1, 4, 3, padding=1, padding_mode="circular"), nn.Linear(40, 3)

    def forward(self, x):
        return self.b(torch.relu(self.c(x[:, None])).flatten(1))


class Keeps(Plain):
    def forward(self, x):
        self.hidden = torch.relu(self.a(x))
        self.seen = {"all": [self.hidden]}
        return self.b(self.hidden)


class Caches(Plain):
    """Masks and tables that are made when they are first needed."""

    def __init__(self):
        super().__init__()
        self.mask, self.tables = None, {}

    def forward(self, x):
        if self.mask is None:
            self.mask = torch.ones(16)
        if 16 not in self.tables:
            self.tables[16] = torch.arange(16.0) / 16
        if "late" not in self._buffers:
            self.register_buffer("late", torch.ones(16), persistent=False)
        return self.b(torch.relu(self.a(x)) * self.mask * self.tables[16] * self.late)


class CachesWeights(Plain):
    """What is kept depends on a tensor that an intervention replaces."""

    def __init__(self):
        super().__init__()
        self.unit = None

    def forward(self, x):
        if self.unit is None or self.training:
            self.unit = self.a.weight / self.a.weight.norm()
        return self.b(torch.relu(functional.linear(x, self.unit, self.a.bias)))


class WritesInput(Plain):
    def forward(self, x):
        if not self.training:
            x.sub_(0.1).div_(0.9)
        return super().forward(x)


class WritesInputAndDecides(WritesInput):
    def forward(self, x):
        logits = super().forward(x)
        return logits if float(logits.detach().abs().sum()) >= 0 else -logits


class Counts(Plain):
    def __init__(self):
        super().__init__()
        self.register_buffer("passes", torch.zeros(()))

    def forward(self, x):
        self.passes += 1
        return super().forward(x) * self.passes.clamp(max=100)


class CountsAndDecides(Counts):
    def forward(self, x):
        logits = super().forward(x)
        return logits if float(logits.detach().abs().sum()) >= 0 else -logits


class Lists(Plain):
    def __init__(self):
        super().__init__()
        self.weights = [self.a.weight]

    def forward(self, x):
        return self.b(torch.relu(x @ self.weights[0].T + self.a.bias))


class Gradients(Plain):
    def forward(self, x):
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            energy = torch.tanh(self.a(x)).sum()
            (slope,) = torch.autograd.grad(energy, x, create_graph=self.training)
        return super().forward(x - slope)


class Squeezes(Plain):
    """A last slice of one example would lose its dimension."""

    def forward(self, x):
        logits = self.b(torch.relu(self.a(x)).squeeze())
        return logits if float(logits.detach().abs().sum()) >= 0 else -logits


class Doubles(nn.Module):
    """Sums of two precisions."""

    def __init__(self):
        super().__init__()
        self.a, self.c = nn.Linear(FEATURES, 16), nn.Linear(FEATURES, 16).double()
        self.b = nn.Linear(16, CLASSES).double()

    def forward(self, x):
        return self.b(self.c(x.double()) + self.a(x))


class Autocasts(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.c = nn.Linear(FEATURES, 48), nn.Linear(FEATURES, 48)

    def forward(self, x):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            a = self.a(x)
        return (self.c(x) * a).view(-1, CLASSES, 16).sum(2)


class Compiled(Plain):
    """As people compile a method of a network in place."""

    def __init__(self):
        super().__init__()
        self.forward = torch.compile(self.forward, backend="eager")


def normed(how):
    network = nn.Sequential(nn.Linear(FEATURES, 16), nn.ReLU(), nn.Linear(16, CLASSES))
    how(network[0])
    return network


NETWORKS = {
    "GRUCell": lambda: Cells(nn.GRUCell),
    "LSTMCell": lambda: Cells(nn.LSTMCell),
    "RNNCell": lambda: Cells(nn.RNNCell),
    "weight_norm": lambda: normed(nn.utils.weight_norm),
    "spectral_norm": lambda: normed(nn.utils.spectral_norm),
    "prune": lambda: normed(lambda part: prune.random_unstructured(part, "weight", 0.5)),
    **{
        one.__name__: one
        for one in (
            *(Circular, Keeps, Caches, CachesWeights, WritesInput, WritesInputAndDecides, Counts),
            *(CountsAndDecides, Lists, Gradients, Squeezes, Doubles, Autocasts, Compiled),
        )
    },
}


def inputs():
    return torch.randn(EXAMPLES, FEATURES, generator=torch.Generator().manual_seed(1))


def labels():
    return inputs()[:, :CLASSES].argmax(1)


def trained(network, steps=30):
    """Train a little, in place; states along the way."""
    states = [copy.deepcopy(network.state_dict())]
    optimiser = torch.optim.Adam(network.parameters(), 0.03)
    for _ in range(steps):
        optimiser.zero_grad()
        functional.cross_entropy(network.train()(inputs()).float(), labels()).backward()
        optimiser.step()
    return [*states, copy.deepcopy(network.eval().state_dict())]


def twin_error(network, state):
    """Error of a plain copy with these tensors."""
    twin = private_copy(network).eval()
    twin.load_state_dict(state)
    with torch.no_grad():
        return float((twin(inputs()).argmax(1) != labels()).float().mean())


@pytest.fixture(autouse=True)
def quiet():
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def swept(network, states, **options):
    stack = lx.open_stack(states, model=network)
    data = (inputs(), labels())
    return stack, lx.sweep(stack, model=network, data=data, **{**OPTIONS, **options})


@pytest.mark.parametrize(("batch_size", "as_trained"), [(None, True), (89, False)])
@pytest.mark.parametrize("name", NETWORKS)
def test_every_cell_is_that_of_a_plain_twin_and_nothing_is_changed(name, batch_size, as_trained):
    network = NETWORKS[name]()
    states = trained(network)
    if not as_trained:  # one that has never been run
        network = NETWORKS[name]()
        network.load_state_dict(states[-1])
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    generator = torch.get_rng_state()
    stack, found = swept(network, states, batch_size=batch_size)
    again = lx.sweep(
        stack, model=network, data=(inputs(), labels()), batch_size=batch_size, **OPTIONS
    )
    first, last = states
    for layer in found["layer"].values:
        replaced = {name: first[name] for name in first if name.rpartition(".")[0] == layer}
        expected = twin_error(network, {**last, **replaced})
        assert float(found["error"].sel(layer=layer, epoch=0)) == pytest.approx(expected)
    assert found.attrs["final_error"] == pytest.approx(twin_error(network, last))
    xr.testing.assert_equal(found, again)
    assert found.attrs.get("caution", "") == ""
    assert torch.equal(generator, torch.get_rng_state())
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


def test_what_a_pass_writes_over_an_epochs_tensors_is_not_written_into_the_stack():
    class Renormed(nn.Module):
        def __init__(self):
            super().__init__()
            self.e, self.b = nn.Embedding(20, 16, max_norm=1.0), nn.Linear(16, CLASSES)

        def forward(self, x):
            logits = self.b(torch.relu(self.e(x).mean(1)))
            return logits if float(logits.sum()) != 7 else -logits  # so that it runs plainly

    network = Renormed()
    states = [{n: t + 3 * k for n, t in network.state_dict().items()} for k in range(3)]
    stack = lx.open_stack(states, model=network)
    before = content_hash(stack)
    tokens = torch.randint(0, 20, (EXAMPLES, 3))
    found = lx.sweep(stack, model=network, data=(tokens, labels()), **OPTIONS)
    assert "whole network" in found.attrs["execution"]
    assert content_hash(stack) == before


class OutOfReach(Plain):
    """A function in it has kept the network that was passed."""

    def __init__(self):
        super().__init__()
        self.first = lambda x: torch.relu(self.a(x))

    def forward(self, x):
        return self.b(self.first(x))


def hooked():
    network = Plain()
    network.a.register_forward_hook(lambda *call: call[2] + network.b.bias.sum())
    return network


class KeepsAView(Plain):
    def __init__(self):
        super().__init__()
        self.turned = self.a.weight.t()

    def forward(self, x):
        return self.b(torch.relu(x @ self.turned + self.a.bias))


@pytest.mark.parametrize("build", [OutOfReach, hooked, KeepsAView])
def test_a_pass_that_computes_with_the_network_that_was_passed_is_refused(build):
    network = build()
    with pytest.raises(UsageError, match=r"not with those of its copy(.|\n)*through self"):
        swept(network, [copy.deepcopy(network.state_dict())])


def test_what_cannot_be_copied_is_named():
    network = Plain()
    network.b.lock = threading.Lock()
    with pytest.raises(UsageError, match=r"cannot be copied(.|\n)*Take b.lock off"):
        swept(network, [network.state_dict()])


class Draws(Plain):
    def forward(self, x):
        return self.b(functional.dropout(torch.relu(self.a(x)), 0.3, training=True))


class Mixes(nn.Sequential):
    def __init__(self):
        norm = nn.BatchNorm1d(16, track_running_stats=False)
        super().__init__(nn.Linear(FEATURES, 16), norm, nn.ReLU(), nn.Linear(16, CLASSES))


@pytest.mark.parametrize(("build", "caution"), [(Draws, DRAWS), (Mixes, MIXES)])
def test_of_numbers_that_depend_on_more_than_the_examples_it_is_said(build, caution):
    network = build()
    states, generator = trained(network), torch.get_rng_state()
    stack = lx.open_stack(states, model=network)
    options = {"model": network, "data": (inputs(), labels()), **OPTIONS}
    with pytest.warns(NumbersWarning) as warned:
        found = lx.sweep(stack, **options)
    assert caution in str(warned[0].message)
    assert found.attrs["caution"] == caution
    assert found.attrs["doubt"].startswith(caution)
    xr.testing.assert_equal(found, lx.sweep(stack, **options))  # all the same it can be repeated
    assert torch.equal(generator, torch.get_rng_state())
    estimates = lx.evaluate(
        stack, lx.reinitialise(found["layer"].values[0], 0), **options_of(network)
    )
    with pytest.warns(NumbersWarning, match=caution[:40]):
        list(estimates)


def options_of(network):
    return {"model": network, "data": (inputs(), labels()), "device": "cpu"}


class TakesFour(Plain):
    """Batches of one size."""

    def forward(self, x):
        return super().forward(x.view(4, FEATURES))


class DrawsForFour(TakesFour):
    def forward(self, x):
        return functional.dropout(super().forward(x), 0.3, training=True)


class NotANumber(Plain):
    def forward(self, x):
        return torch.where(x[:, :1] > 0, super().forward(x) / 0.0, torch.nan)


@pytest.mark.parametrize(
    ("build", "expected"),
    [
        (Plain, Traits()),
        (TakesFour, Traits()),
        (DrawsForFour, Traits(draws=True)),
        (NotANumber, Traits()),
        (Draws, Traits(draws=True)),
        (Mixes, Traits(mixes=True)),
        (Lists, Traits(holds=True)),
        (Counts, Traits(writes=True)),
        (Gradients, Traits(grad=True)),
        (WritesInput, Traits()),
    ],
)
def test_what_a_pass_does_is_found_out_on_four_examples(build, expected):
    network = build().eval().requires_grad_(False)
    own = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    forward = Forward(network, own)
    examples = inputs()[:4]
    before = {name: tensor.clone() for name, tensor in own.items()}
    forward.learn(examples)
    assert forward.traits == expected
    assert torch.equal(examples, inputs()[:4])
    assert all(torch.equal(own[name], before[name]) for name in own)
    assert forward.few_logits.shape == (4, CLASSES)


def test_slices_of_a_network_whose_answers_depend_on_the_batch_are_those_of_a_plain_twin():
    network = Mixes()
    states = trained(network)
    _, found = swept(network, states, batch_size=64)
    wrong = 0
    with torch.no_grad():
        order = torch.randperm(EXAMPLES, generator=torch.Generator().manual_seed(1902_01996))
        for part in order.split(64):
            wrong += int((network(inputs()[part]).argmax(1) != labels()[part]).sum())
    assert found.attrs["final_error"] == pytest.approx(wrong / EXAMPLES)


def test_one_evaluator_may_be_used_by_several_threads_where_the_pass_is_plain():
    network = Lists()
    states = trained(network)
    run = Evaluator(lx.open_stack(states, model=network), **options_of(network), batch_size=9)
    cells = [lx.reinitialise("a", 0), lx.reinitialise("b", 0)]
    expected = [run.result(cell).errors for cell in cells]
    replacements = [run.network.replacement(cell) for cell in cells]
    found = {0: set(), 1: set()}

    def measure(which):
        for _ in range(20):
            *_, (last,) = run.count([replacements[which]])
            found[which].add(last.errors)

    threads = [threading.Thread(target=measure, args=(k,)) for k in found]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {k: {errors} for k, errors in enumerate(expected)}


# --- what is set elsewhere in the session ---------------------------------------------------------


def wide():
    return nn.Sequential(
        nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 9)
    )


@pytest.fixture
def bfloat16_products():
    parts = (torch.backends.mkldnn.matmul, torch.backends.mkldnn.conv)
    for part in parts:
        part.fp32_precision = "bf16"
    yield
    for part in parts:
        part.fp32_precision = "none"


def test_float32_is_float32_whatever_the_session_computes_with(bfloat16_products):
    """Of the trained network no answer is another than in float32."""
    network, many = wide(), torch.randn(2_000, 256)
    torch.backends.mkldnn.matmul.fp32_precision = "ieee"
    with torch.no_grad():
        answers = network(many).argmax(1)
    torch.backends.mkldnn.matmul.fp32_precision = "bf16"
    stack = lx.open_stack([network.state_dict()], model=network)
    for surroundings in (torch.autocast("cpu", enabled=False), torch.autocast("cpu")):
        with surroundings:
            run = Evaluator(stack, model=network, data=(many, answers), device="cpu")
            one = run.result(lx.rerandomise("0"))
        assert one.errors - one.turned_wrong + one.turned_right == 0
    assert torch.backends.mkldnn.matmul.fp32_precision == "bf16"


def test_noise_is_the_same_in_a_session_of_doubles():
    network = Plain()
    stack = lx.open_stack([network.state_dict()], model=network)
    run = Evaluator(stack, **options_of(network))
    noise = Intervention((("a", Noise(0.5)),))
    expected = run.network.replacement(noise)
    torch.set_default_dtype(torch.float64)
    try:
        found = run.network.replacement(noise)
    finally:
        torch.set_default_dtype(torch.float32)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


# --- recalibration --------------------------------------------------------------------------------


@pytest.mark.parametrize("examples", [129, 200])
def test_any_number_of_training_examples_will_do_and_none_is_written_over(examples):
    class Normed(WritesInput):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm1d(16)

        def forward(self, x):
            x.sub_(0.1).div_(0.9)
            return self.b(torch.relu(self.norm(self.a(x))))

    network = Normed()
    states = [network.state_dict(), {n: t + 1 for n, t in network.state_dict().items()}]
    calibration = torch.randn(examples, FEATURES)
    before = calibration.clone()
    options = {"batchnorm": "recalibrate", "calibration": calibration}
    _, first = swept(network, states, **options)
    _, second = swept(network, states, **options)
    assert torch.equal(calibration, before)
    xr.testing.assert_equal(first, second)


@pytest.mark.parametrize(
    "calibration", [torch.randn(1, 4), torch.randn(9, 5), torch.ones(9, 4).long()]
)
def test_training_inputs_that_do_not_fit_are_refused(calibration):
    network = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, CLASSES))
    data = (torch.randn(6, 4), torch.arange(6) % CLASSES)
    stack = lx.open_stack([network.state_dict()], model=network)
    options = {"batchnorm": "recalibrate", "calibration": calibration, **OPTIONS}
    with pytest.raises(DataError, match=r"No statistics can be taken(.|\n)*two or more"):
        lx.sweep(stack, model=network, data=data, **options)


# --- tensors of a state dict that are neither parameters nor buffers ------------------------------


class Extra(nn.Linear):
    def get_extra_state(self):
        return torch.ones(2)

    def set_extra_state(self, state):
        assert state.tolist() == [1, 1]


def test_a_modules_extra_state_stays_as_it_is():
    network = nn.Sequential(Extra(FEATURES, 16), nn.ReLU(), nn.Linear(16, CLASSES))
    states = trained(network)
    stack, found = swept(network, states, draws=2)
    replaced = {name: states[0][name] for name in ("0.weight", "0.bias")}
    expected = twin_error(network, {**states[1], **replaced})
    assert float(found["error"].sel(layer="0", epoch=0)) == pytest.approx(expected)
    assert bool(found["rerandomized_error"].notnull().all())
    searched = lx.effective_parameters(stack, progress=False, **options_of(network))
    assert bool(searched["trial_error"].notnull().any())
    assert lx.check(states, model=network, progress=False).worst != "error"
