"""Wrong numbers cannot be missed: NaN and infinities in every view, and the network's own error."""

from __future__ import annotations

import json
import math
import re
import warnings
from html.parser import HTMLParser

import numpy as np
import pytest
import torch

import explorer as lx
from explorer.cli import main
from explorer.data.datasets import load_test_set
from explorer.engine.evaluator import Evaluator
from explorer.engine.finite import nonfinite_weights
from explorer.engine.intact import doubt_about, recorded_error
from explorer.engine.intervals import wilson_interval
from explorer.engine.overview import mean_of_draws, sweep_page, sweep_table
from explorer.engine.results import NOT_FINITE, open_sweep
from explorer.engine.verdicts import damage, recovery, verdicts
from explorer.errors import DataError, InterventionError, NumbersWarning
from explorer.stats.overview import distances_page, distances_table
from explorer.ui import exports
from explorer.ui.changes import Changes, changes_html
from explorer.ui.curves import Curve
from explorer.ui.measured import Measured, measured_frame, measured_html
from explorer.ui.painting import MISSING, distance_columns, error_columns, error_scale
from explorer.ui.relations import profile, relation
from explorer.ui.report import report_page
from explorer.ui.results import from_sweep, readings
from explorer.ui.selection import Choice
from explorer.ui.table import sweep_frame, sweep_text
from tests import fakes, toy

BAD = [math.nan, math.inf, -math.inf]
PLACES = {
    "error": ("error", (0, 0)),
    "a later error": ("error", (1, 1)),
    "interval": ("error_low", (0, 0)),
    "loss": ("loss", (0, 0)),
    "fresh draw": ("rerandomized_error", (0, 1)),
    "learning curve": ("fullmodel_error", (1,)),
}
"""Where a number that is none may stand in a sweep that somebody sends."""

NUMBER_WORDS = re.compile(r"\b(nan|inf)\b")
"""How Python, numpy and Bokeh write them; our own sentences say NaN and infinite."""


class Texts(HTMLParser):
    """What a page says, without its scripts and styles."""

    def __init__(self, source):
        super().__init__()
        self.text, self._inside = [], ""
        self.feed(source)

    def handle_starttag(self, tag, attrs):
        self._inside = tag

    def handle_data(self, data):
        if self._inside not in ("script", "style"):
            self.text.append(data)


def spoilt(value, name, at):
    sweep = fakes.sweep()
    sweep[name].values[at] = value
    return sweep


@pytest.fixture(params=BAD, ids=str)
def value(request):
    return request.param


@pytest.fixture
def sweep(value):
    """A sweep with such a number in each of the places."""
    found = fakes.sweep()
    for name, at in PLACES.values():
        found[name].values[at] = value
    return found


@pytest.fixture
def without(value):
    """A sweep whose first cell, one draw and one point of the curve are no numbers."""
    sweep = spoilt(value, *PLACES["error"])
    for name, at in (PLACES["fresh draw"], PLACES["learning curve"]):
        sweep[name].values[at] = value
    return sweep


# --- no view shows them as numbers ----------------------------------------------------------------


def said_by_views(sweep):
    """Every text, and every plain column, that the views make of a sweep."""
    results = from_sweep(sweep, fakes.GRID)
    scale = error_scale(results.attrs["final_error"], results.attrs["chance_error"])
    yield "notebook", " ".join(Texts(sweep_page(sweep)).text)
    yield "terminal", sweep_text(sweep)
    page = report_page(sweep, fakes.distances())
    yield "report", " ".join(Texts(page).text)
    yield "pictures of the report", page.rpartition("docs_json")[2]
    yield "heatmap", json.dumps(error_columns(results, fakes.GRID, scale))
    yield "CSV", exports._table(results)
    for layer in fakes.LAYERS:
        found = profile(results, fakes.GRID, layer, 0.1)
        yield "profile", json.dumps([found.line, found.draws, found.title])
    found = relation(results, fakes.distances(), fakes.GRID, "l2")
    yield "relation", json.dumps([found.points, found.title])


