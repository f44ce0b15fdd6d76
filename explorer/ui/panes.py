"""The parts of the explorer that are not pictures: headings, selectors, status, errors."""

from __future__ import annotations

from html import escape

import ipywidgets as widgets

from explorer.ui.grid import WHOLE_NETWORK, Choice, Grid, Unit
from explorer.ui.wording import DISTANCE_LEGEND, MEASURES, error_legend, percent

STYLE = """<style>
.layer-explorer {
  --jp-widgets-label-color: #222; --jp-ui-font-color1: #222; --jp-content-font-color1: #222;
  background: #fff; color: #222; border: 1px solid #ddd; border-radius: 8px;
  padding: 10px 14px 6px; color-scheme: light; max-width: 1180px;
}
.layer-explorer .widget-html, .layer-explorer .widget-html-content {
  height: auto; margin: 0; line-height: 1.45; font-size: 13px; color: #222;
}
.layer-explorer h3 { font-size: 16px; margin: 0 0 2px; font-weight: 600; color: #111; }
.layer-explorer h4 { font-size: 13px; margin: 0; font-weight: 600; line-height: 1.3; color: #111; }
.layer-explorer .layer-explorer-title .widget-label { font-weight: 600; color: #111; }
.layer-explorer p { margin: 0 0 4px; max-width: 120ch; color: #444; }
.layer-explorer .widget-dropdown .widget-label { color: #222; width: auto; }
.layer-explorer select { color: #222; background-color: #fff; border: 1px solid #888; }
.layer-explorer button { border-radius: 4px; font-weight: 600; }
.layer-explorer button:focus-visible, .layer-explorer select:focus-visible {
  outline: 2px solid #0b57d0; outline-offset: 1px;
}
.layer-explorer button.mod-primary { background: #0b57d0; color: #fff; }
.layer-explorer progress { width: 100%; height: 6px; accent-color: #a50f15; display: block; }
.layer-explorer [role=alert] {
  white-space: pre-line; border-left: 4px solid #a50f15; background: #fdf0ef; color: #5f0a0f;
  padding: 6px 10px; margin: 4px 0; max-width: 92ch;
}
</style>"""
"""Light in a dark page too: the heatmaps' white stands for a number."""


def heading(title: str, final_error: float, chance_error: float, unit: Unit) -> str:
    """Return the title and the legend as HTML; every name in it is escaped."""
    facts = f"final test error {percent(final_error)} · chance {percent(chance_error)}"
    return (
        f"{STYLE}<h3>{escape(title)}</h3><p>{escape(facts)}</p>"
        f"<p>{error_legend(unit)} {DISTANCE_LEGEND}</p>"
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
        self._alert.value = f'<div role="alert">{escape(text)}</div>' if text else ""


class Controls(widgets.Box):
    """Selectors of layer and source, Compute and Stop: the way without a pointer.

    Parameters
    ----------
    grid : Grid
        What there is to choose from.
    """

    def __init__(self, grid: Grid) -> None:
        self._grid = grid
        self._layers: tuple[str | None, ...] = grid.rows
        draws: list[int | None] = [None, *range(grid.draws)] if grid.draws else []
        self._sources: list[tuple[int | None, int | None]] = [
            *((None, draw) for draw in draws),
            *((epoch, None) for epoch in grid.epochs),
        ]
        self.layer = _menu("Layer", [layer or f"{WHOLE_NETWORK} (all)" for layer in self._layers])
        sources = [_source_name(grid.unit, *source) for source in self._sources]
        self.source = _menu("put back to", sources)
        self.compute = widgets.Button(description="Compute", button_style="primary")
        self.stop = widgets.Button(description="Stop")
        self.compute.layout.width = self.stop.layout.width = "88px"
        super().__init__([self.layer, self.source, self.compute, self.stop])
        self.layout.flex_flow = "row wrap"
        self.layout.align_items = "center"

    @property
    def choice(self) -> Choice:
        """What the selectors say."""
        epoch, draw = self._sources[self.source.index]
        return Choice(self._grid.cell(self._layers[self.layer.index], epoch), draw)

    def follow(self, choice: Choice) -> None:
        """Set the selectors to what was clicked."""
        self.layer.index = self._layers.index(choice.cell.layer)
        self.source.index = self._sources.index((choice.cell.epoch, choice.draw))


def measure_menu() -> widgets.Dropdown:
    """Return the selector of the distance's measure; its label is the title of the picture."""
    menu = _menu("Distance from the start, as", list(MEASURES.values()))
    menu.add_class("layer-explorer-title")
    return menu


def title(text: str) -> widgets.HTML:
    """Return the title of a picture."""
    return widgets.HTML(f"<h4>{escape(text)}</h4>")


def under(title: widgets.Widget, view: widgets.Widget) -> widgets.VBox:
    """Return a view under its title."""
    line = widgets.HBox([title], layout=widgets.Layout(min_height="34px", align_items="center"))
    layout = widgets.Layout(flex="1 1 300px", min_width="0", width="auto")
    return widgets.VBox([line, view], layout=layout)


def _menu(label: str, names: list[str]) -> widgets.Dropdown:
    options = [(name, at) for at, name in enumerate(names)]
    menu = widgets.Dropdown(options=options, index=0, description=label)
    menu.style.description_width = "initial"
    menu.layout.width, menu.layout.min_width, menu.layout.max_width = "auto", "0", "100%"
    menu.layout.margin = "2px 12px 2px 0"
    return menu


def _source_name(unit: Unit, epoch: int | None, draw: int | None) -> str:
    if epoch is not None:
        return f"{unit} {epoch}"
    return "all fresh draws (ReRnd)" if draw is None else f"fresh draw {draw}"
