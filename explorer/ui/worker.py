"""One background thread that runs the newest job and forgets the older ones."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Generic, TypeVar

Job = TypeVar("Job")


class Worker(Generic[Job]):
    """Run jobs one after another on a daemon thread; only the newest may write.

    The thread is there only while there is a job.

    Every submitted job gets a number. Submitting, cancelling and closing raise the number, so
    a job that asks `is_current` while it holds the lock knows whether it may still write.
    An asyncio task would stand still while any notebook cell runs; a thread does not.

    Parameters
    ----------
    lock : threading.RLock
        Guards everything the jobs write to; shared with the owner.
    run : callable
        Called on the thread with (number, job); must not raise.
    name : str
        Name of the thread.
    """

    def __init__(
        self, lock: threading.RLock, run: Callable[[int, Job], None], name: str = "explorer"
    ) -> None:
        self._changed = threading.Condition(lock)
        self._run = run
        self._pending: tuple[int, Job] | None = None
        self._running = False
        self._number = 0
        self._closed = False
        self._name = name
        self._thread: threading.Thread | None = None

    def submit(self, job: Job) -> int:
        """Make this the newest job and return its number; older ones may write no more."""
        with self._changed:
            self._number += 1
            self._pending = (self._number, job)
            if self._thread is None and not self._closed:
                self._thread = threading.Thread(target=self._loop, name=self._name, daemon=True)
                self._thread.start()
            return self._number

    def cancel(self) -> bool:
        """Forget every job; return whether there was one."""
        with self._changed:
            busy = self.busy
            self._number += 1
            self._pending = None
            return busy

    def close(self, timeout: float = 1.0) -> None:
        """Forget every job and end the thread, waiting for it at most `timeout` seconds."""
        with self._changed:
            self._closed = True
            self._number += 1
            self._pending = None
            thread = self._thread
        if thread is not None and threading.current_thread() is not thread:
            thread.join(timeout)

    def is_current(self, number: int) -> bool:
        """Return whether the job of this number may still write (ask while holding the lock)."""
        return number == self._number and not self._closed

    def wait_until_idle(self, timeout: float) -> bool:
        """Wait until nothing is running or pending; return whether that came about."""
        with self._changed:
            return self._changed.wait_for(lambda: not self.busy, timeout)

    @property
    def busy(self) -> bool:
        """Whether a job is running or pending."""
        return self._running or self._pending is not None

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread is not None and self._thread.is_alive()

    def _loop(self) -> None:
        while True:
            with self._changed:
                if self._closed or self._pending is None:
                    self._thread = None
                    self._changed.notify_all()
                    return
                number, job = self._pending
                self._pending, self._running = None, True
            try:
                self._run(number, job)
            finally:
                with self._changed:
                    self._running = False
                    self._changed.notify_all()
