"""The manifest: which stacks exist, who made them how, and which files they consist of."""

from __future__ import annotations

import contextlib
import functools
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from explorer.errors import ManifestError
from explorer.inventory.entries import (
    CheckpointRecord,
    Manifest,
    RecipeEntry,
    StackEntry,
    TensorSpec,
)
from explorer.inventory.store import (
    BUNDLED_FOLDER,
    CATALOG_FOLDER,
    VERIFIED,
    FileRecord,
    check_relative,
    manifest_path,
    verified,
)

if TYPE_CHECKING:
    import pandas as pd

LONGEST = 25_000_000
"""Bytes of a manifest; reading JSON takes many times its size of memory."""

SCHEMA_FILE = CATALOG_FOLDER / "pretrained_manifest.schema.json"


def load_manifest(path: Path | None = None) -> Manifest:
    """Read and check a manifest.

    Parameters
    ----------
    path : Path, optional
        A ``stack.json``, whose files lie beside it; default the catalog's own manifest, whose
        files are bundled.

    Returns
    -------
    Manifest

    Raises
    ------
    ManifestError
        The file is missing, is not JSON, or does not follow the schema; the message names the
        file and the key.
    """
    own = path is None
    root = BUNDLED_FOLDER if path is None else path.parent
    path = manifest_path() if path is None else path
    return _parsed(_read(path), path, root, own)


def parse_manifest(content: object, path: Path, root: Path) -> Manifest:
    """Check a manifest's content and turn it into values; `root` is where its folders lie."""
    for error in sorted(_validator().iter_errors(content), key=lambda e: len(e.absolute_path)):
        raise ManifestError(
            f"{path}: {_dotted(error.absolute_path)}: {error.message}",
            f"The manifest must follow {SCHEMA_FILE.name}.",
            "Correct this key in the file.",
        )
    assert isinstance(content, dict)  # the schema says so
    return _built(content, path, root)


def _built(content: dict[str, Any], path: Path, root: Path) -> Manifest:
    """Turn content that follows the schema into values."""
    stacks: dict[str, StackEntry] = {}
    listed = {f"stacks[{k}]": raw for k, raw in enumerate(content["stacks"])}
    copies = content.get("copies", [])
    listed |= {f"copies[{k}]": {**_NOT_KNOWN_OF_COPIES, **raw} for k, raw in enumerate(copies)}
    for where, raw in listed.items():
        entry = _entry(raw, f"{path}: {where}", root)
        if entry.name in stacks:
            raise ManifestError(
                f"{path}: {where}.name: {entry.name!r} stands there twice.",
                "Every stack has a name of its own.",
                "Rename or remove one of the two.",
            )
        stacks[entry.name] = entry
    return Manifest(path, stacks, _recipes(content.get("recipes", []), path, stacks))


def bundled_sweep(name: str) -> Path | None:
    """Path of a bundled stack's precomputed sweep, verified; None where there is none.

    Raises
    ------
    CheckpointError
        The file is missing or altered.
    """
    entry = load_manifest().stacks.get(name)
    return None if entry is None or entry.sweep is None else verified(entry.sweep)


def catalog() -> pd.DataFrame:
    """List the stacks of the manifest, and what else can be trained.

    Returns
    -------
    pandas.DataFrame
        One row per stack, indexed by name: title, kind (``"stack"``, or ``"recipe"`` for what
        `explorer.train` makes), family, dataset, number of checkpoints, parameters, size in MB,
        final train and test error (fractions), folder, integrity (``"sha256"``: every file is
        compared with its hash before it is used); what a recipe does not have yet is missing.
    """
    import pandas as pd  # slow to import, and only this function needs it

    manifest = load_manifest()
    rows = {entry.name: _row(entry) for entry in manifest.stacks.values()}
    rows |= {entry.name: _recipe_row(entry) for entry in manifest.recipes.values()}
    frame = pd.DataFrame.from_dict(rows, orient="index")
    frame.index.name = "name"
    return frame.astype({"checkpoints": "Int64", "parameters": "Int64"})


