"""What is shown, without a browser: cells, results, colours, words and figures."""

from __future__ import annotations

import math

import numpy as np
import pytest
from bokeh.document import Document
from bokeh.events import DoubleTap, Tap
from bokeh.models import ColumnDataSource, FixedTicker, Label, Title
from bokeh.models.glyphs import Rect, Text

from explorer.colours import BLUE_TO_RED, BLUES, REDS, contrast, ink, palette, shade
from explorer.ui.curves import Curve, ProfileView, RelationView
from explorer.ui.figures import heatmap_figure
from explorer.ui.grid import Cell, Grid, unit_of
from explorer.ui.naming import names_beside
from explorer.ui.painted_cells import COLUMNS, draw_cells
from explorer.ui.painting import (
    difference_scale,
    distance_columns,
    error_columns,
    error_scale,
)
from explorer.ui.relations import profile, relation
from explorer.ui.report import grid_of
from explorer.ui.results import NOT_MEASURED, Reading, blank, fail, from_sweep, read, record
from explorer.ui.table import sweep_html, sweep_text
from explorer.ui.titles import broken_title
from explorer.ui.views import Heatmap
from explorer.ui.wording import (
    MEASURES,
    complaint,
    error_legend,
    error_tip,
    how_to,
    percent,
    short_difference,
    short_number,
    short_percent,
    spoken,
    time_left,
)
from tests.fakes import EPOCHS, GRID, LAYERS, Counted, distances, sweep

SCALE = error_scale(0.1, 0.9)
SIDEWAYS = Grid(LAYERS, EPOCHS, 2, sideways=True)


def painted(results, cell):
    columns = error_columns(results, GRID, SCALE)
    at = columns["where"].index(str(cell))
    return {name: values[at] for name, values in columns.items()}


# Which cells there are


def test_the_first_layer_is_on_top_and_fresh_draws_stand_first():
    rows = [GRID.place(Cell(layer, 0))[1] for layer in GRID.rows]
    columns = [GRID.place(Cell("first", epoch))[0] for epoch in (None, *EPOCHS)]
    assert rows == sorted(rows) == [0, 1, 2.3]
    assert columns == sorted(columns) == [-1.3, 0, 1, 2]


def test_sideways_layers_run_from_left_to_right_and_sources_downwards():
    assert SIDEWAYS.place(Cell("second", 0)) == (1.0, 0.0)
    assert SIDEWAYS.place(Cell("first", None)) == (0.0, -1.3)
    assert SIDEWAYS.place(Cell(None, 5)) == (2.3, 2.0)


@pytest.mark.parametrize("grid", [GRID, SIDEWAYS])
def test_the_table_has_every_cell_once_where_the_picture_has_it(grid):
    table = grid.table
    cells = [cell for line in table for cell in line if cell is not None]
    assert sorted(map(str, cells)) == sorted(map(str, grid.cells))
    for line in table:
        along = [grid.place(cell) for cell in line if cell is not None]
        assert len({y for _, y in along}) == 1
        assert [x for x, _ in along] == sorted(x for x, _ in along)
    assert sum(cell is None for line in table for cell in line) == 1


def test_the_whole_network_has_no_fresh_draws():
    assert Cell(None, None) not in GRID.cells
    assert len(GRID.cells) == len(LAYERS) * (1 + len(EPOCHS)) + len(EPOCHS)


@pytest.mark.parametrize("grid", [GRID, SIDEWAYS])
def test_every_cell_is_found_at_its_own_place(grid):
    for cell in grid.cells:
        x, y = grid.place(cell)
        assert grid.cell_at(x + 0.4, y - 0.4) == cell


@pytest.mark.parametrize(
    ("x", "y"),
    [
        *[(3.0, 0.0), (0.0, -0.7), (-5.0, 0.0), (-0.65, 0.0), (-1.3, 2.3), (1e300, 0.0)],
        *[(None, 0.0), (0.0, None), (math.nan, 0.0), (math.inf, math.inf)],
    ],
)
def test_a_place_outside_or_between_the_cells_is_no_cell(x, y):
    assert GRID.cell_at(x, y) is None


