"""Harnesses for everything else that comes from outside: manifests, results, data, the hub."""

from __future__ import annotations

import contextlib
import functools
import importlib
import io
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import h5netcdf
import h5py
import numpy as np

from explorer.cli import _parser
from explorer.commands.train import _whole_numbers
from explorer.data.datasets import load_test_set, load_training_set
from explorer.data.own_text import own_text
from explorer.doctor.diff import split_epoch
from explorer.engine.journal import Journal
from explorer.engine.results import read_sweep
from explorer.errors import CheckpointError, ExplorerError
from explorer.inventory import manifest as manifests
from explorer.inventory.hub import Hub
from explorer.inventory.hub_folder import Revision
from explorer.inventory.store import STACK_FILE
from explorer.training.recipes import EXPERIMENTS
from explorer.training.settings import assignments, with_settings
from explorer.weights.hub_checkpoint import HubCheckpoint, files_of_tensors
from explorer.weights.hub_revisions import listed
from explorer.weights.labelled import open_labelled
from explorer.weights.layers import group_layers, short_names
from explorer.weights.numbering import kept_positions
from explorer.weights.stack import open_stack
from tests.fuzz import bundles
from tests.fuzz.checkpoint_targets import look_at


def manifest(data: bytes, folder: Path) -> None:
    """A stack.json, and the same text as our own manifest, which skips the schema where it can."""
    path = folder / STACK_FILE
    path.write_bytes(data)
    with contextlib.suppress(ExplorerError):
        text = path.read_text(encoding="utf-8") if _is_utf8(data) else ""
        own = manifests._parsed(text, path, folder, True)
        for entry in own.stacks.values():
            manifests._row(entry)
    read = manifests.load_manifest(path)
    for entry in read.stacks.values():
        manifests._row(entry)
        assert all(folder in one.record.path.parents for one in entry.checkpoints)
    look_at(open_stack(folder))


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


ORIGIN = {"stack": "abc", "dataset": "digits", "seed": 0, "layers": ["first", "second"]}


def journal(data: bytes, folder: Path) -> None:
    """Finished cells of a sweep that was stopped, read again by the same sweep."""
    path = folder / "cells.jsonl"
    path.write_bytes(data)
    opened = Journal(path, ORIGIN)
    for estimate in opened.finished.values():
        assert 0 <= estimate.error_low <= estimate.error <= estimate.error_high <= 1
        assert estimate.examples <= estimate.total
    Journal(path, ORIGIN)


def labelled(data: bytes, folder: Path) -> None:
    """A stack in netCDF: the file itself, or what is in it, in JSON."""
    path = folder / "stack.nc"
    _write_netcdf(data, path)
    with contextlib.closing(open_labelled(path)) as tree:
        look_at(tree)


def zarr(data: bytes, folder: Path) -> None:
    """A stack in zarr."""
    path = folder / "stack.zarr"
    path.mkdir()
    bundles.write(data, path)
    if (path / "zarr.json").is_file():
        look_at(open_labelled(path))


def sweep(data: bytes, folder: Path) -> None:
    """The result of a sweep in netCDF: the file itself, or what is in it, in JSON."""
    path = folder / "sweep.nc"
    _write_netcdf(data, path)
    found = read_sweep(path)
    found._repr_html_()


def sweep_text(data: bytes, folder: Path) -> None:
    """The result of a sweep in the JSON that bundled stacks have."""
    path = folder / "sweep.json"
    path.write_bytes(data)
    found = read_sweep(path)
    found._repr_html_()


def _write_netcdf(data: bytes, path: Path) -> None:
    """A file as it is; from JSON one that h5netcdf has written, as far as it can write that."""
    if not data.startswith(b"{"):
        path.write_bytes(data)
        return
    path.write_bytes(b"")
    with contextlib.suppress(Exception):  # what cannot be written is nothing to read
        content = json.loads(data)
        with h5netcdf.File(path, "w") as file:
            _fill(file, content)


def _fill(group: Any, content: dict[str, Any]) -> None:
    with contextlib.suppress(Exception):
        group.attrs.update(content.get("attrs", {}))
    for name, size in content.get("dims", {}).items():
        with contextlib.suppress(Exception):
            group.dimensions[name] = min(int(size), 100)
    for name, one in content.get("variables", {}).items():
        with contextlib.suppress(Exception):
            dtype = h5py.string_dtype() if one["dtype"] == "str" else np.dtype(one["dtype"])
            variable = group.create_variable(name, tuple(one["dims"]), dtype=dtype)
            variable.attrs.update(one.get("attrs", {}))
            variable[...] = one.get("values", 0)
    for name, inner in content.get("groups", {}).items():
        with contextlib.suppress(Exception):
            _fill(group.create_group(name), inner)


