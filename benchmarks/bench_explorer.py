"""The explorer in a real JupyterLab and Chromium: how fast it answers, and what memory it takes.

Times are taken in the page itself, from the pointer's event to the first frame in which the answer
is drawn. Every figure is a median; the page, the kernel and the server share the machine.

    python benchmarks/bench_explorer.py [--runs 20] [--clicks 500] [--out FILE.md]
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import statistics
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import nbformat
import psutil

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.browser.pages import CURVE, DISTANCES, ERRORS, Notebook  # noqa: E402
from tests.browser.serving import (  # noqa: E402
    TOKEN,
    browsing,
    find_browser,
    lab_address,
    lab_command,
    own_folders,
    serving,
)

IMPORT = "import explorer as lx\nimport explorer.ui.widget"
SHOW = "ex = lx.Explorer({stack!r})\nex"
PROFILE = "Test error of the selected layer"
CELLS = [(x, y) for y in range(4) for x in range(8)]
"""Cells of the heatmap of fcn3x256-digits."""

TIMED_CLICK = """
async ([errors, curve, x, y]) => {
  const find = label => [...Bokeh.index].find(view =>
    view.model.html_attributes['aria-label']?.startsWith(label)).model
  const marks = find(errors).renderers.find(({name}) => name === 'mark').data_source
  const points = find(curve)
  const run = points.renderers[0].data_source
  const frame = () => new Promise(requestAnimationFrame)
  let start = 0
  window.addEventListener('pointerdown', () => { start = performance.now() },
    {capture: true, once: true})
  window.ready = true
  while (!start) await frame()
  const title = points.title.text
  let marked = 0, estimated = 0
  while (!marked || !estimated) {
    const {x: [at], y: [on]} = marks.data
    if (!marked && at === x && on === y) { await frame(); marked = performance.now() - start }
    const fresh = points.title.text !== title && !points.title.text.includes('not run')
    if (!estimated && fresh && run.data.examples.length) {
      await frame()
      estimated = performance.now() - start
    }
    if (performance.now() - start > 20000) throw new Error('a click without mark or estimate')
    await frame()
  }
  return [marked, estimated]
}
"""


def main() -> None:
    options = parsed()
    executable = find_browser()
    if executable is None:
        sys.exit("A Chromium or Chrome is needed; python scripts/set_up.py --browser finds one.")
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        (home / "notebooks").mkdir()
        notebooks, log = home / "notebooks", home / "log"
        with (
            serving(lab_command(notebooks), own_folders(home), notebooks, log) as server,
            browsing(executable, "--enable-precise-memory-info") as chromium,
        ):
            url = lab_address(home, server, log)
            text = report(measured(chromium, url, notebooks, options), options)
    print(text)
    if options.out:
        Path(options.out).write_text(text, encoding="utf-8")


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=20, help="times that each thing is measured")
    parser.add_argument("--clicks", type=int, default=500, help="clicks of the memory test")
    parser.add_argument("--out", help="Markdown file for the results")
    return parser.parse_args()


def measured(chromium, url: str, folder: Path, options: argparse.Namespace) -> dict[str, object]:
    """Every figure, by its name."""
    found: dict[str, object] = {}
    notebook = opened(chromium, url, folder, "fcn3x256-digits")
    found["first"] = first_pictures(notebook, options.runs)
    hosts = notebook.hosts()
    notebook.page.context.close()  # clicks are timed in a page that restarts have not filled
    notebook = opened(chromium, url, folder, "fcn3x256-digits")
    found["clicks"] = clicks(notebook, max(options.runs, 20))
    found["storm"] = storm(notebook)
    found["memory"] = memory(notebook, options.clicks)
    found["hosts"] = hosts | notebook.hosts()
    notebook.page.context.close()
    notebook = opened(chromium, url, folder, "vit-digits")
    found["stop"] = stops(notebook, options.runs)
    found["hosts"] = found["hosts"] | notebook.hosts()
    return found


def opened(chromium, url: str, folder: Path, stack: str) -> Notebook:
    """A notebook that imports the explorer in one cell and shows it in the next."""
    cells = [nbformat.v4.new_code_cell(code) for code in (IMPORT, SHOW.format(stack=stack))]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    content = nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel})
    nbformat.write(content, folder / f"{stack}.ipynb")
    context = chromium.new_context(viewport={"width": 1280, "height": 1300})
    notebook = Notebook(context.new_page())
    notebook.page.goto(f"{url}lab/tree/{stack}.ipynb?token={TOKEN}&reset")
    notebook.run_all()
    notebook.wait_for_figures(ERRORS, DISTANCES, CURVE)
    notebook.wait_for_status("Ready on")
    return notebook


def in_kernel(notebook: Notebook, code: str) -> str:
    """Run code beside the notebook's cells; return what it prints."""
    return str(
        notebook.page.evaluate(
            """async code => {
              const {kernel} = jupyterapp.shell.currentWidget.sessionContext.session
              const future = kernel.requestExecute({code, store_history: false})
              let said = ''
              future.onIOPub = ({header, content}) => {
                if (header.msg_type === 'stream') said += content.text
              }
              await future.done
              return said.trim()
            }""",
            code,
        )
    )


