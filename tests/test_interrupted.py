"""What a click or a menu interrupts: it goes on, or says that it does not."""

from __future__ import annotations

import threading

import pytest

from explorer.errors import CheckpointError
from explorer.ui import background
from tests import fakes
from tests.bench import PATIENCE, text_of


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
