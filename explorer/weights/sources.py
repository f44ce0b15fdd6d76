"""Where checkpoints come from: folders, patterns, lists of files, and state dicts in memory."""

from __future__ import annotations

import glob
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from explorer.errors import CheckpointError, StackError
from explorer.weights.checkpoints import Checkpoint, StateCheckpoint, snapshot
from explorer.weights.numbering import (
    Choice,
    check_epochs,
    check_unit,
    kept_positions,
    number_in,
    numbered,
    place_in_words,
)
from explorer.weights.readers.finding import Asked, Found, found_among, found_below, reader_of
from explorer.weights.readers.reader import Reader
from explorer.weights.readers.when import When
from explorer.weights.wrapped import BrokenCheckpoint

MOST_NAMES = 6
"""Files that a note names in their order; of more, the first and the last."""


@dataclass(frozen=True)
class Wanted:
    """What the caller said about the checkpoints; see `explorer.open_stack`."""

    reader: Asked = None
    """Name of a reader, or a function."""
    key: str | None = None
    """Which state dict of a file that holds several."""
    unit: str | None = None
    """``"epoch"`` or ``"step"``."""
    epochs: Sequence[int] | None = None
    """Numbers of the checkpoints, instead of those in their names."""
    every: int = 1
    """Keep each so-manieth, and the last."""
    only: Choice | None = None
    """Keep the checkpoints with these numbers."""


@dataclass(frozen=True)
class Collected:
    """Checkpoints in their order; no tensor has been read."""

    checkpoints: list[Checkpoint]
    """Those that cannot be opened are `BrokenCheckpoint`."""
    numbers: list[int]
    """How far training had come at each."""
    unit: str
    """What the numbers count."""
    name: str
    """For the stack."""
    labels: list[str]
    """How to call each in an error."""
    reader: str = ""
    """Who reads them."""
    notes: list[str] = field(default_factory=list)
    """What was left out, and how this reader counts, in sentences."""


def collect_checkpoints(source: Any, wanted: Wanted) -> Collected:
    """Find the checkpoints of a source on this machine, of whatever kind it is.

    Raises
    ------
    StackError
        It holds none, or their numbers do not rise, or do not count the same.
    CheckpointError
        A file that was named does not exist, or is no checkpoint.
    """
    check_unit(wanted.unit)
    if isinstance(source, (str, Path)):
        path = Path(source)
        if is_pattern(source):
            paths = [Path(name) for name in glob.glob(str(source), recursive=True)]
            found, notes = found_among(paths, wanted.reader, f"The pattern {source}")
        elif path.is_dir():
            found, notes = found_below(path, wanted.reader)
        else:
            found, notes = [(path, reader_of(path, wanted.reader))], []
        return _from_files(found, wanted, _name_of(path), notes)
    if not isinstance(source, Iterable):
        raise StackError(
            f"The stack's source is a {type(source).__name__}.",
            "A name, a folder, a pattern, files, or an iterable of state dicts will do.",
            "Call explorer.catalog() for the names.",
        )
    if isinstance(source, Mapping):
        one = any(hasattr(value, "shape") for value in source.values())
        raise StackError(
            "The stack's source is one state dict." if one else "The stack's source is a mapping.",
            "State dicts in the order of training are needed, the trained network's last.",
            "Pass [state_dict], or those of all checkpoints."
            if one
            else "Pass list(states.values()), and the numbers as epochs=list(states).",
        )
    if isinstance(source, (list, tuple)):
        if source and all(isinstance(item, (str, Path)) for item in source):
            listed = [(Path(item), reader_of(Path(item), wanted.reader)) for item in source]
            return _from_files(listed, wanted, "files", [], listed=True)
        _check_not_aliased(source)
    return _from_states(source, wanted)


def is_pattern(source: str | Path) -> bool:
    """Say whether a text is a pattern such as ``runs/*/model.safetensors``."""
    return glob.has_magic(str(source)) and not Path(source).exists()


def _name_of(path: Path) -> str:
    """What a stack is called by its path: of a pattern, the folder that all of it lies in."""
    fixed = list(itertools.takewhile(lambda part: not glob.has_magic(part), path.parts))
    return path.name if path.exists() or len(fixed) == len(path.parts) else Path(*fixed).name


def _from_states(source: Iterable[Any], wanted: Wanted) -> Collected:
    """Copies of state dicts, as they come."""
    states = [StateCheckpoint(snapshot(s, f"state dict {k}")) for k, s in enumerate(source)]
    labels = [f"Checkpoint {k}" for k in range(len(states))]
    numbers = list(range(len(states))) if wanted.epochs is None else wanted.epochs
    numbers = check_epochs(numbers, labels)
    kept = kept_positions(numbers, wanted.every, wanted.only)
    return Collected(
        [states[k] for k in kept],
        [numbers[k] for k in kept],
        wanted.unit or "epoch",
        "states",
        [labels[k] for k in kept],
    )


