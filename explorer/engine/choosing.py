"""What a reader wants of the layers and epochs there are."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from explorer.errors import UsageError, unknown_name


def chosen(kind: str, wanted: Sequence[Any] | None, available: Sequence[Any]) -> list[Any]:
    """What is wanted of what there is; all of it by default.

    Raises
    ------
    UnknownNameError, UsageError
        Something is not there, is named twice, or nothing is wanted.
    """
    if wanted is None:
        return list(available)
    several = isinstance(wanted, Iterable) and not isinstance(wanted, (str, bytes))
    names = list(wanted) if several else []
    for name in names:
        if name not in available:
            raise unknown_name(kind, name, available)
    if not names or len(set(names)) < len(names):
        raise UsageError(
            f"{kind}s is {wanted!r}.",
            f"A sequence of at least one {kind}, each once, is needed.",
            f"Pass [{wanted!r}], or leave it out to take every {kind}."
            if isinstance(wanted, (str, int))
            else f"Leave it out to take every {kind}.",
        )
    return names
