"""The parts of the explorer that are neither pictures nor menus: headings, status, errors."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from importlib.resources import files

import ipywidgets as widgets

from explorer.ui.background import Order, OrderStep
from explorer.ui.grid import Unit
from explorer.ui.wording import (
    DISTANCE_LEGEND,
    can_be_put_back,
    error_legend,
    interval,
    percent,
    tick,
)

NARROWEST = 400
"""Pixels of a picture that has another beside it: cells of 13 columns still show their numbers."""

STYLE = f"<style>{(files('explorer.ui') / 'style.css').read_text(encoding='utf-8')}</style>"


def heading(
    title: str, final_error: float, chance_error: float, unit: Unit, doubt: str = ""
) -> str:
    """Return the title and the legend as HTML, and a doubt in between; every name is escaped."""
    facts = f"final test error {percent(final_error)} · chance {percent(chance_error)}"
    return (
        f"{STYLE}<h2>{escape(title)}</h2><p>{escape(facts)}</p>{alert(doubt)}"
        f"<details><summary>How to read the pictures</summary>"
        f"<p>{error_legend(unit)} {DISTANCE_LEGEND}</p></details>"
    )


class StatusPane(widgets.VBox):
    """One line that says what is going on, a progress bar, and errors when there are any."""

    def __init__(self) -> None:
        self._status = widgets.HTML()
        self._progress = widgets.HTML()
        self._alert = widgets.HTML()
        super().__init__([self._status, self._progress, self._alert])
        self.advance(0, 1)

    @property
    def text(self) -> str:
        """The status line as HTML."""
        return str(self._status.value)

    @property
    def alert(self) -> str:
        """The shown error as HTML, empty if there is none."""
        return str(self._alert.value)

    def say(self, text: str) -> None:
        """Set the status line; a screen reader speaks it."""
        self._status.value = f'<span role="status">{escape(text)}</span>'

    def advance(self, seen: int, total: int) -> None:
        """Set the progress bar."""
        self._progress.value = (
            f'<progress aria-label="test examples seen" max="{total}" value="{seen}"></progress>'
        )

    def complain(self, text: str) -> None:
        """Show an error, or none for an empty text."""
        self._alert.value = alert(text)


def alert(text: str) -> str:
    """Return an error as HTML that a screen reader speaks at once; nothing for an empty text."""
    return f'<div role="alert">{escape(text)}</div>' if text else ""


def under(titles: Sequence[widgets.Widget], *views: widgets.Widget) -> widgets.VBox:
    """Return views under their title, which may hold menus."""
    row = {"min_height": "34px", "align_items": "center", "flex_flow": "row wrap"}
    lines = [widgets.Box(titles, layout=row)] if titles else []
    layout = widgets.Layout(flex=f"1 1 {NARROWEST}px", min_width="0", width="auto")
    column = widgets.VBox([*lines, *views], layout=layout)
    column.add_class("layer-explorer-picture")
    return column


def side_by_side(*parts: widgets.Widget) -> widgets.Box:
    """Return parts in a row, one below another where the page is narrow."""
    return widgets.Box(list(parts), layout={"align_items": "flex-start", "flex_flow": "row wrap"})


def close_all_inside(widget: widgets.Widget) -> None:
    """Close what is inside a widget, and what is inside that.

    A box that stays open around a closed widget has no state, and a page that is reloaded asks
    for the state of all widgets at once: it would then show none of the whole notebook.
    """
    for inside in (*getattr(widget, "children", ()), widget.layout, getattr(widget, "style", None)):
        if isinstance(inside, widgets.DOMWidget):
            close_all_inside(inside)
        if isinstance(inside, widgets.Widget):
            inside.close()


class OrderPane(widgets.VBox):
    """A button that asks how far layers can be put back together, and the answer."""

    def __init__(self) -> None:
        self.find = widgets.Button(description="Find the order", button_style="primary")
        self.text = widgets.HTML(
            "<p>Which layers can be put back <em>together</em> before the network suffers? "
            "Starting from the trained network, each step puts back the layer that does the "
            "least harm, to the column of the selected cell, as long as the error stays within "
            "ε. Layers that are robust one by one need not be robust together.</p>"
        )
        self._shown: tuple[Order, float, str] | None = None
        super().__init__([self.find, self.text])

    def begin(self) -> None:
        """Say that nothing has been found so far."""
        self._shown, self.text.value = None, "<p>Looking …</p>"

    def show(self, order: Order, threshold: float, source: str) -> None:
        """Show what has been found so far; see `order_html`."""
        self._shown = order, threshold, source
        self.text.value = order_html(order, threshold, source)

    def end(self, said: str) -> None:
        """Say why what has been found is all there will be."""
        if self._shown is None:
            self.text.value = f"<p>{escape(said)} before anything was found.</p>"
        else:
            self.text.value = order_html(*self._shown, going=said)


def order_html(order: Order, threshold: float, source: str, going: str = "Looking") -> str:
    """Return in which order layers can be reset together, as an HTML table.

    Parameters
    ----------
    order : Order
        What has been found so far.
    threshold : float
        Share of the way to chance that is allowed.
    source : str
        What the layers are reset to, in words.
    going : str
        What is said of a search that has come to no end: whether it is still going on.
    """
    steps = list(order.steps)
    rows = [_order_row(number, step, order.parameters) for number, step in enumerate(steps, 1)]
    if order.beyond is not None:
        rows.append(_order_row(len(steps) + 1, order.beyond, order.parameters, ' class="beyond"'))
    left = steps[-1].parameters_left if steps else order.parameters
    share = left / order.parameters if order.parameters else 1.0
    found = (
        f"{can_be_put_back(len(steps), source)} before the error "
        f"goes more than {tick(threshold)} of the way to chance; {left:,} of "
        f"{order.parameters:,} trained parameters ({percent(share)}) are still needed."
    )
    so_far = f"{going}: {order.tried:,} of at most {order.to_try:,} interventions measured."
    return (
        f"<p>{escape(found if order.finished else so_far)}</p><table><caption>Each step adds the "
        'layer that does the least harm.</caption><thead><tr><th scope="col">step</th>'
        '<th scope="col">layer</th><th scope="col">test error</th>'
        '<th scope="col">95 % interval</th><th scope="col">parameters still needed</th></tr>'
        f"</thead><tbody>{''.join(rows)}</tbody></table>"
    )


def _order_row(number: int, step: OrderStep, parameters: int, kind: str = "") -> str:
    name = escape(step.layer) + (" (too much)" if kind else "")
    cells = (
        percent(step.error),
        interval(step.error_low, step.error_high),
        f"{step.parameters_left:,} ({percent(step.parameters_left / max(parameters, 1))})",
    )
    numbers = "".join(f"<td>{cell}</td>" for cell in cells)
    return f'<tr{kind}><td>{number}</td><th scope="row">{name}</th>{numbers}</tr>'
