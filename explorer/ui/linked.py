"""What links a figure with the selection: the mark of a layer, and the layer under a click."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from bokeh.models import ColumnDataSource, Range1d

LAYER = "layer"
"""Column of a figure's points that names the layer each belongs to."""

REACH = 0.2
"""How far beside a point a click may be, as a share of the figure."""


def frame_row(plot: Any, row: int | None) -> None:
    """Draw a frame around a row of a figure of cells, or none."""
    left, right = plot.x_range.start, plot.x_range.end
    found = {"x": [(left + right) / 2], "y": [row]} if row is not None else {"x": [], "y": []}
    source = ColumnDataSource(found)
    for colour, width in (("#ffffff", 4.0), ("#111111", 1.8)):
        plot.rect(
            "x",
            "y",
            right - left - 0.08,
            0.97,
            source=source,
            fill_alpha=0,
            line_color=colour,
            line_width=width,
        )


def ring_points(plot: Any, x: list[Any], y: list[Any]) -> None:
    """Draw rings around points."""
    source = ColumnDataSource({"x": x, "y": y})
    plot.scatter("x", "y", source=source, size=16, fill_alpha=0, line_color="#222", line_width=2)


def layer_near(plot: Any, x: float | None, y: float | None) -> str:
    """Return the layer whose point is nearest to a click; empty where none is near."""
    points = list(_points(plot))
    if x is None or y is None or not points:
        return ""
    width, height = (
        _span(getattr(plot, f"{axis}_range"), points, k) for k, axis in enumerate("xy")
    )
    apart = {((px - x) / width) ** 2 + ((py - y) / height) ** 2: layer for px, py, layer in points}
    return apart[min(apart)] if min(apart) < REACH**2 else ""


def _points(plot: Any) -> Iterator[tuple[float, float, str]]:
    for renderer in plot.renderers:
        columns = renderer.data_source.data
        if LAYER in columns:
            for x, y, layer in zip(columns["x"], columns["y"], columns[LAYER], strict=True):
                if layer and x is not None and y is not None and math.isfinite(x + y):
                    yield float(x), float(y), str(layer)


def _span(shown: Any, points: list[tuple[float, float, str]], axis: int) -> float:
    """Width of what an axis shows; where only the page knows it, that of the points."""
    places: list[Any] = [point[axis] for point in points]
    if isinstance(shown, Range1d):
        places = [shown.start, shown.end]
    return float(max(places) - min(places)) or 1.0
