"""Figures that follow: a shown figure is brought to the state of a newly made one.

The functions that draw a Dataset make a whole figure each time. While a measurement runs, only
what has changed since is sent to the page.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from bokeh.model import Model
from bokeh.models import ColumnDataSource

ITS_OWN = frozenset(
    {"id", "name", "tags", "subscribed_events", "js_event_callbacks", "js_property_callbacks"}
)
"""Properties that stay as they are: who the figure is, and who listens to it."""


def bring_up_to_date(shown: Model, made: Model) -> bool:
    """Give a shown figure what a newly made one says; return False where it has other parts.

    Parameters
    ----------
    shown : bokeh figure
        Changed in place, but only if all its parts have their like in the other.
    made : bokeh figure
        Not put into any document; it is of no use afterwards.
    """
    pairs: dict[str, tuple[Model, Model]] = {}
    if not _pair(shown, made, pairs):
        return False
    for old, new in pairs.values():
        if isinstance(old, ColumnDataSource):
            _fill(old, new)
            continue
        for name in _names(old, new):
            wanted = getattr(new, name)
            if not any(_models_in(wanted)) and getattr(old, name) != wanted:
                setattr(old, name, wanted)
    return True


def _fill(old: ColumnDataSource, new: ColumnDataSource) -> None:
    mine, theirs = (
        {name: np.asarray(values).tolist() for name, values in one.data.items()}
        for one in (old, new)
    )
    if mine != theirs:
        old.data = theirs


def _pair(old: Model, new: Model, pairs: dict[str, tuple[Model, Model]]) -> bool:
    """Find the like of each part, from the figure down; False where one has none."""
    if new.id in pairs:
        return pairs[new.id][0] is old
    if type(old) is not type(new):
        return False
    pairs[new.id] = old, new
    for name in _names(old, new):
        mine, theirs = (list(_models_in(getattr(one, name))) for one in (old, new))
        if len(mine) != len(theirs):
            return False
        if not all(_pair(a, b, pairs) for a, b in zip(mine, theirs, strict=True)):
            return False
    return True


def _names(old: Model, new: Model) -> Iterable[str]:
    """Properties that one of the two has of its own, in a fixed order.

    Bokeh's public `properties_with_values` says the same in fifty times as long.
    """
    own = (
        names
        for one in (old, new)
        for names in (one._property_values, one._unstable_default_values)
    )
    return sorted(set().union(*own) - ITS_OWN)


def _models_in(value: Any) -> Iterator[Model]:
    if isinstance(value, Model):
        yield value
    elif isinstance(value, (list, tuple)):
        for one in value:
            yield from _models_in(one)
