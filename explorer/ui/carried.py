"""What an explorer keeps when its settings change: the numbers that still hold, and the look."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import xarray as xr

from explorer.engine.interventions import Intervention, Mixture
from explorer.engine.overview import NOT_MEASURED
from explorer.engine.results import DIMS, QUANTITIES
from explorer.ui.grid import Grid
from explorer.ui.measured import Measured
from explorer.ui.results import from_sweep
from explorer.ui.selection import Selection
from explorer.ui.session import Session
from explorer.ui.settings import Settings


@dataclass(frozen=True)
class Look:
    """How the reader looks at a stack."""

    selection: Selection | None
    """What is selected; None for where a reader begins."""

    menus: tuple[int, ...]
    """Which entries of the display menus are chosen."""

    tab: int
    """Which tab is in front."""

    def selected(self, grid: Grid) -> Selection | None:
        """Return the selection as far as this grid has its cells, or None."""
        chosen = self.selection
        if chosen is None or not (chosen.draw is None or chosen.draw < grid.draws):
            return None
        here = {*grid.cells, grid.cell(None, None)} if grid.draws else {*grid.cells}
        return chosen if here >= {chosen.active, *chosen.cells} else None


class Carried:
    """What sessions of one explorer have found, by what their numbers depend on."""

    def __init__(self) -> None:
        self._results: dict[Any, list[xr.Dataset]] = {}
        self._measured: dict[Any, list[Measured]] = {}

    def keep(self, stack: xr.DataTree, settings: Settings, session: Session) -> None:
        """Keep what a session has found."""
        key = _key(stack, settings)
        with session.lock:
            results, measured = session.results, list(session.measured)
        of_other_seeds = [
            one for one in self._results.get(key, []) if one.attrs["seed"] != settings.seed
        ]
        self._results[key] = [*of_other_seeds, results]
        known = self._measured.setdefault(key, [])
        seen = set(map(id, known))
        known += [one for one in measured if id(one) not in seen]

    def put_into(self, session: Session, stack: xr.DataTree, settings: Settings) -> None:
        """Give a session what holds under its settings; the newest counts."""
        key, seed = _key(stack, settings), settings.seed
        for found in self._results.get(key, []):
            _put(found, session.results, session.grid, drawn=found.attrs["seed"] == seed)
            session.results.attrs |= {**found.attrs, "seed": seed}
        session.measured += [
            one for one in self._measured.get(key, []) if _seeds(one.intervention) <= {seed}
        ]


def _key(stack: xr.DataTree, settings: Settings) -> tuple[Any, ...]:
    """Return what numbers depend on, besides the seed and the reader's own network and data."""
    content = str(stack.attrs.get("content_hash", "")) or id(stack)
    return (content, settings.batchnorm, settings.screen)


def _put(found: xr.Dataset, results: xr.Dataset, grid: Grid, *, drawn: bool) -> None:
    """Write what has been measured over what was known, cell by cell."""
    found = from_sweep(found, grid)
    for prefix in [one for one, dims in DIMS.items() if drawn or "draw" not in dims]:
        known = found[f"{prefix}reason"].values != NOT_MEASURED
        for name in (*QUANTITIES, "reason"):
            results[prefix + name].values[known] = found[prefix + name].values[known]


def _seeds(intervention: Intervention) -> set[int]:
    """Return the seeds of what is drawn by chance in an intervention."""
    sources = [source for _, source in intervention.changes]
    sources += [source.source for source in sources if isinstance(source, Mixture)]
    return {source.seed for source in sources if hasattr(source, "seed")}
