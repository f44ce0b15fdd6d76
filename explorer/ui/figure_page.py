"""One figure as a page of its own that needs no network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bokeh.embed import file_html
from bokeh.resources import INLINE

from explorer.inventory.placing import placed


def write_figure(figure: Any, title: str, path: Path) -> Path:
    """Write a figure as one HTML file, whole or not at all.

    Raises
    ------
    CheckpointError
        The folder cannot be written to.
    """
    with placed(path) as temporary:
        temporary.write_text(file_html(figure, INLINE, title), encoding="utf-8")
    return path