def test_no_view_of_a_sweep_says_nan_or_inf_for_a_number(sweep):
    views = dict(said_by_views(sweep))
    assert len(views) == 8
    for view, text in views.items():
        text = text.replace(NOT_FINITE, "").replace('"NaN or', "")
        assert not NUMBER_WORDS.search(text), view
        assert "NaN" not in text, view
        assert "Infinity" not in text, view


def test_such_a_cell_is_flagged_and_has_no_colour(without):
    results = from_sweep(without, fakes.GRID)
    columns = error_columns(results, fakes.GRID, error_scale(0.1, 0.9))
    shown = dict(zip(columns["where"], zip(*columns.values(), strict=True), strict=True))
    for cell in ("first ← epoch 0", "first ← fresh draws", "fullmodel ← epoch 1"):
        one = dict(zip(columns, shown[cell], strict=True))
        assert (one["text"], one["fill"], one["hatch"]) == ("!", MISSING, "x"), cell
        assert NOT_FINITE in one["tip"]
    assert {r.state for r in readings(results, fakes.GRID.cells)} == {"measured", "failed"}
    assert f"first ← epoch 0: {NOT_FINITE}" in report_page(without, fakes.distances())


def test_other_cells_keep_their_colours_and_axes_their_ends(without):
    scale = error_scale(0.1, 0.9)
    clean = error_columns(from_sweep(fakes.sweep(), fakes.GRID), fakes.GRID, scale)
    found = error_columns(from_sweep(without, fakes.GRID), fakes.GRID, scale)
    fills = zip(clean["where"], clean["fill"], found["fill"], strict=True)
    differ = {cell for cell, before, after in fills if before != after}
    assert differ == {"first ← epoch 0", "first ← fresh draws", "fullmodel ← epoch 1"}
    cells = [cell for row in sweep_table(without).rows for cell in row.cells]
    assert {cell.text for cell in cells if math.isinf(cell.share)} <= {"–"}
    points = relation(from_sweep(without, fakes.GRID), fakes.distances(), fakes.GRID, "l2").points
    assert all(map(math.isfinite, points["x"] + points["y"]))


def test_they_enter_no_average_and_no_verdict(without):
    mean = mean_of_draws(from_sweep(without, fakes.GRID))
    assert math.isnan(mean.sel(layer="first"))
    assert mean.sel(layer="second") == pytest.approx(0.7)
    assert not np.isinf(mean_of_draws(without)).any()
    assert sweep_frame(without)["ReRnd"].replace(np.inf, 99).max() < 1
    assert verdicts(without).values.tolist() == ["not known", "critical"]
    assert not np.isinf(damage(without)).any()
    assert math.isnan(damage(without).sel(layer="first", epoch=0))


def test_since_when_a_layer_is_good_enough_does_not_skip_a_cell_without_number(value):
    sweep = spoilt(value, "error", (1, 1))
    assert recovery(sweep, 0.2).sel(layer="second") == 5
    assert verdicts(sweep, 0.2).sel(layer="second") == "not known"


def test_a_sweep_that_is_opened_has_lost_its_infinities(tmp_path, without):
    without.to_netcdf(tmp_path / "sweep.nc", engine="h5netcdf")
    opened = open_sweep(tmp_path / "sweep.nc")
    for name in opened.data_vars:
        if opened[name].dtype.kind == "f":
            assert not np.isinf(opened[name]).any()
    assert opened.reason.values[0, 0] == NOT_FINITE
    assert opened.reason.values[1, 0] == ""


def test_draws_that_are_still_to_come_do_not_spoil_the_mean_of_the_others():
    sweep = spoilt(math.nan, "rerandomized_error", (0, 1))
    sweep["rerandomized_reason"].values[0, 1] = "not measured yet"
    assert mean_of_draws(sweep).sel(layer="first") == pytest.approx(0.8)
    sweep["rerandomized_reason"].values[0, 1] = "out of memory"
    assert math.isnan(mean_of_draws(sweep).sel(layer="first"))


