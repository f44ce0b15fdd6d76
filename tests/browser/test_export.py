"""Pictures saved by the script of the tab Export, on a page with nothing else."""

from __future__ import annotations

import pytest
from bokeh.document import Document
from bokeh.plotting import figure
from bokeh.resources import INLINE

from explorer.ui.elements import PAGE
from tests.browser.pages import Watched

pytestmark = pytest.mark.browser

DRAW = """async drawn => {
  const {Document} = Bokeh.require("document")
  const {add_document_standalone} = Bokeh.require("embed/standalone")
  const place = document.body.appendChild(document.createElement("div"))
  const shadow = place.attachShadow({mode: "open"})
  const el = shadow.appendChild(document.createElement("div"))
  await add_document_standalone(Document.from_json(drawn), el, [])
}"""
"""Draw a figure once more, inside a shadow root."""

EXPORT = """async ([script, id]) => {
  const address = URL.createObjectURL(new Blob([script], {type: "text/javascript"}))
  const {default: {render}} = await import(address)
  const values = {pictures: [[id, "Distance heatmap"]], picture: 0, files: [], about: "", code: ""}
  const el = document.body.appendChild(document.createElement("div"))
  render({el, model: {get: name => values[name], set() {}, on() {}, off() {}}})
  const saved = [], {createObjectURL} = URL
  URL.createObjectURL = blob => { saved.push(blob); return "#" }
  ;[...el.querySelectorAll("button")].find(one => one.textContent === "SVG").click()
  const said = el.querySelector("[role=status]")
  while (!said.textContent) await new Promise(requestAnimationFrame)
  el.remove()
  URL.createObjectURL = createObjectURL
  return [said.textContent, ...await Promise.all(saved.map(blob => blob.text()))]
}"""
"""What is said when SVG is pressed, and what was saved."""


def test_a_picture_is_saved_as_it_is_on_the_page_not_as_it_was_taken_off(chromium):
    plot = figure(title="as it is", width=300, height=200)
    plot.line([0, 1], [0, 1])
    document = Document()
    document.add_root(plot)
    drawn = document.to_json(deferred=False)
    context = chromium.new_context(offline=True)
    watched = Watched(context.new_page())
    watched.page.set_content("<main></main>")
    for code in INLINE.js_raw:
        watched.page.add_script_tag(content=code)
    asked = [(PAGE / "export.js").read_text(encoding="utf-8"), plot.id]
    for _ in range(2):
        watched.page.evaluate(DRAW, drawn)
    watched.wait_for("() => [...Bokeh.index].every(view => view.has_finished())")
    watched.page.evaluate("() => [...Bokeh.index][0].el.getRootNode().host.remove()")
    said, picture = watched.page.evaluate(EXPORT, asked)
    assert said == "Saved the distance heatmap as SVG."
    assert "as it is" in picture
    watched.page.evaluate(
        "() => [...Bokeh.index].forEach(view => view.el.getRootNode().host?.remove())"
    )
    (said,) = watched.page.evaluate(EXPORT, asked)
    assert said == "Distance heatmap is not on the page: show it, then try again."
    assert watched.complaints == []
    context.close()