def first_pictures(notebook: Notebook, runs: int) -> list[tuple[float, float]]:
    """Milliseconds from running the cell, in a fresh kernel after the import, to the errors.

    And to the last of the four pictures.
    """
    times = []
    for _ in range(runs):
        times.append(
            notebook.page.evaluate(
                """async ([labels, code]) => {
                  const {content, sessionContext} = jupyterapp.shell.currentWidget
                  await jupyterapp.commands.execute('notebook:clear-all-cell-outputs')
                  await sessionContext.session.kernel.restart()
                  await sessionContext.session.kernel.requestExecute({code}).done
                  const before = new Set(Bokeh.index)  // ids begin anew in a fresh kernel
                  content.activeCellIndex = 1
                  const start = performance.now()
                  jupyterapp.commands.execute('notebook:run-cell')
                  const drawn = label => [...Bokeh.index].some(view => !before.has(view)
                    && view.model.html_attributes['aria-label']?.startsWith(label)
                    && view.has_finished())
                  const shown = async labels => {
                    while (!labels.every(drawn)) {
                      await new Promise(requestAnimationFrame)
                      if (performance.now() - start > 60000) throw new Error('no picture')
                    }
                    await new Promise(requestAnimationFrame)
                    return performance.now() - start
                  }
                  return [await shown(labels.slice(0, 1)), await shown(labels)]
                }""",
                [[ERRORS, DISTANCES, CURVE, PROFILE], IMPORT],
            )
        )
        notebook.wait_for_status("Ready on")
    return times


def clicks(notebook: Notebook, runs: int) -> list[list[float]]:
    """Milliseconds from a click on a new cell to its mark, and to its first estimate."""
    found = []
    for x, y in CELLS[1 : runs + 1]:
        left, top = notebook.place(x, y)
        notebook.page.evaluate("() => { window.ready = false }")
        watching = f"window.timed = ({TIMED_CLICK})"
        notebook.page.evaluate(f"argument => {{ {watching}(argument) }}", [ERRORS, CURVE, x, y])
        notebook.wait_for("() => window.ready")
        notebook.page.mouse.click(left, top)
        found.append(notebook.page.evaluate("() => window.timed"))
        notebook.wait_for_status("1,800 of 1,800")
        notebook.page.wait_for_timeout(600)
    return found


def storm(notebook: Notebook) -> dict[str, object]:
    """Twenty clicks on one cell, then ten cells within five seconds."""
    number = "print(ex._exploration.session._worker._number)"
    before = int(in_kernel(notebook, number))
    place = notebook.place(0, 2)
    for _ in range(20):
        notebook.page.mouse.click(*place)
        notebook.page.wait_for_timeout(400)
    notebook.wait_for_status("layer3 ← epoch 0: test error", "1,800 of 1,800")
    same = int(in_kernel(notebook, number)) - before
    places = [notebook.place(x, y) for x, y in CELLS[:10]]
    before, start = int(in_kernel(notebook, number)), time.monotonic()
    for left, top in places:
        notebook.page.mouse.click(left, top)
        notebook.page.wait_for_timeout(400)
    took = time.monotonic() - start
    notebook.wait_for_status("layer2 ← epoch 1: test error", "1,800 of 1,800")
    fast = int(in_kernel(notebook, number)) - before
    return {"same": same, "fast": fast, "seconds": took}


