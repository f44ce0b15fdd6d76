"""The report as a file: what it says, that nothing in it runs or is fetched, how it is written."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from bokeh.resources import Resources

from explorer.errors import CheckpointError
from explorer.ui.report import report_page, write_report
from tests.fakes import distances, sweep


class Page(HTMLParser):
    """Tags with their attributes, and the text outside scripts and styles."""

    def __init__(self, source):
        super().__init__()
        self.tags, self.text, self._inside = [], [], None
        self.feed(source)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self._inside = tag

    def handle_endtag(self, tag):
        self._inside = None

    def handle_data(self, data):
        if self._inside not in ("script", "style") and data.strip():
            self.text.append(data.strip().replace("\u00a0", " "))

    def count(self, tag):
        return sum(name == tag for name, _ in self.tags)


@pytest.fixture
def page():
    return Page(report_page(sweep(), distances()))


def test_the_report_names_the_stack_its_final_error_and_chance(page):
    assert page.text[0] == "Tiny <b>network</b>: which layers matter"
    assert "Final test error 10.0 % · chance 90.0 % · 100 test examples of made up" in page.text


def test_the_report_says_which_layers_are_critical_and_by_which_rule(page):
    text = " ".join(page.text)
    assert "first critical 85.0 70.0 30.0 10.0 second critical 70.0 20.0 15.0 10.0" in text
    assert "more than 10 % of the way from the final error to chance, here above 18.0 %" in text
    assert "this threshold is ours" in text


def test_a_layer_below_the_threshold_is_robust():
    mild = sweep()
    mild["error"].loc["second"] = [0.17, 0.15, 0.1]
    text = " ".join(Page(report_page(mild, distances())).text)
    assert "second robust 70.0 17.0" in text


def test_the_threshold_that_is_asked_for_holds_in_both_tables_and_is_said():
    mild = sweep()
    mild["error"].loc["second"] = [0.17, 0.15, 0.1]
    text = " ".join(Page(report_page(mild, distances(), 0.01)).text)
    assert "second critical 70.0 17.0" in text
    assert "more than 1.0 % of the way from the final error to chance, here above 10.8 %" in text
    assert "margin ε = 0.8 points" in text
    assert "this threshold was chosen by the reader" in text
    assert "is ours" not in text


def test_the_tables_have_heads_for_a_screen_reader(page):
    heads = [attrs for tag, attrs in page.tags if tag == "th"]
    assert all(attrs.get("scope") in ("row", "col") for attrs in heads)
    assert page.count("caption") == page.count("table") == 4
    assert "How far the weights moved" in page.text
    assert " ".join(page.text).count("second 3 0 6 12") == 1


def test_the_attributes_needed_to_repeat_the_numbers_are_there(page):
    text = " ".join(page.text)
    for name, value in sweep().attrs.items():
        assert f"{name} {value}" in text


def test_a_cell_without_a_number_is_listed_with_its_reason():
    broken = sweep()
    broken["error"].loc["second", 1] = np.nan
    broken["reason"].loc["second", 1] = "out of memory on CPU"
    text = Page(report_page(broken, distances())).text
    assert "second ← epoch 1: out of memory on CPU" in text
    assert "Not measured" in text


def test_a_report_on_steps_speaks_of_steps():
    moved = distances()
    source = report_page(sweep("step"), moved)
    text = " ".join(Page(source).text)
    assert "Test error in % after putting the layer back to the step; ReRnd" in text
    assert "L2 / √m between the layer at the step and at step 0." in text
    assert "putting it back to the first step takes" in text
    shown = source.replace(Resources(mode="inline", components=["bokeh"]).render_js(), "")
    assert len(shown) < len(source) - 500_000
    assert "epoch" not in shown
    assert "step the layer is put back to" in shown


def test_names_from_data_stay_names(page):
    hostile = "<script>alert(1)</script>"
    other = "</script><img src=x onerror=alert(2)>"
    bad, moved = sweep(), distances()
    bad = bad.assign_coords(layer=[hostile, other]).assign_attrs(
        stack_title=hostile, dataset=other, **{"<i>": other}
    )
    bad["error"].values[0, 0] = np.nan
    bad["reason"].values[0, 0] = other
    source = report_page(bad, moved.assign_coords(layer=bad.layer))
    found = Page(source)
    assert hostile in found.text
    assert found.count("script") == page.count("script") > 0
    assert found.count("img") == found.count("i") == 0
    assert "<script>alert" not in source
    assert "<img" not in source.replace("<img/>", "")


def test_nothing_is_fetched_from_anywhere(page):
    fetching = [attrs for _, attrs in page.tags if {"src", "srcset", "data"} & attrs.keys()]
    assert fetching == []
    assert page.count("link") == page.count("iframe") == 0
    (policy,) = (attrs["content"] for tag, attrs in page.tags if "http-equiv" in attrs)
    assert policy.startswith("default-src 'none';")
    assert "http" not in policy


def test_the_report_is_written_where_it_was_asked_for(tmp_path):
    target = write_report(sweep(), distances(), str(tmp_path / "new" / "report.html"))
    assert target == tmp_path / "new" / "report.html"
    assert target.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert [file.name for file in target.parent.iterdir()] == ["report.html"]


def test_a_disk_that_fills_up_leaves_the_old_report(tmp_path, monkeypatch):
    target = tmp_path / "report.html"
    target.write_text("old")

    def full(path, _text, encoding):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(CheckpointError, match=r"report.html could not be written: No space left"):
        write_report(sweep(), distances(), target)
    assert target.read_bytes() == b"old"
    assert [file.name for file in tmp_path.iterdir()] == ["report.html"]


def test_a_folder_that_cannot_be_written_to_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match=r"file.report.html could not be written"):
        write_report(sweep(), distances(), tmp_path / "file" / "report.html")
