"""Harnesses for checkpoint files and folders: what a reader is given, and what must be equal."""

from __future__ import annotations

import contextlib
import io
import os
import re
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from safetensors import SafetensorError, safe_open

from explorer.doctor.check import check
from explorer.errors import CheckpointError, ExplorerError
from explorer.weights.checkpoints import Checkpoint, SafetensorsCheckpoint, part_of
from explorer.weights.folder import STATE_FILE, load_state
from explorer.weights.numbering import kept_positions, numbered
from explorer.weights.readers.finding import natural
from explorer.weights.readers.known import OURS
from explorer.weights.readers.parts import open_index, safetensors_when, trainer_when
from explorer.weights.readers.pickled import PickleError, read_pickle
from explorer.weights.readers.torch_files import TorchCheckpoint, torch_when
from explorer.weights.readers.torch_formats import _storages, size_of
from explorer.weights.safetensors_file import BITS, read_header
from explorer.weights.stack import content_hash, epoch_numbers, layer_names, open_stack, read_layer
from tests.fuzz import bundles

MOST_TENSORS = 12
"""Of a file, those that are read; all have been looked at."""


def safetensors(data: bytes, folder: Path) -> None:
    """Our reader beside the library's: both take a file or neither, with the same tensors."""
    path = folder / "epoch-1.safetensors"
    path.write_bytes(data)
    theirs = _by_library(path)
    ours: dict[str, np.ndarray[Any, Any]] | ExplorerError
    try:
        ours = _all_values(SafetensorsCheckpoint(path))
    except CheckpointError as error:
        ours = error
    with contextlib.suppress(CheckpointError):
        safetensors_when(path)
    path.rename(folder / STATE_FILE)
    with contextlib.suppress(CheckpointError):
        load_state(folder)
    _compare(ours, theirs, path)


def _by_library(path: Path) -> dict[str, np.ndarray[Any, Any]] | None:
    """Tensors as the library reads them, as bytes where numpy lacks the dtype; None if refused."""
    try:
        with safe_open(path, framework="numpy") as file:
            names = file.keys()
            plain = {n: file.get_slice(n) for n in names}
            if any(one.get_dtype() not in BITS for one in plain.values()):
                return None
            return {
                n: file.get_tensor(n) for n, one in plain.items() if one.get_dtype() in _COMPARED
            }
    except (SafetensorError, ValueError, TypeError, KeyError, AttributeError, MemoryError):
        return None


_COMPARED = ("F64", "F32", "F16", "I64", "I32", "I16", "I8", "U8", "BOOL")


def _compare(
    ours: dict[str, np.ndarray[Any, Any]] | ExplorerError,
    theirs: dict[str, np.ndarray[Any, Any]] | None,
    path: Path,
) -> None:
    if isinstance(ours, ExplorerError):
        # U16; 64 axes; of two descriptions of one tensor the library believes the last
        stricter = ("has dtype", "axes", "stands twice")
        meant = any(reason in ours.came for reason in stricter)
        assert theirs is None or meant, f"only the library reads it: {ours.came}"
        raise ours
    assert theirs is not None, "only we read it"
    assert set(theirs) <= set(ours)
    for name, array in theirs.items():
        assert array.dtype == ours[name].dtype, name
        assert array.shape == ours[name].shape, name
        assert array.tobytes() == ours[name].tobytes(), name


def header(data: bytes, folder: Path) -> None:
    """A header's JSON with the right length and as many bytes as it asks for, up to a limit."""
    path = folder / "epoch-1.safetensors"
    start = len(data).to_bytes(8, "little") + data
    path.write_bytes(start)
    with contextlib.suppress(CheckpointError):
        read_header(path)
    ends = map(int, re.findall(rb"(?<!\d)\d{1,4}(?=\])", data))
    safetensors(start + bytes(max(ends, default=0)), folder)


def torch_file(data: bytes, folder: Path) -> None:
    """A file of torch.save, the new form or the old."""
    path = folder / "epoch-1.pt"
    path.write_bytes(data)
    _torch(path)


