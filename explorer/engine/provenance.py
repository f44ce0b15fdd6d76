"""What a reader needs to repeat a number: data, settings, machine and versions."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from explorer import __version__
from explorer.engine.evaluator import Evaluator
from explorer.engine.intact import recorded_error
from explorer.engine.journal import Journal
from explorer.inventory.store import UNVERIFIED
from explorer.weights.device import FLOAT32_SETTINGS
from explorer.weights.stack import content_hash, layers_hash

ORIGIN = (
    "content_hash",
    "layers_hash",
    "final_epoch",
    "first_logits",
    "dataset_hash",
    "batchnorm",
    "calibration_hash",
    "batch_size",
    "device",
    "dtype",
    "screen",
    "version_torch",
    "tolerance",
)
"""Attributes on which the last bit of a number may depend."""


def provenance_of(evaluator: Evaluator) -> dict[str, Any]:
    """What a reader needs to repeat the numbers."""
    stack = evaluator.network.stack
    return {
        "stack": str(stack.attrs.get("name", "")),
        "stack_title": str(stack.attrs.get("title", "")),
        "checkpoint_unit": str(stack.attrs.get("checkpoint_unit", "epoch")),
        "content_hash": content_hash(stack),
        "layers_hash": layers_hash(stack),
        "integrity": str(stack.attrs.get("integrity", UNVERIFIED)),
        "dataset": evaluator.dataset,
        "dataset_hash": evaluator.dataset_hash,
        "examples": evaluator.total,
        "final_epoch": evaluator.network.epochs[-1],
        **recorded_error(stack.attrs, evaluator.network.epochs[-1]),
        **({"caution": evaluator.caution} if evaluator.caution else {}),
        "first_logits": evaluator.first_logits,
        "batchnorm": evaluator.network.batchnorm,
        "calibration_hash": evaluator.network.calibration_hash,
        "batch_size": evaluator.batch_size,
        "execution": evaluator.execution,
        "device": evaluator.device_label,
        "dtype": "float32",
        "float32_settings": FLOAT32_SETTINGS,
        "screen": evaluator.screen,
        "tied": evaluator.network.tied,
        "platform": f"{platform.system()} {platform.machine()}",
        "version_python": platform.python_version(),
        "version_explorer": __version__,
        **{f"version_{name}": version(name) for name in ("torch", "numpy", "xarray")},
    }


def open_journal(path: str | Path, evaluator: Evaluator, tolerance: float = 0.0) -> Journal:
    """Open the file in which finished counts are kept, or begin it.

    Raises
    ------
    UsageError
        The file holds counts of another stack, dataset, policy, device or batch size.
    CheckpointError
        The file cannot be read or written.
    """
    return journal_of(path, {**provenance_of(evaluator), "tolerance": tolerance})


def journal_of(path: str | Path, provenance: Mapping[str, Any]) -> Journal:
    """Open the file of counts with this provenance, the tolerance included; see `open_journal`."""
    return Journal(Path(path), {name: provenance[name] for name in ORIGIN})
