"""The folder of one training run: checkpoints, their stack.json, and where training stands."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from explorer.errors import CheckpointError, StackError
from explorer.inventory.entries import StackEntry
from explorer.inventory.locks import STALE_AGE, locked
from explorer.inventory.manifest import load_manifest, parse_manifest
from explorer.inventory.placing import placed
from explorer.inventory.store import (
    STACK_FILE,
    checkpoint_file,
    is_checkpoint_file,
    record_of,
)
from explorer.weights.checkpoints import (
    NUMPY_DTYPES,
    Array,
    ArraySpec,
    SafetensorsCheckpoint,
    write_checkpoint,
    write_tensors,
)

STATE_FILE = ".training-state.safetensors"
"""What is needed to go on; hidden, so that it is not taken for a checkpoint."""
LOG_FILE = "log.csv"
LOCK_FILE = ".training.lock"


def seed_folder(folder: Path, seed: int) -> Path:
    """Where one of several runs lies that differ in their seed only."""
    return folder / f"seed-{seed}"


def training_lock(folder: Path) -> AbstractContextManager[None]:
    """Keep other processes from training here; one that was killed is waited for, not for ever."""
    return locked(folder / LOCK_FILE, wait=2 * STALE_AGE)


def save_checkpoint(folder: Path, number: int, arrays: Mapping[str, Array], unit: str) -> None:
    """Write one checkpoint of the stack, whole or not at all."""
    write_checkpoint(folder / checkpoint_file(number, unit), arrays, number, unit)


def save_copied(folder: Path, number: int, arrays: Mapping[str, Array], unit: str) -> None:
    """Write one checkpoint exactly as it is, single numbers as single numbers."""
    laid_out = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    write_tensors(folder / checkpoint_file(number, unit), laid_out, {unit: str(number)})


def save_state(folder: Path, arrays: Mapping[str, Array], notes: Mapping[str, Any]) -> None:
    """Write where training stands: tensors, and notes that JSON can hold."""
    text = json.dumps(dict(notes))
    write_tensors(folder / STATE_FILE, _contiguous(arrays), {"notes": text})


def load_state(folder: Path) -> tuple[dict[str, Array], dict[str, Any]] | None:
    """Read where training stands, or None if nothing was begun here.

    Raises
    ------
    CheckpointError
        The file is there but damaged.
    """
    path = folder / STATE_FILE
    if not path.exists():
        return None
    try:
        path.open("rb").close()  # the library says of a file it may not open that there is none
        with safe_open(path, framework="numpy") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no dict
            return arrays, json.loads(file.metadata()["notes"])
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, AttributeError) as error:
        # the last: a dtype that numpy does not have
        raise CheckpointError(
            f"{path} cannot be read: {error}",
            "The state that a training run leaves behind is expected.",
            "Correct its permissions; what was trained so far is kept."
            if isinstance(error, PermissionError)
            else "Train anew with resume=False (on the command line: --restart).",
        ) from error


def save_log(folder: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write the training log, one row per epoch."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    with placed(folder / LOG_FILE) as temporary:
        temporary.write_text(text.getvalue(), encoding="utf-8")


def clear(folder: Path) -> None:
    """Remove what an earlier run left in a folder, and nothing else."""
    if not folder.is_dir():
        return
    for path in folder.iterdir():
        if path.name in (STACK_FILE, STATE_FILE, LOG_FILE) or is_checkpoint_file(path.name):
            path.unlink()


def finished(folder: Path) -> StackEntry | None:
    """Return the stack that a finished run left in this folder, or None."""
    path = folder / STACK_FILE
    return load_manifest(path).first if path.exists() else None


def about_of(entry: StackEntry) -> dict[str, Any]:
    """What `finish` was told about a stack, and under ``keep`` the numbers of its checkpoints."""
    plain = ("name", "title", "dataset", "recipe", "seed", "licence", "citation")
    return {
        **{key: getattr(entry, key) for key in plain},
        "family": {"name": entry.family, "sizes": dict(entry.sizes)},
        **({"unit": entry.unit} if entry.unit != "epoch" else {}),
        "keep": [checkpoint.epoch for checkpoint in entry.checkpoints],
    }


def finish(
    folder: Path,
    about: Mapping[str, Any],
    numbers: Sequence[int],
    layers: Mapping[str, Sequence[str]],
    buffers: Sequence[str],
) -> None:
    """Describe the finished stack in its stack.json and forget where training stood.

    Parameters
    ----------
    folder : Path
        Holds a checkpoint for every number.
    about : mapping
        The manifest's keys that do not follow from the files; ``unit`` is one of them where the
        checkpoints count optimiser steps.
    numbers : sequence of int
        Epochs, or optimiser steps, that were kept, rising.
    layers : mapping
        Layer → tensor names.
    buffers : sequence of str
        Names of tensors that are buffers.
    """
    files = {n: checkpoint_file(n, str(about.get("unit", "epoch"))) for n in numbers}
    specs = SafetensorsCheckpoint(folder / files[numbers[0]]).specs()
    entry = {
        **about,
        "folder": ".",
        "layers": {layer: list(names) for layer, names in layers.items()},
        "tensors": {name: _tensor(spec, name in buffers) for name, spec in specs.items()},
        "checkpoints": [{"epoch": n, **file_entry(folder, file)} for n, file in files.items()],
    }
    _write_stack_file(folder, {"schema_version": 1, "stacks": [entry]})
    (folder / STATE_FILE).unlink(missing_ok=True)


def finish_copy(
    folder: Path,
    about: Mapping[str, Any],
    numbers: Sequence[int],
    layers: Mapping[str, Sequence[str]],
    tensors: Mapping[str, tuple[ArraySpec, bool]],
) -> None:
    """Describe a stack that was copied into a folder in its stack.json.

    Parameters
    ----------
    folder : Path
        Holds a checkpoint for every number.
    about : mapping
        The manifest's keys of a copy that do not follow from the files.
    numbers, layers
        As in `finish`.
    tensors : mapping
        Tensor name → what it looks like, and whether it is a buffer.
    """
    files = {n: checkpoint_file(n, str(about["unit"])) for n in numbers}
    entry = {
        **about,
        "folder": ".",
        "layers": {layer: list(names) for layer, names in layers.items()},
        "tensors": {name: _tensor(spec, buffer) for name, (spec, buffer) in tensors.items()},
        "checkpoints": [{"epoch": n, **file_entry(folder, file)} for n, file in files.items()],
    }
    _write_stack_file(folder, {"schema_version": 1, "stacks": [], "copies": [entry]})


def _write_stack_file(folder: Path, content: Mapping[str, Any]) -> None:
    """Check the manifest of one stack and write it beside the stack's files."""
    path = folder / STACK_FILE
    parse_manifest(content, path, folder)
    with placed(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def file_entry(folder: Path, file: str) -> dict[str, Any]:
    """A file as a manifest vouches for it."""
    record = record_of(folder, file)
    return {"file": file, "bytes": record.bytes, "sha256": record.sha256}


def _contiguous(arrays: Mapping[str, Array]) -> dict[str, Array]:
    return {name: np.ascontiguousarray(array) for name, array in arrays.items()}


def _tensor(spec: ArraySpec, buffer: bool) -> dict[str, Any]:
    code = next((code for code, name in NUMPY_DTYPES.items() if name == spec.dtype.name), None)
    if code is None:
        raise StackError(
            f"A tensor has the dtype {spec.dtype}.",
            f"A stack's folder holds {', '.join(NUMPY_DTYPES.values())}.",
            "Convert the tensor first, or save as .zarr.",
        )
    return {"dtype": code, "shape": list(spec.shape), **({"buffer": True} if buffer else {})}