def test_checkpoints_that_count_steps_are_called_steps():
    grid = grid_of(sweep("step"))
    assert [str(cell) for cell in grid.cells][:2] == ["first ← fresh draws", "first ← step 0"]
    assert grid.cell_at(0, 2.3) == grid.cell(None, 0) == Cell(None, 0, "step")
    assert Cell("first", 0) not in grid.cells
    axis = Heatmap(grid, REDS, "errors").figure.xaxis[0]
    assert axis.axis_label == "step the layer is put back to"
    said = (error_legend("step"), how_to("step"), sweep_text(sweep("step")))
    for text in (*said, sweep_html(sweep("step"))):
        assert "step" in text
        assert "epoch" not in text


@pytest.mark.parametrize("attrs", [{}, {"checkpoint_unit": "epoch"}, {"checkpoint_unit": "<b>"}])
def test_checkpoints_that_do_not_say_what_they_count_are_epochs(attrs):
    assert unit_of(attrs) == "epoch"
    older = sweep()
    older.attrs = {**older.attrs, "checkpoint_unit": ""} | attrs
    assert "after putting one layer back to an epoch" in sweep_text(older)
    assert "back to one epoch (column)" in sweep_html(older)


# What has been measured


def test_results_copy_a_sweep_and_leave_it_as_it_is():
    original = sweep()
    results = from_sweep(original, GRID)
    record(results, Cell("first", 0), None, Counted(100, 1))
    assert read(results, Cell("first", 0)).value == 0.01
    assert original.equals(sweep())
    assert original.attrs == results.attrs


def test_cells_that_a_sweep_lacks_are_not_measured():
    part = sweep().isel(layer=[1], epoch=[0, 2], draw=[0])
    results = from_sweep(part, GRID)
    assert read(results, Cell("first", 0)).state == "missing"
    assert read(results, Cell("second", 1)).reason == NOT_MEASURED
    assert read(results, Cell("second", 5)).value == 0.1
    fresh = read(results, Cell("second", None))
    assert (fresh.state, fresh.value) == ("estimated", 0.6)
    assert "mean of 1 of 2 fresh draws" in error_tip(fresh)


def test_what_is_recorded_is_read_back():
    results = blank(GRID, {"examples": 100})
    record(results, Cell("first", 1), None, Counted(100, 42))
    record(results, Cell("second", None), 1, Counted(100, 80))
    record(results, Cell(None, 5), None, Counted(100, 10))
    one = read(results, Cell("first", 1))
    assert (one.state, one.value, one.low, one.high, one.examples) == (
        ("measured", 0.42, 0.41, 0.43, 100)
    )
    assert results["loss"].loc["first", 1] == 1.5
    assert results["agreement"].loc["first", 1] == 0.25
    assert read(results, Cell("second", None)).value == 0.8
    assert read(results, Cell(None, 5)).value == 0.1
    assert int(np.isfinite(results["error"]).sum()) == 1


def test_the_value_of_a_rernd_cell_is_the_mean_of_its_draws():
    reading = read(from_sweep(sweep(), GRID), Cell("first", None))
    assert reading.value == pytest.approx(0.85)
    assert reading.draws == (0.8, 0.9)


def test_fewer_examples_than_there_are_make_an_estimate():
    results = from_sweep(sweep(), GRID)
    record(results, Cell("first", 0), None, Counted(50, 20))
    assert read(results, Cell("first", 0)).state == "estimated"
    assert painted(results, Cell("first", 0))["text"] == "≈40"


