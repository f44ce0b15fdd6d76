"""Do checkpoints fit each other and the model? From headers alone; no tensor is read.

One that does not fit, or cannot be read, is marked and leaves the others usable. Prefixes that
wrappers put before every name are taken off, and said.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from explorer.errors import CheckpointError, StackError
from explorer.weights.checkpoints import ArraySpec, Checkpoint
from explorer.weights.wrapped import BrokenCheckpoint, RenamedCheckpoint, Specs, below

PREFIXES = ("module.", "_orig_mod.", "model.")
"""What DataParallel, torch.compile and Lightning put before the names of a network."""


@dataclass(frozen=True)
class Fitted:
    """Checkpoints that fit, and what was done for it."""

    checkpoints: list[Checkpoint]
    """All of them, those that cannot be used as `BrokenCheckpoint`."""
    specs: dict[str, ArraySpec]
    """What the usable ones have in common."""
    prefixes: tuple[str, ...]
    """Those that were taken off, each once."""
    unmatched: tuple[str, ...]
    """Names in the files that belong to a wrapper and not to the model; they are left alone."""
    unreadable: dict[int, str]
    """Position → why the checkpoint there cannot be used."""
    notes: tuple[str, ...]
    """What the checkpoints say about themselves, such as which of several state dicts it is."""


@dataclass(frozen=True, eq=False)
class _Kind:
    """Checkpoints that have one header."""

    positions: tuple[int, ...]
    """Where they stand among all, rising."""
    header: Specs
    """Names, dtypes and shapes in their files."""
    prefix: str
    """What stands before the network's names."""
    specs: Specs
    """The header without the prefix."""

    @property
    def unmatched(self) -> list[str]:
        """Names that do not begin with the prefix."""
        return [name for name in self.header if not name.startswith(self.prefix)]


def fitted(
    checkpoints: Sequence[Checkpoint],
    labels: Sequence[str],
    expected: Mapping[str, tuple[int, ...]] | None,
) -> Fitted:
    """Read all headers, and make the names and shapes of the checkpoints one.

    Parameters
    ----------
    checkpoints, labels : sequence
        Checkpoints, and how to call them in an error.
    expected : mapping, optional
        The model's names and shapes.

    Raises
    ------
    CheckpointError
        None of the checkpoints can be read.
    StackError
        There is none, they belong to several networks, or they do not fit the model.
    """
    if not checkpoints:
        raise StackError(
            "There are no checkpoints.",
            "A stack has at least one.",
            "Pass at least one file or state dict.",
        )
    headers, broken = _headers(checkpoints)
    kinds = _kinds(headers, expected)
    prefix = {k: kind.prefix for kind in kinds for k in kind.positions if kind.prefix}
    used = [
        RenamedCheckpoint(c, prefix[k]) if k in prefix else c for k, c in enumerate(checkpoints)
    ]
    common = _common(kinds, labels)
    if expected is not None:
        common = check_model(common, expected)
    for kind in kinds:
        odd = _odd(common, kind.specs)
        if odd:
            broken |= {k: _differs(labels[k], "the others", odd) for k in kind.positions}
    for k, error in broken.items():
        used[k] = BrokenCheckpoint((error.came, error.accepted, error.advice))
    reasons = {k: error.came for k, error in sorted(broken.items())}
    usable = [checkpoint for k, checkpoint in enumerate(checkpoints) if k not in broken]
    notes = dict.fromkeys(note for c in usable for note in getattr(c, "notes", list)())
    prefixes = tuple(dict.fromkeys(prefix.values()))
    unmatched = tuple(dict.fromkeys(name for kind in kinds for name in kind.unmatched))
    return Fitted(used, common, prefixes, unmatched, reasons, tuple(notes))


def reading_notes(fit: Fitted) -> list[str]:
    """Sentences on what was done so that the checkpoints fit, and what cannot be used."""
    widened = sorted({spec.stored for spec in fit.specs.values() if spec.stored})
    notes = list(fit.notes)
    if fit.prefixes:
        shown = ", ".join(repr(prefix) for prefix in fit.prefixes)
        notes.append(f"Taken off the beginning of the names: {shown}.")
    if fit.unmatched:
        notes.append(f"Left alone, as no part of the model: {', '.join(fit.unmatched)}.")
    if widened:
        notes.append(f"Stored as {', '.join(widened)}, read as float32.")
    if fit.unreadable:
        notes.append(f"{len(fit.unreadable)} of the checkpoints cannot be used.")
    return notes


def prefix_of(names: Sequence[str], expected: Mapping[str, Any] | None) -> str:
    """What stands before the network's own names: the known prefixes, in any order and number.

    With a model it is the shortest that makes all its names appear, or else as many as can be;
    without one, the longest that all names share.
    """
    chains = sorted({chain for name in names for chain in _chains(name)}, key=len)
    if expected is None:
        shared = [c for c in chains if all(name.startswith(c) for name in names)]
        return shared[-1] if shared else ""
    have = set(names)
    matches = {p: sum(p + name in have for name in expected) for p in ("", *chains)}
    return max(matches, key=lambda prefix: matches[prefix])  # the first of the largest


