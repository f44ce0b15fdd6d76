"""The explorer's sweep on a cluster, with a stand-in for the cluster; see test_cluster for one."""

from __future__ import annotations

import math
import queue
import threading

import pytest

from explorer.errors import ClusterError
from explorer.ui import background
from tests.bench import PATIENCE
from tests.fakes import Counted, Gate, at_once


class Workers:
    """Stand-in for the workers: what a test hands over is finished, in any order."""

    def __init__(self):
        self.provenance = {"workers": 2}
        self.done = queue.Queue()
        self.asked = []
        self.stopped = threading.Event()
        self.waited = threading.Event()
        """Nothing has come, and the explorer was told so."""

    def finish(self, *names):
        """Finish the interventions of these names, all that are left without any."""
        self.done.put(names)

    def measure(self, interventions, patience):
        self.asked = list(map(str, interventions))
        left = dict(zip(self.asked, interventions, strict=True))
        try:
            while left:
                try:
                    names = self.done.get(timeout=patience)
                except queue.Empty:
                    yield {}
                    self.waited.set()
                    continue
                yield {left.pop(name): Counted(100, 42) for name in names or list(left)}
        finally:
            self.stopped.set()


OWN = {"batchnorm": "weights_only"}
"""A policy for which nothing came with the stack, so that every cell is to be measured."""


class Client:
    """The reader's client, which nobody may close."""

    closed = False

    def close(self):
        self.closed = True


def through(gate):
    """Answer at once for the intact network, through a gate for all else."""
    return lambda intervention: (gate if intervention.changes else at_once)(intervention)


@pytest.fixture
def workers(monkeypatch):
    workers = Workers()
    monkeypatch.setattr(background, "open_on_cluster", lambda *_arguments, **_options: workers)
    return workers


@pytest.fixture
def swept(on_bench, workers):
    """An explorer whose sweep of the first layer has been sent to the workers."""
    bench = on_bench(client=Client(), **OWN)
    bench.tap(0, 0)
    bench.wait()
    bench.controls.sweep_row.click()
    bench.eventually(lambda: workers.waited.is_set())
    return bench


def test_cells_appear_as_they_arrive_and_the_client_stays_open(on_bench, workers):
    client = Client()
    bench = on_bench(client=client, **OWN)
    bench.controls.sweep.click()
    assert bench.status == "Measuring 11 cells on the cluster …"
    bench.eventually(lambda: workers.asked)
    workers.finish("second ← epoch 1", "second ← fresh draw 0")
    bench.eventually(lambda: bench.error("second", 1) == 0.42)
    bench.eventually(lambda: bench.status.startswith("Sweep: 1 of 11 cells, "))
    assert bench.in_cell("second ← epoch 1") == "42"
    assert bench.in_cell("first ← epoch 1") == "–"
    workers.finish("second ← fresh draw 2", "second ← fresh draw 1")  # now its cell is complete
    bench.eventually(lambda: bench.status.startswith("Sweep: 2 of 11 cells, "))
    workers.finish()
    bench.eventually(lambda: bench.status == "11 cells measured, 2 workers.")
    assert bench.session.wait_until_idle(PATIENCE)
    assert not bench.session.busy
    assert bench.evaluator.asked == ["intact network"]
    assert bench.explorer.results.attrs["workers"] == 2
    bench.explorer.close()
    assert not client.closed


def test_a_click_comes_first_and_is_answered_here_while_the_sweep_goes_on(on_bench, workers):
    gate = Gate()
    bench = on_bench(
        lambda cell: gate(cell) if cell.changes else at_once(cell), client=Client(), **OWN
    )
    bench.controls.sweep.click()
    bench.eventually(lambda: workers.waited.is_set())
    bench.tap(1, 1)
    assert gate.reached.wait(PATIENCE)
    workers.finish("first ← epoch 0")
    bench.eventually(lambda: bench.error("first", 0) == 0.42)
    assert bench.status == "Measuring second ← epoch 1 …"  # the sweep does not speak over a click
    gate.opened.set()
    bench.eventually(lambda: bench.status.startswith("second ← epoch 1: test error 42.0 %"))
    assert bench.evaluator.asked == ["intact network", "second ← epoch 1"]
    assert not workers.stopped.is_set()
    workers.finish()
    bench.eventually(lambda: bench.status.endswith("CPU. 11 cells measured, 2 workers."))
    assert len(workers.asked) == 15  # each cell once, and each fresh draw


