"""How many parameters a network needs: networks where that is known, and all sets by hand."""

from __future__ import annotations

from itertools import chain, combinations

import numpy as np
import pytest
import torch
import xarray as xr
from torch import nn

import explorer as lx
from explorer.api import save_netcdf
from explorer.data.datasets import load_test_set
from explorer.engine.effective import find_effective
from explorer.engine.effective_parameters import effective_parts
from explorer.engine.estimate import Estimate
from explorer.engine.evaluator import Evaluator
from explorer.engine.interventions import Epoch
from explorer.errors import UnknownNameError, UsageError
from explorer.weights.families.known import build_network
from explorer.weights.stack import layer_sizes, read_epoch
from tests import naive, toy
from tests.test_joint import Three, never_right, three_states

LAYERS = ("layer1", "layer2", "layer3", "layer4")


@pytest.fixture(scope="module")
def found(bundled):
    return lx.effective_parameters(bundled, margin=0.3, device="cpu", progress=False)


class Product(nn.Module):
    """Logits are x · first · second · idle, entry by entry: linear in each."""

    def __init__(self):
        super().__init__()
        for name in ("first", "second", "idle"):
            self.add_module(name, nn.Linear(3, 3, bias=False))

    def forward(self, x):
        return self.idle(self.second(self.first(x)))


def product_states():
    """At the start first and second turn every sign, so that both together turn none."""
    eye = torch.eye(3)
    names = ("first.weight", "second.weight", "idle.weight")
    return [
        dict(zip(names, (-eye, -eye, eye), strict=True)),
        dict(zip(names, (eye, eye, eye), strict=True)),
    ]


class Sum(nn.Module):
    """Logits are first(x) + second(x) + third(x): any one of the three is enough."""

    def __init__(self):
        super().__init__()
        for name in ("first", "second", "third"):
            self.add_module(name, nn.Linear(3, 3, bias=False))

    def forward(self, x):
        return self.first(x) + self.second(x) + self.third(x) - 1e-3 * x.roll(1, -1)


def sum_states():
    eye = torch.eye(3)
    names = ("first.weight", "second.weight", "third.weight")
    return [{name: 0 * eye for name in names}, {name: eye.clone() for name in names}]


def toy_search(model, states, **options):
    stack = lx.open_stack(states, model=model, layers="fine")
    data = toy.one_hot_examples()
    return lx.effective_parameters(
        stack, model=model, data=data, device="cpu", progress=False, **options
    )


def test_of_a_network_that_needs_one_layer_the_others_are_reset():
    """`idle` counts for nothing and `second` is what it was: 12 parameters of `first` remain."""
    found = toy_search(Three(), three_states())
    assert found["effective_parameters"].item() == 12
    assert found.attrs["parameters"] == 33
    assert found["reset"].values.tolist() == [[True, False, True]]
    assert found["joint_error"].item() == 0


def test_layers_that_are_enough_one_by_one_are_robust_alone_and_not_together():
    """Of three equal summands two can go: 9 parameters of 27 remain."""
    found = toy_search(Sum(), sum_states())
    assert found["alone_within"].values.all()
    assert not found["one_by_one_within"].item()
    assert found["one_by_one_error"].item() > 0.5
    assert found["effective_parameters"].item() == 9
    assert found["layers_reset"].item() == 2


def test_going_back_finds_what_going_forward_cannot():
    """Each of two sign changes destroys the network, both together do nothing: 0 parameters."""
    found = toy_search(Product(), product_states())
    assert found["alone_within"].values.tolist() == [[False, False, True]]
    forward = found.isel(step=(found["direction"] == "forward").values)
    assert forward["parameters_left"].values[forward["within"].values].min() == 18
    assert found["effective_parameters"].item() == 0
    assert found["reset"].values.all()


