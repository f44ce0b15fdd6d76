"""A lock under which pictures change, and which sends what has changed when it is let go."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

# `threading.RLock` is a function up to Python 3.12
_RLock: Any = type(threading.RLock())


class SendingLock(_RLock):
    """A reentrant lock whose last release first calls every sender.

    Whoever holds it may change a picture in several steps; the page gets them as one.
    """

    def __init__(self) -> None:
        super().__init__()
        self._held = 0  # how often its owner has it; only the owner writes it
        self._senders: list[Callable[[], None]] = []

    def add(self, sender: Callable[[], None]) -> None:
        """Call a sender, still under the lock, whenever the lock is let go."""
        self._senders.append(sender)

    def remove(self, sender: Callable[[], None]) -> None:
        """Call a sender no more."""
        self._senders.remove(sender)

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        """Take the lock, as `threading.RLock.acquire` does."""
        got: bool = super().acquire(blocking, timeout)
        if got:
            self._held += 1
        return got

    __enter__ = acquire

    def release(self) -> None:
        """Let the lock go; the last time, what has changed is sent before."""
        try:
            if self._held == 1:
                self._send()
        finally:
            self._held -= 1
            super().release()

    def __exit__(self, *_error: object) -> None:
        self.release()

    def _send(self) -> None:
        for sender in tuple(self._senders):
            sender()

    # What `threading.Condition` calls to wait, however often the lock is held

    def _release_save(self) -> Any:
        self._send()
        held, self._held = self._held, 0
        return held, super()._release_save()

    def _acquire_restore(self, state: Any) -> None:
        held, own = state
        super()._acquire_restore(own)
        self._held = held
