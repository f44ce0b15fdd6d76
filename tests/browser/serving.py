"""Starting a server and a browser, for the browser tests and for the benchmarks that need both."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from explorer.servers import free_port
from scripts.set_up import BROWSERS
from tests.browser.pages import REPOSITORY

TOKEN = "browser-tests"
"""What JupyterLab lets in; the dashboard makes one of its own."""

FLAGS = [
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PATIENCE = 90
"""Seconds that a server may take to start on a slow, shared machine."""


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


@contextlib.contextmanager
def browsing(executable: str, *flags: str) -> Iterator[Any]:
    """Run a Chromium that asks nobody for anything by itself."""
    from playwright.sync_api import sync_playwright

    root = ["--no-sandbox"] if hasattr(os, "geteuid") and os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=executable, args=[*FLAGS, *root, *flags]
        )
        yield browser
        browser.close()


def lab_command(folder: Path) -> list[str]:
    """Return the command of a JupyterLab on a free port that tests can look into."""
    return [
        *(sys.executable, "-m", "jupyterlab", "--no-browser", "--ServerApp.port=0"),
        *("--ServerApp.ip=127.0.0.1", f"--ServerApp.root_dir={folder}"),
        *("--LabApp.expose_app_in_browser=True", "--LabApp.extension_manager=readonly"),
        *("--ServerApp.allow_root=True", f"--ServerApp.token={TOKEN}"),
    ]


def dashboard_command(*arguments: str) -> list[str]:
    """Return the command `explorer dashboard` as a person would type it, on a free port."""
    command = [sys.executable, "-m", "explorer", "dashboard", *arguments]
    return [*command, "--no-browser", "--port", str(free_port())]


@contextlib.contextmanager
def serving(
    command: list[str],
    environment: dict[str, str],
    folder: Path,
    log: Path,
    confine: Callable[[], None] | None = None,
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server in a folder, what it says in a file, and end it.

    `confine` is called in the server's own process before it starts. Ctrl-C reaches it even where
    a shell has started the tests in the background, which leaves the signal ignored.
    """

    def begin() -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        if confine is not None:
            confine()

    with log.open("w") as said:
        server = subprocess.Popen(
            command, env=environment, stdout=said, stderr=said, cwd=folder, preexec_fn=begin
        )
        try:
            yield server
        finally:
            server.terminate()
            try:
                server.wait(20)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()


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


def lab_address(home: Path, server: subprocess.Popen[bytes], log: Path) -> str:
    """Wait for JupyterLab; return its address with a slash at the end."""

    def described() -> str | None:
        for description in (home / "runtime").glob("jpserver-*.json"):
            text = description.read_text()
            if text.endswith("}"):
                return str(json.loads(text)["url"])
        return None

    return _started(described, server, log)


def dashboard_address(server: subprocess.Popen[bytes], log: Path) -> str:
    """Wait for the dashboard; return the address that it prints, with its token."""

    def printed() -> str | None:
        found = re.search(r"http://127\.0\.0\.1:\d+/\?token=\w+", log.read_text())
        return found[0] if found else None

    return _started(printed, server, log)


def _started(look: Callable[[], str | None], server: subprocess.Popen[bytes], log: Path) -> str:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline and server.poll() is None:
        found = look()
        if found:
            return found
        time.sleep(0.1)
    raise AssertionError(f"The server did not start:\n{log.read_text()[-3000:]}")
