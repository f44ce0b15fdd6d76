"""Pages under test: what they show, what they asked for, what they complained about."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from textwrap import dedent
from typing import Any
from urllib.parse import urlsplit

REPOSITORY = Path(__file__).resolve().parents[2]
ARTIFACTS = REPOSITORY / "test-artifacts"
LOCAL = ("attachment", "blob", "data", "file")
"""Schemes of addresses for which no machine is asked."""

PATIENCE = 60_000
"""Milliseconds that a condition may take on a slow, shared machine."""

ERRORS, DISTANCES, CURVE = "Heatmap of the test error", "Heatmap of the distance", "Curve"
"""How the aria-labels of the figures begin."""

MARK = ".renderers.find(({name}) => name === 'mark').data_source.data"
"""Where the mark of a heatmap is, behind its model."""


@dataclass
class Watched:
    """A page of which every request and complaint is noted."""

    page: Any
    """Playwright's page."""

    requests: list[str] = field(default_factory=list)
    """Address of everything that the page asked for, web sockets too."""

    complaints: list[str] = field(default_factory=list)
    """Errors of the page, and of its console."""

    stacks: list[str] = field(default_factory=list)
    """Where in its scripts each error of the page came from."""

    def __post_init__(self) -> None:
        self.page.set_default_timeout(PATIENCE)
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("websocket", lambda socket: self.requests.append(socket.url))
        self.page.on("pageerror", self._note)
        self.page.on("console", self._listen)

    def _note(self, error: Any) -> None:
        self.complaints.append(f"page: {error}")
        self.stacks.append(f"{error.stack}")

    def _listen(self, message: Any) -> None:
        # JupyterLab puts an attached picture on the page before it looks up where it is.
        attachment = "ERR_UNKNOWN_URL_SCHEME" in message.text and "attachment:" in str(
            message.location
        )
        if message.type == "error" and not attachment:
            self.complaints.append(f"console: {message.text}")

    def hosts(self) -> set[str | None]:
        """Return the machines that were asked for something."""
        asked = [urlsplit(url) for url in self.requests]
        return {url.hostname for url in asked if url.scheme not in LOCAL}

    def wait_for(self, function: str, argument: Any = None) -> None:
        """Wait until a JavaScript function of the argument returns something true."""
        self.page.wait_for_function(function, arg=argument)

    def wait_for_figures(self, *labels: str) -> None:
        """Wait until the figures that a screen reader calls so have been drawn."""
        self.wait_for(
            "labels => window.Bokeh && labels.every(label => [...Bokeh.index].some(view =>"
            "  view.model.html_attributes['aria-label']?.startsWith(label)"
            "  && view.has_finished()))",
            list(labels),
        )

    def place(self, x: float, y: float, label: str = ERRORS) -> tuple[float, float]:
        """Return where a cell is on the page once it stands still; bring it into view."""
        left, top = self.page.evaluate(
            """async ([label, x, y]) => {
              const view = [...Bokeh.index].find(view =>
                view.model.html_attributes['aria-label']?.startsWith(label))
              const frame = () => new Promise(requestAnimationFrame)
              const place = () => {
                const box = view.canvas_view.el.getBoundingClientRect()
                const {x_scale, y_scale} = view.frame
                return [box.x + x_scale.compute(x), box.y + y_scale.compute(y)]
              }
              view.el.scrollIntoView({block: 'center'})
              let before, now = place(), still = 0
              while (still < 10) {
                await frame();
                [before, now] = [now, place()]
                still = `${before}` === `${now}` ? still + 1 : 0
              }
              return now
            }""",
            [label, x, y],
        )
        return float(left), float(top)

    def figure(self, label: str, expression: str) -> Any:
        """Evaluate an expression of `model`, the figure that a screen reader calls `label`."""
        return self.page.evaluate(
            f"""label => {{
              const {{model}} = [...Bokeh.index].find(view =>
                view.model.html_attributes['aria-label']?.startsWith(label))
              const columns = at => ({{...model.renderers[at].data_source.data}})
              return {expression}
            }}""",
            label,
        )

    def marked(self, label: str) -> tuple[list[float], list[float]]:
        """Return where the mark of a heatmap is."""
        columns = self.figure(label, f"({{...model{MARK}}})")
        return list(columns["x"]), list(columns["y"])

    def numbers(self, label: str) -> dict[str, Any]:
        """Return whether the cells of a heatmap show numbers, their size, and if any is too wide.

        The same of the labels of the columns: size, whether they lie, and if any two touch.
        """
        found: dict[str, Any] = self.figure(
            label,
            """(() => {
              const draw = document.createElement("canvas").getContext("2d")
              const width = (text, size, font) => {
                draw.font = `${size} ${font}`
                return draw.measureText(text).width
              }
              const cell = model.inner_width / (model.x_range.end - model.x_range.start)
              const {glyph, visible} = model.renderers[1]
              const {text_font_size: {value: size}, text_font: {value: font}} = glyph
              const widest = Math.max(...columns(1).text.map(text => width(text, size, font)))
              const [axis] = model.above
              const lying = axis.major_label_orientation == "horizontal"
              const labels = [...axis.major_label_overrides].sort((a, b) => a[0] - b[0])
              const half = text => lying
                ? width(text, axis.major_label_text_font_size, axis.major_label_text_font) / 2 : 5
              const touching = labels.some(([at, text], n) => n &&
                (at - labels[n - 1][0]) * cell < half(text) + half(labels[n - 1][1]))
              return {visible, size: parseFloat(size), too_wide: widest > cell, lying, touching}
            })()""",
        )
        return found

    def screenshot(self, name: str) -> None:
        """Keep a picture of the page."""
        ARTIFACTS.mkdir(exist_ok=True)
        self.page.screenshot(path=ARTIFACTS / f"{name}.png")


