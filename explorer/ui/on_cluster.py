"""Sweeps on a cluster, beside the clicks: they run elsewhere, and neither waits for the other."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import xarray as xr

from explorer.engine.interventions import Intervention
from explorer.ui import background
from explorer.ui.filling import Stream, fill
from explorer.ui.jobs import Fill, OpenDesk
from explorer.ui.pace import PAINT_EVERY, Pace
from explorer.ui.settings import Settings


class ClusterSweep:
    """At most one sweep on the workers of the reader's cluster, followed by a thread of its own.

    Parameters
    ----------
    desk : OpenDesk
        Where cells are written and told as they arrive.
    stack : xarray.DataTree
        From `explorer.open_stack`.
    settings : Settings
        With the client; it is the reader's, and never closed here.
    """

    def __init__(self, desk: OpenDesk, stack: xr.DataTree, settings: Settings) -> None:
        self._desk, self._stack, self._settings = desk, stack, settings
        self._job: Fill | None = None
        self._thread: threading.Thread | None = None

    @property
    def busy(self) -> bool:
        """Whether a sweep is going on."""
        return self._job is not None

    def begin(self, job: Fill) -> None:
        """Begin a sweep; another one may write no more."""
        self._job = job
        self._thread = threading.Thread(
            target=self._sweep, args=(job,), name="explorer cluster", daemon=True
        )
        self._thread.start()

    def stop(self) -> bool:
        """Forget the sweep; its thread cancels the tasks. Return whether there was one."""
        was, self._job = self._job, None
        return was is not None

    def wait(self, timeout: float) -> bool:
        """Wait until the thread has ended; return whether that came about."""
        thread = self._thread
        if thread is None or thread is threading.current_thread():
            return True
        thread.join(timeout)
        return not thread.is_alive()

    def _sweep(self, job: Fill) -> None:
        with self._desk.reported(asked=job, wanted=lambda: job is self._job):
            fill(
                self._desk,
                job,
                lambda interventions: self._outcomes(job, interventions),
                lambda: self._turn_of(job),
            )
        with self._desk.open_turn():
            self._job = None if job is self._job else self._job

    @contextlib.contextmanager
    def _turn_of(self, job: Fill) -> Iterator[bool]:
        with self._desk.open_turn() as is_open:
            yield is_open and job is self._job

    def _outcomes(self, job: Fill, interventions: Sequence[Intervention]) -> Stream:
        """Yield what the workers have finished, at most every tenth of a second."""
        own = self._settings
        remote = background.open_on_cluster(
            own.client, self._stack, screen=own.screen, **own.network
        )
        with self._turn_of(job) as mine:
            if not mine:
                return
            self._desk.results.attrs["workers"] = remote.provenance["workers"]
        pace, finished = Pace(len(interventions)), dict[Intervention, Any]()
        with contextlib.closing(remote.measure(interventions, patience=PAINT_EVERY)) as stream:
            for some in stream:
                finished |= some
                if pace.due():
                    yield finished
                    finished = {}
        if finished:
            yield finished
