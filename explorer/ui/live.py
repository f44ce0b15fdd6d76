"""A Bokeh figure as an ipywidget that stays in step with Python, and BokehJS without a network.

Pinned to jupyter_bokeh 4.1: `LiveBokeh` overrides private names of that version, and
tests/test_widget.py follows a message through them.
"""

from __future__ import annotations

import threading
from typing import Any

from bokeh.core.json_encoder import serialize_json
from bokeh.events import DocumentReady
from bokeh.models import LayoutDOM
from bokeh.resources import Resources
from IPython.display import publish_display_data
from jupyter_bokeh.widgets import BokehModel


class LiveBokeh(BokehModel):
    """A Bokeh layout in a notebook, mended where `BokehModel` 4.1.0 loses or repeats changes.

    - Only events come back from the browser. As shipped, every change that Python sends is
      echoed and applied again: streamed columns double (bokeh/jupyter_bokeh#159).
    - A page that is reloaded gets the figure as it is now, not as it was constructed.
    - So does a view that is drawn later than the widget was made: what was sent in between is
      lost, as only views listen. BokehJS says when it has drawn a document.
    - One update is several messages, so a lock keeps two threads from mixing theirs.

    Parameters
    ----------
    model : bokeh.models.LayoutDOM
        What to show.
    lock : threading.RLock
        Held by everyone who changes the model.
    **kwargs
        Passed on to the ipywidget.
    """

    def __init__(self, model: LayoutDOM, lock: threading.RLock, **kwargs: Any) -> None:
        self._lock = lock
        self._closed = False
        self._ahead = False  # changed since render_bundle was made
        self._redrawing = False
        super().__init__(model, **kwargs)
        model.document.on_event(DocumentReady, lambda _event: self._catch_up())

    def close(self) -> None:
        """Take the figure off the page; ipywidgets closes once more when the object goes."""
        if not self._closed:
            self._closed = True
            super().close()

    def _document_patched(self, event: Any) -> None:
        with self._lock:
            self._ahead = True
            super()._document_patched(event)

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
    after a page reload; where the page has it already, it is left alone. Bokeh's own
    `output_notebook` sends it twice (2.6 MB instead of 1.3 MB) and also changes how the
    reader's own `bokeh.io.show` works.
    """
    code = "\n".join(Resources(mode="inline", components=["bokeh"]).js_raw)
    guarded = f"if (!window.Bokeh) {{ (function() {{ {code}\n }}).call(window); }}"
    publish_display_data({"application/javascript": guarded})