class ExplorerPage(Watched):
    """A page that shows one explorer."""

    def wait_for_status(self, *parts: str) -> str:
        """Wait until the status line contains all these parts, and return it."""
        self.wait_for(
            "parts => { const status = document.querySelector('[role=status]')?.textContent ?? '';"
            " return parts.every(part => status.replaceAll('\\u00a0', ' ').includes(part)) }",
            list(parts),
        )
        return str(self.page.text_content("[role=status]")).replace("\u00a0", " ")

    def wait_for_mark(self, label: str, x: list[float], y: list[float]) -> None:
        """Wait until the mark of a heatmap is around these cells."""
        self.wait_for(
            "([label, x, y]) => { const {x: at, y: on} = [...Bokeh.index].find(view =>"
            "  view.model.html_attributes['aria-label']?.startsWith(label)"
            f"  ).model{MARK};"
            "  return `${[...at]}` === `${x}` && `${[...on]}` === `${y}` }",
            [label, x, y],
        )

    def click_cell(self, x: float, y: float, label: str = ERRORS) -> None:
        """Click the middle of a cell."""
        self.page.mouse.click(*self.place(x, y, label))

    def number_in(self, cell: str) -> str:
        """Return the number that stands in a cell of the error heatmap."""
        columns = self.figure(ERRORS, "columns(0)")
        return str(columns["text"][columns["where"].index(cell)])


class Notebook(ExplorerPage):
    """A notebook with one explorer, open in JupyterLab."""

    def run_all(self) -> None:
        """Wait for the kernel and run every cell."""
        self.wait_for("() => window.jupyterapp?.shell?.currentWidget?.sessionContext?.isReady")
        self.page.evaluate(
            "async () => { const notebook = jupyterapp.shell.currentWidget;"
            " await notebook.context.ready; await notebook.sessionContext.ready;"
            " await jupyterapp.commands.execute('notebook:run-all-cells') }"
        )

    def in_kernel(self, code: str, *, wait: bool = True) -> str:
        """Run code in the kernel beside the notebook's cells; return what it prints."""
        said: str = self.page.evaluate(
            """async ([code, wait]) => {
              const {kernel} = jupyterapp.shell.currentWidget.sessionContext.session
              const future = kernel.requestExecute({code, store_history: false})
              let said = ''
              future.onIOPub = ({header, content}) => {
                if (header.msg_type === 'stream' && content.name === 'stdout') said += content.text
                if (header.msg_type === 'error') said += content.traceback.join('\\n')
              }
              window.runs = true
              const done = future.done.then(() => { window.runs = false })
              if (!wait) return ''
              const late = new Promise(done => setTimeout(done, 90000, 'late'))
              const first = await Promise.race([done, late])
              return first === 'late' ? 'the kernel does not answer' : said.trim()
            }""",
            [dedent(code), wait],
        )
        return said

    def use_theme(self, name: str) -> None:
        """Choose "JupyterLab Light" or "JupyterLab Dark", and wait until it is there."""
        self.page.evaluate(
            "theme => jupyterapp.commands.execute('apputils:change-theme', {theme})", name
        )
        light = "true" if name.endswith("Light") else "false"
        self.page.locator(f"body[data-jp-theme-light={light}]").wait_for(state="attached")
