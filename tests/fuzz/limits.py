"""What has to hold for any bytes: it works, or it is an error of ours with its three parts.

And within a second and 200 MB, with nothing written elsewhere, no program started, no address
called, and no flood of warnings.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from explorer.errors import ExplorerError

SECONDS = 1.0
"""Of the processor's time for one input."""

BYTES = 200_000_000
"""Of address space beyond what the process has: what is declared must not be allocated."""

MOST_WARNINGS = 20
LONGEST_MESSAGE = 8_000
"""Characters: a message may quote a file, but not all of it."""

Harness = Callable[[bytes, Path], object]
"""Gives bytes to the code, as files in an empty folder of their own where it reads files."""

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_CHANGING = {
    **{"os.rename": 2, "os.link": 2, "os.symlink": 2, "os.remove": 1, "os.mkdir": 1},
    **{"os.rmdir": 1, "os.truncate": 1, "os.chmod": 1, "os.utime": 1, "shutil.rmtree": 1},
}
"""Events of `sys.addaudithook` → how many of their first arguments are paths that change."""
_NEVER = {
    *("os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.startfile"),
    *("subprocess.Popen", "socket.connect", "socket.bind", "pickle.find_class"),
}
"""Events of code that runs, or of calls to others."""


class PromiseError(AssertionError):
    """Something happened that must not, whatever the input is."""


class ExpensiveError(PromiseError):
    """It took more time or memory than it may."""


class _Watch:
    """What happens outside a folder; the hook itself can never be taken off again."""

    folder: str | None = None
    seen: list[str]
    hooked = False

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.folder is None:
            return
        if event == "pickle.find_class" and _numba_reads_its_cache():
            return
        if event in _NEVER:
            self.seen.append(f"{event} {str(arguments)[:200]}")
        elif event == "open" and len(arguments) > 2 and (arguments[2] or 0) & _WRITING:
            self._path(event, arguments[0])
        elif event in _CHANGING:
            for path in arguments[: _CHANGING[event]]:
                self._path(event, path)

    def _path(self, event: str, path: Any) -> None:
        if isinstance(path, int) or self.folder is None:  # a number: it was opened before
            return
        where = os.path.abspath(os.fsdecode(path))
        inside = where == self.folder or where.startswith(self.folder + os.sep)
        if not inside and "__pycache__" not in where and where != os.devnull:
            self.seen.append(f"{event} {where}")


def _numba_reads_its_cache() -> bool:
    """Tell whether numba loads a compiled kernel, which it has pickled itself."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        if frame.f_globals.get("__name__") == "numba.core.caching":
            return True
        frame = frame.f_back
    return False


_watch = _Watch()


def hold(harness: Harness, data: bytes, root: Path, name: str = "input") -> ExplorerError | None:
    """Give bytes to a harness; returns the error it raised, if it is one of ours.

    Raises
    ------
    PromiseError
        Anything else than working or an error of ours; the message says what.
    """
    try:
        return _in_folder(harness, data, root / name)
    except ExpensiveError:  # the first time, modules may be imported; or the machine is busy
        return _in_folder(harness, data, root / f"{name}-again")


def _in_folder(harness: Harness, data: bytes, folder: Path) -> ExplorerError | None:
    folder.mkdir()
    try:
        return _held(harness, data, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _held(harness: Harness, data: bytes, folder: Path) -> ExplorerError | None:
    raised: ExplorerError | None = None
    start = time.process_time()
    with warnings.catch_warnings(record=True) as warned, watched(folder) as seen, _little_memory():
        warnings.simplefilter("always")
        try:
            harness(data, folder)
        except ExplorerError as error:
            raised = error
        except MemoryError as error:
            raise ExpensiveError(f"It wanted more than {BYTES} bytes.") from error
        except Exception as error:
            raise PromiseError(f"{type(error).__name__}: {str(error)[:300]}") from error
    took = time.process_time() - start
    if raised is not None:
        _check_message(raised)
    if seen:
        raise PromiseError(f"It did what no file may make it do: {'; '.join(seen[:3])}")
    if took > SECONDS:
        raise ExpensiveError(f"It took {took:.1f} s.")
    if len(warned) > MOST_WARNINGS:
        raise PromiseError(f"It warned {len(warned)} times, first: {warned[0].message}")
    return raised


def _check_message(error: ExplorerError) -> None:
    parts = (error.came, error.accepted, error.advice)
    if not all(isinstance(part, str) and part.strip() for part in parts):
        raise PromiseError(f"The error lacks one of its three parts: {parts}")
    text = str(error)
    if len(text) > LONGEST_MESSAGE:
        raise PromiseError(f"The error has {len(text)} characters: {text[:200]}")
    strange = [c for c in text if not c.isprintable() and c not in "\n\t"]
    if any(ord(c) < 0xA0 or 0xD800 <= ord(c) < 0xE000 for c in strange):
        raise PromiseError(f"The error would control the terminal: {strange[:5]}")


@contextlib.contextmanager
def watched(folder: Path) -> Iterator[list[str]]:
    """Note what is changed outside a folder, started or called meanwhile."""
    if not _watch.hooked:
        sys.addaudithook(_watch)
        _watch.hooked = True
    _watch.seen = []
    hook = sys.unraisablehook
    sys.unraisablehook = lambda _: (
        None
    )  # h5netcdf's half-open files complain while they are removed
    _watch.folder = os.path.abspath(folder)
    try:
        yield _watch.seen
    finally:
        _watch.folder = None
        sys.unraisablehook = hook


@contextlib.contextmanager
def _little_memory() -> Iterator[None]:
    """Let no more than `BYTES` be allocated, where the system can limit that."""
    if not sys.platform.startswith("linux"):
        yield
        return
    import resource

    before = resource.getrlimit(resource.RLIMIT_AS)
    with open("/proc/self/statm", "rb", buffering=0) as sizes:
        pages = int(sizes.read(100).split()[0])
    most = pages * resource.getpagesize() + BYTES
    resource.setrlimit(resource.RLIMIT_AS, (most, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