def test_an_output_that_is_not_finite_fails_with_the_reason_and_no_number():
    results = from_sweep(sweep(), GRID)
    record(results, Cell("first", 0), None, Counted(100, 0, failure="NaN for 3 of 100 examples"))
    record(results, Cell("second", None), 1, Counted(100, 0, failure="infinite"))
    assert read(results, Cell("first", 0)).state == "failed"
    assert np.isnan(results["error"].loc["first", 0])
    assert painted(results, Cell("first", 0))["tip"] == "NaN for 3 of 100 examples"
    assert read(results, Cell("second", None)).reason == "fresh draw 1: infinite"


def test_a_measurement_takes_the_place_of_a_failure():
    results = from_sweep(sweep(), GRID)
    fail(results, Cell("first", None), None, "broken")
    assert read(results, Cell("first", None)).state == "failed"
    for draw in (0, 1):
        record(results, Cell("first", None), draw, Counted(100, 42))
    assert read(results, Cell("first", None)).value == 0.42


# Colours and numbers


def test_the_final_error_is_white_and_chance_is_darkest():
    assert shade(REDS, SCALE.share(0.1)) == "#ffffff"
    assert shade(REDS, SCALE.share(0.9)) == palette(REDS)[-1] == "#58000d"
    assert SCALE.share(0.05) == 0
    assert SCALE.share(0.99) == 1


def test_differences_are_white_at_the_final_error_and_blue_only_below_it():
    scale = difference_scale(0.1, 0.9, lowest=0.07)
    assert scale.colour(0.1) == "#ffffff"
    assert scale.colour(0.9) == "#58000d"
    assert scale.colour(0.07) == scale.colour(0.0) == "#145296"
    assert [label for _, label in scale.ticks] == ["better −3.0", "trained 10\u00a0%", "chance +80"]


def test_noise_below_the_final_error_stays_pale():
    scale = difference_scale(0.1, 0.9, lowest=0.0999)
    assert contrast(scale.colour(0.0999), "#ffffff") < 1.1


def test_a_cell_of_differences_shows_its_sign():
    columns = error_columns(from_sweep(sweep(), GRID), GRID, difference_scale(0.1, 0.9, 0.1))
    texts = dict(zip(columns["where"], columns["text"], strict=True))
    assert texts["first ← epoch 0"] == "+60"
    assert texts["second ← epoch 1"] == "+5.0"
    assert texts["second ← epoch 5"] == "0"
    assert short_difference(-0.003) == "−0.3"


def test_the_hover_text_of_an_error_has_its_loss_and_distance():
    results = from_sweep(sweep(), GRID)
    columns = error_columns(results, GRID, SCALE, distances(), "l2")
    tips = dict(zip(columns["where"], columns["tip"], strict=True))
    assert "loss 0.6 nats" in tips["second ← epoch 0"]
    assert tips["second ← epoch 1"].endswith("L2 from the start: 4")
    assert "from the start" not in tips["fullmodel ← epoch 0"]
    broken = distances()
    broken["reason"].loc["second", 1] = "altered"
    columns = error_columns(results, GRID, SCALE, broken, "l2")
    tips = dict(zip(columns["where"], columns["tip"], strict=True))
    assert tips["second ← epoch 1"].endswith("distance: altered")


def test_the_scale_spans_everything_while_the_final_error_is_unknown():
    scale = error_scale(math.nan, math.nan)
    assert (scale.low, scale.high) == (0.0, 1.0)
    assert [label for _, label in scale.ticks][-1] == "100\u00a0%"


@pytest.mark.parametrize(
    ("final", "ticks", "differences"),
    [
        (
            0.95,
            ["trained 95\u00a0%", "100\u00a0%"],
            ["better −5.0", "trained 95\u00a0%", "worse +5.0"],
        ),
        (1.0, ["trained 100\u00a0%"], ["better −10", "trained 100\u00a0%"]),
    ],
)
def test_of_a_network_worse_than_chance_no_end_of_the_scale_is_called_chance(
    final, ticks, differences
):
    scale, between = error_scale(final, 0.9), difference_scale(final, 0.9, lowest=0.9)
    assert [label for _, label in scale.ticks] == ticks
    assert [label for _, label in between.ticks] == differences
    assert scale.colour(final) == between.colour(final) == "#ffffff"
    assert between.colour(0.9) == "#145296"