def _from_files(
    found: Found, wanted: Wanted, name: str, notes: list[str], listed: bool = False
) -> Collected:
    """Number and order files, and open those that are kept; a list has an order of its own."""
    unsaid = not listed and not any(reader.when(path).known for path, reader in found)
    if unsaid:
        found = _in_words_order(found)
    found, numbers, unit, more = _counted(found, wanted, unsaid)
    kept = kept_positions(numbers, wanted.every, wanted.only)
    found = [found[k] for k in kept]
    remarks = dict.fromkeys(reader.remark for _, reader in found if reader.remark)
    return Collected(
        [opened(path, reader, wanted.key) for path, reader in found],
        [numbers[k] for k in kept],
        unit,
        name,
        [label_of(path) for path, _ in found],
        ", ".join(dict.fromkeys(reader.name for _, reader in found)),
        [*remarks, *notes, *more],
    )


def _counted(found: Found, wanted: Wanted, unsaid: bool) -> tuple[Found, list[int], str, list[str]]:
    """Files in the order of their numbers, the numbers, what they count, and notes.

    The notes say what was left out, and the order where neither the caller nor a number gives it.
    """
    if wanted.epochs is not None:
        numbers = check_epochs(wanted.epochs, [label_of(path) for path, _ in found])
        notes = _order_notes(found, numbers, wanted) if unsaid else []
        return found, numbers, wanted.unit or "epoch", notes
    marks, notes = _marks(found, wanted.unit)
    found = [found[k] for k in marks]
    if not any(mark.known for mark in marks.values()):
        numbers = list(range(len(found)))
        return found, numbers, "epoch", [*notes, *_order_notes(found, numbers, wanted)]
    labels = [label_of(path) for path, _ in found]
    numbers, unit = numbered(list(marks.values()), labels, wanted.unit)
    order = sorted(range(len(found)), key=lambda k: numbers[k])
    numbers = check_epochs([numbers[k] for k in order], [labels[k] for k in order])
    return [found[k] for k in order], numbers, unit, notes


def _in_words_order(found: Found) -> Found:
    """Files as they come, but for those that are called the beginning or the end of training."""
    places = [place_in_words(name) for name in _telling_names(found)]
    return [found[k] for k in sorted(range(len(found)), key=places.__getitem__)]


def _order_notes(found: Found, numbers: list[int], wanted: Wanted) -> list[str]:
    """Say in which order files without numbers were taken, and which is the trained network."""
    if len(found) < 2:
        return []
    names = _telling_names(found)
    trained = names[kept_positions(numbers, wanted.every, wanted.only)[-1]]
    shown = names if len(names) <= MOST_NAMES else [*names[:3], "…", *names[-2:]]
    return [
        f"Without numbers in their names, the checkpoints were taken in the order "
        f"{', '.join(shown)}, and {trained} for the trained network. Where that is wrong, pass the "
        "files as a list in the order of training, with epochs=[…]."
    ]


def _telling_names(found: Found) -> list[str]:
    """The last parts of paths, as many as tell them apart: in one folder the files' names."""
    names: list[str] = []
    for most in range(1, 1 + max((len(path.parts) for path, _ in found), default=0)):
        names = ["/".join(path.parts[-most:]) for path, _ in found]
        if len(set(names)) == len(names):
            break
    return names


def _marks(found: Found, unit: str | None) -> tuple[dict[int, When], list[str]]:
    """Position → how far training had come, from the name, or the file where the name is silent.

    A file that is silent because it cannot be read has no place among the others: it is left out,
    and said, unless it is alone.
    """
    marks: dict[int, When] = {}
    notes = []
    for k, (path, reader) in enumerate(found):
        mark = reader.when(path)
        silent = not mark.known if unit is None else number_in(mark, unit) is None
        if silent:
            try:
                inside = reader.inside(path)
            except CheckpointError as error:
                if len(found) > 1:
                    notes.append(f"Left out, since it has no number: {error.came}")
                    continue
                raise
            mark = inside if inside.known else mark
        marks[k] = mark
    return marks, notes


def opened(path: Path, reader: Reader, key: str | None = None) -> Checkpoint:
    """Open one checkpoint; one that cannot be is a `BrokenCheckpoint`."""
    try:
        return reader.open(path, key)
    except CheckpointError as error:
        return BrokenCheckpoint((error.came, error.accepted, error.advice))


def label_of(path: Path) -> str:
    """How to call a file among the others: with its folder, where that tells it from them."""
    plain = path.stem in ("model", "pytorch_model") or path.suffix == ".json"
    return f"{path.parent.name}/{path.name}" if plain else path.name


def _check_not_aliased(states: Sequence[Any]) -> None:
    """Refuse a list of state dicts that are views of one network's live parameters."""
    pointers = [
        {name: t.data_ptr() for name, t in state.items() if hasattr(t, "data_ptr")}
        for state in states
        if isinstance(state, Mapping)
    ]
    for k, (first, second) in enumerate(itertools.pairwise(pointers)):
        if first and first == second:
            raise StackError(
                f"State dicts {k} and {k + 1} share the memory of every tensor.",
                "Each checkpoint needs tensors of its own.",
                "state_dict() shows live parameters: keep copy.deepcopy(net.state_dict()).",
            )
