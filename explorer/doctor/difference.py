"""What two stacks or two checkpoints differ in, as values, text, HTML and JSON."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import xarray as xr

from explorer.colours import BLUES
from explorer.doctor.findings import WIDTH, some, spoken
from explorer.stats.measures import MEASURES
from explorer.tables import MOST_COLUMNS, MOST_ROWS, Cell, Row, Table, page_html, table_html

SHOWN = "l2_per_sqrt_m"
"""Measure that is shown of several pairs of checkpoints."""


@dataclass(frozen=True)
class Side:
    """One of the two things that were compared."""

    name: str
    """Of the stack."""
    unit: str
    """What its numbers count."""
    epochs: tuple[int, ...]
    """Checkpoints that were compared, one per pair."""
    only: tuple[str, ...]
    """Tensors that only this side has."""
    only_epochs: tuple[int, ...]
    """Checkpoints that only this side has, where two whole stacks were compared."""

    def __str__(self) -> str:
        return f"{self.name}, {spoken(self.epochs, self.unit)}"


@dataclass(frozen=True)
class Changed:
    """A tensor whose shape or dtype is another."""

    tensor: str
    """Name in the state dict."""
    a: str
    """Dtype and shape on the first side."""
    b: str
    """The same on the second."""


@dataclass(frozen=True)
class Difference:
    """What `explorer.diff` found; `print` shows it as a table."""

    a: Side
    """The first of the two."""
    b: Side
    """The second."""
    changed: tuple[Changed, ...]
    """Tensors of both sides that cannot be compared as they are."""
    distances: xr.Dataset
    """Over (layer, pair): the measures of `explorer.distances`, taken from A to B; ``differing``
    and ``tensors``, how many tensors (buffers too) have other bits, of how many; ``reason``, why a
    pair could not be measured. Over (pair): ``epoch_a``, ``epoch_b``."""

    @property
    def complete(self) -> bool:
        """Whether every pair could be read."""
        return bool((self.distances["reason"] == "").all())

    @property
    def same(self) -> bool:
        """Whether both hold the same tensors at the same epochs, bit for bit."""
        apart = (self.a.only, self.b.only, self.a.only_epochs, self.b.only_epochs, self.changed)
        return self.complete and not any(apart) and not int(self.distances["differing"].sum())

    def as_json(self) -> dict[str, Any]:
        """Everything, in the types that JSON has: a number that is none is null."""
        return {
            "same": self.same,
            "complete": self.complete,
            **{key: _side_json(side) for key, side in (("a", self.a), ("b", self.b))},
            "changed": [vars(one) for one in self.changed],
            "layers": list(self._rows()),
        }

    def text(self, measure: str = SHOWN) -> str:
        """Write the difference as an aligned table.

        Parameters
        ----------
        measure : str
            What to show where there are several pairs of checkpoints; of one pair all measures
            are shown.
        """
        frame = self._measures() if len(self.a.epochs) == 1 else self._pairs(measure)
        lines = [f"A: {self.a}", f"B: {self.b}", ""]
        lines += [*said, ""] if (said := list(self._apart())) else []
        if len(frame):
            lines += [frame.to_string(), "", *self._legend(measure)]
        reasons = dict.fromkeys(str(r) for r in self.distances["reason"].values.ravel() if r)
        return "\n".join([*lines, *(f"Not measured: {reason}" for reason in reasons)]).rstrip()

    def __str__(self) -> str:
        return self.text()

    def _repr_html_(self) -> str:
        frame = self._measures() if len(self.a.epochs) == 1 else self._pairs(SHOWN)
        rows = tuple(
            Row(str(layer), tuple(Cell(str(value)) for value in row))
            for layer, row in zip(frame.index, frame.to_numpy().tolist(), strict=True)
        )
        caption = f"How far B is from A; {' '.join(self._legend(SHOWN))}"
        table = Table(caption, tuple(map(str, frame.columns)), rows, BLUES)
        facts = {"A": str(self.a), "B": str(self.b)}
        html = table_html(table, MOST_ROWS, MOST_COLUMNS)
        return page_html("Difference", facts, html, list(self._apart()))

    def _measures(self) -> pd.DataFrame:
        """One pair: a row per layer, a column per measure."""
        one = self.distances.isel(pair=0)
        columns = {"differing": [f"{n} of {of}" for n, of in zip(*_counts(one), strict=True)]}
        columns |= {name: [_number(v) for v in one[name].values.tolist()] for name in MEASURES}
        return pd.DataFrame(columns, one["layer"].values.tolist())

    def _pairs(self, measure: str) -> pd.DataFrame:
        """Several pairs: a row per layer, a column per pair."""
        values, differing = self.distances[measure].values, self.distances["differing"].values
        heads = [str(n) for n in (self.a if len(set(self.a.epochs)) > 1 else self.b).epochs]
        known = self.distances["reason"].values == ""
        shown = [
            [
                "=" if here and not d else _number(v)
                for v, d, here in zip(*row, strict=True)
            ]
            for row in zip(values.tolist(), differing.tolist(), known.tolist(), strict=True)
        ]  # fmt: skip
        return pd.DataFrame(shown, self.distances["layer"].values.tolist(), heads)

    def _legend(self, measure: str) -> list[str]:
        if len(self.a.epochs) == 1:
            said = ", ".join(f"{name} {formula}" for name, formula in MEASURES.items())
            return textwrap.wrap(
                f"differing: tensors with other bits. {said}; Δ = B − A, θ₀ = A.", WIDTH
            )
        return [f"{measure} ({MEASURES[measure]}); =: the same bits. Δ = B − A, θ₀ = A."]

    def _apart(self) -> Iterator[str]:
        """Sentences on what only one side has."""
        if self.same:
            yield "The same bit for bit."
        for letter, side in (("A", self.a), ("B", self.b)):
            if side.only:
                yield f"Only in {letter}: {some(side.only, 10)}."
            if side.only_epochs:
                yield f"Only in {letter}: {spoken(side.only_epochs, side.unit)}."
        for one in self.changed:
            yield f"{one.tensor}: {one.a} in A, {one.b} in B."

    def _rows(self) -> Iterator[dict[str, Any]]:
        values = {str(name): array.values.tolist() for name, array in self.distances.items()}
        for at, layer in enumerate(self.distances["layer"].values.tolist()):
            for pair, (x, y) in enumerate(zip(self.a.epochs, self.b.epochs, strict=True)):
                row = {name: rows[at][pair] for name, rows in values.items()}
                numbers = {
                    key: v if math.isfinite(v) else None
                    for key, v in row.items()
                    if key in MEASURES
                }
                yield {"layer": layer, "epoch_a": x, "epoch_b": y, **row, **numbers}


def _counts(one: xr.Dataset) -> tuple[Sequence[int], Sequence[int]]:
    return one["differing"].values.tolist(), one["tensors"].values.tolist()


def _number(value: float) -> str:
    return f"{value:.4g}" if math.isfinite(value) else "–"


def _side_json(side: Side) -> dict[str, Any]:
    return {
        "stack": side.name,
        "unit": side.unit,
        "epochs": list(side.epochs),
        "only_tensors": list(side.only),
        "only_epochs": list(side.only_epochs),
    }