@pytest.mark.parametrize("nonfinite", [0, 3])
def test_no_view_of_distances_says_nan_or_inf_for_a_number(value, nonfinite):
    moved = fakes.distances()
    for name in ("l2_per_sqrt_m", "l2"):
        moved[name].values[0, 2] = moved[f"fresh_{name}"].values[0, 1] = value
    moved["nonfinite"].values[0, 2] = moved["fresh_nonfinite"].values[0, 1] = nonfinite
    columns, scale = distance_columns(moved, fakes.GRID, "l2_per_sqrt_m")
    failed = {w for w, text in zip(columns["where"], columns["text"], strict=True) if text == "!"}
    assert failed == {"first ← epoch 5", "first ← fresh draws"}
    assert scale.high == 12.0  # of what is finite
    table = distances_table(moved, "l2_per_sqrt_m")
    assert table.rows[0].cells[0].text == table.rows[0].cells[3].text == "–"
    report = " ".join(Texts(report_page(fakes.sweep(), moved)).text)
    for text in (json.dumps(columns), report, " ".join(Texts(distances_page(moved, "l2")).text)):
        assert not NUMBER_WORDS.search(text)
        assert "NaN" not in text.replace("NaN or infinit", "")


def test_the_live_curve_leaves_out_estimates_of_logits_that_are_not_finite():
    curve = Curve("a curve")
    failed = fakes.Counted(80, 60, failure="NaN or infinite logits for 3 of 80 examples")
    curve.show("a run", [fakes.Counted(50, 20), failed])
    assert curve._points.data["examples"] == [50]
    curve.baseline(math.nan, math.inf, 100)
    assert not curve._intact.visible
    assert not curve._chance.visible


def test_the_list_of_what_was_measured_has_no_number_beside_a_failure():
    choice = Choice((fakes.GRID.cell("first", 0),))
    failed = fakes.Counted(100, 60, failure="NaN or infinite logits for 3 of 100 examples")
    entry = Measured.of(choice, lx.reinitialise("first", 0), failed)
    line = measured_frame([entry]).to_csv(index=False).splitlines()[1]
    assert line == "first ← epoch 0,,,,0,0,0,NaN or infinite logits for 3 of 100 examples"
    assert "60" not in " ".join(Texts(measured_html([entry])).text)


def test_an_example_with_pixels_that_are_not_finite_has_no_picture(value):
    pixels = np.full((1, 2, 2), 0.5)
    pixels[0, 0, 0] = value
    answers = np.array([0]), np.array([0]), np.array([1])
    page = changes_html(Changes("one", *answers, inputs={0: pixels}))
    assert "<img" not in page
    assert not NUMBER_WORDS.search(page)


def test_the_terminal_shows_a_dash_and_a_reason_for_a_distance_that_is_none(tmp_path, capsys):
    states = toy.switch_states()
    states[1]["first.bias"][0] = math.nan
    lx.save_stack(lx.open_stack(states, model=toy.Switch()), tmp_path / "stack")
    assert main(["distances", str(tmp_path / "stack")]) == 0
    said = capsys.readouterr().out
    assert "–" in said.split("\n")[2]
    assert "–: weights that are NaN or infinite" in said
    assert "nan" not in said.lower().replace("are nan or", "")


# --- weights that are not finite though the logits are --------------------------------------------


class Squashed(torch.nn.Module):
    """An infinite weight behind which everything is finite: tanh(∞) is 1."""

    def __init__(self):
        super().__init__()
        self.first = torch.nn.Linear(3, 3)
        self.second = torch.nn.Linear(3, 3)

    def forward(self, x):
        return self.second(torch.tanh(self.first(x)))


def squashed(epoch):
    states = [Squashed().state_dict() for _ in range(2)]
    states[epoch]["first.bias"][1] = math.inf
    return lx.open_stack(states, model=Squashed())


