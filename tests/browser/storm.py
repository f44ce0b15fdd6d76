"""A storm: random clicks, keys, menus, reloads and restarts on two explorers in JupyterLab.

What may never happen is looked for in between, whenever it is calm. As a program it goes on for as
long as you like, and says how often it did what: ``python -m tests.browser.storm --minutes 60``.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import nbformat

from tests.browser.pages import ERRORS, Notebook

CELLS = (
    """
    import explorer as lx
    from tests.browser import storm_kernel
    storm_kernel.listen()
    first = lx.Explorer("fcn3x256-digits")
    first.add_class("storm-0")
    first
    """,
    """
    net, second = storm_kernel.own_network()
    second.add_class("storm-1")
    second
    """,
)
"""The notebook: a bundled stack, and a network of the reader's own."""

STACKS = ("fcn3x256-digits", "mixer-digits", "vgg11-digits", "resnet18bn-digits", "vit-digits")
ARROWS = ("ArrowUp", "ArrowDown", "ArrowLeft", "ArrowRight")
KEYS = (*ARROWS, "Home", "End", "Enter", "Space", "Escape")
SIZES = ((1280, 1500), (1000, 1500), (700, 2400), (1600, 1500))
EXPECTED = (
    "No such",
    "There is no stack",
    "holds no checkpoint",
    "recalibrate",
    "no better than always",
    "is not on the page",
)
"""Parts of complaints that an explorer shows with good reason."""

REFUSED = re.compile("_handle_control_comm_msg.*changed (size )?during iteration", re.DOTALL)
"""How ipywidgets says that it gave up answering a page for all widgets at once, since a thread made
one meanwhile; the page then asks for them one by one (test_reload.py)."""

PATIENCE = 2_000
"""Milliseconds after which an action is given up: what it wanted is not on the page just now."""

REST = 30.0
"""Seconds that work may go on by itself before Stop is pressed."""

GROWTH = 500e6
"""Bytes by which the kernel may grow after the first calm: every stack once in memory."""

EACH = 10e6
"""Bytes that may stay for each page that was loaded and each cell that was run again: JupyterLab
ends no subshell of a page, and an explorer that has given way keeps what was measured."""

HEAP, REPLACED = 150e6, 4e6
"""Bytes of JavaScript's objects, after they have been collected, and how many may stay until the
page is loaded anew for each exploration that has given way: JupyterLab's connection to the kernel
keeps every comm that was ever open, and with it the widget's model and views."""

REPLACING = ("stack", "settings", "again", "restart")
"""Actions after which an explorer shows another exploration."""

NOT_FOUND = "widget model not found"
"""How JupyterLab's console says that it has given a widget up."""

LATE = "[anywidget] Failed to initialize model"
"""How anywidget says that a page was too busy to load a widget's script within two seconds."""

CLOSED = "Comm not found for comm id"
"""How JupyterLab says that the kernel has closed a widget that the page does not have: one that
was open when the page asked, or not yet, and gone before it was on the page."""

UNFINISHED = ("Measuring", "Looking")
"""How a status line begins while something runs."""


