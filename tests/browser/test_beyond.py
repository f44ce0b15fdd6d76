"""The panels beyond the paper in a real JupyterLab: opened, started and stopped by keyboard."""

from __future__ import annotations

import nbformat
import pytest
from axe_playwright_python.sync_playwright import Axe

pytestmark = pytest.mark.browser

CELL = """
import explorer as lx

explorer = lx.Explorer("fcn3x256-digits", device="cpu")
explorer
"""

WORDS = {
    "Effective parameters": "The largest set of layers",
    "Criticality": "How far each layer can go back",
    "Paths and barriers": "Error and loss on the straight line",
    "Motion": "How each layer's weights move",
    "Outputs": "How far the outputs",
    "Other stacks": "Which layers matter in this network",
}
"""Panel → how its sentence begins."""

FIGURES = {
    "Effective parameters": ["Test error against trained parameters left"],
    "Criticality": ["Criticality of 4 layers", "Heatmap of the mean loss"],
    "Paths and barriers": ["Heatmap of the barriers", "Curves along the path"],
    "Motion": ["Curves: Rotation of each layer", "Test error against the rotation"],
    "Outputs": ["Heatmap of the Jensen–Shannon divergence"],
    "Other stacks": ["Damage of fcn3x256-digits", "Damage by relative depth"],
}
"""Panel → how the labels of its figures begin, in the order of the menu."""


@pytest.fixture(scope="module")
def page(open_notebook, tmp_path_factory):
    """An explorer of the bundled stack, with the tab open that the keys have gone to."""
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    content = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_code_cell(CELL)], metadata={"kernelspec": kernel}
    )
    path = tmp_path_factory.mktemp("panels") / "panels.ipynb"
    nbformat.write(content, path)
    opened = open_notebook(path)
    opened.wait_for_status("Ready on")
    tabs = opened.page.get_by_role("tab", name="What changed")
    tabs.focus()
    for _ in range(3):
        opened.page.keyboard.press("ArrowRight")
    opened.page.keyboard.press("Enter")
    opened.page.get_by_role("tab", name="Beyond the paper", selected=True).wait_for()
    opened.page.get_by_label("Panel", exact=True).wait_for()
    return opened


@pytest.fixture(autouse=True)
def _nothing_went_wrong_and_nothing_went_out(page):
    yield
    assert page.complaints == []
    assert page.hosts() == {"127.0.0.1"}


def choose(page, title):
    """Choose a panel with the keys alone."""
    page.page.get_by_label("Panel", exact=True).focus()
    page.page.keyboard.press("Home")
    for _ in range(list(FIGURES).index(title)):
        page.page.keyboard.press("ArrowDown")
    page.page.get_by_text(WORDS[title]).locator("visible=true").wait_for()


def press(page, name):
    page.page.get_by_role("button", name=name, exact=True).focus()
    page.page.keyboard.press("Enter")


def painted(page, label):
    """Number of points and cells that a figure shows."""
    return page.figure(
        label, "model.renderers.map((_, at) => Object.values(columns(at))[0]?.length ?? 0)"
    )


def measure(page, title):
    """Have a panel measured that is shown already, and wait for it."""
    if title != "Motion":  # whose weights are at hand: it measures itself
        press(page, "Measure")
    page.page.get_by_text("Measured in").locator("visible=true").wait_for(timeout=180_000)


@pytest.mark.parametrize("title", FIGURES)
def test_a_panel_is_chosen_measured_and_painted_with_the_keys_alone(page, title):
    choose(page, title)
    measure(page, title)
    page.screenshot(f"panel-{title.split()[0].lower()}-first")
    page.wait_for_figures(*FIGURES[title])
    for label in FIGURES[title]:
        assert sum(painted(page, label)) > 3


# One has what the others have: a heatmap, curves, tables, and menus beside the button.
EVERY_DAY = "Criticality"


@pytest.mark.parametrize(
    "title",
    [pytest.param(t, marks=[pytest.mark.slow] if t != EVERY_DAY else []) for t in FIGURES],
)
def test_a_panel_can_be_read_in_both_themes_and_at_every_width(page, title):
    choose(page, title)
    if not page.page.get_by_text("Measured in").locator("visible=true").count():
        measure(page, title)
    page.wait_for_figures(*FIGURES[title])
    name = title.split()[0].lower()
    for theme in ("JupyterLab Dark", "JupyterLab Light"):
        page.use_theme(theme)
        found = Axe().run(page.page, context=".layer-explorer")
        assert found.response["violations"] == [], found.generate_report()
        page.place(0, 0, FIGURES[title][0])
        page.page.get_by_label("Panel", exact=True).scroll_into_view_if_needed()
        page.screenshot(f"panel-{name}-{theme.split()[1].lower()}")
    explorer = page.page.locator(".layer-explorer")
    for width, height in ((1280, 900), (700, 900), (640, 450)):
        page.page.set_viewport_size({"width": width, "height": height})
        page.place(0, 0, FIGURES[title][0])
        assert explorer.evaluate("element => element.scrollWidth - element.clientWidth") <= 0
        page.page.get_by_label("Panel", exact=True).scroll_into_view_if_needed()
        page.screenshot(f"panel-{name}-{width}")
    page.page.set_viewport_size({"width": 1280, "height": 900})
