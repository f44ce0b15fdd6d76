"""Stacks in files of labelled arrays, zarr and netCDF: how they are written and read again.

Both hold what the open stack holds: ``epoch`` at the root, one group per layer, one variable per
tensor, cut into chunks of one epoch each, so that they are written and read a chunk at a time.
"""

from __future__ import annotations

import itertools
import json
import math
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from explorer.errors import CheckpointError, StackError, UsageError
from explorer.inventory.hdf5 import DAMAGE, check_declared, check_hdf5, full_disk_told
from explorer.inventory.names import link_out_of
from explorer.inventory.store import UNVERIFIED
from explorer.weights.readers.parts import read_json

ZARR = ".zarr"
NETCDF = (".nc", ".nc4", ".netcdf")
"""Suffixes of files and folders of labelled arrays."""

CHUNK_BYTES = 4_194_304
"""Of one tensor at one epoch, uncompressed; a larger tensor has several chunks. As large as what
distances read at once, since a chunk is always read as a whole."""

ATTRIBUTES = "explorer_stack"
"""Attribute of a netCDF file with those of the stack in JSON: netCDF has no mappings."""

ORDER = "tensors"
"""Attribute of a zarr group: names of its arrays in their order, which zarr does not keep."""


_CODECS = {
    *("bytes", "blosc", "zstd", "gzip", "crc32c", "transpose", "sharding_indexed"),
    *("zlib", "lz4", "bz2", "lzma", "shuffle", "crc32", "vlen-utf8"),
}
"""How zarr's chunks may be written: what compresses, sorts or checks bytes, and nothing else."""


def is_labelled(path: Path) -> bool:
    """Whether a path is a zarr folder or a netCDF file, by its metadata file or its suffix."""
    if path.is_dir():
        return (path / "zarr.json").is_file() or (path / ".zgroup").is_file()
    return path.suffix in NETCDF and path.is_file()


def open_labelled(path: Path) -> xr.DataTree:
    """Open a stack in zarr or netCDF; no tensor is read.

    Returns
    -------
    xarray.DataTree
        As it was saved; without a content hash, since nothing vouches for these files.

    Raises
    ------
    CheckpointError
        The file is damaged.
    StackError
        It holds something else than a stack.
    UsageError
        The package zarr is needed, and not installed.
    """
    tree = _tree(path)
    if not _is_stack(tree):
        tree.close()
        raise StackError(
            f"{path} holds no stack: its root has the attributes {sorted(map(str, tree.attrs))}.",
            "A stack as explorer.save_stack or stack.to_zarr writes it is expected.",
            "Open it with xarray, or save the stack again.",
        )
    for node in tree.children.values():
        order = node.attrs.pop(ORDER, list(node.data_vars))
        if isinstance(order, list) and set(map(str, order)) == set(node.data_vars):
            node.dataset = node.to_dataset(inherit=False)[order]
        for array in node.data_vars.values():
            array.attrs["buffer"] = bool(array.attrs["buffer"])
            array.attrs["fan_in"] = int(array.attrs["fan_in"])
    tree.attrs |= {"content_hash": "", "integrity": UNVERIFIED}
    return tree


def _tree(path: Path) -> xr.DataTree:
    """What is in a zarr folder or netCDF file that has been looked at first."""
    options: dict[str, Any] = {"engine": "h5netcdf"}
    if path.is_dir():
        _zarr()
        options = {"engine": "zarr", "consolidated": False}
    try:
        (_check_zarr if path.is_dir() else check_hdf5)(path)
        with warnings.catch_warnings():  # xarray adds a filter whenever it opens something
            tree = xr.open_datatree(path, cache=False, **options)
        kept = tree.attrs.get(ATTRIBUTES)
        tree.attrs = dict(json.loads(kept) if kept is not None else tree.attrs)
        return tree
    except CheckpointError:  # it says why
        raise
    except DAMAGE as error:
        raise CheckpointError(
            f"{path} cannot be read as {'zarr' if path.is_dir() else 'netCDF'}: {error}",
            "A whole stack as explorer.save_stack writes it is expected.",
            "Save it again, or copy it again as a whole.",
        ) from error