def memory(notebook: Notebook, count: int) -> list[tuple[int, float, float]]:
    """(clicks, MB of the kernel, MB of the page's heap) along many clicks."""
    kernel = psutil.Process(int(in_kernel(notebook, "import os; print(os.getpid())")))
    page = notebook.page.context.new_cdp_session(notebook.page)
    places = [notebook.place(x, y) for x, y in CELLS]
    found = []
    for done in range(count + 1):
        if done % (count // 5) == 0:
            notebook.page.wait_for_timeout(1000)
            page.send("HeapProfiler.collectGarbage")
            heap = notebook.page.evaluate("() => performance.memory.usedJSHeapSize")
            found.append((done, kernel.memory_full_info().pss / 1e6, heap / 1e6))
        notebook.page.mouse.click(*places[done % len(places)])
        notebook.page.wait_for_timeout(330)
    return found


def stops(notebook: Notebook, runs: int) -> list[float]:
    """Milliseconds from Stop, a second into a sweep, until the thread has nothing to do."""
    watch = (
        "import time; s = ex._exploration.session; start = time.monotonic()\n"
        "while s.busy: time.sleep(0.002)\n"
        "print(time.monotonic() - start)"
    )
    times = []
    for _ in range(runs):
        notebook.page.get_by_role("button", name="Sweep all").click()
        notebook.wait_for_status("Sweep: ")
        notebook.page.wait_for_timeout(500)
        start = time.monotonic()
        notebook.page.get_by_role("button", name="Stop").click()
        in_kernel(notebook, watch)
        times.append(1000 * (time.monotonic() - start))
        notebook.wait_for_status("Stopped.")
    return times


def report(found: dict, options: argparse.Namespace) -> str:
    """The figures as Markdown."""
    marked, estimated = zip(*found["clicks"], strict=True)
    first, all_four = zip(*found["first"], strict=True)
    lines = [
        ("run the cell → first picture drawn (fresh kernel)", first, "2 s"),
        ("run the cell → all four pictures drawn", all_four, ""),
        ("click → cell marked", marked, "100 ms"),
        ("click → first estimate drawn", estimated, "200 ms"),
        ("Stop in a sweep of vit-digits → nothing runs", found["stop"], "1 s"),
    ]
    rows = [
        f"| {name} | {statistics.median(times):,.0f} ms | {min(times):,.0f}–{max(times):,.0f} ms | "
        f"{len(times)} | {goal} |"
        for name, times, goal in lines
    ]
    storm = found["storm"]
    kernel = [f"| {done} | {pss:.0f} MB | {heap:.1f} MB |" for done, pss, heap in found["memory"]]
    packages = ("jupyterlab", "bokeh", "ipywidgets", "anywidget", "torch")
    versions = ", ".join(f"{name} {version(name)}" for name in packages)
    return "\n".join(
        [
            "# The explorer in a real browser",
            "",
            "`python benchmarks/bench_explorer.py`",
            "",
            f"{datetime.date.today()} · {platform.machine()}, {os.cpu_count()} cores · Python "
            f"{platform.python_version()}, {versions} · headless Chromium, 1280 × 1300 pixels, on "
            "the same machine as the kernel and the server; `fcn3x256-digits` unless said "
            "otherwise, CPU. The first picture is counted after the import.",
            "",
            "| what | median | range | runs | goal |",
            "|---|---|---|---|---|",
            *rows,
            "",
            f"20 clicks on one cell: {storm['same']} measured. 10 cells in "
            f"{storm['seconds']:.1f} s: {storm['fast']} requested, the last one shown. Machines "
            f"asked by the page: {', '.join(sorted(found['hosts']))}.",
            "",
            f"Memory over {options.clicks} clicks on {len(CELLS)} cells in turn (kernel: "
            "proportional set size; page: JavaScript heap after a collection):",
            "",
            "| clicks | kernel | page |",
            "|---|---|---|",
            *kernel,
            "",
        ]
    )


if __name__ == "__main__":
    main()
