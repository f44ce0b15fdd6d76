"""The dashboard in a real browser: started by its own command, with no way out to a network."""

from __future__ import annotations

import shutil
import signal
import time
from urllib.parse import urlsplit

import psutil
import pytest

from tests.browser.pages import (
    CURVE,
    DISTANCES,
    ERRORS,
    PATIENCE,
    REPOSITORY,
    ExplorerPage,
)
from tests.browser.serving import dashboard_address, dashboard_command, own_folders, serving
from tests.conftest import copy_bundled

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module")
def dashboard(tmp_path_factory):
    """Where the dashboard of a folder of checkpoints is, and its process."""
    home = tmp_path_factory.mktemp("dashboard")
    copy_bundled(home / "mine")
    log = home / "log"
    with serving(dashboard_command("mine"), own_folders(home), home, log) as server:
        yield dashboard_address(server, log), psutil.Process(server.pid)


@pytest.fixture(scope="module")
def opened():
    """Every page that has been opened."""
    return []


@pytest.fixture(scope="module")
def open_page(chromium, dashboard, opened):
    """Return a function that opens the dashboard, or another address, as another reader."""
    contexts = []

    def open_one(address=dashboard[0]):
        contexts.append(chromium.new_context(viewport={"width": 1280, "height": 1000}))
        page = ExplorerPage(contexts[-1].new_page())
        opened.append(page)
        page.page.goto(address)
        page.wait_for_figures(ERRORS, DISTANCES, CURVE)
        page.wait_for_status("Ready on")
        return page

    yield open_one
    for context in contexts:
        context.close()


@pytest.fixture(scope="module")
def page(open_page):
    """The dashboard as the first reader has it: a page of its own takes a kernel and 10 seconds."""
    return open_page()


@pytest.fixture(autouse=True)
def _nothing_went_wrong_and_nothing_went_out(opened):
    yield
    for page in opened:
        # a page that goes asks Voila to end its kernel, which Voila refuses when there is a token
        assert [text for text in page.complaints if "403 (Forbidden)" not in text] == []
        assert page.hosts() == {"127.0.0.1"}
        assert len(page.requests) > 10


def test_the_dashboard_shows_the_explorer_and_nothing_else_and_answers_clicks(page):
    assert page.page.title() == "Layer Explorer"
    assert page.page.locator(".jp-InputArea").count() == 0
    page.click_cell(0, 0)
    page.wait_for_status("layer1 ← epoch 0: test error", "1,800 of 1,800 examples")
    page.page.locator(".layer-explorer-changes img").first.wait_for()
    page.wait_for_mark(ERRORS, [0.0], [0.0])
    page.screenshot("dashboard")


def test_the_dashboard_opens_the_stack_that_was_named(page):
    page.click_cell(0, 0)
    page.page.get_by_role("tab", name="Export").click()
    code = page.page.locator(".layer-explorer pre").filter(has_text="open_stack(")
    code.wait_for()
    assert "/mine')" in code.text_content()


@pytest.mark.slow
def test_a_link_to_a_running_jupyter_server_opens_the_dashboard_as_well(lab, open_page):
    """Binder's links do: ?urlpath=voila/render/notebooks/dashboard.ipynb."""
    (lab.folder / "notebooks").mkdir(exist_ok=True)
    shutil.copy(REPOSITORY / "notebooks" / "dashboard.ipynb", lab.folder / "notebooks")
    page = open_page(f"{lab.url}voila/render/notebooks/dashboard.ipynb?token={lab.token}")
    assert page.page.title() == "Layer Explorer"
    assert page.page.locator(".jp-InputArea").count() == 0
    page.click_cell(0, 0)
    page.wait_for_status("layer1 ← epoch 0: test error", "1,800 of 1,800 examples")
    page.page.close()  # its kernel has a network in memory


@pytest.mark.slow
def test_keys_work_as_they_do_in_jupyterlab(page):
    page.click_cell(0, 0)
    page.wait_for_status("layer1 ← epoch 0: test error", "1,800 of 1,800 examples")
    page.page.locator(".layer-explorer [role=gridcell][tabindex='0']").focus()
    page.page.keyboard.press("ArrowRight")
    page.page.keyboard.press("Enter")
    page.wait_for_status("layer1 ← epoch 1: test error", "1,800 of 1,800 examples")


@pytest.mark.slow
def test_two_readers_do_not_see_each_others_clicks(page, open_page):
    other = open_page()
    page.click_cell(1, 2)
    page.wait_for_status("layer3 ← epoch 1: test error", "1,800 of 1,800 examples")
    other.click_cell(3, 3)
    other.wait_for_status("layer4 ← epoch 3: test error", "1,800 of 1,800 examples")
    assert page.marked(ERRORS) == ([1.0], [2.0])
    page.wait_for_status("layer3 ← epoch 1: test error")
    other.page.close()


@pytest.mark.slow
def test_a_reloaded_dashboard_works_again(page):
    page.page.reload()
    page.wait_for_figures(ERRORS, DISTANCES, CURVE)
    page.wait_for_status("Ready on")
    page.click_cell(2, 1)
    page.wait_for_status("layer2 ← epoch 2: test error", "1,800 of 1,800 examples")


def command_of(process):
    """Its command line; empty where it has ended since it was listed."""
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


@pytest.mark.slow
@pytest.mark.timeout(200)
def test_the_kernel_of_a_page_that_was_closed_ends(page, open_page, dashboard):
    """Otherwise each reload would leave a network in memory."""

    def kernels():
        running = dashboard[1].children(recursive=True)
        return {one.pid for one in running if "ipykernel_launcher" in command_of(one)}

    before = kernels()
    leaving = open_page()
    (its,) = kernels() - before
    leaving.page.close()
    deadline = time.monotonic() + 100
    while its in kernels() and time.monotonic() < deadline:
        time.sleep(1)
    assert its not in kernels()
    page.click_cell(1, 1)
    page.wait_for_status("layer2 ← epoch 1: test error")


def test_without_the_token_nothing_is_shown(chromium, dashboard):
    context = chromium.new_context()
    page = context.new_page()
    page.goto(dashboard[0].split("?")[0], timeout=PATIENCE)
    assert urlsplit(page.url).path == "/login"
    assert page.locator(".layer-explorer").count() == 0
    context.close()


@pytest.mark.slow
def test_ctrl_c_ends_the_dashboard_and_its_kernels(chromium, tmp_path):
    log, page = tmp_path / "log", chromium.new_page()
    with serving(dashboard_command(), own_folders(tmp_path), tmp_path, log) as server:
        page.goto(dashboard_address(server, log), timeout=PATIENCE)
        page.get_by_role("status").filter(has_text="Ready on").wait_for(timeout=PATIENCE)
        kernels = psutil.Process(server.pid).children(recursive=True)
        assert kernels
        assert "ncrypt" not in log.read_text()  # ipykernel's warning where nothing is encrypted
        server.send_signal(signal.SIGINT)
        server.wait(60)
        assert psutil.wait_procs(kernels, timeout=10)[1] == []
    page.close()
