"""The dashboard in a real browser: started by its own command, with no way out to a network."""

from __future__ import annotations

import re
import sys
import time

import psutil
import pytest

from explorer.servers import free_port
from tests.browser.conftest import own_folders, serving
from tests.browser.pages import CURVE, DISTANCES, ERRORS, ExplorerPage

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def dashboard(tmp_path_factory):
    """Where the dashboard of a bundled stack is, and its process."""
    home = tmp_path_factory.mktemp("dashboard")
    command = [sys.executable, "-m", "explorer", "dashboard", "fcn3x256-digits", "--no-browser"]
    command += ["--port", str(free_port())]
    with serving(command, own_folders(home), home, home / "log") as server:
        yield wait_for_address(home / "log", server), psutil.Process(server.pid)


def wait_for_address(log, server):
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and server.poll() is None:
        found = re.search(r"http://127\.0\.0\.1:\d+/\?token=\w+", log.read_text())
        if found:
            return found[0]
        time.sleep(0.1)
    raise AssertionError(f"Voila did not start:\n{log.read_text()}")


@pytest.fixture
def open_page(chromium, dashboard):
    """Return a function that opens the dashboard as another reader."""
    contexts, pages = [], []

    def open_one():
        contexts.append(chromium.new_context(viewport={"width": 1280, "height": 1000}))
        pages.append(ExplorerPage(contexts[-1].new_page()))
        pages[-1].page.goto(dashboard[0])
        pages[-1].wait_for_figures(ERRORS, DISTANCES, CURVE)
        pages[-1].wait_for_status("Ready on")
        return pages[-1]

    yield open_one
    for page in pages:
        # a page that goes asks Voila to end its kernel, which Voila refuses when there is a token
        assert [text for text in page.complaints if "403 (Forbidden)" not in text] == []
        assert page.hosts() == {"127.0.0.1"}
        assert len(page.requests) > 10
    for context in contexts:
        context.close()


def test_the_dashboard_shows_the_explorer_and_nothing_else_and_answers_clicks(open_page):
    page = open_page()
    assert page.page.title() == "Layer Explorer"
    assert page.page.locator(".jp-InputArea").count() == 0
    page.click_cell(0, 0)
    page.wait_for_status("layer1 ← epoch 0: test error", "1,800 of 1,800 examples")
    page.page.locator(".layer-explorer-changes img").first.wait_for()
    page.wait_for_mark(ERRORS, [0.0], [0.0])
    page.screenshot("dashboard")


def test_keys_work_as_they_do_in_jupyterlab(open_page):
    page = open_page()
    page.page.locator(".layer-explorer [role=gridcell][tabindex='0']").focus()
    page.page.keyboard.press("ArrowRight")
    page.page.keyboard.press("Enter")
    page.wait_for_status("layer1 ← epoch 1: test error", "1,800 of 1,800 examples")


def test_two_readers_do_not_see_each_others_clicks(open_page):
    one, other = open_page(), open_page()
    one.click_cell(1, 2)
    one.wait_for_status("layer3 ← epoch 1: test error", "1,800 of 1,800 examples")
    other.click_cell(3, 3)
    other.wait_for_status("layer4 ← epoch 3: test error", "1,800 of 1,800 examples")
    assert one.marked(ERRORS) == ([1.0], [2.0])


def test_a_reloaded_dashboard_works_again(open_page):
    page = open_page()
    page.page.reload()
    page.wait_for_figures(ERRORS, DISTANCES, CURVE)
    page.wait_for_status("Ready on")
    page.click_cell(2, 1)
    page.wait_for_status("layer2 ← epoch 2: test error", "1,800 of 1,800 examples")


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_the_kernel_of_a_page_that_was_closed_ends(open_page, dashboard):
    """Otherwise each reload would leave a network in memory."""

    def kernels():
        running = dashboard[1].children(recursive=True)
        return sum("ipykernel_launcher" in " ".join(one.cmdline()) for one in running)

    pages = [open_page(), open_page()]
    before = kernels()
    assert before >= 2
    pages[1].page.close()
    deadline = time.monotonic() + 100
    while kernels() >= before and time.monotonic() < deadline:
        time.sleep(1)
    assert kernels() < before
    pages[0].click_cell(1, 1)
    pages[0].wait_for_status("layer2 ← epoch 1: test error")


def test_without_the_token_nothing_is_shown(chromium, dashboard):
    context = chromium.new_context()
    page = context.new_page()
    page.goto(dashboard[0].split("?")[0])
    assert page.locator(".layer-explorer").count() == 0
    context.close()
