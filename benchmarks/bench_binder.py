"""Demo and course on a machine as small as Binder's, one core and 2 GB: memory and time.

JupyterLab and its kernels are confined to one core and, where the system lets us make a control
group for memory, to the limit; the browser is not, as a reader's is not. Memory is the
proportional set size (a page shared by two processes counts half in each).

    python benchmarks/bench_binder.py [--course] [--limit-gb 2] [--out FILE.md]
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import shutil
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.browser.pages import ERRORS, ExplorerPage, Notebook  # noqa: E402
from tests.browser.serving import (  # noqa: E402
    TOKEN,
    browsing,
    find_browser,
    lab_address,
    lab_command,
    own_folders,
    serving,
)

GROUPS = (
    (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes", "memory.max_usage_in_bytes"),
    (Path("/sys/fs/cgroup"), "memory.max", "memory.peak"),
)
"""Folder of control groups, file of the limit, file of the peak: version 1 and version 2."""


class Group:
    """A control group that bounds the memory of all processes in it, where one can be made."""

    def __init__(self, gigabytes: float) -> None:
        self.folder: Path | None = None
        for parent, limit, peak in GROUPS:
            folder = parent / f"layer-explorer-{os.getpid()}"
            try:
                folder.mkdir()
                (folder / limit).write_text(str(int(gigabytes * 1e9)))
            except OSError:
                if folder.is_dir():
                    folder.rmdir()
                continue
            self.folder, self._peak = folder, peak
            return

    def enter(self) -> None:
        """Put the calling process, and all that it will start, on one core and into the group."""
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        if self.folder is not None:
            (self.folder / "cgroup.procs").write_text(str(os.getpid()))

    def peak(self) -> str:
        """Return the largest use of memory in the group so far, files in the cache included."""
        if self.folder is None:
            return "not known: no control group could be made"
        return f"{int((self.folder / self._peak).read_text()) / 1e6:,.0f} MB"

    def remove(self) -> None:
        """Remove the group, once its processes have ended."""
        if self.folder is not None:
            psutil.wait_procs([psutil.Process(p) for p in self._members()], timeout=20)
            self.folder.rmdir()

    def _members(self) -> list[int]:
        assert self.folder is not None
        found = (self.folder / "cgroup.procs").read_text().split()
        return [int(one) for one in found if psutil.pid_exists(int(one))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--limit-gb", type=float, default=2.0, help="bound of the memory")
    parser.add_argument("--course", action="store_true", help="the notebooks of the course only")
    parser.add_argument("--out", help="Markdown file for the results")
    options = parser.parse_args()
    executable = find_browser()
    if executable is None:
        sys.exit("A Chromium or Chrome is needed; python scripts/set_up.py --browser finds one.")
    group = Group(options.limit_gb)
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        for part in ("notebooks", "docs/images"):
            shutil.copytree(ROOT / part, home / "checkout" / part)
        served = serving(
            lab_command(home / "checkout"),
            own_folders(home),
            home / "checkout",
            home / "log",
            group.enter,
        )
        with served as server, browsing(executable) as chromium:
            url = lab_address(home, server, home / "log")
            if options.course:
                rows = [row(chromium, url, server.pid, path) for path in course_notebooks()]
            else:
                rows = measured(chromium, url, server.pid)
        text = report(rows, group, options)
    group.remove()
    print(text)
    if options.out:
        Path(options.out).write_text(text, encoding="utf-8")


def course_notebooks() -> list[Path]:
    return sorted((ROOT / "notebooks").glob("[0-9][0-9]*-*.ipynb"))


def row(chromium, url: str, server: int, path: Path) -> str:
    """Run every cell of one notebook of the course, in a kernel of its own that is then ended."""
    context = chromium.new_context(viewport={"width": 1280, "height": 1000})
    notebook = Notebook(context.new_page())
    notebook.page.set_default_timeout(600_000)
    notebook.page.goto(f"{url}lab/tree/notebooks/{path.name}?token={TOKEN}&reset")
    notebook.wait_for("() => window.jupyterapp?.shell?.currentWidget?.sessionContext?.isReady")
    before = time.monotonic()
    notebook.run_all()
    took = time.monotonic() - before
    failed = notebook.page.locator("[data-mime-type='application/vnd.jupyter.error']").count()
    assert not failed, f"{failed} cells of {path.name} ended with an error"
    (kernel,) = psutil.Process(server).children()
    status = Path(f"/proc/{kernel.pid}/status").read_text()
    busy = sum(kernel.cpu_times()[:2])
    peak = int(status.partition("VmHWM:")[2].split()[0]) * 1024 / 1e6
    own = psutil.Process(server).memory_full_info().pss / 1e6
    notebook.page.evaluate("() => jupyterapp.shell.currentWidget.sessionContext.shutdown()")
    kernel.wait(60)
    context.close()
    found = f"| {path.stem} | {took:.0f} s | {busy:.0f} s | {peak:,.0f} MB | {own + peak:,.0f} MB |"
    print(found, flush=True)
    return found


def measured(chromium, url: str, server: int) -> list[str]:
    """One row of the table per thing that a visitor does."""
    rows = []

    def note(what: str, start: float) -> None:
        took = time.monotonic() - start
        processes = [psutil.Process(server), *psutil.Process(server).children(recursive=True)]
        own, *kernels = [process.memory_full_info().pss / 1e6 for process in processes]
        rows.append(
            f"| {what} | {took:.1f} s | {own:,.0f} MB | {sum(kernels):,.0f} MB | "
            f"{own + sum(kernels):,.0f} MB |"
        )

    context = chromium.new_context(viewport={"width": 1280, "height": 1000})
    notebook = Notebook(context.new_page())
    start = time.monotonic()
    notebook.page.goto(f"{url}lab/tree/notebooks/01-first-click.ipynb?token={TOKEN}&reset")
    notebook.wait_for("() => window.jupyterapp?.shell?.currentWidget?.sessionContext?.isReady")
    note("the notebook is open", start)
    start = time.monotonic()
    notebook.run_all()
    notebook.wait_for_figures(ERRORS)
    note("run all → the first picture", start)
    notebook.wait_for_status("Ready on")
    note("run all → ready for clicks", start)
    start = time.monotonic()
    notebook.click_cell(0, 0)
    notebook.wait_for_status("layer1 ← epoch 0: test error", "1,800 of 1,800")
    note("the first click → its error", start)
    start = time.monotonic()
    notebook.page.get_by_role("button", name="Sweep all").click()
    notebook.wait_for_status("cells measured")
    note("sweep all, 56 cells", start)
    context.close()
    page = ExplorerPage(chromium.new_context(viewport={"width": 1280, "height": 1000}).new_page())
    start = time.monotonic()
    page.page.goto(f"{url}voila/render/notebooks/dashboard.ipynb?token={TOKEN}")
    page.wait_for_figures(ERRORS)
    page.wait_for_status("Ready on")
    note("the dashboard as well, the notebook's kernel still there", start)
    return rows


OF_THE_COURSE = (
    "Every notebook by itself, run all from the first cell to the last in a fresh kernel; the "
    "next column is the time that its kernel kept the core busy, start included, which other "
    "work on the machine hardly changes. Memory: the largest resident set of the kernel, and that "
    "with the proportional set of the server. One run.",
    "| notebook | run all | of it busy | kernel, at most | with the server |",
)
OF_THE_DEMO = (
    "JupyterLab and its kernels are confined, Chromium is not. Memory: proportional set size, "
    "after each step. One run.",
    "| step | time | server | kernels | together |",
)
"""What the figures are, and the head of their table."""


def report(rows: list[str], group: Group, options: argparse.Namespace) -> str:
    """The figures as Markdown."""
    bound = f"{options.limit_gb:g} GB" if group.folder else "no bound of the memory"
    packages = ("jupyterlab", "voila", "bokeh", "torch", "numba")
    versions = ", ".join(f"{name} {version(name)}" for name in packages)
    words, head = OF_THE_COURSE if options.course else OF_THE_DEMO
    what = "The course" if options.course else "The demo"
    return "\n".join(
        [
            f"# {what} on a machine as small as Binder's",
            "",
            f"`python benchmarks/bench_binder.py{' --course' if options.course else ''}`",
            "",
            f"{datetime.date.today()} · {platform.machine()}, one core of {os.cpu_count()}, "
            f"{bound} · Python {platform.python_version()}, {versions}",
            "",
            words,
            "",
            head,
            "|---|---|---|---|---|",
            *rows,
            "",
            f"Peak of the whole group, files in the cache included: {group.peak()}.",
            "",
        ]
    )


if __name__ == "__main__":
    main()
