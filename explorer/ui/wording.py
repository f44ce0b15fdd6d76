"""How numbers and outcomes are said to the reader; errors become percent only here."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from explorer.ui.grid import WHOLE_NETWORK, Cell, Grid, Unit, moment
from explorer.ui.results import Counts, Reading

_SPACE = "\u00a0"
"""Keeps a number and its unit on one line."""

MEASURES: Mapping[str, str] = {
    "l2_per_sqrt_m": "L2 / √m",
    "l2": "L2",
    "l2_per_sqrt_fan_in": "L2 / √fan-in",
    "l2_relative": "L2 / ‖θ₀‖",
    "linf": "L∞",
    "cosine": "1 − cosine",
}
"""Variables of the distances that can be shown, in the order of the menu, and their names."""

DISTANCE_LEGEND = (
    "The blue cells show how far the layer's weights had moved from the start; "
    "<em>ReRnd</em>, the distance of fresh random values, is the yard-stick."
)

WIDEST_DISTANCE = "8e-8"
"""A `short_number` as wide as any."""

ONE: Mapping[Unit, str] = {"epoch": "an epoch", "step": "a step", "checkpoint": "fresh draws"}
"""One checkpoint, to be read in a sentence."""


def error_legend(unit: Unit) -> str:
    """Return what the error heatmap shows, as HTML."""
    if unit == "checkpoint":
        return (
            "There is one checkpoint, the trained network, and no earlier one to put a layer back "
            "to. Each cell of <em>ReRnd</em> is the test error when <em>only this layer</em> gets "
            "fresh random values (mean over draws): white is as good as the trained network, dark "
            "red no better than guessing."
        )
    return (
        "Each cell is the test error when <em>only this layer</em> is put back to what it was at "
        f"that {unit}, all others staying as trained: white is as good as the trained network, "
        "dark red no better than guessing. <em>ReRnd</em> gives the layer fresh random values "
        f"instead (mean over draws); <em>{WHOLE_NETWORK}</em> puts every layer back at once."
    )


def how_to(unit: Unit) -> str:
    """Return what the reader of the explorer can do."""
    return (
        f"Click a cell, or choose a layer and {ONE[unit]} and press Compute: the layer is put back "
        "and the test error measured while you watch. Ctrl-click adds a layer."
    )


def spoken(cell: Cell, reading: Reading, verdict: str) -> str:
    """Return what a screen reader says of a cell: "layer 1, epoch 0, error 38 %, critical"."""
    source = "fresh draws" if cell.epoch is None else moment(cell.unit, cell.epoch)
    name = cell.layer or "whole network"
    about = "about " if reading.state == "estimated" else ""
    known = f"error {about}{tick(reading.value)}" if math.isfinite(reading.value) else reading.state
    known = "not measured" if known == "missing" else known
    return ", ".join(filter(None, (name, source, known, verdict)))


def time_left(seconds: float) -> str:
    """Return a duration for a sentence: "about 40 s left", "about 3 min left"."""
    if not math.isfinite(seconds):
        return "time left not known yet"
    if seconds < 90:
        return f"about {max(1, round(seconds))}{_SPACE}s left"
    return f"about {round(seconds / 60)}{_SPACE}min left"


def size_of(grid: Grid) -> str:
    """Return how many rows and columns a heatmap has, for a screen reader."""
    plural = "" if len(grid.epochs) == 1 else "s"
    return f"{len(grid.layers)} layers by {len(grid.epochs)} {grid.unit}{plural}"


def percent(fraction: float) -> str:
    """Return an error for a sentence: 0.762 → "76.2 %"."""
    return f"{100 * fraction:.1f}{_SPACE}%" if math.isfinite(fraction) else "unknown"


def counted(number: int, thing: str) -> str:
    """Return a number of things: "1 layer", "2 layers"."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def can_be_put_back(layers: int, source: str) -> str:
    """Return how far resets went: "2 layers can be put back together to epoch 0"."""
    many = counted(layers, "layer") if layers else "No layer"
    return f"{many} can be put back{' together' if layers > 1 else ''} to {source}"


