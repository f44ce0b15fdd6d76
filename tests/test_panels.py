"""The panels beyond the paper without a browser: a tiny network, a button, a public function."""

from __future__ import annotations

import io
import logging
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from bokeh.events import Tap
from ipywidgets.widgets.widget import _instances

import explorer as lx
from explorer.api import save_netcdf
from explorer.errors import InterventionError
from explorer.ui import background, exports, session, studies
from explorer.ui.panel_pane import PanelPane
from explorer.ui.panel_tables import motion_table
from explorer.ui.widget import Explorer
from explorer.ui.wording import short_percent
from tests.bench import PATIENCE, text_of
from tests.toy import Switch, one_hot_examples, switch_states

REPOSITORY = Path(__file__).parents[1]

NEVER = 5 * PATIENCE
"""Seconds; longer than any measurement of the tiny network, on a busy machine too."""

KINDS = ("effective", "criticality", "paths", "motion", "outputs", "across")

PUBLIC = {
    "effective": lambda stack, **o: lx.effective_parameters(stack, threshold=0.1, **o),
    "criticality": lx.criticality,
    "paths": lx.paths,
    "outputs": lambda stack, **o: lx.outputs(stack, draws=2, **o),
    "across": lambda stack, **o: lx.compare(stack, draws=2, **o),
}
"""What each panel measures by default, but for motion."""

ONE_STACK = KINDS[:-1]
"""Panels whose result is a Dataset."""


class Panels:
    """An explorer of a tiny network, and its tab beyond the paper."""

    def __init__(self, states, data, network=Switch, **options):
        self.net = network()
        self.stack = lx.open_stack(states, model=self.net)
        self.data = data
        options = {"device": "cpu", "draws": 2} | options
        self.explorer = Explorer(self.stack, model=self.net, data=data, **options)
        self.session.hurry()
        self.eventually(lambda: self.session.device or self.shown.status.alert)
        self.session.wait_until_idle(NEVER)

    @property
    def shown(self):
        return self.explorer._exploration

    @property
    def session(self):
        return self.shown.session

    @property
    def beyond(self):
        return self.shown.beyond

    def eventually(self, condition):
        deadline = time.monotonic() + NEVER
        while not condition():
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def turn_to(self, kind):
        titles = [*self.shown.tabs.titles]
        self.shown.tabs.selected_index = titles.index("Beyond the paper")
        self.beyond.chosen.index = KINDS.index(kind)
        return self.beyond.panes[kind]

    def measured(self, kind):
        """Turn to a panel, measure, and wait for the end."""
        pane = self.turn_to(kind)
        if kind != "motion":
            pane.measure.click()
        self.eventually(lambda: pane._study is None)
        return pane

    def public(self, kind):
        if kind == "motion":
            return lx.motion(self.stack, sweep=self.explorer.results, progress=False)
        options = {"model": self.net, "data": self.data, "device": "cpu", "progress": False}
        return PUBLIC[kind](self.stack, **options)


@pytest.fixture
def panels(monkeypatch):
    monkeypatch.setattr(session, "HEAD_START", 0)
    opened = []

    def put(states=None, data=None, **options):
        states = switch_states() if states is None else states
        opened.append(Panels(states, one_hot_examples() if data is None else data, **options))
        return opened[-1]

    yield put
    for one in opened:
        one.explorer.close()


def said(pane):
    return text_of(pane._progress.value), text_of(pane._alert.value)


class Gate:
    """Stops the parts of a study before the one of this number, until the test opens it."""

    def __init__(self, monkeypatch, before=2):
        self.reached, self.opened = threading.Event(), threading.Event()
        self.parts = 0
        original = background.begin

        def begin(study, evaluator):
            for at, part in enumerate(original(study, evaluator)):
                if at == before:
                    self.reached.set()
                    assert self.opened.wait(NEVER)
                self.parts += 1
                yield part

        monkeypatch.setattr(background, "begin", begin)


# --- what is measured -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_panel_finds_what_the_public_function_returns(panels, kind):
    bench = panels()
    pane = bench.measured(kind)
    assert said(pane)[1] == ""
    assert said(pane)[0].startswith("Measured in")
    xr.testing.assert_identical(pane.found, bench.public(kind))
    assert pane.found.attrs["complete"] == 1
    assert bench.explorer.found.keys() == {kind}
    assert bench.shown.status.alert == ""


