"""Safetensors files: a header is parsed once, a tensor or a part of it read from its place.

The library's own `safe_open` parses the whole header again for every tensor, and what it maps into
memory counts as this process's. Here a file is opened, read and closed again, so that nothing
stays open: a reference to a file is its path, in any thread and in any process.

The form: 8 bytes with the header's length, little-endian; the header in JSON, name → dtype, shape
and where its bytes lie; then the bytes of all tensors, without gaps.
https://huggingface.co/docs/safetensors
"""

from __future__ import annotations

import functools
import itertools
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from explorer.errors import CheckpointError
from explorer.weights.reused import empty

BITS: Mapping[str, int] = {
    **{"F64": 64, "I64": 64, "U64": 64, "F32": 32, "I32": 32, "U32": 32},
    **{"F16": 16, "BF16": 16, "I16": 16, "U16": 16},
    **{"I8": 8, "U8": 8, "BOOL": 8, "F8_E4M3": 8, "F8_E5M2": 8},
}
"""safetensors' names of dtypes → bits of one element."""

LONGEST_HEADER = 25_000_000
"""Bytes; the hub's own limit, of 100,000 tensors or more. Parsing takes many times its memory."""

REMEMBERED = 16_384
"""Files whose header is kept; those of one network share nearly all of it."""

Converted = Callable[[NDArray[Any]], NDArray[Any]]
"""A function from values as they lie in a file to those that are wanted."""

_NOTES = '{"__metadata__":{'
"""How a header begins that has notes, as the library writes it; any other form is parsed whole."""


@dataclass(frozen=True)
class Entry:
    """One tensor of a file."""

    dtype: str
    """As safetensors names it, for example ``"F32"``."""
    shape: tuple[int, ...]
    """Length of each dimension."""
    begin: int
    """Bytes from the end of the header to its first."""
    end: int
    """Bytes from the end of the header to behind its last."""


@dataclass(frozen=True, eq=False)
class Layout:
    """Which tensors lie where; one object for all files that agree in it."""

    entries: Mapping[str, Entry]
    """Name → tensor, in the order of the header."""
    bytes: int
    """Size of all tensors."""


@dataclass(frozen=True)
class Header:
    """What stands at the beginning of one file."""

    layout: Layout
    """Its tensors."""
    start: int
    """Bytes before the first tensor."""


def read_header(path: Path) -> Header:
    """Header of a file, remembered until the file changes.

    Raises
    ------
    CheckpointError
        The file cannot be opened, is too short or too long for its header, or the header is not
        as it should be.
    """
    try:
        status = path.stat()
        return _header(path, status.st_size, status.st_mtime_ns, status.st_ino)
    except (OSError, ValueError, RecursionError) as error:
        raise _unreadable(path, error) from error


def find_entry(path: Path, name: str) -> tuple[Entry, int]:
    """A tensor of a file, and the byte of the file at which it begins.

    Raises
    ------
    CheckpointError
        As `read_header`, or the file has no such tensor.
    """
    header = read_header(path)
    entry = header.layout.entries.get(name)
    if entry is None:
        raise _unreadable(path, ValueError(f"it has no tensor {name!r}"))
    return entry, header.start + entry.begin


def read_values(path: Path, name: str, dtype: np.dtype[Any]) -> NDArray[Any]:
    """All values of one tensor, as a new array.

    Raises
    ------
    CheckpointError
        As `find_entry`.
    """
    entry, begin = find_entry(path, name)
    return _read(path, begin, entry.shape, dtype)


def read_part(path: Path, name: str, dtype: np.dtype[Any], key: Sequence[Any]) -> NDArray[Any]:
    """Values of one tensor where each axis is indexed by itself.

    What is read is the shortest run of bytes that holds them: of a matrix, the rows from the
    first to the last that is asked for.

    Parameters
    ----------
    path : Path
        The file.
    name : str
        The tensor.
    dtype : numpy.dtype
        As the header says, in numpy's words.
    key : sequence of int, slice or (position,) array
        One for each axis.

    Raises
    ------
    CheckpointError
        As `find_entry`.
    """
    entry, begin = find_entry(path, name)
    first, shape, within = _run(entry.shape, key)
    return outer(_read(path, begin + first * dtype.itemsize, shape, dtype), within)