@pytest.mark.parametrize("ramp", [REDS, BLUES])
def test_colours_differ_in_lightness_so_that_they_need_not_be_told_apart_by_hue(ramp):
    against_white = [contrast(colour, "#ffffff") for colour in palette(ramp)]
    assert against_white == sorted(against_white)
    assert against_white[-1] > 12


@pytest.mark.parametrize("ramp", [REDS, BLUES, BLUE_TO_RED])
def test_numbers_stand_out_from_their_cell(ramp):
    assert min(contrast(colour, ink(colour)) for colour in palette(ramp)) >= 4.3


def test_a_cell_without_a_number_can_be_told_without_colour():
    results = from_sweep(sweep(), GRID)
    fail(results, Cell("first", 0), None, "out of memory")
    fail(results, Cell("first", 1), None, NOT_MEASURED)
    broken, unknown, known = (painted(results, Cell("first", epoch)) for epoch in EPOCHS)
    assert (broken["hatch"], broken["text"], broken["tip"]) == ("x", "!", "out of memory")
    assert (unknown["hatch"], unknown["text"], unknown["tip"]) == ("/", "–", NOT_MEASURED)
    assert (known["hatch"], known["text"]) == ("blank", "10")


def test_distances_are_painted_with_the_fresh_draws_as_yardstick():
    columns, scale = distance_columns(distances(), GRID, "l2")
    at = columns["where"].index("first ← fresh draws")
    assert columns["text"][at] == "6.0"
    assert columns["tip"][at] == "L2 from the start: 6, mean of 2 fresh draws\ndraws: 4, 8"
    assert scale.high == 8.0
    assert not any(str(where).startswith("fullmodel") for where in columns["where"])


def test_distances_that_are_not_there_say_why():
    nothing, _ = distance_columns(None, GRID, "l2")
    assert set(nothing["hatch"]) == {"/"}
    without = distances().drop_vars("fresh_l2").assign_attrs(yardstick="none: no model was given")
    broken = without.copy(deep=True)
    broken["nonfinite"].loc["second", 5] = 3
    broken["reason"].loc["second", 1] = "epoch-0001.safetensors has been altered"
    columns, _ = distance_columns(broken, GRID, "l2")
    tips = dict(zip(columns["where"], columns["tip"], strict=True))
    assert tips["second ← epoch 5"] == "3 weights are not finite (NaN or infinity)"
    assert tips["second ← epoch 1"] == "epoch-0001.safetensors has been altered"
    assert tips["first ← fresh draws"] == "yard-stick: none: no model was given"


def test_every_measure_of_the_menu_is_one_that_distances_have():
    for measure in MEASURES:
        columns, _ = distance_columns(distances(), GRID, measure)
        assert set(columns["hatch"]) == {"blank"}


def test_no_cell_has_a_hatch_of_its_own_for_which_a_page_would_make_a_canvas():
    plot = heatmap_figure(GRID, "Heatmap", False)
    source = ColumnDataSource({name: [] for name in COLUMNS})
    draw_cells(plot, GRID, source)
    found = [r.glyph.hatch_pattern for r in plot.renderers if isinstance(r.glyph, Rect)]
    assert found == [None, "/", "x"]


@pytest.mark.parametrize(
    ("fraction", "text"),
    [(0.0, "0.0"), (0.0391, "3.9"), (0.0994, "9.9"), (0.0996, "10"), (0.762, "76"), (1.0, "100")],
)
def test_an_error_stands_in_its_cell_in_three_characters(fraction, text):
    assert short_percent(fraction) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        *[(0, "0"), (0.0812, ".081"), (0.9996, "1.0"), (1.234, "1.2"), (9.96, "10")],
        *[(37.2, "37"), (1e-5, "1e-5"), (2e7, "2e7")],
    ],
)
def test_a_distance_stands_in_its_cell_in_few_characters(value, text):
    assert short_number(value) == text


