"""The error against the trained parameters that are left, on the way from both ends."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from bokeh.models import BasicTicker, ColumnDataSource, HoverTool, NumeralTickFormatter
from bokeh.models.annotations import Span

from explorer.ui.figures import BLUE, FONT, INK, QUIET_INK, RED, line_label, relation_figure
from explorer.ui.linked import LAYER, ring_points
from explorer.ui.titles import put_title
from explorer.ui.wording import counted, interval, percent, tick

LOOKS = {
    "forward": (BLUE, "circle", "solid", "adding to none"),
    "backward": (RED, "triangle", "dashed", "restoring of all"),
    "again": (RED, "circle_cross", "dotted", "adding again"),
    "one by one": (INK, "diamond", "solid", "all that are robust alone"),
}
"""Direction → colour, marker, line, words of the legend: no two alike without the colours."""


def effective_figure(found: xr.Dataset, selected: str | None = None) -> Any:
    """Draw every set that the searches went through: parameters left across, error upwards.

    Parameters
    ----------
    found : xarray.Dataset
        As `explorer.effective_parameters` returns it; of several sources the first.
    selected : str, optional
        Layer whose steps are ringed.

    Returns
    -------
    bokeh.plotting.figure
        A dotted line is the error that is allowed; the ring marks the best set.
    """
    source = str(found["source"].values[0])
    steps = found.isel(step=(found["trial_source"] == source).values)
    allowed = float(found.attrs["final_error"]) + float(found.attrs["margin"])
    best = found.sel(source=source)
    left, total = int(best["effective_parameters"]), int(found.attrs["parameters"])
    plot = relation_figure(
        f"Test error against trained parameters left, layers reset to {source}; {left:,} of "
        f"{total:,} are needed within {percent(allowed)}"
    )
    plot.xaxis.axis_label = "trained parameters left"
    plot.xaxis.formatter = NumeralTickFormatter(format="0.[0] a")
    drawn = [_draw(plot, steps, direction) for direction in LOOKS]
    plot.select_one(HoverTool).renderers = drawn
    plot.scatter(
        [left], [float(best["joint_error"])], size=18, fill_alpha=0, line_color=INK, line_width=2
    )
    if selected is not None:
        own = steps.isel(step=(steps["layer_moved"] == (selected or "none")).values)
        x, y = (own[name].values.tolist() for name in ("parameters_left", "trial_error"))
        ring_points(plot, x, y)
    line = Span(location=allowed, dimension="width", line_color=QUIET_INK, line_dash="dotted")
    label = line_label()
    at_left = _left_is_freer(steps, total, allowed)
    label.update(
        x=0 if at_left else total,
        y=allowed,
        text=f"allowed {tick(allowed)}",
        text_align="left" if at_left else "right",
        x_offset=4 if at_left else 0,
        text_baseline="bottom",
        y_offset=2,
    )
    plot.add_layout(line)
    plot.add_layout(label)
    put_title(plot, f"{left:,} of {total:,} parameters are needed")
    plot.xaxis.ticker = BasicTicker(desired_num_ticks=3)
    plot.add_layout(plot.legend[0], "below")
    plot.height += 110
    plot.legend.label_text_font_size, plot.legend.label_text_font = "11px", FONT
    plot.legend.ncols, plot.legend.spacing, plot.legend.border_line_color = 1, 0, None
    plot.legend.location = "top_left"
    return plot


def _left_is_freer(steps: xr.Dataset, total: int, allowed: float) -> bool:
    """Whether errors in the left third are further from the allowed one than in the right."""
    share = steps["parameters_left"].values / total
    apart = np.abs(steps["trial_error"].values - allowed)
    left, right = (
        float(np.nanmin(apart[where], initial=np.inf)) for where in (share < 1 / 3, share > 2 / 3)
    )
    return left >= right


def _draw(plot: Any, steps: xr.Dataset, direction: str) -> Any:
    """Points of one direction, joined in the order in which they were tried."""
    colour, marker, dash, words = LOOKS[direction]
    own = steps.isel(step=(steps["direction"] == direction).values)
    columns: dict[str, list[Any]] = {name: [] for name in ("x", "y", "where", "tip", LAYER)}
    for k in range(own.sizes["step"]):
        at = own.isel(step=k)
        layer, error = str(at["layer_moved"].item()), float(at["trial_error"])
        moved = f"{'restored' if direction == 'backward' else 'also reset'}: {layer}\n"
        tip = (
            f"{moved if layer else ''}{counted(int(at['layers_moved']), 'layer')} reset together\n"
            f"test error {percent(error)}, 95 % interval "
            f"{interval(float(at['trial_low']), float(at['trial_high']))}"
        )
        left = int(at["parameters_left"])
        for name, content in zip(
            columns, (left, error, f"{left:,} parameters left", tip, layer), strict=True
        ):
            columns[name].append(content)
    source = ColumnDataSource(columns)
    plot.line("x", "y", source=source, line_color=colour, line_dash=dash, legend_label=words)
    return plot.scatter(
        "x", "y", source=source, marker=marker, size=8, color=colour, legend_label=words
    )
