"""Make the pictures of the panels beyond the paper: docs/images/panel-*.png.

What a panel shows of a bundled network, its figures and the first rows of its table, is drawn by a
headless Chromium in the explorer's own style. Run with ``make pictures`` after a panel has changed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from html import escape
from importlib.resources import files
from typing import Any

from bokeh.embed import components
from bokeh.resources import Resources
from notebook_pictures import IMAGES, find_browser, reduced  # beside this script
from playwright.sync_api import sync_playwright

import explorer as lx
from explorer.ui.panel import Shown
from explorer.ui.panels import PANELS

STACK = "fcn3x256-digits"
OTHERS = (STACK, "resnet18-digits", "resnet18bn-digits")

WIDTH = 1000
"""Pixels of a picture."""

QUIET: Mapping[str, Any] = {"progress": False, "device": "cpu"}

FOUND: Mapping[str, Callable[[Any], Any]] = {
    "effective": lambda stack: lx.effective_parameters(stack, **QUIET),
    "criticality": lambda stack: lx.criticality(stack, draws=3, **QUIET),
    "paths": lambda stack: lx.paths(stack, shares=5, **QUIET),
    "motion": lambda stack: lx.motion(stack, sweep=lx.open_sweep(STACK), progress=False),
    "outputs": lambda stack: lx.outputs(stack, **QUIET),
    "across": lambda _stack: lx.compare(OTHERS, progress=False),
}
"""Kind of panel → what it measures."""

LAYER, EPOCH = "layer3", 0
"""The cell that is selected."""

STYLE = """
body { margin: 0; font: 13px/1.45 "DejaVu Sans", Arial, sans-serif }
main { width: %(width)dpx; background: #fff; padding: 6px 12px; box-sizing: border-box }
.pictures { display: flex; flex-wrap: wrap; align-items: flex-start }
.pictures > div { flex: 1 1 300px; min-width: 0 }
"""


def main() -> int:
    """Draw every panel, or those that are named."""
    stack, wanted = lx.open_stack(STACK), sys.argv[1:]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_browser(), args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": WIDTH, "height": 900})
        for panel in PANELS:
            if wanted and panel.kind not in wanted:
                continue
            page.set_content(panel_html(panel, FOUND[panel.kind](stack), WIDTH))
            page.wait_for_function("Bokeh.documents.every(one => one.is_idle)")
            png = reduced(page.locator("main").screenshot())
            (IMAGES / f"panel-{panel.kind}.png").write_bytes(png)
            print(f"panel-{panel.kind}: {len(png):,} bytes")
        browser.close()
    return 0


def panel_html(panel: Any, found: Any, width: int) -> str:
    """Return what a panel shows as a page of some width."""
    offered = panel.show(found)
    by = None if offered is None else next(iter(offered.entries.values()))
    shown = Shown(found, by, LAYER, EPOCH)
    script, divs = components(tuple(panel.figures(shown)))
    style = (files("explorer.ui") / "style.css").read_text(encoding="utf-8")
    pictures = "".join(f"<div>{div}</div>" for div in divs)
    return (
        f"<style>{style}{STYLE % {'width': width}}</style>{Resources('inline').render()}"
        f'<main class="layer-explorer"><h2>{escape(panel.title)}</h2>'
        f"<p>{escape(panel.sentence)}</p>"
        f'<div class="pictures">{pictures}</div>'
        f'<div class="widget-html-content">{panel.table(shown)}</div></main>{script}'
    )


if __name__ == "__main__":
    sys.exit(main())