def _is_stack(tree: xr.DataTree) -> bool:
    """Whether a tree has what `save_stack` writes: layers, epochs, and what each tensor is."""
    layers = tree.attrs.get("layers", ())
    named = isinstance(layers, (list, tuple, np.ndarray)) and len(layers) > 0
    if not named or not all(str(layer) in tree.children for layer in layers):
        return False
    epochs = tree.coords.get("epoch")
    if epochs is None or epochs.dims != ("epoch",) or epochs.dtype.kind not in "iu":
        return False
    nodes = [tree.children[str(layer)] for layer in layers]
    return len(nodes) == len(tree.children) and all(
        _is_tensor(array) for node in nodes for array in node.data_vars.values()
    )


def _is_tensor(array: xr.DataArray) -> bool:
    dims = list(array.dims)
    facts = [array.attrs.get(name) for name in ("buffer", "fan_in")]
    return (
        dims[:1] == ["epoch"]
        and len(set(dims)) == len(dims)
        and isinstance(array.attrs.get("parameter"), str)
        and all(isinstance(fact, (int, np.integer, np.bool_)) for fact in facts)
        and array.dtype.kind in "fiub"
    )


def check_as_saved(path: str | Path, **given: object) -> None:
    """Refuse what cannot be chosen any more for a stack in zarr or netCDF.

    Raises
    ------
    UsageError
        Some of it is not None.
    """
    chosen = [f"{name}=" for name, value in given.items() if value is not None]
    if chosen:
        raise UsageError(
            f"{', '.join(chosen)} was given for {path}.",
            "A stack in zarr or netCDF has the layers and epochs that it was saved with.",
            "Leave it out, or open the checkpoints that it was made of.",
        )


def write_zarr(stack: xr.DataTree, folder: Path) -> None:
    """Write a stack into a new zarr folder, each chunk sorted by bytes and compressed."""
    zarr = _zarr()
    small = zarr.codecs.BloscCodec(cname="zstd", clevel=3, shuffle="shuffle")
    root = zarr.create_group(folder, zarr_format=3, attributes=plain(stack.attrs))
    epochs = stack.coords["epoch"].values
    root.create_array("epoch", data=epochs, dimension_names=["epoch"])
    for layer, node in _layers(stack):
        group = root.create_group(layer, attributes={ORDER: [str(name) for name in node.data_vars]})
        for short, array in node.data_vars.items():
            written = group.create_array(
                str(short),
                shape=array.shape,
                dtype=array.dtype,
                chunks=chunks_of(array),
                compressors=[small],
                dimension_names=[str(dim) for dim in array.dims],
                attributes=plain(array.attrs),
            )
            _copy(array, written)


def write_netcdf(stack: xr.DataTree, file: Path) -> None:
    """Write a stack into a new netCDF-4 file, each chunk sorted by bytes and compressed.

    Raises
    ------
    StackError
        A tensor has a dtype that netCDF lacks.
    """
    import h5netcdf  # brings HDF5, which only this form needs

    with full_disk_told(file) as stream, h5netcdf.File(stream, "w") as root:
        root.attrs[ATTRIBUTES] = json.dumps(plain(stack.attrs))
        epochs = stack.coords["epoch"].values
        root.dimensions["epoch"] = len(epochs)
        root.create_variable("epoch", ("epoch",), data=epochs)
        for layer, node in _layers(stack):
            group = root.create_group(layer)
            for short, array in node.data_vars.items():
                group.dimensions.update({d: n for d, n in array.sizes.items() if d != "epoch"})
                written = group.create_variable(
                    str(short),
                    array.dims,
                    dtype=_netcdf_dtype(array),
                    chunks=chunks_of(array),
                    compression="gzip",
                    compression_opts=1,
                    shuffle=True,
                )
                written.attrs.update({**array.attrs, "buffer": int(array.attrs["buffer"])})
                if array.dtype == bool:
                    written.attrs["dtype"] = "bool"  # as xarray writes and reads it
                _copy(array, written)
                stream.check()


