"""Titles of figures: lines as long as the page has room for, whatever names are in them."""

from __future__ import annotations

import textwrap
from typing import Any

from bokeh.models import CustomJS

WIDTH, LINE = 27, 17
"""Characters of a title that fit beside the axis of a figure of 270 pixels, and pixels a line."""

_UNSEEN = "\u2060"
"""Where a line may end within a word; a line that ends with it or a blank goes on in the next."""

_WRAP = """
if (plot.properties.inner_width.is_unset) return  // not laid out yet: the new width brings us back
const draw = document.createElement("canvas").getContext("2d")
draw.font = `bold 13px ${font}`
const fits = text => draw.measureText(text.trimEnd()).width <= plot.inner_width
const wrapped = line => {
  const lines = [""]
  for (const part of line.split(/(?<=[ \u2060])/)) {
    const longer = lines.at(-1) + part
    if (fits(longer)) lines.splice(-1, 1, longer)
    else lines.push(part)
  }
  return lines.filter(text => text).join("\\n")
}
const whole = plot.title.text.replace(/([ \u2060])\\n/g, "$1")
const text = whole.split("\\n").map(wrapped).join("\\n")
setTimeout(() => {
  if (plot.title.text == text) return
  plot.title.setv({text}, {sync: false})
  setTimeout(() => plot.properties.height.change.emit(), 0)
}, 0)
"""
"""Only the page knows how wide a title may be; nobody else is told of what it makes of it. Bokeh
does not lay out a figure anew for its title, but does when it hears of another height."""


def put_title(plot: Any, text: str) -> None:
    """Give a figure a title in lines that fit a narrow page, longer ones where there is room.

    Parameters
    ----------
    plot : bokeh figure
        Whose height has room for a line; it grows by the others that a narrow page needs.
    text : str
        In lines; names in it, as they come from data, are safe.
    """
    plot.title.text = title = broken_title(text, WIDTH)
    plot.height += LINE * title.count("\n")
    plot.title.vertical_align = "top"  # above its figure a title would leave a trace there
    wrap = CustomJS(args={"plot": plot, "font": plot.title.text_font}, code=_WRAP)
    plot.js_on_change("outer_width", wrap)  # the page's: the inner one may follow from the title
    plot.title.js_on_change("text", wrap)


def broken_title(text: str, longest: int) -> str:
    """Return a title with its lines broken; names in it, as they come from data, are safe."""
    return "\n".join(_broken(line, longest) for line in without_formulae(text).split("\n"))


def _broken(line: str, longest: int) -> str:
    line = " ".join(line.split())
    parts, at = [], 0
    for part in textwrap.wrap(line, longest):
        at += len(part)
        blank = line[at : at + 1] == " "
        at += blank
        parts.append(part + (" " if blank else _UNSEEN))
    return "\n".join(parts).rstrip(f" {_UNSEEN}")


def without_formulae(text: str) -> str:
    """Return a text for a title or label in which Bokeh finds no TeX, whatever names are in it.

    Bokeh takes what stands between two $$ for a formula. An invisible character in between keeps
    the text as it looks.
    """
    for sign in ("$$", "\\[", "\\("):
        text = text.replace(sign, f"{sign[0]}{_UNSEEN}{sign[1]}")
    return text
