"""When a checkpoint was taken: completed epochs and optimiser steps, which are never mixed."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MOST = 2**63 - 1
"""Largest number of an epoch or step: they become a coordinate of int64."""

_EPOCH = re.compile(r"(?<![a-z])ep(?:och)?s?[^a-z0-9]?(\d+)")
_STEP = re.compile(r"(?<![a-z])(?:global[_-]?)?(?:step|iter(?:ation)?)s?[^a-z0-9]?(\d+)")
_SUFFIXES = re.compile(r"(\.(safetensors|index|json|pt|pth|tar|bin|th|ckpt))+$")
_VERSION = re.compile(r"-v\d+$")  # what Lightning appends rather than overwrite a file


@dataclass(frozen=True)
class When:
    """How far training had come, as far as it is known."""

    epoch: int | None = None
    """Completed passes over the training set."""
    step: int | None = None
    """Optimiser steps."""
    number: int | None = None
    """A number of which nothing says what it counts."""

    @property
    def known(self) -> bool:
        """Say whether there is any number."""
        return (self.epoch, self.step, self.number) != (None, None, None)


def when_of_name(path: Path) -> When:
    """Read a file's name, or its folder's where all files have one name; nothing is opened.

    Words such as ``epoch`` and ``step`` say what a number counts; without them it is the last one.
    """
    known = _SUFFIXES.search(path.name)
    stem = path.name[: known.start()] if known else path.stem
    found = _when(_VERSION.sub("", stem))
    return found if found.known else when_of_folder(path.parent.name, in_words=True)


def when_of_folder(name: str, in_words: bool = False) -> When:
    """Read the name of a checkpoint's own folder: the Trainer's ``checkpoint-84`` counts steps.

    `in_words` leaves out a number of which nothing says what it counts.
    """
    trainer = re.fullmatch(r"checkpoint-(\d+)", name)
    if trainer:
        return When(step=int(trainer[1]))
    found = _when(name)
    return When() if in_words and found.number is not None else found


def _when(text: str) -> When:
    text = text.lower()
    epoch, step, numbers = _EPOCH.search(text), _STEP.search(text), re.findall(r"\d+", text)
    if epoch or step:
        return When(int(epoch[1]) if epoch else None, int(step[1]) if step else None)
    return When(number=int(numbers[-1])) if numbers else When()


def count_in(text: str) -> int | None:
    """A count in the notes of a file, in digits; None for anything else, such as 5,000 of them."""
    return _whole(int(text)) if text.isdecimal() and len(text) <= len(str(MOST)) else None


def when_inside(content: Mapping[Any, Any]) -> When:
    """Read what a training script kept beside the tensors.

    Lightning's ``epoch`` is the number of the running pass; how many are complete stands among
    its loops. timm's, from version 2 of its files on, is the number of the pass that has ended.
    """
    epoch, step = _whole(content.get("epoch")), _whole(content.get("global_step"))
    step = _whole(content.get("step")) if step is None else step
    if "pytorch-lightning_version" in content:
        epoch = _whole(_within(content, "loops.fit_loop.epoch_progress.current.processed"))
    elif epoch is not None and {"arch", "version"} <= set(content):
        epoch += (_whole(content["version"]) or 0) > 1
    return When(epoch, step)


def _within(content: Any, dotted: str) -> Any:
    """Walk into nested mappings; Lightning writes some of its keys with a dot."""
    found = content
    keys = dotted.split(".")
    while keys and isinstance(found, Mapping):
        joined = next((k for k in range(len(keys), 0, -1) if ".".join(keys[:k]) in found), 0)
        found, keys = found.get(".".join(keys[:joined])), keys[joined or len(keys) :]
    return found


def _whole(value: Any) -> int | None:
    """A count, or None for anything else, such as the Trainer's half epochs."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= MOST:
        return None  # NaN and infinity, which JSON may hold, are none either
    return int(value) if value == int(value) else None
