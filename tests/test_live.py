"""A Bokeh figure between Python and the browser, message by message."""

from __future__ import annotations

import json
import re
import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest
from bokeh.events import Tap
from bokeh.models import ColumnDataSource
from bokeh.plotting import figure

from explorer.ui.figures import put_columns
from explorer.ui.live import LiveBokeh, prepare_page
from explorer.ui.sending import SendingLock


@pytest.fixture
def live():
    """A figure with one point that notes its taps, what is sent for it, and its data source."""
    source = ColumnDataSource({"x": [1], "y": [1]})
    plot = figure()
    sent, taps = [], []
    plot.on_event(Tap, lambda tap: taps.append((tap.x, tap.y)))
    plot.scatter("x", "y", source=source)
    view = LiveBokeh(plot, SendingLock())
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


def events_of(sent):
    return [json.loads(message["payload"])["events"] for message in sent[2::3]]


def test_what_changes_while_the_lock_is_held_is_one_update(live):
    with live.view._lock:
        with live.view._lock:
            live.view._model.title.text = "so far"
        assert live.sent == []
        live.source.data = {"x": [3], "y": [3]}
    (events,) = events_of(live.sent)
    assert [event["kind"] for event in events] == ["ModelChanged", "ColumnDataChanged"]


def test_what_a_page_has_done_itself_is_told_to_the_others_later(live, monkeypatch):
    monkeypatch.setattr("explorer.ui.live.PATIENCE", 0.01)
    put_columns(live.source, {"x": [5], "y": [5]}, setter=live)
    assert live.source.data["x"] == [5]
    assert live.sent == []
    wait_for(lambda: len(live.sent) == 3)
    assert events_of(live.sent)[0][0]["data"]["entries"][0] == ["x", [5]]


def test_a_patient_figure_collects_its_changes(live, monkeypatch):
    monkeypatch.setattr("explorer.ui.live.PATIENCE", 0.2)
    live.view._patient = True
    for number in range(5):
        live.source.data = {"x": [number], "y": [number]}
    assert live.sent == []
    wait_for(lambda: len(live.sent) == 3)
    assert len(events_of(live.sent)[0]) == 5
    live.source.data = {"x": [9], "y": [9]}
    live.view.close()
    time.sleep(0.3)
    assert len(live.sent) == 3, "a closed figure sends nothing"


def wait_for(condition):
    until = time.monotonic() + 20
    while not condition() and time.monotonic() < until:
        time.sleep(0.005)
    assert condition()


def test_whoever_waits_under_the_lock_sends_first_and_has_it_as_often_afterwards():
    lock, sent = SendingLock(), []
    lock.add(lambda: sent.append("sent"))
    changed = threading.Condition(lock)
    with lock:
        with lock:
            assert not changed.wait(0.01)
        assert sent == ["sent"]
    assert sent == ["sent", "sent"]
    others = []

    def take():
        others.append(lock.acquire(blocking=False))
        if others[-1]:
            lock.release()

    for expected in (False, True):
        if not expected:
            lock.acquire()
        other = threading.Thread(target=take)
        other.start()
        other.join()
        if not expected:
            lock.release()
        assert others[-1] is expected


def test_a_sender_that_fails_does_not_keep_the_lock():
    lock = SendingLock()
    lock.add(lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError), lock:
        pass
    assert not lock._is_owned()


def test_each_update_begins_with_what_the_page_knows_as_a_header(live, monkeypatch):
    """And no other message of it does; tests/browser/test_receiver.py has what the page does."""
    published = []
    monkeypatch.setattr("explorer.ui.live.publish_display_data", published.append)
    prepare_page()
    (beginning,) = re.findall(
        r"startsWith\('(.+?)'\)", published[0]["application/javascript"][-2000:]
    )
    live.source.data = {"x": np.arange(3.0), "y": np.arange(3.0)}
    heard = [content.get("payload", "").startswith(beginning) for content in live.sent]
    assert heard == [True, *[False] * (len(heard) - 1)]
    assert len(heard) > 3, "numbers in arrays are sent as buffers"


def test_bokehjs_comes_from_this_computer_and_is_left_alone_where_it_is(monkeypatch):
    published = []
    monkeypatch.setattr("explorer.ui.live.publish_display_data", published.append)
    prepare_page()
    code = published[0]["application/javascript"]
    assert code.startswith("if (!window.Bokeh)")
    assert len(code) > 500_000
    assert "cdn.bokeh.org" not in code[:1000]
