"""Files of ``torch.save``, looked into without torch, and read one tensor at a time.

All that a file declares is compared with its size before anything is allocated. Formats: the zip
archive of torch 1.6 and later, and the row of pickles of before.
"""

from __future__ import annotations

import contextlib
import math
import mmap
import struct
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from explorer.errors import CheckpointError
from explorer.weights.checkpoints import (
    Array,
    ArraySpec,
    array_spec,
    numpy_dtype,
    unreadable,
    widened,
)
from explorer.weights.readers.pickled import (
    DTYPES,
    PickleError,
    Storage,
    StoredTensor,
    read_pickle,
    unpickled,
)
from explorer.weights.readers.states import State, choose_state
from explorer.weights.readers.when import When, when_inside

_MAGIC = 0x1950A86A20F9469CFC6C
"""First number of a file of torch before 1.6."""

_END_OF_ZIP = struct.Struct("<4s4H2LH")
_SIZES = {"bfloat16": 2}

_NO_ZIP = (
    *(zipfile.BadZipFile, NotImplementedError, struct.error),
    *(ValueError, RuntimeError, EOFError),  # names that are no text, records that are encrypted
)
"""What the standard library makes of damaged archives."""

ByteOrder = Literal["<", ">"]


class TorchFormat(Protocol):
    """Where a file's pickle and the bytes of its storages lie."""

    content: Any
    """What was saved, tensors as `StoredTensor`."""
    byte_order: ByteOrder
    """Little-endian or big-endian."""

    def size(self, key: str) -> int:
        """Bytes of a storage that are really there; `PickleError` if it is not usable."""
        ...

    def read(self, key: str, begin: int, length: int) -> bytes:
        """Return bytes of a storage."""
        ...


@dataclass(frozen=True)
class TorchCheckpoint:
    """A file of ``torch.save``: a state dict, alone or beside other things."""

    path: Path
    """Where it lies."""
    key: str | None = None
    """Under which key the state dict lies, where there are several."""

    def specs(self) -> dict[str, ArraySpec]:
        """Read names, dtypes and shapes, and check that the file can hold what it declares."""
        with _told(self.path):
            opened = _open(self.path)
            tensors = self._state(opened).tensors
            for name, tensor in tensors.items():
                _check(opened, name, tensor)
            return {name: array_spec(t.dtype, t.shape, name) for name, t in tensors.items()}

    def read(self, name: str) -> Array:
        """Read one tensor."""
        with _told(self.path):
            opened = _open(self.path)
            return _values(opened, name, self._state(opened).tensors[name])

    def notes(self) -> list[str]:
        """What was chosen in this file."""
        with _told(self.path):
            return self._state(_open(self.path)).notes

    def _state(self, opened: TorchFormat) -> State:
        return choose_state(opened.content, self.key, str(self.path))


@contextlib.contextmanager
def _told(path: Path) -> Iterator[None]:
    """Name the file in whatever goes wrong with it."""
    try:
        yield
    except CheckpointError:  # it does so already
        raise
    except (PickleError, OSError) as error:
        raise unreadable(path, error) from error


def torch_when(path: Path) -> When:
    """What a file says about how far training had come.

    Raises
    ------
    CheckpointError
        It cannot be read.
    """
    with _told(path):
        content = _open(path).content
    return when_inside(content) if isinstance(content, Mapping) else When()


def _open(path: Path) -> TorchFormat:
    with path.open("rb") as stream:
        start = stream.read(4)
    if not start:
        raise PickleError("it is empty")
    return ZipFormat(path) if start.startswith(b"PK") else OldFormat(path)


