"""Pictures of valleys and paths, without a browser: cells, words, marks, accessible names."""

from __future__ import annotations

import math

import numpy as np
import pytest
from bokeh.document import Document
from bokeh.models import Legend
from bokeh.models.glyphs import Line, Rect, Segment, VArea

import explorer as lx
from explorer.colours import REDS, contrast, shade
from explorer.errors import UnknownNameError
from explorer.ui.between import barrier_columns, valley_columns
from explorer.ui.figures import BLUE, RED
from explorer.ui.landscapes import barrier_figure, path_figure, valley_figure
from explorer.ui.painting import MISSING
from explorer.ui.panel_tables import barrier_table
from tests import toy
from tests.test_paths import conv_stack, product


@pytest.fixture(scope="module")
def valley():
    states = toy.switch_states()
    options = {"model": toy.Switch(), "data": toy.one_hot_examples(), "alphas": [0, 0.5, 1]}
    stack = lx.open_stack(states, model=toy.Switch())
    return lx.criticality(
        stack, sigmas=[0, 0.01, 0.05, 10], draws=2, device="cpu", progress=False, **options
    )


@pytest.fixture(scope="module")
def ways():
    states = toy.conv_states(4)
    return lx.paths(
        conv_stack(states[:2]),
        **{"other": conv_stack(states[2:]), "model": toy.ConvNet(), "data": toy.conv_examples()},
        **{"shares": 5, "device": "cpu", "progress": False},
    )


def glyphs(plot, kind):
    return [one for one in plot.renderers if isinstance(one.glyph, kind)]


def cell_of(columns, x, y):
    places = list(zip(columns["x"], columns["y"], strict=True))
    at = places.index((x, y))
    return {name: values[at] for name, values in columns.items()}


def test_a_valley_has_its_final_layer_on_top_and_the_noise_to_the_right(valley):
    columns = valley_columns(valley, "first")
    final, start = cell_of(columns, 0, 0), cell_of(columns, 0, 2)
    assert final["where"] == "first: α = 1, σ = 0"
    assert start["where"] == "first: α = 0, σ = 0"
    assert final["fill"] == "#ffffff"
    assert cell_of(columns, 3, 0)["where"] == "first: α = 1, σ = 10"
    assert len(columns["x"]) == 12


def test_what_is_good_enough_has_a_frame_and_words_and_what_is_unknown_a_hatch(valley):
    columns = valley_columns(valley, "first")
    final, start = cell_of(columns, 0, 0), cell_of(columns, 0, 2)
    assert (final["edge"], final["wide"]) == (BLUE, 3.0)
    assert start["edge"] != BLUE
    assert "\ngood enough: the mean loss may be" in final["tip"]
    assert "\nnot good enough" in start["tip"]
    unknown = cell_of(columns, 3, 2)
    assert (unknown["hatch"], unknown["text"], unknown["fill"]) == ("/", "–", MISSING)
    assert "does not depend on it" in unknown["tip"]


def test_the_numbers_can_be_read_on_every_colour(valley, ways):
    for columns in (valley_columns(valley, "first"), barrier_columns(ways, "loss")):
        pairs = zip(columns["fill"], columns["ink"], strict=True)
        assert all(contrast(fill, ink) >= 4.5 for fill, ink in pairs)


def test_the_ring_is_where_the_criticality_is_and_the_title_says_it(valley):
    plot = valley_figure(valley, "first")
    best = valley.sel(layer="first")
    column = best["sigma"].values.tolist().index(float(best["sigma_best"]))
    rings = [one for one in glyphs(plot, Rect) if one.glyph.fill_alpha == 0]
    assert len(rings) == 2
    for ring in rings:
        assert ring.data_source.data["x"] == [column]
        assert ring.data_source.data["y"] == [0]  # α = 1
    assert f"{float(best['criticality']):.3g} at α = 1" in " ".join(plot.title.text.split())
    said = " ".join(plot.title.text.split()).partition(" mean loss")[0]
    assert said in plot.html_attributes["aria-label"]


def test_a_layer_without_a_criticality_says_why_and_has_no_ring(valley):
    none = valley.copy(deep=True)
    none["criticality"].values[:] = math.inf
    none["layer_reason"].values[:] = "no point of the grid is good enough"
    none["alpha_best"].values[:] = none["sigma_best"].values[:] = np.nan
    plot = valley_figure(none, "first")
    assert "no point of the grid" in " ".join(plot.title.text.split())
    assert len(glyphs(plot, Rect)) == 3  # the cells and their two hatches