def _recipe_row(entry: RecipeEntry) -> dict[str, Any]:
    return {
        "title": entry.title,
        "kind": "recipe",
        "family": entry.family,
        "dataset": entry.dataset,
        "checkpoints": len(entry.keep),
        "parameters": entry.parameters,
    }


def _row(entry: StackEntry) -> dict[str, Any]:
    return {
        "title": entry.title,
        "kind": "stack",
        "family": entry.family,
        "dataset": entry.dataset,
        "checkpoints": len(entry.checkpoints),
        "parameters": sum(t.count for t in entry.tensors.values() if not t.buffer),
        "megabytes": sum(c.record.bytes for c in entry.checkpoints) / 1e6,
        "train_error": entry.train_error,
        "test_error": entry.test_error,
        "folder": str(entry.folder),
        "integrity": VERIFIED,
    }


@functools.lru_cache(maxsize=32)
def _parsed(text: str, path: Path, root: Path, own: bool) -> Manifest:
    """Check a text once: opening one stack asks for the same manifest several times.

    That our `own` manifest follows the schema is tested, and not looked at each time: importing
    jsonschema takes a second, for checkers of formats that are not used here. Whoever breaks it
    gets the schema's words all the same.
    """
    content = _content(text, path)
    if own and isinstance(content, dict):
        with contextlib.suppress(KeyError, TypeError, AttributeError, ValueError):
            return _built(content, path, root)
    return parse_manifest(content, path, root)


def _read(path: Path) -> str:
    try:
        if path.stat().st_size > LONGEST:
            raise ManifestError(
                f"{path} has {path.stat().st_size} bytes.",
                f"A manifest has {LONGEST} bytes at most; one of 1000 checkpoints has a tenth.",
                "Divide the stack, or open its files without the manifest.",
            )
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ManifestError(
            f"{path} cannot be read: {error}.",
            "A manifest in JSON (UTF-8) is expected there.",
            "Reinstall the package, or pass a folder that holds a stack.json.",
        ) from error


def _content(text: str, path: Path) -> object:
    try:
        return json.loads(text, object_pairs_hook=functools.partial(_no_duplicates, path))
    except json.JSONDecodeError as error:
        raise ManifestError(
            f"{path}, line {error.lineno}: {error.msg}.",
            "The manifest must be JSON.",
            "Correct this line in the file.",
        ) from error
    except ManifestError:  # a key that stands twice
        raise
    except (ValueError, RecursionError) as error:  # a number of 5,000 digits, brackets in brackets
        raise ManifestError(
            f"{path} cannot be read: {error}.",
            "The manifest must be JSON, its numbers and depth such as people write.",
            "Fetch the file again, or do not trust it.",
        ) from error


def _no_duplicates(path: Path, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) < len(pairs):
        names = [key for key, _ in pairs]
        twice = next(key for key in names if names.count(key) > 1)
        raise ManifestError(
            f"{path}: the key {twice!r} stands twice in one object.",
            "Every key may stand once.",
            "Remove one of the two.",
        )
    return content


@functools.cache
def _validator() -> Any:
    import jsonschema  # slow to import, see `_parsed`

    draft = jsonschema.Draft202012Validator
    whole = draft.TYPE_CHECKER.redefine("integer", lambda _, value: type(value) is int)  # not 3.0
    kind = jsonschema.validators.extend(draft, type_checker=whole)
    return kind(json.loads(SCHEMA_FILE.read_text(encoding="utf-8")))


