"""A Bokeh figure as an ipywidget that stays in step with Python, and BokehJS without a network.

Pinned to jupyter_bokeh 4.1: `LiveBokeh` overrides private names of that version, and
tests/test_widget.py follows a message through them.
"""

from __future__ import annotations

import json
import threading
from importlib.resources import files
from typing import Any

from bokeh.core.json_encoder import serialize_json
from bokeh.embed.elements import div_for_render_item
from bokeh.embed.util import RenderItem
from bokeh.events import DocumentReady
from bokeh.models import LayoutDOM
from bokeh.protocol import Protocol
from bokeh.resources import Resources
from bokeh.util.serialization import make_globally_unique_css_safe_id, make_globally_unique_id
from IPython.display import publish_display_data
from jupyter_bokeh.widgets import BokehModel, RenderBundle

from explorer.ui.sending import SendingLock

PATIENCE = 0.25
"""Seconds after which a page gets what is not urgent: painting a figure keeps it from the rest."""


class LiveBokeh(BokehModel):
    """A Bokeh layout in a notebook, mended where `BokehModel` 4.1.0 loses or repeats changes.

    - Only events come back from the browser. As shipped, every change that Python sends is
      echoed and applied again: streamed columns double (bokeh/jupyter_bokeh#159).
    - A page that is reloaded gets the figure as it is now, not as it was constructed.
    - So does a view that is drawn later than the widget was made: what was sent in between is
      lost, as only views listen. BokehJS says when it has drawn a document.
    - A view that begins to listen in the middle of an update hears the next one whole
      (`page/receiver.js`, which `prepare_page` sends).
    - What changes while the lock is held is one update, which a page paints once. As shipped,
      every change is an update of three messages.

    Parameters
    ----------
    model : bokeh.models.LayoutDOM
        What to show.
    lock : SendingLock
        Held by everyone who changes the model.
    patient : bool
        Whether changes may come a quarter of a second later, all of them together. So does always
        what a page has done itself (a change with a setter), for the other pages that there may be.
    **kwargs
        Passed on to the ipywidget.
    """

    def __init__(
        self, model: LayoutDOM, lock: SendingLock, *, patient: bool = False, **kwargs: Any
    ) -> None:
        self._lock = lock
        self._patient = patient
        self._closed = False
        self._ahead = False  # changed since render_bundle was made
        self._redrawing = False
        self._changes: list[Any] = []  # not sent yet
        self._urgent = False
        self._waiting: threading.Timer | None = None
        super().__init__(model, **kwargs)
        lock.add(self._send_urgent)
        model.document.on_event(DocumentReady, lambda _event: self._catch_up())

    def close(self) -> None:
        """Take the figure off the page; ipywidgets closes once more when the object goes."""
        if not self._closed:
            self._closed = True
            self._lock.remove(self._send_urgent)
            if self._waiting is not None:
                self._waiting.cancel()
            super().close()

    @classmethod
    def _model_to_traits(cls, model: Any) -> RenderBundle:
        """As shipped, without a walk through all models that looks for callbacks in Python."""
        if model.document is None:
            return super()._model_to_traits(model)  # adds it to a document
        name = make_globally_unique_id()
        item = RenderItem(name, roots={model: make_globally_unique_css_safe_id()})
        return RenderBundle(
            docs_json={name: model.document.to_json(deferred=False)},
            render_items=[item.to_json()],
            div=div_for_render_item(item),
        )

    def _document_patched(self, event: Any) -> None:
        with self._lock:
            self._ahead = True
            self._changes.append(event)
            if not self._patient and event.setter is None:
                self._urgent = True
            elif self._waiting is None:
                self._waiting = threading.Timer(PATIENCE, self._send_late)
                self._waiting.daemon = True
                self._waiting.start()

    def _send_urgent(self) -> None:
        if self._urgent:
            self._send_changes()

    def _send_late(self) -> None:
        with self._lock:
            self._waiting = None
            if not self._closed:
                self._send_changes()

    def _send_changes(self) -> None:
        """Send what has changed as one update, which is several messages."""
        changes, self._changes, self._urgent = self._changes, [], False
        if not changes:
            return
        update = Protocol().create("PATCH-DOC", changes)
        for part in (update.header_json, update.metadata_json, update.content_json):
            self.send({"msg": "patch", "payload": part})
        for buffer in update.buffers:
            self.send({"msg": "patch", "payload": json.dumps(buffer.ref)})
            self.send({"msg": "patch"}, [buffer.to_bytes()])

    def _catch_up(self) -> None:
        """Have a newly drawn view drawn again, if it was drawn from an old bundle."""
        with self._lock:
            if self._redrawing:
                self._redrawing = False
            elif self._ahead:
                self._ahead, self._redrawing = False, True
                self.render_bundle = self._model_to_traits(self._model)

    def _sync_model(self, _model: BokehModel, content: dict[str, Any], _buffers: list[Any]) -> None:
        if content.get("kind") == "MessageSent":
            with self._lock:  # what follows from an event is one update of each figure
                super()._sync_model(_model, content, _buffers)

    def get_state(self, key: Any = None, drop_defaults: bool = False) -> dict[str, Any]:
        """Return the synchronised state, with the figure serialised as it is now."""
        with self._lock:
            state: dict[str, Any] = super().get_state(key, drop_defaults)
            if "render_bundle" in state and self._ahead:
                state["render_bundle"] = serialize_json(self._model_to_traits(self._model))
            return state


def prepare_page() -> None:
    """Send BokehJS to the page of the current cell, from this computer.

    A figure cannot be drawn without BokehJS. It is part of the output, so that it is there again
    after a page reload; where the page has it already, only its receiver is mended. Bokeh's own
    `output_notebook` sends it twice (2.6 MB instead of 1.3 MB) and also changes how the
    reader's own `bokeh.io.show` works.
    """
    code = "\n".join(Resources(mode="inline", components=["bokeh"]).js_raw)
    guarded = f"if (!window.Bokeh) {{ (function() {{ {code}\n }}).call(window); }}"
    guarded += "\n" + (files("explorer.ui") / "page" / "receiver.js").read_text(encoding="utf-8")
    publish_display_data({"application/javascript": guarded})
