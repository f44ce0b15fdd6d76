"""How files and folders are written: as a whole or not at all, whoever else writes there.

What is written goes to a temporary name beside its place, is flushed to the disk, and only then
takes the place of what was there.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import re
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path

from explorer.inventory.disk import beside, explained, time_in
from explorer.inventory.locks import locked

STRAY_AGE = 86_400.0
"""Seconds after which a temporary file is what a killed process left behind."""

_OURS = re.compile(r"\.(?P<target>.+)\.\d+-[0-9a-f]{8}(?P<old>\.old)?")
"""Names of temporary files: of what, by which process, and whether it is the former one."""

_NO_FOLDER_FLUSH = (errno.EINVAL, errno.EOPNOTSUPP, errno.EBADF, errno.EACCES, errno.EPERM)
"""How file systems answer that cannot flush a folder; the rest of what is promised holds there."""


@contextlib.contextmanager
def placed(target: Path) -> Iterator[Path]:
    """Write a file as a whole or not at all.

    Yields a temporary path beside the target; on success it is flushed to the disk and renamed
    over the target, on failure it is removed and an older target stays as it was.

    Raises
    ------
    CheckpointError
        The folder cannot be written to, or the disk is full.
    """
    temporary = beside(target)
    with explained(target):
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            temporary.touch(exist_ok=False)
            _sweep_once(target.parent)
            yield temporary
            _flush(temporary)
            os.replace(temporary, target)
            _flush_folder(target.parent)
        finally:
            with contextlib.suppress(OSError):  # the folder itself may be what cannot be used
                temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def placed_folder(target: Path) -> Iterator[Path]:
    """Write a folder as a whole or not at all, as `placed` does a file.

    A system has no single step that puts one folder in the place of another: between two renames
    an older one lies beside it, complete, under a hidden name that ends in ``.old``. Should a
    process be killed just there, `put_back` gives it its name again.

    Raises
    ------
    CheckpointError
        As `placed`.
    """
    temporary = beside(target)
    old = temporary.with_name(f"{temporary.name}.old")
    with explained(target):
        try:
            temporary.mkdir(parents=True)
            _sweep_once(target.parent)
            yield temporary
            for folder, _, files in os.walk(temporary):
                for file in files:
                    _flush(Path(folder, file))
                _flush_folder(Path(folder))
            with locked(_lock_of(target)):
                _put_back(target)
                if target.exists():
                    os.replace(target, old)
                try:
                    os.replace(temporary, target)
                except OSError:
                    if old.exists():
                        os.replace(old, target)
                    raise
                _flush_folder(target.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
            if target.exists():
                shutil.rmtree(old, ignore_errors=True)


def put_back(target: Path) -> None:
    """Give a folder its name again that a killed process had moved aside; else do nothing.

    Raises
    ------
    CheckpointError
        The folder it lies in cannot be written to.
    """
    if target.name and _former(target) and not target.exists():
        with locked(_lock_of(target)), explained(target):
            _put_back(target)


def sweep_strays(folder: Path) -> list[Path]:
    """Remove temporary files and folders of ours that are older than `STRAY_AGE`.

    A former folder is kept while nothing has taken its place. Ages are told by the clock of the
    file system, which need not be this machine's.

    Returns
    -------
    list of Path
        What was removed.
    """
    removed: list[Path] = []
    with contextlib.suppress(OSError):  # nobody's work depends on it
        now = time_in(folder)
        for path in folder.iterdir():
            match = _OURS.fullmatch(path.name)
            if match is None or now - _last_change(path) < STRAY_AGE:
                continue
            if match["old"] and not (folder / match["target"]).exists():
                continue
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
            removed.append(path)
    return removed


def _lock_of(target: Path) -> Path:
    return target.with_name(f".{target.name}.lock")


def _flush(file: Path) -> None:
    with file.open("rb+") as stream:
        os.fsync(stream.fileno())


def _flush_folder(folder: Path) -> None:
    """Put names on the disk, so that a rename survives a loss of power too."""
    if os.name != "posix":
        return  # Windows writes them by itself, and opens no folders
    try:
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    except OSError as error:
        if error.errno not in _NO_FOLDER_FLUSH:
            raise


# --- what killed processes left -------------------------------------------------------------------


@functools.lru_cache(maxsize=256)
def _sweep_once(folder: Path) -> None:
    """Sweep a folder once per session: looking at all of it costs more than writing one file."""
    sweep_strays(folder)


def _former(target: Path) -> list[Path]:
    """Complete folders that were moved aside from here, the latest first."""
    try:
        names = [entry for entry in target.parent.iterdir() if entry.name.endswith(".old")]
    except OSError:
        return []
    found = [(path, _OURS.fullmatch(path.name)) for path in names]
    ours = [path for path, match in found if match and match["target"] == target.name]
    return sorted(ours, key=_last_change, reverse=True)


def _put_back(target: Path) -> None:
    former = [] if target.exists() else _former(target)
    if former:
        os.replace(former[0], target)


def _last_change(path: Path) -> float:
    """When a file, or anything in a folder, was last written, seconds."""
    latest = path.lstat()
    times = [latest.st_mtime]
    if stat.S_ISDIR(latest.st_mode):
        times += [p.lstat().st_mtime for p in path.rglob("*")]
    return max(times)
