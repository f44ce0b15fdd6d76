"""Photograph the explorer: docs/images/tutorial-*.png and explorer.png (needs a Chromium).

A headless browser opens `explorer dashboard` and clicks as the tutorial says, then a notebook in
JupyterLab. Run with ``make pictures`` after the widget has changed.
"""

from __future__ import annotations

import io
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import nbformat
from PIL import Image

from scripts.docs.links import ROOT
from tests.browser.pages import CURVE, DISTANCES, ERRORS, ExplorerPage, Notebook
from tests.browser.serving import (
    TOKEN,
    browsing,
    dashboard_address,
    dashboard_command,
    find_browser,
    lab_address,
    lab_command,
    own_folders,
    serving,
)

SIZE = {"width": 1120, "height": 860}
IN_JUPYTERLAB = {"width": 1280, "height": 1010}
MEASURED = "1,800 of 1,800 examples"
MEASURED_DISTANCES = """label => ![...Bokeh.index].find(view =>
  view.model.html_attributes['aria-label']?.startsWith(label)
).model.renderers[1].data_source.data.text.includes('–')"""
"""No cell of the heatmap of distances is without a number."""

COLOURS = 256
"""Colours of a picture; fewer make a smaller file, and the page has hardly more."""


def main() -> int:
    """Take the pictures; returns the exit status."""
    executable = find_browser()
    if executable is None:
        sys.exit("A Chromium or Chrome is needed; python scripts/set_up.py --browser finds one.")
    with browsing(executable) as chromium:
        for take in (in_dashboard, in_jupyterlab):
            with TemporaryDirectory() as folder:
                take(chromium, Path(folder))
    return 0


def in_dashboard(chromium: Any, home: Path) -> None:
    """Take the pictures of the tutorial."""
    log = home / "log"
    with serving(dashboard_command(), own_folders(home), home, log) as server:
        page = ExplorerPage(chromium.new_context(viewport=SIZE).new_page())
        page.page.set_default_timeout(300_000)
        page.page.goto(dashboard_address(server, log))
        page.wait_for_figures(ERRORS, DISTANCES, CURVE)
        page.wait_for_status("Ready on")
        page.wait_for(MEASURED_DISTANCES, DISTANCES)
        photograph(page)


def in_jupyterlab(chromium: Any, home: Path) -> None:
    """Take the picture of an explorer in a notebook, two layers put back."""
    cell = nbformat.v4.new_code_cell('import explorer as lx\n\nlx.Explorer("fcn3x256-digits")')
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    content = nbformat.v4.new_notebook(cells=[cell], metadata={"kernelspec": kernel})
    (home / "notebooks").mkdir()
    nbformat.write(content, home / "notebooks" / "digits.ipynb")
    command, log = lab_command(home / "notebooks"), home / "log"
    with serving(command, own_folders(home), home, log) as server:
        page = Notebook(chromium.new_context(viewport=IN_JUPYTERLAB).new_page())
        page.page.set_default_timeout(300_000)
        page.page.goto(f"{lab_address(home, server, log)}lab/tree/digits.ipynb?token={TOKEN}&reset")
        page.run_all()
        page.page.evaluate("() => jupyterapp.commands.execute('application:toggle-left-area')")
        page.wait_for_figures(ERRORS, DISTANCES, CURVE)
        page.wait_for_status("Ready on")
        page.wait_for(MEASURED_DISTANCES, DISTANCES)
        page.click_cell(0, 2)
        page.wait_for_status("layer3 ← epoch 0: test error", MEASURED)
        page.page.keyboard.down("Control")
        page.click_cell(0, 3)
        page.page.keyboard.up("Control")
        page.wait_for_status("layer3, layer4 ← epoch 0: test error", MEASURED)
        page.page.evaluate("() => document.querySelector('.jp-WindowedPanel-outer').scrollTop = 0")
        page.page.mouse.move(IN_JUPYTERLAB["width"] - 4, IN_JUPYTERLAB["height"] - 4)
        page.page.wait_for_timeout(1500)
        write(page.page.screenshot(), "explorer")


def photograph(page: ExplorerPage) -> None:
    """Click as the tutorial says, and keep what the page shows after each step."""
    keep(page, "open")
    page.page.mouse.click(*page.place(0, 0))
    page.wait_for_status("layer1 ← epoch 0: test error", MEASURED)
    keep(page, "click")
    page.page.mouse.click(*page.place(0, 2))
    page.wait_for_status("layer3 ← epoch 0: test error", MEASURED)
    page.page.keyboard.down("Control")
    page.page.mouse.click(*page.place(0, 3))
    page.page.keyboard.up("Control")
    page.wait_for_status("layer3, layer4 ← epoch 0: test error", MEASURED)
    keep(page, "together")


def keep(page: ExplorerPage, name: str) -> None:
    """Write a picture of the page, the pointer out of the way."""
    page.page.mouse.move(SIZE["width"] - 4, SIZE["height"] - 4)
    page.page.evaluate("scrollTo(0, 0)")
    page.page.wait_for_timeout(1500)
    write(page.page.screenshot(), f"tutorial-{name}")


def write(png: bytes, name: str) -> None:
    """Write a picture with few colours."""
    shown = Image.open(io.BytesIO(png)).convert("RGB")
    path = ROOT / "docs" / "images" / f"{name}.png"
    shown.quantize(COLOURS, kmeans=1, dither=Image.Dither.NONE).save(path, optimize=True)
    print(f"{path.name}: {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    sys.exit(main())
