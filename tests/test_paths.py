"""Paths between epochs and runs: closed forms, a plain twin, the sweep's cells, stopping."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import xarray as xr
from torch import nn

import explorer as lx
from explorer.api import save_netcdf
from explorer.engine.barriers import with_barriers
from explorer.engine.evaluator import Evaluator
from explorer.engine.paths import paths_parts
from explorer.errors import StackError, UnknownNameError, UsageError
from explorer.weights.joined import joined
from explorer.weights.stack import content_hash, epoch_numbers, layer_names, read_epoch
from tests import naive, toy

POINTS = [0, 0.25, 0.5, 1]


def found_on(stack, **options):
    return lx.paths(stack, **{"device": "cpu", "progress": False, **options})


# --- networks whose barriers are known --------------------------------------------------------


class Product(nn.Module):
    """Every example has the loss 40 + a·b exactly, with a and b the weights of two layers."""

    def __init__(self):
        super().__init__()
        self.a = nn.Linear(1, 1, bias=False)
        self.b = nn.Linear(1, 1, bias=False)

    def forward(self, x):
        height = 40 + self.b(self.a(torch.ones_like(x)))
        return torch.cat([height, 0 * height], 1)


def product(weights, **options):
    states = [
        {"a.weight": torch.tensor([[a]]), "b.weight": torch.tensor([[b]])} for a, b in weights
    ]
    stack = lx.open_stack(states, model=Product(), layers="fine")
    data = torch.zeros(4, 1), torch.ones(4, dtype=torch.int64)
    return found_on(stack, model=Product(), data=data, **options)


def test_two_layers_without_barriers_have_one_together():
    """From A, a = 0 and b = r, to B, a = r and b = 0, the product of both layers is linear in
    each of them: a moves alone, and the loss is 40 + λr·r, its barrier 0; b alone, and it is
    40 + 0·(1 − λ)r. Together they make 40 + λr·(1 − λ)r: the ends are equal and the barrier, at
    λ = ½, is r²/4. The midpoints, over the mean 40 of A and B: r²/2, 0 and r²/4.
    """
    found = product([(3.0, 0.0), (0.0, 3.0)], epochs=[0], cumulative=True)
    assert found["loss_barrier"].values.ravel() == pytest.approx([0, 0], abs=1e-5)
    assert found["loss_midpoint"].values.ravel() == pytest.approx([9 / 2, 0], abs=1e-5)
    assert found["whole_loss_barrier"].item() == pytest.approx(9 / 4, abs=1e-5)
    assert found["whole_loss_barrier_at"].item() == 0.5
    assert found["whole_loss_midpoint"].item() == pytest.approx(9 / 4, abs=1e-5)
    assert found["upto_loss_barrier"].values.ravel() == pytest.approx([0, 9 / 4], abs=1e-5)
    assert found["from_loss_barrier"].values.ravel() == pytest.approx([9 / 4, 0], abs=1e-5)
    path = 40 + found["share"] * (1 - found["share"]) * 9
    assert found["whole_loss"].values.ravel() == pytest.approx(path.values, abs=1e-5)


def hand_made(layer, whole, share=(0, 0.25, 0.5, 1)):
    dims, values = ("layer", "epoch", "share"), np.array([[layer]], float)
    variables = {"error": (dims, values), "whole_error": (dims[1:], np.array([whole], float))}
    variables |= {name.replace("error", "loss"): value for name, value in variables.items()}
    return xr.Dataset(variables, {"share": list(share)})


def test_a_barrier_is_the_largest_height_above_the_line_between_the_ends():
    found = with_barriers(hand_made([0.1, 0.5, 0.3, 0.3], [0.1, 0.2, 0.9, 0.5]))
    assert found["error_barrier"].item() == pytest.approx(0.5 - (0.1 + 0.25 * 0.2))
    assert found["error_barrier_at"].item() == 0.25
    assert found["error_midpoint"].item() == pytest.approx(0.3 - (0.1 + 0.5) / 2)
    assert found["whole_error_midpoint"].item() == pytest.approx(0.9 - 0.3)


def test_a_path_that_sags_has_no_barrier_and_a_negative_midpoint():
    found = with_barriers(hand_made([0.1, 0.1, 0.1, 0.5], [0.1, 0.1, 0.1, 0.9]))
    assert found["error_barrier"].item() == 0
    assert np.isnan(found["error_barrier_at"].item())
    assert found["error_midpoint"].item() == pytest.approx(-0.4)


def test_a_path_with_a_point_that_is_not_known_has_no_barrier_that_is():
    found = with_barriers(hand_made([0.1, np.nan, 0.3, 0.3], [0.1, 0.2, 0.9, 0.5]))
    assert np.isnan(found["error_barrier"].item())
    assert np.isnan(found["error_barrier_at"].item())
    assert not np.isnan(found["whole_error_barrier"].item())


def test_without_a_middle_there_is_no_midpoint():
    found = with_barriers(hand_made([0.1, 0.5, 0.3], [0.1, 0.2, 0.5], (0, 0.3, 1)))
    assert np.isnan(found["error_midpoint"].item())


# --- a plain twin -----------------------------------------------------------------------------


def conv_stack(states):
    return lx.open_stack(states, model=toy.ConvNet(), layers="fine")


def moved_by(prefix, layer):
    every = ["conv", "norm", "head"]
    at = every.index(layer)
    kinds = {"": [layer], "upto_": every[: at + 1], "from_": every[at:], "whole_": every}
    return kinds[prefix]


@pytest.mark.parametrize("policy", ["with_layer", "weights_only"])
@pytest.mark.parametrize("start", [None, 0])
def test_every_point_is_what_a_copied_network_gives(start, policy):
    one, two = toy.conv_states(5)[:2], toy.conv_states(5)[3:]
    found = found_on(
        conv_stack(one),
        **{"other": conv_stack(two), "start": start, "shares": POINTS, "cumulative": True},
        **{"model": toy.ConvNet(), "data": toy.conv_examples(), "batchnorm": policy},
    )
    begin = one[1 if start is None else start]
    for prefix in ("", "upto_", "from_", "whole_"):
        for epoch, share in ((0, 0.25), (1, 0.5), (1, 1)):
            for layer in ("conv", "norm", "head")[: 1 if prefix == "whole_" else 3]:
                at = {"epoch": epoch, "share": share}
                at |= {} if prefix == "whole_" else {"layer": layer}
                loss, error = naive.path_point(
                    *(toy.ConvNet(), begin, two[epoch], moved_by(prefix, layer), share),
                    *(toy.conv_examples(), policy == "with_layer"),
                )
                assert found[f"{prefix}loss"].sel(at).item() == pytest.approx(loss, rel=1e-5)
                assert found[f"{prefix}error"].sel(at).item() == pytest.approx(error, abs=1e-6)
    assert found.attrs["start"] == (1 if start is None else start)


def test_recalibrated_statistics_are_those_of_the_network_on_the_line():
    states, data = toy.conv_states(2), toy.conv_examples()
    options = {"model": toy.ConvNet(), "data": data, "shares": [0.5]}
    found = found_on(
        conv_stack(states), batchnorm="recalibrate", calibration=data[0], epochs=[0], **options
    )
    kept = found_on(conv_stack(states), epochs=[0], **options)
    loss, _ = naive.path_point(
        *(toy.ConvNet(), states[1], states[0], ["conv", "norm", "head"], 0.5, data, True),
        calibration=data[0],
    )
    assert found["whole_loss"].sel(share=0.5).item() == pytest.approx(loss, rel=1e-5)
    assert kept["whole_loss"].sel(share=0.5).item() != pytest.approx(loss, rel=1e-3)


def test_each_start_is_the_epoch_of_its_end_where_that_is_asked_for():
    one, two = toy.conv_states(6)[:3], toy.conv_states(6)[3:]
    options = {"model": toy.ConvNet(), "data": toy.conv_examples(), "shares": POINTS}
    stack, other = conv_stack(one), conv_stack(two)
    found = found_on(stack, other=other, start="same", **options)
    assert found["epoch"].values.tolist() == [0, 1, 2]
    assert found.attrs["start"] == -1
    for epoch in (0, 1, 2):
        alone = found_on(stack, other=other, start=epoch, epochs=[epoch], **options)
        for name in ("error", "loss", "whole_loss", "loss_barrier", "loss_midpoint"):
            xr.testing.assert_equal(found[name].sel(epoch=[epoch]), alone[name])


# --- the ends are what is known already -------------------------------------------------------


@pytest.fixture(scope="module")
def bundled_paths(bundled):
    return found_on(bundled, epochs=[0, 8, 100], shares=[0.5], cumulative=True)


def test_paths_say_what_they_lead_between(bundled, bundled_paths):
    name, digest = bundled.attrs["name"], content_hash(bundled)
    said = {"start": 100, "final_epoch": 100, "other": name}
    hashes = {"content_hash": digest, "other_hash": digest}
    assert {**bundled_paths.attrs, **said, **hashes} == bundled_paths.attrs


def test_the_ends_of_a_path_are_cells_of_the_sweep_and_the_intact_network(bundled, bundled_paths):
    sweep = lx.sweep(bundled, epochs=[0, 8, 100], draws=0, device="cpu", progress=False)
    for name in ("error", "error_low", "error_high", "loss"):
        at_b = bundled_paths[name].sel(share=1, drop=True)
        assert at_b.values.tolist() == sweep[name].values.tolist()
        whole = bundled_paths[f"whole_{name}"].sel(share=1, drop=True)
        assert whole.values.tolist() == sweep[f"fullmodel_{name}"].values.tolist()
    assert (bundled_paths["error"].sel(share=0) == sweep.attrs["final_error"]).all()
    assert (bundled_paths["examples"] == 1800).all()


def test_the_path_from_an_epoch_to_itself_is_a_point(bundled, bundled_paths):
    for start, found in ((100, bundled_paths), (8, found_on(bundled, start=8, epochs=[8]))):
        here = found.sel(epoch=start)
        assert len(np.unique(here["loss"])) == len(np.unique(here["whole_loss"])) == 1
        assert (here["loss_barrier"] == 0).all()


def test_all_layers_up_to_the_last_and_from_the_first_on_are_the_whole_network(bundled_paths):
    for quantity in ("error", "loss", "error_barrier", "loss_midpoint"):
        whole = bundled_paths[f"whole_{quantity}"]
        last = bundled_paths[f"upto_{quantity}"].sel(layer="layer4", drop=True)
        first = bundled_paths[f"from_{quantity}"].sel(layer="layer1", drop=True)
        xr.testing.assert_equal(last.rename(whole.name), whole)
        xr.testing.assert_equal(first.rename(whole.name), whole)
    assert (
        bundled_paths["upto_loss"].sel(layer="layer1") == bundled_paths["loss"].sel(layer="layer1")
    ).all()


def test_paths_measured_apart_have_the_same_numbers(bundled, bundled_paths):
    apart = found_on(bundled, epochs=[8], layers=["layer3"], shares=[0.5], cumulative=True)
    xr.testing.assert_equal(apart, bundled_paths.sel(epoch=[8], layer=["layer3"]))


def test_part_by_part_one_layer_is_finished_before_the_next_is_begun():
    """A reader who watches has the first barriers early."""
    stack = conv_stack(toy.conv_states())
    data = toy.conv_examples()
    run = Evaluator(stack, model=toy.ConvNet(), data=data, device="cpu", batch_size=8)
    parts = paths_parts(run, epochs=[0], shares=POINTS)
    known = [part.dataset()["error"].notnull().all("share").sum().item() for part in parts]
    assert {1, 2, 3} <= set(known)


def test_a_joined_stack_reads_what_its_parts_hold(bundled):
    found = joined(bundled, 8, bundled, [100, 0])
    assert epoch_numbers(found)[:2] == [100, 0]
    assert layer_names(found) == layer_names(bundled)
    for position, epoch in enumerate((100, 0, 8)):
        mine = read_epoch(found, epoch_numbers(found)[position])
        theirs = read_epoch(bundled, epoch)
        assert list(mine) == list(theirs)
        assert all(np.array_equal(mine[name], theirs[name]) for name in mine)
    assert found.attrs["content_hash"] != bundled.attrs["content_hash"]
    assert (
        found.attrs["content_hash"] != joined(bundled, 8, bundled, [100, 1]).attrs["content_hash"]
    )


# --- stopping, keeping, refusing --------------------------------------------------------------


def test_ctrl_c_keeps_what_is_known_and_says_that_it_is_not_all(bundled, monkeypatch):
    original = Evaluator.count

    def stopped(self, replacements, *rest, **options):
        for estimates in original(self, replacements, *rest, **options):
            yield estimates
            raise KeyboardInterrupt

    monkeypatch.setattr(Evaluator, "count", stopped)
    found = found_on(bundled, epochs=[0], shares=[0.5], batch_size=900)
    assert found.attrs["complete"] == 0
    assert (found["examples"] == 900).all()
    assert np.isfinite(found["error"]).all()


def test_a_file_holds_the_ends_for_a_sweep_and_the_other_way_round(bundled, tmp_path, monkeypatch):
    store = tmp_path / "kept"
    sweep = lx.sweep(bundled, epochs=[8], draws=0, device="cpu", progress=False, store=store)
    counted = []
    original = Evaluator.count
    monkeypatch.setattr(
        Evaluator, "count", lambda s, r, *a, **o: counted.append(len(r)) or original(s, r, *a, **o)
    )
    found = found_on(bundled, epochs=[8], shares=[1], store=store)
    assert counted == []
    assert found["error"].sel(share=1).values.tolist() == sweep["error"].values.tolist()


def test_paths_can_be_saved_and_read_back(bundled_paths, tmp_path):
    assert bundled_paths.attrs["complete"] == 1
    with xr.open_dataset(save_netcdf(bundled_paths, tmp_path / "p.nc"), engine="h5netcdf") as again:
        xr.testing.assert_equal(again, bundled_paths)
        assert again.attrs["other_hash"] == bundled_paths.attrs["other_hash"]


def test_values_that_are_not_finite_have_a_reason_and_no_barrier():
    states = toy.switch_states()
    states[0]["first.weight"] = torch.full((3, 3), float("nan"))
    stack = lx.open_stack(states, model=toy.Switch())
    found = found_on(stack, model=toy.Switch(), data=toy.one_hot_examples(), shares=[0.5])
    assert found["reason"].sel(layer="first", epoch=0, share=0.5).item().startswith("NaN or inf")
    assert np.isnan(found["error_barrier"].sel(layer="first", epoch=0))
    assert np.isfinite(found["error_barrier"].sel(layer="second")).all()


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"start": "same"}, UsageError, r"'same' was given without(.|\n)*Pass other="),
        ({"shares": [0.5, 2]}, UsageError, r"shares is \[0.5, 2\](.|\n)*from 0"),
        ({"shares": 1}, UsageError, r"shares is 1(.|\n)*Leave it out"),
        ({"layers": ["layre1"]}, UnknownNameError, "Did you mean 'layer1'"),
        ({"epochs": [7]}, UnknownNameError, "no epoch 7"),
        ({"start": 7}, UnknownNameError, "no epoch 7"),
    ],
)
def test_what_does_not_fit_is_refused(bundled, options, error, match):
    with pytest.raises(error, match=match):
        found_on(bundled, **options)


def test_a_file_is_of_one_start(bundled, tmp_path):
    with pytest.raises(UsageError, match=r"begin at several epochs(.|\n)*start="):
        found_on(bundled, other=bundled, epochs=[0, 8], start="same", store=tmp_path / "kept")


def test_another_network_is_no_other_run(bundled):
    with pytest.raises(StackError, match=r"'vgg11-digits' differ in(.|\n)*one recipe"):
        found_on(bundled, other=lx.open_stack("vgg11-digits"))
