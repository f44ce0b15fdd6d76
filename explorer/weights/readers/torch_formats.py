"""The two formats of ``torch.save``: where a file's pickle and the bytes of its tensors lie.

The zip archive of torch 1.6 and later, and the row of pickles of before. What a file declares is
compared with its size before anything is allocated. A file is opened, read and closed again;
where everything lies in it is remembered until it changes.
"""

from __future__ import annotations

import functools
import mmap
import struct
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from explorer.weights.readers.checksums import Pieces
from explorer.weights.readers.pickled import (
    DTYPES,
    LONGEST,
    Pickled,
    PickleError,
    Storage,
    StoredTensor,
    read_pickle,
    unpickled,
)

_MAGIC = 0x1950A86A20F9469CFC6C
"""First number of a file of torch before 1.6."""

_END_OF_ZIP = struct.Struct("<4s4H2LH")
_BEFORE_RECORD = struct.Struct("<4s22xHH")
_ENCRYPTED = 1
_SIZES = {"bfloat16": 2}

REMEMBERED = 2048
"""Files of which it is kept where their storages lie, 40 bytes for each of them."""

ByteOrder = Literal["<", ">"]


class TorchFormat(Protocol):
    """Where a file's pickle and the bytes of its storages lie."""

    pickled: Pickled
    """What was saved, tensors as `StoredTensor`."""
    byte_order: ByteOrder
    """Little-endian or big-endian."""

    def size(self, key: str) -> int:
        """Bytes of a storage that are really there; `PickleError` if it is not usable."""
        ...

    def read(self, key: str, begin: int, length: int) -> bytes:
        """Return bytes of a storage; fewer where the file has been cut since it was opened."""
        ...


def open_format(path: Path) -> TorchFormat:
    """Look into a file, once until it changes.

    Raises
    ------
    PickleError
        It is no whole file of torch.save.
    OSError
        It cannot be read.
    """
    status = path.stat()
    return _opened(path, status.st_size, status.st_mtime_ns, status.st_ino)


@functools.lru_cache(maxsize=REMEMBERED)
def _opened(path: Path, size: int, mtime_ns: int, inode: int) -> TorchFormat:
    with path.open("rb") as stream:
        start = stream.read(4)
    if not start:
        raise PickleError("it is empty")
    return ZipFormat(path, size) if start.startswith(b"PK") else OldFormat(path, size)


def size_of(dtype: str, what: str) -> int:
    """Bytes of one element."""
    if dtype not in DTYPES.values():  # numpy would also understand "O", "f4,f4" and the like
        raise PickleError(f"its {what} is {dtype}, which is not read")
    return _SIZES.get(dtype) or np.dtype(dtype).itemsize


class ZipFormat:
    """The zip archive of torch 1.6 and later."""

    def __init__(self, path: Path, size: int) -> None:
        self.path = path
        self.bytes = size
        self._sums: dict[str, Pieces] = {}
        try:
            with zipfile.ZipFile(path) as archive:
                infos = archive.infolist()
        except (zipfile.BadZipFile, NotImplementedError, struct.error, ValueError) as error:
            raise _damaged(error) from error  # the last: names that are no text
        if any(info.flag_bits & _ENCRYPTED for info in infos):
            raise PickleError("some of its records are encrypted, which is not read")
        self._places = _places(tuple(info.filename for info in infos))
        self._records = _table(infos)
        self._top = next((n[:-8] for n in self._places if n.endswith("data.pkl")), None)
        self._check(len(infos))
        pickled = self._record("data.pkl")[1]
        if pickled > LONGEST:
            raise PickleError(f"its pickle has {pickled} bytes, over {LONGEST}")
        self.pickled = unpickled(self._whole("data.pkl"))
        big = f"{self._top}byteorder" in self._places and self._whole("byteorder") == b"big"
        self.byte_order: ByteOrder = ">" if big else "<"

    def size(self, key: str) -> int:
        return self._record(f"data/{key}")[1]

    def read(self, key: str, begin: int, length: int) -> bytes:
        """Return bytes of a storage.

        One that is read as a whole, or in pieces that together are all of it, is compared with
        its checksum.
        """
        return self._read(f"data/{key}", begin, length)

    def _whole(self, name: str) -> bytes:
        return self._read(name, 0, self._record(name)[1])

    def _read(self, name: str, begin: int, length: int) -> bytes:
        offset, size, checksum = self._record(name)
        with self.path.open("rb") as stream:
            stream.seek(offset)
            before = stream.read(_BEFORE_RECORD.size)
            if len(before) < _BEFORE_RECORD.size:
                raise _damaged(f"it ends in the record {name}")
            magic, name_length, extra_length = _BEFORE_RECORD.unpack(before)
            own = stream.read(name_length)
            names = (own.decode("utf-8", "replace"), own.decode("cp437"))
            if magic != b"PK\x03\x04" or f"{self._top}{name}" not in names:
                raise _damaged(f"the record {name} is not where it should be")
            stream.seek(extra_length + begin, 1)
            raw = stream.read(length)
        pieces = self._sums.setdefault(name, Pieces())
        found = pieces.add(begin, raw, size)
        if found is not None:
            self._sums.pop(name, None)
        if found not in (None, checksum):
            raise PickleError(f"its content does not fit its checksum (record {name})")
        return raw

    def _check(self, records: int) -> None:
        with self.path.open("rb") as stream:
            stream.seek(-min(_END_OF_ZIP.size, self.bytes), 2)
            end = stream.read()
        if not end.startswith(b"PK\x05\x06"):
            raise PickleError("something follows the end of its archive")
        if len(self._places) != records:
            raise PickleError("two of its records have the same name")
        if self._top is None or f"{self._top}constants.pkl" in self._places:
            kind = "a program of torch.jit" if self._top is not None else "a zip archive of others"
            raise PickleError(f"it is {kind} and no file of torch.save")

    def _record(self, name: str) -> tuple[int, int, int]:
        """First byte, length and checksum of a record that lies in the file as it is.

        Nothing has been allocated for it.
        """
        at = self._places.get(f"{self._top}{name}")
        if at is None:
            raise PickleError(f"the record {name} is missing")
        offset, size, packed, method, checksum = (int(number) for number in self._records[at])
        if method != zipfile.ZIP_STORED or packed != size:
            raise PickleError(
                f"the record {name} is compressed, {packed} bytes that would become "
                f"{size}; torch.save never compresses"
            )
        if offset + size > self.bytes:
            raise PickleError(f"the record {name} claims {size} bytes of a file of {self.bytes}")
        return offset, size, checksum


