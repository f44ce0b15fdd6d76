"""Which checkpoints a stack of the hub has: steps by the names of revisions or repositories."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Sequence

from explorer.errors import StackError
from explorer.inventory.hub import Hub
from explorer.inventory.hub_folder import Revision

PREFIX = "hub:"

STEP = re.compile(
    r"(?:stage(?P<stage>\d+)-)?step_?(?P<step>\d{1,18})(?:-tokens[\d.]+[KMBT]?)?", re.I
)
"""Names of revisions that are checkpoints of one run: Pythia's, and OLMo's with its tokens."""

COUNT = re.compile(r"(\d{1,12})([kM]?)")
"""What stands for ``*``: 20k is 20,000. Longer numbers, here and in STEP, do not fit into int64."""

ONLY = 1
"""Number of the only checkpoint, where there is just the trained one."""


def listed(hub: Hub, name: str) -> tuple[dict[int, Revision], list[str]]:
    """Number → revision, rising; and the names that are no checkpoints of this run."""
    if "*" in name:
        return _repositories(hub, name)
    repository, _, wanted = name.partition("@")
    revisions = {one.name: one for one in hub.revisions(repository)}
    if wanted:
        if wanted not in revisions:
            raise StackError(
                f"{repository} has no revision {wanted!r}.",
                f"The hub lists {some_of(sorted(revisions))}.",
                "Choose one of these, or leave @REVISION out.",
            )
        return {ONLY: revisions[wanted]}, []
    steps: dict[int, Revision] = {}
    left_out = []
    for one in revisions.values():
        match = STEP.fullmatch(one.name)
        if match is None or match["stage"] not in (None, "1"):
            left_out.append(one.name)
            continue
        _put(steps, int(match["step"]), one)
    if not steps:
        raise StackError(
            f"{repository} has no revisions named stepN, but {some_of(sorted(revisions))}.",
            "Revisions stepN or stepN-tokensM make a stack; others can be opened one by one.",
            f"Open one checkpoint with {PREFIX}{repository}@{next(iter(revisions), 'main')}.",
        )
    return dict(sorted(steps.items())), left_out


def _repositories(hub: Hub, pattern: str) -> tuple[dict[int, Revision], list[str]]:
    """One repository per checkpoint: the part of the name that ``*`` stands for is its number."""
    owner, _, name = pattern.partition("/")
    beginning = name.partition("*")[0]
    if name.count("*") != 1 or not beginning:
        raise StackError(
            f"The pattern is {PREFIX}{pattern}.",
            "An owner, and a name with one * that stands for the number, are needed.",
            f"For MultiBERTs: {PREFIX}google/multiberts-seed_0-step_*",
        )
    steps: dict[int, Revision] = {}
    left_out = []
    for one in hub.repositories(owner, beginning):
        middle = one.repository[len(owner) + 1 + len(beginning) :]
        middle = middle.removesuffix(name.partition("*")[2])
        match = COUNT.fullmatch(middle)
        if match is None or not fnmatch.fnmatchcase(one.repository, pattern):
            left_out.append(one.repository)
            continue
        factor = {"": 1, "k": 1_000, "M": 1_000_000}[match[2]]
        _put(steps, int(match[1]) * factor, one)
    if not steps:
        raise StackError(
            f"The hub lists no repositories {pattern}.",
            f"Of this owner it lists {some_of(left_out)}."
            if left_out
            else "It lists none near it.",
            "Correct the owner or the pattern.",
        )
    return dict(sorted(steps.items())), left_out


def _put(steps: dict[int, Revision], number: int, one: Revision) -> None:
    if number in steps and steps[number].commit != one.commit:
        raise StackError(
            f"{steps[number]} and {one} are both step {number}.",
            "One checkpoint per step is needed.",
            f"Open one of them alone with {PREFIX}{one}.",
        )
    steps[number] = one


def some_of(items: Sequence[object], most: int = 6) -> str:
    """Write the first of many items, and how many there are."""
    shown = ", ".join(map(str, items[:most])) or "nothing"
    return shown if len(items) <= most else f"{shown} … {items[-1]} ({len(items)} in all)"
