"""One JupyterLab and one Chromium for all browser tests, both cut off from everything else."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.browser.pages import CURVE, DISTANCES, ERRORS, REPOSITORY, Notebook

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = [
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
not_run: dict[str, str] = {}
"""Tests that could not run, and why; said loudly at the end."""


def find_browser() -> str | None:
    """Return the path of a Chromium or Chrome, the system's or Playwright's own."""
    for name in BROWSERS:
        found = shutil.which(name)
        if found:
            return found
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        return None
    with sync_playwright() as playwright:
        own = playwright.chromium.executable_path
    return own if Path(own).exists() else None


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
    from playwright.sync_api import sync_playwright

    flags = [*FLAGS, "--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else FLAGS
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=flags)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    home = tmp_path_factory.mktemp("lab")
    folder = home / "notebooks"
    folder.mkdir()
    environment = own_folders(home)
    command = [
        *(sys.executable, "-m", "jupyterlab", "--no-browser", "--ServerApp.port=0"),
        *("--ServerApp.ip=127.0.0.1", f"--ServerApp.root_dir={folder}"),
        *("--LabApp.expose_app_in_browser=True", "--LabApp.extension_manager=readonly"),
        *("--ServerApp.allow_root=True", "--ServerApp.token=browser-tests"),
    ]
    with serving(command, environment, folder, home / "lab.log") as server:
        address = _address(home / "runtime", server, home / "lab.log")
        yield Lab(address, "browser-tests", folder)


@contextlib.contextmanager
def serving(
    command: list[str], environment: dict[str, str], folder: Path, log: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server in a folder, what it says in a file, and end it."""
    with log.open("w") as said:
        server = subprocess.Popen(command, env=environment, stdout=said, stderr=said, cwd=folder)
        try:
            yield server
        finally:
            server.terminate()
            try:
                server.wait(20)
            except subprocess.TimeoutExpired:
                server.kill()


def own_folders(home: Path) -> dict[str, str]:
    """Return an environment in which Lab sees no settings of the user, and asks for no news."""
    names = {
        "JUPYTER_CONFIG_DIR": "config",
        "JUPYTER_DATA_DIR": "data",
        "JUPYTER_RUNTIME_DIR": "runtime",
        "JUPYTERLAB_SETTINGS_DIR": "settings",
        "JUPYTERLAB_WORKSPACES_DIR": "workspaces",
        "IPYTHONDIR": "ipython",
    }
    for name in names.values():
        (home / name).mkdir()
    news = home / "settings" / "@jupyterlab" / "apputils-extension"
    news.mkdir(parents=True)
    quiet = {"fetchNews": "false", "checkForUpdates": False}
    (news / "notification.jupyterlab-settings").write_text(json.dumps(quiet))
    own = {variable: str(home / name) for variable, name in names.items()}
    path = os.pathsep.join(filter(None, (str(REPOSITORY), os.environ.get("PYTHONPATH"))))
    return {**os.environ, **own, "PYTHONPATH": path}


def _address(runtime: Path, server: subprocess.Popen[bytes], log: Path) -> str:
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline and server.poll() is None:
        for description in runtime.glob("jpserver-*.json"):
            text = description.read_text()
            if text.endswith("}"):
                return str(json.loads(text)["url"])
        time.sleep(0.1)
    raise AssertionError(f"JupyterLab did not start:\n{log.read_text()[-3000:]}")


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