def _table(infos: Sequence[zipfile.ZipInfo]) -> NDArray[np.uint64]:
    """(record, 5): what is needed of each; as objects they would take thirty times the memory."""
    rows = [
        (info.header_offset, info.file_size, info.compress_size, info.compress_type, info.CRC)
        for info in infos
    ]
    try:
        return np.array(rows, np.uint64).reshape(-1, 5)
    except OverflowError as error:
        raise _damaged("a record begins before the file") from error


@functools.lru_cache(maxsize=64)
def _places(names: tuple[str, ...]) -> Mapping[str, int]:
    """Name of a record → its number, shared by all files of one network."""
    return {name: at for at, name in enumerate(names)}


def _damaged(reason: object) -> PickleError:
    return PickleError(f"the archive is damaged or cut short ({reason})")


class OldFormat:
    """The row of pickles of torch before 1.6: magic number, version, system, content, keys."""

    byte_order: ByteOrder = "<"

    def __init__(self, path: Path, size: int) -> None:
        self.path = path
        self.bytes = size
        with (
            path.open("rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as stream,
        ):
            if stream[:1] != b"\x80" or read_pickle(stream) != _MAGIC:
                raise PickleError("it does not begin as a file of torch.save does")
            _, _, content, keys = (read_pickle(stream) for _ in range(4))
            at = stream.tell()
        self.pickled = Pickled(content)
        self._places = self._find(keys, _storages(content), at)

    def _find(
        self, keys: Any, storages: Mapping[str, Storage], at: int
    ) -> dict[str, tuple[int, int]]:
        """Key → first byte and length; each storage is preceded by 8 bytes, its elements."""
        places = {}
        if not isinstance(keys, list):
            raise PickleError("the list of its storages is missing")
        for key in keys:
            if not isinstance(key, str) or key not in storages:
                raise PickleError(f"its storage {key} belongs to no tensor that is understood")
            length = storages[key].elements * size_of(storages[key].dtype, f"storage {key}")
            places[key] = (at + 8, length)
            at += 8 + length
        if at != self.bytes:
            raise PickleError(f"it declares {at} bytes and has {self.bytes}")
        return places

    def size(self, key: str) -> int:
        if key not in self._places:
            raise PickleError(f"the storage {key} is missing")
        return self._places[key][1]

    def read(self, key: str, begin: int, length: int) -> bytes:
        with self.path.open("rb") as stream:
            stream.seek(self._places[key][0] + begin)
            return stream.read(length)


def _storages(content: Any) -> dict[str, Storage]:
    """Every storage of nested dicts, lists and tuples; each of them is looked into once."""
    found: dict[str, Storage] = {}
    seen: set[int] = set()
    waiting = [content]
    while waiting:
        value = waiting.pop()
        if isinstance(value, StoredTensor):
            found[value.storage.key] = value.storage
        elif isinstance(value, (dict, list, tuple)) and id(value) not in seen:
            seen.add(id(value))
            waiting.extend(value.values() if isinstance(value, dict) else value)
    return found
