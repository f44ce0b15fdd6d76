"""Which of the mappings in a checkpoint file is the network's state dict."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from explorer.errors import CheckpointError
from explorer.weights.checkpoints import ArraySpec, array_spec
from explorer.weights.readers.pickled import StoredTensor, Stranger

USUAL = ("state_dict", "model_state_dict", "model")
"""Keys under which scripts keep the network's own state dict; of several other candidates none
is taken unasked, since an average (``ema``) is another network."""


@dataclass(frozen=True)
class State:
    """A state dict as it stands in a file."""

    tensors: Mapping[str, StoredTensor]
    """Name → tensor."""
    notes: list[str]
    """What was chosen, in sentences."""

    @functools.cached_property
    def specs(self) -> dict[str, ArraySpec]:
        """Name → what the tensor will be; one object for all files that share their pickle."""
        return {name: array_spec(t.dtype, t.shape, name) for name, t in self.tensors.items()}


def choose_state(content: Any, key: str | None, where: str) -> State:
    """Find the state dict in what a file holds: the whole of it, or under one of its keys.

    Parameters
    ----------
    content : object
        What was saved.
    key : str, optional
        Under which key to look; the keys of nested mappings are joined by dots.
    where : str
        How to call the file in an error.

    Raises
    ------
    CheckpointError
        There is none, or it is not clear which one is meant.
    """
    if key is not None:
        return _asked_for(content, key, where)
    if is_state(content):
        return State(content, [])
    if not isinstance(content, Mapping):
        raise _no_state(content, where)
    named = {str(name): value for name, value in content.items() if is_state(value)}
    candidates = list(named)
    usual = [name for name in candidates if name in USUAL]
    chosen = candidates if len(candidates) == 1 else usual
    if not candidates:
        raise _no_state(content, where)
    if len(chosen) != 1:
        raise CheckpointError(
            f"{where} holds several state dicts: {', '.join(candidates)}.",
            f"One of them, or one of the usual names {', '.join(USUAL)}, would be clear.",
            f"Choose with key={chosen[0] if chosen else candidates[0]!r}.",
        )
    return State(named[chosen[0]], [_note(chosen[0], candidates)])


def is_state(value: Any) -> bool:
    """Say whether a value is a mapping {name: tensor} and nothing else."""
    return (
        isinstance(value, Mapping)
        and bool(value)
        and all(isinstance(n, str) and isinstance(t, StoredTensor) for n, t in value.items())
    )


def _asked_for(content: Any, key: str, where: str) -> State:
    found = content
    for part in key.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    if not is_state(found):
        raise CheckpointError(
            f"{where} holds no state dict under {key!r}.",
            f"It holds {_described(content)}.",
            "Choose another key=, or leave it out.",
        )
    return State(found, [_note(key, [])])


def _note(key: str, candidates: list[str]) -> str:
    others = [name for name in candidates if name != key]
    beside = f"; beside it: {', '.join(others)}" if others else ""
    return f"The state dict under {key!r} was taken{beside}."


def _no_state(content: Any, where: str) -> CheckpointError:
    return CheckpointError(
        f"{where} cannot be read as a checkpoint: it holds {_described(content)}.",
        "A mapping {name: tensor} is expected, alone or under a key such as 'state_dict'.",
        "Save net.state_dict(), or pass reader=, a function from the path to {name: tensor}.",
    )


def _described(content: Any) -> str:
    """What a file holds, in a few words."""
    if isinstance(content, Stranger):
        return f"a whole {content.name} object"
    if not isinstance(content, Mapping):
        return f"a {type(content).__name__}"
    if not content:
        return "an empty mapping"
    shown = [f"{_key(key)}: {_kind(value)}" for key, value in list(content.items())[:6]]
    return "a mapping with " + ", ".join([*shown, *(["…"] if len(content) > 6 else [])])


def _key(key: Any) -> str:
    """A key in a few characters; numbers and tuples may be as long as the file."""
    return repr(key[:40]) if isinstance(key, str) else f"a key of the type {type(key).__name__}"


def _kind(value: Any) -> str:
    if isinstance(value, StoredTensor):
        return "a tensor"
    return f"a {value.name}" if isinstance(value, Stranger) else f"a {type(value).__name__}"
