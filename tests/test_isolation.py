"""Whatever is called, and however it ends, the user's model and process are as they were."""

from __future__ import annotations

import contextlib
import importlib
import logging
import os
import random
import threading
import warnings

import numpy as np
import pytest
import torch
from torch import nn

import explorer as lx
from explorer.cli import main
from explorer.engine import evaluator as evaluators
from explorer.errors import ExplorerError
from explorer.training.device import reproducible, threads
from explorer.ui import session
from explorer.weights.device import float32_products, switched
from explorer.weights.families.chance import own_chance
from explorer.weights.fresh import fresh_layer
from tests import toy
from tests.world import differences, fingerprint, world

pytestmark = pytest.mark.filterwarnings("ignore::explorer.errors.NumbersWarning")

LAYER = "conv"


class StopHereError(Exception):
    """A failure in the middle of a forward pass."""


@pytest.fixture(scope="module", autouse=True)
def others_imported():
    """Import what is imported when first needed.

    Other packages change a process then, and nobody could take that back: bokeh, scipy and sympy
    add filters of warnings, scikit-learn and torch's compiler set environment variables.
    """
    for name in ("sklearn.datasets", "explorer.ui.widget", "explorer.ui.report"):
        importlib.import_module(name)
    evaluate(toy.ConvNet(), None)


@pytest.fixture
def net():
    """A network in an unusual state, which has to stay so."""
    net = toy.ConvNet().train()
    net.dropout.eval()
    net.head.bias.requires_grad_(False)
    net.head.register_forward_hook(lambda *_: None)
    net.conv.weight.grad = torch.ones_like(net.conv.weight)
    return net


@pytest.fixture
def unusual():
    """Settings that are not the usual ones, so that putting back the usual would be noticed."""
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    deterministic, count = cudnn.deterministic, torch.get_num_threads()
    with switched((cudnn, "benchmark", True), (matmul, "fp32_precision", "tf32")):
        cudnn.deterministic = False
        torch.set_num_threads(2)
        random.seed(5)
        np.random.seed(6)
        torch.manual_seed(7)
        with np.errstate(over="warn", under="warn"), warnings.catch_warnings():
            warnings.filterwarnings("ignore", "an own filter")
            yield
    cudnn.deterministic = deterministic
    torch.set_num_threads(count)


def options(net):
    return {"model": net, "data": toy.conv_examples(300), "device": "cpu", "batch_size": 50}


def stack_of(net):
    return lx.open_stack(toy.conv_states(), model=net)


# --- the whole public interface -------------------------------------------------------------------


def explore(net, _folder):
    stack = stack_of(net)
    explorer = lx.Explorer(stack, model=net, data=toy.conv_examples(60), device="cpu", draws=1)
    try:
        shown = explorer._exploration
        shown._tapped(0.0, 0.0, False)
        assert shown.session.wait_until_idle(60)
        shown.session._warm_up.join(60)
        assert np.isfinite(explorer.results["error"].values[0, 0])
    finally:
        explorer.close()


def save(net, folder):
    for name in ("stack", "stack.nc"):
        lx.open_stack(lx.save_stack(stack_of(net), folder / name))


def sweep(net, folder):
    lx.sweep(stack_of(net), draws=2, progress=False, store=folder / "cells", **options(net))


def evaluate(net, _folder):
    *_, last = lx.evaluate(stack_of(net), lx.rerandomise(LAYER), **options(net))
    assert last.exact


def leave_half_way(net, _folder):
    stream = lx.evaluate(stack_of(net), lx.rerandomise(LAYER), **options(net))
    assert not next(stream).exact
    stream.close()


def keep_half_way(net, _folder):
    """The stream is neither at its end nor closed: nothing may hold between two estimates."""
    KEPT.append(lx.evaluate(stack_of(net), lx.reinitialise(LAYER, 0), **options(net)))
    assert not next(KEPT[-1]).exact


KEPT = []


def reset(net, _folder):
    lx.reset_order(stack_of(net), progress=False, **options(net))


def train(_net, folder):
    lx.train("fcn3x256-digits", out=folder / "run", epochs=1, progress=False, device="cpu")


def train_badly(_net, folder):
    lx.train("fcn3x256-digits", out=folder, epochs=1, progress=False, settings={"rate": 1})


