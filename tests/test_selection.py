"""What a choice asks for, and how cells are put together."""

from __future__ import annotations

import pytest

from explorer.engine.interventions import Epoch, FreshDraw, Mixture, Moments, Noise, Skip, Zeros
from explorer.ui.grid import Cell, Grid
from explorer.ui.selection import OTHERS, Choice, Selection, joined, presets, steps
from tests.fakes import GRID


def asked(choice, grid=GRID):
    return [(str(step.intervention), step.draw) for step in steps(choice, grid, seed=7)]


def sources(choice):
    return [step.intervention.changes[0][1] for step in steps(choice, GRID, seed=7)]


def test_a_choice_of_one_cell_says_what_is_evaluated():
    assert asked(Choice((Cell("first", 0),))) == [("first ← epoch 0", None)]
    both = "first ← epoch 1, second ← epoch 1"
    assert asked(Choice((Cell(None, 1),))) == [(both, None)]


def test_fresh_draws_are_evaluated_one_by_one_with_the_seed():
    fresh = (Cell("first", None),)
    every = [("first ← fresh draw 0", 0), ("first ← fresh draw 1", 1)]
    assert asked(Choice(fresh)) == every
    assert asked(Choice(fresh, draw=1)) == every[1:]
    assert sources(Choice(fresh, draw=1)) == [FreshDraw(1, seed=7)]


def test_a_joint_choice_is_one_intervention_in_which_each_layer_keeps_its_own_source():
    choice = Choice((Cell("first", 0), Cell("second", 5)))
    assert asked(choice) == [("first ← epoch 0, second ← epoch 5", None)]
    mixed = Choice((Cell("first", 0), Cell("second", None)))
    assert asked(mixed) == [
        ("first ← epoch 0, second ← fresh draw 0", 0),
        ("first ← epoch 0, second ← fresh draw 1", 1),
    ]


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        ("zeros", [Zeros()]),
        ("skip", [Skip()]),
        ("moments", [Moments(0, 7), Moments(1, 7)]),
        ("noise", [Noise(0.05, 0, 7), Noise(0.05, 1, 7)]),
        ("half", [Mixture(Epoch(0), 0.5)]),
    ],
)
def test_a_source_without_a_column_takes_the_place_of_the_cells_own(other, expected):
    assert sources(Choice((Cell("first", 0),), other=other)) == expected
    assert other in OTHERS


def test_only_a_single_cell_of_the_heatmap_has_a_place_for_its_number():
    one = Cell("first", 0)
    assert Choice((one,)).cell == one
    assert Choice((Cell(None, 5),)).cell == Cell(None, 5)
    assert Choice((one, Cell("second", 0))).cell is None
    assert Choice((one,), other="zeros").cell is None
    assert Choice((Cell(None, None),)).cell is None


@pytest.mark.parametrize(
    ("choice", "words"),
    [
        (Choice((Cell("first", 0),)), "first ← epoch 0"),
        (Choice((Cell("first", None),), draw=1), "first ← fresh draw 1"),
        (Choice((Cell(None, 3, "step"),)), "fullmodel ← step 3"),
        (Choice((Cell("first", 0), Cell("second", 0))), "first, second ← epoch 0"),
        (
            Choice((Cell("first", 0), Cell("second", None))),
            "first ← epoch 0, second ← fresh draws",
        ),
        (Choice((Cell("first", 0),), other="zeros"), "first ← zeros"),
        (Choice((Cell("first", 0),), other="half"), "first ← half-way to epoch 0"),
        (Choice(tuple(Cell(f"l{at}", 0) for at in range(9))), "l0, l1 and 7 more ← epoch 0"),
    ],
)
def test_a_choice_is_said_in_words(choice, words):
    assert str(choice) == words


# Putting cells together


def test_a_click_selects_one_cell_and_a_click_with_a_key_adds_to_it():
    alone = Selection(Cell("second", 5)).clicked(Cell("second", 0), GRID, adds=False)
    assert alone == Selection(Cell("second", 0))
    both = alone.clicked(Cell("first", 1), GRID, adds=True)
    assert both.choice.cells == (Cell("first", 1), Cell("second", 0))
    assert both.active == Cell("first", 1)
    assert both.clicked(Cell("first", 0), GRID, adds=False) == Selection(Cell("first", 0))


def test_a_layer_is_put_back_to_one_epoch_at_a_time():
    both = Selection(Cell("second", 0), (Cell("first", 1), Cell("second", 0)))
    moved = both.clicked(Cell("second", 5), GRID, adds=True)
    assert moved.cells == (Cell("first", 1), Cell("second", 5))
    without = moved.clicked(Cell("second", 5), GRID, adds=True)
    assert without.cells == (Cell("first", 1),)
    assert without.toggled(Cell("first", 1), GRID).cells == ()


def test_the_whole_network_is_never_joined_with_a_part_of_it():
    both = Selection(Cell("second", 0), (Cell("first", 1), Cell("second", 0)))
    whole = both.clicked(Cell(None, 1), GRID, adds=True)
    assert whole == Selection(Cell(None, 1))
    assert whole.clicked(Cell("first", 0), GRID, adds=True).choice.cells == (Cell("first", 0),)


def test_another_source_holds_for_every_chosen_layer():
    both = Selection(Cell("second", 0), (Cell("first", 1), Cell("second", 0)))
    assert both.put_to(5, None, None).choice.cells == (Cell("first", 5), Cell("second", 5))
    assert both.put_to(0, None, "zeros").choice.other == "zeros"
    assert both.put_to(None, 1, None).choice.draw == 1


def test_joined_layers_stand_in_the_order_of_the_network():
    assert joined(("second", "first"), 1, GRID).cells == (Cell("first", 1), Cell("second", 1))
    assert joined((), 1, GRID) == Selection(Cell("first", 1))


def test_presets_are_those_of_the_paper_and_leave_out_what_is_no_joint_intervention():
    layers = ("stage1.a", "stage1.b", "stage2.a", "head")
    words = {"stage1.a": "critical", "stage1.b": "robust", "stage2.a": "robust", "head": "mixed"}
    assert presets(layers, words) == {
        "all but the first": ("stage1.b", "stage2.a", "head"),
        "all but the last": ("stage1.a", "stage1.b", "stage2.a"),
        "every other layer": ("stage1.b", "head"),
        "all robust layers": ("stage1.b", "stage2.a"),
        "all of stage1": ("stage1.a", "stage1.b"),
    }
    assert presets(("one",), {}) == {}


def test_choices_count_draws_by_the_grid():
    without = Grid(("first",), (0,), 0)
    assert asked(Choice((Cell("first", None),)), without) == [("first ← fresh draw 0", 0)]
