"""How many layers can be reset together, against a search by hand."""

from __future__ import annotations

import pytest
import torch
import xarray as xr
from torch import nn

import explorer as lx
from explorer.api import save_netcdf
from explorer.engine.evaluator import Evaluator
from explorer.engine.interventions import Epoch, FreshDraw
from explorer.engine.joint import find_order
from explorer.engine.network import FinalNetwork
from explorer.errors import StackError, UnknownNameError, UsageError
from explorer.weights.families.known import build_network
from explorer.weights.stack import layer_sizes
from tests import toy


@pytest.fixture(scope="module")
def order(bundled):
    return lx.reset_order(bundled, threshold=1.0, device="cpu", progress=False)


def error_of(evaluator, layers, epoch=0):
    return evaluator.result(lx.reinitialise(layers, epoch)).error


def test_every_step_is_the_best_that_there_is_given_those_before(bundled, order):
    evaluator = Evaluator(bundled, device="cpu")
    chosen, left = [], ["layer1", "layer2", "layer3", "layer4"]
    for step in range(4):
        errors = {layer: error_of(evaluator, [*chosen, layer]) for layer in left}
        best = min(errors, key=errors.get)
        assert order["layer"].values[step] == best
        assert order["error"].values[step] == errors[best]
        chosen.append(best)
        left.remove(best)


def test_the_last_step_is_the_whole_network_at_that_epoch(bundled, order):
    sweep = lx.open_sweep("fcn3x256-digits")
    assert order["error"].values[-1] == pytest.approx(sweep["fullmodel_error"].sel(epoch=0).item())


def test_parameters_left_are_those_of_the_layers_that_stay(bundled, order):
    sizes = layer_sizes(bundled)
    left = order.attrs["parameters"]
    assert left == sum(sizes.values()) == 335_114
    for layer, found in zip(order["layer"].values, order["parameters_left"].values, strict=True):
        left -= sizes[layer]
        assert found == left
    assert left == 0


def test_the_search_ends_with_the_step_that_goes_too_far(bundled):
    found = lx.reset_order(bundled, device="cpu", progress=False)
    assert found["layer"].values.tolist() == ["layer3", "layer4"]
    assert found["within"].values.tolist() == [True, False]
    border = 0.1 * (found.attrs["chance_error"] - found.attrs["final_error"])
    damage = found["error"].values - found.attrs["final_error"]
    assert (damage <= border).tolist() == [True, False]


def test_the_threshold_is_a_share_of_the_way_from_the_final_error_to_chance(bundled, order):
    """A step counts when its error is just at the border, and not when it is just above."""
    final, chance = order.attrs["final_error"], order.attrs["chance_error"]
    at = (order["error"].values[0] - final) / (chance - final)
    for threshold, within in ((at + 1e-9, True), (at - 1e-9, False)):
        found = lx.reset_order(bundled, threshold=threshold, device="cpu", progress=False)
        assert found["within"].values[0] == within


def test_of_a_network_worse_than_chance_its_own_error_counts():
    stack = lx.open_stack(three_states(), model=Three(), layers="fine")
    options = {"model": Three(), "data": never_right(), "device": "cpu"}
    found = lx.reset_order(stack, **options, progress=False)
    assert found.attrs["final_error"] == 1 > found.attrs["chance_error"]
    assert found["within"].values.tolist() == [True] * 3


def test_ctrl_c_keeps_the_steps_that_were_found(bundled, order, monkeypatch):
    assert order.attrs["complete"] == 1
    original, groups = Evaluator.count, []

    def stopped_in_the_third_step(self, replacements, *rest, **options):
        groups.append(len(replacements))
        for estimates in original(self, replacements, *rest, **options):
            yield estimates
            if len(groups) == 4:  # the intact network is counted first
                raise KeyboardInterrupt

    monkeypatch.setattr(Evaluator, "count", stopped_in_the_third_step)
    found = lx.reset_order(bundled, threshold=1.0, device="cpu", batch_size=900, progress=False)
    assert groups == [1, 4, 3, 2]
    assert found["layer"].values.tolist() == order["layer"].values[:2].tolist()
    assert found["within"].values.tolist() == [True, True]
    assert found.attrs["complete"] == 0


def test_ctrl_c_before_anything_is_known_is_passed_on(bundled, monkeypatch):
    def stopped(*_arguments):
        raise KeyboardInterrupt("by the reader")

    monkeypatch.setattr("explorer.engine.effective.measure", stopped)
    with pytest.raises(KeyboardInterrupt, match="by the reader"):
        lx.reset_order(bundled, device="cpu", progress=False)


def test_layers_that_are_robust_one_by_one_need_not_be_so_together(bundled):
    """Layer 3 and layer 4 of the bundled network each stand epoch 0, but not both."""
    evaluator = Evaluator(bundled, device="cpu")
    border = 0.0294 + 0.1 * (0.878 - 0.0294)
    assert error_of(evaluator, "layer3") < border
    assert error_of(evaluator, "layer4") < border
    assert error_of(evaluator, ["layer3", "layer4"]) > 2 * border


def test_only_chosen_layers_and_another_epoch(bundled):
    found = lx.reset_order(
        bundled, epoch=8, layers=["layer4", "layer2"], device="cpu", threshold=1.0, progress=False
    )
    assert set(found["layer"].values) == {"layer2", "layer4"}
    assert found.attrs["epoch"] == 8
    evaluator = Evaluator(bundled, device="cpu")
    assert found["error"].values[1] == error_of(evaluator, ["layer2", "layer4"], 8)


