"""The sha256 of a safetensors file, taken along while its tensors are read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

CHUNK = 2**20
"""Bytes that are held at a time."""


class RunningHash:
    """The hash of a file whose tensors are read one by one, so that it is read only once.

    A safetensors file is a header and then its tensors without a gap: the hash of the file is
    that of the header, carried on tensor by tensor in the order in which they lie.

    Parameters
    ----------
    path : Path
        A safetensors file whose header has been found to be sound.
    order : sequence of str
        In which tensors are going to be read. Where the file has them in another order, it is
        hashed at once, and so read twice.
    """

    def __init__(self, path: Path, order: Sequence[str]) -> None:
        self._path = path
        self._digest = hashlib.sha256()
        self._spans: dict[str, tuple[int, int]] = {}
        start, spans = tensor_spans(path)
        wanted = [name for name in order if name in spans]
        self._take(0, start)
        if wanted == list(spans):
            self._spans = spans
        else:
            self._take(start, path.stat().st_size)

    def take(self, name: str) -> None:
        """Carry the hash on over the bytes of the next tensor."""
        if name in self._spans:
            self._take(*self._spans[name])

    def hexdigest(self) -> str:
        """Hash of the whole file, once all its tensors have been taken."""
        return self._digest.hexdigest()

    def _take(self, start: int, stop: int) -> None:
        with self._path.open("rb") as stream:
            for chunk in _chunks(stream, start, stop):
                self._digest.update(chunk)


def tensor_spans(path: Path) -> tuple[int, dict[str, tuple[int, int]]]:
    """Where the tensors of a safetensors file begin, and from which byte to which each lies.

    The names are in the order of the bytes.
    """
    header, start = _header(path)
    places = {name: entry["data_offsets"] for name, entry in header.items()}
    in_order = sorted(places.items(), key=lambda item: tuple(item[1]))
    return start, {name: (start + low, start + high) for name, (low, high) in in_order}


def _header(path: Path) -> tuple[dict[str, dict[str, list[int]]], int]:
    """What a safetensors file says of its tensors, and where that ends."""
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        header = json.loads(stream.read(length))
    header.pop("__metadata__", None)
    return header, 8 + length


def _chunks(stream: BinaryIO, start: int, stop: int) -> Iterator[bytes]:
    stream.seek(start)
    while start < stop and (chunk := stream.read(min(CHUNK, stop - start))):
        start += len(chunk)
        yield chunk
