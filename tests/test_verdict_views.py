"""Tested verdicts as the reader sees them: table, picture, pane, report and command."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from bokeh.models import ColumnDataSource, Rect
from bokeh.plotting import figure

import explorer as lx
from explorer.cli import main
from explorer.engine import judging
from explorer.engine.judging import judge
from explorer.ui.report import report_page
from explorer.ui.verdict_figure import LOOKS, verdict_figure
from explorer.ui.verdict_table import verdict_html, verdict_text
from tests.fakes import distances
from tests.test_verdicts import FAR, HERE, NEAR, sweep_of


@pytest.fixture(scope="module")
def judged():
    return judge(sweep_of([NEAR, NEAR], [FAR, NEAR], [HERE, None]))


def test_the_table_names_the_verdict_its_reason_and_the_recovery(judged):
    html = verdict_html(judged)
    assert "margin ε = 8.8 points" in html
    assert "(Holm, 10 tests)" in html
    for words in ("robust", "critical", "not known", "epoch 0: +60.0 points", "epoch 1", "epoch 2"):
        assert words in html


def test_a_name_that_is_html_is_escaped(judged):
    html = verdict_html(judged.assign_coords(layer=["<b>", "x", "y"]))
    assert "&lt;b&gt;" in html
    assert "<b>" not in html


def test_the_text_sets_several_runs_beside_each_other(judged):
    text = verdict_text(lx.verdicts({"one": sweep_of([NEAR]), "two": sweep_of([FAR])}))
    head, rest = text.split("\n\n", 1)
    assert head.split() == [
        *("one", "two", "common", "agreement"),
        *("layer0", "robust", "critical", "critical", "0.00"),
    ]
    assert "two: trained network's error 2.0" in rest


def cells_of(plot):
    cells = next(r.data_source for r in plot.renderers if isinstance(r.glyph, Rect))
    return cells.data


def test_the_picture_has_a_look_for_each_state_and_a_line_where_the_layer_recovers(judged):
    plot = verdict_figure(judged)
    assert isinstance(plot, figure)
    cells = cells_of(plot)
    states = judged["state"].values.ravel()
    assert [(f, h) for f, h in zip(cells["fill"], cells["hatch"], strict=True)] == [
        (LOOKS[state][0], LOOKS[state][2]) for state in states
    ]
    assert cells["tip"][3].startswith("beyond: +60.0 points\n600 turned wrong, 0 turned right")
    (line,) = (r.data_source for r in plot.renderers if "top" in r.data_source.data)
    assert list(line.data["x"]) == [-0.5, 0.5, 1.5]
    assert max(map(len, plot.title.text.split("\n"))) < 30  # a longer line ends outside the page
    label = plot.html_attributes["aria-label"]
    assert "layer0 robust; layer1 critical; layer2 not known" in label


@pytest.mark.parametrize(
    ("p", "written"),
    [
        *[(0.0, ""), (9.99e-4, ""), (0.001, ".001"), (0.0027, ".003"), (0.35, ".350")],
        *[(0.9994, ".999"), (0.9996, "1"), (1.0, "1")],
    ],
)
def test_a_p_value_is_short_enough_for_a_cell_of_a_narrow_page(judged, p, written):
    same = xr.full_like(judged["p_within_holm"], p)
    shown = cells_of(verdict_figure(judged.assign(p_within_holm=same, p_beyond_holm=same)))
    assert set(shown["text"]) == {written}


def test_every_look_can_be_told_from_the_others_in_grey():
    from explorer.colours import contrast

    grounds = [LOOKS[state][0] for state in ("within", "open", "beyond")]
    assert contrast(grounds[0], grounds[1]) > 1.3
    assert contrast(grounds[0], grounds[2]) > 3
    for ground, on_it, _ in LOOKS.values():
        assert contrast(ground, on_it) >= 4.5


def test_the_report_says_how_surely_and_how_each_verdict_came_about():
    sweep = sweep_of([NEAR], [FAR]).assign_attrs(dataset="toy", stack_title="Toy")
    far = distances().assign_coords(layer=["layer0", "layer1"])
    page = report_page(sweep, far.isel(epoch=slice(2)).assign_coords(epoch=[0, 1]))
    assert "how each verdict came about" in page
    assert "epoch 0: +60.0 points" in page
    assert "Holm, 4 tests" in page


def test_the_pane_tests_what_is_measured_and_follows_the_threshold(on_bench):
    bench = on_bench()
    pane = bench.shown._tested
    assert "How sure is it" in pane.text.value
    bench.shown.shown.threshold.index = 4
    assert "How sure is it" in pane.text.value  # nobody has asked yet
    pane.test.click()
    at_a_fifth = pane.text.value
    assert "margin ε = 16.0 points" in at_a_fifth
    bench.shown.shown.threshold.index = 1
    assert "margin ε = 16.0 points" not in pane.text.value
    assert bench.alert == ""


def test_another_colour_scale_tests_nothing_again(on_bench, monkeypatch):
    bench = on_bench()
    bench.shown._tested.test.click()
    asked = []
    original = judging.judge
    monkeypatch.setattr(judging, "judge", lambda *a: asked.append(a) or original(*a))
    bench.shown.shown.error.index = 1
    bench.shown.shown.measure.index = 1
    assert asked == []
    bench.shown.shown.threshold.index = 4
    assert len(asked) == 1


def test_the_command_prints_verdicts_and_writes_what_is_asked_for(tmp_path, capsys):
    out, picture = tmp_path / "v.nc", tmp_path / "v.html"
    wanted = ["--margin", "0.2", "--out", str(out), "--picture", str(picture)]
    assert main(["verdicts", "fcn3x256-digits", *wanted]) == 0
    said = capsys.readouterr().out
    assert "layer3    robust" in said
    assert "margin ε = 20.0 points" in said
    with xr.open_dataset(out, engine="h5netcdf") as again:
        assert again["verdict"].values.tolist() == ["critical", "robust", "robust", "robust"]
    assert "aria-label" in picture.read_text(encoding="utf-8")
    assert main(["verdicts", "fcn3x256-digits", str(out)]) == 0  # a result can be judged again
    assert "agreement" in capsys.readouterr().out


def test_the_command_explains_a_level_that_is_none(capsys):
    assert main(["verdicts", "fcn3x256-digits", "--level", "5"]) == 2
    assert "level is 5" in capsys.readouterr().err


def test_a_picture_of_several_runs_is_that_of_the_first():
    found = lx.verdicts([sweep_of([NEAR]), sweep_of([FAR])])
    alone = verdict_figure(judge(sweep_of([NEAR])))
    assert cells_of(verdict_figure(found))["fill"] == cells_of(alone)["fill"]
    assert isinstance(next(iter(alone.renderers)).data_source, ColumnDataSource)
    assert np.isfinite(cells_of(alone)["x"]).all()
