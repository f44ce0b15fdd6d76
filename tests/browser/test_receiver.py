"""Views that begin to listen in the middle of an update, in a real browser."""

from __future__ import annotations

import json

import numpy as np
import pytest
from bokeh.models import ColumnDataSource
from bokeh.plotting import figure

from explorer.ui import live
from explorer.ui.sending import SendingLock
from tests.browser.pages import Watched

pytestmark = pytest.mark.browser

LISTEN = """([heard, bundle, names]) => {
  const {Receiver} = Bokeh.require("protocol/receiver")
  const [drawn] = Object.values(bundle.docs_json)
  const document = Bokeh.require("document").Document.from_json(drawn)
  const receiver = new Receiver()
  for (const {payload, buffer} of heard) {  // as BokehView of jupyter_bokeh 4.1 does
    receiver.consume(payload ?? new Uint8Array(buffer).buffer)
    const {message} = receiver
    if (message != null && Object.keys(message.content).length > 0)
      document.apply_json_patch(message.content, message.buffers)
  }
  return names.map(name => [...document.get_model_by_name(name).data.x])
}"""
"""What a view shows that is drawn from a bundle and has heard some messages."""


@pytest.fixture
def page(chromium, monkeypatch):
    """A page that is prepared for figures, as often as a cell is run twice."""
    published = []
    monkeypatch.setattr(live, "publish_display_data", published.append)
    live.prepare_page()
    context = chromium.new_context(offline=True)
    watched = Watched(context.new_page())
    for _ in range(2):
        watched.page.add_script_tag(content=published[0]["application/javascript"])
    yield watched
    assert watched.complaints == []
    context.close()


def test_a_view_that_hears_only_the_end_of_an_update_shows_the_next_one(page):
    sources = {
        "listed": ColumnDataSource({"x": [1.0]}, name="listed"),
        "buffered": ColumnDataSource({"x": np.array([1.0])}, name="buffered"),
    }
    plot, sent = figure(), []
    for source in sources.values():
        plot.scatter("x", "x", source=source)
    lock = SendingLock()
    view = live.LiveBokeh(plot, lock)
    view.send = lambda content, buffers=(): sent.append(
        {"payload": content.get("payload"), "buffer": [*b"".join(buffers)]}
    )
    parts = []
    for number in (2.0, 3.0):
        with lock:
            sources["listed"].data = {"x": [number]}
            sources["buffered"].data = {"x": np.array([number])}
        parts.append(len(sent))
    bundle = json.loads(json.dumps(view.render_bundle))
    view.close()
    assert parts[0] == 5, "header, metadata, content, and a buffer with its own header"
    for missed in range(parts[0] + 1):
        shown = page.page.evaluate(LISTEN, [sent[missed:], bundle, list(sources)])
        assert shown == [[3.0], [3.0]], f"{missed} messages missed"
    shown = page.page.evaluate(LISTEN, [sent[: parts[0]], bundle, list(sources)])
    assert shown == [[2.0], [2.0]]
