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
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from explorer.engine.intact import recorded_error
from explorer.engine.interventions import BatchNormPolicy
from explorer.engine.results import read_sweep, warn_if_changed
from explorer.inventory.manifest import bundled_sweep
from explorer.ui import background, jobs, studies
from explorer.ui.background import Evaluates
from explorer.ui.grid import Cell, Grid, unit_of
from explorer.ui.jobs import Fill, FindOrder, Job, Listener
from explorer.ui.measured import Measured
from explorer.ui.results import blank, fail, forget_draws, from_sweep
from explorer.ui.selection import Choice
from explorer.ui.sending import SendingLock
from explorer.ui.studies import Kind, Progress, Study
from explorer.ui.wording import complaint
from explorer.ui.worker import Worker
from explorer.weights.stack import epoch_numbers, epochs_here, layer_names

logger = logging.getLogger(__name__)

HEAD_START = 3.0
"""Seconds that a page has to draw the first picture before torch and numba take the processor."""


@dataclass(frozen=True)
class Settings:
    """How the cells of an exploration are measured; see `explorer.ui.widget.Explorer`."""

    model: Any = None
    """The reader's own network, or None for the stack's family."""

    data: Any = None
    """The reader's own test examples, or None for the stack's."""

    device: str = "auto"
    """`"auto"` or a torch device."""

    batch_size: int | None = None
    """Most examples in one forward pass, or None for the engine's choice."""

    batchnorm: BatchNormPolicy = "with_layer"
    """What happens to running statistics when their layer is replaced."""

    draws: int = 3
    """Fresh draws behind one cell of ReRnd."""

    seed: int = 0
    """Seed of the fresh draws."""

    screen: bool = False
    """Whether a lower precision computes first, and float32 where a label is not sure by it."""

    sideways: bool = False
    """Layers from left to right and sources from the top, instead of the paper's form."""


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
    results : xarray.Dataset, optional
        What is known already, from a session with the same settings; else what came with the stack.
    """

    def __init__(
        self,
        stack: xr.DataTree,
        settings: Settings,
        listener: Listener,
        results: xr.Dataset | None = None,
    ) -> None:
        self.lock = SendingLock()
        layers, epochs = tuple(layer_names(stack)), tuple(epoch_numbers(stack))
        self.grid = Grid(layers, epochs, settings.draws, unit_of(stack.attrs), settings.sideways)
        self.results = known_results(stack, self.grid, settings) if results is None else results
        self.measured: list[Measured] = []
        self.found: dict[Kind, xr.Dataset] = {}
        self.distances: xr.Dataset | None = None
        self._measured_epochs: list[int] = []
        self.device = ""
        self.seed, self.listener = settings.seed, listener
        self._stack, self._settings = stack, settings
        self._evaluator: Evaluates | None = None
        self._for_studies: Evaluates | None = None
        self._worker: Worker[Job] = Worker(self.lock, self._work)
        # Not a daemon: an interpreter that goes while torch is being imported would crash.
        self._warm_up = threading.Thread(target=self._prepare, name="explorer warm-up")
        self._opening = threading.Lock()
        self._hurried = threading.Event()
        self._rest_of_sweep: Fill | None = None
        self._study: Study | None = None
        self._beside: Study | None = None
        self._closed = False

    def start(self) -> None:
        """Load the network and measure the distances in the background, after the first picture."""
        _open_sessions.add(self)
        self._warm_up.start()

    def hurry(self) -> None:
        """Load the network now: the picture is drawn, or somebody waits for a number."""
        self._hurried.set()

    def request(self, job: Job) -> None:
        """Do this next; whatever ran before may write no more, but a sweep goes on afterwards."""
        if isinstance(job, Fill):
            self._rest_of_sweep = job
        elif isinstance(job, Study):
            self._end(self._study)
            self._study = job
        self._worker.submit(job)
        self.hurry()

    def begin_beside(self, study: Study) -> None:
        """Measure motion on a thread of its own: it reads weights and needs no network."""
        self._end(self._beside)
        self._beside = study
        # as the warm-up, no daemon; it ends after the layer that it is at
        threading.Thread(target=self._move, args=(study,), name="explorer motion").start()

    def stop(self) -> bool:
        """Forget what is running; return whether anything was."""
        self._rest_of_sweep = None
        ended = [self._end(self._study), self._end(self._beside)]
        return self._worker.cancel() or any(ended)

    def _end(self, study: Study | None) -> bool:
        """Forget a study, and say so; return whether there was one."""
        if study is None:
            return False
        self._study = None if study is self._study else self._study
        self._beside = None if study is self._beside else self._beside
        self.listener.on_stopped(study)
        return True

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
        with self.lock:
            self._evaluator = self._for_studies = None

    def close(self, timeout: float = 1.0) -> None:
        """End the thread, waiting for it at most `timeout` seconds."""
        self._closed = True
        self._study = self._beside = None
        self.hurry()
        self._worker.close(timeout)
        _open_sessions.discard(self)

    @property
    def busy(self) -> bool:
        """Whether anything is being measured."""
        return self._worker.busy

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._worker.alive

    def wait_until_idle(self, timeout: float) -> bool:
        """Wait until nothing is being measured; return whether that came about."""
        return self._worker.wait_until_idle(timeout)

    # What a job works on

    @contextlib.contextmanager
    def turn(self, number: int) -> Iterator[bool]:
        """Hold the lock, and tell whether the job of this number may still write."""
        with self.lock:
            yield self._worker.is_current(number)

    def remain(self, cells: Sequence[Cell], total: int) -> None:
        """Remember what of a sweep is still to be done, should a click come before."""
        self._rest_of_sweep = Fill(tuple(cells), total) if cells else None

    @contextlib.contextmanager
    def reported(
        self, number: int | None = None, asked: Choice | Study | None = None
    ) -> Iterator[None]:
        """Hand an exception to the listener and the log: nobody above could show it."""
        try:
            yield
        except Exception as error:  # the widget's edge
            if not threading.main_thread().is_alive():
                return  # the interpreter is going, and imports fail
            logger.exception("%s", asked.kind if isinstance(asked, Study) else asked or "explorer")
            with self.lock:
                if self._closed or not (number is None or self._worker.is_current(number)):
                    return
                if isinstance(asked, Choice) and asked.cell is not None:
                    fail(self.results, asked.cell, asked.draw, complaint(error))
                self.listener.on_failure(asked, error)

    # On the threads: everything is written under the lock, and only while current

    def _prepare(self) -> None:
        self._hurried.wait(HEAD_START)
        if self._closed:
            return
        with self.reported():
            self._open()
            with self.lock:  # whoever has clicked already comes first
                if math.isnan(self.results.attrs["final_error"]) and not self._worker.busy:
                    self._worker.submit(None)
        self._measure_distances()

    def _work(self, number: int, job: Job) -> None:
        if isinstance(job, Study):
            self._go_on_with(number, job)
        else:
            self._measure(number, job)
        self._measure_newcomers()
        with self.turn(number) as mine:
            if not mine:
                return
            if isinstance(job, Fill):
                self._rest_of_sweep = None
            elif isinstance(job, Study):
                self._study = None
            rest = self._study or self._rest_of_sweep
            if rest is not None:
                self._worker.submit(rest)

    def _measure(self, number: int, job: Choice | Fill | FindOrder | None) -> None:
        with self.reported(number):
            evaluator = self._open()
            if isinstance(job, Choice):
                self._answer(number, job, evaluator)
            if math.isnan(self.results.attrs["final_error"]):
                jobs.measure_intact(self, number, evaluator)
            if isinstance(job, Fill):
                jobs.fill(self, number, job, evaluator)
            elif isinstance(job, FindOrder):
                jobs.find_order(self, number, job, evaluator)

    def _go_on_with(self, number: int, study: Study) -> None:
        """Begin a study, or go on with it after a click that came first."""
        with self.reported(number, study):
            if study.parts is None:
                study.labelled = not studies.unlabelled(self._settings.data)
                study.parts = background.begin(study, self._open_for_studies())
            studies.follow(study, lambda: self.turn(number), self._tell)

    def _move(self, study: Study) -> None:
        with self.reported(asked=study):
            study.parts = background.begin_motion(self._stack, self.results)
            studies.follow(study, lambda: self._turn_of(study), self._tell)
        with self.lock:
            self._beside = None if study is self._beside else self._beside

    @contextlib.contextmanager
    def _turn_of(self, study: Study) -> Iterator[bool]:
        with self.lock:
            yield study is self._beside and not self._closed

    def _tell(self, study: Study, progress: Progress) -> None:
        if progress.found is not None:
            self.found[study.kind] = progress.found
        self.listener.on_study(study, progress)

    def _open_for_studies(self) -> Evaluates:
        """Return the network in float32 to the last digit, with labels or without."""
        own, unlabelled = self._settings, studies.unlabelled(self._settings.data)
        if not (own.screen or unlabelled):
            return self._open()
        if self._for_studies is None:
            data = (own.data, np.zeros(len(own.data), np.int64)) if unlabelled else own.data
            self._for_studies = background.open_evaluator(
                self._stack,
                model=own.model,
                data=data,
                device=own.device,
                batch_size=own.batch_size,
                batchnorm=own.batchnorm,
            )
        return self._for_studies

    def _answer(self, number: int, choice: Choice, evaluator: Evaluates) -> None:
        step = None
        with self.reported(number, choice):
            step = jobs.measure(self, number, choice, evaluator)
        if step is not None:
            with self.reported(number):  # the number stands, whatever becomes of this
                jobs.compare(self, number, choice, step, evaluator)

    def _open(self) -> Evaluates:
        """Load the network, or wait for the other thread to; after a failure, try again."""
        with self._opening:
            if self._evaluator is not None:
                return self._evaluator
            evaluator = background.open_evaluator(
                self._stack,
                model=self._settings.model,
                data=self._settings.data,
                device=self._settings.device,
                batch_size=self._settings.batch_size,
                batchnorm=self._settings.batchnorm,
                screen=self._settings.screen,
            )
            with self.lock:
                self._evaluator, self.device = evaluator, evaluator.device_label
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
            return evaluator

    def _measure_newcomers(self) -> None:
        """Measure again where a job may have downloaded checkpoints, beside the next job."""
        if 0 < len(self._measured_epochs) < len(self.grid.epochs):
            threading.Thread(target=self._measure_distances, name="explorer distances").start()

    def _measure_distances(self) -> None:
        """Measure the checkpoints on this machine, and again when others have been downloaded."""
        with self.reported():
            here = epochs_here(self._stack)
            with self.lock:
                if self._closed or here == self._measured_epochs:
                    return
                self._measured_epochs = here
            distances = background.measure_distances(
                self._stack,
                model=self._settings.model,
                draws=self._settings.draws,
                seed=self._settings.seed,
                epochs=here,
            )
            with self.lock:
                if not self._closed and here == self._measured_epochs:
                    self.distances = distances
                    self.listener.on_distances()


_open_sessions: weakref.WeakSet[Session] = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    """Let native code return before the interpreter goes: a thread inside it would crash."""
    for session in list(_open_sessions):
        session.close(timeout=10)


def known_results(stack: xr.DataTree, grid: Grid, settings: Settings) -> xr.Dataset:
    """Return the numbers that came with a bundled stack, or none where they do not apply.

    Parameters
    ----------
    stack : xarray.DataTree
        From `explorer.open_stack`.
    grid : Grid
        The cells of the heatmaps.
    settings : Settings
        Another network, test set or BatchNorm policy makes other numbers.

    Returns
    -------
    xarray.Dataset
        As `explorer.sweep` returns it; the reason of what is missing is "not measured".
    """
    attrs: dict[str, Any] = {
        "stack": str(stack.attrs.get("name", "")),
        "stack_title": str(stack.attrs.get("title", "")),
        "checkpoint_unit": grid.unit,
        "content_hash": str(stack.attrs.get("content_hash", "")),
        "integrity": str(stack.attrs.get("integrity", "")),
        "batchnorm": settings.batchnorm,
        "seed": settings.seed,
        **recorded_error(stack.attrs, grid.epochs[-1]),
    }
    own = settings.model is not None or settings.data is not None
    path = None if own or not attrs["content_hash"] else bundled_sweep(attrs["stack"])
    if path is None:
        return blank(grid, attrs)
    sweep = read_sweep(path)
    warn_if_changed(sweep.attrs, attrs["content_hash"], f"The bundled sweep of {attrs['stack']}")
    same = all(sweep.attrs[name] == attrs[name] for name in ("content_hash", "batchnorm"))
    if not same or tuple(str(layer) for layer in sweep["layer"].values) != grid.layers:
        return blank(grid, attrs)
    results = from_sweep(sweep, grid)
    if sweep.attrs["seed"] != settings.seed:
        forget_draws(results)
    results.attrs |= attrs
    return results
