"""The tab beyond the paper: a menu of panels, each made when it is first chosen.

Light on purpose: what the panels need is imported when the tab is first opened.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import ipywidgets as widgets

from explorer.ui.studies import Kind, Progress, Study

if TYPE_CHECKING:
    from explorer.ui.panel_pane import Around, PanelPane


class Beyond(widgets.VBox):
    """A menu of the measurements beyond the paper, and the one that is chosen.

    Parameters
    ----------
    around : callable
        Makes what all panels share, when it is first needed.
    """

    def __init__(self, around: Callable[[], Around]) -> None:
        self._make_around = around
        self._around: Around | None = None
        self._seen = False
        self.panes: dict[Kind, PanelPane] = {}
        self.chosen: Any = None
        super().__init__()

    def close(self) -> None:
        """Take the figures off the page."""
        for pane in self.panes.values():
            pane.close()
        super().close()

    def turn(self, seen: bool) -> None:
        """Note whether the tab is in front; make its menu and first panel when it first is."""
        self._seen = seen
        if not seen:
            return
        if self._around is not None:
            self._turn()
            return
        from explorer.ui.controls import menu
        from explorer.ui.panels import PANELS

        self._around = self._make_around()
        self.chosen = menu("Panel", [panel.title for panel in PANELS])
        self.chosen.observe(self._turn, "index")
        self._turn()

    @property
    def pane(self) -> PanelPane | None:
        """The panel that is shown; None before the tab is opened."""
        if self._around is None:
            return None
        from explorer.ui.panels import PANELS

        return self.panes.get(PANELS[int(self.chosen.index)].kind)

    def _turn(self, _change: Any = None) -> None:
        """Show the chosen panel, made now if it has not been shown before."""
        from explorer.ui.panel_pane import PanelPane
        from explorer.ui.panels import PANELS

        assert self._around is not None
        panel, session = PANELS[int(self.chosen.index)], self._around.session
        with session.reported(), session.lock:
            if panel.kind not in self.panes:
                self.panes[panel.kind] = PanelPane(panel, self._around)
            pane = self.panes[panel.kind]
            self.children = (self.chosen, pane)
            pane.enter()

    def follow(self) -> None:
        """Show another selection, or another ε, if somebody looks."""
        if self.pane is not None and self._seen:
            self.pane.follow()

    def name(self, study: Study) -> str:
        """Name the measurement."""
        return self.panes[study.kind].title

    # What the session finds out; called with its lock held

    def advance(self, study: Study, progress: Progress) -> None:
        """Show how far a measurement is, and what is known by now."""
        pane = self.panes[study.kind]
        pane.advance(study, progress, seen=self._seen and pane is self.pane)

    def stopped(self, study: Study) -> None:
        """Say that a measurement will not go on."""
        self.panes[study.kind].stopped()

    def failed(self, study: Study, reason: str) -> None:
        """Show why a measurement came to no end."""
        self.panes[study.kind].failed(reason)
