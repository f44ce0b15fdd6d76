"""The explorer in a real JupyterLab and a real browser, with no way out to a network."""

from __future__ import annotations

import time

import nbformat
import pytest
from axe_playwright_python.sync_playwright import Axe

from explorer.engine.results import open_sweep
from tests.browser.pages import CURVE, DISTANCES, ERRORS, REPOSITORY

pytestmark = pytest.mark.browser

SLOW = """
import time

import explorer as lx
from explorer.ui import background

opened = background.open_evaluator


def slowly(stack, **options):
    evaluator = opened(stack, **options)
    quickly = evaluator.estimates

    def estimates(intervention):
        for estimate in quickly(intervention):
            yield estimate
            time.sleep(0.4)

    evaluator.estimates = estimates
    return evaluator


background.open_evaluator = slowly
explorer = lx.Explorer("fcn3x256-digits", batch_size=64)
while explorer._exploration.session.distances is None:
    time.sleep(0.1)
explorer
"""


@pytest.fixture(scope="module")
def notebook(open_notebook):
    """The first notebook, every cell of it run."""
    opened = open_notebook(REPOSITORY / "notebooks" / "01-first-click.ipynb")
    opened.wait_for_status("Ready on")
    return opened


@pytest.fixture(scope="module")
def slow(open_notebook, tmp_path_factory):
    """An explorer that takes 12 seconds for a cell, displayed when its distances are known."""
    cell = nbformat.v4.new_code_cell(SLOW)
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    content = nbformat.v4.new_notebook(cells=[cell], metadata={"kernelspec": kernel})
    path = tmp_path_factory.mktemp("slow") / "slow.ipynb"
    nbformat.write(content, path)
    opened = open_notebook(path)
    opened.wait_for_status("Ready on")
    return opened


@pytest.fixture(autouse=True)
def _nothing_went_wrong_and_nothing_went_out(request):
    """After every test: no error in the page, and no request to another machine."""
    pages = [
        request.getfixturevalue(name)
        for name in ("notebook", "slow")
        if name in request.fixturenames
    ]
    yield
    assert pages
    for page in pages:
        assert page.complaints == []
        assert page.hosts() == {"127.0.0.1"}
        assert len(page.requests) > 50


def wait_for_distances(page):
    page.wait_for(
        "label => !([...Bokeh.index].find(view =>"
        "  view.model.html_attributes['aria-label']?.startsWith(label)"
        ")?.model.renderers[0].data_source.data.hatch ?? ['/']).includes('/')",
        DISTANCES,
    )


def test_running_the_notebook_shows_both_pictures_filled(notebook):
    numbers = notebook.figure(ERRORS, "columns(0)")["text"]
    assert len(numbers) == 4 * 9 + 8
    assert not {"–", "!"} & set(numbers)
    wait_for_distances(notebook)
    notebook.place(0, 0)
    notebook.screenshot("lab-first-picture")


def test_what_was_found_out_before_the_explorer_was_displayed_is_not_lost(slow):
    wait_for_distances(slow)


def test_a_click_marks_the_cell_in_both_pictures_and_shows_the_live_value(notebook):
    notebook.click_cell(0, 1)
    status = notebook.wait_for_status("layer2 ← epoch 0: test error", "1,800 of 1,800 examples")
    for picture in (ERRORS, DISTANCES):  # a document each: one may be ahead of the status
        notebook.wait_for_mark(picture, [0.0], [1.0])
    assert notebook.figure(CURVE, "model.title.text") == "layer2 ← epoch 0"
    assert notebook.figure(CURVE, "columns(0)")["examples"][-1] == 1800
    shown = float(notebook.number_in("layer2 ← epoch 0"))
    assert abs(shown - float(status.split("test error ")[1].split()[0])) <= 0.5
    notebook.screenshot("lab-after-a-click")


def test_a_click_on_the_distances_does_the_same(notebook):
    notebook.click_cell(1, 3, DISTANCES)
    notebook.wait_for_status("layer4 ← epoch 1: test error", "1,800 of 1,800")
    assert notebook.marked(ERRORS) == ([1.0], [3.0])