def fail_in_the_middle(net, _folder):
    calls = iter(range(6))

    def fail(*_):
        if next(calls, None) is None:
            raise StopHereError

    failing = Opaque(net, fail)
    states = [{f"net.{n}": t for n, t in state.items()} for state in toy.conv_states()]
    stack = lx.open_stack(states, model=failing)
    lx.sweep(stack, progress=False, **options(failing))


class Opaque(nn.Module):
    """A network that cannot be recorded, and that does something at each pass."""

    def __init__(self, net, act):
        super().__init__()
        self.net, self.act = net, [act]

    def forward(self, x):
        self.act[0]()
        return self.net(x) if bool(x.isfinite().all()) else x


def interrupted(net, _folder):
    """Ctrl-C in the middle of a sweep."""
    original = evaluators.Evaluator.count

    def count(self, *arguments, **settings):
        stream = original(self, *arguments, **settings)
        yield next(stream)
        raise KeyboardInterrupt

    evaluators.Evaluator.count = count
    try:
        assert lx.sweep(stack_of(net), progress=False, **options(net)).attrs["complete"] == 0
    finally:
        evaluators.Evaluator.count = original


SMALL_VALLEY = {"alphas": [0.0, 1.0], "sigmas": [0.0, 0.1], "draws": 2, "progress": False}

CALLS = {
    "Explorer": [explore],
    "__version__": [lambda *_: lx.__version__],
    "catalog": [lambda *_: lx.catalog()],
    "check": [
        lambda net, _f: lx.check(stack_of(net), model=net, progress=False),
        lambda *_: lx.check("nothing of this name"),
    ],
    "compare": [
        lambda net, folder: lx.compare(
            stack_of(net), effective=True, store=folder, progress=False, **options(net)
        ),
        lambda net, _f: lx.compare(stack_of(net), draws=-1, **options(net)),
    ],
    "compare_parts": [
        lambda net, _f: list(lx.compare_parts(stack_of(net), draws=1, **options(net))),
        lambda net, _f: next(lx.compare_parts(stack_of(net), draws=1, **options(net))),
    ],
    "criticality": [
        lambda net, _f: lx.criticality(stack_of(net), **SMALL_VALLEY, **options(net)),
        lambda net, _f: lx.criticality(stack_of(net), draws=0, **options(net)),
    ],
    "diff": [
        lambda net, _f: lx.diff(stack_of(net), stack_of(net), progress=False),
        lambda *_: lx.diff("nothing", "of this name"),
    ],
    "distances": [
        lambda net, _f: lx.distances(stack_of(net), model=net),
        lambda net, _f: lx.distances(toy.conv_states(), model=net),
        lambda net, _f: lx.distances(stack_of(net), reference=17),
    ],
    "effective_parameters": [
        lambda net, _f: lx.effective_parameters(stack_of(net), progress=False, **options(net)),
        lambda net, _f: lx.effective_parameters(stack_of(net), epoch=17, **options(net)),
    ],
    "evaluate": [
        evaluate,
        leave_half_way,
        keep_half_way,
        lambda net, _f: lx.evaluate(stack_of(net), lx.reinitialise("no such", 0), model=net),
    ],
    "motion": [
        lambda net, _f: lx.motion(stack_of(net), progress=False),
        lambda *_: lx.motion(lx.open_stack("nothing of this name")),
    ],
    "open_stack": [
        lambda net, _f: stack_of(net),
        lambda *_: lx.open_stack("fcn3x256-digits"),
        lambda *_: lx.open_stack("nothing of this name"),
    ],
    "open_sweep": [
        lambda *_: lx.open_sweep("fcn3x256-digits"),
        lambda *_: lx.open_sweep("nothing of this name"),
    ],
    "outputs": [
        lambda net, _f: lx.outputs(stack_of(net), draws=1, progress=False, **options(net)),
        lambda net, _f: lx.outputs(stack_of(net), layers=["no such"], **options(net)),
    ],
    "paths": [
        lambda net, _f: lx.paths(stack_of(net), shares=3, progress=False, **options(net)),
        lambda net, _f: lx.paths(stack_of(net), shares=1, **options(net)),
    ],
    "predictions": [
        lambda net, _f: lx.predictions(stack_of(net), lx.rerandomise(LAYER), **options(net)),
        lambda net, _f: lx.predictions(stack_of(net), lx.rerandomise("no such"), **options(net)),
    ],
    "readers": [lambda *_: lx.readers()],
    "reinitialise": [lambda *_: lx.reinitialise(LAYER, 0), lambda *_: lx.reinitialise([], 0)],
    "rerandomise": [lambda *_: lx.rerandomise(LAYER), lambda *_: lx.rerandomise([])],
    "reset_order": [reset, lambda net, _f: lx.reset_order(stack_of(net), threshold=7)],
    "save_stack": [save, lambda net, folder: lx.save_stack(stack_of(net), folder, form="none")],
    "sweep": [
        sweep,
        interrupted,
        fail_in_the_middle,
        lambda net, _f: lx.sweep(stack_of(net), draws=-1, model=net),
        lambda net, _f: lx.sweep(stack_of(net), batchnorm="recalibrate", **options(net)),
    ],
    "train": [train, train_badly],
    "verdicts": [
        lambda *_: lx.verdicts("fcn3x256-digits"),
        lambda *_: lx.verdicts("nothing of this name"),
    ],
    "main": [
        lambda *_: main(["catalog"]),
        lambda *_: main(["distances", "fcn3x256-digits"]),
        lambda *_: main(["sweep", "nothing of this name"]),
        lambda *_: main(["no such command"]),
        lambda *_: main(["data", "digits28"]),
    ],
}
"""Public name → ways to call it: to the end, with what it refuses, stopped in the middle."""

