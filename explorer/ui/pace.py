"""How often a page is told of work under way, and how long the rest will take."""

from __future__ import annotations

import math
import time
from collections.abc import Sized

PAINT_EVERY = 0.1
"""Seconds between two reports of a running estimate; at 50 Hz the browser falls behind."""


class Pace:
    """When to report, and how long the rest will take.

    Parameters
    ----------
    units : int
        Cells, or whatever the work consists of.
    """

    def __init__(self, units: int) -> None:
        self._units = units
        self._started = time.monotonic()
        self._done, self._block, self._ended = 0, 0, self._started
        self._reported = -math.inf  # the first news are reported at once

    def due(self) -> bool:
        """Tell whether a tenth of a second has passed since this was last so."""
        now = time.monotonic()
        if now - self._reported < PAINT_EVERY:
            return False
        self._reported = now
        return True

    def seconds_left(self, left: Sized) -> float:
        """Return the time that what is left will take at the pace so far.

        Units end in blocks: between two ends the time goes down, as if the block under way were as
        large as the last one, and never below what comes after it.
        """
        now, done = time.monotonic(), self._units - len(left)
        if done > self._done:
            self._block, self._done, self._ended = done - self._done, done, now
        if not done:
            return math.nan
        each = (self._ended - self._started) / done
        after = each * max(0, len(left) - self._block)
        return max(after, each * len(left) - (now - self._ended))