def test_the_search_tells_how_far_it_is_and_stops_when_nobody_asks(bundled, monkeypatch):
    evaluator = Evaluator(bundled, device="cpu", batch_size=900)
    sources = {"layer3": Epoch(0), "layer4": FreshDraw()}
    stream = find_order(evaluator, sources, 1.0)
    first = next(stream)
    assert (first.tried, first.to_try, first.finished) == (0, 3, False)
    *_, last = stream
    assert (last.tried, last.to_try, last.finished) == (3, 3, True)
    counted = []
    original = Evaluator.count
    monkeypatch.setattr(
        Evaluator, "count", lambda s, r, t: counted.append(len(r)) or original(s, r, t)
    )
    *_, early = find_order(evaluator, sources, 0.0)
    assert (early.tried, early.to_try, early.finished) == (2, 2, True)
    assert early.steps == ()
    counted.clear()
    stopped = find_order(evaluator, sources, 1.0)
    next(stopped)
    stopped.close()
    assert counted == [2]


class Three(nn.Module):
    """Three layers of which the first does nothing at any epoch."""

    def __init__(self):
        super().__init__()
        self.idle = nn.Linear(3, 3)
        self.first = nn.Linear(3, 3)
        self.second = nn.Linear(3, 3, bias=False)

    def forward(self, x):
        return self.second(self.first(x + 0 * self.idle(x)))


def three_states():
    def state(noise):
        eye = torch.eye(3)
        return {
            "idle.weight": noise * eye,
            "idle.bias": torch.zeros(3),
            "first.weight": eye,
            "first.bias": noise * eye[0],
            "second.weight": eye,
        }

    return [state(5.0), state(0.0)]


def never_right():
    """Examples of which the final network gets none right, nor with `first` put back."""
    inputs, truth = toy.one_hot_examples()
    return inputs, torch.tensor([1, 2, 1])[truth]


def toy_order(states, **options):
    stack = lx.open_stack(states, model=Three(), layers="fine")
    data = toy.one_hot_examples()
    return lx.reset_order(stack, model=Three(), data=data, device="cpu", progress=False, **options)


class Tied(nn.Module):
    """Reads and writes tokens with one and the same matrix."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(7, 6)
        self.middle = nn.Linear(6, 6)
        self.head = nn.Linear(6, 7, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, tokens):
        return self.head(torch.relu(self.middle(self.embedding(tokens))))


def test_a_parameter_that_two_layers_share_counts_once_and_goes_with_either():
    states = []
    for seed in range(2):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            states.append(Tied().state_dict())
    tokens = torch.arange(60).reshape(10, 6) % 7
    stack = lx.open_stack(states, model=Tied(), layers={"in": "embedding", "out": "head|middle"})
    evaluator = Evaluator(stack, model=Tied(), data=(tokens, tokens), device="cpu")
    for layer, left in (("in", 42), ("out", 0)):
        *_, found = find_order(evaluator, {layer: Epoch(0)}, 1.0)
        assert found.parameters == sum(p.numel() for p in Tied().parameters()) == 84
        assert found.steps[0].parameters_left == left


def test_running_statistics_are_no_trained_parameters():
    stack = lx.open_stack("resnet18bn-digits")
    network = build_network(stack.attrs["family"], stack.attrs["sizes"])
    sizes = FinalNetwork(stack, device="cpu").trained_sizes()
    trained = sum(p.numel() for p in network.parameters())
    assert sum(sum(layer.values()) for layer in sizes.values()) == trained
    assert sum(layer_sizes(stack).values()) == trained


def test_an_order_can_be_saved_and_read_back(order, tmp_path):
    with xr.open_dataset(save_netcdf(order, tmp_path / "order.nc"), engine="h5netcdf") as again:
        xr.testing.assert_equal(again, order)
        assert again.attrs["parameters"] == order.attrs["parameters"]


def test_of_equal_harm_the_larger_layer_goes_first():
    found = toy_order(three_states())
    assert found["layer"].values.tolist() == ["idle", "second", "first"]
    assert found["parameters_left"].values.tolist() == [21, 12, 0]
    assert found["within"].values.tolist() == [True, True, False]


def test_a_layer_that_cannot_be_measured_is_left_out_and_alone_it_is_an_error():
    states = three_states()
    states[0]["second.weight"] = torch.full((3, 3), float("nan"))
    found = toy_order(states, threshold=1.0, layers=["second", "idle"])
    assert found["layer"].values.tolist() == ["idle"]
    assert found["within"].values.tolist() == [True]
    with pytest.raises(UsageError, match=r"No layer can be measured: NaN(.|\n)*another epoch"):
        toy_order(states, layers=["second"])


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"threshold": 10}, UsageError, r"threshold is 10(.|\n)*Divide a percentage"),
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
        lx.reset_order(bundled, device="cpu", progress=False, **options)


def test_what_has_no_axis_of_epochs_any_more_is_no_stack(bundled):
    with pytest.raises(StackError, match=r"is no stack(.|\n)*a selection of its epochs"):
        lx.reset_order(bundled.isel(epoch=0), progress=False)
