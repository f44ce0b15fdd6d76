"""Let a page keep the numbers and labels of columns from touching, whatever the width."""

from __future__ import annotations

from typing import Any

from bokeh.models import CustomJS

from explorer.ui.figures import FONT

SMALLEST = 8.5
"""Pixels below which a number cannot be read; it is hidden, and the hover text has it."""

_FIT = """
const draw = document.createElement("canvas").getContext("2d")
const width = (text, size) => {
  draw.font = `${size}px ${font}`
  return draw.measureText(text).width
}
const cell = plot.inner_width / (plot.x_range.end - plot.x_range.start)
const room = Math.floor(2 * largest * (cell - 2) / width(widest, largest)) / 2
const size = `${Math.max(smallest, Math.min(largest, room))}px`
const fits = size => labels.every(([at, text], n) => n == 0 ||
  (at - labels[n - 1][0]) * cell >= 3 + (width(text, size) + width(labels[n - 1][1], size)) / 2)
const fitting = [12, 11].find(fits)
setTimeout(() => {
  if (numbers != null) {
    numbers.visible = room >= smallest
    if (numbers.glyph.text_font_size.value != size)
      numbers.glyph.text_font_size = {value: size}
  }
  axis.major_label_text_font_size = `${fitting ?? 11}px`
  axis.major_label_orientation = fitting ? "horizontal" : "vertical"
}, 0)
"""
"""Only the page knows how wide a cell and a text are. Bokeh tells a new width in the middle of
laying out, so what follows from it waits until that is done."""


def fit_to_width(plot: Any, numbers: Any = None, widest: str = "100", largest: int = 11) -> None:
    """Let the page keep numbers and column labels from touching, whatever the width.

    Parameters
    ----------
    plot : bokeh.models.Plot
        From `heatmap_figure`, or `profile_figure`.
    numbers : bokeh.models.GlyphRenderer or None
        The numbers in the cells: smaller in narrow cells, hidden in very narrow ones; None if
        there are no numbers.
    widest : str
        A number as wide as any that stands in a cell.
    largest : int
        Height of the numbers where there is room, in pixels.
    """
    (axis,) = plot.xaxis
    labels = sorted(axis.major_label_overrides.items())
    known = {"plot": plot, "axis": axis, "numbers": numbers, "labels": labels, "font": FONT}
    sizes = {"widest": widest, "largest": largest, "smallest": SMALLEST}
    plot.js_on_change("inner_width", CustomJS(args={**known, **sizes}, code=_FIT))
