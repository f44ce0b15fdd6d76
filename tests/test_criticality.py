"""Module criticality: a closed form, a plain twin, the search against the whole grid, stopping."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import xarray as xr
from torch import nn

import explorer as lx
from explorer.api import save_netcdf
from explorer.engine.evaluator import Evaluator
from explorer.engine.measuring import measure
from explorer.errors import CheckpointError, UnknownNameError, UsageError
from tests import naive, toy
from tests.test_distances import damage

SMALL = {"alphas": [0, 0.5, 0.8, 0.9, 1], "sigmas": [0, 0.005, 0.01, 0.02, 0.05, 0.2], "draws": 3}
"""A grid whose every cell takes a moment."""


def found_on(stack, **options):
    return lx.criticality(stack, **{"device": "cpu", "progress": False, **options})


# --- a network whose criticality is known -----------------------------------------------------


class Bowl(nn.Module):
    """Every example has the loss 40 + |w|² exactly, with w the weights of the layer `bowl`."""

    def __init__(self, size):
        super().__init__()
        self.bowl = nn.Linear(size, 1, bias=False)
        self.idle = nn.Linear(1, 1, bias=False)

    def forward(self, x):
        height = 40 + (self.bowl.weight**2).sum() + 0 * self.idle(x)  # (example, 1)
        return torch.cat([height, 0 * height], 1)  # log(exp(40 + |w|²) + 1) is 40 + |w|²


def bowl(size, distance, **options):
    """Criticality of a bowl whose layer starts at a distance from its lowest point, the end."""
    start = torch.full((1, size), distance / math.sqrt(size))
    states = [
        {"bowl.weight": weight, "idle.weight": torch.ones(1, 1)}
        for weight in (start, torch.zeros(1, size))
    ]
    model = Bowl(size)
    stack = lx.open_stack(states, model=model, layers="fine")
    data = torch.zeros(4, 1), torch.ones(4, dtype=torch.int64)
    return found_on(stack, model=model, data=data, **options)


def test_the_criticality_of_a_bowl_is_that_of_the_formula():
    """The mean loss is 40 + (1 − α)²r² + pσ², for p weights and a start at distance r.

    It may be c = 0.01 · 40 above the lowest. With s² = pσ² the criticality is p times the least of
    α²r² / s² where (1 − α)²r² + s² = c, that is of α²r² / (c − (1 − α)²r²). Its derivative is 0
    where c = (1 − α)r², at α = 1 − c/r²; there s² = cα, and what remains is αr²/c = r²/c − 1. So
    μ = p (r²/c − 1), and 0 where r² ≤ c: then the start itself is good enough.
    """
    size, distance, c = 2000, 1.0, 0.4
    sigmas = np.geomspace(0.004, 0.05, 120)
    found = bowl(size, distance, alphas=41, sigmas=sigmas, layers=["bowl"])
    assert found["criticality"].item() == pytest.approx(size * (distance**2 / c - 1), rel=0.05)
    assert found["alpha_best"].item() == pytest.approx(1 - c / distance**2, abs=0.076)
    assert found["squared_distance"].item() == pytest.approx(distance**2)
    assert found.attrs["limit"] == pytest.approx(40 + c)


def test_a_layer_whose_start_is_good_enough_has_no_criticality():
    """The formula's other branch: r² ≤ c."""
    found = bowl(2000, math.sqrt(0.3), sigmas=[0, 0.001])
    assert found["criticality"].values.tolist() == [0, 0]  # the layer that does nothing as well
    assert found["alpha_best"].values.tolist() == [0, 0]
    assert found.attrs["network_criticality"] == 0
    assert found["squared_distance"].values == pytest.approx([0.3, 0])


def test_where_no_point_is_good_enough_the_criticality_is_infinite_and_says_why():
    found = bowl(2000, 1.0, sigmas=[0.1, 1], layers=["bowl"])
    assert found["criticality"].item() == math.inf
    assert "smaller sigmas" in found["layer_reason"].item()


def test_the_factor_and_the_quantity_decide_what_is_good_enough():
    sigmas = np.geomspace(0.004, 0.05, 120)
    twice = bowl(2000, 1.5, sigmas=sigmas, factor=1.02, layers=["bowl"])  # r is not r²
    assert twice["criticality"].item() == pytest.approx(2000 * (1.5**2 / 0.8 - 1), rel=0.1)
    errors = bowl(2000, 1.0, quantity="error", sigmas=[0, 1])
    assert errors["criticality"].values.tolist() == [0, 0]  # all are wrong already
    assert errors.attrs["limit"] == pytest.approx(1.01)


