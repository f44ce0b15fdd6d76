"""A page of JupyterLab that is reloaded after an explorer has been built anew in it."""

from __future__ import annotations

import nbformat
import pytest

from tests.browser.pages import CURVE, DISTANCES, ERRORS

pytestmark = pytest.mark.browser

CELLS = (
    'import ipywidgets\n\nneighbour = ipywidgets.IntSlider(description="a neighbour")\nneighbour',
    'import explorer as lx\n\nexplorer = lx.Explorer("fcn3x256-digits")\nexplorer',
)
PROFILE = "Test error of the selected layer"


@pytest.fixture(scope="module")
def notebook(open_notebook, tmp_path_factory):
    """An explorer and, above it, a widget that is none of ours."""
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    cells = [nbformat.v4.new_code_cell(cell) for cell in CELLS]
    content = nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel})
    path = tmp_path_factory.mktemp("reload") / "reload.ipynb"
    nbformat.write(content, path)
    opened = open_notebook(path)
    opened.wait_for_status("Ready on")
    return opened


def reload(notebook):
    """Save and reload; everything that was on the page has to be there again."""
    page = notebook.page
    before = {selector: page.locator(selector).count() for selector in WIDGETS}
    assert all(before.values()), before
    page.evaluate("() => jupyterapp.commands.execute('docmanager:save')")
    page.reload()
    notebook.wait_for_figures(ERRORS, DISTANCES, CURVE, PROFILE)
    page.get_by_text("a neighbour", exact=True).wait_for()
    assert {selector: page.locator(selector).count() for selector in WIDGETS} == before
    for wrong in ("Error displaying widget", "Loading widget", "model not found"):
        assert page.get_by_text(wrong).count() == 0
    # anywidget says so of every model that a busy page takes two seconds for; they are there, above
    slow = "page: [anywidget] Failed to initialize model."
    assert [text for text in notebook.complaints if text != slow] == []
    assert notebook.hosts() == {"127.0.0.1"}


WIDGETS = (
    ".layer-explorer [role=gridcell]",
    ".layer-explorer [role=status]",
    ".layer-explorer [role=tab]",
    ".layer-explorer .bk-Figure",
    ".layer-explorer select",
    ".layer-explorer button",
    ".layer-explorer input",
    ".layer-explorer-strip input",
    ".widget-slider",
)
"""What an explorer with its four pictures consists of on the page, and the neighbour."""


def test_after_other_settings_a_reloaded_page_has_all_pictures_and_answers(notebook):
    page = notebook.page
    notebook.wait_for_figures(PROFILE)
    page.get_by_role("tab", name="Settings").click()
    page.get_by_label("Layers", exact=True).select_option("as columns")
    page.get_by_role("spinbutton", name="Fresh draws").fill("2")
    page.get_by_role("button", name="Apply").click()
    notebook.wait_for(
        "label => [...Bokeh.index].some(view =>"
        "  view.model.html_attributes['aria-label']?.startsWith(label)"
        "  && view.el.isConnected && view.model.above[0].axis_label === 'layer')",
        ERRORS,
    )
    notebook.wait_for_status("Ready on")
    notebook.wait_for_figures(DISTANCES, CURVE, PROFILE)
    reload(notebook)
    notebook.click_cell(1, 0)  # layers run from left to right now
    notebook.wait_for_status("layer2 ← epoch 0: test error", "1,800 of 1,800")
    assert notebook.marked(ERRORS) == ([1.0], [0.0])
    notebook.screenshot("lab-reloaded-settings")


def test_after_another_stack_a_reloaded_page_has_all_pictures_and_answers(notebook):
    page = notebook.page
    page.mouse.move(*notebook.place(1, 1))
    page.locator("body > .bk-Tooltip").wait_for()
    page.get_by_label("Stack", exact=True).select_option("mixer-digits")
    page.locator(".layer-explorer h2").filter(has_text="MLP-Mixer").wait_for()
    notebook.wait_for_status("Ready on")
    notebook.wait_for_figures(DISTANCES, CURVE, PROFILE)
    # what the pointer said goes with the picture that it was on
    page.locator("body > .bk-Tooltip").wait_for(state="detached")
    reload(notebook)
    assert "MLP-Mixer" in page.locator(".layer-explorer h2").text_content()
    notebook.click_cell(0, 0)
    notebook.wait_for_status("← epoch 0: test error", "of 1,")
    page.get_by_role("tab", name="Measured").click()
    assert page.locator(".layer-explorer td, .layer-explorer li").count() > 0
    notebook.screenshot("lab-reloaded-stack")


def test_widgets_made_while_a_page_is_answered_delay_it_and_take_nothing_from_it(notebook):
    """As a thread of ours may make them: ipywidgets gives up the answer for all at once."""
    said = notebook.in_kernel(
        """
        def making_others(*names, **options):
            made.append(ipywidgets.HTML())
            return ipywidgets.IntSlider.get_state(neighbour, *names, **options)

        made = []
        neighbour.get_state = making_others
        """
    )
    assert said == ""
    reload(notebook)
    assert notebook.in_kernel("print(len(made) > 0)") == "True"
