"""The studies that are going on: one that needs the network, and one beside it that does not."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import xarray as xr

from explorer.ui import background, studies
from explorer.ui.background import Evaluates
from explorer.ui.jobs import OpenDesk
from explorer.ui.studies import Kind, Progress, Study


class StudyDesk(OpenDesk, Protocol):
    """The part of the session that a study works on."""

    found: dict[Kind, xr.Dataset]


class Ongoing:
    """At most one study on the session's thread, where a click comes first, and one beside it.

    Parameters
    ----------
    desk : StudyDesk
        Where it is written and told.
    stack : xarray.DataTree
        From `explorer.open_stack`.
    data : object
        The reader's own examples, or None.
    open_network : callable
        Returns the network, in float32 to the last digit.
    """

    def __init__(
        self,
        desk: StudyDesk,
        stack: xr.DataTree,
        data: Any,
        open_network: Callable[[], Evaluates],
    ) -> None:
        self._desk, self._stack, self._data = desk, stack, data
        self._open_network = open_network
        self.in_turn: Study | None = None
        """The one that the session's thread goes on with after a click."""
        self._beside: Study | None = None

    def replace(self, study: Study) -> None:
        """Make this the one that the session's thread goes on with."""
        self._end(self.in_turn)
        self.in_turn = study

    def follow(self, number: int, study: Study) -> None:
        """Begin a study, or go on with it after a click that came first."""
        with self._desk.reported(number, study):
            if study.parts is None:
                study.labelled = not studies.unlabelled(self._data)
                study.parts = background.begin(study, self._open_network())
            studies.follow(study, lambda: self._desk.turn(number), self._tell)

    def begin_beside(self, study: Study) -> None:
        """Measure motion on a thread of its own: it reads weights and needs no network."""
        self._end(self._beside)
        self._beside = study
        # as the warm-up, no daemon; it ends after the layer that it is at
        threading.Thread(target=self._move, args=(study,), name="explorer motion").start()

    def stop(self) -> bool:
        """Forget what is going on, and say so; return whether anything was."""
        return any([self._end(self.in_turn), self._end(self._beside)])

    def close(self) -> None:
        """Forget what is going on, with nobody left to be told."""
        self.in_turn = self._beside = None

    def _end(self, study: Study | None) -> bool:
        if study is None:
            return False
        self.in_turn = None if study is self.in_turn else self.in_turn
        self._beside = None if study is self._beside else self._beside
        self._desk.listener.on_stopped(study)
        return True

    def _move(self, study: Study) -> None:
        with self._desk.reported(asked=study):
            study.parts = background.begin_motion(self._stack, self._desk.results)
            studies.follow(study, lambda: self._turn_of(study), self._tell)
        with self._desk.open_turn():
            self._beside = None if study is self._beside else self._beside

    @contextlib.contextmanager
    def _turn_of(self, study: Study) -> Iterator[bool]:
        with self._desk.open_turn() as is_open:
            yield is_open and study is self._beside

    def _tell(self, study: Study, progress: Progress) -> None:
        if progress.found is not None:
            self._desk.found[study.kind] = progress.found
        self._desk.listener.on_study(study, progress)
