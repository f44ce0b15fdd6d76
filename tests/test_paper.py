"""The paper's own numbers in the form of our results."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from explorer.engine.results import Sweep, empty_results
from explorer.engine.verdicts import not_monotone, recovery, verdicts
from explorer.errors import UnknownNameError
from explorer.inventory.paper import FIGURES_FILE, paper_distances, paper_sweep, paper_sweeps
from explorer.ui.table import sweep_frame, sweep_html, sweep_text

FCN = "fcn3x256-mnist"


def critical(name):
    found = verdicts(paper_sweep(name)).to_series()
    return [layer for layer, word in found.items() if word == "critical"]


def test_these_figures_could_be_read():
    assert paper_sweeps() == [FCN, "fcn6-mnist", "vgg11-cifar10", "resnet50-imagenet"]


@pytest.mark.parametrize("name", paper_sweeps())
def test_a_figure_has_the_form_of_a_sweep(name):
    sweep = paper_sweep(name)
    ours = empty_results(sweep["layer"].values, sweep["epoch"].values, 1, "")
    for variable in set(ours) & set(sweep):
        assert sweep[variable].dims == ours[variable].dims
        assert sweep[variable].dtype == ours[variable].dtype
    assert set(ours) - set(sweep) <= {
        f"{p}turned_{w}" for p in ("", "rerandomized_", "fullmodel_") for w in ("wrong", "right")
    }
    assert ((sweep.error >= 0) & (sweep.error <= 1)).all()
    assert (sweep.error.isel(epoch=-1) == sweep.attrs["final_error"]).all()


@pytest.mark.parametrize("name", paper_sweeps())
def test_a_figure_says_where_its_numbers_are_from_and_how_exact_they_are(name):
    attrs = paper_sweep(name).attrs
    assert attrs["source"].startswith("paper: Zhang, Bengio, Singer")
    assert "JMLR" in attrs["figure"] or "arXiv 1902.01996v1" in attrs["figure"]
    assert "digitised from" in attrs["picture"]
    assert "±0.02" in attrs["precision"]


def test_chance_is_that_of_guessing_among_the_classes():
    found = [paper_sweep(name).attrs["chance_error"] for name in paper_sweeps()]
    assert found == pytest.approx([0.9, 0.9, 0.9, 0.999])


@pytest.mark.parametrize("name", paper_sweeps())
def test_a_figure_is_shown_like_any_sweep(name):
    sweep = paper_sweep(name)
    frame = sweep_frame(sweep)
    assert list(frame.index) == [*sweep["layer"].values, "fullmodel"]
    html, text = sweep_html(sweep), sweep_text(sweep)
    assert html.count("<tr ") == 1 + len(frame)
    assert "the paper&#x27;s" in html
    assert ("the figure does not show it" in text) == (name != FCN)
    shown = Sweep(sweep.data_vars, sweep.coords, sweep.attrs)._repr_html_()
    assert html in shown


def test_the_numbers_are_those_of_figure_1a():
    sweep = paper_sweep(FCN)
    assert sweep.error.sel(layer="layer1").values.tolist() == [
        *(0.379, 0.06, 0.032, 0.028, 0.024, 0.024, 0.024, 0.024)
    ]
    assert sweep.rerandomized_error.values.tolist() == [[0.886], [0.902], [0.91], [0.826]]
    assert sweep.fullmodel_error.values[0] == 0.91
    assert sweep["epoch"].values.tolist() == [0, 1, 2, 3, 8, 40, 90, 100]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (FCN, ["layer1"]),
        ("fcn6-mnist", ["layer1"]),
        ("vgg11-cifar10", [*(f"stage{s}.block1" for s in (1, 2, 3)), "stage3.block2",
                           "stage4.block1", "stage4.block2"]),
        ("resnet50-imagenet", ["stage0", *(f"stage{s}.resblk1" for s in (1, 2, 3, 4)),
                               "stage4.resblk2", "stage4.resblk3", "final_linear"]),
    ],
)  # fmt: skip
def test_by_our_threshold_these_layers_of_the_paper_are_critical(name, expected):
    assert sorted(critical(name)) == sorted(expected)


def test_what_a_figure_does_not_tell_is_not_invented():
    sweep = paper_sweep("vgg11-cifar10")
    assert np.isnan(sweep.fullmodel_error).all()
    assert np.isnan(sweep.error_low).all()
    assert (sweep.examples == 0).all()
    assert not not_monotone(sweep).any()
    assert recovery(sweep).sel(layer="fc1") == 0


def test_the_layer_that_moved_most_is_not_the_critical_one():
    distances = paper_distances(FCN)
    for measure in ("l2_normalised", "linf"):
        assert distances[measure].isel(epoch=-1).idxmax("layer") == "layer4"
        assert distances[f"fresh_{measure}"].dims == ("layer", "draw")
    assert "could not be read" in distances["l2_normalised"].attrs["long_name"]
    assert (distances.l2_normalised.sel(epoch=0) <= 0.005).all()


def test_a_figure_that_could_not_be_read_is_refused_with_those_there_are():
    with pytest.raises(UnknownNameError, match=r"no figure of the paper 'vgg11'(.|\n)*vgg11-cifar"):
        paper_sweep("vgg11")
    with pytest.raises(UnknownNameError, match=r"no figure of the paper 'vgg11-cifar10'(.|\n)*fcn"):
        paper_distances("vgg11-cifar10")


def test_changing_what_was_returned_changes_nothing_for_the_next_reader():
    paper_sweep(FCN).error.values[:] = math.nan
    paper_sweep(FCN).attrs.clear()
    assert paper_sweep(FCN).error.notnull().all()
    assert paper_sweep(FCN).attrs


def test_the_file_of_the_figures_claims_no_table_of_the_authors():
    content = json.loads(FIGURES_FILE.read_text(encoding="utf-8"))
    assert "not the authors' own table" in content["about"]