@pytest.mark.parametrize("kind", KINDS)
def test_a_panel_shows_figures_and_the_same_in_a_table(panels, kind):
    pane = panels().measured(kind)
    assert len(pane.figures) == len(pane.exports.pictures)
    for figure in pane.figures:
        assert any(len(next(iter(r.data_source.data.values()))) for r in figure.renderers)
        assert figure.html_attributes["role"] == "img"
        assert len(figure.html_attributes["aria-label"]) > 20
    assert "first" in text_of(pane.table.value)
    assert "<caption>" in pane.table.value


@pytest.mark.parametrize("kind", ONE_STACK)
def test_the_code_of_a_panel_gives_the_same_numbers(panels, kind):
    bench = panels()
    pane = bench.measured(kind)
    names = {"states": switch_states(), "net": bench.net, "data": bench.data}
    code = pane.exports.code.replace("print(found)", "")
    exec(compile(code, kind, "exec"), names)
    found = pane.found[list(names["found"].data_vars)]  # motion without a sweep has fewer
    xr.testing.assert_equal(names["found"], found.drop_vars("quantity", errors="ignore"))


@pytest.mark.parametrize("kind", ONE_STACK)
def test_the_dataset_of_a_panel_is_handed_to_the_browser(panels, kind, monkeypatch):
    pane = panels().measured(kind)
    files = {}
    hand_over = lambda name, _kind, content: files.update({name: content})  # noqa: E731
    monkeypatch.setattr(pane.exports, "hand_over", hand_over)
    for wanted in ("nc", "csv"):
        pane.exports._handle_custom_msg({"kind": wanted}, [])
    assert set(files) == {f"states-{kind}.nc", f"states-{kind}.csv"}
    with xr.open_dataset(io.BytesIO(files[f"states-{kind}.nc"]), engine="h5netcdf") as again:
        xr.testing.assert_equal(again, pane.found)
    lines = files[f"states-{kind}.csv"].decode().splitlines()
    sizes = [pane.found.sizes[dim] for dim in pane._panel.csv]
    assert len(lines) == 1 + np.prod(sizes)


def test_the_threshold_of_the_explorer_is_that_of_effective_parameters(panels):
    bench = panels()
    pane = bench.measured("effective")
    assert pane.found.attrs["threshold"] == 0.1
    bench.shown.shown.threshold.index = 5
    assert "other choices" in pane.note.value
    pane.measure.click()
    bench.eventually(lambda: pane._study is None)
    assert pane.found.attrs["threshold"] == 0.5
    assert pane.note.value == ""
    assert "threshold=0.5" in pane.exports.code


def test_menus_say_what_is_measured(panels):
    bench = panels()
    pane = bench.turn_to("criticality")
    assert [menu.description for menu in pane.asks] == ["Start", "Good enough", "Points"]
    pane.asks[0].index, pane.asks[1].index, pane.asks[2].index = 1, 2, 1
    assert pane.arguments == {"epoch": 1, "factor": 1.5, "every_cell": True}
    pane = bench.turn_to("paths")
    pane.asks[0].index = 1
    assert pane.arguments == {"shares": 5}
    pane.asks[1].index, pane.asks[3].index = 1, 1
    assert pane.arguments == {"shares": 5, "start": 0, "cumulative": True}
    pane.asks[2].value = " runs/seed-1 "
    assert repr(pane.arguments["other"]) == "lx.open_stack('runs/seed-1')"
    assert bench.turn_to("across").arguments == {"stacks": (), "threshold": 0.1, "draws": 2}


@pytest.mark.parametrize("begins", ["at another checkpoint", "in another run", "at the same"])
def test_paths_begin_elsewhere_and_lead_to_another_run(panels, tmp_path, begins):
    bench = panels()
    pane = bench.turn_to("paths")
    options = {"shares": 5, "cumulative": True}
    pane.asks[0].index = pane.asks[3].index = 1
    if begins != "in another run":
        pane.asks[1].index = 1 if begins == "at another checkpoint" else 3
        options["start"] = 0 if begins == "at another checkpoint" else "same"
    if begins != "at another checkpoint":
        swapped = [switch_states()[at] for at in (1, 0, 2)]
        folder = lx.save_stack(lx.open_stack(swapped, model=bench.net), tmp_path / "other")
        pane.asks[2].value = str(folder)
        options["other"] = lx.open_stack(folder)
    pane = bench.measured("paths")
    assert said(pane)[1] == ""
    wanted = lx.paths(
        bench.stack, model=bench.net, data=bench.data, device="cpu", progress=False, **options
    )
    xr.testing.assert_identical(pane.found, wanted)
    names = [name for name, _ in pane.show.options]
    assert "mean loss, all layers from it on" in names
    before = states_of(pane)
    pane.show.index = names.index("test error, all layers up to it")
    assert states_of(pane) != before
    assert "all layers up to it" in " ".join(pane.figures[0].title.text.split())
    shown = pane.figures[0].renderers[0].data_source.data["text"]
    barrier = float(wanted["upto_error_barrier"].isel(layer=0, epoch=0))
    assert shown[0] == short_percent(barrier)
    assert "all layers up to it" in text_of(pane.table.value)
    code = pane.exports.code
    for name in options:
        assert f"{name}=" in code


