"""Parts of the page that neither ipywidgets nor Bokeh has: focusable cells, layers to tick, files.

Each is a small script in `page/`; Python gives it plain values and gets messages back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.resources import files
from typing import Any

import anywidget
import traitlets

PAGE = files("explorer.ui") / "page"


def _script(name: str) -> str:
    return (PAGE / name).read_text(encoding="utf-8")


class CellTable(anywidget.AnyWidget):
    """The cells of a heatmap for a keyboard and a screen reader.

    Arrows move the cursor, Enter asks to compute, Space adds to the joint selection, Escape stops.
    """

    _esm = _script("cells.js")
    label = traitlets.Unicode().tag(sync=True)
    names: Any = traitlets.List().tag(sync=True)
    """Lines of spoken names; empty where there is no cell."""
    active = traitlets.List([0, 0]).tag(sync=True)
    """Line and column of the cursor."""
    selected: Any = traitlets.List().tag(sync=True)
    """Lines and columns of the cells that are put back together."""

    def on_key(self, handler: Callable[[str, int, int], None]) -> None:
        """Call the handler with what is asked for, and the line and column of the cell.

        Asked for is ``"move"``, ``"compute"``, ``"toggle"`` or ``"stop"``; ``"shown"`` and
        ``"gone"`` tell that a page shows the table, or no longer does.
        """
        self.on_msg(
            lambda _widget, message, _buffers: handler(
                str(message.get("kind")), int(message.get("row", 0)), int(message.get("column", 0))
            )
        )


class Strip(anywidget.AnyWidget):
    """The layers in the order of the network, with sizes and verdicts, to be ticked."""

    _esm = _script("strip.js")
    layers: Any = traitlets.List().tag(sync=True)
    """For each layer name, size, verdict, tip and ticked."""

    def on_tick(self, handler: Callable[[str, bool], None]) -> None:
        """Call the handler with the layer and whether it is ticked now."""
        self.on_msg(
            lambda _widget, message, _buffers: handler(
                str(message.get("layer")), bool(message.get("ticked"))
            )
        )


FILES = (
    ("html", "HTML report"),
    ("nc", "netCDF"),
    ("csv", "CSV"),
    ("list", "CSV of what was measured"),
)
"""Kinds of file that the explorer as a whole is saved as, and their buttons."""


class Exports(anywidget.AnyWidget):
    """Buttons that save pictures, data and code.

    Parameters
    ----------
    pictures : sequence of (str, str)
        Id of a Bokeh figure, and its name.
    files : sequence of (str, str)
        Kind of a file, and what stands on its button.
    about : str
        What the code does.
    """

    _esm = _script("export.js")
    pictures: Any = traitlets.List().tag(sync=True)
    picture = traitlets.Int(0).tag(sync=True)
    """Number of the chosen picture."""
    files: Any = traitlets.List().tag(sync=True)
    """Kinds of file, and their names."""
    about = traitlets.Unicode().tag(sync=True)
    """What the code does."""
    code = traitlets.Unicode().tag(sync=True)
    """Python code."""

    def __init__(
        self,
        pictures: Sequence[tuple[str, str]],
        files: Sequence[tuple[str, str]] = FILES,
        about: str = "The selected cell in Python",
    ) -> None:
        plain = {"pictures": [list(one) for one in pictures], "files": [list(one) for one in files]}
        super().__init__(**plain, about=about)

    def on_ask(self, handler: Callable[[str], None]) -> None:
        """Call the handler with the kind of file that is asked for: html, nc, csv or list."""
        self.on_msg(lambda _widget, message, _buffers: handler(str(message.get("kind"))))

    def hand_over(self, name: str, kind: str, content: bytes) -> None:
        """Let the browser save a file."""
        self.send({"name": name, "type": kind}, [content])

    def refuse(self, reason: str) -> None:
        """Say why there is no file."""
        self.send({"failure": reason})
