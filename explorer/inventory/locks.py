"""Locks between processes, which hold on network file systems too, where ``flock`` may not.

A lock is a file of its own, made by one step that succeeds for one process only: a link or, where
there are none, a file that must not exist.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import math
import os
import platform
import secrets
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from explorer.errors import CheckpointError
from explorer.inventory.disk import beside, explained, time_in

STALE_AGE = 15.0
"""Seconds without a sign of life after which a lock no longer holds."""

BEAT = 2.0
"""Seconds between two signs of life of whoever holds a lock."""

LOOK = 1.0
"""Seconds between two looks at whether the holder of a lock still lives."""

_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EINVAL)
"""How file systems answer that have no second names for a file, such as FAT."""

PATIENCE = 60.0
"""Seconds for which a lock is waited for, where nothing else is said."""


@contextlib.contextmanager
def locked(lock: Path, *, wait: float = PATIENCE) -> Iterator[None]:
    """Hold a lock, which one process or thread can at a time.

    Whoever holds it touches its file every `BEAT` seconds. A lock whose file has not been touched
    for `STALE_AGE`, by the file system's clock or while this process was looking on, or whose
    process is known to be gone, belongs to a process that was killed, and is taken over.

    Parameters
    ----------
    lock : Path
        The file that stands for it; its folder is made if it is missing.
    wait : float
        Seconds to wait for it.

    Raises
    ------
    CheckpointError
        Another process keeps it for longer, or the folder cannot be written to.
    """
    token = f"{os.getpid()} {secrets.token_hex(8)} {_this_machine() or platform.node()}"
    with explained(lock):
        lock.parent.mkdir(parents=True, exist_ok=True)
        _take(lock, token, wait)
    done = threading.Event()
    beating = threading.Thread(target=_beat, args=(lock, done), daemon=True)
    beating.start()
    try:
        yield
    finally:
        done.set()
        beating.join()
        with contextlib.suppress(OSError):
            if _token_in(lock) == token:
                lock.unlink()


@functools.cache
def _this_machine() -> str:
    """Where process numbers mean the same: host, boot and space of numbers; empty if unknown."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{platform.node()} {boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""  # not Linux: signs of life have to do


def _take(lock: Path, token: str, wait: float) -> None:
    """Make the file of a lock as soon as nobody else has it."""
    until = time.monotonic() + wait
    looked = -math.inf
    beat, since = -1, math.inf
    while not _made(lock, token):
        if time.monotonic() - looked > LOOK:  # which writes to the disk, so not each time
            looked = time.monotonic()
            found, latest = _token_in(lock), _last_beat(lock)
            if latest != beat:
                beat, since = latest, looked
            silent = looked - since > STALE_AGE  # also where its clock was ahead, or is set back
            if found is not None and (silent or _is_stale(lock, found)):
                _remove_stale(lock, found)
                continue
        if time.monotonic() >= until:
            raise _busy(lock, wait)
        time.sleep(0.02)


def _busy(lock: Path, wait: float) -> CheckpointError:
    number, _, machine, *_ = [*(_token_in(lock) or "").split(" "), "", "", ""]
    return CheckpointError(
        f"{lock.parent} is being written to by process {number or '?'} on {machine or '?'}.",
        f"One process at a time is needed there; this one has waited for {wait:.0f} s.",
        f"Wait for it, or choose another place. If it no longer runs, remove {lock}.",
    )


def _made(lock: Path, token: str) -> bool:
    """Make the file of a lock, unless it is there: one step, in which one process succeeds.

    The step is a second name for a file that says already who holds it, so that a process that is
    killed never leaves a lock of which nobody knows whose it is.
    """
    if lock.exists():
        return False
    aside = beside(lock)
    try:
        aside.write_text(token, encoding="utf-8")
        os.link(aside, lock)
        return True
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno in _NO_LINKS:
            return _made_without_links(lock, token)
        raise
    finally:
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)


def _made_without_links(lock: Path, token: str) -> bool:
    try:
        handle = os.open(lock, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
    except FileExistsError:
        return False
    with os.fdopen(handle, "w", encoding="utf-8") as stream:
        stream.write(token)
    return True


def _token_in(lock: Path) -> str | None:
    """Who holds a lock, as far as that is written already; None where nobody does."""
    try:
        return lock.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return None


def _last_beat(lock: Path) -> int:
    """When a lock was last touched, nanoseconds by whatever clock; -1 where there is none."""
    try:
        return lock.stat().st_mtime_ns
    except OSError:
        return -1


def _is_stale(lock: Path, token: str) -> bool:
    number, _, rest = token.partition(" ")
    if rest.partition(" ")[2] == _this_machine() != "" and number.isdecimal():
        with contextlib.suppress(PermissionError):  # somebody else's
            try:
                os.kill(int(number), 0)
            except ProcessLookupError:
                return True
    try:
        return time_in(lock.parent) - lock.stat().st_mtime > STALE_AGE
    except FileNotFoundError:
        return False


def _remove_stale(lock: Path, token: str) -> None:
    """Take a stale lock away; of several processes that see it, one does."""
    aside = beside(lock)
    try:
        os.rename(lock, aside)
    except OSError:
        return
    if _token_in(aside) != token:  # another process was faster, and this is its own already
        with contextlib.suppress(OSError):
            os.link(aside, lock)
    with contextlib.suppress(OSError):
        aside.unlink()


def _beat(lock: Path, done: threading.Event) -> None:
    while not done.wait(BEAT):
        with contextlib.suppress(OSError):
            os.utime(lock)