def test_words_for_numbers_and_errors():
    assert percent(0.762) == "76.2\u00a0%"
    assert percent(math.nan) == "unknown"
    assert complaint(ValueError("bad")) == "ValueError: bad"
    assert complaint(EOFError()) == "EOFError"


# Figures


def test_only_what_changed_is_sent_and_with_python_integers(monkeypatch):
    results = from_sweep(sweep(), GRID)
    heatmap = Heatmap(GRID, REDS, "errors")
    heatmap.paint(error_columns(results, GRID, SCALE), SCALE)
    sent = []
    monkeypatch.setattr(type(heatmap._cells), "patch", lambda _self, change: sent.append(change))
    heatmap.paint(error_columns(results, GRID, SCALE), SCALE)
    assert sent == []
    record(results, Cell("second", 1), None, Counted(100, 42))
    heatmap.paint(error_columns(results, GRID, SCALE), SCALE)
    (change,) = sent
    assert set(change) == {"fill", "text", "tip"}
    ((at, text),) = change["text"]
    assert type(at) is int
    assert text == "42"


def test_a_mark_is_put_around_one_cell_and_taken_away():
    heatmap = Heatmap(GRID, REDS, "errors")
    heatmap.mark([Cell("second", 5)])
    assert heatmap.marked == ([2.0], [1.0])
    heatmap.mark([])
    assert heatmap.marked == ([], [])


def test_the_cursor_is_marked_in_another_way_when_it_stands_beside_the_chosen_cells():
    heatmap = Heatmap(GRID, REDS, "errors")
    heatmap.mark([Cell("first", 0), Cell("second", 1)], Cell("second", 5))
    assert heatmap.marked == ([0.0, 1.0], [0.0, 1.0])
    assert dict(heatmap._cursor.data) == {"x": [2.0], "y": [1.0]}
    heatmap.mark([Cell("second", 5)], Cell("second", 5))
    assert dict(heatmap._cursor.data) == {"x": [], "y": []}


def test_the_whole_network_is_not_marked_where_it_has_no_cells():
    heatmap = Heatmap(GRID, BLUES, "distances", whole_network=False)
    heatmap.mark([Cell(None, 5)])
    assert heatmap.marked == ([], [])


@pytest.mark.parametrize("event", [Tap, DoubleTap])
def test_a_click_is_heard_also_when_it_follows_another_at_once(event):
    heatmap = Heatmap(GRID, REDS, "errors")
    heard = []
    heatmap.on_tap(lambda *place: heard.append(place))
    for held in (None, {"shift": False, "ctrl": False, "alt": False}, {"ctrl": True}):
        tap = event(heatmap.figure, sx=1, sy=1, x=0.2, y=0.1, modifiers=held)
        heatmap.figure._trigger_event(tap)
    assert heard == [(0.2, 0.1, False), (0.2, 0.1, False), (0.2, 0.1, True)]


def test_other_colours_come_with_another_scale():
    heatmap = Heatmap(GRID, REDS, "errors")
    results = from_sweep(sweep(), GRID)
    for scale in (SCALE, difference_scale(0.1, 0.9, 0.1), SCALE):
        heatmap.paint(error_columns(results, GRID, scale), scale)
        assert heatmap._mapper.palette == palette(scale.ramp)
        assert heatmap._bar.ticker.ticks[-1] == 1.0


def test_axes_name_layers_and_epochs_as_they_are_spaced_in_the_stack():
    heatmap = Heatmap(GRID, REDS, "errors")
    columns = heatmap.figure.xaxis[0].major_label_overrides
    assert list(columns.values()) == ["ReRnd", "0", "1", "5"]
    rows = heatmap.figure.yaxis[0].major_label_overrides
    assert list(rows.values()) == ["first", "second", "fullmodel"]
    assert heatmap.figure.y_range.start > heatmap.figure.y_range.end