def test_the_same_cell_is_measured_each_time_it_is_clicked(notebook):
    notebook.page.evaluate(
        "() => { window.said = []; new MutationObserver(() => {"
        "  const status = document.querySelector('[role=status]').textContent;"
        "  if (said.at(-1) !== status) said.push(status)"
        "}).observe(document.querySelector('.layer-explorer'), {subtree: true, childList: true}) }"
    )
    for times in (1, 2, 3):
        notebook.click_cell(0, 2)
        notebook.wait_for(
            "times => said.filter(status =>"
            "  status.startsWith('layer3 ← epoch 0: test error')).length === times",
            times,
        )


def test_of_fast_clicks_the_last_one_wins(notebook):
    for x in range(7):
        notebook.page.mouse.click(*notebook.place(x, 3))
    notebook.wait_for_status("layer4 ← epoch 90: test error", "1,800 of 1,800")
    assert notebook.marked(ERRORS) == ([6.0], [3.0])
    assert notebook.figure(CURVE, "model.title.text") == "layer4 ← epoch 90"


def test_the_menus_and_buttons_can_be_used_from_the_keyboard(notebook):
    page = notebook.page

    def press(*keys):
        for key in keys:
            page.keyboard.press(key)

    def focused():
        return page.evaluate(
            "() => { const {activeElement: element} = document;"
            "  return element.labels?.[0]?.textContent ?? element.textContent }"
        )

    cells = page.locator(".jp-Cell").count()
    page.get_by_label("Layer", exact=True).focus()
    press("Home", "ArrowDown", "ArrowDown", "Tab")
    assert focused() == "put back to"
    press("Home", "ArrowDown", "ArrowDown")
    notebook.wait_for_status("layer3 ← fresh draws: test error", "measure layer3 ← fresh draw 1")
    press("Tab", "Tab")
    assert focused() == "Compute"
    press("Enter")
    notebook.wait_for_status("layer3 ← fresh draw 1: test error", "1,800 of 1,800")
    press("Tab")
    assert focused() == "Stop"
    press("Enter")
    notebook.wait_for_status("Nothing is running")
    assert page.locator(".jp-Cell").count() == cells


def test_what_has_the_keyboards_focus_has_a_ring_around_it(notebook):
    page = notebook.page
    outline = "() => { const {outlineStyle, outlineWidth, outlineColor} ="
    outline += " getComputedStyle(document.activeElement);"
    outline += " return [outlineStyle, outlineWidth, outlineColor] }"
    page.keyboard.press("Tab")  # a ring is for those who use keys
    for control in (
        page.get_by_label("Layer", exact=True),
        page.get_by_role("button", name="Compute"),
        page.get_by_role("button", name="Stop"),
        page.get_by_label("or folder"),
        page.locator(".layer-explorer summary").first,
        page.get_by_role("checkbox").first,
    ):
        control.focus()
        assert page.evaluate(outline) == ["solid", "2px", "rgb(11, 87, 208)"]


def test_the_cells_can_be_walked_added_and_measured_with_keys_alone(notebook):
    page = notebook.page
    notebook.click_cell(0, 0)
    notebook.wait_for_status("layer1 ← epoch 0: test error", "1,800 of 1,800")
    cells = page.locator(".jp-Cell").count()
    page.locator(".layer-explorer [role=gridcell][tabindex='0']").focus()

    def spoken():
        return page.evaluate("() => document.activeElement.getAttribute('aria-label')")

    assert spoken().replace("\u00a0", " ") == "layer1, epoch 0, error 71 %, critical"
    for key in ("ArrowRight", "ArrowDown", "ArrowDown", "ArrowLeft"):
        page.keyboard.press(key)
    assert spoken().startswith("layer3, epoch 0, ")
    notebook.wait_for_mark(ERRORS, [0.0], [2.0])
    page.keyboard.press("Space")
    notebook.wait_for_status("Put back together: layer3 ← epoch 0")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Space")
    notebook.wait_for_status("Put back together: layer3, layer4 ← epoch 0")
    page.keyboard.press("Enter")
    notebook.wait_for_status("layer3, layer4 ← epoch 0: test error", "1,800 of 1,800")
    notebook.wait_for_mark(ERRORS, [0.0, 0.0], [2.0, 3.0])
    for key in ("ArrowDown", "ArrowRight", "Home"):  # fullmodel has no fresh draws: back
        page.keyboard.press(key)
    assert spoken().startswith("whole network, epoch 0, ")
    page.keyboard.press("Escape")
    notebook.wait_for_status("Nothing is running")
    assert page.locator(".jp-Cell").count() == cells


