"""The explorer without a browser: a click is a Tap event sent to a figure."""

from __future__ import annotations

import json
import logging
import math
import re
import subprocess
import sys
import threading
import time

import pytest
from bokeh.events import DocumentReady, DoubleTap, Tap
from ipywidgets.widgets.widget import _instances

from explorer.errors import CheckpointError, UnknownNameError, UsageError
from explorer.ui import background, displaced, moved, presence, widget
from explorer.ui.selection import steps
from explorer.ui.widget import Explorer
from tests import fakes
from tests.bench import PATIENCE, text_of
from tests.fakes import Counted, Gate, ScriptedEvaluator, at_once

NEVER = 10 * PATIENCE
"""Seconds; longer than any test."""


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


def test_the_network_is_loaded_when_the_picture_is_drawn_or_somebody_waits(on_bench, monkeypatch):
    """Importing torch keeps the processor from drawing."""
    opened = []

    def opens(_stack, **_options):
        opened.append(True)
        return ScriptedEvaluator(at_once)

    for ask in (
        lambda bench: bench.pictures.errors.figure.document.callbacks.trigger_event(
            DocumentReady()
        ),
        lambda bench: bench.tap(0, 0),
    ):
        bench = on_bench(opened_by=opens, head_start=NEVER)
        time.sleep(0.1)
        assert not opened
        ask(bench)
        bench.eventually(lambda: opened)
        opened.clear()


def test_what_is_beside_the_errors_is_made_when_the_page_has_drawn_them(on_bench):
    bench = on_bench(opened_by=lambda _stack, **_options: None, head_start=NEVER)
    assert list(bench.pictures._live) == ["Error heatmap"]
    places = [bench.pictures._second, *bench.pictures._curves.values()]
    heights = [place.children[-1].layout.height for place in places]
    bench.pictures.errors.figure.document.callbacks.trigger_event(DocumentReady())
    live = bench.pictures._live
    assert list(live) == ["Error heatmap", "Distance heatmap", "Live estimate", "Layer profile"]
    assert [place.children[-1] for place in places] == list(live.values())[1:]
    assert heights == [f"{view._model.height}px" for view in list(live.values())[1:]]


def test_where_no_page_draws_the_pictures_come_with_the_network(on_bench):
    bench = on_bench()
    bench.eventually(lambda: "Layer profile" in bench.pictures._live)


def test_closing_before_the_picture_is_drawn_loads_nothing(on_bench):
    opened = []
    bench = on_bench(opened_by=lambda _stack, **_options: opened.append(1), head_start=NEVER)
    bench.explorer.close()
    bench.session._warm_up.join(PATIENCE)
    assert not bench.session._warm_up.is_alive()
    assert opened == []


def test_figures_are_made_with_their_cells_so_that_none_is_drawn_twice(on_bench):
    bench = on_bench(opened_by=lambda _stack, **_options: None, head_start=NEVER)
    first = bench.pictures._live["Error heatmap"]
    assert not first._ahead
    assert '"70"' in json.dumps(first.render_bundle)


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
    assert bench.pictures.errors.marked == bench.pictures.moved.marked == ([1.0], [1.0])
    assert bench.controls.layer.label == "second"
    assert bench.controls.source.label == "epoch 1"
    assert bench.alert == ""


def test_a_click_on_the_distances_does_the_same(on_bench):
    bench = on_bench()
    bench.tap(2, 1, view="moved")
    bench.wait()
    assert bench.evaluator.asked == ["second ← epoch 5"]
    assert bench.pictures.errors.marked == ([2.0], [1.0])


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


def test_distances_of_checkpoints_that_are_not_here_wait_for_a_click_that_fetches_them(
    on_bench, monkeypatch
):
    here, measured = [0], []

    def measure(stack, *, epochs, **_options):
        measured.append(list(epochs))
        return fakes.distances()

    monkeypatch.setattr(moved, "epochs_here", lambda _stack: list(here))
    monkeypatch.setattr(background, "measure_distances", measure)
    bench = on_bench()
    bench.tap(0, 0)
    bench.wait()
    assert measured == [[0]]
    here.append(1)
    bench.tap(0, 0, event=DoubleTap)
    bench.eventually(lambda: measured == [[0], [0, 1]])
    here.append(5)
    bench.tap(1, 0)
    bench.eventually(lambda: len(measured) == 3)
    bench.tap(0, 0, event=DoubleTap)
    bench.wait()
    assert measured == [[0], [0, 1], [0, 1, 5]]