def _entry(raw: dict[str, Any], where: str, root: Path) -> StackEntry:
    check_relative(raw["folder"], f"{where}.folder")
    folder = root / raw["folder"]
    tensors = {
        name: TensorSpec(spec["dtype"], tuple(spec["shape"]), spec.get("buffer", False))
        for name, spec in raw["tensors"].items()
    }
    layers = {layer: tuple(names) for layer, names in raw["layers"].items()}
    _check_partition(layers, tensors, f"{where}.layers")
    sweep = raw.get("sweep")
    return StackEntry(
        **{key: raw[key] for key in _PLAIN_KEYS},
        family=raw["family"]["name"],
        sizes=raw["family"]["sizes"],
        folder=folder,
        layers=layers,
        tensors=tensors,
        checkpoints=tuple(_checkpoints(raw["checkpoints"], where, folder, tensors)),
        train_error=raw["final"]["train_error"],
        test_error=raw["final"]["test_error"],
        sweep=None if sweep is None else _record(sweep, f"{where}.sweep", folder),
        unit=raw.get("unit", "epoch"),
        attributes=raw.get("attributes", {}),
    )


def _recipes(
    raw: list[dict[str, Any]], path: Path, stacks: Mapping[str, StackEntry]
) -> dict[str, RecipeEntry]:
    recipes: dict[str, RecipeEntry] = {}
    for position, item in enumerate(raw):
        if item["name"] in stacks or item["name"] in recipes:
            raise ManifestError(
                f"{path}: recipes[{position}].name: {item['name']!r} stands there twice.",
                "Every stack and every recipe has a name of its own.",
                "Rename or remove one of the two.",
            )
        family = item["family"]
        values = {**item, "family": family["name"], "sizes": family["sizes"]}
        recipes[item["name"]] = RecipeEntry(**{**values, "keep": tuple(item["keep"])})
    return recipes


_NOT_KNOWN_OF_COPIES: Mapping[str, Any] = {
    **{"recipe": {}, "seed": 0, "licence": "", "citation": ""},
    "final": {"train_error": math.nan, "test_error": math.nan},
}
_PLAIN_KEYS = ("name", "title", "dataset", "recipe", "seed", "licence", "citation")


def _check_partition(
    layers: Mapping[str, tuple[str, ...]], tensors: Mapping[str, TensorSpec], where: str
) -> None:
    listed = [name for names in layers.values() for name in names]
    wrong = sorted(set(listed) ^ set(tensors)) or [n for n in tensors if listed.count(n) > 1]
    if wrong:
        raise ManifestError(
            f"{where}: {', '.join(wrong)} is not in exactly one layer, or is no tensor.",
            "Every tensor belongs to exactly one layer.",
            "Correct 'layers' or 'tensors'.",
        )


def _checkpoints(
    raw: list[dict[str, Any]],
    where: str,
    folder: Path,
    tensors: Mapping[str, TensorSpec],
) -> Iterator[CheckpointRecord]:
    """Check each checkpoint against those before it and against the tensors it must hold."""
    least = sum(spec.bytes for spec in tensors.values())
    before = -1
    for position, item in enumerate(raw):
        key = f"{where}.checkpoints[{position}]"
        if item["epoch"] <= before:
            raise ManifestError(
                f"{key}.epoch: {item['epoch']} comes after {before}.",
                "Epochs must rise, each standing once.",
                "Sort the checkpoints and remove duplicates.",
            )
        if item["bytes"] < least:
            raise ManifestError(
                f"{key}.bytes: {item['bytes']} bytes cannot hold the declared tensors.",
                f"They alone need {least} bytes.",
                "Correct the shapes under 'tensors' or this file's size.",
            )
        before = item["epoch"]
        yield CheckpointRecord(before, _record(item, key, folder))


def _record(raw: dict[str, Any], where: str, folder: Path) -> FileRecord:
    check_relative(raw["file"], f"{where}.file")
    return FileRecord(folder, raw["file"], raw["bytes"], raw["sha256"])


def _dotted(path: Any) -> str:
    """Key path as people write it: stacks[0].checkpoints[1].sha256."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return text.lstrip(".") or "(top level)"