def test_sideways_the_axes_change_places():
    figure = Heatmap(SIDEWAYS, REDS, "errors").figure
    assert list(figure.xaxis[0].major_label_overrides.values()) == ["first", "second", "fullmodel"]
    assert list(figure.yaxis[0].major_label_overrides.values()) == ["ReRnd", "0", "1", "5"]


def test_many_epochs_get_fewer_labels_and_no_numbers():
    grid = Grid(LAYERS, tuple(range(154)), 0)
    heatmap = Heatmap(grid, REDS, "errors")
    assert isinstance(heatmap.figure.xaxis[0].ticker, FixedTicker)
    assert 10 <= len(heatmap.figure.xaxis[0].ticker.ticks) <= 16
    assert not [one for one in heatmap.figure.renderers if isinstance(one.glyph, Text)]


@pytest.mark.parametrize("rows", [9, 14, 18])
def test_a_heatmap_of_many_layers_is_not_taller_than_one_of_eight(rows):
    def height(rows):
        grid = Grid(tuple(f"layer{at}" for at in range(rows)), EPOCHS, 2)
        return Heatmap(grid, REDS, "errors").figure.height

    assert height(4) < height(rows) <= height(8)


def test_a_figure_tells_a_screen_reader_what_it_is():
    for figure in (Heatmap(GRID, REDS, "errors").figure, Curve("estimate").figure):
        assert figure.html_attributes["role"] == "img"
        assert figure.html_attributes["aria-label"] in ("errors", "estimate")


def test_the_curve_shows_a_run_and_both_lines():
    curve = Curve("estimate")
    curve.baseline(0.1, 0.9, 100)
    curve.show("first ← epoch 0", [Counted(50, 20), Counted(100, 42)])
    assert curve.figure.title.text == "first ← epoch 0"
    assert curve._points.data["examples"] == [50, 100]
    assert curve._points.data["low"] == [0.38, 0.41]
    assert (curve._intact.location, curve._chance.location) == (0.1, 0.9)
    assert 102 <= curve.figure.x_range.end <= 105  # the last dot is whole


def test_of_one_estimate_alone_the_curve_shows_the_interval():
    curve = Curve("estimate")
    curve.show("first ← epoch 0", [Counted(100, 42)])
    assert dict(curve._last.data) == {"examples": [100], "low": [0.41], "high": [0.43]}
    (segment,) = [one for one in curve.figure.renderers if one.data_source is curve._last]
    assert (segment.glyph.y0, segment.glyph.y1) == ("low", "high")
    curve.show("first ← epoch 0 (not run yet)", [])
    assert curve._last.data["low"] == []


@pytest.mark.parametrize("longest", [5, 12, 27, 100])
def test_what_a_title_was_broken_from_can_be_read_off_its_lines(longest):
    """So that the page can break it elsewhere."""
    text = "layer4: critical, from fcn3x256-digits\n\na/name/without/blanks/and-a-long-one ()"
    lines = broken_title(text, longest).split("\n")
    assert max(len(line.rstrip(" \u2060")) for line in lines) <= longest
    whole = "".join(line if line.endswith((" ", "\u2060")) else f"{line}\n" for line in lines)
    assert whole.replace("\u2060", "") == f"{text}\n"


def test_the_title_of_a_curve_breaks_where_several_layers_have_long_names():
    curve = Curve("estimate")
    title = "layer6.token_mixing, layer6.mlp ← epoch 60 (not run yet)"
    curve.show(title, [])
    lines = curve.figure.title.text.split("\n")
    assert "".join(lines) == title
    assert len(lines) == 2
    assert max(len(line.rstrip()) for line in lines) <= 38