class OpenTensor:
    """One tensor of an open file, whose values are taken one piece after the other."""

    def __init__(
        self, path: Path, offset: int, dtype: np.dtype[Any], convert: Converted | None = None
    ) -> None:
        """Open a file at the byte where the first value lies that will be taken.

        Parameters
        ----------
        path : Path
            The file.
        offset : int
            Bytes before that value.
        dtype : numpy.dtype
            Of the values in the file.
        convert : function, optional
            From values as they lie there to those that are wanted.

        Raises
        ------
        CheckpointError
            It cannot be opened.
        """
        self.dtype, self.convert = dtype, convert
        self._path = path
        try:
            self._stream = path.open("rb", buffering=0)
        except OSError as error:
            raise _unreadable(path, error) from error
        self._stream.seek(offset)

    def take(self, count: int, memory: NDArray[np.uint8]) -> NDArray[Any]:
        """Read the next values into memory of the caller's, from its beginning on.

        Raises
        ------
        CheckpointError
            The file cannot be read, or ends before that.
        """
        raw = memory[: count * self.dtype.itemsize]
        _fill(self._path, self._stream, raw.data)
        values: NDArray[Any] = raw.view(self.dtype)
        return self.convert(values) if self.convert else values

    def close(self) -> None:
        """Close the file."""
        self._stream.close()


def outer(array: NDArray[Any], key: Sequence[Any]) -> NDArray[Any]:
    """Index each axis by itself, the last first so that earlier axes keep their places."""
    for axis in reversed(range(len(key))):
        array = array[(slice(None),) * axis + (key[axis],)]
    return array


def _run(
    shape: tuple[int, ...], key: Sequence[Any]
) -> tuple[int, tuple[int, ...], tuple[Any, ...]]:
    """First element and shape of the shortest run that holds what is asked for; the key in it."""
    first, axis, leading = 0, 0, []
    while axis < len(shape):
        low, high, within = bounds(shape[axis], key[axis])
        first += low * math.prod(shape[axis + 1 :])
        leading.append((high - low, within))
        axis += 1
        if high - low != 1:  # from here on the run is more than one piece, and takes all below
            break
    lengths = (*(length for length, _ in leading), *shape[axis:])
    return first, lengths, (*(within for _, within in leading), *key[axis:])


def bounds(length: int, key: Any) -> tuple[int, int, Any]:
    """First position that a key takes, the one behind the last, and the key counted from there."""
    if isinstance(key, slice) and key.step in (None, 1):
        start, stop, _ = key.indices(length)
        return start, max(start, stop), slice(None)
    chosen = np.arange(length)[key]
    if np.ndim(chosen) == 0:
        return int(chosen), int(chosen) + 1, 0
    low, high = (int(chosen.min()), int(chosen.max()) + 1) if chosen.size else (0, 0)
    return low, high, chosen - low


