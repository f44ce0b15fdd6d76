"""What a folder of checkpoints tells before a tensor is read."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from safetensors import SafetensorError, safe_open

from explorer.doctor.findings import Finding, some
from explorer.doctor.patient import Patient
from explorer.inventory.store import is_checkpoint_file
from explorer.weights.numbering import number_in
from explorer.weights.readers.known import BESIDE
from explorer.weights.readers.parts import read_json
from explorer.weights.readers.when import count_in, when_of_folder, when_of_name

_UNFINISHED = re.compile(
    r"\.(tmp|temp|part|partial|incomplete|crdownload)$"
    r"|^tmp-checkpoint-\d+$|^\..*\.\d+-[0-9a-f]{8}$"
)
"""Names of what somebody had not finished writing; the last form is our own."""

_WEIGHTS = (".safetensors", ".pt", ".pth", ".bin", ".ckpt", ".distcp")
"""Ends of the names of files that may hold weights, whether they can be read here or not."""

_INDEX = ".index.json"
"""End of the name of the file that lists the shards of a checkpoint."""


def folder_findings(patient: Patient) -> Iterator[Finding]:
    """Look over the folder of a stack, where it has one.

    Its own files and the numbered folders in it are looked at; nothing deeper.
    """
    if patient.folder is None or not patient.folder.is_dir():
        return
    folder = patient.folder
    known = {item.file.partition("/")[0] for item in patient.items}
    for sub in _numbered(folder):
        if not _weights(sub) and sub.name not in known:  # else it is a checkpoint's fault
            yield Finding(
                "error",
                "checkpoints",
                f"The folder {sub.name} holds no weights.",
                "Saving it was interrupted, or a download left them out: fetch it again.",
                _numbers(sub),
            )
    for place in (folder, *_numbered(folder)):
        yield from _shards(place)
        for path in sorted(place.iterdir()):
            if _UNFINISHED.search(path.name):
                yield Finding(
                    "warning",
                    "checkpoints",
                    f"{path.relative_to(folder)} was not written to its end.",
                    "Remove it, if no process is writing there, and look for what it was to be.",
                )
    yield from _unnamed(patient, folder)
    yield from _labels(patient, folder)


def _shards(folder: Path) -> Iterator[Finding]:
    """Files that an index of shards names and that are not there."""
    for index in sorted(folder.glob(f"*{_INDEX}")):
        try:
            files = set(read_json(index)["weight_map"].values())
            names = sorted(Path(file).name for file in files)
            missing = [name for name in names if not (folder / name).is_file()]
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            yield Finding(
                "error",
                "checkpoints",
                f"{folder.name}/{index.name} is no index of shards: {error}.",
                "Fetch it again.",
                _numbers(folder),
            )
            continue
        if missing:
            yield Finding(
                "error",
                "checkpoints",
                f"Incomplete: of {len(names)} shards {some(missing)} is not in {folder.name}.",
                "Fetch the missing files.",
                _numbers(folder),
            )


def _unnamed(patient: Patient, folder: Path) -> Iterator[Finding]:
    """Checkpoint files beside those that a stack.json names."""
    known = {item.file for item in patient.items if item.record is not None}
    names = sorted(path.name for path in folder.iterdir() if is_checkpoint_file(path.name))
    beyond = [name for name in names if name not in known]
    if known and beyond:
        yield Finding(
            "note",
            "checkpoints",
            f"{some(beyond)} is in the folder, but no part of the stack.",
            "Remove it, or train or save the stack anew.",
        )


def _labels(patient: Patient, folder: Path) -> Iterator[Finding]:
    """Safetensors files whose metadata names another number than the stack does."""
    declared = {item.file: item.number for item in patient.items if item.record is not None}
    for path in sorted(folder.glob("*.safetensors")):
        number = declared.get(path.name, number_in(when_of_name(path), patient.unit))
        inside = _label(path, patient.unit)
        if inside is not None and number is not None and inside != number:
            yield Finding(
                "error",
                "numbers",
                f"{path.name} says in its metadata that it is {patient.unit} {inside}.",
                "Files have changed places or names: correct them.",
                (number,),
            )


def _label(path: Path, unit: str) -> int | None:
    try:
        with safe_open(path, framework="numpy") as file:
            text = (file.metadata() or {}).get(unit, "")
    except (SafetensorError, OSError):
        return None  # reported as unreadable
    return count_in(text)


def _numbered(folder: Path) -> list[Path]:
    """Folders that are named as checkpoints are: checkpoint-500, step_9000, epoch=3."""
    whole = (one for one in folder.iterdir() if one.is_dir() and not one.name.startswith("tmp-"))
    return sorted(one for one in whole if when_of_folder(one.name, in_words=True).known)


def _weights(folder: Path) -> list[Path]:
    """Files of a folder that may hold weights."""
    files = (one for one in folder.iterdir() if one.is_file() and not one.name.startswith("."))
    return sorted(f for f in files if f.suffix in _WEIGHTS and not BESIDE.match(f.name))


def _numbers(folder: Path) -> tuple[int, ...]:
    mark = when_of_folder(folder.name)
    return tuple(n for n in (mark.step, mark.epoch, mark.number) if n is not None)[:1]
