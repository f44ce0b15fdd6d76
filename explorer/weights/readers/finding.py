"""Which checkpoints are in a folder, and who reads them; only names are looked at."""

from __future__ import annotations

import contextlib
import dataclasses
import pickle
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from explorer.errors import CheckpointError, StackError
from explorer.inventory.names import link_out_of
from explorer.weights.checkpoints import Checkpoint, StateCheckpoint, snapshot, unreadable
from explorer.weights.readers.known import OURS, reader_named, theirs
from explorer.weights.readers.reader import Reader

ReaderFunction = Callable[[Path], Mapping[str, Any]]
"""Path → {name: tensor}."""

Asked = str | ReaderFunction | None
"""A reader's name, or a function that reads; None for whichever recognises the checkpoints."""

Found = list[tuple[Path, Reader]]
"""Files or folders that are one checkpoint each, with who reads them."""


def found_below(folder: Path, asked: Asked) -> tuple[Found, list[str]]:
    """The checkpoints in a folder, or the folder itself where it is one."""
    shown = (".metadata",)  # of which a reason is given, should there be nothing else
    children = [c for c in folder.iterdir() if not c.name.startswith(".") or c.name in shown]
    for known in () if callable(asked) else _in_question(asked):
        own = _first(known, folder)
        if own is not None:
            return [(folder, _staying(own, folder, folder))], []
        if _claimed(children, known):
            break
    found, notes = found_among(children, asked, f"The folder {folder}")
    return [(path, _staying(reader, path, folder)) for path, reader in found], notes


def pieces_below(folder: Path, asked: Asked) -> Found:
    """What may be one checkpoint each in a folder that cannot be opened as a whole.

    Where no reader claims anything in it, the folders in it are looked into: each may hold one.
    """
    try:
        return found_below(folder, asked)[0]
    except StackError:  # nothing is claimed
        pieces: Found = []
    inside = (one for one in folder.iterdir() if one.is_dir() and not one.name.startswith("."))
    for child in sorted(inside, key=natural):
        with contextlib.suppress(StackError):
            found, _ = found_below(child, asked)
            pieces += found if len(found) == 1 else []
    return pieces


def found_among(paths: Sequence[Path], asked: Asked, where: str) -> tuple[Found, list[str]]:
    """Checkpoints of one kind, in natural order, and sentences on what was left out.

    Raises
    ------
    StackError
        There is none.
    """
    paths = sorted(paths, key=natural)
    if callable(asked):
        reader = _function_reader(asked)
        found = [(path, reader) for path in paths if reader.claims(path)]
    else:
        claims = (_claimed(paths, known) for known in _in_question(asked))
        found = next(filter(None, claims), [])
    if not found:
        raise _nothing(paths, where)
    counting = [(path, reader) for path, reader in found if reader.when(path).known]
    found = counting or found  # beside epoch-3.pt, best.pt is a copy of something
    used = {path for path, _ in found}
    left = [p.name for p in paths if p not in used and any(r.claims(p) for r in OURS)]
    return found, [f"Left out, as no numbered checkpoints: {', '.join(left)}."] if left else []


def reader_of(path: Path, asked: Asked) -> Reader:
    """Who reads a file or folder that was named.

    Raises
    ------
    CheckpointError
        It does not exist, or no reader recognises it.
    """
    if not path.exists():
        raise CheckpointError(
            f"There is no file {path}.",
            "An existing checkpoint file is needed.",
            "Check the path; a folder, a pattern or a list of files will also do.",
        )
    if callable(asked):
        return _function_reader(asked)
    claims = (_first(known, path) for known in _in_question(None))
    reader = reader_named(asked) if asked else next(filter(None, claims), None)
    if reader is None:
        raise CheckpointError(
            f"{path} is not recognised as a checkpoint.",
            f"Readable: {_readable()}.",
            "Pass reader=, a name or a function from the path to {name: tensor}.",
        )
    return reader


def natural(path: Path) -> tuple[Any, ...]:
    """Sorting key in which step 9000 comes before step 10000."""
    parts = re.split(r"(\d+)", str(path))
    return tuple(int(part) if part.isdecimal() else part for part in parts)


def _staying(reader: Reader, path: Path, folder: Path) -> Reader:
    """The reader, unless a checkpoint is a link that leaves its folder: then one that refuses."""
    parts = [path, *path.iterdir()] if path.is_dir() else [path]
    links = [(part, link_out_of(folder, part)) for part in parts if part.is_symlink()]
    leaving = [(part, outside) for part, outside in links if outside and part != folder]
    if not leaving:
        return reader

    def refuse(*_: Any) -> Any:
        part, outside = leaving[0]
        raise CheckpointError(
            f"{part} is a link that leaves the folder {folder}, to {outside}.",
            "Files in the folder, and links among them, are accepted.",
            "If the link is yours, name the files: open_stack([Path(…), …]).",
        )

    return dataclasses.replace(reader, open=refuse, inside=refuse)


def _in_question(asked: str | None) -> Iterator[Sequence[Reader]]:
    """Readers to try: the one that is asked for, else ours, and only then those of others."""
    if asked:
        yield [reader_named(asked)]
    else:
        yield OURS
        yield theirs()


def _first(known: Sequence[Reader], path: Path) -> Reader | None:
    return next((reader for reader in known if reader.claims(path)), None)


def _claimed(paths: Sequence[Path], known: Sequence[Reader]) -> Found:
    """What the first reader claims that claims anything; plain readers share a folder."""
    for first in known:
        group = [r for r in known if r is first or (first.plain and r.plain)]
        pairs = [(path, _first(group, path)) for path in paths]
        found = [(path, reader) for path, reader in pairs if reader is not None]
        if found:
            return found
    return []


def _function_reader(function: ReaderFunction) -> Reader:
    """A reader of what a function of the caller reads, at once and as a whole."""

    def opened(path: Path, _: str | None) -> Checkpoint:
        try:
            return StateCheckpoint(snapshot(function(path), str(path)))
        except CheckpointError:
            raise
        except (OSError, EOFError, RuntimeError, ValueError, pickle.UnpicklingError) as error:
            raise unreadable(path, error) from error

    return Reader("function", "what a function reads", Path.is_file, opened)


def _has_metadata(path: Path) -> bool:
    return path.is_dir() and (path / ".metadata").is_file()


def _readable() -> str:
    return "; ".join(reader.reads for reader in OURS)


def _nothing(paths: Sequence[Path], where: str) -> StackError:
    distributed = [path for path in paths if path.name == ".metadata" or _has_metadata(path)]
    if distributed:
        return StackError(
            f"{where} holds a checkpoint of torch.distributed, whose .metadata is a pickle that "
            "could run code; it has not been read.",
            f"Readable: {_readable()}.",
            "If you trust it, make one file of it with torch.distributed.checkpoint.format_utils."
            "dcp_to_torch_save, and open that.",
        )
    shown = ", ".join(path.name for path in paths[:5]) or "nothing"
    rest = f" and {len(paths) - 5} more" if len(paths) > 5 else ""
    return StackError(
        f"{where} holds no checkpoint files. It holds {shown}{rest}.",
        f"Readable: {_readable()}.",
        "Check the path, or pass reader= for another format.",
    )