@pytest.mark.parametrize(
    ("final", "chance", "places"),
    [
        (0.1, 0.9, (0.1, 0.9)),
        (0.8, 0.9, (0.7, 1.0)),
        (0.6, 0.5, (0.7, 0.4)),
        (0.5, 0.5, (0.35, 0.65)),
    ],
)
def test_the_labels_of_both_lines_keep_clear_of_each_other_and_of_the_curve(final, chance, places):
    curve = Curve("estimate")
    curve.baseline(final, chance, 100)
    (axis,) = curve.figure.right
    assert axis.ticker.ticks == pytest.approx(list(places))
    labels = [axis.major_label_overrides[at].replace("\u00a0", " ") for at in axis.ticker.ticks]
    assert labels == [f"trained\n{100 * final:.0f} %", f"chance\n{100 * chance:.0f} %"]
    assert not [one for one in curve.figure.center if isinstance(one, Label)]


def test_the_profile_shows_a_layer_its_draws_and_since_when_it_is_good_enough():
    view = ProfileView(GRID, "profile")
    results = from_sweep(sweep(), GRID)
    view.show(profile(results, GRID, "first", 0.1), 0.1, 0.9, 0.1)
    assert view.figure.title.text == "first: critical\ngood enough from epoch 5 on"
    assert view._line.data["error"] == [0.7, 0.3, 0.1]
    assert view._line.data["low"] == pytest.approx([0.65, 0.25, 0.05])
    assert view._draws.data["error"] == [0.8, 0.9]
    assert view._draws.data["x"] == [-1.3, -1.3]
    assert view._enough.location == pytest.approx(0.18)
    assert view._since.location == 1.5
    (fit,) = view.figure.js_property_callbacks["change:inner_width"]
    assert fit.args["labels"][0] == (-1.3, "ReRnd")  # labels beside each other never touch
    view.show(profile(results, GRID, "second", 0.2), 0.1, 0.9, 0.2)
    assert view.figure.title.text == "second: robust\ngood enough from the start on"


def test_a_profile_of_nothing_measured_is_empty_and_says_so():
    found = profile(blank(GRID, {}), GRID, "first", 0.1)
    assert found.title == "first: not known\n "
    assert found.line["x"] == found.draws["x"] == []
    assert found.good_from is None
    view = ProfileView(GRID, "profile")
    view.show(found, math.nan, math.nan, 0.1)
    assert not any(line.visible for line in (view._intact, view._enough, view._since))


def test_a_layer_whose_error_rises_again_is_not_monotone():
    results = from_sweep(sweep(), GRID)
    record(results, Cell("second", 1), None, Counted(100, 60))
    found = profile(results, GRID, "second", 0.5)
    assert found.title.split("\n")[0].endswith(", not monotone")
    assert max(map(len, found.title.split("\n"))) <= 38  # what a narrow figure has room for


def test_distance_and_error_are_set_against_each_other():
    found = relation(from_sweep(sweep(), GRID), distances(), GRID, "l2")
    points = list(zip(found.points["layer"], found.points["x"], found.points["y"], strict=True))
    assert points == [
        ("first", 2.0, 0.7),
        ("first", 6.0, pytest.approx(0.85)),
        ("second", 8.0, 0.2),
        ("second", 2.0, pytest.approx(0.7)),
    ]
    assert found.title.endswith("Too few layers are measured to say.")


def test_the_rank_correlation_is_that_of_the_layers_own_values():
    grid = Grid(("a", "b", "c"), (0, 5), 0)
    results = blank(grid, {"examples": 100})
    moved = distances().isel(epoch=[0, 2], layer=[0, 1, 1]).assign_coords(layer=list("abc"))
    moved["l2"].loc[{"epoch": 5}] = [1.0, 2.0, 3.0]
    for layer, errors in zip("abc", (90, 50, 10), strict=True):
        record(results, grid.cell(layer, 0), None, Counted(100, errors))
    found = relation(results, moved, grid, "l2")
    assert found.title.endswith("Rank correlation over 3 layers: −1.00")