class ZipFormat:
    """The zip archive of torch 1.6 and later."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.bytes = path.stat().st_size
        try:
            with zipfile.ZipFile(path) as archive:
                infos = archive.infolist()
                self.records = {info.filename: info for info in infos}
                self.top = next((n[:-8] for n in self.records if n.endswith("data.pkl")), None)
                self._check(infos)
                self.content = unpickled(archive.read(self._record("data.pkl")))
                order = f"{self.top}byteorder"
                big = order in self.records and archive.read(self._record("byteorder")) == b"big"
        except PickleError:
            raise
        except _NO_ZIP as error:
            raise PickleError(f"the archive is damaged or cut short ({error})") from error
        self.byte_order: ByteOrder = ">" if big else "<"

    def size(self, key: str) -> int:
        return self._record(f"data/{key}").file_size

    def read(self, key: str, begin: int, length: int) -> bytes:
        """Return bytes of a storage; one that is read as a whole is compared with its checksum."""
        try:
            with (
                zipfile.ZipFile(self.path) as archive,
                archive.open(self._record(f"data/{key}")) as stream,
            ):
                stream.seek(begin)
                return stream.read(length)
        except _NO_ZIP as error:
            raise PickleError(f"its content does not fit its checksum ({error})") from error

    def _check(self, infos: list[zipfile.ZipInfo]) -> None:
        with self.path.open("rb") as stream:
            stream.seek(-min(_END_OF_ZIP.size, self.bytes), 2)
            end = stream.read()
        if not end.startswith(b"PK\x05\x06"):
            raise PickleError("something follows the end of its archive")
        if len(self.records) != len(infos):
            raise PickleError("two of its records have the same name")
        if self.top is None or f"{self.top}constants.pkl" in self.records:
            kind = "a program of torch.jit" if self.top is not None else "a zip archive of others"
            raise PickleError(f"it is {kind} and no file of torch.save")

    def _record(self, name: str) -> zipfile.ZipInfo:
        """A record that lies in the file as it is; nothing has been allocated for it."""
        info = self.records.get(f"{self.top}{name}")
        if info is None:
            raise PickleError(f"the record {name} is missing")
        if info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
            raise PickleError(
                f"the record {name} is compressed, {info.compress_size} bytes that would become "
                f"{info.file_size}; torch.save never compresses"
            )
        if info.header_offset + info.file_size > self.bytes:
            raise PickleError(
                f"the record {name} claims {info.file_size} bytes of a file of {self.bytes}"
            )
        return info


class OldFormat:
    """The row of pickles of torch before 1.6: magic number, version, system, content, keys."""

    byte_order: ByteOrder = "<"

    def __init__(self, path: Path) -> None:
        self.path = path
        self.bytes = path.stat().st_size
        with (
            path.open("rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as stream,
        ):
            if stream[:1] != b"\x80" or read_pickle(stream) != _MAGIC:
                raise PickleError("it does not begin as a file of torch.save does")
            _, _, self.content, keys = (read_pickle(stream) for _ in range(4))
            at = stream.tell()
        self._places = self._find(keys, _storages(self.content), at)

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
            length = storages[key].elements * _size_of(storages[key].dtype, f"storage {key}")
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


def _size_of(dtype: str, what: str) -> int:
    """Bytes of one element."""
    if dtype not in DTYPES.values():  # numpy would also understand "O", "f4,f4" and the like
        raise PickleError(f"its {what} is {dtype}, which is not read")
    return _SIZES.get(dtype) or np.dtype(dtype).itemsize


def _check(opened: TorchFormat, name: str, tensor: StoredTensor) -> tuple[int, int]:
    """First byte and length of a tensor in its storage, once they are known to be there."""
    storage, size = tensor.storage, _size_of(tensor.dtype, f"tensor {name!r}")
    there = opened.size(storage.key)
    if storage.elements * size != there:
        raise PickleError(
            f"{name} declares a storage of {storage.elements} elements, {storage.elements * size} "
            f"bytes, and {there} are there"
        )
    elements = math.prod(tensor.shape)
    if elements == 0:
        return 0, 0
    span = 1 + sum((n - 1) * s for n, s in zip(tensor.shape, tensor.strides, strict=True))
    if tensor.offset + span > storage.elements or elements > span:
        raise PickleError(
            f"{name} declares {elements} elements, {list(tensor.shape)}, as a view of "
            f"{storage.elements}"
        )
    return tensor.offset * size, span * size


def _values(opened: TorchFormat, name: str, tensor: StoredTensor) -> Array:
    begin, length = _check(opened, name, tensor)
    raw = opened.read(tensor.storage.key, begin, length)
    stored = "uint16" if tensor.dtype == "bfloat16" else tensor.dtype
    flat = np.frombuffer(raw, np.dtype(stored).newbyteorder(opened.byte_order))
    if math.prod(tensor.shape) == 0:
        return np.zeros(tensor.shape, numpy_dtype(tensor.dtype, name))
    lengths = zip(tensor.shape, tensor.strides, strict=True)
    steps = [stride * flat.itemsize if n > 1 else 0 for n, stride in lengths]
    view = np.lib.stride_tricks.as_strided(flat, tensor.shape, steps, writeable=False)
    native = np.array(view, dtype=stored, order="C")
    return widened(native) if tensor.dtype == "bfloat16" else native
