"""An explorer on the workbench: no browser, no network, clicks sent by hand."""

from __future__ import annotations

import time
from html.parser import HTMLParser

from bokeh.events import Tap

from explorer.engine.results import as_json
from explorer.ui import background, known, session
from explorer.ui.widget import Explorer
from tests import fakes
from tests.fakes import ScriptedEvaluator, at_once

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

    @property
    def shown(self):
        return self.explorer._exploration

    @property
    def session(self):
        return self.shown.session

    @property
    def pictures(self):
        return self.shown.pictures

    @property
    def controls(self):
        return self.shown.controls

    def tap(self, x, y, view="errors", event=Tap, held=None):
        plot = getattr(self.pictures, view).figure
        plot._trigger_event(event(plot, sx=1, sy=1, x=x, y=y, modifiers=held))

    def press(self, kind, line=0, column=0):
        message = {"kind": kind, "row": line, "column": column}
        self.pictures.cells._handle_custom_msg(message, [])

    def wait(self):
        assert self.session.wait_until_idle(PATIENCE)

    def eventually(self, condition):
        deadline = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < deadline
            time.sleep(0.01)

    @property
    def status(self):
        return text_of(self.shown.status.text)

    @property
    def alert(self):
        return text_of(self.shown.status.alert)

    @property
    def curve(self):
        return self.pictures.curve.figure.title.text

    def error(self, layer, epoch):
        return float(self.explorer.results["error"].loc[layer, epoch])

    def in_cell(self, cell):
        shown = self.pictures.errors._cells.data
        return shown["text"][shown["where"].index(cell)]


def workbench(monkeypatch, tmp_path):
    """Yield a function that puts an explorer of the tiny stack on the bench."""
    path = tmp_path / "sweep.json"
    path.write_text(as_json(fakes.sweep()), encoding="utf-8")
    monkeypatch.setattr(known, "bundled_sweep", lambda _name: path)
    monkeypatch.setattr(
        background, "measure_distances", lambda s, **_o: fakes.distances(s.attrs["layers"])
    )
    monkeypatch.setattr(background, "provenance", lambda _evaluator: {"dataset": "made up"})
    monkeypatch.setattr(background, "measure_many", fakes.measure_many)
    monkeypatch.setattr(background, "find_order", fakes.find_order)
    opened = []

    def put(answer=at_once, *, stack=None, opened_by=None, head_start=0, **options):
        monkeypatch.setattr(session, "HEAD_START", head_start)  # no page draws anything here
        evaluator = ScriptedEvaluator(answer)
        opens = opened_by or (lambda _s, **_options: evaluator)
        monkeypatch.setattr(background, "open_evaluator", opens)
        bench = Bench(Explorer(stack or fakes.stack(), **options), evaluator)
        opened.append(bench.explorer)
        if opened_by is None:
            bench.eventually(lambda: bench.session.distances is not None)
            bench.wait()
        return bench

    yield put
    for explorer in opened:
        explorer.close()