def test_a_click_with_a_key_puts_two_layers_back_together(notebook):
    notebook.click_cell(0, 2)
    notebook.wait_for_status("layer3 ← epoch 0: test error", "1,800 of 1,800")
    notebook.page.keyboard.down("Control")
    notebook.click_cell(1, 3)
    notebook.page.keyboard.up("Control")
    notebook.wait_for_status("layer3 ← epoch 0, layer4 ← epoch 1: test error", "1,800 of 1,800")
    assert notebook.marked(ERRORS) == ([0.0, 1.0], [2.0, 3.0])
    ticked = notebook.page.locator(".layer-explorer-strip input:checked").count()
    assert ticked == 2
    notebook.wait_for(
        "() => document.querySelector('.layer-explorer-changes')?.parentElement.textContent"
        ".includes('layer3 ← epoch 0, layer4 ← epoch 1')"
    )
    assert notebook.page.locator(".layer-explorer-changes img").count() > 10
    notebook.place(0, 0)
    notebook.screenshot("lab-joint")


@pytest.mark.parametrize("theme", ["JupyterLab Dark", "JupyterLab Light"])
def test_nothing_in_the_explorer_is_out_of_reach_for_a_screen_reader(notebook, theme):
    """Contrast included, whatever the theme around it."""
    notebook.use_theme(theme)
    for tab in (
        "What changed",
        "How far can we go?",
        "How sure?",
        "Beyond the paper",
        "Measured",
        "Settings",
        "Export",
    ):
        notebook.page.get_by_role("tab", name=tab).click()
        notebook.page.get_by_role("tab", name=tab, selected=True).wait_for()
        found = Axe().run(notebook.page, context=".layer-explorer")
        assert found.response["violations"] == [], found.generate_report()
        assert len(found.response["passes"]) > 15
    assert "color-contrast" in {rule["id"] for rule in found.response["passes"]}
    notebook.page.get_by_role("tab", name="What changed").click()
    notebook.place(0, 0)
    notebook.screenshot(theme.replace(" ", "-").lower())


@pytest.mark.parametrize("kind", ["PNG", "SVG"])
def test_a_picture_can_be_saved_as_it_is_on_the_page(notebook, kind, tmp_path):
    notebook.page.get_by_role("tab", name="Export").click()
    with notebook.page.expect_download() as coming:
        notebook.page.get_by_role("button", name=kind, exact=True).click()
    path = tmp_path / coming.value.suggested_filename
    coming.value.save_as(path)
    content = path.read_bytes()
    assert path.name == f"error-heatmap.{kind.lower()}"
    assert len(content) > 10_000
    assert (b"\x89PNG" if kind == "PNG" else b"<svg") in content[:200]


def test_the_code_of_the_selected_cell_is_shown_and_data_can_be_saved(notebook, tmp_path):
    notebook.page.get_by_role("tab", name="Export").click()
    notebook.click_cell(1, 0)
    notebook.wait_for_status("layer1 ← epoch 1: test error", "1,800 of 1,800")
    code = notebook.page.locator(".layer-explorer-export pre").text_content()
    assert "lx.reinitialise('layer1', epoch=1)" in code
    with notebook.page.expect_download() as coming:
        notebook.page.get_by_role("button", name="netCDF").click()
    coming.value.save_as(tmp_path / "sweep.nc")
    assert float(open_sweep(tmp_path / "sweep.nc")["error"].sel(layer="layer1", epoch=1)) > 0.5


