"""Photograph the explorer for docs/tutorial.md: docs/images/tutorial-*.png (needs a Chromium).

A headless browser opens `explorer dashboard` and clicks as the tutorial says. Run it after the
widget has changed: ``.venv/bin/python -m scripts.docs.screenshots``.
"""

from __future__ import annotations

import io
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image

from scripts.docs.links import ROOT
from tests.browser.pages import CURVE, DISTANCES, ERRORS, ExplorerPage
from tests.browser.serving import (
    browsing,
    dashboard_address,
    dashboard_command,
    find_browser,
    own_folders,
    serving,
)

SIZE = {"width": 1120, "height": 860}
MEASURED = "1,800 of 1,800 examples"
MEASURED_DISTANCES = """label => ![...Bokeh.index].find(view =>
  view.model.html_attributes['aria-label']?.startsWith(label)
).model.renderers[1].data_source.data.text.includes('–')"""
"""No cell of the heatmap of distances is without a number."""

COLOURS = 160
"""Colours of a picture; fewer make a smaller file, and the page has hardly more."""


def main() -> int:
    """Take the pictures; returns the exit status."""
    executable = find_browser()
    if executable is None:
        sys.exit("A Chromium or Chrome is needed; python scripts/set_up.py --browser finds one.")
    with TemporaryDirectory() as folder:
        home, log = Path(folder), Path(folder) / "log"
        with (
            serving(dashboard_command(), own_folders(home), home, log) as server,
            browsing(executable) as chromium,
        ):
            page = ExplorerPage(chromium.new_context(viewport=SIZE).new_page())
            page.page.set_default_timeout(300_000)
            page.page.goto(dashboard_address(server, log))
            page.wait_for_figures(ERRORS, DISTANCES, CURVE)
            page.wait_for_status("Ready on")
            page.wait_for(MEASURED_DISTANCES, DISTANCES)
            photograph(page)
    return 0


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
    shown = Image.open(io.BytesIO(page.page.screenshot())).convert("RGB")
    path = ROOT / "docs" / "images" / f"tutorial-{name}.png"
    shown.quantize(COLOURS, dither=Image.Dither.NONE).save(path, optimize=True)
    print(f"{path.name}: {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    sys.exit(main())
