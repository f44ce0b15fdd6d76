"""What a stack is made of, before it is a tree: of a manifest's record, of files, of the hub."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from explorer.errors import UnknownNameError, unknown_name
from explorer.inventory.entries import StackEntry
from explorer.inventory.manifest import load_manifest
from explorer.inventory.store import STACK_FILE, UNVERIFIED, VERIFIED, plainly_wrong
from explorer.weights.checkpoints import ArraySpec, SafetensorsCheckpoint, array_spec
from explorer.weights.fitting import fitted, reading_notes
from explorer.weights.layers import LayerScheme, group_layers, is_buffer
from explorer.weights.sources import Collected, is_pattern

logger = logging.getLogger(__name__)


class Parts(NamedTuple):
    """What a stack is made of, in the order of `explorer.weights.stack._tree`'s arguments."""

    checkpoints: Sequence[Any]
    """One per epoch or step."""
    numbers: Sequence[int]
    """Their epochs or steps."""
    specs: Mapping[str, ArraySpec]
    """Name of a tensor → dtype and shape."""
    layers: Mapping[str, tuple[str, ...]]
    """Layer → names of its tensors."""
    buffers: Mapping[str, bool]
    """Name of a tensor → whether it is a buffer."""
    attributes: Mapping[str, Any]
    """Of the whole stack."""


def manifest_entry(source: object) -> StackEntry | None:
    """Find the manifest's record of a named stack or of a folder that holds a stack.json."""
    if not isinstance(source, (str, Path)):
        return None
    folder = Path(source)
    if (folder / STACK_FILE).is_file():
        return load_manifest(folder / STACK_FILE).first
    if folder.name != str(source) and folder.exists():
        return None  # a path, which no stack has for its name
    manifest = load_manifest()
    stacks = manifest.stacks
    if str(source) in stacks:
        return stacks[str(source)]
    if folder.exists() or is_pattern(source):
        return None
    if str(source) in manifest.recipes:
        raise UnknownNameError(
            f"There is no stack {str(source)!r} here, but a recipe for it.",
            f"Known: {', '.join(stacks)}. A folder or a checkpoint file will also do.",
            f"Run explorer train {source} --out FOLDER, and open the folder.",
        )
    error = unknown_name("stack", str(source), stacks)
    raise UnknownNameError(
        error.came, f"{error.accepted} A folder or a checkpoint file will also do.", error.advice
    )


def manifest_parts(entry: StackEntry, layers: LayerScheme) -> Parts:
    """What a stack that a manifest describes consists of; no file is opened."""
    specs = {name: array_spec(spec.dtype, spec.shape, name) for name, spec in entry.tensors.items()}
    unreadable = {str(c.epoch): why for c in entry.checkpoints if (why := plainly_wrong(c.record))}
    for number, why in unreadable.items():
        logger.warning("%s %s cannot be used: %s", entry.unit, number, why)
    return Parts(
        [SafetensorsCheckpoint(c.record) for c in entry.checkpoints],
        [c.epoch for c in entry.checkpoints],
        specs,
        group_layers(list(specs), layers, entry.layers),
        {name: spec.buffer for name, spec in entry.tensors.items()},
        {
            **entry.attributes,
            "name": entry.name,
            "title": entry.title,
            "family": entry.family,
            "sizes": dict(entry.sizes),
            "dataset": entry.dataset,
            "content_hash": entry.content_hash,
            "integrity": VERIFIED,
            "checkpoint_unit": entry.unit,
            **_recorded(entry),
            **({"unreadable": unreadable} if unreadable else {}),
        },
    )


def _recorded(entry: StackEntry) -> dict[str, Any]:
    """The test error of the last checkpoint, and which one that is; of copies it is not known."""
    if math.isnan(entry.test_error):
        return {}
    last = entry.checkpoints[-1].epoch
    return {"recorded_error": entry.test_error, "recorded_epoch": last}


def collected_parts(collected: Collected, model: Any, layers: LayerScheme | None) -> Parts:
    """What files or state dicts make together, once their headers are known to fit.

    Raises
    ------
    StackError
        They do not fit each other, the model or the layer scheme.
    CheckpointError
        None of them is usable.
    """
    expected = model and {name: tuple(t.shape) for name, t in model.state_dict().items()}
    fit = fitted(collected.checkpoints, collected.labels, expected)
    buffers = {n: is_buffer(n) for n in fit.specs}
    if model is not None:
        parameters = {n for n, _ in model.named_parameters(remove_duplicate=False)}
        buffers = {n: n not in parameters for n in fit.specs}
    notes = [*collected.notes, *reading_notes(fit)]
    for note in notes:
        logger.info("%s: %s", collected.name, note)
    for k, reason in fit.unreadable.items():
        logger.warning("%s %d cannot be used: %s", collected.unit, collected.numbers[k], reason)
    particular = {
        "prefixes": list(fit.prefixes),
        "unmatched": list(fit.unmatched),
        "unreadable": {str(collected.numbers[k]): why for k, why in fit.unreadable.items()},
    }
    return Parts(
        fit.checkpoints,
        collected.numbers,
        fit.specs,
        group_layers(list(fit.specs), layers),
        buffers,
        {
            **{"name": collected.name, "title": collected.name},
            **{"family": "", "sizes": {}, "dataset": "", "content_hash": ""},
            "integrity": UNVERIFIED,
            **{"checkpoint_unit": collected.unit, "reader": collected.reader, "notes": notes},
            **{key: value for key, value in particular.items() if value},
        },
    )
