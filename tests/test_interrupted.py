"""What a click or a menu interrupts: it goes on, or says that it does not."""

from __future__ import annotations

import threading

import pytest

from explorer.errors import CheckpointError
from explorer.ui import background
from tests import fakes
from tests.bench import PATIENCE, text_of
from tests.fakes import Gate


@pytest.fixture
def searching(on_bench, monkeypatch):
    """An explorer that looks for an order, and what lets the search go on."""
    go_on = threading.Event()

    def slowly(*asked):
        for at, order in enumerate(fakes.find_order(*asked)):
            assert at == 0 or go_on.wait(PATIENCE)
            yield order

    bench = on_bench()
    monkeypatch.setattr(background, "find_order", slowly)
    bench.shown.order.find.click()
    bench.eventually(lambda: "Looking: 1 of" in bench.shown.order.text.value)
    return bench, go_on


def test_an_order_goes_on_after_a_click(searching):
    bench, go_on = searching
    bench.tap(0, 0)
    go_on.set()
    bench.wait()
    assert bench.error("first", 0) == 0.42
    assert "can be put back to epoch 0" in text_of(bench.shown.order.text.value)


def test_an_order_that_is_stopped_says_so_and_does_not_go_on(searching):
    bench, go_on = searching
    bench.controls.stop.click()
    assert text_of(bench.shown.order.text.value).startswith("Stopped: 1 of at most 3")
    go_on.set()
    bench.wait()
    bench.tap(0, 0)
    bench.wait()
    assert text_of(bench.shown.order.text.value).startswith("Stopped: 1 of at most 3")


def test_an_order_that_is_stopped_before_anything_is_found_says_so(on_bench, monkeypatch):
    go_on = threading.Event()

    def slowly(*asked):
        assert go_on.wait(PATIENCE)
        yield from fakes.find_order(*asked)

    bench = on_bench()
    monkeypatch.setattr(background, "find_order", slowly)
    bench.shown.order.find.click()
    assert text_of(bench.shown.order.text.value) == "Looking …"
    bench.controls.stop.click()
    assert text_of(bench.shown.order.text.value) == "Stopped before anything was found."
    go_on.set()


def test_an_order_that_fails_on_its_way_does_not_go_on_looking(on_bench, monkeypatch, caplog):
    def broken(*asked):
        yield next(fakes.find_order(*asked))
        raise CheckpointError("It was altered.", "A hash is expected.", "Put it back.")

    bench = on_bench()
    monkeypatch.setattr(background, "find_order", broken)
    bench.shown.order.find.click()
    bench.wait()
    assert text_of(bench.shown.order.text.value).startswith("Failed: 1 of at most 3")
    assert bench.alert.startswith("It was altered.")


@pytest.fixture
def sweeping(on_bench):
    """An explorer that measures all cells and waits in the middle of the first layer."""
    gate = Gate()
    gate.opened.set()
    bench = on_bench(gate, stack=fakes.stack(content_hash=""), draws=0)
    gate.opened.clear()
    gate.reached.clear()
    bench.evaluator.asked.clear()
    bench.controls.sweep.click()
    assert gate.reached.wait(PATIENCE)
    return bench, gate


@pytest.mark.parametrize("menu", ["layer", "source"])
def test_a_sweep_goes_on_while_something_is_chosen_in_a_menu(sweeping, menu):
    bench, gate = sweeping
    getattr(bench.controls, menu).index = 1
    gate.opened.set()
    bench.wait()
    assert bench.explorer.results["error"].notnull().all()
    assert bench.explorer.results["fullmodel_error"].notnull().all()


def test_a_click_is_forgotten_when_something_else_is_chosen_and_the_sweep_goes_on(sweeping):
    bench, gate = sweeping
    bench.tap(0, 2.3)
    bench.controls.layer.index = 1
    gate.opened.set()
    bench.wait()
    assert bench.evaluator.asked.count("first ← epoch 0, second ← epoch 0") == 1  # of the sweep
    assert bench.explorer.measured.empty
    assert bench.explorer.results["fullmodel_error"].notnull().all()


def test_the_answer_of_a_click_stays_before_what_is_said_of_a_sweep(sweeping, monkeypatch):
    bench, gate = sweeping
    said = []
    monkeypatch.setattr(bench.shown.status, "say", said.append)
    bench.tap(0, 1)
    gate.opened.set()
    bench.wait()
    answer = "second ← epoch 0: test error 42.0\u00a0% "
    at = next(at for at, one in enumerate(said) if one.startswith(answer))
    assert len(said) > at + 2
    assert all(one.startswith(answer) for one in said[at:])
    assert said[-2].count("Sweep: ") == 1
    assert said[-1].endswith(", 100 of 100 examples, CPU. 9 cells measured, CPU.")
    bench.controls.sweep.click()
    bench.wait()
    assert said[-1] == "9 cells measured, CPU."


def test_what_is_known_of_a_cell_stays_before_what_is_said_of_a_sweep(sweeping):
    bench, gate = sweeping
    bench.controls.layer.index = 1
    gate.opened.set()
    bench.wait()
    assert bench.status == (
        "second ← epoch 0: not measured. Press Compute to measure second ← epoch 0. "
        "9 cells measured, CPU."
    )


def test_an_order_goes_on_while_something_is_chosen_in_a_menu(searching):
    bench, go_on = searching
    bench.controls.layer.index = 1
    go_on.set()
    bench.wait()
    assert "can be put back to epoch 0" in text_of(bench.shown.order.text.value)