@dataclass
class Storm:
    """Random actions on a notebook with two explorers."""

    notebook: Notebook
    """The open notebook, both cells run."""

    address: str
    """Where it is."""

    chance: random.Random
    """Where every decision comes from."""

    say: Callable[[str], None] = lambda _: None
    """Told what is done."""

    done: Counter[str] = field(default_factory=Counter)
    """How often each action was done."""

    missed: Counter[str] = field(default_factory=Counter)
    """How often it was given up, as what it wanted was not there."""

    calms: list[dict[str, Any]] = field(default_factory=list)
    """What was seen each time it was calm."""

    last: list[str] = field(default_factory=list)
    """The newest actions, for whoever looks for a cause."""

    replaced_before: int = 0
    """Explorations that had given way when the page was loaded."""

    # What a reader may do

    def act(self) -> None:
        """Do something."""
        actions = list(ACTIONS)
        (name,) = self.chance.choices(actions, [ACTIONS[one] for one in actions])
        self.do(name, self.chance.randrange(len(CELLS)))

    def do(self, name: str, at: int) -> None:
        """Do one thing, to the first or the second explorer; note where it was not possible."""
        self.last = [*self.last, f"{name} on {at}"][-40:]
        self.say(self.last[-1])
        try:
            self.done[name] += 1
            getattr(self, f"_{name}")(self.notebook.page.locator(f".storm-{at}").first)
        except Exception as error:
            if type(error).__name__ != "TimeoutError":
                raise
            self.done[name] -= 1
            self.missed[name] += 1

    def _click(self, explorer: Any, keys: tuple[str, ...] = ()) -> None:
        explorer.wait_for(timeout=PATIENCE)
        place = explorer.evaluate(
            """async (root, [x, y, which]) => {
              const host = node => node.getRootNode().host
              const inside = node => !!node && (root.contains(node) || inside(host(node)))
              const views = [...Bokeh.index].filter(view =>
                view.model.html_attributes?.['aria-label']?.startsWith('Heatmap')
                && view.el.isConnected && inside(view.el))
              const view = views[which % views.length]
              if (!view?.canvas_view) return null
              view.el.scrollIntoView({block: 'center'})
              await new Promise(done => setTimeout(done, 100))
              const box = view.canvas_view.el.getBoundingClientRect()
              const {bbox} = view.frame
              return [box.x + bbox.left + x * bbox.width, box.y + bbox.top + y * bbox.height]
            }""",
            [self.chance.random(), self.chance.random(), self.chance.randrange(2)],
        )
        if place is None:
            raise TimeoutError("no heatmap")
        for key in keys:
            self.notebook.page.keyboard.down(key)
        for _ in range(self.chance.choice((1, 1, 1, 2, 5))):
            self.notebook.page.mouse.click(*place)
        for key in keys:
            self.notebook.page.keyboard.up(key)

    def _joint_click(self, explorer: Any) -> None:
        self._click(explorer, ("Control",))

    def _keys(self, explorer: Any) -> None:
        explorer.locator("[role=gridcell][tabindex='0']").first.focus(timeout=PATIENCE)
        for key in self.chance.choices(KEYS, k=self.chance.randint(1, 12)):
            self.notebook.page.keyboard.press(key)

    def _press(self, explorer: Any, names: tuple[str, ...]) -> None:
        name = self.chance.choice(names)
        explorer.get_by_role("button", name=name, exact=True).first.click(timeout=PATIENCE)

    def _compute(self, explorer: Any) -> None:
        self._press(explorer, ("Compute", "Compute", "Sweep selection", "Sweep all"))

    def _stop(self, explorer: Any) -> None:
        self._press(explorer, ("Stop",))

    def _tick(self, explorer: Any) -> None:
        boxes = explorer.locator(".layer-explorer-strip input")
        boxes.nth(self.chance.randrange(max(boxes.count(), 1))).click(timeout=PATIENCE)

    def _choose(self, menu: Any, value: int | None = None) -> None:
        count = menu.locator("option").count()
        if not count:
            raise TimeoutError("no menu")
        index = self.chance.randrange(count) if value is None else value
        menu.select_option(index=index, timeout=PATIENCE)

    def _menu(self, explorer: Any) -> None:
        label = self.chance.choice(
            ("Layer", "put back to", "Together", "Test error", "Distance", "as", "ε, good")
        )
        self._choose(explorer.get_by_label(label, exact=not label.startswith("ε")).first)

    def _stack(self, _explorer: Any) -> None:
        explorer = self.notebook.page.locator(".storm-0").first
        menu = explorer.get_by_label("Stack", exact=True).first
        menu.select_option(label=self.chance.choice(STACKS), timeout=PATIENCE)

    def _wrong_stack(self, _explorer: Any) -> None:
        explorer = self.notebook.page.locator(".storm-0").first
        field = explorer.get_by_label("or folder").first
        field.fill(self.chance.choice(("nowhere", "<b>bold</b>", "../notebooks")), timeout=PATIENCE)
        field.press("Enter")

    def _tab(self, explorer: Any) -> None:
        tabs = explorer.get_by_role("tab")
        tabs.nth(self.chance.randrange(max(tabs.count(), 1))).click(timeout=PATIENCE)

    def _settings(self, explorer: Any) -> None:
        explorer.get_by_role("tab", name="Settings").first.click(timeout=PATIENCE)
        for label in ("BatchNorm statistics", "Arithmetic", "Layers"):
            if self.chance.random() < 0.4:
                self._choose(explorer.get_by_label(label, exact=True).first)
        for label, most in (("Fresh draws", 4), ("Seed", 3)):
            if self.chance.random() < 0.4:
                number = explorer.get_by_label(label, exact=True).first
                number.fill(str(self.chance.randint(0, most)), timeout=PATIENCE)
                number.press("Enter")
        self._press(explorer, ("Apply",))

    def _export(self, explorer: Any) -> None:
        explorer.get_by_role("tab", name="Export").first.click(timeout=PATIENCE)
        self._choose(explorer.get_by_label("Picture").first)
        self._press(
            explorer,
            ("PNG", "SVG", "HTML report", "netCDF", "CSV", "CSV of what was measured", "Copy"),
        )

    def _order(self, explorer: Any) -> None:
        explorer.get_by_role("tab", name="How far can we go?").first.click(timeout=PATIENCE)
        self._press(explorer, ("Find the order",))

    def _hover(self, explorer: Any) -> None:
        box = explorer.bounding_box(timeout=PATIENCE) or {"x": 0, "y": 0, "width": 1, "height": 1}
        for _ in range(5):
            x = box["x"] + self.chance.random() * box["width"]
            self.notebook.page.mouse.move(x, box["y"] + self.chance.random() * box["height"])

    def _resize(self, _explorer: Any) -> None:
        width, height = self.chance.choice(SIZES)
        self.notebook.page.set_viewport_size({"width": width, "height": height})

    def _wait(self, _explorer: Any) -> None:
        self.notebook.page.wait_for_timeout(self.chance.uniform(10, 1500))

    def _again(self, _explorer: Any) -> None:
        """Run one of the cells again."""
        self.notebook.page.evaluate(
            "async at => { const {content} = jupyterapp.shell.currentWidget;"
            "  content.activeCellIndex = at;"
            "  await jupyterapp.commands.execute('notebook:run-cell') }",
            self.chance.randrange(len(CELLS)),
        )
        self.wait_until_shown()

    def _reload(self, _explorer: Any) -> None:
        self.notebook.page.evaluate("() => jupyterapp.commands.execute('docmanager:save')")
        before = len(self.notebook.complaints)
        self.notebook.page.reload()
        while self._given_up():
            self.done["reload again"] += 1
            self.notebook.page.reload()
        self.replaced_before += self._replaced()
        kept = [text for text in self.notebook.complaints[before:] if NOT_FOUND not in text]
        self.notebook.complaints[before:] = kept

    def _restart(self, _explorer: Any) -> None:
        self.notebook.page.evaluate(
            "() => jupyterapp.shell.currentWidget.sessionContext.session.kernel.restart()"
        )
        self.notebook.page.wait_for_timeout(500)
        self.notebook.run_all()
        self.wait_until_shown()
        self.calms.clear()

    def begin_anew(self) -> None:
        """Go on after a fault, with a new page and a new kernel."""
        self.notebook.page.goto(self.address)
        self.replaced_before += self._replaced()
        self.notebook.run_all()  # which waits for the kernel
        self._restart(None)
        self.notebook.complaints.clear()

    def wait_until_shown(self, or_else: str = "false") -> None:
        try:
            self.notebook.wait_for(
                f"() => {or_else} || (window.Bokeh && ['.storm-0', '.storm-1'].every(one =>"
                "  document.querySelector(`${one} [role=status]`)?.textContent"
                "  && document.querySelector(`${one} [role=gridcell]`)))"
            )
        except Exception as error:
            seen = self.notebook.page.evaluate(
                """() => ['.storm-0', '.storm-1'].map(one => [document.querySelectorAll(one).length,
                  document.querySelector(`${one} [role=status]`)?.textContent,
                  ...['[role=gridcell]', '.layer-explorer-cells', '.layer-explorer-strip input',
                    '.bk-Figure', '[role=tab]', 'button'].map(part =>
                      document.querySelectorAll(`${one} ${part}`).length),
                  document.querySelector(one)?.textContent.slice(0, 400)])"""
            )
            raise AssertionError(
                "the explorers are not on the page; of each the number, what its status says, "
                f"its cells and other parts, and how it begins: {seen}; "
                f"complaints: {self.notebook.complaints}"
            ) from error

    def _given_up(self) -> bool:
        """Wait until they are shown, or JupyterLab has given one up that the kernel still has.

        It looks for a widget for two seconds and not once more at their end
        (docs/decisions/0023-faults-and-storms.md). What it says then is no longer in `innerText`
        once the explorer above has pushed it out of view.
        """
        said = "document.body.textContent.includes('Error displaying widget: model not found')"
        self.wait_until_shown(or_else=said)
        return bool(self.notebook.page.evaluate(f"() => {said}"))

    def _too_late(self) -> bool:
        return any(LATE in text for text in self.notebook.complaints)

    # What may never happen

    def calm(self) -> None:
        """Wait until nothing runs; look whether everything is as it should be."""
        try:
            self._look()
        except AssertionError as error:
            error.add_note("after " + ", ".join(self.last))
            raise

    def _look(self) -> None:
        self.notebook.page.set_viewport_size({"width": 1280, "height": 1500})
        try:
            self.wait_until_shown()
        except AssertionError:
            if not self._too_late():  # the script that was too late may be that of the cells
                raise
        found = self._until_idle()
        while self._too_late():
            self.notebook.complaints = [t for t in self.notebook.complaints if LATE not in t]
            self.do("reload", 0)
        complaints = [text for text in found["complaints"] if not REFUSED.search(text)]
        logged = [text for text in complaints if not _expected(text)]
        assert logged == [], logged
        self._note_closed()
        assert self.notebook.complaints == [], (self.notebook.complaints, self.notebook.stacks[-3:])
        assert self.notebook.hosts() == {"127.0.0.1"}
        printed = self._outputs()
        assert printed == [], printed
        assert found["stranger"] == [], "a network in memory is not the stack's last checkpoint"
        said = self._until(lambda: self._said(), lambda texts: not any(map(_unfinished, texts)))
        assert not any(map(_unfinished, said)), f"nothing runs, and the status says {said}"
        alerts = [text for text in self._texts("[role=alert]") if text]
        assert all(map(_expected, alerts)), alerts
        self._compare_numbers()
        found["heap"] = self._heap()
        found["kept"] = sum(self.done[one] for one in ("again", "reload", "reload again"))
        self.calms.append(found)
        first = self.calms[0]
        assert found["hash"] == first["hash"], "the reader's own network has changed"
        ours, at_first = _lasting(found["threads"]), _lasting(first["threads"])
        assert ours == at_first, f"{ours} are left, at first {at_first}"
        expected = first["resident"] + GROWTH + EACH * (found["kept"] - first["kept"])
        assert found["resident"] < expected, f"{found['resident']} bytes, at first {first}"
        assert found["heap"] < HEAP + REPLACED * self._replaced(), f"{found['heap']} bytes"
        self.say(
            f"calm: {found['resident'] / 1e6:.0f} MB, {found['heap'] / 1e6:.0f} MB in the page, "
            f"{len(found['threads'])} threads ({found['native']} native), "
            f"{found['sessions']} explorations"
        )

    def _replaced(self) -> int:
        """Count the explorations that have given way since the page was loaded."""
        return sum(self.done[one] for one in REPLACING) - self.replaced_before

    def _note_closed(self) -> None:
        """Count what the page was told to close and had never had: it shows nothing of it."""
        comms = re.findall(CLOSED + " ([0-9a-f]{32})", "\n".join(self.notebook.complaints))
        if comms:
            self.done["closed unknown"] += len(comms)
            self.say(f"closed, and not on the page: {self._in_kernel(f'kinds_of({comms})')}")
        kept = [text for text in self.notebook.complaints if CLOSED not in text]
        self.notebook.complaints[:] = kept

    def _until_idle(self) -> dict[str, Any]:
        stop_at, end = time.monotonic() + REST, time.monotonic() + 8 * REST
        while True:
            found: dict[str, Any] = json.loads(self._in_kernel("look([first, second], net)"))
            working = [name for name in found["threads"] if "explorer" in name or "Timer" in name]
            if not any(found["busy"]) and not working:
                return found
            assert time.monotonic() < end, f"it never rests: {found}"
            if time.monotonic() > stop_at:
                for at in range(len(CELLS)):
                    self.do("stop", at)
            self.notebook.page.wait_for_timeout(300)

    def _compare_numbers(self) -> None:
        for at, name in enumerate(("first", "second")):
            wanted = json.loads(self._in_kernel(f"shown({name})"))
            seen = self._until(
                lambda at=at: self._numbers(at), lambda seen, wanted=wanted: seen | wanted == seen
            )
            assert {cell: seen.get(cell) for cell in wanted} == wanted
            for cell, before, after in json.loads(
                self._in_kernel(f"anew({name}, {self.chance.randrange(1000)})")
            ):
                assert before == after, f"{cell}: {before} was shown, a fresh evaluation {after}"
                self.done["number compared"] += 1

    def _until(self, look: Callable[[], Any], good: Callable[[Any], bool]) -> Any:
        """Look again, for as long as a page may take, until it is good; return the last sight."""
        end = time.monotonic() + 15
        while not good(found := look()) and time.monotonic() < end:
            self.notebook.page.wait_for_timeout(200)
        return found

    def _said(self) -> list[str]:
        return [
            self.notebook.page.locator(f".storm-{at} [role=status]").first.text_content() or ""
            for at in range(len(CELLS))
        ]

    def _texts(self, selector: str) -> list[str]:
        return list(self.notebook.page.locator(f".layer-explorer {selector}").all_text_contents())

    def _outputs(self) -> list[str]:
        """Return what the cells of the notebook have printed, errors above all."""
        found: list[str] = self.notebook.page.evaluate(
            """() => [...jupyterapp.shell.currentWidget.content.model.cells].flatMap(cell => {
              const outputs = cell.toJSON().outputs ?? []
              return outputs.filter(one => one.output_type === 'error'
                || one.output_type === 'stream').map(one => JSON.stringify(one).slice(0, 3000))
            })"""
        )
        return found

    def _numbers(self, at: int) -> dict[str, str]:
        """Return the text that each cell of the error heatmap shows on the page."""
        found: dict[str, str] = self.notebook.page.locator(f".storm-{at}").first.evaluate(
            """(root, label) => {
              const host = node => node.getRootNode().host
              const inside = node => !!node && (root.contains(node) || inside(host(node)))
              const view = [...Bokeh.index].find(view =>
                view.model.html_attributes?.['aria-label']?.startsWith(label)
                && view.el.isConnected && inside(view.el))
              if (!view) return {}
              const {where, text} = view.model.renderers[0].data_source.data
              return Object.fromEntries([...where].map((cell, n) => [cell, [...text][n]]))
            }""",
            ERRORS,
        )
        return found

    def _heap(self) -> float:
        client = self.notebook.page.context.new_cdp_session(self.notebook.page)
        client.send("HeapProfiler.collectGarbage")
        client.send("Performance.enable")
        metrics = client.send("Performance.getMetrics")["metrics"]
        client.detach()
        return float(next(one["value"] for one in metrics if one["name"] == "JSHeapUsedSize"))

    def _in_kernel(self, call: str) -> str:
        """Call a function of `storm_kernel` in the kernel, beside the notebook's cells."""
        said = self.notebook.in_kernel(f"print(storm_kernel.{call})")
        assert said.startswith(("{", "[")), said
        return said


