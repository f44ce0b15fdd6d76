"""What a panel beyond the paper is: values, and pure functions of what was found and selected."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from explorer.ui.grid import Grid
from explorer.ui.studies import Kind


@dataclass(frozen=True)
class Menu:
    """One thing that the reader chooses."""

    label: str
    """What stands before it."""

    entries: Mapping[str, Any]
    """What is read → what it stands for."""


@dataclass(frozen=True)
class Field:
    """One thing that the reader writes."""

    label: str
    """What stands before it."""

    hint: str
    """What stands in it while it is empty."""


@dataclass(frozen=True)
class Ticks:
    """Some of several things that the reader ticks, and others that are written, one a line."""

    label: str
    """What stands before them."""

    entries: tuple[str, ...]
    """What can be ticked."""

    hint: str
    """What stands in the field for others while it is empty."""


@dataclass(frozen=True)
class Opened:
    """A stack that is opened when it is needed, by its name or folder."""

    source: str
    """What `explorer.open_stack` opens."""

    def __repr__(self) -> str:
        return f"lx.open_stack({self.source!r})"


@dataclass(frozen=True)
class Shown:
    """What a panel draws."""

    found: Any
    """As the public function returns it, complete or not."""

    by: Any
    """The chosen entry of the panel's menu `show`; None where it has none."""

    layer: str
    """The selected layer; empty for the whole network."""

    epoch: int
    """The selected checkpoint, or the first."""


@dataclass(frozen=True)
class Asked:
    """What a measurement depends on besides the panel's own menus."""

    grid: Grid
    """Layers and checkpoints."""

    share: float
    """ε, a share of the way to chance."""

    draws: int
    """Fresh draws of the settings."""

    seed: int
    """Seed of the settings."""

    stack: str
    """Name of the stack; empty where it has none."""


@dataclass(frozen=True)
class Panel:
    """One measurement as a part of the page."""

    kind: Kind
    """Which."""

    title: str
    """Its name."""

    sentence: str
    """What it shows, in a sentence."""

    function: str
    """The public function that measures the same."""

    unit: str
    """What its progress counts."""

    csv: tuple[str, ...]
    """Dims of the table that is saved as CSV; none for a comparison, which has a table."""

    asks: Callable[[Asked], Sequence[Menu | Field | Ticks]]
    """What the reader chooses, which decides what is measured."""

    arguments: Callable[[Asked, Sequence[Any]], dict[str, Any]]
    """Keyword arguments of the function, but for those that are as by default."""

    show: Callable[[Any], Menu | None]
    """Menu of what can be shown."""

    figures: Callable[[Shown], list[Any]]
    """What is drawn."""

    names: Callable[[Any], tuple[str, ...]]
    """Names of the figures of a result, for files."""

    table: Callable[[Shown], str]
    """The same in numbers, as HTML; names are escaped."""


def code_of(panel: Panel, arguments: Mapping[str, Any], opened: str, options: str) -> str:
    """Return Python that measures the same.

    Parameters
    ----------
    panel : Panel
        Whose function is called.
    arguments : mapping
        Its keyword arguments.
    opened : str
        Python expression that opens the stack.
    options : str
        Further keyword arguments, each begun by a comma.
    """
    own = "".join(f", {name}={value!r}" for name, value in arguments.items())
    return (
        "import explorer as lx\n\n"
        f"stack = lx.open_stack({opened})\n"
        f"found = lx.{panel.function}(stack{own}{options})\n"
        "print(found)\n"
    )
