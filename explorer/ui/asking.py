"""What a panel asks before it measures, as menus, fields and boxes to tick."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ipywidgets as widgets

from explorer.ui.controls import menu, text
from explorer.ui.panel import Field, Menu, Ticks


class TickBoxes(widgets.VBox):
    """Boxes to tick, and a field for what has no box.

    Parameters
    ----------
    asked : Ticks
        What there is to choose from.
    """

    def __init__(self, asked: Ticks) -> None:
        narrow = {"width": "auto", "margin": "0 14px 0 0"}
        self.boxes = [
            widgets.Checkbox(False, description=name, indent=False, layout=narrow)
            for name in asked.entries
        ]
        self.others = widgets.Textarea(
            description="and others",
            placeholder=asked.hint,
            rows=2,
            continuous_update=False,
            style={"description_width": "initial"},
            layout={"width": "calc(100% - 4px)", "max_width": "540px"},
        )
        row = widgets.Box([widgets.HTML(asked.label), *self.boxes])
        row.layout.flex_flow, row.layout.align_items = "row wrap", "center"
        row.layout.grid_gap = "0 10px"
        super().__init__([row, self.others], layout={"width": "100%"})

    @property
    def chosen(self) -> list[str]:
        """What is ticked, then what is written."""
        written = [line.strip() for line in self.others.value.splitlines() if line.strip()]
        return [*(str(box.description) for box in self.boxes if box.value), *written]


def ask(one: Menu | Field | Ticks) -> Any:
    """Return what the reader chooses with."""
    if isinstance(one, Ticks):
        return TickBoxes(one)
    if isinstance(one, Field):
        return text(one.label, "", one.hint)
    return menu(one.label, list(one.entries))


def chosen(one: Menu | Field | Ticks, asked: Any) -> Any:
    """Return what has been chosen."""
    if isinstance(one, Ticks):
        return asked.chosen
    if isinstance(one, Field):
        return str(asked.value).strip()
    return list(one.entries.values())[int(asked.index)]


def on_choice(asked: Any, handler: Callable[[Any], None]) -> None:
    """Call the handler when something else is chosen."""
    if isinstance(asked, TickBoxes):
        for one in (*asked.boxes, asked.others):
            one.observe(handler, "value")
    else:
        asked.observe(handler, "index" if isinstance(asked, widgets.Dropdown) else "value")
