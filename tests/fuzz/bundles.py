"""Several files as one input: a folder of checkpoints, written as parts after their names."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

MARK = b"\n=== "
MOST_FILES = 12
LONGEST_NAME = 100

Files = list[tuple[bytes, bytes]]
"""Names, with forward slashes, and contents."""


def packed(files: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Files as one input."""
    return b"".join(MARK + name + b"\n" + content for name, content in files)


def unpacked(data: bytes) -> Files:
    """The files of an input; what stands before the first name is dropped."""
    parts = [part.partition(b"\n") for part in data.split(MARK)[1:]]
    return [(name, content) for name, _, content in parts[:MOST_FILES]]


def of_folder(folder: Path) -> bytes:
    """All files below a folder as one input."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return packed(
        (os.fsencode(path.relative_to(folder).as_posix()), path.read_bytes()) for path in paths
    )


def write(data: bytes, folder: Path) -> None:
    """Write the files of an input into a folder; names that no folder can hold are left out."""
    for name, content in unpacked(data):
        parts = [part for part in name.replace(b"\0", b"").split(b"/") if part not in (b"", b".")]
        if not parts or b".." in parts or len(parts) > 4 or len(name) > LONGEST_NAME:
            continue
        path = folder.joinpath(*map(os.fsdecode, parts))
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        except OSError:  # a name that is a file and a folder
            continue
