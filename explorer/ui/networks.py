"""The networks of an exploration: opened when a thread first needs one, kept until it rests."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import xarray as xr

from explorer.ui import background, studies
from explorer.ui.background import Evaluates
from explorer.ui.settings import Settings


class Networks:
    """The network that answers clicks, and the one that studies are measured with.

    They are one and the same, unless clicks are computed in a lower precision first, or the
    examples have no labels.

    Parameters
    ----------
    stack : xarray.DataTree
        From `explorer.open_stack`.
    settings : Settings
        How the network is run.
    tell : callable
        Called with the network that answers clicks whenever it has been opened, with no lock of
        the session held.
    """

    def __init__(
        self, stack: xr.DataTree, settings: Settings, tell: Callable[[Evaluates], None]
    ) -> None:
        self._stack, self._settings, self._tell = stack, settings, tell
        self._opening = threading.Lock()
        self.evaluator: Evaluates | None = None
        self._for_studies: Evaluates | None = None

    def open(self) -> Evaluates:
        """Load the network, or wait for the other thread to; after a failure, try again."""
        with self._opening:
            evaluator = self.evaluator  # another thread may forget it at any time
            if evaluator is None:
                evaluator = self._opened(self._settings.data, screen=self._settings.screen)
                self.evaluator = evaluator
                self._tell(evaluator)
            return evaluator

    def open_for_studies(self) -> Evaluates:
        """Return the network in float32 to the last digit, with labels or without."""
        data, unlabelled = self._settings.data, studies.unlabelled(self._settings.data)
        if not (self._settings.screen or unlabelled):
            return self.open()
        if self._for_studies is None:
            labelled = (data, np.zeros(len(data), np.int64)) if unlabelled else data
            self._for_studies = self._opened(labelled)
        return self._for_studies

    def forget(self) -> None:
        """Give the memory back; the next that needs a network loads it anew."""
        self.evaluator = self._for_studies = None

    def _opened(self, data: Any, **options: Any) -> Evaluates:
        settings = self._settings.network | {"data": data}
        return background.open_evaluator(self._stack, **settings, **options)
