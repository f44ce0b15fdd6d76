"""Other settings: what holds under them too stays, and nothing else is shown as theirs."""

from __future__ import annotations

import pytest

from explorer.ui.controls import Chooser
from explorer.ui.grid import Cell
from tests import fakes
from tests.bench import text_of


def apply(bench, **wanted):
    pane = bench.shown._settings_pane
    for name, value in wanted.items():
        field = getattr(pane, name)
        setattr(field, "index" if hasattr(field, "index") else "value", value)
    pane.apply.click()
    bench.wait()


def measured(bench):
    return list(bench.explorer.measured["intervention"])


@pytest.fixture
def used(on_bench):
    """An explorer in which an epoch, a fresh draw and two layers together have been measured."""
    bench = on_bench()
    bench.tap(0, 0)
    bench.wait()
    bench.tap(-1.3, 1)
    bench.wait()
    bench.tap(1, 0)
    bench.tap(1, 1, held={"shift": False, "ctrl": True, "alt": False})
    bench.wait()
    return bench


EPOCH, JOINT = "first ← epoch 0", "first ← epoch 1, second ← epoch 1"
FRESH = [f"second ← fresh draw {draw}" for draw in range(3)]


@pytest.mark.parametrize("wanted", [{"draws": 5}, {"form": 1}, {"device": "cpu"}])
def test_what_does_not_change_a_number_keeps_all_of_them(used, wanted):
    before = measured(used)
    apply(used, **wanted)
    assert measured(used) == before
    assert {EPOCH, JOINT, *FRESH} <= set(before)
    assert "first, second ← epoch 1" in text_of(used.shown.measured.value)
    assert used.error("first", 0) == 0.42
    drawn = used.explorer.results["rerandomized_error"].loc["second"].values
    assert drawn[:3].tolist() == [0.42] * 3


def test_of_another_seed_what_was_drawn_is_not_shown_and_comes_back_with_it(used):
    before = measured(used)
    apply(used, seed=1)
    assert measured(used) == [one for one in before if "fresh" not in one]
    assert used.error("first", 0) == 0.42
    assert used.explorer.results["rerandomized_error"].isnull().all()
    used.tap(2, 0)
    used.wait()
    used.tap(-1.3, 0)
    used.wait()
    apply(used, seed=0)
    assert measured(used) == [*before, "first ← epoch 5"]
    assert used.error("first", 5) == 0.42
    drawn = used.explorer.results["rerandomized_error"]
    assert drawn.loc["second"].values.tolist() == [0.42] * 3
    assert drawn.loc["first"].values[:2].tolist() == fakes.DRAWS[0].tolist()


@pytest.mark.parametrize("wanted", [{"policy": 1}, {"arithmetic": 1}])
def test_what_another_network_says_is_not_shown_as_of_this_one(used, wanted):
    before = measured(used)
    apply(used, **wanted)
    assert measured(used) == []
    assert used.error("first", 0) != 0.42
    apply(used, **dict.fromkeys(wanted, 0))
    assert measured(used) == before


def test_the_look_stays(used):
    for menu, index in zip(used.shown.shown.menus, (1, 2, 1, 4), strict=True):
        menu.index = index
    used.shown.tabs.selected_index = 5
    before = used.shown
    apply(used, seed=1)
    assert used.shown is not before
    assert used.shown.look == before.look
    assert used.shown.selection.layers == ("first", "second")
    assert used.pictures.strip.layers[0]["verdict"] == before.pictures.strip.layers[0]["verdict"]
    assert used.pictures._second.children[1] is used.pictures._live["Distance against error"]


@pytest.mark.parametrize(("source", "draws"), [("all fresh draws", 0), ("fresh draw 2", 1)])
def test_a_selection_whose_cell_is_gone_is_where_a_reader_begins(on_bench, source, draws):
    bench = on_bench()
    menu = bench.controls.source
    (menu.index,) = [at for name, at in menu.options if name.startswith(source)]
    apply(bench, draws=draws)
    assert bench.shown.selection.active == Cell("first", 0)
    assert bench.alert == ""


# Another stack


@pytest.fixture
def chooser():
    """A menu of two stacks, in which "missing" cannot be opened, and what it asked for."""
    asked = []

    def choose(name):
        asked.append(name)
        if name != "missing":
            made.follow(name)
        return name != "missing"

    made = Chooser(["one", "two"], "one", choose)
    return made, asked


def test_another_stack_that_has_no_name_is_asked_for_in_the_field(chooser, monkeypatch):
    made, asked = chooser
    sent = []
    monkeypatch.setattr(made.path, "send", sent.append)
    made.stack.index = 2
    assert (made.stack.label, asked) == ("one", [])
    assert sent == [{"do": "focus"}]
    made.path.value = "folder"
    assert (made.stack.label, asked) == ("other", ["folder"])


@pytest.mark.parametrize("path", ["folder", "missing"])
def test_a_path_goes_with_the_stack_that_it_was_written_for(chooser, path):
    made, asked = chooser
    made.path.value = path
    assert made.path.value == path
    made.stack.index = 1
    assert made.path.value == ""
    made.path.value = path
    assert asked == [path, "two", path]