def dataset(data: bytes, folder: Path) -> None:
    """Files of data sets in one folder: text, tokenizer, images in class folders, MNIST, CIFAR."""
    bundles.write(data, folder)
    for name in ("mnist", "cifar10"):
        with contextlib.suppress(ExplorerError):  # refused by their hashes
            load_test_set(name, folder)
    asked = [f"text:{folder / 'notes.txt'},length=4", f"text:{folder},length=8,limit=3"]
    if (folder / "tokenizer.json").is_file():
        asked += [f"text:{folder / 'notes.txt'},length=2,tokenizer={folder / 'tokenizer.json'}"]
        with contextlib.suppress(ExplorerError):
            own_text("some text to read", str(folder / "tokenizer.json"))
    for name in asked:
        with contextlib.suppress(ExplorerError):
            load_training_set(name)
        with contextlib.suppress(ExplorerError):
            load_test_set(name)
    load_test_set(f"folder:{folder},side=8,scale=half")


def command(data: bytes, folder: Path) -> None:
    """Words of a command line, one a line, and what they are read as."""
    words = [line.decode("utf-8", "surrogateescape") for line in data.split(b"\n")[:10]]
    silent = io.StringIO()
    with contextlib.redirect_stderr(silent), contextlib.redirect_stdout(silent):
        with contextlib.suppress(SystemExit):  # argparse's own way to refuse
            options = vars(_commands().parse_args(words))
            with contextlib.suppress(ExplorerError):
                group_layers(_NAMES, options.get("layers"))
        first, *others = words
        split_epoch(first)
        with contextlib.suppress(ExplorerError):
            _whole_numbers(first)
        with contextlib.suppress(ExplorerError):
            with_settings(EXPERIMENTS["fcn3x256-digits"], assignments(words))
        if "\0" not in first and "/" not in first and "~" not in first:
            with contextlib.suppress(ExplorerError):
                load_test_set(f"text:{folder}/{first}")
            with contextlib.suppress(ExplorerError):
                load_test_set(f"folder:{folder}/{first}")
        for scheme in (words, {word: word for word in others}):
            with contextlib.suppress(ExplorerError):
                group_layers(_NAMES, scheme)
        short_names(words)


_commands = functools.cache(_parser)
_NAMES = ["first.weight", "first.bias", "blocks.0.norm.running_mean", "scale"]


# --- the hub ------------------------------------------------------------------------------------

REPOSITORY = "owner/name"
COMMIT = "0" * 40
REVISION = Revision(REPOSITORY, "step1", COMMIT)


def hub(data: bytes, folder: Path) -> None:
    """Answers of the hub: refs, tree, models, and the beginning of a safetensors file."""
    answers = dict(bundles.unpacked(data))
    with _answering(answers):
        client = Hub(folder=folder, endpoint="http://hub.invalid", offline=False, progress=False)
        for name in (REPOSITORY, f"{REPOSITORY}@main", "owner/name-step_*"):
            with contextlib.suppress(ExplorerError):
                steps, _ = listed(client, name)
                kept_positions(list(steps), 2, slice(0, 100))
        for ending in ("", "2"):  # once asked, once from the notes
            revision = Revision(REPOSITORY, "step1", COMMIT[:-1] + (ending or "0"))
            with contextlib.suppress(ExplorerError):
                client.files(revision)
            with contextlib.suppress(ExplorerError):
                names = list(files_of_tensors(client, revision))
                HubCheckpoint(client, revision, lambda _, all=names: {n: n for n in all}).specs()


def hub_notes(data: bytes, folder: Path) -> None:
    """What was noted of the hub's answers, which is read again where there is no network."""
    client = Hub(folder=folder, offline=True, progress=False)
    what = ("revisions", f"files-{COMMIT}", f"header-{COMMIT}-model.safetensors")
    for one in what:
        note = client._kept._note_file(REPOSITORY, one)
        note.parent.mkdir(parents=True, exist_ok=True)
        note.write_bytes(data)
    with contextlib.suppress(ExplorerError):
        listed(client, REPOSITORY)
    with contextlib.suppress(ExplorerError):
        client.files(REVISION)
    with contextlib.suppress(CheckpointError):
        client.fetch(REVISION, "model.safetensors")
    client.header(REVISION, "model.safetensors")


_URLS = (
    ("/refs", b"refs"),
    ("/tree/", b"tree"),
    ("/resolve/", b"file"),
    ("/api/models", b"models"),
)


@contextlib.contextmanager
def _answering(answers: dict[bytes, bytes]) -> Iterator[None]:
    """The hub's client, answered from here and not by a network."""
    client = importlib.import_module("huggingface_hub")
    http = importlib.import_module(type(client.get_session()).__module__.partition(".")[0])

    def answer(request: Any) -> Any:
        path = request.url.path
        kind = next((kind for part, kind in _URLS if part in path), b"model")
        content = answers.get(kind, b"")
        if kind == b"file" and (wanted := request.headers.get("range", "")).startswith("bytes="):
            first, _, last = wanted[6:].partition("-")
            content = content[int(first or 0) : int(last or len(content)) + 1]
        return http.Response(200, content=content, headers={"content-type": "application/json"})

    client.set_client_factory(
        lambda: http.Client(transport=http.MockTransport(answer), verify=False)
    )
    before = os.environ.pop("HF_HUB_OFFLINE", None)
    try:
        yield
    finally:
        client.set_client_factory(client.utils._http.default_client_factory)
        if before is not None:
            os.environ["HF_HUB_OFFLINE"] = before
