"""HDF5, in which netCDF-4 is kept: looked at before it is read, written so that nothing crashes.

Left to itself the library follows a file's links to other files, allocates what a file declares,
and brings the whole process down when it cannot finish a file that did not fit on the disk.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from explorer.errors import CheckpointError

ALWAYS = 64_000_000
"""Bytes that any file may declare."""

DAMAGE = (
    *(OSError, ValueError, KeyError, TypeError, AttributeError, IndexError, ArithmeticError),
    RuntimeError,  # HDF5's; RecursionError is one too
)
"""What xarray, and the libraries of netCDF and zarr below it, raise for damaged files."""

MOST_EXPANDED = 1_000
"""Times its own size that a larger one may declare; deflate makes 1032 bytes of one at the most."""


def check_hdf5(path: Path) -> None:
    """Refuse a file that leads to other files, or declares more than it can hold; nothing is read.

    Raises
    ------
    CheckpointError
        It does.
    OSError
        It is no HDF5 file.
    """
    import h5py  # brings HDF5, which only this form needs

    declared = 0
    with h5py.File(path, "r") as file:
        for name, dataset in _datasets(file, path):
            if dataset.external or dataset.is_virtual:
                raise _leads_out(path, name)
            declared += int(dataset.nbytes)
    check_declared(path, declared, path.stat().st_size)


def check_declared(path: Path, declared: int, there: int) -> None:
    """Refuse what declares more bytes than files of its size can hold, compressed as they may be.

    Raises
    ------
    CheckpointError
        It does.
    """
    if declared > max(ALWAYS, MOST_EXPANDED * there):
        raise CheckpointError(
            f"{path} declares {declared} bytes of numbers and has {there} bytes.",
            f"{ALWAYS} bytes, or {MOST_EXPANDED} times its own size, are accepted.",
            "Do not trust this file; if it is your own, save it again.",
        )


def _datasets(file: Any, path: Path) -> Iterator[tuple[str, Any]]:
    """Every dataset by its path in the file; groups that contain each other are refused."""
    import h5py

    waiting, seen = [("", file)], set()
    while waiting:
        where, group = waiting.pop()
        address = h5py.h5o.get_info(group.id).addr
        if address in seen:
            raise CheckpointError(
                f"{path}: the group {where!r} contains itself.",
                "Groups below each other are accepted.",
                "Do not trust this file; if it is your own, save it again.",
            )
        seen.add(address)
        for name in group:
            inner = f"{where}/{name}"
            if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                raise _leads_out(path, inner)
            item = group[name]
            if isinstance(item, h5py.Group):
                waiting.append((inner, item))
            elif isinstance(item, h5py.Dataset):
                yield inner, item


def _leads_out(path: Path, name: str) -> CheckpointError:
    return CheckpointError(
        f"{path}: {name!r} is a link, or has its numbers in another file.",
        "Files that hold their own numbers are accepted.",
        "Do not trust this file; if it is your own, save it again.",
    )


@contextlib.contextmanager
def full_disk_told(path: Path) -> Iterator[PatientFile]:
    """Open a file for HDF5 to write to; what did not fit on the disk is said when all is done.

    Raises
    ------
    OSError
        What the first write that failed said.
    """
    with PatientFile(path) as stream:
        yield stream
        stream.check()


class PatientFile(io.RawIOBase):
    """A file whose writes never fail, as HDF5 needs it: what went wrong is asked for.

    With HDF5 2.0 and h5py 3.16 a write that fails ends in a segmentation fault when the file is
    closed, and in exceptions that nobody can catch. HDF5 also reads what it has written, and
    follows the addresses that it reads: what did not fit stays in memory until the file is closed.
    Whoever writes much calls `check` in between.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._file = path.open("r+b", buffering=0)
        self._failure: OSError | None = None
        self._unwritten: list[tuple[int, bytes]] = []  # (place, bytes)

    def check(self) -> None:
        """Raise what the first write that failed said."""
        if self._failure is not None:
            raise self._failure

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0, /) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def readinto(self, buffer: Any, /) -> int | None:
        if not self._unwritten:
            return self._file.readinto(buffer)
        view, start = memoryview(buffer).cast("B"), self.tell()
        count = self._file.readinto(view) or 0
        view[count:] = bytes(len(view) - count)
        for place, data in self._unwritten:
            low, high = max(place, start), min(place + len(data), start + len(view))
            if low < high:
                view[low - start : high - start] = data[low - place : high - place]
        self.seek(start + len(view))
        return len(view)

    def truncate(self, size: int | None = None, /) -> int:
        try:
            return self._file.truncate(size)
        except OSError as error:
            self._failure = self._failure or error
            return size or 0

    def write(self, data: Any, /) -> int:
        rest = memoryview(data).cast("B")
        length = len(rest)
        try:
            while rest and self._failure is None:
                rest = rest[self._file.write(rest) :]
        except OSError as error:
            self._failure = error
        if rest:
            self._unwritten.append((self.tell(), bytes(rest)))
            self.seek(len(rest), io.SEEK_CUR)
        return length

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()