def plain(attributes: Mapping[Any, Any]) -> dict[str, Any]:
    """Attributes as JSON gives them back: no numbers and arrays of numpy."""
    plain: dict[str, Any] = json.loads(
        json.dumps({str(key): value for key, value in attributes.items()}, default=_listed)
    )
    return plain


def chunks_of(array: xr.DataArray) -> tuple[int, ...]:
    """Shape of the chunks of a variable: one epoch, and rows that lie together."""
    most = max(1, CHUNK_BYTES // array.dtype.itemsize)
    chunk, shape = [1], array.shape[1:]
    for axis, length in enumerate(shape):
        chunk.append(max(1, min(length, most // max(1, math.prod(shape[axis + 1 :])))))
    return tuple(chunk)


def _copy(array: xr.DataArray, target: Any) -> None:
    """Copy a variable, a chunk's rows at a time."""
    rows = chunks_of(array)[1:2]
    for k in range(array.sizes["epoch"]):
        if not rows:
            target[k] = array.variable[k].values
            continue
        for first in range(0, array.shape[1], rows[0]):
            part = slice(first, first + rows[0])
            target[k, part] = array.variable[k, part].values


def _layers(stack: xr.DataTree) -> Iterator[tuple[str, xr.Dataset]]:
    for layer in stack.attrs["layers"]:
        yield str(layer), stack.children[str(layer)].to_dataset(inherit=False)


def _netcdf_dtype(array: xr.DataArray) -> np.dtype[Any]:
    if array.dtype == np.float16:
        raise StackError(
            f"{array.attrs['parameter']} is float16.",
            "netCDF has float32 and float64.",
            "Save the stack as a folder or as .zarr, which keep float16.",
        )
    return np.dtype(np.int8) if array.dtype == bool else array.dtype


def _check_zarr(folder: Path) -> None:
    """Refuse arrays that run code, declare too much, or lead elsewhere; only metadata is read."""
    declared = there = 0
    for path in folder.rglob("*"):
        outside = link_out_of(folder, path) if path.is_symlink() else None
        if outside is not None:
            raise CheckpointError(
                f"{path} is a link that leaves {folder}, to {outside}.",
                "A stack whose files lie in its folder is expected.",
                "Copy the files themselves into the folder, if you know where they come from.",
            )
        there += path.stat().st_size if path.is_file() else 0
        if path.name in (".zarray", "zarr.json"):
            about = read_json(path)
            unknown = sorted(set(_codecs(about)) - _CODECS)
            if unknown:
                raise CheckpointError(
                    f"{path} is written with the codec {unknown[0]!r}, which could run code or is "
                    "not known; it has not been run.",
                    f"Known: {', '.join(sorted(_CODECS))}.",
                    "Do not trust this stack; if it is your own, save it again with "
                    "explorer.save_stack.",
                )
            declared += 8 * math.prod(about.get("shape", [0]))  # of float64, the widest
    check_declared(folder, declared, there)


def _codecs(about: Any) -> Iterator[str]:
    """Names of the codecs of an array, in either version of the format."""
    lists = [about.get(key) or () for key in ("codecs", "index_codecs", "filters")]
    named = [*itertools.chain(*lists), about.get("compressor")]
    for codec in filter(None, named):
        yield str(codec.get("name", codec.get("id")))
        yield from _codecs(codec.get("configuration") or {})


def _listed(value: Any) -> Any:
    if hasattr(value, "tolist"):
        return value.tolist()
    raise StackError(
        f"The stack has an attribute of the type {type(value).__name__}.",
        "Texts, numbers, lists and mappings of them can be saved.",
        "Remove the attribute, or turn it into text.",
    )


def _zarr() -> Any:
    try:
        import zarr
    except ImportError as error:
        raise UsageError(
            "The package zarr is not installed.",
            "It is needed to write and read .zarr; folders and .nc work without it.",
            "pip install 'layer-explorer[zarr]'.",
        ) from error
    return zarr