def tick(fraction: float) -> str:
    """Return a round error for an axis or a sentence: 0.25 → "25 %", 0.039 → "3.9 %"."""
    return f"{short_percent(fraction)}{_SPACE}%"


def short_percent(fraction: float) -> str:
    """Return an error in at most three characters, to stand in a cell: "3.9", "76", "100"."""
    value = 100 * fraction
    return f"{value:.1f}" if value < 9.95 else f"{value:.0f}"


def short_difference(difference: float) -> str:
    """Return a difference of errors in points, to stand in a cell: "+68", "−0.3", "0"."""
    points = 100 * difference
    if abs(points) < 0.05:
        return "0"
    sign = "+" if points > 0 else "−"
    return f"{sign}{abs(points):.1f}" if abs(points) < 9.95 else f"{sign}{abs(points):.0f}"


def short_number(value: float) -> str:
    """Return a distance in at most five characters, to stand in a cell: ".081", "1.2", "37"."""
    if value == 0:
        return "0"
    if value < 0.0005 or value >= 99_999.5:
        return f"{value:.0e}".replace("e-0", "e-").replace("e+0", "e")
    if value < 0.9995:
        return f"{value:.3f}".lstrip("0")
    return f"{value:.1f}" if value < 9.95 else f"{value:.0f}"


def interval(low: float, high: float) -> str:
    """Return a 95 % interval for a sentence: "74.2–78.1 %"."""
    return f"{100 * low:.1f}–{100 * high:.1f}{_SPACE}%"


def error_tip(reading: Reading) -> str:
    """Return the hover text of an error cell, one fact per line."""
    if reading.state in ("missing", "failed"):
        return reading.reason
    lines = [f"test error {percent(reading.value)}"]
    if reading.draws:
        known = [value for value in reading.draws if math.isfinite(value)]
        lines[0] += f", mean of {len(known)} of {len(reading.draws)} fresh draws"
        lines.append("draws: " + ", ".join(percent(value) for value in reading.draws))
        lines.append(f"spread: {interval(min(known), max(known))}")
    elif math.isfinite(reading.low):
        lines.append(f"95{_SPACE}% interval {interval(reading.low, reading.high)}")
    if reading.examples:
        lines.append(f"on {reading.examples:,} test examples")
        lines.append(f"{reading.turned_wrong:,} turned wrong, {reading.turned_right:,} right")
    if math.isfinite(reading.loss):
        lines.append(f"loss {reading.loss:.3g} nats")
    if reading.state == "estimated":
        lines.append("an estimate: not everything has been measured")
    return "\n".join(lines)


def outcome(name: str, counts: Counts, device: str) -> str:
    """Return what an evaluation found, for the status line."""
    return (
        f"{name}: test error {percent(counts.error)} "
        f"(95{_SPACE}% interval {interval(counts.error_low, counts.error_high)}), "
        f"{counts.examples:,} of {counts.total:,} examples, {device}"
    )


def draws_outcome(cell: Cell, reading: Reading, device: str) -> str:
    """Return what the fresh draws of a layer gave, for the status line."""
    known = [value for value in reading.draws if math.isfinite(value)]
    return (
        f"{cell}: mean test error {percent(reading.value)} over {len(known)} draws "
        f"({interval(min(known), max(known))}), {device}"
    )


def complaint(error: BaseException) -> str:
    """Return an exception for the reader: our own three parts, or its type and message."""
    message = str(error).strip()
    if hasattr(error, "advice"):
        return message
    return f"{type(error).__name__}: {message}" if message else type(error).__name__


def title_of(attrs: Mapping[Any, Any]) -> str:
    """Return the title of a stack or sweep from its attributes; that no hash is known is in it."""
    keys = ("stack_title", "title", "stack", "name")
    title = next((str(attrs[key]) for key in keys if attrs.get(key)), "this network")
    return f"{title} (unverified)" if attrs.get("integrity") == "unverified" else title
