"""Where checkpoints come from, and whether they fit each other and the model."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from explorer.errors import StackError
from explorer.weights.checkpoints import (
    SUFFIXES,
    ArraySpec,
    Checkpoint,
    StateCheckpoint,
    open_checkpoint,
    snapshot,
)


def collect_checkpoints(
    source: Any, reader: Callable[[Path], Mapping[str, Any]] | None
) -> tuple[list[Checkpoint], list[int], str]:
    """Checkpoints, their epochs and a name for the stack."""
    if isinstance(source, (str, Path)):
        path = Path(source)
        files = _files_below(path, reader is None) if path.is_dir() else [path]
        return *_from_files(files, reader), path.name
    if not isinstance(source, Iterable):
        raise StackError(
            f"The stack's source is a {type(source).__name__}.",
            "A name, a folder, files, or an iterable of state dicts will do.",
            "Call explorer.catalog() for the names.",
        )
    if isinstance(source, (list, tuple)):
        if source and all(isinstance(item, (str, Path)) for item in source):
            return *_from_files([Path(item) for item in source], reader), "files"
        _check_not_aliased(source)
    states = [StateCheckpoint(snapshot(s, f"state dict {k}")) for k, s in enumerate(source)]
    return list(states), list(range(len(states))), "states"


def _files_below(folder: Path, known_only: bool) -> list[Path]:
    files = [f for f in folder.iterdir() if f.is_file() and not f.name.startswith(".")]
    files = [f for f in files if f.suffix in SUFFIXES] if known_only else files
    if not files:
        raise StackError(
            f"The folder {folder} holds no checkpoint files.",
            f"Files that end in {', '.join(SUFFIXES)} are looked for.",
            "Check the path, or pass reader= for another format.",
        )
    return files


def _from_files(
    files: Sequence[Path], reader: Callable[[Path], Mapping[str, Any]] | None
) -> tuple[list[Checkpoint], list[int]]:
    """Open files in the order of the last number in their names; unnumbered ones as they come."""
    numbers = [re.findall(r"\d+", file.stem) for file in files]
    if all(numbers):
        order = sorted(range(len(files)), key=lambda k: int(numbers[k][-1]))
        epochs = [int(numbers[k][-1]) for k in order]
    else:
        order, epochs = list(range(len(files))), list(range(len(files)))
    return [open_checkpoint(files[k], reader) for k in order], epochs


def checkpoint_unit(source: Any, known_only: bool) -> str:
    """What the numbers of a source count: ``"step"`` where all its files say so, else ``"epoch"``.

    `known_only` leaves files out of a folder that are no checkpoints of a known format.

    Raises
    ------
    StackError
        Some files are named after epochs and some after steps, whose numbers cannot be compared.
    """
    if isinstance(source, (str, Path)):
        path = Path(source)
        files = _files_below(path, known_only) if path.is_dir() else [path]
    elif isinstance(source, (list, tuple)) and all(isinstance(s, (str, Path)) for s in source):
        files = [Path(item) for item in source]
    else:
        return "epoch"
    stems = [file.stem.lower() for file in files]
    of_steps = [stem for stem in stems if re.search(r"step\D?\d+$", stem)]
    of_epochs = [stem for stem in stems if re.search(r"epoch\D?\d+$", stem)]
    if of_steps and of_epochs:
        raise StackError(
            f"There are {of_steps[0]} and {of_epochs[0]} among the checkpoints.",
            "A stack counts either completed epochs or optimiser steps.",
            "Pass the files of one kind as a list.",
        )
    return "step" if of_steps and len(of_steps) == len(stems) else "epoch"


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


def common_specs(checkpoints: Sequence[Checkpoint]) -> dict[str, ArraySpec]:
    """Names, dtypes and shapes that all checkpoints have in common, or an error that says where."""
    if not checkpoints:
        raise StackError(
            "There are no checkpoints.",
            "A stack has at least one.",
            "Pass at least one file or state dict.",
        )
    first = checkpoints[0].specs()
    for position, checkpoint in enumerate(checkpoints[1:], start=1):
        other = checkpoint.specs()
        if other == first:  # at once where files share their header's content
            continue
        odd = sorted(set(first) ^ set(other)) or [n for n in first if first[n] != other[n]]
        if odd:
            raise StackError(
                f"Checkpoint {position} differs from the first in {_some(odd)}.",
                "All checkpoints of a stack have the same names, shapes and dtypes.",
                "Leave out the checkpoints of another network.",
            )
    return first


def check_model(specs: Mapping[str, ArraySpec], model: Any) -> list[str]:
    """Names in the model's order, once they are known to fit."""
    expected = {name: tuple(t.shape) for name, t in model.state_dict().items()}
    missing = [name for name in expected if name not in specs]
    extra = [name for name in specs if name not in expected]
    if missing or extra:
        raise StackError(
            f"The checkpoints lack {_some(missing)} and have {_some(extra)} beyond the model's.",
            "The names must be those of model.state_dict().",
            "Pass the network that was trained; strip prefixes such as 'module.' with reader=.",
        )
    wrong = [name for name in expected if specs[name].shape != expected[name]]
    if wrong:
        name = wrong[0]
        raise StackError(
            f"{name} has shape {specs[name].shape} in the checkpoints.",
            f"The model's has {expected[name]}.",
            "Build the model with the sizes it was trained with.",
        )
    return list(expected)


def check_epochs(epochs: list[int], count: int) -> list[int]:
    """Refuse epochs that are not one per checkpoint, rising."""
    rising = all(a < b for a, b in itertools.pairwise(epochs))
    if len(epochs) != count or not rising:
        raise StackError(
            f"The epochs of the {count} checkpoints are {epochs}.",
            "One epoch per checkpoint is needed, rising, without duplicates.",
            "Pass epochs=[…] in the order of the checkpoints.",
        )
    return epochs


def _some(names: Sequence[str], most: int = 5) -> str:
    shown = ", ".join(names[:most]) or "nothing"
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
