"""Which of the processes of `make test` runs which tests."""

from __future__ import annotations

from xdist.scheduler import LoadFileScheduling

BROWSER = "tests/browser/"
"""All of this folder shares one JupyterLab and one Chromium."""


class WholeFiles(LoadFileScheduling):
    """A file is run by one process, a folder that shares servers too.

    What a file computes once for all its tests (a notebook, a site, an explorer on a page) is then
    computed once in all; tests that are handed out one by one compute it in every process.
    """

    def _split_scope(self, nodeid: str) -> str:
        return BROWSER if nodeid.startswith(BROWSER) else super()._split_scope(nodeid)
