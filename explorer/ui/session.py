"""One reader's exploration of one stack: what is known, what is being measured, who is told.

It knows threads but neither widgets nor figures; what it finds out it tells a `Listener`.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import math
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import xarray as xr

from explorer.ui import answering, background, filling, studies
from explorer.ui.background import Evaluates
from explorer.ui.grid import Grid, unit_of
from explorer.ui.jobs import Fill, FindOrder, Job, Listener
from explorer.ui.known import known_results
from explorer.ui.measured import Measured
from explorer.ui.moved import Moved
from explorer.ui.networks import Networks
from explorer.ui.on_cluster import ClusterSweep
from explorer.ui.ongoing import Ongoing
from explorer.ui.results import fail
from explorer.ui.selection import Choice
from explorer.ui.sending import SendingLock
from explorer.ui.settings import Settings
from explorer.ui.studies import Kind, Study
from explorer.ui.thread_pools import give_back_threads
from explorer.ui.wording import complaint, counted
from explorer.ui.worker import Worker
from explorer.weights.stack import epoch_numbers, epochs_here, layer_names

logger = logging.getLogger(__name__)

HEAD_START = 3.0
"""Seconds that a page has to draw the first picture before torch and numba take the processor."""


class Session:
    """What is known about a stack, and the thread that finds out more.

    Parameters
    ----------
    stack : xarray.DataTree
        From `explorer.open_stack`.
    settings : Settings
        How cells are measured.
    listener : Listener
        Told about every change.
    """

    def __init__(self, stack: xr.DataTree, settings: Settings, listener: Listener) -> None:
        self.lock = SendingLock()
        layers, epochs = tuple(layer_names(stack)), tuple(epoch_numbers(stack))
        self.grid = Grid(layers, epochs, settings.draws, unit_of(stack.attrs), settings.sideways)
        self.results = known_results(stack, self.grid, settings)
        self.measured: list[Measured] = []
        self.found: dict[Kind, xr.Dataset] = {}
        self.distances: xr.Dataset | None = None
        self.device = ""
        self.seed, self.listener = settings.seed, listener
        self._stack, self._settings = stack, settings
        self.networks = Networks(stack, settings, self._loaded)
        self._studies = Ongoing(self, stack, settings.data, self.networks.open_for_studies)
        self._cluster = ClusterSweep(self, stack, settings)
        self._moved = Moved(stack, settings, self.open_turn, self.reported, self._tell_distances)
        self._worker: Worker[Job] = Worker(self.lock, self._work)
        # Not a daemon: an interpreter that goes while torch is being imported would crash.
        self._warm_up = threading.Thread(target=self._prepare, name="explorer warm-up")
        self._hurried = threading.Event()
        self._rest_of_sweep: Fill | None = None
        self._order: FindOrder | None = None
        self._now: Job = None
        self._closed = False

    def start(self) -> None:
        """Load the network and measure the distances in the background, after the first picture."""
        _open_sessions.add(self)
        give_back_threads()
        self._warm_up.start()

    def hurry(self) -> None:
        """Load the network now: the picture is drawn, or somebody waits for a number."""
        self._hurried.set()

    def request(self, job: Job) -> None:
        """Do this next; what runs may write no more meanwhile, but all except a click goes on.

        A sweep on a cluster begins beside what runs here, and goes on beside what is asked next.
        """
        if isinstance(job, Fill):
            if self._settings.client is not None:
                self._cluster.begin(job)
                return
            self._rest_of_sweep = job
        elif isinstance(job, Study):
            self._studies.replace(job)
        elif isinstance(job, FindOrder):
            self._order = job
        self._now = job
        give_back_threads()  # a cell of the notebook may have used torch since
        self._worker.submit(job)
        self.hurry()

    def begin_beside(self, study: Study) -> None:
        """Measure motion on a thread of its own: it reads weights and needs no network."""
        self._studies.begin_beside(study)

    def stop(self) -> bool:
        """Forget what is running; return whether anything was."""
        self._rest_of_sweep = None
        ended = [self._studies.stop(), self._cluster.stop(), self._worker.cancel()]
        if self._order is not None:
            self.listener.on_stopped(self._order)
            self._order = None
        return any(ended)

    def forget_click(self) -> None:
        """Forget the cell that is being measured, if one is; what it interrupted goes on."""
        if self.answering and not self._go_on():
            self._worker.cancel()

    def why_not(self, kind: Kind) -> str:
        """Say why a measurement does not apply here; empty where it does."""
        return studies.why_not(kind, self._stack, self._settings.data)

    @property
    def all_here(self) -> bool:
        """Whether every checkpoint is on this machine, so that reading it downloads nothing."""
        return epochs_here(self._stack) == list(self.grid.epochs)

    def rest(self) -> None:
        """Stop, and give the network's memory back until the next request."""
        self.stop()
        self.networks.forget()

    def close(self, timeout: float = 1.0) -> None:
        """End the thread, waiting for it at most `timeout` seconds."""
        self._closed = True
        self._studies.close()
        self._cluster.stop()
        self.hurry()
        self._worker.close(timeout)
        self._cluster.wait(timeout)
        _open_sessions.discard(self)

    @property
    def busy(self) -> bool:
        """Whether anything is being measured."""
        return self._worker.busy or self._cluster.busy

    @property
    def answering(self) -> bool:
        """Whether somebody waits for the number of a click, so that a sweep keeps quiet."""
        return isinstance(self._now, Choice) and self._worker.busy

    @property
    def swept_on(self) -> str:
        """What sweeps are measured on, in words."""
        if self._settings.client is None:
            return self.device
        return counted(int(self.results.attrs.get("workers", 0)), "worker")

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._worker.alive

    def wait_until_idle(self, timeout: float) -> bool:
        """Wait until nothing is being measured; return whether that came about."""
        return self._worker.wait_until_idle(timeout) and self._cluster.wait(timeout)

    # What a job works on

    @contextlib.contextmanager
    def turn(self, number: int) -> Iterator[bool]:
        """Hold the lock, and tell whether the job of this number may still write."""
        with self.lock:
            yield self._worker.is_current(number)

    @contextlib.contextmanager
    def open_turn(self) -> Iterator[bool]:
        """Hold the lock, and tell whether the session is still open."""
        with self.lock:
            yield not self._closed

    @contextlib.contextmanager
    def reported(
        self,
        number: int | None = None,
        asked: Job = None,
        wanted: Callable[[], bool] | None = None,
        in_its_cell: bool = False,
    ) -> Iterator[None]:
        """Hand an exception to the listener and the log: nobody above could show it."""
        try:
            yield
        except Exception as error:  # the widget's edge
            if not threading.main_thread().is_alive():
                return  # the interpreter is going, and imports fail
            logger.exception("%s", _name(asked))
            with self.lock:
                if not self._still(number) or (wanted is not None and not wanted()):
                    return
                if in_its_cell and isinstance(asked, Choice) and asked.cell is not None:
                    fail(self.results, asked.cell, asked.draw, complaint(error))
                self.listener.on_failure(asked, error)

    def _still(self, number: int | None) -> bool:
        """Tell whether anybody waits for the job of this number, or for anything."""
        return not self._closed and (number is None or self._worker.is_current(number))

    # On the threads: everything is written under the lock, and only while current

    def _prepare(self) -> None:
        self._hurried.wait(HEAD_START)
        if self._closed:
            return
        with self.reported():
            self.networks.open()
            with self.lock:  # whoever has clicked already comes first
                if math.isnan(self.results.attrs["final_error"]) and not self._worker.busy:
                    self._worker.submit(None)
        self._moved.measure()

    def _work(self, number: int, job: Job) -> None:
        self._now = job
        if isinstance(job, Study):
            self._studies.follow(number, job)
        else:
            self._measure(number, job)
        self._moved.measure_newcomers()
        with self.turn(number) as mine:
            if not mine:
                return
            if isinstance(job, Fill):
                self._rest_of_sweep = None
            elif isinstance(job, Study):
                self._studies.in_turn = None
            elif isinstance(job, FindOrder):
                self._order = None
            self._go_on()

    def _go_on(self) -> bool:
        """Go on with what has been interrupted; return whether anything was."""
        rest = self._studies.in_turn or self._order or self._rest_of_sweep
        if rest is not None:
            self._now = rest
            self._worker.submit(rest)
        return rest is not None

    def _measure(self, number: int, job: Choice | Fill | FindOrder | None) -> None:
        with self.reported(number, job):
            evaluator = self.networks.open()
            if isinstance(job, Choice):
                self._answer(number, job, evaluator)
            if math.isnan(self.results.attrs["final_error"]):
                answering.measure_intact(self, number, evaluator)
            if isinstance(job, Fill):
                self._fill(number, job, evaluator)
            elif isinstance(job, FindOrder):
                answering.find_order(self, number, job, evaluator)

    def _answer(self, number: int, choice: Choice, evaluator: Evaluates) -> None:
        step = None
        with self.reported(number, choice, in_its_cell=True):
            step = answering.measure(self, number, choice, evaluator)
        with self.turn(number) as mine:
            self._now = None if mine else self._now
        if step is not None:
            with self.reported(number):  # the number stands, whatever becomes of this
                answering.compare(self, number, choice, step, evaluator)

    def _fill(self, number: int, job: Fill, evaluator: Evaluates) -> None:
        def remain(rest: Fill) -> None:
            self._rest_of_sweep = rest if rest.cells else None

        filling.fill(
            self,
            job,
            lambda interventions: background.measure_many(evaluator, interventions),
            lambda: self.turn(number),
            remain,
        )

    def _loaded(self, evaluator: Evaluates) -> None:
        """Note what the network says about the numbers to come."""
        with self.lock:
            self.device = evaluator.device_label
            known: dict[str, Any] = {
                "chance_error": evaluator.chance_error,
                "examples": evaluator.total,
            }
            found = background.provenance(evaluator)
            self.results.attrs |= {**found, **self.results.attrs}
            if self._settings.screen:  # what came with the stack has the same labels
                known["screen"] = found.get("screen", "none")
            self.results.attrs |= known
            if not self._closed:
                self.listener.on_ready(self.device, idle=not self._worker.busy)

    def _tell_distances(self, distances: xr.Dataset | None) -> None:
        self.distances = distances
        self.listener.on_distances()


def _name(asked: Job) -> str:
    """Name what was asked for, for the log."""
    if isinstance(asked, Study):
        return asked.kind
    if isinstance(asked, Fill):
        return f"sweep of {asked.total} cells"
    if isinstance(asked, FindOrder):
        return "order of resets"
    return str(asked or "explorer")


_open_sessions: weakref.WeakSet[Session] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    """Let native code return before the interpreter goes: a thread inside it would crash."""
    for session in list(_open_sessions):
        session.close(timeout=10)