# --- other stacks ---------------------------------------------------------------------------------


def with_another(panels, tmp_path, **options):
    """The panel with another run of the tiny network beside it, and a bundled network."""
    bench = panels(**options)
    other = lx.sweep(
        lx.open_stack(switch_states()[1:], model=bench.net),
        model=bench.net,
        data=bench.data,
        draws=2,
        device="cpu",
        progress=False,
    )
    path = save_netcdf(other, tmp_path / "other.nc")
    pane = bench.turn_to("across")
    pane.asks[0].others.value = f"{path}\n\n"
    return bench, pane, path


def test_other_stacks_are_ticked_or_written_and_set_beside_this_one(panels, tmp_path):
    bench, pane, path = with_another(panels, tmp_path, draws=3)
    names = [box.description for box in pane.asks[0].boxes]
    assert "fcn3x256-digits" in names
    pane.asks[0].boxes[names.index("fcn3x256-digits")].value = True
    assert pane.arguments["stacks"] == ("fcn3x256-digits", str(path))
    pane = bench.measured("across")
    assert said(pane)[1] == ""
    wanted = lx.compare(
        [bench.stack, "fcn3x256-digits", path],
        model={"states": bench.net},
        data={"states": bench.data},
        device="cpu",
        progress=False,
    )
    xr.testing.assert_identical(pane.found, wanted)
    assert list(pane.found["stacks"].children) == ["states", "fcn3x256-digits", "other"]
    names = [name for _, name in pane.exports.pictures]
    assert names[:3] == ["states", "fcn3x256-digits", "other"]
    assert len(pane.figures) == len(names) == 6
    scales = [(one.x_range.start, one.x_range.end, one.height) for one in pane.figures[:3]]
    assert len(set(scales)) == 1
    assert "other" in text_of(pane.table.value)
    given = {"states": switch_states(), "net": bench.net, "data": bench.data}
    code = pane.exports.code.replace("print(found.table)", "")
    exec(compile(code, "across", "exec"), given)
    assert given["found"].table.equals(wanted.table)


def test_a_layer_is_marked_in_every_stack_that_has_it(panels, tmp_path):
    bench, pane, _ = with_another(panels, tmp_path)
    pane = bench.measured("across")
    bench.shown._layer_picked("second")
    frames = [figure.renderers[-1].data_source.data["y"] for figure in pane.figures[:2]]
    assert frames == [[1], [1]]
    figure = pane.figures[1]
    x, y = points_of(figure, "first")[0]
    figure._trigger_event(Tap(figure, sx=1, sy=1, x=x, y=y))
    assert bench.shown.selection.active.layer == "first"


def test_a_click_on_a_layer_that_this_stack_does_not_have_changes_nothing(panels):
    bench = panels(draws=3)
    pane = bench.turn_to("across")
    pane.asks[0].boxes[0].value = True
    pane = bench.measured("across")
    foreign = pane.figures[1]
    layer = foreign.renderers[0].data_source.data["layer"][0]
    assert layer not in bench.session.grid.layers
    x, y = points_of(foreign, layer)[0]
    foreign._trigger_event(Tap(foreign, sx=1, sy=1, x=x, y=y))
    assert bench.shown.selection.active.layer == "first"
    assert bench.shown.status.alert == ""


def test_fewer_stacks_take_their_figures_away_again(panels, tmp_path):
    bench, pane, _ = with_another(panels, tmp_path)
    pane = bench.measured("across")
    assert len(pane.figures) == 5
    pane.asks[0].others.value = ""
    assert "other choices" in pane.note.value
    pane.measure.click()
    bench.eventually(lambda: pane._study is None)
    assert len(pane.figures) == 4
    shown = [box.children[-1] for box in pane._pictures.children]
    assert shown == pane._live


