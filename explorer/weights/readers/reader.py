"""What a reader is: how one kind of checkpoint is recognised, numbered and opened."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from explorer.weights.checkpoints import Checkpoint
from explorer.weights.readers.when import When, when_of_name


@dataclass(frozen=True)
class Reader:
    """One kind of checkpoint.

    Other packages add theirs through the entry-point group ``explorer.readers``: each entry point
    names such a value.
    """

    name: str
    """What ``open_stack(…, reader=name)`` calls it."""
    reads: str
    """What it reads, in a line."""
    claims: Callable[[Path], bool]
    """Says whether a file, or a folder, is one checkpoint of this kind; looks at names only."""
    open: Callable[[Path, str | None], Checkpoint]
    """Opens it, reading no tensor; the second argument chooses among several state dicts.
    Raises `CheckpointError` where it cannot be read, which marks this checkpoint alone."""
    when: Callable[[Path], When] = when_of_name
    """Reads from its name when it was taken."""
    inside: Callable[[Path], When] = lambda path: When()
    """Reads the same from its content; asked only where the name does not say it."""
    plain: bool = False
    """Whether such checkpoints may stand beside those of other plain readers in one folder."""
    remark: str = ""
    """A sentence that its user should know, such as how it counts."""
    home: str = "layer-explorer"
    """The package that brings it."""
