"""One JupyterLab and one Chromium for all browser tests, both cut off from everything else."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.browser.pages import CURVE, DISTANCES, ERRORS, Notebook
from tests.browser.serving import (
    BROWSERS,
    TOKEN,
    browsing,
    find_browser,
    lab_address,
    lab_command,
    own_folders,
    serving,
)

not_run: dict[str, str] = {}
"""Tests that could not run, and why; said loudly at the end."""


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.skipped and "browser" in report.keywords:
        not_run[report.nodeid] = str(report.longrepr[2] if report.longrepr else "")


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if not not_run:
        return
    terminalreporter.section("BROWSER TESTS THAT DID NOT RUN", sep="!", red=True, bold=True)
    for test, reason in not_run.items():
        terminalreporter.line(f"{test}: {reason}")
    terminalreporter.line("Nothing was checked in a browser. `make test` installs one if it can.")


@dataclass
class Lab:
    """A running JupyterLab."""

    url: str
    """Address with a slash at the end."""

    token: str
    """What the server lets in."""

    folder: Path
    """Its notebooks."""


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    executable = find_browser()
    if executable is None:
        pytest.skip(f"no browser: none of {', '.join(BROWSERS)} on PATH, none of Playwright's own")
    with browsing(executable) as browser:
        yield browser


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    home = tmp_path_factory.mktemp("lab")
    folder, log = home / "notebooks", home / "lab.log"
    folder.mkdir()
    with serving(lab_command(folder), own_folders(home), folder, log) as server:
        yield Lab(lab_address(home, server, log), TOKEN, folder)


@pytest.fixture(scope="module")
def open_notebook(lab: Lab, chromium: Any) -> Iterator[Callable[[Path], Notebook]]:
    """Return a function that opens a notebook; all pages are closed after the module."""
    contexts = []

    def open_one(source: Path) -> Notebook:
        copy = lab.folder / source.name
        shutil.copy(source, copy)
        context = chromium.new_context(viewport={"width": 1280, "height": 900})
        contexts.append(context)
        notebook = Notebook(context.new_page())
        notebook.page.goto(f"{lab.url}lab/tree/{source.name}?token={lab.token}&reset")
        notebook.run_all()
        notebook.wait_for_figures(ERRORS, DISTANCES, CURVE)
        return notebook

    yield open_one
    for context in contexts:
        context.close()