ACTIONS = {
    "click": 20,
    "joint_click": 8,
    "keys": 10,
    "compute": 5,
    "stop": 6,
    "tick": 5,
    "menu": 14,
    "stack": 3,
    "wrong_stack": 1,
    "tab": 6,
    "settings": 4,
    "export": 5,
    "order": 2,
    "hover": 4,
    "resize": 3,
    "wait": 10,
    "again": 1,
    "reload": 1,
    "restart": 0.15,
}
"""Action → how often, beside the others."""


def _unfinished(text: str) -> bool:
    return text.startswith(UNFINISHED) or "Sweep:" in text  # after the answer of a click


def _expected(text: str) -> bool:
    return any(part in text for part in EXPECTED)


def _lasting(threads: list[str]) -> list[str]:
    """Leave out the subshells, one for each page that JupyterLab has opened on the kernel."""
    return [name for name in threads if not name.startswith("subshell")]


def notebook_file(folder: Path) -> Path:
    """Write the notebook into a folder."""
    lines = ["\n".join(line.strip() for line in code.strip().splitlines()) for code in CELLS]
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    cells = [nbformat.v4.new_code_cell(code) for code in lines]
    content = nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel})
    path = folder / "storm.ipynb"
    nbformat.write(content, path)
    return path


def main() -> int:
    """Storm for some minutes; print what was done and seen."""
    from tests.browser.serving import (
        TOKEN,
        browsing,
        find_browser,
        lab_address,
        lab_command,
        own_folders,
        serving,
    )

    parser = argparse.ArgumentParser(description=__doc__, prog="make storm")
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--every", type=int, default=40, help="actions between two calms")
    arguments = parser.parse_args()
    executable = find_browser()
    if executable is None:
        print("There is no browser: install chromium, or run `make test` once.")
        return 1
    home = Path(tempfile.mkdtemp(prefix="storm-"))
    folder, log = home / "notebooks", home / "lab.log"
    folder.mkdir()
    path = notebook_file(folder)

    def say(text: str) -> None:
        print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)

    with (
        serving(lab_command(folder), own_folders(home), folder, log) as server,
        browsing(executable) as browser,
    ):
        page = browser.new_context(viewport={"width": 1280, "height": 1500}).new_page()
        page.on("dialog", lambda dialog: dialog.accept())  # leave a page that is not saved
        address = f"{lab_address(home, server, log)}lab/tree/{path.name}?token={TOKEN}&reset"
        storm = Storm(Notebook(page), address, random.Random(arguments.seed), say)
        page.set_default_timeout(240_000)  # with other work on the machine
        page.goto(address)
        storm.notebook.run_all()
        storm.wait_until_shown()
        end = time.monotonic() + 60 * arguments.minutes
        storm.calm()
        faults = 0
        while time.monotonic() < end:
            try:
                for _ in range(arguments.every):
                    storm.act()
                storm.calm()
            except Exception:
                faults += 1
                say(f"FAULT {faults}: {traceback.format_exc()}")
                storm.notebook.screenshot(f"storm-{faults}")
                storm.begin_anew()
        print(json.dumps({"faults": faults, "done": storm.done, "missed": storm.missed}))
        print("\n".join(line for line in log.read_text().splitlines() if "Error" in line))
    shutil.rmtree(home)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