def test_every_step_has_the_error_of_a_copied_network_and_is_the_best_there_is(bundled, found):
    """All sixteen sets by a deep copy, load_state_dict and a whole pass each."""
    examples = load_test_set("digits28")
    network = build_network(bundled.attrs["family"], bundled.attrs["sizes"])
    final, first = (
        {name: torch.from_numpy(array) for name, array in read_epoch(bundled, epoch).items()}
        for epoch in (100, 0)
    )

    def error(layers):
        early = {name: t for name, t in first.items() if name.split(".")[0] in layers}
        wrong = naive.labels(network, final, early, examples.inputs) != examples.labels
        return float(wrong.double().mean())

    every = chain.from_iterable(combinations(LAYERS, k) for k in range(5))
    errors = {frozenset(layers): error(layers) for layers in every}
    chosen = frozenset()
    for direction, layer, found_error in zip(
        found["direction"].values,
        found["layer_moved"].values,
        found["trial_error"].values,
        strict=True,
    ):
        if direction == "one by one":
            continue
        if not layer:
            chosen = frozenset() if direction == "forward" else frozenset(LAYERS)
        else:
            steps = [chosen ^ {one} for one in LAYERS if (one in chosen) == (layer in chosen)]
            assert errors[chosen ^ {layer}] == min(errors[step] for step in steps)
            chosen ^= {layer}
        assert found_error == pytest.approx(errors[chosen], abs=1e-12)
    sizes = layer_sizes(bundled)
    allowed = errors[frozenset()] + 0.3 + 1e-12
    left = {s: sum(sizes.values()) - sum(sizes[one] for one in s) for s in errors}
    assert found["effective_parameters"].item() == min(
        left[one] for one, wrong in errors.items() if wrong <= allowed
    )
    alone = [errors[frozenset({layer})] for layer in LAYERS]
    np.testing.assert_allclose(found["alone_error"].values[0], alone, atol=1e-12)


def test_the_best_set_is_marked_and_its_parameters_are_those_that_stay(bundled, found):
    sizes = layer_sizes(bundled)
    reset = found["reset"].sel(source="epoch 0")
    gone = sum(
        sizes[layer] for layer, is_reset in zip(LAYERS, reset.values, strict=True) if is_reset
    )
    assert found["effective_parameters"].item() == sum(sizes.values()) - gone
    assert found["layers_reset"].item() == int(reset.sum())
    assert found["joint_error"].item() <= found.attrs["final_error"] + 0.3


def test_no_set_is_measured_twice(bundled, monkeypatch):
    original, asked = Evaluator.count, []

    def count(self, replacements, *rest, **options):
        asked.extend(frozenset(one) for one in replacements)
        return original(self, replacements, *rest, **options)

    monkeypatch.setattr(Evaluator, "count", count)
    evaluator = Evaluator(bundled, device="cpu")
    *_, last = find_effective(evaluator, dict.fromkeys(LAYERS, Epoch(0)), 0.3)
    assert len(set(asked)) == len(asked) == last.measured


def test_fresh_draws_are_searched_each_by_itself(bundled):
    found = lx.effective_parameters(
        bundled, draws=2, seed=3, threshold=1.0, layers=["layer3", "layer4"], device="cpu",
        progress=False,
    )  # fmt: skip
    assert found["source"].values.tolist() == ["epoch 0", "fresh draw 0", "fresh draw 1"]
    evaluator = Evaluator(bundled, device="cpu")
    for draw in (0, 1):
        expected = evaluator.result(lx.rerandomise("layer4", draw, 3)).error
        cell = found["alone_error"].sel(source=f"fresh draw {draw}", layer="layer4")
        assert cell.item() == expected


def test_a_network_worse_than_chance_is_allowed_its_own_error():
    """There is no way from it to chance; its own error is within from the first part on."""
    stack = lx.open_stack(three_states(), model=Three(), layers="fine")
    parts = effective_parts(Evaluator(stack, model=Three(), data=never_right(), device="cpu"))
    found = [part.dataset() for part in parts]
    assert found[-1].attrs["final_error"] == 1 > found[-1].attrs["chance_error"]
    assert found[-1].attrs["margin"] == 0
    assert all(one["within"].all() for one in found)
    assert found[-1].attrs["complete"] == 1


def test_a_stack_of_one_checkpoint_needs_draws():
    states = three_states()[1:]
    with pytest.raises(UsageError, match=r"one checkpoint(.|\n)*draws=3"):
        toy_search(Three(), states)
    assert toy_search(Three(), states, draws=1)["source"].values.tolist() == ["fresh draw 0"]


