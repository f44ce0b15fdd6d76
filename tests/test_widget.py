"""The explorer without a browser: a click is a Tap event sent to a figure."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import threading
import time
from html.parser import HTMLParser
from types import SimpleNamespace

import pytest
from bokeh.events import DoubleTap, Tap
from bokeh.models import ColumnDataSource
from bokeh.plotting import figure

from explorer.errors import CheckpointError, UnknownNameError
from explorer.ui import background, session
from explorer.ui.live import LiveBokeh, prepare_page
from explorer.ui.widget import Explorer
from tests import fakes
from tests.fakes import Counted, Gate, ScriptedEvaluator, at_once

PATIENCE = 20
"""Seconds that a condition may take on a slow machine."""


class TextOnly(HTMLParser):
    def __init__(self):
        super().__init__()
        self.text = ""

    def handle_data(self, data):
        self.text += data


def text_of(html):
    parser = TextOnly()
    parser.feed(html)
    return parser.text.replace("\u00a0", " ")


class Bench:
    """An explorer on the workbench: its evaluator is scripted, its clicks are sent by hand."""

    def __init__(self, explorer, evaluator):
        self.explorer = explorer
        self.evaluator = evaluator

    def tap(self, x, y, view="_errors", event=Tap):
        plot = getattr(self.explorer, view).figure
        plot._trigger_event(event(plot, sx=1, sy=1, x=x, y=y))

    def wait(self):
        assert self.explorer._session.wait_until_idle(PATIENCE)

    def eventually(self, condition):
        deadline = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < deadline
            time.sleep(0.01)

    @property
    def status(self):
        return text_of(self.explorer._status.text)

    @property
    def alert(self):
        return text_of(self.explorer._status.alert)

    @property
    def curve(self):
        return self.explorer._curve.figure.title.text

    def error(self, layer, epoch):
        return float(self.explorer.results["error"].loc[layer, epoch])

    def in_cell(self, cell):
        shown = self.explorer._errors._cells.data
        return shown["text"][shown["where"].index(cell)]


@pytest.fixture
def on_bench(monkeypatch, tmp_path):
    """Return a function that puts an explorer of the tiny stack on the bench."""
    path = tmp_path / "sweep.nc"
    fakes.sweep().to_netcdf(path, engine="h5netcdf")
    monkeypatch.setattr(session, "bundled_sweep", lambda _name: path)
    monkeypatch.setattr(background, "measure_distances", lambda _s, **_options: fakes.distances())
    opened = []

    def put(answer=at_once, *, stack=None, opened_by=None, **options):
        evaluator = ScriptedEvaluator(answer)
        opens = opened_by or (lambda _s, **_options: evaluator)
        monkeypatch.setattr(background, "open_evaluator", opens)
        bench = Bench(Explorer(stack or fakes.stack(), **options), evaluator)
        opened.append(bench.explorer)
        if opened_by is None:
            bench.eventually(lambda: bench.explorer._session.distances is not None)
            bench.wait()
        return bench

    yield put
    for explorer in opened:
        explorer.close()


def test_the_first_picture_needs_neither_torch_nor_numba():
    code = (
        "import sys, explorer.ui.widget;"
        "print([name for name in ('torch', 'numba', 'sklearn') if name in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


def test_the_numbers_that_came_with_a_stack_are_there_before_the_network_is(on_bench):
    arrived = threading.Event()
    bench = on_bench(
        opened_by=lambda _stack, **_options: arrived.wait(PATIENCE) and ScriptedEvaluator(at_once)
    )
    assert bench.error("first", 0) == 0.7
    assert bench.in_cell("first ← epoch 0") == "70"
    assert bench.status.startswith("Click a cell")
    arrived.set()


def test_a_click_measures_the_cell_and_shows_it_everywhere(on_bench):
    bench = on_bench()
    assert bench.status.startswith("Ready on CPU")
    bench.tap(1.2, 0.9)
    bench.wait()
    assert bench.evaluator.asked == ["second ← epoch 1"]
    assert bench.error("second", 1) == 0.42
    assert bench.in_cell("second ← epoch 1") == "42"
    assert bench.curve == "second ← epoch 1"
    assert bench.status == (
        "second ← epoch 1: test error 42.0 % (95 % interval 41.0–43.0 %), 100 of 100 examples, CPU"
    )
    assert bench.explorer._errors.marked == bench.explorer._moved.marked == ([1.0], [1.0])
    assert bench.explorer._controls.layer.label == "second"
    assert bench.explorer._controls.source.label == "epoch 1"
    assert bench.alert == ""


def test_a_click_on_the_distances_does_the_same(on_bench):
    bench = on_bench()
    bench.tap(2, 1, view="_moved")
    bench.wait()
    assert bench.evaluator.asked == ["second ← epoch 5"]
    assert bench.explorer._errors.marked == ([2.0], [1.0])


@pytest.mark.parametrize("second", [Tap, DoubleTap])
def test_the_same_cell_is_measured_again_when_it_is_clicked_again(on_bench, second):
    bench = on_bench()
    for event in (Tap, second):
        bench.tap(0, 0, event=event)
        bench.wait()
    assert bench.evaluator.asked == ["first ← epoch 0"] * 2


def test_a_click_on_the_fresh_draws_measures_each_of_them(on_bench):
    bench = on_bench(seed=0)
    bench.tap(-1.3, 0)
    bench.wait()
    assert bench.evaluator.asked == [f"first ← fresh draw {draw}" for draw in range(3)]
    assert bench.explorer.results["rerandomized_error"].loc["first"].values.tolist() == [0.42] * 3
    assert "mean test error 42.0 % over 3 draws" in bench.status


def test_a_click_on_the_whole_network_puts_every_layer_back(on_bench):
    bench = on_bench()
    bench.tap(0, 2.3)
    bench.wait()
    assert bench.evaluator.asked == ["first ← epoch 0, second ← epoch 0"]
    assert float(bench.explorer.results["fullmodel_error"].loc[0]) == 0.42
    assert bench.explorer._moved.marked == ([], [])


@pytest.mark.parametrize(
    ("x", "y", "view"),
    [(-9, 0, "_errors"), (0, 99, "_moved"), (None, None, "_errors"), (-1.3, 2.3, "_errors")],
)
def test_a_click_beside_the_cells_changes_nothing(on_bench, x, y, view):
    bench = on_bench()
    before = (bench.status, bench.curve, bench.explorer.results)
    bench.tap(x, y, view=view)
    bench.wait()
    assert bench.evaluator.asked == []
    assert (bench.status, bench.curve) == before[:2]
    assert bench.alert == ""
    assert bench.explorer.results.identical(before[2])


def test_of_fast_clicks_the_newest_wins_and_the_others_write_nothing(on_bench):
    gate = Gate()
    bench = on_bench(gate)
    bench.tap(0, 0)
    assert gate.reached.wait(PATIENCE)
    bench.tap(1, 0)
    bench.tap(0, 1)
    gate.opened.set()
    bench.wait()
    assert bench.evaluator.asked == ["first ← epoch 0", "second ← epoch 0"]
    assert bench.error("first", 0) == 0.7
    assert bench.error("first", 1) == 0.3
    assert bench.error("second", 0) == 0.42
    assert bench.curve == "second ← epoch 0"
    assert bench.status.startswith("second ← epoch 0: test error 42.0 %")


def test_stop_ends_a_run_at_once_and_keeps_what_was_measured_before(on_bench):
    gate = Gate()
    bench = on_bench(gate)
    bench.tap(0, 0)
    assert gate.reached.wait(PATIENCE)
    started = time.monotonic()
    bench.explorer._controls.stop.click()
    assert time.monotonic() - started < 0.5
    assert bench.status == "Stopped. first ← epoch 0 keeps what was measured before."
    gate.opened.set()
    bench.wait()
    assert gate.left.is_set()
    assert bench.error("first", 0) == 0.7
    assert bench.status.startswith("Stopped.")
    bench.explorer._controls.stop.click()
    assert bench.status == "Nothing is running."


def test_the_menus_and_compute_do_the_same_as_a_click(on_bench):
    bench = on_bench()
    bench.explorer._controls.layer.index = 1
    assert bench.evaluator.asked == []
    assert bench.status.startswith("second ← epoch 0: test error 20.0 %, 95 % interval 15.0")
    assert bench.explorer._errors.marked == ([0.0], [1.0])
    bench.explorer._controls.source.index = 1
    bench.explorer._controls.compute.click()
    bench.wait()
    assert bench.evaluator.asked == ["second ← fresh draw 0"]
    assert bench.status.startswith("second ← fresh draw 0: test error 42.0 %")
    assert bench.explorer.results["rerandomized_error"].loc["second"].values[0] == 0.42


def test_the_menus_say_when_there_is_nothing_to_compute(on_bench):
    bench = on_bench()
    bench.explorer._controls.layer.index = 2
    bench.explorer._controls.source.index = 0
    bench.explorer._controls.compute.click()
    assert bench.status == "The whole network has no fresh draw here: choose an epoch."
    assert bench.evaluator.asked == []


def test_choosing_another_cell_stops_what_runs(on_bench):
    gate = Gate()
    bench = on_bench(gate)
    bench.tap(0, 0)
    assert gate.reached.wait(PATIENCE)
    bench.explorer._controls.layer.index = 1
    gate.opened.set()
    bench.wait()
    assert bench.error("first", 0) == 0.7
    assert bench.curve == "second ← epoch 0 (not run yet)"


def test_an_explorer_of_steps_speaks_of_steps(on_bench):
    bench = on_bench(stack=fakes.stack(unit="step"))
    explorer, controls = bench.explorer, bench.explorer._controls
    said = [bench.status, text_of(explorer._heading.value), bench.curve]
    bench.tap(0, 1)
    bench.wait()
    said += [bench.status, bench.curve]
    controls.layer.index, controls.source.index = 2, 0
    said += [bench.status, *(name for name, _ in controls.source.options)]
    for heatmap in (explorer._errors, explorer._moved):
        said += [*heatmap._cells.data["where"], *heatmap._cells.data["tip"]]
        said += [heatmap.figure.xaxis[0].axis_label, heatmap.figure.html_attributes["aria-label"]]
    assert not [text for text in said if "epoch" in text]
    assert "Click a cell, or choose a layer and a step" in said[0]
    assert said[3].startswith("second ← step 0: test error 42.0 %")
    assert "choose a step" in said[5]
    assert explorer.results.attrs["checkpoint_unit"] == "step"
    assert bench.error("second", 0) == 0.42


def test_the_distance_can_be_shown_in_another_measure(on_bench):
    bench = on_bench()
    menu = bench.explorer._measure
    shown = bench.explorer._moved._cells.data
    assert shown["text"][shown["where"].index("second ← epoch 5")] == "12"
    menu.index = [name for name, _ in menu.options].index("L2")
    shown = bench.explorer._moved._cells.data
    assert shown["text"][shown["where"].index("second ← epoch 5")] == "8.0"


def broken_in_the_middle(_intervention):
    yield Counted(50, 20)
    raise CheckpointError("It was <altered>.", "A hash is expected.", "Put it back.")


def test_an_error_is_shown_logged_and_marked_in_its_cell(on_bench, caplog):
    bench = on_bench(broken_in_the_middle)
    with caplog.at_level(logging.ERROR, logger="explorer"):
        bench.tap(0, 0)
        bench.wait()
    assert bench.alert == "It was <altered>.\nA hash is expected.\nPut it back."
    assert 'role="alert"' in bench.explorer._status.alert
    assert bench.status == "first ← epoch 0 could not be measured."
    assert bench.in_cell("first ← epoch 0") == "!"
    assert bench.explorer.results["reason"].loc["first", 0].item().startswith("It was <altered>")
    assert "Traceback" in caplog.text
    bench.evaluator.answer = at_once
    bench.tap(0, 0)
    bench.wait()
    assert bench.alert == ""
    assert bench.in_cell("first ← epoch 0") == "42"


def test_an_output_that_is_not_finite_is_shown_as_a_failure(on_bench):
    bench = on_bench(lambda _i: iter([Counted(100, 0, failure="NaN logits for 3 of 100 examples")]))
    bench.tap(0, 0)
    bench.wait()
    assert bench.alert == "NaN logits for 3 of 100 examples"
    assert bench.in_cell("first ← epoch 0") == "!"


def test_a_network_that_cannot_be_opened_leaves_the_numbers_that_are_known(on_bench, caplog):
    def broken(_stack, **_options):
        raise RuntimeError("no such device")

    bench = on_bench(opened_by=broken)
    bench.tap(0, 0)
    bench.wait()
    assert bench.alert == "RuntimeError: no such device"
    assert bench.in_cell("first ← epoch 0") == "70"
    assert "Traceback" in caplog.text


def test_an_error_in_a_callback_is_shown_too(on_bench, monkeypatch):
    bench = on_bench()
    monkeypatch.setattr(bench.explorer._errors, "mark", lambda _cell: 1 / 0)
    bench.tap(0, 0)
    assert bench.alert == "ZeroDivisionError: division by zero"


def test_a_stack_without_a_sweep_starts_unmeasured_and_finds_its_final_error(on_bench):
    bench = on_bench(stack=fakes.stack(content_hash=""), draws=1)
    assert bench.in_cell("first ← epoch 0") == "–"
    assert bench.explorer.results.attrs["final_error"] == 0.42
    assert bench.explorer.results.attrs["chance_error"] == 0.9
    bench.tap(0, 0)
    bench.wait()
    assert bench.in_cell("first ← epoch 0") == "42"
    assert bench.in_cell("first ← epoch 1") == "–"


def test_a_click_that_comes_before_the_network_is_not_lost(on_bench, monkeypatch):
    arrived = threading.Event()
    evaluator = ScriptedEvaluator(at_once)

    def slow_to_open(_stack, **_options):
        assert arrived.wait(PATIENCE)
        return evaluator

    bench = on_bench(opened_by=slow_to_open, stack=fakes.stack(content_hash=""))
    bench.tap(0, 0)
    assert "once the network is loaded" in bench.status
    arrived.set()
    bench.wait()
    assert evaluator.asked == ["first ← epoch 0", "intact network"]
    assert bench.error("first", 0) == 0.42


@pytest.mark.parametrize("other", [{"data": ([0], [0])}, {"batchnorm": "recalibrate"}])
def test_numbers_of_another_setting_are_not_shown_as_these(on_bench, other):
    bench = on_bench(**other)
    assert bench.in_cell("first ← epoch 0") == "–"


def test_fresh_draws_of_another_seed_are_not_shown_as_these(on_bench):
    bench = on_bench(seed=1)
    assert bench.in_cell("first ← fresh draws") == "–"
    assert bench.in_cell("first ← epoch 0") == "70"
    assert bench.explorer.results.attrs["seed"] == 1


def test_results_are_a_copy(on_bench):
    bench = on_bench()
    bench.explorer.results["error"].loc["first", 0] = 0.0
    assert bench.error("first", 0) == 0.7


def test_closing_ends_the_thread_and_what_still_runs_writes_nothing(on_bench):
    gate = Gate()
    bench = on_bench(gate)
    bench.tap(0, 0)
    assert gate.reached.wait(PATIENCE)
    gate.opened.set()
    bench.explorer.close()
    bench.eventually(lambda: not bench.explorer._session.alive)
    assert bench.error("first", 0) == 0.7
    bench.explorer.close()


def test_an_unknown_stack_is_refused_at_once_with_the_known_names(monkeypatch):
    complaints = []
    monkeypatch.setattr(sys, "unraisablehook", complaints.append)
    with pytest.raises(UnknownNameError, match="There is no stack 'fcn3x256-digit'"):
        Explorer("fcn3x256-digit")
    assert complaints == []


def test_names_from_data_are_escaped_in_the_heading(on_bench):
    bench = on_bench()
    assert "Tiny &lt;b&gt;network&lt;/b&gt;" in bench.explorer._heading.value
    assert "<b>" not in bench.explorer._heading.value


# Bokeh and the browser


@pytest.fixture
def live():
    """A figure with one point that notes its taps, what is sent for it, and its data source."""
    source = ColumnDataSource({"x": [1], "y": [1]})
    plot = figure()
    sent, taps = [], []
    plot.on_event(Tap, lambda tap: taps.append((tap.x, tap.y)))
    plot.scatter("x", "y", source=source)
    view = LiveBokeh(plot, threading.RLock())
    view.send = lambda content, buffers=None: sent.append(content)
    yield SimpleNamespace(view=view, sent=sent, taps=taps, source=source)
    view.close()


def from_browser(view, content):
    view._handle_custom_msg({**content, "event": "jsevent"}, [])


def test_a_change_goes_to_the_browser_and_its_echo_changes_nothing(live):
    live.source.stream({"x": [2], "y": [2]})
    (event,) = json.loads(live.sent[2]["payload"])["events"]
    assert event["kind"] == "ColumnsStreamed"
    from_browser(live.view, event)
    assert live.source.data["x"] == [1, 2]


def test_an_event_of_the_browser_is_heard_once(live):
    values = {"model": {"id": live.view._model.id}, "sx": 1, "sy": 1, "x": 0.5, "y": 0.25}
    entries = [list(entry) for entry in values.items()]
    tap = {"type": "event", "name": "tap", "values": {"type": "map", "entries": entries}}
    from_browser(live.view, {"kind": "MessageSent", "msg_type": "bokeh_event", "msg_data": tap})
    assert live.taps == [(0.5, 0.25)]


def test_a_page_that_is_reloaded_gets_the_figure_as_it_is_now(live):
    live.source.data = {"x": [1, 7], "y": [1, 7]}
    assert '["x", [1, 7]]' not in json.dumps(live.view.render_bundle)
    assert '["x", [1, 7]]' in json.dumps(json.loads(live.view.get_state()["render_bundle"]))
    assert "render_bundle" not in live.view.get_state("combine_events")


def test_a_view_that_is_drawn_late_is_drawn_again_as_the_figure_is_now(live):
    ready = {"type": "event", "name": "document_ready", "values": {"type": "map", "entries": []}}

    def say_ready():
        from_browser(
            live.view, {"kind": "MessageSent", "msg_type": "bokeh_event", "msg_data": ready}
        )

    first = live.view.render_bundle
    say_ready()
    assert live.view.render_bundle is first
    live.source.data = {"x": [1, 7], "y": [1, 7]}
    say_ready()
    second = live.view.render_bundle
    assert '["x", [1, 7]]' in json.dumps(second)
    live.source.data = {"x": [8], "y": [8]}
    say_ready()  # from drawing the second; what came after it has been sent to that view
    assert live.view.render_bundle is second
    say_ready()  # from another view
    assert '["x", [8]]' in json.dumps(live.view.render_bundle)


def test_two_threads_never_mix_the_messages_of_their_updates(live):
    sources = [ColumnDataSource({"x": [0]}) for _ in range(2)]
    for source in sources:
        live.view._model.scatter("x", "x", source=source)
    sent = []
    live.view.send = lambda _content: (sent.append(threading.get_ident()), time.sleep(1e-4))

    def update(source):
        for number in range(50):
            source.data = {"x": [number]}

    threads = [threading.Thread(target=update, args=[source]) for source in sources]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(sent) == 2 * 50 * 3
    groups = [sent[at : at + 3] for at in range(0, len(sent), 3)]
    assert all(len(set(group)) == 1 for group in groups)


def test_bokehjs_comes_from_this_computer_and_is_left_alone_where_it_is(monkeypatch):
    published = []
    monkeypatch.setattr("explorer.ui.live.publish_display_data", published.append)
    prepare_page()
    code = published[0]["application/javascript"]
    assert code.startswith("if (!window.Bokeh)")
    assert len(code) > 500_000
    assert "cdn.bokeh.org" not in code[:1000]


def test_displaying_an_explorer_brings_bokehjs_along(on_bench, monkeypatch):
    called = []
    monkeypatch.setattr("explorer.ui.widget.prepare_page", lambda: called.append(True))
    shown = on_bench().explorer._repr_mimebundle_()
    assert called == [True]
    assert "application/vnd.jupyter.widget-view+json" in shown


def test_a_stack_that_names_itself_and_is_not_in_the_catalog_opens_unmeasured(copied):
    """Whoever trains a stack under a name of their own has no precomputed sweep."""
    path = copied / "stack.json"
    text = path.read_text(encoding="utf-8").replace("fcn3x256-digits", "mine")
    path.write_text(text, encoding="utf-8")
    opened = Explorer(copied)
    try:
        assert opened.results.attrs["stack"] == "mine"
        assert opened.results["error"].isnull().all()
    finally:
        opened.close()
