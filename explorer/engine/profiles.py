"""One layer over its epochs: the verdict that tests of its cells come to, and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Profile:
    """One layer over its epochs."""

    epochs: Sequence[int]
    """Rising."""
    states: Sequence[str]
    """What the tests show at each."""
    p: Mapping[str, NDArray[np.float64]]
    """increase, p_within_holm, p_beyond_holm, over the epochs."""
    unit: str
    """Unit of the checkpoints."""

    @property
    def verdict(self) -> str:
        shown = [state for state in self.states if state != "trained"]
        if not shown or shown[0] == "not measured":
            return "not known"
        if shown[0] == "beyond":
            return "critical"
        if shown[0] == "within" and "beyond" in shown:
            return "mixed"
        if "not measured" in shown:
            return "not known"
        return "robust" if set(shown) == {"within"} else "undecided"

    @property
    def recovery(self) -> float:
        """First epoch from which on all are within; NaN if the last measured one is not."""
        found = np.nan
        for epoch, state in zip(reversed(self.epochs), reversed(self.states), strict=True):
            if state not in ("within", "trained"):
                break
            found = float(epoch)
        return found

    @property
    def sinks(self) -> bool:
        """Whether a later epoch is beyond the margin and an earlier one within."""
        known = [state for state in self.states if state in ("within", "beyond")]
        return "within" in known and "beyond" in known[known.index("within") :]

    @property
    def because(self) -> str:
        """How the verdict came about."""
        tested = [at for at, state in enumerate(self.states) if state != "trained"]
        if not tested:
            return f"There is no earlier {self.unit} than the trained network."
        first = tested[0]
        if self.verdict == "not known":
            missing = [self.epochs[at] for at in tested if self.states[at] == "not measured"]
            return f"Not measured on all examples: {self.unit} {', '.join(map(str, missing))}."
        if self.verdict == "robust":
            worst = max(tested, key=lambda at: self.p["p_within_holm"][at])
            if len(tested) == 1:
                return f"{self._cell(worst)}, within the margin."
            many = f"All {len(tested)} earlier {self.unit}s are within the margin"
            return f"{many}; the least sure is {self._cell(worst)}."
        if self.verdict == "critical":
            return f"{self._cell(first)}, beyond the margin."
        if self.verdict == "mixed":
            later = next(at for at in tested if self.states[at] == "beyond")
            return f"{self._cell(first)}, within the margin; but {self._cell(later)}, beyond it."
        unsettled = next(at for at in tested if self.states[at] == "open")
        return f"{self._cell(unsettled)}: neither within nor beyond the margin is shown."

    def _cell(self, at: int) -> str:
        """One cell and the smaller of its p values."""
        p = min(self.p["p_within_holm"][at], self.p["p_beyond_holm"][at])
        points = 100 * self.p["increase"][at]
        return f"{self.unit} {self.epochs[at]}: {points:+.1f} points, corrected p {p:.2g}"
