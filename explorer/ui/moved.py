"""How far the layers moved, measured in the background and again when checkpoints arrive."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager

import xarray as xr

from explorer.ui import background
from explorer.ui.settings import Settings
from explorer.weights.stack import epoch_numbers, epochs_here


class Moved:
    """The distances between the checkpoints on this machine.

    Parameters
    ----------
    stack : xarray.DataTree
        From `explorer.open_stack`.
    settings : Settings
        Whose modules draw anew, and how often.
    turn : callable
        Holds the session's lock, and tells whether the session is still open.
    reported : callable
        Hands an exception on to somebody who can show it.
    tell : callable
        Called with the distances, while `turn` holds the lock.
    """

    def __init__(
        self,
        stack: xr.DataTree,
        settings: Settings,
        turn: Callable[[], AbstractContextManager[bool]],
        reported: Callable[[], AbstractContextManager[None]],
        tell: Callable[[xr.Dataset | None], None],
    ) -> None:
        self._stack, self._settings = stack, settings
        self._turn, self._reported, self._tell = turn, reported, tell
        self.epochs: list[int] = []
        """Which were on this machine when it was last measured."""

    def measure(self) -> None:
        """Measure the checkpoints on this machine, unless that has been done already."""
        with self._reported():
            here = epochs_here(self._stack)
            with self._turn() as mine:
                if not mine or here == self.epochs:
                    return
                self.epochs = here
            found = background.measure_distances(
                self._stack,
                model=self._settings.model,
                draws=self._settings.draws,
                seed=self._settings.seed,
                epochs=here,
            )
            with self._turn() as mine:
                if mine and here == self.epochs:
                    self._tell(found)

    def measure_newcomers(self) -> None:
        """Measure again where a job may have downloaded checkpoints, beside the next job."""
        if 0 < len(self.epochs) < len(epoch_numbers(self._stack)):
            threading.Thread(target=self.measure, name="explorer distances").start()
