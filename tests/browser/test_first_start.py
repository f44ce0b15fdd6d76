"""`explorer lab` on a machine that has never seen Jupyter: the notebook, and nothing over it."""

from __future__ import annotations

import os
import re
import sys
import time

import pytest

from explorer.servers import free_port
from tests.browser.pages import REPOSITORY, Notebook
from tests.browser.serving import PATIENCE, serving

pytestmark = pytest.mark.browser


def test_nobody_is_asked_about_news_or_warned_before_the_first_click(chromium, tmp_path):
    jupyters = ("JUPYTER", "IPYTHON")
    clean = {key: text for key, text in os.environ.items() if not key.startswith(jupyters)}
    home = {"HOME": str(tmp_path / "home"), "PYTHONPATH": str(REPOSITORY)}
    (tmp_path / "home").mkdir()
    command = [sys.executable, "-m", "explorer", "lab", "--no-browser"]
    command += ["--port", str(free_port())]
    log = tmp_path / "log"
    with serving(command, {**clean, **home}, tmp_path, log) as server:
        address, deadline = None, time.monotonic() + PATIENCE
        while address is None and server.poll() is None and time.monotonic() < deadline:
            address = re.search(r"http://127\.0\.0\.1:\d+/\S*token=\w+", log.read_text())
            time.sleep(0.1)
        assert address, log.read_text()
        context = chromium.new_context(viewport={"width": 1280, "height": 1000})
        notebook = Notebook(context.new_page())
        notebook.page.goto(address[0])
        notebook.page.locator(".jp-NotebookPanel .jp-Cell").first.wait_for()
        notebook.page.get_by_text("Python 3 (ipykernel)").first.wait_for()
        notebook.page.locator("[data-status=idle]").first.wait_for()
        notebook.page.wait_for_timeout(1500)  # the question comes a little after the page
        notebook.screenshot("first-start")
        assert notebook.page.get_by_text("official Jupyter news").count() == 0
        assert notebook.page.locator(".Toastify__toast").count() == 0
        context.close()
    assert "ncrypt" not in log.read_text()  # ipykernel's warning, of a kernel that runs by now
