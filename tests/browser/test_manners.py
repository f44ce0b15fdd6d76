"""What an explorer survives: neighbours, busy and restarted kernels, missing files."""

from __future__ import annotations

import nbformat
import pytest

from tests.browser.pages import ERRORS, MARK
from tests.conftest import copy_bundled

pytestmark = pytest.mark.browser

FIRST = """
import shutil

import explorer as lx

first = lx.Explorer("fcn3x256-digits")
first
"""
SECOND = """
second = lx.Explorer("copy")
second
"""
STATUS = "at => document.querySelectorAll('.layer-explorer')[at].querySelector('[role=status]')"


@pytest.fixture(scope="module")
def notebook(open_notebook, lab, tmp_path_factory):
    """A notebook with two explorers, the second of a folder that may be taken away."""
    copy_bundled(lab.folder / "copy")
    cells = [nbformat.v4.new_code_cell(code.strip()) for code in (FIRST, SECOND)]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    content = nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel})
    path = tmp_path_factory.mktemp("manners") / "manners.ipynb"
    nbformat.write(content, path)
    opened = open_notebook(path)
    opened.page.set_viewport_size({"width": 1280, "height": 1400})
    for at in (0, 1):
        wait_for_status(opened, at, "Ready on")
    return opened


def wait_for_status(notebook, at, *parts):
    notebook.wait_for(
        f"([at, parts]) => {{ const text = ({STATUS})(at)?.textContent ?? '';"
        "  return parts.every(part => text.replaceAll('\\u00a0', ' ').includes(part)) }",
        [at, list(parts)],
    )


def wait_in_kernel(notebook, code, wanted):
    """Wait, ten seconds at most, until code prints what is wanted."""
    for _ in range(20):
        said = notebook.in_kernel(code)
        if said == wanted:
            return
        notebook.page.wait_for_timeout(500)
    assert said == wanted


def click(notebook, at, x, y):
    """Click a cell of the heatmap of the first or the second explorer."""
    left, top = notebook.page.evaluate(
        """async ([at, label, x, y]) => {
          const views = [...Bokeh.index].filter(view =>
            view.model.html_attributes['aria-label']?.startsWith(label) && view.el.isConnected)
          views.sort((a, b) => a.el.getBoundingClientRect().top - b.el.getBoundingClientRect().top)
          const view = views[at]
          view.el.scrollIntoView({block: 'center'})
          await new Promise(done => setTimeout(done, 600))
          const box = view.canvas_view.el.getBoundingClientRect()
          const {x_scale, y_scale} = view.frame
          return [box.x + x_scale.compute(x), box.y + y_scale.compute(y)]
        }""",
        [at, ERRORS, x, y],
    )
    notebook.page.mouse.click(left, top)


def run_first_cell(notebook):
    notebook.page.evaluate(
        "async () => { const {content} = jupyterapp.shell.currentWidget;"
        "  content.activeCellIndex = 0;"
        "  await jupyterapp.commands.execute('notebook:run-cell') }"
    )
    wait_for_status(notebook, 0, "Ready on")


def marked_by_the_page(notebook):
    """Return where the mark of the first explorer's errors is, after the next frame."""
    return notebook.page.evaluate(
        """async label => {
          await new Promise(requestAnimationFrame)
          if (!window.runs) return 'the kernel is not busy'  // its status is that of any message
          const views = [...Bokeh.index].filter(view =>
            view.model.html_attributes['aria-label']?.startsWith(label) && view.el.isConnected)
          views.sort((a, b) => a.el.getBoundingClientRect().top - b.el.getBoundingClientRect().top)
          const {x, y} = views[0].model"""
        + MARK
        + """
          return [[...x], [...y]]
        }""",
        ERRORS,
    )


def test_two_explorers_in_one_notebook_answer_each_for_itself(notebook):
    click(notebook, 0, 1, 0)
    wait_for_status(notebook, 0, "layer1 ← epoch 1: test error", "1,800 of 1,800")
    click(notebook, 1, 2, 3)
    wait_for_status(notebook, 1, "layer4 ← epoch 2: test error", "1,800 of 1,800")
    wait_for_status(notebook, 0, "layer1 ← epoch 1: test error")


def test_a_click_while_another_cell_runs_is_not_lost(notebook, tmp_path):
    done = tmp_path / "done"
    waiting = f"""
        import pathlib, time
        end = time.monotonic() + 60
        while not pathlib.Path({str(done)!r}).exists() and time.monotonic() < end:
            time.sleep(0.05)
    """
    notebook.in_kernel(waiting, wait=False)
    click(notebook, 0, 3, 1)
    seen = marked_by_the_page(notebook)
    done.touch()
    assert seen == [[3], [1]]  # the kernel had not answered yet
    wait_for_status(notebook, 0, "layer2 ← epoch 3: test error", "1,800 of 1,800")
    notebook.wait_for("() => !window.runs")  # what is answered while it breaks would be lost


def test_a_connection_that_breaks_and_comes_back_leaves_an_explorer_that_answers(notebook):
    """JupyterLab then asks for the state of every widget, and draws the figures anew."""
    notebook.page.evaluate(
        """async () => {
          const {kernel} = jupyterapp.shell.currentWidget.sessionContext.session
          await kernel.reconnect()
          await new Promise(drawn => {
            const close = (_, {msg, direction}) => {
              if (direction !== 'send' || msg.header.msg_type !== 'comm_close') return
              kernel.anyMessage.disconnect(close)
              setTimeout(drawn, 3000)
            }
            kernel.anyMessage.connect(close)
          })
        }"""
    )
    click(notebook, 0, 2, 0)
    wait_for_status(notebook, 0, "layer1 ← epoch 2: test error", "1,800 of 1,800")
    click(notebook, 0, 3, 1)
    wait_for_status(notebook, 0, "layer2 ← epoch 3: test error", "1,800 of 1,800")