def _read(path: Path, offset: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    """An array of the bytes at a place of a file."""
    values = empty(shape, dtype)
    try:
        with path.open("rb", buffering=0) as stream:
            stream.seek(offset)
            _fill(path, stream, values.reshape(-1).view(np.uint8).data)
    except CheckpointError:
        raise
    except OSError as error:
        raise _unreadable(path, error) from error
    return values


def _fill(path: Path, stream: FileIO, rest: memoryview) -> None:
    """Read as many next bytes of a file as there is memory for."""
    try:
        while len(rest) and (count := stream.readinto(rest)):  # it may read less than is asked for
            rest = rest[count:]
    except OSError as error:
        raise _unreadable(path, error) from error
    if len(rest):
        raise _unreadable(path, EOFError(f"it ends {len(rest)} bytes too early"))


@functools.lru_cache(maxsize=REMEMBERED)
def _header(path: Path, size: int, mtime_ns: int, inode: int) -> Header:
    """Read a header; all but the path only makes the remembered one expire."""
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if size < 8 or length > min(LONGEST_HEADER, size - 8):
            raise ValueError(f"of its {size} bytes the header claims {length}")
        raw = stream.read(length)
    text = raw.decode("utf-8").rstrip(" ")  # as many as round its length up
    layout = _layout(_without_notes(text))
    if size != 8 + length + layout.bytes:
        raise ValueError(f"{size} bytes, where header and tensors take {8 + length + layout.bytes}")
    return Header(layout, 8 + length)


def _without_notes(text: str) -> str:
    """A header without its notes, which are all that differs between files of one network."""
    if not text.startswith(_NOTES):
        return text
    notes, end = _DECODER.raw_decode(text, len(_NOTES) - 1)
    _check_notes(notes)
    return "{" + text[end + 1 :] if text[end : end + 1] == "," else text


@functools.lru_cache(maxsize=64)
def _layout(text: str) -> Layout:
    """Parse and check the tensors of a header: nothing overlaps, and nothing is left between."""
    raw = json.loads(text, object_pairs_hook=_no_duplicates, parse_constant=_no_number)
    if not isinstance(raw, dict):
        raise ValueError("the header is no mapping from names to tensors")
    _check_notes(raw.pop("__metadata__", None))
    entries = {name: _entry(name, item) for name, item in raw.items()}
    end = 0
    for name, entry in sorted(entries.items(), key=lambda pair: (pair[1].begin, pair[1].end)):
        if entry.begin != end:
            raise ValueError(f"the bytes of {name!r} begin at {entry.begin} and not at {end}")
        end = entry.end
    return Layout(MappingProxyType(entries), end)


def _check_notes(notes: Any) -> None:
    """Refuse notes that the library refuses: they are texts by name, or nothing."""
    if notes is None:
        return
    if not isinstance(notes, dict) or not all(isinstance(text, str) for text in notes.values()):
        raise ValueError("the notes in its header are no mapping of texts")
    "".join(itertools.chain.from_iterable(notes.items())).encode()  # no half of a character


def _no_number(name: str) -> Any:
    raise ValueError(f"{name} stands in the header, which JSON does not have")


_DECODER = json.JSONDecoder(parse_constant=_no_number)


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    "".join(found).encode()  # no half of a character
    if len(found) < len(pairs):
        raise ValueError("a name stands twice in the header")
    return found


def _entry(name: str, item: Any) -> Entry:
    """One tensor of a header, if its size is what its dtype and shape need."""
    try:
        dtype, shape, (begin, end) = item["dtype"], tuple(item["shape"]), item["data_offsets"]
        if not isinstance(item["shape"], list):
            raise ValueError("its shape is no list")
        numbers = (*shape, begin, end)
        bits = BITS[dtype]
    except (TypeError, KeyError, ValueError) as error:
        raise ValueError(f"the header's entry {name!r} is not as it should be: {error}") from error
    if any(type(number) is not int or number < 0 for number in numbers):
        raise ValueError(f"the header's entry {name!r} holds {item['shape']} and {[begin, end]}")
    if (end - begin) * 8 != math.prod(shape) * bits:
        raise ValueError(f"{name!r}, {dtype} {list(shape)}, does not fit {end - begin} bytes")
    return Entry(dtype, shape, begin, end)


def _unreadable(path: Path, error: Exception) -> CheckpointError:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return CheckpointError(
        f"{path} cannot be read as a checkpoint: {reason}",
        "A whole safetensors file is expected.",
        "Fetch or save it again; other checkpoints of the stack stay usable.",
    )