OPTIONS = {"model": Squashed(), "data": toy.one_hot_examples(), "device": "cpu"}


def test_an_infinite_weight_behind_finite_logits_marks_its_cells():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NumbersWarning)  # the network is not trained
        result = lx.sweep(squashed(0), **OPTIONS, draws=1, progress=False)
    assert np.isnan(result.error.sel(layer="first", epoch=0))
    assert np.isnan(result.fullmodel_error.sel(epoch=0))
    assert "NaN or infinite weights: 1 of first.bias." in result.reason.values[0, 0]
    assert np.isfinite(result.error.sel(layer="second")).all()


def test_an_infinite_weight_in_the_trained_network_leaves_numbers_only_where_it_is_replaced():
    with pytest.warns(NumbersWarning, match="trained network could not be measured: NaN or inf"):
        result = lx.sweep(squashed(1), **OPTIONS, draws=1, progress=False)
    assert np.isfinite(result.error.sel(layer="first", epoch=0))
    assert np.isnan(result.error.sel(layer="second")).all()
    assert math.isnan(result.attrs["final_error"])
    assert set(verdicts(result).values) == {"not known"}
    with pytest.raises(InterventionError, match=r"1 of first.bias"):
        lx.predictions(squashed(1), lx.reinitialise("second", 0), **OPTIONS)


def test_a_trained_network_whose_logits_overflow_has_no_error_either():
    states = [Squashed().state_dict() for _ in range(2)]
    states[1]["first.bias"].fill_(10)  # tanh gives 1
    states[1]["second.weight"].fill_(3e38)
    stack = lx.open_stack(states, model=Squashed())
    with pytest.warns(NumbersWarning, match="trained network could not be measured: .*logits"):
        result = lx.sweep(stack, **OPTIONS, draws=1, progress=False)
    assert math.isnan(result.attrs["final_error"])
    assert result.attrs["final_examples"] == 0
    assert np.isfinite(result.error.sel(layer="second", epoch=0))


@pytest.mark.parametrize("bad", BAD)
def test_running_statistics_count_as_weights_and_masks_may_be_infinite(bad):
    tensors = {
        "norm.running_var": torch.tensor([1.0, bad]),
        "attention.mask": torch.tensor([0.0, -math.inf]),
        "steps": torch.tensor(3),
    }
    assert nonfinite_weights(tensors, set(tensors)) == {"norm.running_var": 1}
    assert nonfinite_weights({"mask": torch.tensor([math.nan])}, {"mask"}) == {"mask": 1}


def test_finite_weights_are_finite_also_where_their_sum_is_not_or_is_not_defined():
    large, eight_bits = torch.full((3,), 3e38), torch.ones(2).to(torch.float8_e4m3fn)
    assert nonfinite_weights({"large": large, "eight": eight_bits}, set()) == {}
    opposite = torch.tensor([math.inf, -math.inf, 1.0])
    assert nonfinite_weights({"opposite": opposite}, set()) == {"opposite": 2}


def test_a_loss_beyond_float32_is_a_failure():
    states = toy.switch_states()
    states[0]["first.bias"] = torch.tensor([3e38, -3e38, 0.0])
    run = Evaluator(
        lx.open_stack(states), model=toy.Switch(), data=toy.one_hot_examples(), device="cpu"
    )
    assert run.result(lx.reinitialise("first", 0)).failure == "the loss is too large for float32"


# --- the trained network's own error --------------------------------------------------------------


@pytest.fixture
def recorded(switch):
    """A stack that records that its trained network is never wrong."""
    stack = switch.copy()
    stack.attrs = {**switch.attrs, "recorded_error": 0.0}
    return stack


def examples(change=lambda inputs: inputs):
    """240 examples with their inputs changed."""
    inputs, labels = toy.one_hot_examples()
    return change(inputs.repeat(20, 1)), labels.repeat(20)