def test_a_layer_that_cannot_be_measured_stays_and_alone_it_is_an_error():
    states = three_states()
    states[0]["second.weight"] = torch.full((3, 3), float("nan"))
    found = toy_search(Three(), states)
    assert np.isnan(found["alone_error"].sel(layer="second")).all()
    assert found["reset"].values.tolist() == [[True, False, False]]
    with pytest.raises(UsageError, match=r"No layer can be measured: NaN"):
        toy_search(Three(), states, layers=["second"])


def test_ctrl_c_keeps_what_is_known(bundled, monkeypatch):
    original, groups = Evaluator.count, []

    def stopped(self, replacements, *rest, **options):
        groups.append(len(replacements))
        if len(groups) == 4:  # the intact network twice with the single layers, then three pairs
            raise KeyboardInterrupt
        return original(self, replacements, *rest, **options)

    monkeypatch.setattr(Evaluator, "count", stopped)
    found = lx.effective_parameters(bundled, threshold=1.0, device="cpu", progress=False)
    assert found.attrs["complete"] == 0
    assert found["direction"].values.tolist() == ["forward", "forward", "forward"]
    assert found["layers_reset"].item() == 2
    assert np.isnan(found["one_by_one_error"].item())


def test_ctrl_c_before_anything_is_known_leaves_an_empty_result(bundled, monkeypatch):
    def stopped(*_arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr("explorer.engine.effective.measure", stopped)
    found = lx.effective_parameters(bundled, device="cpu", progress=False)
    assert (found.sizes["source"], found.attrs["complete"]) == (0, 0)


def test_it_can_be_saved_and_read_back(found, tmp_path):
    with xr.open_dataset(save_netcdf(found, tmp_path / "e.nc"), engine="h5netcdf") as again:
        xr.testing.assert_equal(again, found)
        assert again.attrs["parameters"] == found.attrs["parameters"] == 335_114


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"threshold": 10}, UsageError, r"threshold is 10(.|\n)*Divide a percentage"),
        ({"margin": -1}, UsageError, "margin is -1"),
        ({"layers": []}, UsageError, r"layers is \[\](.|\n)*take every layer"),
        ({"layers": 5}, UsageError, r"layers is 5\.(.|\n)*Pass \[5\]"),
        ({"layers": "layer1"}, UsageError, r"layers is 'layer1'(.|\n)*Pass \['layer1'\]"),
        ({"layers": b"layer1"}, UsageError, r"layers is b'layer1'"),
        ({"layers": ["layer1", "layer1"]}, UsageError, "each once"),
        ({"layers": ["layre1"]}, UnknownNameError, "Did you mean 'layer1'"),
        ({"epoch": 7}, UnknownNameError, "no epoch 7"),
    ],
)
def test_what_is_not_there_is_refused(bundled, options, error, match):
    with pytest.raises(error, match=match):
        lx.effective_parameters(bundled, device="cpu", progress=False, **options)


def test_what_was_restored_early_is_reset_again_where_that_does_no_harm(bundled, monkeypatch):
    """Errors by a table: layer 1 is restored first, and layer 4 alone leaves room for it."""
    errors = {
        (): 0,
        ("layer3",): 5,
        ("layer4",): 4,
        ("layer1", "layer4"): 5,
        ("layer3", "layer4"): 40,
        ("layer2", "layer3", "layer4"): 50,
    }

    def measure(_evaluator, interventions):
        for one in interventions:
            yield {one: Estimate(100, 100, errors.get(one.layers, 90), 0.0, 0, 0)}

    monkeypatch.setattr("explorer.engine.effective.measure", measure)
    evaluator = Evaluator(bundled, device="cpu")
    *_, found = find_effective(evaluator, dict.fromkeys(LAYERS, Epoch(0)), 0.1)
    moves = [(one.direction, one.layer) for one in found.trials]
    back = moves[moves.index(("backward", "")) :]
    assert back == [
        *(("backward", ""), ("backward", "layer1"), ("backward", "layer2"), ("backward", "layer3")),
        *(("again", "layer1"), ("again", "layer2")),
    ]
    assert [one.within for one in found.trials[-3:]] == [True, True, False]
    assert found.best.layers == ("layer1", "layer4")