def test_a_comparison_stops_at_the_next_slice_and_keeps_what_is_known(panels, monkeypatch):
    gate = Gate(monkeypatch, before=3)
    bench = panels()
    pane = bench.turn_to("across")
    pane.measure.click()
    assert gate.reached.wait(NEVER)
    pane.stop.click()
    gate.opened.set()
    assert bench.session.wait_until_idle(NEVER)
    assert gate.parts == 4  # the one that was under way, and none after it
    assert pane.found.attrs["complete"] == 0
    assert "Stopped within: states." in text_of(pane.table.value)


def test_a_stack_that_cannot_be_opened_is_told_in_the_panel(panels):
    bench = panels()
    pane = bench.turn_to("across")
    pane.asks[0].others.value = "<no such stack>"
    pane = bench.measured("across")
    assert "<no such stack>" in said(pane)[1]
    assert "&lt;no such stack&gt;" in pane._alert.value


def test_a_comparison_is_handed_over_as_data_table_and_page(panels, tmp_path, monkeypatch):
    bench, pane, _ = with_another(panels, tmp_path)
    pane = bench.measured("across")
    files = {}
    hand_over = lambda name, _kind, content: files.update({name: content})  # noqa: E731
    monkeypatch.setattr(pane.exports, "hand_over", hand_over)
    for wanted in ("nc", "csv", "html"):
        pane.exports._handle_custom_msg({"kind": wanted}, [])
    assert set(files) == {f"comparison.{end}" for end in ("nc", "csv", "html")}
    (tmp_path / "again.nc").write_bytes(files["comparison.nc"])
    with xr.open_datatree(tmp_path / "again.nc", engine="h5netcdf") as again:
        assert again["stacks/other"]["damage"].equals(pane.found["stacks/other"]["damage"])
    assert len(files["comparison.csv"].decode().splitlines()) == 3
    assert files["comparison.html"].decode().rstrip().endswith("</html>")


def test_a_bundled_stack_is_not_swept_again(monkeypatch):
    from explorer.engine.evaluator import Evaluator

    monkeypatch.setattr(Evaluator, "count", None)
    evaluator = Evaluator(lx.open_stack("fcn3x256-digits"), device="cpu")
    study = studies.Study("across", {"stacks": ("vgg11-digits",), "threshold": 0.1})
    *_, last = background.begin(study, evaluator)
    assert last.dataset().table.index.tolist() == ["fcn3x256-digits", "vgg11-digits"]


# --- what is written ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_panel_names_its_page_and_links_to_it_where_the_project_has_an_address(
    panels, kind, monkeypatch
):
    page = {"effective": "verdicts", "across": "across-models"}.get(kind, kind)
    bench = panels()
    head = bench.turn_to(kind).children[0].value
    assert f"Formula, source and pitfalls: <code>docs/{page}.md</code>." in head
    assert (REPOSITORY / "docs" / f"{page}.md").is_file()
    monkeypatch.setattr(exports, "page_address", lambda one: f"https://example.org/{one}")
    head = PanelPane(bench.beyond.panes[kind]._panel, bench.beyond._around).children[0].value
    assert f'<a href="https://example.org/docs/{page}.md"' in head
    assert "<code>" not in head


def test_a_lower_precision_of_the_settings_is_not_used_for_losses(panels):
    bench = panels(screen=True)
    pane = bench.measured("paths")
    assert pane.found.attrs["screen"] == "none"
    assert "screen" not in pane.exports.code


# --- while it runs --------------------------------------------------------------------------------


def test_partial_results_are_shown_and_the_time_left(panels, monkeypatch):
    gate = Gate(monkeypatch, before=4)
    monkeypatch.setattr(studies, "REPORT_EVERY", 0)
    monkeypatch.setattr(studies, "LONGEST_WAIT", 0)
    bench = panels()
    pane = bench.turn_to("outputs")
    pane.measure.click()
    assert gate.reached.wait(NEVER)
    assert pane.found.attrs["complete"] == 0
    assert len(pane.figures) == 1
    assert "cells, about" in said(pane)[0]
    assert "<progress" in pane._progress.value
    first = pane.figures[0]
    gate.opened.set()
    bench.eventually(lambda: pane._study is None)
    assert pane.figures[0] is first  # brought up to date, not drawn anew