def sweep_of(stack, **options):
    return lx.sweep(stack, device="cpu", progress=False, draws=0, **options)


def evaluated(stack, **options):
    return list(lx.evaluate(stack, lx.reinitialise("first", 0), device="cpu", **options))


def predicted(stack, **options):
    return lx.predictions(stack, lx.reinitialise("first", 0), device="cpu", **options).attrs


def ordered(stack, **options):
    return lx.reset_order(stack, device="cpu", progress=False, **options).attrs


CALLS = [sweep_of, evaluated, predicted, ordered]


def test_inputs_unlike_those_of_training_are_told_of_loudly(bundled):
    """As a dataset that was normalised the other way round would be."""
    digits = load_test_set("digits28")
    data = (1 - digits.inputs, digits.labels)
    with pytest.warns(NumbersWarning, match=r"but its stack records 2.9%.*normalised") as caught:
        result = sweep_of(bundled, layers=["layer4"], epochs=[0], data=data)
    assert caught[0].filename == __file__  # the reader's line, not one of ours
    assert result.attrs["doubt"] == str(caught[0].message)
    assert result.attrs["recorded_error"] == pytest.approx(0.02944, abs=1e-5)
    page = report_page(result, lx.distances(bundled, draws=0))
    assert 'role="alert"' in page.split("</style>")[1]
    for text in (sweep_text(result), sweep_page(result), page):
        assert "but its stack records 2.9%" in text


def test_the_bundled_stack_with_its_own_examples_raises_no_doubt(bundled):
    with warnings.catch_warnings():
        warnings.simplefilter("error", NumbersWarning)
        result = sweep_of(bundled, layers=["layer4"], epochs=[0])
        few = sweep_of(bundled, layers=["layer4"], epochs=[0], tolerance=0.05, batch_size=200)
    assert result.attrs["doubt"] == few.attrs["doubt"] == ""
    assert few.attrs["final_examples"] < few.attrs["examples"] == 1800
    quiet = report_page(fakes.sweep(), fakes.distances())
    assert 'role="alert"' not in quiet.split("</style>")[1]


@pytest.mark.parametrize("call", CALLS)
def test_every_call_that_measures_warns(recorded, call):
    data = examples(lambda inputs: inputs.flip(-1))
    with pytest.warns(NumbersWarning, match="is 66.7%.*but its stack records 0.0%") as caught:
        call(recorded, data=data, model=toy.Switch())
    assert [one.filename for one in caught if one.category is NumbersWarning] == [__file__]


@pytest.mark.parametrize("call", CALLS)
def test_no_call_warns_where_the_error_is_the_recorded_one(recorded, call):
    with warnings.catch_warnings():
        warnings.simplefilter("error", NumbersWarning)
        call(recorded, data=examples(), model=toy.Switch())


def test_an_evaluation_that_is_stopped_half_way_says_nothing(recorded):
    data = examples(lambda inputs: inputs.flip(-1))
    layer = lx.reinitialise("first", 0)
    with warnings.catch_warnings():
        warnings.simplefilter("error", NumbersWarning)
        stream = lx.evaluate(recorded, layer, model=toy.Switch(), data=data, batch_size=100)
        assert not next(stream).exact
        stream.close()


def test_the_trained_networks_error_follows_from_the_paired_counts(switch):
    data = examples(lambda inputs: inputs + torch.linspace(-1, 1, 240)[:, None].sin())
    run = Evaluator(switch, model=toy.Switch(), data=data, device="cpu")
    intact = run.result(lx.reinitialise("first", 2))
    for layer, epoch in (("first", 0), ("second", 1)):
        one = run.result(lx.reinitialise(layer, epoch))
        assert one.turned_wrong > 0
        assert one.errors - one.turned_wrong + one.turned_right == intact.errors