# --- a plain twin -----------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["with_layer", "weights_only"])
@pytest.mark.parametrize("layer", ["conv", "norm", "head"])
def test_every_cell_is_what_a_copied_network_gives(layer, policy):
    states, data = toy.conv_states(), toy.conv_examples()
    stack = lx.open_stack(states, model=toy.ConvNet(), layers="fine")
    found = found_on(
        stack,
        **{"model": toy.ConvNet(), "data": data, "layers": [layer], "batchnorm": policy},
        **{"alphas": 3, "sigmas": [0, 0.3], "draws": 3, "seed": 5, "every_cell": True},
    )
    for row, alpha in enumerate((0, 0.5, 1)):
        for column, sigma in enumerate((0, 0.3)):
            loss, error = naive.valley_point(
                *(toy.ConvNet(), states[-1], states[0], layer, alpha, sigma),
                *(range(3), 5, data, policy == "with_layer"),
            )
            assert found["loss"].values[0, row, column] == pytest.approx(loss, rel=1e-5)
            assert found["error"].values[0, row, column] == pytest.approx(error, abs=1e-6)
    assert (found["examples"].values == [40, 120]).all()


def test_the_corners_are_the_sweeps_cell_at_the_start_and_the_final_network(bundled):
    found = found_on(bundled, every_cell=True, alphas=2, sigmas=[0, 0.1], draws=1)
    sweep = lx.sweep(bundled, epochs=[0, 100], draws=0, device="cpu", progress=False)
    for quantity in ("error", "loss"):
        assert (
            found[quantity][:, 0, 0].values.tolist() == sweep[quantity].sel(epoch=0).values.tolist()
        )
        final = found.attrs[f"final_{quantity}"]
        assert found[quantity][:, 1, 0].values.tolist() == [final] * 4
    assert found.attrs["final_error"] == sweep.attrs["final_error"]


# --- the search against the whole grid --------------------------------------------------------


@pytest.fixture(scope="module")
def searched(bundled):
    return found_on(bundled, layers=["layer3", "layer4"], factor=1.3, **SMALL)


@pytest.fixture(scope="module")
def whole(bundled):
    return found_on(bundled, layers=["layer3", "layer4"], factor=1.3, every_cell=True, **SMALL)


def test_the_search_finds_the_criticality_of_the_whole_grid(searched, whole):
    for name in ("criticality", "alpha_best", "sigma_best"):
        assert np.isfinite(whole[name]).all()
        assert searched[name].values.tolist() == whole[name].values.tolist()
    assert searched.attrs["network_criticality"] == float(whole["criticality"].sum())


def test_what_the_search_calls_good_or_bad_is_so_and_what_it_saw_whole_is_equal(searched, whole):
    judged = searched["good_enough"].values >= 0
    assert judged.sum() >= 12
    assert not judged.all()
    assert (searched["good_enough"].values == whole["good_enough"].values)[judged].all()
    seen = searched["examples"].values == whole["examples"].values
    assert seen.sum() >= 4
    assert (searched["loss"].values == whole["loss"].values)[seen].all()
    assert np.isnan(searched["loss"].values[~judged]).all()
    assert (searched["reason"].values[~judged] != "").all()


def test_a_point_that_is_too_bad_is_left_before_all_examples_and_draws_are_seen(searched, whole):
    bad = searched["good_enough"].values == 0
    assert (searched["examples"].values[bad] < whole["examples"].values[bad]).any()
    good = searched["good_enough"].values == 1
    assert (searched["examples"].values[good] == whole["examples"].values[good]).all()


def test_a_point_is_left_only_when_all_other_pairs_without_any_loss_could_not_save_it(
    searched, whole
):
    left = (searched["good_enough"].values == 0) & (searched["examples"] < whole["examples"]).values
    least = searched["loss"].values * searched["examples"].values / whole["examples"].values
    assert left.any()
    assert (least[left] > searched.attrs["limit"]).all()


def test_the_passes_are_those_that_were_computed(bundled, monkeypatch):
    seen = []
    original = Evaluator.count

    def counted(self, replacements, *rest, **options):
        before = [0] * len(replacements)
        for estimates in original(self, replacements, *rest, **options):
            now = [one.examples for one in estimates]
            seen.append(sum(now) - sum(before))
            before = now
            yield estimates

    monkeypatch.setattr(Evaluator, "count", counted)
    found = found_on(bundled, layers=["layer4"], factor=1.3, **SMALL)
    intact = 1
    assert found["passes"].item() + intact == pytest.approx(sum(seen) / 1800)
    assert found["passes"].item() < 0.4 * 5 * 16  # draws of a row: 1 + 5 · 3


def test_layers_measured_alone_have_the_same_numbers(bundled, searched):
    alone = [found_on(bundled, layers=[n], factor=1.3, **SMALL) for n in ("layer3", "layer4")]
    xr.testing.assert_equal(xr.concat(alone, "layer", data_vars="all"), searched)


