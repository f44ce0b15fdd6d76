"""What tests show of the cells that are measured, at the threshold that is chosen."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import ipywidgets as widgets

from explorer.ui.session import Session
from explorer.ui.verdict_table import verdict_html


class VerdictPane(widgets.VBox):
    """A button that tests the verdicts, and how each came about.

    Parameters
    ----------
    session : Session
        Holds what is measured.
    share : callable
        The chosen threshold, a share of the way to chance.
    """

    def __init__(self, session: Session, share: Callable[[], float]) -> None:
        self._session, self._share = session, share
        self.test = widgets.Button(description="Test the verdicts", button_style="primary")
        self.test.on_click(self._test)
        self.text = widgets.HTML(
            "<p>The words beside the layers say what these test examples gave. How sure is it "
            "that others would give the same? Exact paired tests against ε say it, corrected for "
            "the number of cells.</p>"
        )
        self._tested_at: float | None = None  # the threshold; None until somebody asks
        super().__init__([self.test, self.text])

    def follow(self) -> None:
        """Test again, where that has been asked for and the threshold is another one."""
        if self._tested_at not in (None, self._share()):
            self._test()

    def _test(self, _event: Any = None) -> None:
        from explorer.engine.judging import judge  # scipy.stats, which the first picture needs not

        with self._session.reported():
            self._tested_at = self._share()
            with self._session.lock:
                results = self._session.results.copy(deep=True)
            self.text.value = verdict_html(judge(results, self._tested_at))
