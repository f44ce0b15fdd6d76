"""What all that writes to a disk shares: names of temporary files, errors, whole lines."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

from explorer.errors import CheckpointError

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""How systems say that something does not fit: the disk, a quota, a limit of the file's size."""


def beside(target: Path) -> Path:
    """A name in the same folder that no other process or thread uses."""
    return target.with_name(f".{target.name}.{os.getpid()}-{secrets.token_hex(4)}")


def time_in(folder: Path) -> float:
    """What time it is by the clock that a folder's files are stamped with, seconds."""
    probe = beside(folder / "clock")
    probe.touch(exist_ok=False)
    try:
        return probe.stat().st_mtime
    finally:
        probe.unlink(missing_ok=True)


@contextlib.contextmanager
def explained(target: Path) -> Iterator[None]:
    """Turn what the system says into an error with its three parts."""
    try:
        yield
    except CheckpointError:  # it has them
        raise
    except OSError as error:
        full = error.errno in _NO_ROOM
        raise CheckpointError(
            f"{target} could not be written: {error.strerror or error}.",
            "A folder that you may write to, on a disk with room, is needed.",
            "Free some space, or choose another folder; what was there before is as it was."
            if full
            else "Choose another folder, or correct its permissions.",
        ) from error


def append_lines(path: Path, text: str) -> None:
    """Append whole lines to a file; when this returns they are on the disk.

    A line that a crash cut short is removed first, and one that does not fit on the disk leaves
    the file as it was. Whoever appends holds a lock.

    Raises
    ------
    OSError
        The file is missing, cannot be written to, or the disk is full.
    """
    with path.open("r+b", buffering=0) as stream:
        whole = _end_of_last_line(path, stream.seek(0, os.SEEK_END))
        try:
            stream.truncate(whole)
            stream.seek(whole)
            rest = memoryview(text.encode())
            while rest:
                rest = rest[stream.write(rest) :]
            os.fsync(stream.fileno())
        except OSError:
            stream.truncate(whole)
            raise


def _end_of_last_line(path: Path, size: int) -> int:
    with path.open("rb") as stream:
        stream.seek(max(0, size - 1))
        return size if stream.read() in (b"", b"\n") else path.read_bytes().rfind(b"\n") + 1
