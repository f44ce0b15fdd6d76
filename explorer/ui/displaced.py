"""Explorers whose cell has been run again: what no page shows need not be kept for one.

ipywidgets keeps every widget until it is closed, and a page that is loaded anew asks for all of
them. With 2,000, those of a dozen explorers, a busy kernel did not answer within JupyterLab's four
seconds; it then asks for one after the other, which took 36 s instead of 10.
"""

from __future__ import annotations

import threading
import weakref
from typing import Any, Protocol

from IPython.core.getipython import get_ipython

from explorer.ui import presence

_latest: dict[str, str] = {}
"""Cell → its newest run that showed an explorer."""

_shown: weakref.WeakSet[Shown] = weakref.WeakSet()


class Shown(Protocol):
    """What a cell can show."""

    shown_by: dict[str, str]
    """Cell → the run of it that showed this."""

    def give_way(self) -> None:
        """Close what is inside, if no page shows it."""
        ...


def note(explorer: Shown) -> None:
    """Note that the running cell shows an explorer, and have those it took the place of give way.

    Pages say a little later that these have gone. Only JupyterLab and Notebook 7 tell which cell
    is running; elsewhere nothing happens.
    """
    cell, run = _running()
    if not cell:
        return
    _latest[cell] = explorer.shown_by[cell] = run
    _shown.add(explorer)
    waiting = threading.Timer(2 * presence.GONE, _clear_up)
    waiting.daemon = True
    waiting.start()


def _clear_up() -> None:
    for one in list(_shown):
        if all(_latest.get(cell) != run for cell, run in one.shown_by.items()):
            one.give_way()


def _running() -> tuple[str, str]:
    """Cell that is running, and which run of it; both empty where that is not told."""
    parent: dict[str, Any] = getattr(get_ipython(), "get_parent", dict)()
    cell = parent.get("metadata", {}).get("cellId", "")
    return cell, parent.get("header", {}).get("msg_id", "")
