"""Curves and points in Bokeh: the running estimate, one layer's profile, distance against error.

Only this file and `views` change a Bokeh document. Whoever calls them holds the session's lock.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from bokeh.core.properties import value
from bokeh.events import DoubleTap, Tap
from bokeh.models import ColumnDataSource, FixedTicker, Line, Scatter, Segment, Text, VArea
from bokeh.models.annotations import Span, Title

from explorer.ui.figures import (
    BLUE,
    FONT,
    INK,
    RED,
    curve_figure,
    draw,
    line_names,
    profile_figure,
    put_columns,
    relation_figure,
)
from explorer.ui.fitting import fit_to_width
from explorer.ui.grid import FRESH, Grid
from explorer.ui.naming import names_beside
from explorer.ui.relations import Profile, Relation
from explorer.ui.results import Counts
from explorer.ui.titles import broken_title
from explorer.ui.wording import interval, percent, tick

LABEL = 0.3
"""Height of a label of two lines, as a share of the axis of errors."""

MARGIN = 1.03
"""Length of the axis of test examples in test sets, so that the last dot is whole."""

NOTHING_YET = "Live estimate: click a cell"
"""Title of a curve before the first run."""

GREY = "#767676"
"""Of fresh draws: 4.5 to 1 on white."""

POINTS = ("x", "y", "layer", "where", "tip")
"""Columns of the points of distance against error."""

ENDS = {"x0": "examples", "y0": "low", "x1": "examples", "y1": "high"}
"""The interval of the newest estimate; of one estimate alone the band has no width."""

TITLE_LETTERS = 38
"""Letters of a line of a curve's title, which is half as wide as the explorer."""

REACH = 0.05
"""How far beside a point a click may be, as a share of the axes."""


class Curve:
    """The running estimate against the test examples seen, with its interval.

    Parameters
    ----------
    description : str
        What a screen reader says.
    """

    def __init__(self, description: str) -> None:
        self._points = ColumnDataSource(data=_curve_columns(()))
        self._last = ColumnDataSource({name: [] for name in ENDS.values()})
        self._intact = Span(
            dimension="width", line_color=INK, line_dash="dashed", line_width=1.5, visible=False
        )
        self._chance = Span(
            dimension="width", line_color="#8a8a8a", line_dash="dotted", line_width=1.5
        )
        self.figure = curve_figure(description)
        self.figure.title.text = NOTHING_YET
        for line in (self._intact, self._chance):
            line.visible = False
            self.figure.add_layout(line)
        self._names = line_names()
        self.figure.add_layout(self._names, "right")
        self._draw_glyphs()

    def baseline(self, final_error: float, chance_error: float, total: int) -> None:
        """Draw the lines of the trained network and of chance, for `total` test examples."""
        self.figure.x_range.end = MARGIN * max(total, 1)
        lines = ((self._intact, final_error, "trained"), (self._chance, chance_error, "chance"))
        labels = {}
        for (line, error, name), place in zip(
            lines, _apart(final_error, chance_error), strict=True
        ):
            if math.isfinite(error):
                line.update(location=error, visible=True)
                labels[place] = f"{name}\n{tick(error)}"
        self._names.update(ticker=FixedTicker(ticks=list(labels)), major_label_overrides=labels)

    def show(self, heading: str, estimates: Sequence[Counts]) -> None:
        """Show a run so far; some twenty points, so they are sent whole.

        An estimate with logits that are not finite is no point.
        """
        self.figure.title.text = broken_title(heading, TITLE_LETTERS)
        columns = _curve_columns([one for one in estimates if not one.failure])
        put_columns(self._points, columns)
        put_columns(self._last, {name: columns[name][-1:] for name in ENDS.values()})

    def _draw_glyphs(self) -> None:
        place = {"x": "examples", "y": "error"}
        band = VArea(x="examples", y1="low", y2="high", fill_color=RED, fill_alpha=0.18)
        draw(self.figure, band, self._points)
        draw(self.figure, Line(**place, line_color=RED, line_width=2), self._points)
        last = Segment(**ENDS, line_color=RED, line_width=6, line_alpha=0.25)
        draw(self.figure, last, self._last)
        dot = Scatter(**place, fill_color=RED, size=5, line_color="white")
        self.figure.hover[0].renderers = [draw(self.figure, dot, self._points)]


def _apart(one: float, other: float) -> tuple[float, float]:
    """Return where the labels of two lines stand: beside them, moved apart if they would touch."""
    missing = LABEL - abs(other - one)
    shift = math.copysign(missing / 2, other - one) if missing > 0 else 0.0
    return one - shift, other + shift


def _curve_columns(estimates: Sequence[Counts]) -> dict[str, Any]:
    return {
        "examples": [int(one.examples) for one in estimates],
        "error": [float(one.error) for one in estimates],
        "low": [float(one.error_low) for one in estimates],
        "high": [float(one.error_high) for one in estimates],
        "where": [f"after {one.examples:,} test examples" for one in estimates],
        "tip": [
            f"test error {percent(one.error)}\n"
            f"95 % interval {interval(one.error_low, one.error_high)}"
            for one in estimates
        ],
    }