def test_a_key_where_the_cursor_is_on_no_cell_does_not_hold_the_page_up(notebook):
    """The picture may have been turned by the time that the key is pressed."""
    cells = notebook.page.locator(".layer-explorer").first.locator("[role=gridcell]")
    cells.first.focus()
    gap = "[4, 0]"  # all layers, put back to fresh draws
    notebook.in_kernel(f"first._exploration.pictures.cells.active = {gap}")
    cells.first.and_(notebook.page.locator("[tabindex='-1']")).wait_for(state="attached")
    notebook.page.keyboard.press("ArrowLeft")
    assert notebook.page.evaluate("() => document.activeElement.getAttribute('role')") == "gridcell"
    notebook.page.keyboard.press("ArrowUp")
    spoken = notebook.page.evaluate("() => document.activeElement.getAttribute('aria-label')")
    assert spoken.startswith("layer4, ")


def test_a_stack_that_is_taken_away_is_an_error_in_its_cell_and_nothing_more(notebook):
    notebook.in_kernel("shutil.move('copy', 'taken-away')")
    click(notebook, 1, 4, 0)
    wait_for_status(notebook, 1, "layer1 ← epoch 8 could not be measured")
    alert = notebook.page.locator(".layer-explorer").nth(1).locator("[role=alert]").first
    assert "epoch-0008.safetensors" in alert.text_content()
    notebook.in_kernel("shutil.move('taken-away', 'copy')")
    click(notebook, 1, 4, 0)
    wait_for_status(notebook, 1, "layer1 ← epoch 8: test error", "1,800 of 1,800")
    wait_for_status(notebook, 0, "layer2 ← epoch 3: test error")


def test_running_the_cell_again_lets_the_earlier_explorer_rest(notebook):
    notebook.in_kernel("earlier = first._exploration.session")
    run_first_cell(notebook)
    assert notebook.in_kernel("print(first._exploration.session is earlier)") == "False"
    wait_in_kernel(notebook, "print(earlier.alive, earlier.networks.evaluator)", "False None")
    click(notebook, 0, 0, 2)
    wait_for_status(notebook, 0, "layer3 ← epoch 0: test error", "1,800 of 1,800")


def test_earlier_explorers_of_a_cell_leave_nothing_that_a_reloaded_page_would_ask_for(notebook):
    """One has about 150 widgets."""
    few = "from ipywidgets.widgets.widget import _instances; print(len(_instances) < 500)"
    assert notebook.in_kernel(few.replace("500", "300")) == "False"  # two are shown
    for _ in range(2):
        run_first_cell(notebook)
    wait_in_kernel(notebook, few, "True")
    click(notebook, 0, 0, 2)
    wait_for_status(notebook, 0, "layer3 ← epoch 0: test error", "1,800 of 1,800")


def test_figures_of_a_stack_that_gave_way_are_let_go(notebook):
    """BokehJS keeps what it has drawn, and jupyter_bokeh removes none of it."""
    documents = "() => Bokeh.documents.length"
    before = notebook.page.evaluate(documents)
    for stack in ("mixer-digits", "fcn3x256-digits", "mixer-digits", "fcn3x256-digits"):
        menu = notebook.page.locator(".layer-explorer").first.get_by_label("Stack", exact=True)
        menu.first.select_option(label=stack)
        wait_for_status(notebook, 0, "Ready on")
    notebook.page.wait_for_timeout(2000)
    assert notebook.page.evaluate(documents) <= before + 2


def test_an_output_that_is_cleared_ends_its_work(notebook):
    notebook.page.evaluate(
        "async () => { const {content} = jupyterapp.shell.currentWidget;"
        "  content.activeCellIndex = 1;"
        "  await jupyterapp.commands.execute('notebook:clear-cell-output') }"
    )
    wait_in_kernel(notebook, "print(second._exploration.session.networks.evaluator)", "None")


def test_a_restarted_kernel_is_said_where_the_reader_looks(notebook):
    assert notebook.page.locator(".layer-explorer-lost").count() == 0
    notebook.page.evaluate(
        "() => jupyterapp.shell.currentWidget.sessionContext.session.kernel.restart()"
    )
    lost = notebook.page.locator(".layer-explorer-lost")
    lost.first.wait_for()
    assert "Run the cell again" in lost.first.text_content()
    assert lost.first.get_attribute("role") == "alert"
    notebook.screenshot("lab-restarted")
    # nor does what the reader or the page does to it now raise an error: to send one would
    for control in ("[role=gridcell][tabindex='0']", "[type=checkbox]", "select", "button"):
        reached = notebook.page.locator(f".layer-explorer {control}").first.evaluate(
            "control => { control.focus(); return document.activeElement === control }"
        )
        assert not reached, control
    notebook.page.mouse.move(*notebook.place(0.5, 0.5))
    notebook.page.set_viewport_size({"width": 900, "height": 900})
    notebook.page.wait_for_timeout(500)


def test_all_that_went_without_an_error_and_without_leaving_the_machine(notebook):
    assert notebook.complaints == [], notebook.stacks
    assert notebook.hosts() == {"127.0.0.1"}