def test_at_twice_the_size_everything_is_still_inside(notebook):
    """A zoom of 200 % halves the page's own pixels."""
    notebook.page.set_viewport_size({"width": 640, "height": 450})
    explorer = notebook.page.locator(".layer-explorer")
    notebook.place(0, 0)
    assert explorer.evaluate("element => element.scrollWidth - element.clientWidth") <= 0
    notebook.click_cell(4, 1)
    notebook.wait_for_status("layer2 ← epoch 8: test error", "1,800 of 1,800")
    notebook.screenshot("lab-zoom-200")
    notebook.page.set_viewport_size({"width": 1280, "height": 900})


def test_a_reloaded_page_shows_the_picture_as_it_was(notebook):
    notebook.click_cell(2, 0)
    notebook.wait_for_status("layer1 ← epoch 2: test error", "1,800 of 1,800")
    before = notebook.figure(CURVE, "columns(0)")
    notebook.page.evaluate("() => jupyterapp.commands.execute('docmanager:save')")
    notebook.page.reload()
    notebook.wait_for_figures(ERRORS, DISTANCES, CURVE)
    notebook.wait_for_status("layer1 ← epoch 2: test error", "1,800 of 1,800")
    assert notebook.marked(ERRORS) == notebook.marked(DISTANCES) == ([2.0], [0.0])
    assert notebook.figure(CURVE, "columns(0)") == before
    notebook.screenshot("lab-reloaded")
    notebook.click_cell(3, 0)
    notebook.wait_for_status("layer1 ← epoch 3: test error", "1,800 of 1,800")
    assert notebook.marked(ERRORS) == ([3.0], [0.0])


def test_a_narrow_window_puts_the_pictures_below_each_other(notebook):
    notebook.page.set_viewport_size({"width": 700, "height": 900})
    notebook.wait_for(
        "([errors, distances]) => { const boxes = [errors, distances].map(label =>"
        "  [...Bokeh.index].find(view => view.model.html_attributes['aria-label']"
        "    ?.startsWith(label)).el.getBoundingClientRect());"
        "  return boxes[1].top >= boxes[0].bottom }",
        [ERRORS, DISTANCES],
    )
    explorer = notebook.page.locator(".layer-explorer")
    assert explorer.evaluate("element => element.scrollWidth - element.clientWidth") <= 0
    for label in (ERRORS, DISTANCES):
        notebook.place(0, 0, label)
        shown = notebook.numbers(label)
        assert not (shown["visible"] and shown["too_wide"])
        assert not shown["touching"]
    notebook.place(0, 0)
    notebook.screenshot("lab-700-pixels")
    notebook.page.set_viewport_size({"width": 1280, "height": 900})
    for label in (ERRORS, DISTANCES):
        notebook.place(0, 0, label)
        shown = notebook.numbers(label)
        assert (shown["visible"], shown["lying"]) == (True, True)


def test_stop_ends_a_run_within_a_second_and_the_cell_keeps_its_number(slow):
    before = slow.number_in("layer1 ← epoch 0")
    slow.click_cell(0, 0)
    slow.wait_for("() => document.querySelector('.layer-explorer progress').value > 100")
    slow.screenshot("lab-running")
    started = time.monotonic()
    slow.page.get_by_role("button", name="Stop").click()
    slow.wait_for_status("Stopped. What was measured so far is kept.")
    assert time.monotonic() - started < 1
    seen = slow.figure(CURVE, "columns(0)")["examples"]
    assert seen[-1] < 1800
    slow.click_cell(1, 0)
    slow.wait_for_status("Measuring layer1 ← epoch 1")
    slow.wait_for("() => document.querySelector('.layer-explorer progress').value > 100")
    assert slow.number_in("layer1 ← epoch 0") == before
    slow.page.get_by_role("button", name="Stop").click()
    slow.wait_for_status("Stopped. What was measured so far is kept.")
