"""The sweep: every cell, its provenance, and what happens when a cell cannot be measured."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
import xarray as xr
from torch import nn

import explorer as lx
from explorer.api import save_netcdf
from explorer.engine import measuring
from explorer.engine import sweep as sweep_module
from explorer.engine.evaluator import Evaluator
from explorer.engine.results import as_json
from explorer.engine.verdicts import damage, not_monotone, recovery, verdicts
from explorer.errors import CheckpointError, UnknownNameError, UsageError
from explorer.ui.table import sweep_html
from tests import toy
from tests.test_distances import damage as damage_file

QUANTITIES = ("error", "error_low", "error_high", "loss", "agreement", "examples", "reason")


@pytest.fixture(scope="module")
def swept(bundled):
    return lx.sweep(bundled, device="cpu", progress=False)


def toy_sweep(states, **options):
    stack = lx.open_stack(states, model=toy.Switch())
    data = toy.one_hot_examples()
    return lx.sweep(stack, model=toy.Switch(), data=data, device="cpu", progress=False, **options)


def test_the_dataset_has_the_documented_form(swept):
    for prefix, dims in (
        ("", ("layer", "epoch")),
        ("rerandomized_", ("layer", "draw")),
        ("fullmodel_", ("epoch",)),
    ):
        for quantity in QUANTITIES:
            assert swept[prefix + quantity].dims == dims
    assert dict(swept.sizes) == {"layer": 4, "epoch": 8, "draw": 3}


def test_every_measured_cell_has_a_number_and_no_reason(swept):
    for prefix in ("", "rerandomized_", "fullmodel_"):
        assert (swept[prefix + "reason"] == "").all()
        assert (swept[prefix + "examples"] == 1800).all()
        assert (swept[prefix + "error_low"] <= swept[prefix + "error"]).all()
        assert (swept[prefix + "error"] <= swept[prefix + "error_high"]).all()


def test_the_attributes_say_what_is_needed_to_repeat_the_numbers(swept):
    expected = {"stack": "fcn3x256-digits", "dataset": "digits28", "seed": 0, "complete": 1}
    assert expected.items() <= swept.attrs.items()
    for key in ("content_hash", "dataset_hash"):
        assert len(swept.attrs[key]) == 64
    assert swept.attrs["checkpoint_unit"] == "epoch"
    for key in ("batchnorm", "device", "dtype", "version_explorer", "version_torch"):
        assert swept.attrs[key], key


def test_the_last_column_is_the_final_error_in_every_row(swept):
    assert (swept.error.sel(epoch=100) == swept.attrs["final_error"]).all()
    assert float(swept.fullmodel_error.sel(epoch=100)) == swept.attrs["final_error"]
    assert (swept.agreement.sel(epoch=100) == 1).all()


def test_the_bundled_stack_shows_the_papers_picture(swept):
    """Fig. 1: layer 1 is critical, later layers are not, fresh draws destroy every layer."""
    start = swept.error.sel(epoch=0)
    assert 0.55 < float(start.sel(layer="layer1")) < 0.85
    assert (start.sel(layer=["layer2", "layer3", "layer4"]) < 0.25).all()
    assert (swept.rerandomized_error > 0.65).all()
    assert swept.attrs["final_error"] < 0.05
    assert verdicts(swept).values.tolist() == ["critical", "critical", "robust", "robust"]


def test_the_precomputed_sweep_is_what_a_sweep_finds_now(swept):
    stored = lx.open_sweep("fcn3x256-digits")
    assert stored.attrs["content_hash"] == swept.attrs["content_hash"]
    assert stored.attrs["dataset_hash"] == swept.attrs["dataset_hash"]
    for name in ("error", "rerandomized_error", "fullmodel_error"):
        # one label of 1,800 may tip over on another processor
        np.testing.assert_allclose(stored[name], swept[name], atol=2 / 1800)


def test_the_toy_sweep_equals_a_calculation_by_hand():
    result = toy_sweep(toy.switch_states())
    wrong = 8 / 12
    assert result.error.values.tolist() == [[wrong, 0, 0], [0, wrong, 0]]
    assert result.fullmodel_error.values.tolist() == [wrong, wrong, 0]
    assert result.attrs["chance_error"] == pytest.approx(2 / 3)


def test_layers_epochs_and_draws_can_be_chosen(bundled, swept):
    chosen = lx.sweep(
        bundled, layers=["layer4", "layer1"], epochs=[8, 0], draws=1, device="cpu", progress=False
    )
    assert chosen.layer.values.tolist() == ["layer4", "layer1"]
    xr.testing.assert_equal(chosen.error, swept.error.sel(layer=chosen.layer, epoch=chosen.epoch))
    xr.testing.assert_equal(chosen.fullmodel_error, swept.fullmodel_error.sel(epoch=chosen.epoch))
    assert chosen.rerandomized_error.shape == (2, 1)


def test_another_seed_gives_other_fresh_draws_and_the_same_cells(bundled, swept):
    other = lx.sweep(bundled, epochs=[0], seed=1, device="cpu", progress=False)
    assert (other.rerandomized_error != swept.rerandomized_error).any()
    xr.testing.assert_equal(other.error, swept.error.sel(epoch=[0]))


def test_cells_that_change_nothing_are_measured_once(monkeypatch):
    counted = []
    original = Evaluator.count
    monkeypatch.setattr(Evaluator, "count", lambda s, r, t: counted.extend(r) or original(s, r, t))
    toy_sweep(toy.switch_states(), draws=0)
    # intact, 2 layers × 2 earlier epochs, the full model at 2 earlier epochs
    assert len(counted) == 1 + 4 + 2


def test_an_altered_checkpoint_marks_its_column_and_leaves_the_rest(copied, swept):
    stack = lx.open_stack(copied)
    damage_file(copied / "epoch-0002.safetensors")
    result = lx.sweep(stack, device="cpu", progress=False)
    assert np.isnan(result.error.sel(epoch=2)).all()
    for reason in result.reason.sel(epoch=2).values:
        assert "epoch-0002.safetensors has been altered" in reason
    assert (result.examples.sel(epoch=2) == 0).all()
    others = [0, 1, 3, 8, 40, 90, 100]
    xr.testing.assert_equal(result.error.sel(epoch=others), swept.error.sel(epoch=others))


def test_nan_weights_mark_their_cell_and_never_become_a_number():
    states = toy.switch_states()
    states[0]["first.bias"][0] = float("nan")
    result = toy_sweep(states)
    assert np.isnan(result.error.sel(layer="first", epoch=0))
    reason = result.reason.sel(layer="first", epoch=0).item()
    assert "NaN or infinite weights: 1 of first.bias" in reason
    assert verdicts(result).sel(layer="first").item() == "not known"


class Bare(nn.Module):
    """A layer that cannot be drawn anew."""

    def __init__(self):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(3))

    def forward(self, x):
        return x + self.bias


def test_a_layer_without_an_initialiser_is_marked_and_the_rest_is_measured():
    model = Bare()
    stack = lx.open_stack([{"bias": torch.ones(3) * k} for k in range(2)], model=model)
    data = toy.one_hot_examples()
    result = lx.sweep(stack, model=model, data=data, device="cpu", progress=False)
    assert "has no reset_parameters" in result.rerandomized_reason.values[0, 0]
    assert np.isfinite(result.error).all()


def interrupt_count(monkeypatch, act):
    """Have `act(position, replacements)` run before each slice of `Evaluator.count`."""
    original = Evaluator.count

    def count(self, replacements, tolerance=0.0):
        for position, estimates in enumerate(original(self, replacements, tolerance)):
            act(position, replacements)
            yield estimates

    monkeypatch.setattr(Evaluator, "count", count)


def test_out_of_memory_marks_the_cell_with_what_to_try(monkeypatch):
    def act(_position, replacements):
        if any("first.weight" in tensors for tensors in replacements):
            raise torch.OutOfMemoryError("CUDA out of memory")

    interrupt_count(monkeypatch, act)
    result = toy_sweep(toy.switch_states())
    assert "out of memory on CPU, even with one example at a time" in result.reason.values[0, 0]
    assert np.isfinite(result.error.sel(layer="second")).all()


def test_ctrl_c_keeps_what_was_measured_with_the_examples_behind_it(bundled, monkeypatch):
    def act(position, _replacements):
        if position == 3:
            raise KeyboardInterrupt

    interrupt_count(monkeypatch, act)
    result = lx.sweep(bundled, device="cpu", progress=False)
    assert result.attrs["complete"] == 0
    assert (result.examples == 3 * 128).all()
    assert (result.error_high - result.error_low > 0.01).all()


def test_ctrl_c_marks_the_cells_that_were_not_reached(bundled, monkeypatch):
    monkeypatch.setattr(measuring, "GROUP_BYTES", 3_000_000)
    seen = []

    def act(position, _replacements):
        seen.append(position)
        if len(seen) > 20:
            raise KeyboardInterrupt

    interrupt_count(monkeypatch, act)
    result = lx.sweep(bundled, device="cpu", progress=False)
    reached = result.examples.values > 0
    assert 0 < reached.sum() < reached.size
    assert (result.reason.values[~reached] == sweep_module.NOT_REACHED).all()
    assert np.isnan(result.error.values[~reached]).all()


def test_a_tolerance_stops_each_cell_when_its_interval_is_that_narrow(bundled, swept):
    rough = lx.sweep(bundled, device="cpu", tolerance=0.02, progress=False)
    assert rough.attrs["tolerance"] == 0.02
    done = rough.examples < 1800
    half = (rough.error_high - rough.error_low) / 2
    assert (half.where(done, 0) <= 0.02).all()
    # layer 3 near the end errs on few examples, layer 1 at the start on most
    assert rough.examples.sel(layer="layer3", epoch=90) < 700
    assert rough.examples.sel(layer="layer1", epoch=0) == 1800
    assert (abs(rough.error - swept.error) < 0.04).all()
    xr.testing.assert_equal(rough.error.where(~done), swept.error.where(~done))


def test_small_groups_give_the_same_numbers_as_one(bundled, swept, monkeypatch):
    monkeypatch.setattr(measuring, "GROUP_BYTES", 3_000_000)
    again = lx.sweep(bundled, device="cpu", progress=False)
    xr.testing.assert_equal(again, swept)


def test_a_sweep_shows_its_progress(bundled, capsys):
    lx.sweep(bundled, layers=["layer4"], epochs=[0], draws=1, device="cpu")
    assert "sweep: 100%" in capsys.readouterr().err
    lx.sweep(bundled, layers=["layer4"], epochs=[0], draws=1, device="cpu", progress=False)
    assert capsys.readouterr().err == ""


def test_a_sweep_survives_netcdf(swept, tmp_path):
    path = save_netcdf(swept, tmp_path / "out" / "sweep.nc")
    again = xr.open_dataset(path, engine="h5netcdf").load()
    assert again.equals(swept)
    assert again.attrs.keys() == swept.attrs.keys()


def test_the_json_of_a_bundled_sweep_says_what_its_netcdf_would_say(tmp_path):
    stored = lx.open_sweep("fcn3x256-digits")
    stored["error"][0, 0] = np.nan
    stored["reason"] = stored["reason"].astype(object)
    stored["reason"][0, 0] = 'not measured: "ä" {'
    (tmp_path / "sweep.json").write_text(as_json(stored), encoding="utf-8")
    plain = lx.open_sweep(tmp_path / "sweep.json")
    labelled = lx.open_sweep(save_netcdf(stored, tmp_path / "sweep.nc"))
    xr.testing.assert_identical(plain, labelled)
    assert {name: values.dtype for name, values in plain.variables.items()} == {
        name: values.dtype for name, values in labelled.variables.items()
    }


def test_a_json_that_holds_no_sweep_is_refused(tmp_path):
    path = tmp_path / "sweep.json"
    for text in ("", "[]", '{"coords": {"layer": 3}}'):
        path.write_text(text, encoding="utf-8")
        with pytest.raises(CheckpointError, match=r"sweep\.json cannot be read as JSON"):
            lx.open_sweep(path)


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        (
            {"layers": ["layer1", "layre2"]},
            UnknownNameError,
            r"'layre2'(.|\n)*Did you mean 'layer2'",
        ),
        ({"epochs": [4]}, UnknownNameError, r"no epoch 4(.|\n)*Known: 0, 1"),
        ({"layers": []}, UsageError, r"layers is \[\]"),
        ({"layers": ["layer1", "layer1"]}, UsageError, "each once"),
        ({"layers": "layer1"}, UsageError, r"layers is 'layer1'(.|\n)*Pass \['layer1'\]"),
        ({"epochs": 1}, UsageError, r"epochs is 1(.|\n)*Pass \[1\]"),
        ({"epochs": ["1"]}, UnknownNameError, r"no epoch '1'(.|\n)*Did you mean 1"),
        ({"draws": -1}, UsageError, "draws is -1"),
        ({"tolerance": 5}, UsageError, r"tolerance is 5(.|\n)*Divide a percentage"),
    ],
)
def test_a_sweep_of_what_is_not_there_is_refused(bundled, options, error, match):
    with pytest.raises(error, match=match):
        lx.sweep(bundled, **options)


def test_damage_is_the_share_of_the_way_to_chance():
    result = toy_sweep(toy.switch_states())
    assert damage(result).sel(layer="first", epoch=0).item() == pytest.approx(1.0)
    assert damage(result).sel(layer="first", epoch=2).item() == 0.0


def test_a_layer_that_is_worse_later_than_at_the_start_is_mixed():
    """Deciding from τ = 0 alone is a known pitfall."""
    result = toy_sweep(toy.switch_states())
    assert result.error.sel(layer="second", epoch=0).item() == 0
    assert verdicts(result).values.tolist() == ["critical", "mixed"]
    assert not_monotone(result).values.tolist() == [False, True]
    assert recovery(result).values.tolist() == [1, 2]


def profile_of(*errors, half=0.01):
    """A sweep of one layer with these errors; the final error is 0, chance 1."""
    error = np.array([errors])
    variables = {"error": error, "error_low": error - half, "error_high": error + half}
    return xr.Dataset(
        {name: (("layer", "epoch"), values) for name, values in variables.items()},
        {"layer": ["one"], "epoch": range(len(errors))},
        {"final_error": 0.0, "chance_error": 1.0},
    )


NAN = float("nan")


@pytest.mark.parametrize(
    ("errors", "verdict", "since", "rises"),
    [
        ((0.05, 0.02, 0.0), "robust", 0, False),
        ((0.5, 0.05, 0.0), "critical", 1, False),
        ((0.5, NAN, 0.0), "critical", 2, False),
        ((0.05, 0.5, 0.0), "mixed", 2, True),
        ((NAN, 0.5, 0.0), "not known", 2, False),
        ((0.05, NAN, 0.0), "not known", 2, False),
        ((0.05, 0.03, 0.04), "robust", 0, False),
        ((0.5, 0.5, 0.5), "critical", NAN, False),
        ((0.5, 0.05, NAN), "critical", NAN, False),
        ((NAN, NAN, NAN), "not known", NAN, False),
        ((0.3, NAN, 0.4), "critical", NAN, True),
    ],
)
def test_a_profile_gives_a_verdict_since_when_and_whether_it_rises(errors, verdict, since, rises):
    sweep = profile_of(*errors)
    assert verdicts(sweep).item() == verdict
    np.testing.assert_equal(recovery(sweep).item(), float(since))
    assert not_monotone(sweep).item() == rises
    backwards = sweep.isel(epoch=[2, 1, 0])
    assert verdicts(backwards).item() == verdict
    np.testing.assert_equal(recovery(backwards).item(), float(since))
    assert not_monotone(backwards).item() == rises


def test_a_rise_within_the_intervals_is_no_rise():
    assert not not_monotone(profile_of(0.30, 0.315, half=0.01)).item()
    assert not_monotone(profile_of(0.30, 0.33, half=0.01)).item()


def test_the_threshold_decides(swept):
    assert set(verdicts(swept, 0.95).values) == {"robust"}
    assert set(verdicts(swept, 0.0).values) == {"critical"}
    for judge in (verdicts, recovery):
        with pytest.raises(UsageError, match=r"threshold is 10(.|\n)*Divide a percentage"):
            judge(swept, 10)


# --- sweeps from files -----------------------------------------------------------------------


def test_the_bundled_sweep_is_the_one_that_is_measured(swept):
    known = lx.open_sweep("fcn3x256-digits")
    xr.testing.assert_equal(known.error, swept.error)
    xr.testing.assert_equal(known.turned_wrong, swept.turned_wrong)


def test_a_saved_sweep_opens_again_and_its_file_may_be_replaced(swept, tmp_path):
    path = save_netcdf(swept, tmp_path / "sweep.nc")
    xr.testing.assert_equal(lx.open_sweep(path).error, swept.error)
    path.unlink()


def test_a_sweep_that_is_not_there_is_refused_with_those_there_are(tmp_path):
    with pytest.raises(UnknownNameError, match=r"no sweep 'nothing'(.|\n)*fcn3x256-digits"):
        lx.open_sweep("nothing")


def test_a_table_in_html_has_every_number_on_its_colour_and_escapes_names(swept):
    page = sweep_html(swept.assign_attrs(stack_title="<b>x</b>"))
    assert page.count("<tr ") == 1 + 4 + 1
    assert "&lt;b&gt;x&lt;/b&gt;" in page
    assert "70.9</td>" in page
    assert ">–</td>" in page  # the full model is not drawn anew
    assert '<tr style="background:#fff">' in page
    assert "<td>2.9</td>" in page  # the trained network's error is white, as the row is
    assert re.search(r'style="background:#\w{6};color:#fff">70.9', page)
