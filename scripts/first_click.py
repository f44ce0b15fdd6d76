"""Time a stranger's way from `git clone` to the first measured click, in a browser.

It clones this repository into an empty folder, runs `make lab` there, opens the printed address in
a headless Chromium, runs the notebook's cells and clicks one cell of the picture. Run it on a
machine that does nothing else: the first set-up downloads and unpacks about 3.5 GB. What pip keeps
in its cache is used, as it would be at a second try.

    .venv/bin/python scripts/first_click.py [--folder EMPTY_FOLDER]
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from explorer.servers import free_port  # noqa: E402
from tests.browser.pages import CURVE, DISTANCES, ERRORS, Notebook  # noqa: E402
from tests.browser.serving import browsing, find_browser, own_folders, serving  # noqa: E402

PATIENCE = 3600
"""Seconds that the set-up may take."""

ADDRESS = re.compile(r"http://127\.0\.0\.1:\d+/lab\S*token=\w+")


def main() -> None:
    """Go the way and print each step with the seconds since the start."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--folder", type=Path, help="where to clone; a clone there is used as it is"
    )
    folder = parser.parse_args().folder
    executable = find_browser()
    if executable is None:
        sys.exit("A Chromium or Chrome is needed; python scripts/set_up.py --browser finds one.")
    with tempfile.TemporaryDirectory() as home:
        go(folder or Path(home) / "layer-explorer", Path(home), executable)


def go(clone: Path, home: Path, executable: str) -> None:
    """Clone, set up, open, run, click."""
    began = time.monotonic()

    def say(step: str) -> None:
        print(f"{time.monotonic() - began:8.1f} s  {step}", flush=True)

    if not clone.exists():
        subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
        say("cloned")
    log = home / "log"
    command = ["make", "lab", f"PORT={free_port()}", "ARGS=--no-browser"]
    environment = {key: text for key, text in own_folders(home).items() if key != "PYTHONPATH"}
    with serving(command, environment, clone, log) as server, browsing(executable) as chromium:
        address = printed(log, server)
        say("set up, address printed")
        notebook = Notebook(
            chromium.new_context(viewport={"width": 1280, "height": 900}).new_page()
        )
        notebook.page.set_default_timeout(600_000)
        notebook.page.goto(address)
        notebook.page.locator(".jp-NotebookPanel .jp-Cell").first.wait_for()
        say("the notebook is shown")
        notebook.page.get_by_role("menuitem", name="Run", exact=True).click()
        notebook.page.get_by_text("Run All Cells", exact=True).click()
        notebook.wait_for_figures(ERRORS, DISTANCES, CURVE)
        say("the first picture is drawn")
        notebook.click_cell(0, 0)
        said = notebook.wait_for_status("layer1 ← epoch 0: test error")
        say(f"clicked: {said}")


def printed(log: Path, server: subprocess.Popen[bytes]) -> str:
    """Wait for the address that a reader would open."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline and server.poll() is None:
        found = ADDRESS.search(log.read_text())
        if found:
            return found[0]
        time.sleep(0.1)
    sys.exit(f"`make lab` did not come to an address:\n{log.read_text()[-3000:]}")


if __name__ == "__main__":
    main()