class ProfileView:
    """The error of one layer put back to each checkpoint, with its interval and its fresh draws.

    Parameters
    ----------
    grid : Grid
        Its checkpoints are the places along the axis.
    description : str
        What a screen reader says.
    """

    def __init__(self, grid: Grid, description: str) -> None:
        self._line = ColumnDataSource({name: [] for name in ("x", "error", "low", "high")})
        self._draws = ColumnDataSource({name: [] for name in ("x", "error")})
        self.figure = profile_figure(
            grid.source_labels, f"{grid.unit} it is put back to", description
        )
        fit_to_width(self.figure)
        self._intact = Span(dimension="width", line_color=INK, line_dash="dashed", line_width=1.5)
        self._enough = Span(dimension="width", line_color=BLUE, line_dash="dotted", line_width=1.5)
        self._since = Span(dimension="height", line_color=BLUE, line_dash="dotted", line_width=1.5)
        for line in (self._intact, self._enough, self._since):
            line.visible = False
            self.figure.add_layout(line)
        self._draw_glyphs()

    def show(self, profile: Profile, final_error: float, chance_error: float, share: float) -> None:
        """Show a layer; errors up to `share` of the way to chance are good enough."""
        self.figure.title.text = broken_title(profile.title, TITLE_LETTERS)
        put_columns(self._line, profile.line)
        put_columns(self._draws, profile.draws)
        enough = final_error + share * (chance_error - final_error)
        for line, place in (
            (self._intact, final_error),
            (self._enough, enough),
            (self._since, math.nan if profile.good_from is None else profile.good_from - 0.5),
        ):
            known = math.isfinite(place)
            line.update(location=place if known else None, visible=known)

    def _draw_glyphs(self) -> None:
        plot, line = self.figure, self._line
        ends = {"x0": "x", "y0": "low", "x1": "x", "y1": "high"}
        draw(plot, Segment(**ends, line_color=RED, line_width=6, line_alpha=0.25), line)
        draw(plot, Line(x="x", y="error", line_color=RED, line_width=2), line)
        dot = Scatter(x="x", y="error", fill_color=RED, size=6, line_color="white")
        cross = Scatter(x="x", y="error", marker="x", line_color=RED, line_width=2, size=8)
        plot.hover[0].renderers = [draw(plot, dot, line), draw(plot, cross, self._draws)]


class RelationView:
    """How far layers moved, against the error when they are put back.

    Parameters
    ----------
    description : str
        What a screen reader says.
    """

    def __init__(self, description: str) -> None:
        empty: dict[str, Any] = {name: [] for name in POINTS}
        self._own = ColumnDataSource({**empty, **names_beside([], [], [])})
        self._fresh = ColumnDataSource(dict(empty))
        self._marked = ColumnDataSource({"x": [], "y": []})
        self._layer = ""
        self.figure = relation_figure(description)
        dot = Scatter(fill_color=RED, size=9, line_color="white")
        cross = Scatter(marker="x", line_color=GREY, line_width=2, size=8)
        ring = Scatter(size=16, fill_alpha=0, line_color=INK, line_width=2)
        points = [draw(self.figure, dot, self._own), draw(self.figure, cross, self._fresh)]
        draw(self.figure, ring, self._marked)
        label = Text(
            text="name",
            x_offset="dx",
            y_offset="dy",
            text_align="align",
            text_baseline="middle",
            text_font=value(FONT),
            text_font_size="11px",
            text_color=INK,
        )
        draw(self.figure, label, self._own)
        self._crosses = Title(
            text="grey crosses: fresh random values",
            text_font=FONT,
            text_font_size="12px",
            text_font_style="normal",
            text_color=GREY,
            visible=False,
        )
        self.figure.add_layout(self._crosses, "above")
        self.figure.hover[0].renderers = points

    def show(self, relation: Relation, axis: str) -> None:
        """Show the layers' points; `axis` names the distance."""
        self.figure.title.text = relation.title
        self.figure.xaxis.axis_label = axis
        kinds = relation.points["kind"]
        for source, fresh in ((self._own, False), (self._fresh, True)):
            chosen = [at for at, kind in enumerate(kinds) if (kind == FRESH) == fresh]
            points = {name: [relation.points[name][at] for at in chosen] for name in POINTS}
            put_columns(source, points if fresh else {**points, **_placed(relation.points, chosen)})
        self._crosses.visible = FRESH in kinds
        self.mark(self._layer)

    def mark(self, layer: str) -> None:
        """Put a ring around the points of a layer."""
        self._layer = layer
        found = [
            (x, y)
            for source in (self._own, self._fresh)
            for x, y, name in zip(*(source.data[c] for c in ("x", "y", "layer")), strict=True)
            if name == layer
        ]
        put_columns(self._marked, {"x": [x for x, _ in found], "y": [y for _, y in found]})

    def on_tap(self, handler: Callable[[str], None]) -> None:
        """Call the handler with the layer whose point is nearest to a click."""

        def tapped(tap: Any) -> None:
            layer = self._nearest(tap.x, tap.y)
            if layer:
                handler(layer)

        for event in (Tap, DoubleTap):
            self.figure.on_event(event, tapped)

    def _nearest(self, x: float | None, y: float | None) -> str:
        points = list(zip(*(self._own.data[c] for c in ("x", "y", "layer")), strict=True))
        if x is None or y is None or not points:
            return ""
        width = max(float(point[0]) for point in points) or 1.0
        apart = {((px - x) / width) ** 2 + (py - y) ** 2: name for px, py, name in points}
        return str(apart[min(apart)]) if min(apart) < REACH**2 else ""


def _placed(points: dict[str, list[Any]], own: Sequence[int]) -> dict[str, list[Any]]:
    """Return where the names of these of the points stand, clear of the others too."""
    wanted = set(own)
    names = [name if at in wanted else "" for at, name in enumerate(points["layer"])]
    placed = names_beside(names, points["x"], points["y"])
    return {column: [values[at] for at in own] for column, values in placed.items()}