def test_draws_are_common_to_all_points_and_another_seed_has_others(bundled):
    options = {"layers": ["layer4"], "every_cell": True, "alphas": [1], "sigmas": [0.05, 0.1]}
    one, same, other = (found_on(bundled, draws=2, seed=s, **options) for s in (0, 0, 1))
    assert one["loss"].values.tolist() == same["loss"].values.tolist()
    assert (one["loss"].values != other["loss"].values).all()


# --- stopping, keeping, refusing --------------------------------------------------------------


def test_ctrl_c_keeps_what_is_known_and_says_that_it_is_not_all(bundled, searched, monkeypatch):
    calls = []

    def stopped(evaluator, interventions, **options):
        calls.extend(one.layers for one in interventions)
        if calls.count(("layer4",)) > 6:  # after the points without noise
            raise KeyboardInterrupt
        return measure(evaluator, interventions, **options)

    monkeypatch.setattr("explorer.engine.valley.measure", stopped)
    found = found_on(bundled, layers=["layer3", "layer4"], factor=1.3, **SMALL)
    assert found.attrs["complete"] == 0
    assert searched.attrs["complete"] == 1
    assert found["criticality"].values[0] == searched["criticality"].values[0]
    assert np.isnan(found["criticality"].values[1])
    assert found["layer_reason"].values.tolist() == ["", "not measured yet"]
    assert np.isnan(found.attrs["network_criticality"])


def test_what_a_file_keeps_is_not_measured_again(bundled, tmp_path, monkeypatch):
    options = {"layers": ["layer4"], "factor": 1.3, "store": tmp_path / "kept", **SMALL}
    first = found_on(bundled, **options)
    counted = []
    original = Evaluator.count
    monkeypatch.setattr(
        Evaluator, "count", lambda s, r, *a, **o: counted.append(len(r)) or original(s, r, *a, **o)
    )
    xr.testing.assert_equal(found_on(bundled, **options), first)
    again = sum(counted)
    counted.clear()
    found_on(bundled, **{**options, "store": None})
    assert again < sum(counted) / 2  # those that were left early are not kept


def test_the_network_is_left_as_it_was(bundled):
    model, states = toy.ConvNet(), toy.conv_states()
    stack = lx.open_stack(states, model=model, layers="fine")
    before = {name: t.clone() for name, t in model.state_dict().items()}
    found_on(stack, model=model, data=toy.conv_examples(), **SMALL)
    assert all(torch.equal(t, before[name]) for name, t in model.state_dict().items())


def test_a_start_that_is_not_finite_has_a_reason_and_no_number():
    states = toy.switch_states()
    states[0]["first.weight"] = torch.full((3, 3), math.nan)
    stack = lx.open_stack(states, model=toy.Switch())
    data = toy.one_hot_examples()
    found = found_on(stack, model=toy.Switch(), data=data, layers=["first"], every_cell=True)
    assert found["reason"].values[0, 0, 0].startswith("NaN or infinite weights")
    assert np.isnan(found["loss"].values[0, :-1]).all()
    assert np.isfinite(found["loss"].values[0, -1]).all()


def test_a_start_that_cannot_be_read_is_an_error_before_anything_is_measured(copied):
    damage(copied / "epoch-0000.safetensors")
    with pytest.raises(CheckpointError, match="epoch-0000"):
        found_on(lx.open_stack(copied), layers=["layer4"], **SMALL)


def test_a_criticality_can_be_saved_and_read_back(searched, tmp_path):
    with xr.open_dataset(save_netcdf(searched, tmp_path / "c.nc"), engine="h5netcdf") as again:
        xr.testing.assert_equal(again, searched)
        assert again.attrs["limit"] == searched.attrs["limit"]


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"alphas": [0, 1.5]}, UsageError, r"alphas is \[0, 1.5\](.|\n)*Fractions"),
        ({"alphas": 1}, UsageError, r"alphas is 1(.|\n)*Leave it out"),
        ({"sigmas": [0]}, UsageError, r"sigmas is \[0\](.|\n)*above 0"),
        ({"sigmas": [-1, 1]}, UsageError, r"sigmas is(.|\n)*Leave it out"),
        ({"draws": 0}, UsageError, r"draws is 0(.|\n)*from 1 on"),
        ({"factor": 0}, UsageError, r"factor is 0(.|\n)*1.01 allows"),
        ({"quantity": "accuracy"}, UsageError, r"quantity is 'accuracy'(.|\n)*loss, error"),
        ({"layers": ["layre1"]}, UnknownNameError, "Did you mean 'layer1'"),
        ({"epoch": 7}, UnknownNameError, "no epoch 7"),
    ],
)
def test_what_does_not_fit_is_refused(bundled, options, error, match):
    with pytest.raises(error, match=match):
        found_on(bundled, **options)
