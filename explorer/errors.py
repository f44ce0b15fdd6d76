"""Every exception that Explorer raises on purpose, and what it warns of.

Each message has three parts: what came, what would have been accepted, what to do.
There is one class per border, and each is also the builtin a caller would expect.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

LONGEST_PART = 2_000
"""Characters of one part of a message; what is longer, such as a file's own text, is cut."""

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff]")
"""What would control a terminal, or cannot be written as UTF-8; names in files may hold it."""


class ExplorerError(Exception):
    """Base of all deliberate errors.

    Parameters
    ----------
    came : str
        What was found: the value, shape or file.
    accepted : str
        What would have been accepted.
    advice : str
        What to do about it.
    """

    def __init__(self, came: str, accepted: str, advice: str) -> None:
        self.came, self.accepted, self.advice = map(_shown, (came, accepted, advice))
        super().__init__(self.came, self.accepted, self.advice)

    def __str__(self) -> str:
        return "\n".join((self.came, self.accepted, self.advice))


def _shown(text: str) -> str:
    """Text that can be printed: not endless, and without characters that control a terminal."""
    text = (
        text if len(text) <= LONGEST_PART else f"{text[:LONGEST_PART]} … ({len(text)} characters)"
    )
    return _CONTROL.sub(lambda found: ascii(found[0])[1:-1], text)


class UnknownNameError(ExplorerError, KeyError):
    """A stack, layer, epoch, family or dataset that does not exist here."""


class ManifestError(ExplorerError, ValueError):
    """A manifest or stack.json that does not follow its schema."""


class CheckpointError(ExplorerError, OSError):
    """A checkpoint file that is missing, altered, truncated or unreadable."""


class StackError(ExplorerError, ValueError):
    """Checkpoints that do not fit each other, the model, or the layer scheme."""


class InterventionError(ExplorerError, ValueError):
    """An intervention that cannot be carried out on this network."""


class DataError(ExplorerError, ValueError):
    """A dataset that is missing or does not fit the network."""


class TrainingError(ExplorerError, RuntimeError):
    """A training run that cannot start or go on."""


class ClusterError(ExplorerError, RuntimeError):
    """A Dask cluster that cannot be reached, has no workers, or does not fit the client."""


class OutOfMemoryError(ExplorerError, MemoryError):
    """A device without the memory that a single example needs."""


class UsageError(ExplorerError, ValueError):
    """An argument outside what a public function or command takes."""


class NumbersWarning(UserWarning):
    """Numbers that are not to be trusted: the trained network has not the error it is known for."""


class ChangedStackWarning(UserWarning):
    """Results that were computed from other checkpoints than those they are opened with."""


def unknown_name(kind: str, name: object, known: Iterable[object]) -> UnknownNameError:
    """Build the error for a name that is not among the known ones, nearest names first."""
    by_name = {str(entry): entry for entry in known}
    names = list(by_name)
    near = difflib.get_close_matches(str(name), names, n=3, cutoff=0.5)
    meant = " or ".join(repr(by_name[n]) for n in near)
    hint = f"Did you mean {meant}?" if near else "Use one of these."
    return UnknownNameError(
        f"There is no {kind} {name!r}.", f"Known: {', '.join(names) or '(none)'}.", hint
    )