def test_a_sweep_that_ends_during_a_click_is_said_with_the_answer(on_bench, workers):
    gate = Gate()
    bench = on_bench(through(gate), client=Client(), **OWN)
    bench.controls.sweep.click()
    bench.tap(1, 1)
    assert gate.reached.wait(PATIENCE)
    workers.finish()
    bench.eventually(lambda: workers.stopped.is_set() and not bench.session._cluster.busy)
    gate.opened.set()
    bench.wait()
    assert "test error 42.0 %" in bench.status
    assert bench.status.endswith("CPU. 11 cells measured, 2 workers.")
    bench.tap(1, 1)
    bench.wait()
    assert bench.status.endswith("CPU")


def test_stop_ends_the_sweep_and_what_comes_later_is_not_written(swept, workers):
    workers.finish("first ← epoch 1")
    swept.eventually(lambda: swept.error("first", 1) == 0.42)
    swept.controls.stop.click()
    assert swept.status == "Stopped. What was measured so far is kept."
    assert not swept.session.busy
    workers.finish("first ← epoch 5")
    assert workers.stopped.wait(1)
    assert swept.session.wait_until_idle(PATIENCE)
    assert math.isnan(swept.error("first", 5))
    assert swept.alert == ""
    swept.controls.stop.click()
    assert swept.status == "Nothing is running."


def test_another_sweep_takes_the_place_of_the_one_before(swept, workers, monkeypatch):
    others = Workers()
    monkeypatch.setattr(background, "open_on_cluster", lambda *_arguments, **_options: others)
    swept.controls.sweep.click()
    assert workers.stopped.wait(PATIENCE)
    swept.eventually(lambda: others.asked)
    others.finish()
    swept.eventually(lambda: swept.status.endswith("cells measured, 2 workers."))


@pytest.mark.parametrize("end", ["close", "rest"])
def test_an_explorer_that_goes_stops_its_sweep(swept, workers, end):
    swept.explorer.close() if end == "close" else swept.session.rest()
    assert workers.stopped.wait(1)
    assert not swept.explorer._settings.client.closed


def test_a_cluster_that_cannot_be_used_is_said_and_the_next_sweep_is_tried_anew(
    on_bench, workers, monkeypatch
):
    bench = on_bench(client=Client(), **OWN)

    def refuse(*_arguments, **_options):
        raise ClusterError("The cluster has no workers.", "At least one.", "Start one.")

    with monkeypatch.context() as patch:
        patch.setattr(background, "open_on_cluster", refuse)
        bench.controls.sweep.click()
        bench.eventually(lambda: bench.alert.startswith("The cluster has no workers."))
        assert bench.status == "The sweep could not be measured."
    assert bench.session.wait_until_idle(PATIENCE)
    bench.controls.sweep.click()
    assert bench.alert == ""
    bench.eventually(lambda: workers.asked)
    workers.finish()
    bench.eventually(lambda: bench.status == "11 cells measured, 2 workers.")


def test_a_cluster_that_cannot_be_used_is_not_said_to_who_has_stopped(on_bench, monkeypatch):
    asked, answer = threading.Event(), threading.Event()

    def refuse_late(*_arguments, **_options):
        asked.set()
        answer.wait(PATIENCE)
        raise ClusterError("The cluster has no workers.", "At least one.", "Start one.")

    bench = on_bench(client=Client(), **OWN)
    monkeypatch.setattr(background, "open_on_cluster", refuse_late)
    bench.controls.sweep.click()
    assert asked.wait(PATIENCE)
    bench.controls.stop.click()
    answer.set()
    assert bench.session.wait_until_idle(PATIENCE)
    assert bench.alert == ""


def test_without_a_client_a_sweep_stays_here(on_bench, workers):
    bench = on_bench(at_once, **OWN)
    bench.controls.sweep.click()
    bench.wait()
    assert bench.status == "11 cells measured, CPU."
    assert workers.asked == []
