"""What changed, answer by answer, as HTML."""

from __future__ import annotations

import base64
import io
import re

import numpy as np
import pytest
from PIL import Image

from explorer.ui.changes import (
    MOST_CLASSES,
    MOST_RIGHT,
    MOST_WRONG,
    Changes,
    changes_html,
    showcase,
)
from tests.fakes import ANSWERS

NAMES = ("zero", "<one>", "two")


def changes(**others):
    fields = {"title": "first ← epoch <0>", "names": NAMES} | others
    return Changes(labels=ANSWERS.labels, intact=ANSWERS.intact, patched=ANSWERS.patched, **fields)


def rows(html, caption):
    (table,) = (t for t in re.findall(r"<table.*?</table>", html) if caption in t)
    cells = r"<t[hd][^>]*>(.*?)</t[hd]>"
    return [re.findall(cells, row) for row in re.findall(r"<tr>(.*?)</tr>", table)]


def test_what_turned_is_counted_and_shown():
    assert showcase(ANSWERS.labels, ANSWERS.intact, ANSWERS.patched) == ([1, 2], [3])
    html = changes_html(changes())
    assert "2 of 6 answers turned wrong, 1 turned right" in html


def test_of_many_examples_few_are_shown_from_everywhere():
    labels = np.zeros(1000, int)
    wrong, right = showcase(labels, labels, labels + 1)
    assert len(wrong) == MOST_WRONG
    assert max(wrong) > 900
    assert right == []
    wrong, right = showcase(labels, labels + 1, labels)
    assert (len(right), wrong) == (MOST_RIGHT, [])


def test_every_class_has_its_error_before_and_after():
    table = rows(changes_html(changes()), "Test error by class")
    assert table[1:] == [
        ["zero", "2", "0.0", "50", "+50"],
        ["&lt;one&gt;", "2", "50", "50", "0"],
        ["two", "2", "50", "50", "0"],
    ]


def test_the_confusion_shows_what_is_answered_more_and_less_often():
    table = rows(changes_html(changes()), "How often a class")
    assert table[0][1:] == ["zero", "&lt;one&gt;", "two"]
    assert table[1] == ["zero", "−1", "+1", ""]
    assert table[2] == ["&lt;one&gt;", "", "", ""]
    assert table[3] == ["two", "−1", "+1", ""]


def test_of_many_classes_those_that_changed_most_are_shown():
    labels = np.arange(200) % 100
    patched = np.where(labels >= 95, 0, labels)
    html = changes_html(Changes("x", labels, labels, patched))
    table = rows(html, "Test error by class")[1:]
    assert len(table) == MOST_CLASSES
    assert {"95", "96", "97", "98", "99"} <= {row[0] for row in table}
    assert f"{100 - MOST_CLASSES} more classes" in html


@pytest.mark.parametrize("shape", [(2, 2), (1, 2, 2), (3, 2, 2)])
def test_examples_are_pictures_with_their_answers_as_text(shape):
    pixels = np.linspace(-1, 1, int(np.prod(shape))).reshape(shape)
    html = changes_html(changes(inputs={1: pixels}))
    (data,) = re.findall(r'src="data:image/png;base64,([^"]+)"', html)
    picture = Image.open(io.BytesIO(base64.b64decode(data)))
    assert picture.size == (2, 2)
    assert picture.mode == ("RGB" if shape[0] == 3 else "L")
    assert 'alt="example 1, class zero, was answered zero, now &lt;one&gt;"' in html


@pytest.mark.parametrize("inputs", [np.zeros(5), np.full((2, 2), np.nan), np.zeros((7, 2, 2))])
def test_inputs_that_are_no_picture_are_named_by_their_number(inputs):
    html = changes_html(changes(inputs={1: inputs}))
    assert "<img" not in html
    assert "#1" in html


def test_a_picture_of_one_grey_is_no_division_by_zero():
    assert "<img" in changes_html(changes(inputs={1: np.ones((2, 2))}))


def test_of_a_text_the_tokens_before_the_answer_are_shown():
    tokens = np.array([[0, 2, 1], [2, 2, 0]])
    html = changes_html(changes(positions=3, inputs={0: tokens[0], 1: tokens[1]}, names="a<\n"))
    found = re.findall(r"<code>(.*?)</code>", html)
    assert found == ["…a⏎", "…a⏎&lt;", "…⏎"]
    assert r"&#x27;\n&#x27;" in html  # a class that cannot be seen is named by its escape


def test_every_name_is_escaped():
    html = changes_html(changes(inputs={1: np.ones((2, 2))}))
    assert "<one>" not in html
    assert "<0>" not in html