EXPECTED = (ExplorerError, StopHereError, SystemExit)
"""How those that fail may fail."""


def test_every_public_name_is_called():
    assert set(CALLS) == {*lx.__all__, "main"}


@pytest.mark.parametrize("name", CALLS)
def test_model_and_process_are_as_before_after(name, net, unusual, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(session, "HEAD_START", 0)
    for number, call in enumerate(CALLS[name]):
        folder = tmp_path / str(number)
        folder.mkdir()
        model, before = fingerprint(net), world()
        with contextlib.suppress(*EXPECTED):
            call(net, folder)
        assert differences(before, world()) == [], number
        assert fingerprint(net) == model, number


def test_calls_that_are_to_fail_do(net, tmp_path):
    with pytest.raises(StopHereError, match=r"^$"):
        fail_in_the_middle(net, tmp_path)
    with pytest.raises(ExplorerError, match="rate"):
        train_badly(net, tmp_path)


CHANGES = {
    "torch's generator": lambda: torch.rand(1),
    "numpy's generator": lambda: np.random.rand(),
    "Python's generator": lambda: random.random(),
    "threads": lambda: torch.set_num_threads(1),
    "cuDNN": lambda: setattr(torch.backends.cudnn, "benchmark", False),
    "TF32": lambda: setattr(torch.backends.cuda.matmul, "fp32_precision", "ieee"),
    "warnings": lambda: warnings.filterwarnings("ignore", "another"),
    "environment": lambda: os.environ.update(EXPLORER_TEST="1"),
    "logging": lambda: logging.getLogger("explorer").setLevel(7),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_of_the_process_is_seen(name, unusual, monkeypatch):
    monkeypatch.delenv("EXPLORER_TEST", raising=False)
    before, level = world(), logging.getLogger("explorer").level
    try:
        CHANGES[name]()
        assert name in differences(before, world())
    finally:
        logging.getLogger("explorer").setLevel(level)
        os.environ.pop("EXPLORER_TEST", None)


def test_a_change_of_the_model_is_seen(net):
    changes = [
        lambda: net.train(),
        lambda: net.head.bias.requires_grad_(True),
        lambda: net.conv.register_forward_pre_hook(lambda *_: None),
        lambda: setattr(net.conv.weight, "grad", None),
        lambda: net.norm.running_mean.add_(1e-6),
        lambda: net.load_state_dict(net.state_dict()),
        lambda: setattr(net, "mark", 1),
    ]
    for change in changes:
        before = fingerprint(net)
        change()
        assert fingerprint(net) != before


# --- several threads ------------------------------------------------------------------------------


def together(*acts):
    """Run these at the same time; hand on the first failure."""
    failures = []

    def run(act):
        try:
            act()
        except BaseException as error:
            failures.append(error)

    running = [threading.Thread(target=run, args=(act,)) for act in acts]
    for one in running:
        one.start()
    for one in running:
        one.join(60)
    if failures:
        raise failures[0]


def test_two_threads_that_measure_at_once_have_the_numbers_of_one(net, unusual):
    stack, expected, found = stack_of(net), {}, {}
    wanted = {"sweep": lx.rerandomise(LAYER), "other": lx.reinitialise("head", 0)}

    def measure(name, into):
        into[name] = list(lx.evaluate(stack, wanted[name], **options(net)))

    for name in wanted:
        measure(name, expected)
    model, before = fingerprint(net), world()
    together(*(lambda name=name: measure(name, found) for name in wanted))
    assert found == expected
    assert differences(before, world()) == []
    assert fingerprint(net) == model


def test_a_switch_that_two_threads_hold_is_put_back_by_the_last(unusual):
    cudnn = torch.backends.cudnn
    first, second = (switched((cudnn, "benchmark", False)) for _ in range(2))
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert cudnn.benchmark is False  # the second still needs it
    second.__exit__(None, None, None)
    assert cudnn.benchmark is True
    with threads(1), float32_products("ieee"), threads(3):
        assert torch.get_num_threads() == 3
    assert torch.get_num_threads() == 2


def test_a_switch_is_put_back_where_another_cannot_be_set():
    class Stubborn:
        value = 1

        def __setattr__(self, name, value):
            if value == 2:
                raise StopHereError
            super().__setattr__(name, value)

    held, cudnn = Stubborn(), torch.backends.cudnn
    before = cudnn.benchmark
    with (
        pytest.raises(StopHereError, match=r"^$"),
        switched((cudnn, "benchmark", not before), (held, "value", 2)),
    ):
        pass
    assert (cudnn.benchmark, held.value) == (before, 1)


def test_fresh_draws_of_two_threads_do_not_mix_and_leave_the_generators_alone(net, unusual):
    names = ("conv.weight", "conv.bias")

    def draw(number):
        return fresh_layer(net, "", "conv", names, number, 0)

    expected = [draw(number)["conv.weight"] for number in range(20)]
    before, found = world(), {}

    def some(numbers):
        for number in numbers:
            found[number] = draw(number)["conv.weight"]

    together(lambda: some(range(0, 20, 2)), lambda: some(range(1, 20, 2)))
    for number, weights in enumerate(expected):
        assert torch.equal(found[number], weights)
    assert differences(before, world()) == []


class Numpys(nn.Linear):
    """A layer that is drawn with the generators of numpy and of Python."""

    def reset_parameters(self):
        values = np.random.rand(*self.weight.shape) + random.random()
        with torch.no_grad():
            self.weight.copy_(torch.from_numpy(values))
            self.bias.zero_()


def test_an_initialiser_may_use_any_generator_and_is_repeated(unusual):
    net, before = nn.Sequential(Numpys(3, 3)), world()
    one, same, other = (
        fresh_layer(net, "", "0", ("0.weight",), draw, 0)["0.weight"] for draw in (0, 0, 1)
    )
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
    with pytest.raises(ZeroDivisionError, match="zero"), own_chance(1):
        np.random.rand(1 // 0)
    assert differences(before, world()) == []


# --- on a GPU -------------------------------------------------------------------------------------

on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@on_gpu
def test_a_model_on_the_gpu_stays_there_as_it_is_and_so_do_its_generators(unusual):
    net = toy.ConvNet().cuda().train()
    model, before = fingerprint(net), world()
    stack = lx.open_stack(toy.conv_states(), model=net)
    data = toy.conv_examples(300)
    lx.sweep(stack, model=net, data=data, device="cuda", draws=2, progress=False)
    lx.distances(stack, model=net)
    with reproducible(torch.device("cuda")), own_chance(3, torch.device("cuda")):
        torch.rand(3, device="cuda")
    assert differences(before, world()) == []
    assert fingerprint(net) == model


def test_what_cuda_asks_for_does_not_stay_in_the_environment(unusual, monkeypatch):
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    before = world()
    with reproducible(torch.device("cuda")):  # no CUDA is needed to ask for it
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    assert differences(before, world()) == []