def test_a_click_comes_first_and_the_measurement_then_goes_on_where_it_was(panels, monkeypatch):
    gate = Gate(monkeypatch)
    bench = panels()
    pane = bench.turn_to("paths")
    pane.measure.click()
    assert gate.reached.wait(NEVER)
    plot = bench.shown.pictures.errors.figure
    plot._trigger_event(Tap(plot, sx=1, sy=1, x=0, y=0))
    gate.opened.set()
    bench.eventually(lambda: pane._study is None)
    errors = bench.explorer.measured
    assert list(errors["intervention"]) == ["first ← epoch 0"]
    assert not np.isnan(bench.explorer.results["error"].sel(layer="first", epoch=0))
    xr.testing.assert_identical(pane.found, bench.public("paths"))
    assert gate.parts > 3


@pytest.mark.parametrize("how", ["its own button", "the explorer's button", "Escape"])
def test_stop_ends_it_at_once_and_keeps_what_is_known(panels, monkeypatch, how):
    gate = Gate(monkeypatch)
    bench = panels()
    pane = bench.turn_to("paths")
    pane.measure.click()
    assert gate.reached.wait(NEVER)
    started = time.monotonic()
    if how == "Escape":
        message = {"kind": "stop", "row": 0, "column": 0}
        bench.shown.pictures.cells._handle_custom_msg(message, [])
    else:
        (pane.stop if how == "its own button" else bench.shown.controls.stop).click()
    assert time.monotonic() - started < 1
    assert said(pane)[0] == "Stopped: what is shown is not complete."
    assert pane.stop.disabled
    gate.opened.set()
    assert bench.session.wait_until_idle(NEVER)
    assert gate.parts == 3  # the one that was under way, and none after it
    assert said(pane)[0].startswith("Stopped")
    assert pane.found.attrs["complete"] == 0


def test_another_measurement_takes_the_place_of_the_one_that_runs(panels, monkeypatch):
    gate = Gate(monkeypatch)
    bench = panels()
    first = bench.turn_to("paths")
    first.measure.click()
    assert gate.reached.wait(NEVER)
    gate.opened.set()
    second = bench.measured("outputs")
    assert said(first)[0].startswith("Stopped") or first.found.attrs["complete"]
    assert second.found.attrs["complete"] == 1


@pytest.mark.parametrize("change", ["settings", "stack"])
def test_other_settings_or_another_stack_end_it_and_begin_with_nothing(panels, monkeypatch, change):
    gate = Gate(monkeypatch)
    bench = panels()
    bench.measured("motion")
    bench.turn_to("paths").measure.click()
    assert gate.reached.wait(NEVER)
    before = bench.session
    if change == "settings":
        bench.explorer._apply(studies_settings(bench))
    else:
        other = lx.open_stack(switch_states()[1:], model=bench.net)
        bench.explorer._replace(other, bench.explorer._settings)
    gate.opened.set()
    assert before.wait_until_idle(NEVER)
    assert before.found["paths"].attrs["complete"] == 0
    assert bench.session is not before
    assert bench.explorer.found == {}
    assert bench.turn_to("paths").found is None


def studies_settings(bench):
    return replace(bench.explorer._settings, seed=3)


def test_a_network_that_raises_is_told_in_the_panel_and_can_be_tried_again(
    panels, monkeypatch, caplog
):
    original = background.begin

    def broken(study, evaluator):
        yield next(original(study, evaluator))
        raise InterventionError("It was <altered>.", "A hash is expected.", "Put it back.")

    monkeypatch.setattr(background, "begin", broken)
    bench = panels()
    with caplog.at_level(logging.ERROR, logger="explorer"):
        pane = bench.measured("paths")
    assert said(pane) == ("", "It was <altered>.\nA hash is expected.\nPut it back.")
    assert 'role="alert"' in pane._alert.value
    assert "Paths and barriers could not be measured" in text_of(bench.shown.status.text)
    assert "Traceback" in caplog.text
    monkeypatch.setattr(background, "begin", original)
    pane = bench.measured("paths")
    assert said(pane)[1] == ""
    assert pane.found.attrs["complete"] == 1


def test_closing_ends_it(panels, monkeypatch):
    gate = Gate(monkeypatch)
    bench = panels()
    bench.turn_to("paths").measure.click()
    assert gate.reached.wait(NEVER)
    bench.explorer.close()
    gate.opened.set()
    bench.eventually(lambda: not bench.session.alive)
    assert gate.parts == 3


