"""Checkpoints that make no stack together, found by the same readers and opened one by one."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from explorer.errors import CheckpointError
from explorer.weights.checkpoints import Checkpoint, StateCheckpoint, snapshot
from explorer.weights.numbering import number_in
from explorer.weights.readers.finding import ReaderFunction, pieces_below, reader_of
from explorer.weights.readers.reader import Reader
from explorer.weights.readers.when import When, when_of_name
from explorer.weights.sources import Collected, label_of, opened
from explorer.weights.wrapped import BrokenCheckpoint

Piece = tuple[Path, Reader | BrokenCheckpoint]
"""A file or folder with who reads it, or with why nobody does."""


def pieces_of(source: Any, reader: ReaderFunction | None) -> Collected:
    """Files or state dicts that make no stack together, numbered as far as they say anything."""
    path = Path(source) if isinstance(source, (str, Path)) else None
    paths = isinstance(source, list) and all(isinstance(one, (str, Path)) for one in source)
    pieces: list[Piece] = []
    if path is not None and path.is_dir():
        pieces = [*pieces_below(path, reader)]
    elif path is not None:
        pieces = [_claimed(path, reader)] if path.is_file() else []
    elif paths:
        pieces = [_claimed(Path(one), reader) for one in source]
    else:
        states = source if isinstance(source, list) else []
        copies = [_state(at, state) for at, state in enumerate(states)]
        labels = [f"state dict {at}" for at in range(len(states))]
        return Collected(copies, list(range(len(states))), "epoch", "", labels)
    marks = [_mark(one, known) for one, known in pieces]
    unit = "step" if all(mark.step is not None for mark in marks) else "epoch"
    return Collected(
        [
            known if isinstance(known, BrokenCheckpoint) else opened(one, known)
            for one, known in pieces
        ],
        [_number(mark, unit, at) for at, mark in enumerate(marks)],
        unit,
        "",
        [label_of(one) for one, _ in pieces],
    )


def _claimed(path: Path, reader: ReaderFunction | None) -> Piece:
    """A file or folder with who reads it, or with why nobody does."""
    try:
        return path, reader_of(path, reader)
    except CheckpointError as error:
        return path, BrokenCheckpoint((error.came, error.accepted, error.advice))


def _state(at: int, state: Any) -> Checkpoint:
    try:
        return StateCheckpoint(snapshot(state, f"state dict {at}"))
    except CheckpointError as error:
        return BrokenCheckpoint((error.came, error.accepted, error.advice))


def _mark(path: Path, known: Reader | BrokenCheckpoint) -> When:
    """How far training had come, from the name or the file, as far as it is known."""
    if isinstance(known, BrokenCheckpoint):
        return when_of_name(path)
    mark = known.when(path)
    if not mark.known:
        with contextlib.suppress(CheckpointError):  # what cannot be read is a finding of its own
            mark = known.inside(path)
    return mark


def _number(mark: When, unit: str, at: int) -> int:
    """The number in a unit, else any that there is, else the place in the row."""
    numbers = (number_in(mark, unit), mark.step, mark.epoch, mark.number, at)
    return next(number for number in numbers if number is not None)