def test_barriers_are_white_where_there_is_none_and_the_whole_network_stands_below(ways):
    columns = barrier_columns(ways, "loss")
    heights = ways["loss_barrier"].transpose("layer", "epoch").values
    assert len(columns["x"]) == (3 + 1) * 2
    for row, column in np.ndindex(*heights.shape):
        cell = cell_of(columns, column, row)
        assert (cell["fill"] == "#ffffff") == (heights[row, column] < 1e-4)
    last = cell_of(columns, 0, 3)
    assert last["where"] == "whole network, to epoch 0"
    highest = max(heights.max(), ways["whole_loss_barrier"].values.max(), 0.01)
    assert last["fill"] == shade(
        ((255, 255, 255), (253, 212, 194), (251, 106, 74), (190, 22, 28), (88, 0, 13)),
        ways["whole_loss_barrier"].values[0] / highest,
    )


def test_a_barrier_that_is_not_known_is_hatched():
    states = toy.switch_states()
    states[0]["first.weight"] *= float("nan")
    stack = lx.open_stack(states, model=toy.Switch())
    found = lx.paths(
        stack, model=toy.Switch(), data=toy.one_hot_examples(), device="cpu", progress=False
    )
    cell = cell_of(barrier_columns(found), 0, 0)
    assert (cell["hatch"], cell["text"], cell["tip"]) == ("/", "–", "not measured")


def test_a_path_is_drawn_beside_that_of_the_whole_network_with_its_barrier():
    found = product([(3.0, 0.0), (0.0, 3.0)])
    plot = path_figure(found, 0, "a", "loss")
    (mark,) = glyphs(plot, Segment)  # that of the whole network; layer a has none
    data = mark.data_source.data
    assert data["x0"] == data["x1"] == [0.5]
    assert data["y0"][0] == pytest.approx(40)
    assert data["y1"][0] == pytest.approx(40 + 9 / 4)
    assert mark.glyph.line_color == BLUE
    assert "a: barrier 0 whole network: barrier 2.25" in " ".join(plot.title.text.split())
    assert "barrier 2.25" in plot.html_attributes["aria-label"]


def test_two_paths_are_told_apart_without_colour(ways):
    plot = path_figure(ways, 1, "conv")
    curves = [one for one in glyphs(plot, Line) if one.glyph.line_width == 2]
    assert {(one.glyph.line_color, tuple(one.glyph.line_dash)) for one in curves} == {
        (RED, ()),
        (BLUE, (6,)),
    }
    assert [item.label.value for item in plot.select_one(Legend).items] == ["conv", "whole network"]
    assert len(glyphs(plot, VArea)) == 2  # the intervals of the error
    assert "to another run" in " ".join(plot.title.text.split())


def test_every_figure_can_be_shown_and_has_a_name(valley, ways):
    figures = [
        valley_figure(valley, "second", "error"),
        barrier_figure(ways),
        path_figure(ways, 0),
        path_figure(ways, 0, "head", "loss"),
    ]
    for plot in figures:
        Document().add_root(plot)
        assert plot.html_attributes["role"] == "img"
        assert len(plot.html_attributes["aria-label"].split()) >= 8


def test_a_layer_or_epoch_that_is_not_there_is_refused(valley, ways):
    with pytest.raises(UnknownNameError, match="Did you mean 'first'"):
        valley_figure(valley, "frist")
    with pytest.raises(UnknownNameError, match="no epoch 7"):
        path_figure(ways, 7)
    with pytest.raises(UnknownNameError, match="no layer 'cnov'"):
        path_figure(ways, 0, "cnov")


def test_a_barrier_has_one_colour_in_the_heatmap_and_in_the_table():
    """Small ones are pale in both."""
    found = product([(3.0, 0.0), (0.0, 3.0)])
    found = found.assign({name: 0.002 + 0 * found[name] for name in found if "barrier" in name})
    fill = cell_of(barrier_columns(found, "error"), 0, 0)["fill"]
    assert fill == shade(REDS, 0.2)
    assert f'background:{fill}"' in barrier_table(found, "error")
    assert f"background:{shade(REDS, 1)}" not in barrier_table(found, "error")


def test_the_title_of_a_path_says_from_where_to_where():
    found = product([(3.0, 0.0), (0.0, 3.0)])
    title = " ".join(path_figure(found, 0, "a", "loss").title.text.split())
    assert title.startswith(f"from epoch {found.attrs['start']} to epoch 0 ")