def torch_pickle(data: bytes, folder: Path) -> None:
    """The pickle of a file of torch.save, in an archive whose checksums fit."""
    try:
        storages = list(_storages(read_pickle(io.BytesIO(data))).values())[:8]
    except PickleError:
        storages = []
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as writing:
        writing.writestr("x/data.pkl", data)
        for one in storages:
            with contextlib.suppress(PickleError, ValueError, UnicodeError):
                size = one.elements * size_of(one.dtype, "storage")
                writing.writestr(f"x/data/{one.key}", bytes(min(size, 4096)))
    torch_file(file.getvalue(), folder)


def _torch(path: Path) -> None:
    checkpoint = TorchCheckpoint(path)
    with contextlib.suppress(CheckpointError):
        torch_when(path)
    for key in ("ema", "state_dict"):
        with contextlib.suppress(CheckpointError):
            TorchCheckpoint(path, key).specs()
    with contextlib.suppress(CheckpointError):
        checkpoint.notes()
    _all_values(checkpoint)


def index(data: bytes, folder: Path) -> None:
    """The index of shards, beside two whole ones."""
    for k, shard in enumerate(_SHARDS):
        (folder / f"model-0000{k + 1}-of-00002.safetensors").write_bytes(shard)
    path = folder / "model.safetensors.index.json"
    path.write_bytes(data)
    _all_values(open_index(path))


def _shard(name: str) -> bytes:
    entry = f'{{"{name}":{{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}}}'.encode()
    return len(entry).to_bytes(8, "little") + entry + bytes(8)


_SHARDS = (_shard("first.weight"), _shard("second.weight"))


def trainer_state(data: bytes, folder: Path) -> None:
    """What the Trainer writes down of its progress."""
    inside = folder / "checkpoint-8"
    inside.mkdir()
    (inside / "trainer_state.json").write_bytes(data)
    trainer_when(inside)


def names(data: bytes, folder: Path) -> None:
    """Names of files and folders, one a line: what they count, and their order."""
    lines = [line.translate(None, b"\0/")[:200] for line in data.splitlines()[:8]]
    paths = [folder / os.fsdecode(line) for line in lines if line not in (b"", b".", b"..")]
    for path in paths:
        with contextlib.suppress(OSError):  # no folder of this system can hold such a name
            path.touch()
    paths = sorted(paths, key=natural)
    for reader in OURS:
        claimed = [path for path in paths if reader.claims(path)]
        marks = [reader.when(path) for path in claimed]
        for unit in ("epoch", "step", None):
            with contextlib.suppress(ExplorerError):
                numbers, _ = numbered(marks, [path.name for path in claimed], unit)
                kept_positions(sorted(numbers), 1, slice(0, 10))


def stack(data: bytes, folder: Path) -> None:
    """A folder of checkpoints of whatever kind, opened and read."""
    bundles.write(data, folder)
    look_at(open_stack(folder))


def examined(data: bytes, folder: Path) -> None:
    """The same folder before the doctor, who goes on where a stack is refused."""
    bundles.write(data, folder)
    diagnosis = check(folder, progress=False)
    diagnosis.as_json()
    str(diagnosis)
    diagnosis._repr_html_()


def look_at(tree: xr.DataTree) -> None:
    """Read every layer at the first and the last epoch, and what a notebook shows."""
    for epoch in epoch_numbers(tree)[:: max(1, len(epoch_numbers(tree)) - 1)]:
        for layer in layer_names(tree)[:MOST_TENSORS]:
            with contextlib.suppress(CheckpointError):  # of this checkpoint alone
                read_layer(tree, layer, epoch)
    content_hash(tree)
    tree._repr_html_()


def _all_values(checkpoint: Checkpoint) -> dict[str, np.ndarray[Any, Any]]:
    """Each tensor as a whole, equal to its specs, and a part of it equal to that of the whole."""
    specs = checkpoint.specs()
    values = {}
    for name in list(specs)[:MOST_TENSORS]:
        value = values[name] = checkpoint.read(name)
        assert (value.dtype, value.shape) == (specs[name].dtype, specs[name].shape), name
        key: Sequence[Any] = [slice(0, 1)] * value.ndim
        assert part_of(checkpoint, name, key).tobytes() == value[(*key, ...)].tobytes(), name
    return values