def test_an_own_network_no_better_than_chance_is_told_of_with_what_to_check(switch):
    inputs, labels = examples()
    data = inputs, (labels + 1) % 3  # labels in another order
    with pytest.warns(NumbersWarning, match=r"no better than always .*66.7%.*labels are in the"):
        result = sweep_of(switch, model=toy.Switch(), data=data)
    assert set(verdicts(result).values) == {"not known"}  # and not "robust", the errors being less


def test_an_own_stack_may_record_an_error_that_is_not_so(recorded):
    recorded.attrs["recorded_error"] = 0.6
    with pytest.warns(NumbersWarning, match="records 60.0%"):
        result = sweep_of(recorded, model=toy.Switch(), data=examples())
    assert result.attrs["recorded_error"] == 0.6


def test_a_selection_without_the_last_checkpoint_has_no_recorded_error(bundled):
    assert recorded_error(lx.open_stack(bundled, every=2).attrs, 100) == {
        "recorded_error": pytest.approx(0.02944, abs=1e-5)
    }
    assert recorded_error(lx.open_stack(bundled, only=[0, 1, 2]).attrs, 2) == {}
    assert recorded_error({}, 5) == recorded_error({"recorded_error": math.nan}, 5) == {}


@pytest.mark.parametrize("errors", [0, 1, 50, 99, 100])
@pytest.mark.parametrize("off", [0.0, 1e-9, -1e-9])
def test_the_border_of_doubt_is_that_of_the_wilson_interval(errors, off):
    low, high = wilson_interval(errors, 100)
    attrs = {"final_error": errors / 100, "examples": 100, "chance_error": 0.9}
    for end, outside in ((low, off < 0), (high, off > 0)):
        recorded = {"recorded_error": end + off}
        assert bool(doubt_about({**attrs, **recorded})) == outside
    assert doubt_about({}) == ""


def test_few_examples_alone_are_no_reason_to_doubt_an_own_network():
    """Of one example the interval reaches from nearly 0 to beyond chance."""
    attrs = {"examples": 1, "chance_error": 0.9}
    assert wilson_interval(0.4, 1)[1] > 0.9
    assert doubt_about({**attrs, "final_error": 0.4}) == ""
    assert doubt_about({**attrs, "final_error": 0.46}) != ""


def test_labels_beyond_the_head_are_refused(switch):
    inputs, labels = examples()
    with pytest.raises(DataError, match=r"has a label 3(.|\n)*3 outputs: labels 0 to 2"):
        sweep_of(switch, model=toy.Switch(), data=(inputs, labels + 1))


# --- in the explorer ------------------------------------------------------------------------------


def test_the_explorer_shows_a_banner_while_numbers_are_not_to_be_trusted(on_bench):
    stack = fakes.stack()
    bench = on_bench(stack=stack)
    assert "alert" not in bench.shown.heading.value.split("</style>")[1]
    stack.attrs["recorded_error"] = 0.5
    bench = on_bench(stack=stack)
    banner = bench.shown.heading.value.split("</style>")[1]
    assert '<div role="alert">' in banner
    assert "is 10.0% (95 % interval 5.5% to 17.4%, 100 examples of made up)" in banner
    assert "but its stack records 50.0%" in banner


def test_the_explorer_says_why_the_trained_network_has_no_error(on_bench, monkeypatch):
    from explorer.ui import known

    def refuse(intervention):
        if not intervention.changes:
            raise InterventionError("NaN or infinite weights: 1 of a.", "Finite.", "Another.")
        return fakes.at_once(intervention)

    monkeypatch.setattr(known, "bundled_sweep", lambda _name: None)
    bench = on_bench(refuse, head_start=0)
    monkeypatch.setattr(known, "bundled_sweep", lambda _name: None)
    bench.explorer._apply(bench.session._settings)
    bench.tap(0, 0)
    bench.wait()
    assert bench.error("first", 0) == 0.42
    heading = bench.shown.heading.value
    assert "final test error unknown" in heading
    assert "could not be measured: NaN or infinite weights: 1 of a." in heading
