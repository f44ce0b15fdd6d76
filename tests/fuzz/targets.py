"""What is fuzzed: each target's harness, and the modules whose coverage is reported with it."""

from __future__ import annotations

import contextlib
import functools
import tempfile
from dataclasses import dataclass
from pathlib import Path

from explorer.errors import ExplorerError
from tests.fuzz import checkpoint_targets as checkpoints
from tests.fuzz import other_targets as others
from tests.fuzz.limits import Harness, hold

HERE = Path(__file__).parent
CORPUS = HERE / "corpus"
"""Inputs that reach something of their own: a folder for each target."""
CRASHES = HERE / "crashes"
"""Inputs that once broke a promise, named by what they are: a folder for each target."""


@dataclass(frozen=True)
class Target:
    """A door through which strangers' bytes come in."""

    harness: Harness
    """What is done with them."""
    modules: tuple[str, ...]
    """Files of explorer/ that are behind it."""
    examples: int = 40
    """Changed inputs in the default tests; a slow target has fewer."""
    corpus: str = ""
    """Whose corpus it shares; default a folder of its own."""


_READERS = tuple(
    f"weights/readers/{name}.py" for name in ("finding", "known", "parts", "when", "reader")
)
_TORCH = tuple(
    f"weights/readers/{name}.py" for name in ("torch_files", "torch_formats", "pickled", "states")
)
_STACK = (
    "weights/stack.py",
    "weights/sources.py",
    "weights/parts.py",
    "weights/fitting.py",
    "weights/numbering.py",
)
_HUB = tuple(f"inventory/{name}.py" for name in ("hub", "hub_folder", "hub_client"))

TARGETS = {
    "manifest": Target(
        others.manifest, ("inventory/manifest.py", "inventory/entries.py", "inventory/names.py"), 20
    ),
    "safetensors": Target(
        checkpoints.safetensors, ("weights/safetensors_file.py", "weights/checkpoints.py")
    ),
    "header": Target(checkpoints.header, ("weights/safetensors_file.py",)),
    "torch": Target(checkpoints.torch_file, _TORCH),
    "pickle": Target(checkpoints.torch_pickle, _TORCH),
    "index": Target(checkpoints.index, ("weights/readers/parts.py",)),
    "trainer-state": Target(checkpoints.trainer_state, ("weights/readers/when.py",)),
    "names": Target(checkpoints.names, ("weights/readers/when.py", "weights/numbering.py")),
    "stack": Target(checkpoints.stack, (*_READERS, *_STACK), 25),
    "doctor": Target(
        checkpoints.examined,
        tuple(
            f"doctor/{n}.py" for n in ("patient", "folder", "pieces", "faults", "order", "passage")
        ),
        8,
        "stack",
    ),
    "zarr": Target(others.zarr, ("weights/labelled.py",), 8),
    "netcdf": Target(others.labelled, ("weights/labelled.py", "inventory/hdf5.py"), 10),
    "sweep": Target(others.sweep, ("engine/results.py", "engine/overview.py"), 8),
    "sweep-text": Target(others.sweep_text, ("engine/results.py", "engine/overview.py"), 8),
    "journal": Target(others.journal, ("engine/journal.py",)),
    "dataset": Target(
        others.dataset,
        tuple(f"data/{name}.py" for name in ("text", "tokenizers", "folders", "archives")),
        6,
    ),
    "command": Target(others.command, ("cli.py", "training/settings.py", "weights/layers.py"), 25),
    "hub": Target(others.hub, _HUB, 8),
    "hub-notes": Target(others.hub_notes, (*_HUB, "weights/hub_revisions.py"), 25),
}


def promise(target: str, data: bytes, root: Path, name: str = "input") -> ExplorerError | None:
    """Give bytes to a target as `hold` does, once what it imports is imported."""
    _warm(target)
    return hold(TARGETS[target].harness, data, root, name)


@functools.cache
def _warm(target: str) -> None:
    """Let a target read its seeds unwatched: what is imported then writes caches and takes time."""
    for path in inputs_of(target):
        if path.name.startswith("seed-"):
            with tempfile.TemporaryDirectory() as folder, contextlib.suppress(ExplorerError):
                TARGETS[target].harness(path.read_bytes(), Path(folder))


def inputs_of(target: str, folder: Path = CORPUS) -> list[Path]:
    """Files that are kept for a target."""
    shared = TARGETS[target].corpus if folder == CORPUS else ""
    return sorted(path for path in (folder / (shared or target)).glob("*") if path.is_file())
