"""Whether any page shows an explorer: pages say when they come and go, and some never do."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

GONE = 2.0
"""Seconds that a page has to say that it is still there, when another one has gone."""

SIGNS = ("shown", "here", "gone")
"""What a page says: it shows the explorer from now on; it still does, when asked; it has left."""


class Presence:
    """Calls somebody when the last page has gone.

    Parameters
    ----------
    ask : callable
        Asks all pages whether they are there, with the message it is given.
    lock : context manager
        Held while `left` is called.
    left : callable
        Called when no page has answered.
    """

    def __init__(
        self,
        ask: Callable[[Any], None],
        lock: AbstractContextManager[Any],
        left: Callable[[], None],
    ) -> None:
        self._ask, self._lock, self._left = ask, lock, left
        self._present = True

    @property
    def present(self) -> bool:
        """Whether a page shows the explorer, as far as pages have said."""
        return self._present

    def note(self, sign: str) -> None:
        """Note one of `SIGNS`; when a page has gone, ask whether another is there."""
        self._present = sign != "gone"
        if not self._present:
            self._ask({"ask": "here"})
            waiting = threading.Timer(GONE, self._leave_unless_present)
            waiting.daemon = True
            waiting.start()

    def _leave_unless_present(self) -> None:
        with self._lock:
            if not self._present:
                self._left()
