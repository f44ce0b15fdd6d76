"""The report in a real browser, opened as a file."""

from __future__ import annotations

import pytest
from bokeh.embed import file_html
from bokeh.plotting import figure
from bokeh.resources import INLINE

import explorer as lx
from explorer.ui.across_figure import ACROSS, across_figure
from explorer.ui.report import write_report
from explorer.ui.titles import put_title
from tests.browser.pages import DISTANCES, ERRORS, Watched
from tests.fakes import distances, large, sweep

pytestmark = pytest.mark.browser

HOSTILE = "</script><script>document.title = 'broken in'</script>"


@pytest.fixture
def report(chromium, tmp_path):
    named = {"layer": [HOSTILE, "second"]}
    path = write_report(
        sweep().assign_coords(named), distances().assign_coords(named), tmp_path / "report.html"
    )
    context = chromium.new_context(viewport={"width": 1180, "height": 900}, offline=True)
    watched = Watched(context.new_page())
    watched.page.goto(path.as_uri())
    watched.wait_for_figures(ERRORS, DISTANCES)
    yield watched
    assert watched.complaints == []
    assert watched.hosts() == set()
    assert len(watched.requests) == 1
    context.close()


def test_hovering_tells_the_numbers_and_marks_the_cell_in_both_pictures(report):
    for hovered, fact in ((ERRORS, "test error 20.0"), (DISTANCES, "L2 / √m from the start: 0")):
        report.page.mouse.move(*report.place(0, 1, hovered))
        tip = report.page.locator(".bk-Tooltip").filter(has_text=fact)
        tip.filter(has_text="second ← epoch 0").wait_for()
        for label in (ERRORS, DISTANCES):
            assert report.marked(label) == ([0.0], [1.0])
        report.page.mouse.move(1, 1)
    report.screenshot("report")


def test_a_name_that_is_code_is_only_shown(report):
    report.page.mouse.move(*report.place(0, 0))
    report.page.locator(".bk-Tooltip").filter(has_text=HOSTILE).wait_for()
    assert report.page.title() == "Tiny <b>network</b>: which layers matter"


@pytest.mark.parametrize(
    ("width", "visible", "lying"), [(1180, True, True), (850, True, True), (390, False, False)]
)
def test_many_numbers_and_labels_keep_apart_at_every_width(
    chromium, tmp_path, width, visible, lying
):
    path = write_report(large(sweep()), large(distances()), tmp_path / "large.html")
    context = chromium.new_context(viewport={"width": width, "height": 900}, offline=True)
    watched = Watched(context.new_page())
    watched.page.goto(path.as_uri())
    watched.wait_for_figures(ERRORS, DISTANCES)
    for label in (ERRORS, DISTANCES):
        watched.place(0, 0, label)
        shown = watched.numbers(label)
        assert (shown["visible"], shown["lying"], shown["touching"]) == (visible, lying, False)
        assert not (shown["visible"] and shown["too_wide"])
    assert watched.page.evaluate("document.documentElement.scrollWidth") == width
    assert watched.complaints == []
    watched.screenshot(f"report-of-14-layers-{width}-pixels")
    context.close()


@pytest.mark.parametrize(("width", "in_a_row"), [(560, 1), (1180, ACROSS)])
def test_pictures_of_several_stacks_go_on_below_on_a_narrow_page(
    chromium, tmp_path, width, in_a_row
):
    sweeps = {
        "fcn": lx.open_sweep("fcn3x256-digits"),
        "other": lx.open_sweep("fcn3x256-digits"),
        "vgg": lx.open_sweep("vgg11-digits"),
    }
    found = lx.compare(sweeps, progress=False)
    page = tmp_path / "across.html"
    page.write_text(file_html(across_figure(found), INLINE, "across"), encoding="utf-8")
    context = chromium.new_context(viewport={"width": width, "height": 900}, offline=True)
    watched = Watched(context.new_page())
    watched.page.goto(page.as_uri())
    figures = watched.page.locator(".bk-Figure")
    figures.nth(len(sweeps) + 2).wait_for()  # the scale before them, two curves behind
    tops = figures.evaluate_all("plots => plots.map(plot => plot.getBoundingClientRect().top)")
    maps = tops[1 : 1 + len(sweeps)]
    assert maps.count(maps[0]) == in_a_row
    assert watched.page.evaluate("document.documentElement.scrollWidth") == width
    assert watched.complaints == []
    watched.screenshot(f"several-stacks-{width}-pixels")
    context.close()


def test_a_title_has_as_many_lines_as_the_page_needs_and_no_more(chromium, tmp_path):
    text = "Rank correlation with the error +0.85 over 11 layers, 95 % interval +0.43 to +0.97"
    name = "one-name-without-blanks/that-is-as-long-as-those-of-folders-often-are"
    plot = figure(height=300, sizing_mode="stretch_width")
    plot.title.text_font_size = "13px"
    plot.line([0, 1], [0, 1])
    put_title(plot, f"{text}\n{name}")
    page = tmp_path / "title.html"
    page.write_text(file_html(plot, INLINE, "title"), encoding="utf-8")
    context = chromium.new_context(viewport={"width": 1180, "height": 500}, offline=True)
    watched = Watched(context.new_page())
    watched.page.goto(page.as_uri())
    seen = {}
    for width in (1180, 360, 1180):
        watched.page.set_viewport_size({"width": width, "height": 500})
        watched.page.wait_for_timeout(500)
        lines, room, height = watched.page.evaluate(
            """() => {
              const [view] = [...Bokeh.index]
              const {model} = view
              const draw = document.createElement("canvas").getContext("2d")
              draw.font = `bold 13px ${model.title.text_font}`
              const lines = model.title.text.split("\\n")
              return [lines.map(line => [line, draw.measureText(line.trimEnd()).width]),
                      model.inner_width, view.views.find_one(model.title).layout.bbox.height]
            }"""
        )
        assert max(long for _, long in lines) <= room
        assert 13 * len(lines) <= height <= 20 * len(lines)
        whole = "".join(line + "\n" * (line[-1] not in " \u2060") for line, _ in lines)
        assert whole.replace("\u2060", "").strip() == f"{text}\n{name}"
        assert seen.setdefault(width, len(lines)) == len(lines)
        watched.screenshot(f"title-{width}-pixels")
    assert seen[1180] == 2 < seen[360]
    changed = watched.page.evaluate(
        """async () => {
          const {textContent} = document.querySelector("script[type='application/json']")
          const unescaped = new DOMParser().parseFromString(textContent, "text/html")
          const [json] = Object.values(JSON.parse(unescaped.documentElement.textContent))
          const [plot] = Bokeh.documents[0].constructor.from_json(json).roots()
          plot.title.text = "before it has been laid out"
          await new Promise(done => setTimeout(done, 100))
          return plot.title.text
        }"""
    )
    assert changed == "before it has been laid out"
    assert watched.complaints == []
    context.close()
