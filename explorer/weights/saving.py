"""Copies of an open stack on the disk: a folder of safetensors files, zarr or netCDF."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import xarray as xr

from explorer.errors import CheckpointError, StackError, UsageError
from explorer.inventory.placing import placed, placed_folder
from explorer.inventory.store import STACK_FILE, is_checkpoint_file
from explorer.weights.checkpoints import ArraySpec
from explorer.weights.folder import finish_copy, save_copied
from explorer.weights.labelled import (
    NETCDF,
    ZARR,
    open_labelled,
    plain,
    write_netcdf,
    write_zarr,
)
from explorer.weights.stack import (
    check_is_stack,
    epoch_numbers,
    layer_names,
    layer_variables,
    read_epoch,
)

FORMS = ("folder", "zarr", "netcdf")

_IN_THEIR_OWN_PLACE = ("name", "title", "family", "sizes", "dataset", "checkpoint_unit", "layers")
"""Attributes of a stack that a manifest has keys for."""

_OF_THE_FILES = ("content_hash", "integrity", "unreadable")
"""Attributes that say what the files of a stack are; its copy has files of its own."""


def save_stack(stack: xr.DataTree, path: str | Path, *, form: str | None = None) -> Path:
    """Write a copy of a stack that `open_stack` reads again, without loss.

    It is written beside its place and moved there as a whole. An earlier copy is replaced only
    then: a run that is cut short leaves it as it was.

    Parameters
    ----------
    stack : xarray.DataTree
        As `open_stack` returns it, or a part of it, such as ``stack.isel(epoch=slice(0, 5))``.
    path : str or Path
        Where to. A name in ``.zarr`` makes zarr, one in ``.nc`` netCDF, any other a folder with
        one safetensors file per epoch and a ``stack.json`` that holds their hashes.
    form : str, optional
        ``"folder"``, ``"zarr"`` or ``"netcdf"``, whatever the name.

    Returns
    -------
    Path
        The path.

    Raises
    ------
    StackError
        This is no stack, or holds what the form cannot hold.
    UsageError
        An unknown form; zarr is not installed; or at the path lies something else than a copy
        of a stack, which is never overwritten.
    CheckpointError
        The folder cannot be written to, the disk is full, or the stack cannot be read.
    """
    target = Path(path)
    chosen = _form(target) if form is None else form
    if chosen not in FORMS:
        raise UsageError(
            f"The form of the copy is {chosen!r}.",
            f"{', '.join(FORMS)} are known.",
            "Leave form out to have it follow from the name.",
        )
    check_is_stack(stack)
    if chosen == "netcdf":
        _check_replaceable(target, target.is_file() and _is_labelled_stack(target))
        with placed(target) as temporary:
            write_netcdf(stack, temporary)
        return target
    written, ours = (
        (write_zarr, _is_labelled_stack) if chosen == "zarr" else (_write_folder, _is_copy)
    )
    _check_replaceable(target, target.is_dir() and ours(target))
    with placed_folder(target) as folder:
        written(stack, folder)
    return target


def _form(path: Path) -> str:
    if path.suffix == ZARR:
        return "zarr"
    return "netcdf" if path.suffix in NETCDF else "folder"


def _write_folder(stack: xr.DataTree, folder: Path) -> None:
    """One safetensors file per epoch, of which one is in memory at a time, and the stack.json."""
    known = plain(stack.attrs)
    unit = str(known.get("checkpoint_unit") or "epoch")
    layers = {layer: layer_variables(stack, layer) for layer in layer_names(stack)}
    arrays = {name: array for each in layers.values() for name, array in each.items()}
    about = {
        **{key: str(known.get(key, "")) for key in ("name", "title", "dataset")},
        "family": {"name": str(known.get("family", "")), "sizes": known.get("sizes", {})},
        "unit": unit,
        "attributes": {
            key: value
            for key, value in known.items()
            if key not in (*_IN_THEIR_OWN_PLACE, *_OF_THE_FILES)
        },
    }
    for epoch in epoch_numbers(stack):
        save_copied(folder, epoch, read_epoch(stack, epoch), unit)
    finish_copy(
        folder,
        about,
        epoch_numbers(stack),
        {layer: list(each) for layer, each in layers.items()},
        {
            name: (ArraySpec(array.dtype, array.shape[1:]), bool(array.attrs["buffer"]))
            for name, array in arrays.items()
        },
    )


def _is_labelled_stack(path: Path) -> bool:
    try:
        with contextlib.closing(open_labelled(path)):
            return True
    except (CheckpointError, StackError):
        return False


def _is_copy(path: Path) -> bool:
    """Whether a folder holds what is written here and nothing else, such as a training run."""
    names = [entry.name for entry in path.iterdir()] if path.is_dir() else []
    if STACK_FILE not in names or any(
        name != STACK_FILE and not is_checkpoint_file(name) for name in names
    ):
        return False
    try:
        return "copies" in json.loads((path / STACK_FILE).read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        return False


def _check_replaceable(target: Path, ours: bool) -> None:
    empty = target.is_dir() and not any(target.iterdir())
    if target.exists() and not ours and not empty:
        raise UsageError(
            f"{target} exists and is something else than such a copy of a stack.",
            "A new path, an empty folder, or an earlier copy of the same form will do.",
            "Choose another path, or remove what is there yourself.",
        )