def test_a_click_on_the_whole_network_puts_every_layer_back(on_bench):
    bench = on_bench()
    bench.tap(0, 2.3)
    bench.wait()
    assert bench.evaluator.asked == ["first ← epoch 0, second ← epoch 0"]
    assert float(bench.explorer.results["fullmodel_error"].loc[0]) == 0.42
    assert bench.pictures.moved.marked == ([], [])


@pytest.mark.parametrize(
    ("x", "y", "view"),
    [(-9, 0, "errors"), (0, 99, "moved"), (None, None, "errors"), (-1.3, 2.3, "errors")],
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
    bench.controls.stop.click()
    assert time.monotonic() - started < 0.5
    assert bench.status == "Stopped. What was measured so far is kept."
    gate.opened.set()
    bench.wait()
    assert gate.left.is_set()
    assert bench.error("first", 0) == 0.7
    assert bench.status.startswith("Stopped.")
    bench.controls.stop.click()
    assert bench.status == "Nothing is running."


def test_the_menus_and_compute_do_the_same_as_a_click(on_bench):
    bench = on_bench()
    bench.controls.layer.index = 1
    assert bench.evaluator.asked == []
    assert bench.status.startswith("second ← epoch 0: test error 20.0 %, 95 % interval 15.0")
    assert bench.pictures.errors.marked == ([0.0], [1.0])
    bench.controls.source.index = 1
    bench.controls.compute.click()
    bench.wait()
    assert bench.evaluator.asked == ["second ← fresh draw 0"]
    assert bench.status.startswith("second ← fresh draw 0: test error 42.0 %")
    assert bench.explorer.results["rerandomized_error"].loc["second"].values[0] == 0.42


def test_the_whole_network_can_be_drawn_anew_though_it_has_no_cell_for_that(on_bench):
    bench = on_bench()
    bench.controls.layer.index = 2
    bench.controls.source.index = 0
    bench.controls.compute.click()
    bench.wait()
    assert bench.evaluator.asked == [
        f"first ← fresh draw {draw}, second ← fresh draw {draw}" for draw in range(3)
    ]
    assert bench.status.startswith("fullmodel ← fresh draws: test error 42.0 %")
    assert list(bench.explorer.measured["error"]) == [0.42] * 3
    assert bench.pictures.errors.marked == ([], [])


def test_choosing_another_cell_stops_what_runs(on_bench):
    gate = Gate()
    bench = on_bench(gate)
    bench.tap(0, 0)
    assert gate.reached.wait(PATIENCE)
    bench.controls.layer.index = 1
    gate.opened.set()
    bench.wait()
    assert bench.error("first", 0) == 0.7
    assert bench.curve == "second ← epoch 0 (not run yet)"


def test_an_explorer_of_steps_speaks_of_steps(on_bench):
    bench = on_bench(stack=fakes.stack(unit="step"))
    pictures, controls = bench.pictures, bench.controls
    said = [bench.status, text_of(bench.shown.heading.value)]
    bench.tap(0, 1)
    bench.wait()
    said += [bench.status, bench.curve, pictures.profile.figure.title.text]
    said += [name for name, _ in controls.source.options]
    said += [name for line in pictures.cells.names for name in line]
    for heatmap in (pictures.errors, pictures.moved):
        said += [*heatmap._cells.data["where"], *heatmap._cells.data["tip"]]
        said += [heatmap.figure.xaxis[0].axis_label, heatmap.figure.html_attributes["aria-label"]]
    assert not [text for text in said if "epoch" in text]
    assert "Click a cell, or choose a layer and a step" in said[0]
    assert said[2].startswith("second ← step 0: test error 42.0 %")
    assert bench.explorer.results.attrs["checkpoint_unit"] == "step"
    assert bench.error("second", 0) == 0.42


def test_the_distance_can_be_shown_in_another_measure(on_bench):
    bench = on_bench()
    menu = bench.shown.shown.measure
    shown = bench.pictures.moved._cells.data
    assert shown["text"][shown["where"].index("second ← epoch 5")] == "12"
    menu.index = [name for name, _ in menu.options].index("L2")
    shown = bench.pictures.moved._cells.data
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
    assert 'role="alert"' in bench.shown.status.alert
    assert bench.status == "first ← epoch 0 could not be measured."
    assert bench.in_cell("first ← epoch 0") == "!"
    assert bench.explorer.results["reason"].loc["first", 0].item().startswith("It was <altered>")
    assert "Traceback" in caplog.text
    bench.evaluator.answer = at_once
    bench.tap(0, 0)
    bench.wait()
    assert bench.alert == ""
    assert bench.in_cell("first ← epoch 0") == "42"


@pytest.mark.parametrize(
    ("press", "what"),
    [
        ("compute", "first ← epoch 0"),
        ("sweep", "The sweep"),
        ("find", "The order of resets"),
    ],
)
def test_a_network_that_cannot_be_loaded_is_said_of_what_was_asked(on_bench, press, what):
    def refused(_stack, **_options):
        raise CheckpointError("It was altered.", "A hash is expected.", "Put it back.")

    bench = on_bench(opened_by=refused)
    bench.eventually(lambda: bench.alert)  # the network is loaded before anybody asks
    buttons = {
        "compute": bench.controls.compute,
        "sweep": bench.controls.sweep,
        "find": bench.shown.order.find,
    }
    buttons[press].click()
    bench.wait()
    assert bench.status == f"{what} could not be measured."
    assert bench.alert == "It was altered.\nA hash is expected.\nPut it back."


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
    monkeypatch.setattr(bench.pictures.errors, "mark", lambda *_cells: 1 / 0)
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
    bench.eventually(lambda: not bench.session.alive)
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
    assert "Tiny &lt;b&gt;network&lt;/b&gt;" in bench.shown.heading.value
    assert "<b>" not in bench.shown.heading.value


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


# Several layers together


def held(**keys):
    return {"shift": False, "ctrl": False, "alt": False, **keys}


def test_a_click_with_a_key_puts_layers_back_together(on_bench):
    bench = on_bench()
    bench.tap(0, 0)
    bench.wait()
    bench.tap(1, 1, held=held(ctrl=True))
    bench.wait()
    assert bench.evaluator.asked[1:] == ["first ← epoch 0, second ← epoch 1"]
    assert bench.pictures.errors.marked == ([0.0, 1.0], [0.0, 1.0])
    assert [layer["ticked"] for layer in bench.pictures.strip.layers] == [True, True]
    assert bench.status.startswith("first ← epoch 0, second ← epoch 1: test error 42.0 %")
    assert bench.explorer.measured["intervention"].tolist()[-1] == bench.evaluator.asked[-1]
    assert bench.error("second", 1) == 0.15  # a joint result is no cell's
    bench.tap(2, 0)
    bench.wait()
    assert bench.pictures.errors.marked == ([2.0], [0.0])


def test_ticking_layers_selects_them_in_the_column_of_the_cursor(on_bench):
    bench = on_bench()
    bench.controls.source.index = bench.controls.source.index + 1  # epoch 1
    for layer in ("first", "second"):
        message = {"kind": "tick", "layer": layer, "ticked": True}
        bench.pictures.strip._handle_custom_msg(message, [])
    assert bench.evaluator.asked == []
    assert "first, second ← epoch 1" in bench.status
    bench.controls.compute.click()
    bench.wait()
    assert bench.evaluator.asked == ["first ← epoch 1, second ← epoch 1"]
    message = {"kind": "tick", "layer": "first", "ticked": False}
    bench.pictures.strip._handle_custom_msg(message, [])
    assert bench.shown.selection.layers == ("second",)


def test_a_preset_selects_layers_and_the_source_menu_holds_for_all_of_them(on_bench):
    layers = tuple(f"stage{at}.block" for at in range(4))
    bench = on_bench(stack=fakes.stack(layers=layers, content_hash=""))
    names = [name for name, _ in bench.controls.preset.options]
    assert names[:2] == ["one layer", "all but the first (3)"]
    bench.controls.preset.index = 1
    assert bench.shown.selection.layers == layers[1:]
    bench.controls.source.index = [name for name, _ in bench.controls.source.options].index("zeros")
    bench.controls.compute.click()
    bench.wait()
    assert bench.evaluator.asked[-1] == ", ".join(f"{layer} ← zeros" for layer in layers[1:])
    bench.controls.preset.index = 0
    assert bench.shown.selection.cells == ()


def test_the_code_of_the_selection_is_at_hand_and_means_the_same(on_bench):
    bench = on_bench(stack=fakes.stack(name="tiny"), batchnorm="weights_only")
    bench.tap(1, 0)
    code = bench.pictures.exports.code
    assert "lx.open_stack('tiny')" in code
    assert "lx.evaluate(stack, lx.reinitialise('first', epoch=1), batchnorm='weights_only')" in code
    bench.tap(-1.3, 1, held=held(shift=True))
    code = bench.pictures.exports.code
    names = {}
    exec("\n".join(line for line in code.splitlines() if line.startswith("from ")), names)
    (expression,) = re.findall(r"lx\.evaluate\(stack, (.*), batchnorm", code)
    assert (
        eval(expression, names)
        == steps(bench.shown.selection.choice, bench.session.grid, 0)[0].intervention
    )


# Sweeps


def test_a_sweep_fills_what_is_missing_layer_by_layer_and_says_how_far_it_is(on_bench):
    bench = on_bench(stack=fakes.stack(content_hash=""), draws=1)
    bench.controls.sweep.click()
    bench.wait()
    assert bench.explorer.results["error"].notnull().all()
    assert bench.explorer.results["rerandomized_error"].notnull().all()
    assert bench.explorer.results["fullmodel_error"].notnull().all()
    asked = [one for one in bench.evaluator.asked if one != "intact network"]
    assert asked[:4] == [
        "first ← fresh draw 0",
        *(f"first ← epoch {epoch}" for epoch in (0, 1, 5)),
    ]
    assert len(asked) == 2 * 4 + 3
    assert bench.status == "11 cells measured, CPU."


def test_a_sweep_of_the_selection_measures_its_layers_only(on_bench):
    bench = on_bench(stack=fakes.stack(content_hash=""), draws=0)
    bench.controls.layer.index = 1
    bench.controls.sweep_row.click()
    bench.wait()
    assert bench.explorer.results["error"].notnull().all("epoch").values.tolist() == [False, True]


def test_cells_that_are_known_are_not_measured_again_unless_all_are(on_bench):
    bench = on_bench(seed=1)  # the draws of the bundled sweep have another seed
    bench.controls.sweep.click()
    bench.wait()
    assert {asked.split(" ← ")[1] for asked in bench.evaluator.asked} == {
        f"fresh draw {draw}" for draw in range(3)
    }
    bench.evaluator.asked.clear()
    bench.controls.sweep.click()
    bench.wait()
    assert "first ← epoch 0" in bench.evaluator.asked


@pytest.fixture
def held_sweep(on_bench):
    """A sweep of all cells that waits in the middle of the first layer, and its gate."""
    gate = Gate()
    gate.opened.set()
    bench = on_bench(gate, stack=fakes.stack(content_hash=""), draws=0)
    gate.opened.clear()
    gate.reached.clear()
    bench.evaluator.asked.clear()
    bench.controls.sweep.click()
    assert gate.reached.wait(PATIENCE)
    return bench, gate


def test_while_a_sweep_runs_its_cells_are_shown_as_estimates(held_sweep):
    bench, gate = held_sweep
    bench.eventually(lambda: bench.in_cell("first ← epoch 0") == "≈40")
    bench.controls.stop.click()
    assert bench.status == "Stopped. What was measured so far is kept."
    gate.opened.set()
    bench.wait()
    assert bench.in_cell("first ← epoch 0") == "≈40"
    assert bench.in_cell("second ← epoch 0") == "–"


def test_a_click_comes_before_the_rest_of_a_sweep_which_then_goes_on(held_sweep):
    bench, gate = held_sweep
    bench.tap(0, 1)
    gate.opened.set()
    bench.eventually(lambda: bench.status.endswith("9 cells measured, CPU."))
    asked = bench.evaluator.asked
    assert asked.index("second ← epoch 0") == 3  # after the row that was under way
    assert bench.explorer.results["error"].notnull().all()


def test_stop_forgets_the_rest_of_a_sweep_for_good(held_sweep):
    bench, gate = held_sweep
    bench.controls.stop.click()
    gate.opened.set()
    bench.wait()
    bench.evaluator.asked.clear()
    bench.tap(0, 1)
    bench.wait()
    assert bench.evaluator.asked == ["second ← epoch 0"]


def test_a_sweep_that_fails_says_so_and_is_not_tried_for_ever(on_bench, caplog):
    def broken(_intervention):
        raise CheckpointError("It was <altered>.", "A hash is expected.", "Put it back.")

    bench = on_bench(broken)
    bench.controls.sweep.click()
    bench.wait()
    assert bench.alert.startswith("It was <altered>.")
    bench.evaluator.answer = at_once
    bench.tap(0, 0)
    bench.wait()
    assert bench.evaluator.asked[-1] == "first ← epoch 0"


# How far, what changed, what was measured


def test_the_order_of_joint_resets_is_found_and_shown(on_bench):
    bench = on_bench()
    bench.shown.order.find.click()
    bench.wait()
    html = bench.shown.order.text.value
    assert "1 layer can be put back to epoch 0 before" in html
    assert "4 of 8 trained parameters" in html
    assert 'class="beyond"' in html
    assert "&lt;first&gt; (too much)" in html
    assert bench.status == "1 layer can be put back to epoch 0."


def test_an_order_keeps_the_column_and_the_limit_that_it_was_asked_for(on_bench, monkeypatch):
    """The reader goes on to look at other cells while it is being found."""
    go_on = threading.Event()
    found = list(fakes.find_order(None, {}, 0))

    def slowly(_evaluator, _sources, _allowed):
        yield found[0]
        assert go_on.wait(PATIENCE)
        yield found[-1]

    bench = on_bench()
    monkeypatch.setattr(background, "find_order", slowly)
    bench.shown.order.find.click()
    bench.eventually(lambda: "Looking: 1 of" in bench.shown.order.text.value)
    bench.press("move", 0, 2)
    bench.shown.shown.threshold.index = 4
    go_on.set()
    bench.wait()
    assert "1 layer can be put back to epoch 0 before" in bench.shown.order.text.value
    assert "more than 10 % of the way" in text_of(bench.shown.order.text.value)
    assert bench.status == "1 layer can be put back to epoch 0."


@pytest.mark.parametrize(("final", "allowed"), [(0.1, 0.18), (0.95, 0.95)])
def test_an_order_may_go_a_tenth_of_the_way_to_chance_where_there_is_one(
    on_bench, monkeypatch, final, allowed
):
    asked = []

    def found(_evaluator, _sources, allowed_error):
        asked.append(allowed_error)
        return fakes.find_order(_evaluator, _sources, allowed_error)

    bench = on_bench()
    monkeypatch.setattr(background, "find_order", found)
    bench.session.results.attrs["final_error"] = final
    bench.shown.order.find.click()
    bench.wait()
    assert asked == [pytest.approx(allowed)]


def test_an_order_that_is_given_up_before_the_trained_network_is_measured_is_no_failure(
    on_bench, caplog
):
    gate = Gate()
    bench = on_bench(gate, stack=fakes.stack(name="unheard of"))
    gate.opened.set()
    bench.wait()
    gate.opened.clear()
    gate.reached.clear()
    bench.session.results.attrs["final_error"] = math.nan
    bench.shown.order.find.click()
    assert gate.reached.wait(PATIENCE)  # in the middle of the trained network
    bench.shown.controls.stop.click()
    gate.opened.set()
    bench.wait()
    assert caplog.records == []
    assert bench.alert == ""


def test_a_click_shows_what_it_turned_wrong_and_a_failure_there_keeps_the_number(
    on_bench, monkeypatch
):
    bench = on_bench()
    bench.tap(0, 0)
    bench.wait()
    assert "2 of 6 answers turned wrong, 1 turned right" in bench.shown.changed.value
    assert bench.shown.changed.value.count("<img") == 3

    def broken(_intervention):
        raise RuntimeError("no answers")

    bench.evaluator.predictions = broken
    bench.tap(1, 0)
    bench.wait()
    assert bench.alert == "RuntimeError: no answers"
    assert bench.error("first", 1) == 0.42
    assert bench.in_cell("first ← epoch 1") == "42"


def test_everything_measured_is_listed_newest_first(on_bench):
    bench = on_bench()
    bench.tap(0, 0)
    bench.wait()
    bench.tap(0, 1)
    bench.wait()
    text = text_of(bench.shown.measured.value)
    assert text.index("second ← epoch 0") < text.index("first ← epoch 0")
    assert bench.explorer.measured["error"].tolist() == [0.42, 0.42]


@pytest.mark.parametrize(
    ("kind", "beginning", "name"),
    [
        ("html", b"<!doctype html>", "tiny.html"),
        ("nc", b"\x89HDF", "tiny.nc"),
        ("csv", b"layer,epoch,", "tiny.csv"),
        ("list", b"intervention,error,", "tiny-measured.csv"),
    ],
)
def test_files_are_handed_to_the_browser(on_bench, monkeypatch, kind, beginning, name):
    bench = on_bench()
    sent = []
    monkeypatch.setattr(bench.pictures.exports, "send", lambda *message: sent.append(message))
    bench.pictures.exports._handle_custom_msg({"kind": kind}, [])
    ((message, (content,)),) = sent
    assert message["name"] == name
    assert content.startswith(beginning)
    assert bench.alert == ""


def test_the_report_calls_layers_critical_by_the_share_that_is_chosen_on_the_page(
    on_bench, monkeypatch
):
    bench = on_bench()
    bench.shown.shown.threshold.index = 0
    assert bench.shown.shown.share == 0.01
    sent = []
    monkeypatch.setattr(bench.pictures.exports, "send", lambda *message: sent.append(message))
    bench.pictures.exports._handle_custom_msg({"kind": "html"}, [])
    ((_, (content,)),) = sent
    assert "more than 1.0 % of the way" in text_of(content.decode()).replace("\u00a0", " ")


@pytest.mark.parametrize(
    ("unknown", "refusal"),
    [
        ("distances", "The distances are not known yet."),
        ("dataset", "The test examples are not loaded yet."),
    ],
)
def test_a_report_before_all_that_it_shows_is_known_says_so(
    on_bench, monkeypatch, unknown, refusal
):
    bench = on_bench()
    if unknown == "distances":
        bench.session.distances = None
    else:
        del bench.session.results.attrs["dataset"]
    sent = []
    monkeypatch.setattr(bench.pictures.exports, "send", lambda *message: sent.append(message))
    bench.pictures.exports._handle_custom_msg({"kind": "html"}, [])
    assert sent[0][0]["failure"].startswith(refusal)


# Without a pointer


def test_every_cell_has_its_spoken_name_at_its_place(on_bench):
    bench = on_bench()
    names = bench.pictures.cells.names
    assert names[0][1] == "first, epoch 0, error 70\u00a0%, critical"
    assert names[2] == [
        "",
        *(
            f"whole network, epoch {at}, error {error}\u00a0%"
            for at, error in ((0, 90), (1, 50), (5, 10))
        ),
    ]
    assert bench.pictures.cells.active == [0, 1]


def test_keys_move_add_compute_and_stop(on_bench):
    bench = on_bench()
    at_first = bench.pictures.cells.active
    bench.press("move", 1, 2)
    assert bench.pictures.cells.active == at_first  # the page may be further by now
    assert bench.controls.layer.label == "second"
    assert bench.evaluator.asked == []
    bench.press("toggle", 1, 2)
    bench.press("move", 0, 1)
    assert bench.pictures.errors.marked == ([1.0], [1.0])
    assert dict(bench.pictures.errors._cursor.data) == {"x": [0.0], "y": [0.0]}
    bench.press("toggle", 0, 1)
    assert bench.pictures.cells.selected == [[0, 1], [1, 2]]
    assert "first ← epoch 0, second ← epoch 1" in bench.status
    bench.press("compute", 0, 1)
    bench.wait()
    assert bench.evaluator.asked == ["first ← epoch 0, second ← epoch 1"]
    bench.press("compute", 2, 2)
    bench.wait()
    assert bench.evaluator.asked[-1] == "first ← epoch 1, second ← epoch 1"
    assert float(bench.explorer.results["fullmodel_error"].loc[1]) == 0.42
    bench.press("stop")
    assert bench.status == "Nothing is running."
    bench.press("compute", 2, 0)  # the gap: the whole network has no fresh draws there
    assert bench.alert == ""


# Another look, other settings, another stack


def test_the_heatmap_can_show_differences_and_the_distances_a_scatter(on_bench):
    bench = on_bench()
    bench.shown.shown.error.index = 1
    assert bench.in_cell("first ← epoch 0") == "+60"
    bench.shown.shown.picture.index = 1
    shown = bench.pictures._second.children[1]
    assert shown is bench.pictures._live["Distance against error"]
    bench.shown.shown.picture.index = 0
    assert bench.pictures._second.children[1] is bench.pictures._live["Distance heatmap"]


def test_what_is_good_enough_can_be_chosen(on_bench):
    bench = on_bench()
    assert [layer["verdict"] for layer in bench.pictures.strip.layers] == ["critical", "critical"]
    bench.shown.shown.threshold.index = 4  # a fifth of the way to chance
    assert [layer["verdict"] for layer in bench.pictures.strip.layers] == ["critical", "robust"]
    assert "robust" in bench.pictures.cells.names[1][1]


def test_other_settings_measure_anew_and_coming_back_finds_what_was_known(on_bench):
    bench = on_bench()
    bench.tap(0, 0)
    bench.wait()
    before = bench.session
    bench.shown._settings_pane.policy.index = 1
    bench.shown._settings_pane.apply.click()
    bench.eventually(lambda: bench.session is not before)
    assert not before.alive
    bench.wait()
    assert bench.in_cell("first ← epoch 0") == "–"
    assert bench.explorer.results.attrs["batchnorm"] == "weights_only"
    bench.shown._settings_pane.policy.index = 0
    bench.shown._settings_pane.apply.click()
    assert bench.in_cell("first ← epoch 0") == "42"
    assert bench.in_cell("first ← epoch 1") == "30"


def test_a_lower_precision_can_be_chosen_and_is_part_of_the_code(on_bench, monkeypatch):
    bench = on_bench()
    opened = []

    def open_evaluator(_stack, **options):
        opened.append(options["screen"])
        return bench.evaluator

    monkeypatch.setattr(background, "open_evaluator", open_evaluator)
    monkeypatch.setattr(background, "provenance", lambda _e: {"screen": "float16"})
    assert "screen" not in bench.pictures.exports.code
    before = bench.session
    bench.shown._settings_pane.arithmetic.index = 1
    bench.shown._settings_pane.apply.click()
    bench.eventually(lambda: bench.session is not before)
    bench.tap(0, 0)
    bench.wait()
    assert opened == [True]
    assert ", screen=True)" in bench.pictures.exports.code
    assert bench.explorer.results.attrs["screen"] == "float16"
    bench.eventually(lambda: bench.shown._settings_pane.arithmetic.index == 1)


def test_layers_can_run_from_left_to_right(on_bench):
    bench = on_bench()
    bench.shown._settings_pane.form.index = 1
    bench.shown._settings_pane.apply.click()
    bench.tap(1, 0)
    bench.wait()
    assert bench.evaluator.asked == ["second ← epoch 0"]
    assert bench.pictures.cells.active == [1, 1]


def test_a_device_that_is_not_there_is_refused_where_the_reader_sees_it(on_bench, monkeypatch):
    bench = on_bench()

    def broken(_stack, **options):
        raise UsageError(f"No {options['device']}.", "cpu will do.", "Choose cpu.")

    monkeypatch.setattr(background, "open_evaluator", broken)
    bench.shown._settings_pane.device.value = "cuda:7"
    bench.shown._settings_pane.apply.click()
    bench.eventually(lambda: bench.alert.startswith("No cuda:7."))
    assert bench.in_cell("first ← epoch 0") == "70"


def test_another_stack_can_be_chosen_and_a_wrong_path_keeps_this_one(on_bench, monkeypatch):
    bench = on_bench()
    opened = []

    def open_other(name):
        opened.append(name)
        if name == "missing":
            raise UnknownNameError("There is no stack 'missing'.", "tiny.", "Correct it.")
        return fakes.stack(name="other", layers=("a", "b", "c"), content_hash="")

    monkeypatch.setattr(widget, "open_stack", open_other)
    chooser, before = bench.explorer._chooser, bench.session
    chooser.path.value = "missing"
    assert text_of(bench.explorer._alert.value).startswith("There is no stack 'missing'.")
    assert bench.session is before
    chooser.path.value = "folder"
    assert bench.session.grid.layers == ("a", "b", "c")
    assert bench.explorer._alert.value == ""
    assert not before.alive
    chooser.stack.index = 0
    assert opened == ["missing", "folder", chooser._names[0]]


def test_a_readers_own_model_is_not_offered_other_stacks(on_bench):
    bench = on_bench(data=([0], [0]))
    assert bench.explorer._chooser not in bench.explorer.children


# Pages that come and go


def test_when_the_last_page_has_gone_the_work_ends_and_the_memory_is_given_back(
    on_bench, monkeypatch
):
    monkeypatch.setattr(presence, "GONE", 0.05)
    gate = Gate()
    bench = on_bench(gate)
    bench.press("shown")
    bench.tap(0, 0)
    assert gate.reached.wait(PATIENCE)
    bench.press("gone")
    bench.eventually(lambda: bench.session.networks.evaluator is None)
    gate.opened.set()
    bench.wait()
    assert not bench.session.alive
    assert bench.error("first", 0) == 0.7
    bench.tap(1, 0)
    bench.wait()
    assert bench.error("first", 1) == 0.42


def test_when_another_page_still_shows_the_explorer_the_work_goes_on(on_bench, monkeypatch):
    monkeypatch.setattr(presence, "GONE", 0.05)
    bench = on_bench()
    asked = []
    monkeypatch.setattr(bench.shown._presence, "_ask", asked.append)
    bench.press("gone")
    assert asked == [{"ask": "here"}]
    bench.press("here")
    time.sleep(0.2)
    assert bench.session.networks.evaluator is not None


@pytest.fixture
def in_cell(monkeypatch):
    """Return a function that displays an explorer as a run of a notebook's cell does."""
    monkeypatch.setattr(presence, "GONE", 0.05)
    monkeypatch.setattr(displaced, "_latest", {})

    def display(bench, cell, run):
        monkeypatch.setattr(displaced, "_running", lambda: (cell, run))
        bench.explorer._repr_mimebundle_()

    return display


def test_an_explorer_whose_cell_was_run_again_gives_way_until_it_is_displayed(on_bench, in_cell):
    others = len(_instances)
    before = on_bench()
    before.tap(0, 0)
    before.wait()
    in_cell(before, "a cell", "first run")
    earlier, one = before.shown, len(_instances) - others
    in_cell(on_bench(), "a cell", "second run")
    assert len(_instances) - others > 1.8 * one
    before.press("gone")
    before.eventually(lambda: len(_instances) - others < 1.2 * one)
    assert not before.session.alive
    assert before.error("first", 0) == 0.42
    in_cell(before, "another cell", "a run")
    assert before.shown is not earlier
    assert before.explorer.children[-1] is before.shown
    before.tap(1, 0)
    before.wait()
    assert (before.error("first", 0), before.error("first", 1)) == (0.42, 0.42)


@pytest.mark.parametrize("reason", ["a page shows it", "another cell shows it", "one run"])
def test_an_explorer_that_is_still_shown_does_not_give_way(on_bench, in_cell, reason):
    before = on_bench()
    in_cell(before, "a cell", "first run")
    if reason == "another cell shows it":
        in_cell(before, "another cell", "a run")
    in_cell(on_bench(), "a cell", "first run" if reason == "one run" else "second run")
    if reason != "a page shows it":
        before.press("gone")
    time.sleep(0.4)
    assert before.explorer.children == (*before.explorer._above, before.shown)


def test_two_explorers_do_not_disturb_each_other(on_bench):
    first, second = on_bench(), on_bench()
    first.tap(0, 0)
    second.tap(0, 1)
    first.wait()
    second.wait()
    assert (first.error("first", 0), first.error("second", 0)) == (0.42, 0.2)
    assert (second.error("first", 0), second.error("second", 0)) == (0.7, 0.42)
    first.explorer.close()
    second.tap(1, 1)
    second.wait()
    assert second.error("second", 1) == 0.42