def check_model(specs: Specs, expected: Mapping[str, tuple[int, ...]]) -> dict[str, ArraySpec]:
    """Checkpoints' names in the model's order, once they are known to fit."""
    missing = [name for name in expected if name not in specs]
    extra = [name for name in specs if name not in expected]
    if len(missing) == len(expected):
        raise StackError(
            f"None of the {len(specs)} names in the checkpoints is the model's: they lack "
            f"{_some(missing)} and have {_some(extra)}.",
            f"The names must be those of model.state_dict(); {', '.join(PREFIXES)} before them "
            "are taken off.",
            "Pass the network that was trained, without a wrapper such as DataParallel.",
        )
    if missing or extra:
        raise StackError(
            f"The checkpoints lack {_some(missing)} and have {_some(extra)} beyond the model's.",
            "The names must be those of model.state_dict(), all of them and no others.",
            "Pass the network that was trained, or the right tensors with reader=.",
        )
    wrong = [name for name in expected if specs[name].shape != expected[name]]
    if wrong:
        name = wrong[0]
        raise StackError(
            f"{name} has shape {specs[name].shape} in the checkpoints.",
            f"The model's has {expected[name]}.",
            "Build the model with the sizes it was trained with.",
        )
    return {name: specs[name] for name in expected}


def _headers(
    checkpoints: Sequence[Checkpoint],
) -> tuple[dict[int, dict[str, ArraySpec]], dict[int, CheckpointError]]:
    """Position → header, and position → why there is none."""
    specs, broken = {}, {}
    for k, checkpoint in enumerate(checkpoints):
        try:
            specs[k] = checkpoint.specs()
        except CheckpointError as error:
            broken[k] = error
    if len(broken) == 1 == len(checkpoints):
        raise broken[0]
    if not specs:
        raise CheckpointError(
            f"None of the {len(checkpoints)} checkpoints can be read. The first: {broken[0].came}",
            broken[0].accepted,
            broken[0].advice,
        )
    return specs, broken


def _kinds(
    headers: Mapping[int, Specs], expected: Mapping[str, tuple[int, ...]] | None
) -> list[_Kind]:
    """The headers that differ, in the order of their first checkpoints.

    What follows from a header is found out once, and not for each of a thousand files that share
    it. An order of names is no difference.
    """
    shared: dict[int, list[int]] = {}
    for k, header in headers.items():
        shared.setdefault(id(header), []).append(k)  # one object for all files that agree
    alike: dict[frozenset[tuple[str, ArraySpec]], list[int]] = {}
    for positions in shared.values():
        alike.setdefault(frozenset(headers[positions[0]].items()), []).extend(positions)
    kinds = []
    for positions in alike.values():
        header = headers[positions[0]]
        prefix = prefix_of(list(header), expected)
        specs = below(prefix, header) if prefix else header
        kinds.append(_Kind(tuple(sorted(positions)), header, prefix, specs))
    return kinds


def _common(kinds: Sequence[_Kind], labels: Sequence[str]) -> dict[str, ArraySpec]:
    """What more than half of the checkpoints agree in."""
    counts: Counter[frozenset[tuple[str, ArraySpec]]] = Counter()
    contents = [frozenset(kind.specs.items()) for kind in kinds]
    for content, kind in zip(contents, kinds, strict=True):
        counts[content] += len(kind.positions)
    [(largest, count)] = counts.most_common(1)
    if 2 * count <= counts.total():
        other = next(kind for kind, c in zip(kinds, contents, strict=True) if c != contents[0])
        odd = _odd(kinds[0].specs, other.specs)
        raise _differs(labels[other.positions[0]], "the first", odd, StackError)
    return dict(kinds[contents.index(largest)].specs)


def _differs(
    label: str,
    from_what: str,
    odd: Sequence[str],
    kind: type[CheckpointError] | type[StackError] = CheckpointError,
) -> Any:
    return kind(
        f"{label} differs from {from_what} in {_some(odd)}.",
        "All checkpoints of a stack have the same names, shapes and dtypes.",
        "Leave out the checkpoints of another network.",
    )


def _odd(one: Specs, other: Specs) -> list[str]:
    """Names in which two headers differ."""
    return sorted(set(one) ^ set(other)) or [name for name in one if one[name] != other[name]]


def _chains(name: str) -> list[str]:
    """Known prefixes that a name begins with: ``module.``, then ``module._orig_mod.``."""
    chains, rest = [], name
    while prefix := next((p for p in PREFIXES if rest.startswith(p)), ""):
        rest = rest.removeprefix(prefix)
        chains.append(name[: len(name) - len(rest)])
    return chains


def _some(names: Sequence[str], most: int = 5) -> str:
    shown = ", ".join(names[:most]) or "nothing"
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