def test_a_click_near_a_point_chooses_its_layer_and_one_elsewhere_none():
    view = RelationView("relation")
    heard = []
    view.on_tap(heard.append)
    view.show(relation(from_sweep(sweep(), GRID), distances(), GRID, "l2"), "L2")
    for x, y in ((2.1, 0.71), (7.9, 0.2), (5.0, 0.5), (None, None)):
        view.figure._trigger_event(Tap(view.figure, sx=1, sy=1, x=x, y=y))
    assert heard == ["first", "second"]
    view.mark("second")
    assert dict(view._marked.data) == {"x": [8.0, 2.0], "y": [0.2, pytest.approx(0.7)]}


@pytest.mark.parametrize(
    ("reading", "words"),
    [
        (Reading("measured", 0.379), "layer1, epoch 0, error 38\u00a0%, critical"),
        (Reading("estimated", 0.379), "layer1, epoch 0, error about 38\u00a0%, critical"),
        (Reading("missing", math.nan), "layer1, epoch 0, not measured, critical"),
        (Reading("failed", math.nan), "layer1, epoch 0, failed, critical"),
    ],
)
def test_every_cell_has_a_spoken_name(reading, words):
    assert spoken(Cell("layer1", 0), reading, "critical") == words


def test_the_time_left_is_said_roughly():
    assert time_left(12.3) == "about 12\u00a0s left"
    assert time_left(0.1) == "about 1\u00a0s left"
    assert time_left(200) == "about 3\u00a0min left"
    assert time_left(math.nan) == "time left not known yet"


def test_what_a_figure_shows_already_is_not_sent_again():
    """Each change is three messages, which the page parses and paints."""
    view, sent = ProfileView(GRID, "profile"), []
    relations, curve = RelationView("relation"), Curve("curve")
    results = from_sweep(sweep(), GRID)

    def show():
        view.show(profile(results, GRID, "first", 0.1), 0.1, 0.9, 0.1)
        relations.show(relation(results, distances(), GRID, "l2"), "L2")
        relations.mark("first")
        curve.show("a run", (Counted(50, 20),))

    for figure in (view.figure, relations.figure, curve.figure):
        document = Document()
        document.add_root(figure)
        document.on_change(sent.append)
    show()
    assert sent
    sent.clear()
    show()
    assert sent == []


def test_names_beside_points_cover_neither_each_other_nor_a_point_and_are_not_cut():
    names = [f"layer{at}" for at in range(1, 7)]
    x, y = [0.0, 3.8, 4.0, 4.8, 13.0, 12.9], [0.5, 0.07, 0.1, 0.13, 1.0, 0.98]
    placed = names_beside([*names, ""], [*x, 4.4], [*y, 0.1])
    boxes = [(at / 14.56 * 310, (1.02 - up) / 1.04 * 190) for at, up in zip(x, y, strict=True)]
    boxes = [(left - 4, top - 4, left + 4, top + 4) for left, top in boxes]
    shown = [at for at in range(6) if placed["name"][at]]
    assert {0, 4} <= set(shown)
    assert len(shown) >= 4
    assert placed["name"][6] == ""
    for at in shown:
        left = (boxes[at][0] + boxes[at][2]) / 2 + placed["dx"][at]
        top = (boxes[at][1] + boxes[at][3]) / 2 + placed["dy"][at]
        left -= {"left": 0, "center": 21, "right": 42}[placed["align"][at]]
        box = (left, top - 6, left + 42, top + 6)
        assert min(box) >= 0
        assert box[2] <= 310
        assert box[3] <= 190
        assert all(
            box[0] >= other[2] or other[0] >= box[2] or box[1] >= other[3] or other[1] >= box[3]
            for other in boxes
        )
        boxes.append(box)


def test_the_figure_says_what_the_grey_crosses_are_where_there_are_any():
    view = RelationView("relation")
    (words,) = [one for one in view.figure.above if isinstance(one, Title)]
    assert not words.visible
    view.show(relation(from_sweep(sweep(), GRID), distances(), GRID, "l2"), "L2")
    assert words.visible
    assert words.text == "grey crosses: fresh random values"