# --- linked with the selection --------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_click_on_a_layer_in_a_figure_selects_it_and_it_is_marked(panels, kind):
    bench = panels()
    pane = bench.measured(kind)
    bench.shown._layer_picked("second")
    assert bench.shown.selection.active.layer == "second"
    figure = pane.figures[0]
    before = states_of(pane)
    own, others = points_of(figure, "first"), points_of(figure, "second")
    x, y = next(point for point in own if point not in others)
    figure._trigger_event(Tap(figure, sx=1, sy=1, x=x, y=y))
    assert bench.shown.selection.active.layer == "first"
    assert bench.shown.controls.layer.label == "first"
    assert pane.figures[0] is figure
    assert states_of(pane) != before
    assert len(bench.explorer.measured) == 0  # nothing was measured for it


def points_of(figure, wanted):
    """Where the points of a layer are."""
    tables = [one.data_source.data for one in figure.renderers if "layer" in one.data_source.data]
    return [
        (x, y)
        for table in tables
        for x, y, layer in zip(*(table[name] for name in ("x", "y", "layer")), strict=True)
        if layer == wanted and np.isfinite(x + y)
    ]


def states_of(pane):
    """Everything that the figures draw."""
    return [
        (str(dict(one.data_source.data)), str(one.glyph.properties_with_values()))
        for figure in pane.figures
        for one in figure.renderers
    ]


def test_a_click_far_from_every_layer_changes_nothing(panels):
    bench = panels()
    figure = bench.measured("effective").figures[0]
    figure._trigger_event(Tap(figure, sx=1, sy=1, x=1e9, y=5))
    assert bench.shown.selection.active.layer == "first"


# --- where it does not apply ----------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["criticality", "paths", "motion"])
def test_of_one_checkpoint_a_panel_says_why_it_does_not_apply(panels, kind):
    bench = panels(states=switch_states()[-1:])
    pane = bench.turn_to(kind)
    assert "has one checkpoint, the trained network" in text_of(pane.children[1].value)
    assert len(pane.children) == 2
    assert bench.session.found == {}


def test_of_one_checkpoint_layers_are_reset_to_fresh_draws(panels):
    bench = panels(states=switch_states()[-1:])
    pane = bench.measured("effective")
    assert pane.found["source"].values.tolist() == ["fresh draw 0"]
    assert bench.measured("outputs").found.sizes["draw"] == 2


def test_without_labels_outputs_can_be_compared_and_nothing_else(panels):
    inputs, _ = one_hot_examples()
    bench = panels(data=inputs)
    assert "no labels" in text_of(bench.turn_to("paths").children[1].value)
    pane = bench.measured("outputs")
    wanted = lx.outputs(
        bench.stack, model=bench.net, data=inputs, draws=2, device="cpu", progress=False
    )
    xr.testing.assert_equal(pane.found.drop_attrs(), wanted.drop_attrs())
    assert "error" not in pane.found
    assert "calibration error" not in dict(pane.show.options)
    assert np.isnan(bench.explorer.results.attrs["final_error"])


# --- names, and what it costs ---------------------------------------------------------------------


def test_names_from_files_are_escaped(panels, monkeypatch):
    named = [
        {name.replace("first", "<b>$$x$$"): value for name, value in state.items()}
        for state in switch_states()
    ]
    stack = lx.open_stack(named)
    found = lx.motion(stack, sweep=None, progress=False)
    assert "<b>" not in motion_table(found, "rotation")
    assert "&lt;b&gt;" in motion_table(found, "rotation")


def test_no_figure_is_made_and_nothing_is_imported_before_the_tab_is_opened():
    code = (
        "import sys; from explorer.ui.widget import Explorer;"
        "one = Explorer('fcn3x256-digits');"
        "print([name for name in sys.modules if name in ('explorer.ui.panels',"
        " 'explorer.ui.panel_pane', 'explorer.ui.motion_figure', 'scipy.stats', 'torch')],"
        " len(one._exploration.beyond.children)); one.close()"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[] 0"


def test_after_other_settings_every_widget_of_a_panel_that_is_left_can_be_drawn(panels):
    """A reloaded page asks for the state of all of them at once, and shows none if one fails."""
    others = set(_instances)
    one = panels()
    one.measured("motion")
    one.measured("outputs")
    one.explorer._apply(replace(one.explorer._settings, draws=1))
    one.session.hurry()
    one.eventually(lambda: one.session.device)
    one.session.wait_until_idle(NEVER)
    for widget in [widget for key, widget in _instances.items() if key not in others]:
        widget.get_state()
