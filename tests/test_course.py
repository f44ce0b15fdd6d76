"""Checks of the course's exercises: right answers pass, typical wrong ones get their own words."""

from __future__ import annotations

import copy
import functools
import math
import re
from pathlib import Path
from unittest import mock

import nbformat
import numpy as np
import pytest
import torch

import explorer as lx
from explorer.course.exercises import EXERCISES, MEASURES, check
from explorer.course.practice import (
    EPOCHS,
    misfiled_run,
    practice_epochs,
    practice_network,
    recorded_run,
)
from explorer.errors import UnknownNameError

NOTEBOOK = Path(__file__).parents[1] / "notebooks" / "06-exercises.ipynb"


def solutions():
    """The code of each solution in the notebook, in order."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    folded = r"<details>\n<summary>Solution</summary>\n\n```python\n(.*?)```"
    return [code for cell in notebook.cells for code in re.findall(folded, cell.source, re.DOTALL)]


@pytest.fixture(scope="module")
def answers():
    """The answer to each exercise, as the solutions of the notebook give it."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    code = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    names: dict[str, object] = {}
    for asked, solved in zip(code, ["", *solutions()], strict=True):
        exec(asked, names)
        exec(solved, names)
    return {n: names["states" if n == 8 else f"answer_{n}"] for n in EXERCISES}


@pytest.mark.parametrize("number", EXERCISES)
def test_the_solution_in_the_notebook_is_right_and_says_what_it_shows(answers, number):
    feedback = check(number, answers[number])
    assert feedback.right, feedback
    assert repr(feedback).startswith("Right. ")
    assert len(feedback.says.split()) >= 8


ODD = [
    ...,
    None,
    True,
    np.True_,
    "",
    "layer1",
    [],
    {},
    object(),
    (one for one in [1]),
    math.nan,
    math.inf,
    -1,
    mock.ANY,
    [mock.ANY],
    [mock.ANY] * 6,
    {measure: mock.ANY for measure in MEASURES},
    dict.fromkeys(MEASURES),
    np.zeros((2, 2)),
    [{"0.weight": 1}],
    [{}],
]


@pytest.mark.parametrize("number", EXERCISES)
def test_nothing_odd_passes_and_each_gets_a_sentence(number):
    for odd in ODD:
        feedback = check(number, odd)
        assert not feedback.right, odd
        assert feedback.says.endswith((".", "?")), odd


@pytest.mark.parametrize("number", EXERCISES)
def test_the_right_answer_to_one_exercise_is_wrong_in_every_other(answers, number):
    for other, answer in answers.items():
        assert check(number, answer).right == (other == number), other


open_sweep = functools.cache(lx.open_sweep)


def error_of(stack, **where):
    return open_sweep(stack)["error"].sel(where).values


FCN, VGG, BN = "fcn3x256-digits", "vgg11-digits", "resnet18bn-digits"
RESNET, MIXER = "resnet18-digits", "mixer-digits"


def attrs(stack):
    found = open_sweep(stack).attrs
    return found["final_error"], found["chance_error"]


def layers(stack, condition=lambda sweep: sweep["error"].isel(epoch=0) >= 0):
    sweep = open_sweep(stack)
    return list(sweep["layer"].values[condition(sweep).values])


SLIPS = {
    "some number": (1, lambda: 0.5, "not in the row or the column"),
    "some other number": (2, lambda: 0.5, "Begin at final_error"),
    "one of five": (5, lambda: ["embedding"], "Two conditions"),
    "percent": (1, lambda: 100 * error_of(FCN, layer="layer1", epoch=8), "a fraction here"),
    "two decimals": (1, lambda: 0.19, "three decimal places"),
    "all layers": (1, lambda: open_sweep(FCN)["fullmodel_error"].sel(epoch=8), "fullmodel"),
    "another layer": (1, lambda: error_of(FCN, layer="layer3", epoch=8), "another layer"),
    "another epoch": (1, lambda: error_of(FCN, layer="layer1", epoch=3), "another epoch"),
    "the accuracy": (1, lambda: 1 - error_of(FCN, layer="layer1", epoch=8), "right answers"),
    "the loss": (
        1,
        lambda: open_sweep(FCN)["loss"].sel(layer="layer1", epoch=8),
        "That is the loss",
    ),
    "a row": (1, lambda: error_of(FCN, layer="layer1"), "these are 8. Choose one"),
    "quoted": (1, lambda: "0.191", "quotation marks"),
    "a tenth": (2, lambda: 0.1, "A tenth of which way"),
    "from 0": (2, lambda: 0.1 * attrs(VGG)[1], "does not begin at 0"),
    "the length": (2, lambda: 0.1 * (attrs(VGG)[1] - attrs(VGG)[0]), "Where does it begin"),
    "to 1": (2, lambda: attrs(VGG)[0] + 0.1 * (1 - attrs(VGG)[0]), "does not end at 1"),
    "the absolute": (
        3,
        lambda: layers(BN, lambda s: s["error"].sel(epoch=0) > 0.4),
        "begins at the trained error",
    ),
    "the old threshold": (
        3,
        lambda: layers(BN, lambda s: s["error"].sel(epoch=0) > 0.0908),
        "at a tenth of the way",
    ),
    "the others": (
        3,
        lambda: layers(BN, lambda s: s["error"].sel(epoch=0) < 0.353),
        "Those are the",
    ),
    "one too few": (
        3,
        lambda: layers(BN, lambda s: s["error"].sel(epoch=0) > 0.42),
        "At least a name is missing. Compare",
    ),
    "all": (3, lambda: layers(BN), "At least a name does not belong."),
    "a misspelt name": (3, lambda: ["stage0", "stage1.block1"], "There is no 'stage1.block1'"),
    "a mask": (3, lambda: error_of(BN, epoch=0) > 0.353, "list(layers[holds])"),
    "one name": (3, lambda: "stage0", "also a single one: ['stage0']"),
    "good for one epoch": (4, lambda: 5, "not at the next one"),
    "good for long": (4, lambda: 60, "for a while"),
    "too early": (4, lambda: 0, "still above"),
    "no checkpoint": (4, lambda: 7, "No checkpoint was kept"),
    "all that fresh values destroy": (
        5,
        lambda: layers(MIXER, lambda s: s["rerandomized_error"].mean("draw") > 0.1018),
        "do not stand their own",
    ),
    "one condition": (
        5,
        lambda: layers(MIXER, lambda s: s["error"].sel(epoch=0) < 0.1018),
        "Some of them stand fresh",
    ),
    "the largest error": (
        6,
        lambda: dict.fromkeys(MEASURES, "stage2.block1"),
        "2 of 3 are wrong",
    ),
    "no dict": (6, lambda: "stage2.block1", "A dict is needed here"),
    "half done": (6, lambda: {"l2": "stage3.block2", "l2_per_sqrt_m": ...}, "'l2_per_sqrt_m'"),
    "the sum": (7, lambda: sum(error_of(FCN, layer=["layer3", "layer4"], epoch=0)), "sum of both"),
    "the larger": (7, lambda: error_of(FCN, layer="layer4", epoch=0), "one of the two alone"),
    "an estimate": (7, lambda: last("layer3", "layer4"), "attribute .error"),
    "the generator": (
        7,
        lambda: lx.evaluate(lx.open_stack(FCN), lx.reinitialise("layer3", 0)),
        "list(…)[-1]",
    ),
    "the wrong pair": (7, lambda: last("layer2", "layer4").error, "Give both names"),
    "aliases": (8, lambda: recorded(lambda net: net.state_dict()), "goes on changing them"),
    "shallow copies": (8, lambda: recorded(lambda net: net.state_dict().copy()), "copied too"),
    "no start": (8, lambda: recorded_run()[1:], "The start is missing"),
    "half a run": (8, lambda: recorded_run()[:3], "There are 3 entries"),
    "trained twice": (8, lambda: recorded_twice(), "Make a new network"),
    "out of order": (8, lambda: shuffled(), "Entry 2 is not the network after epoch 2"),
    "another network": (8, lambda: [torch.nn.Linear(2, 2).state_dict()], "names or shapes differ"),
    "not a list": (8, lambda: recorded_run()[0], "A list of state dicts"),
    "its twin": (9, lambda: 40, "it is one of the two that are equal"),
    "the end": (9, lambda: 100, "Neither the start nor the end"),
    "any other": (9, lambda: 8, "lx.check says which"),
    "mixed": (10, lambda: ["stage1.resblk1"], "Mixed is a verdict"),
    "one of them": (10, lambda: ["stage3.resblk2"], "At least a name is missing."),
}
"""What somebody did → exercise, answer, part of what is said."""


def last(*names):
    return list(lx.evaluate(lx.open_stack(FCN), lx.reinitialise(names, 0), device="cpu"))[-1]


def recorded(record):
    network = practice_network()
    return [record(network), *(record(network) for _ in practice_epochs(network))]


def recorded_twice():
    network = practice_network()
    list(practice_epochs(network))
    states = [copy.deepcopy(network.state_dict())]
    return states + [copy.deepcopy(network.state_dict()) for _ in practice_epochs(network)]


def shuffled():
    states = recorded_run()
    states[2], states[3] = states[3], states[2]
    return states


GIVEN_AWAY = {1: r"\b0?\.19", 2: r"\b0?\.10[56]", 4: r"\b15\b", 7: r"\b0?\.33", 9: r"epoch 3\b"}
"""Exercise with a number → how its answer would stand in a sentence."""


@pytest.mark.parametrize("slip", SLIPS)
def test_a_typical_wrong_answer_is_told_what_is_off_and_not_what_is_right(slip, answers):
    number, answer, said = SLIPS[slip]
    feedback = check(number, answer())
    assert not feedback.right
    assert said.casefold() in feedback.says.casefold()
    assert not re.search(GIVEN_AWAY.get(number, "no such text"), feedback.says)
    if number in (3, 5, 6, 10):  # all names that there are tell nothing, nor does the reader's own
        expected = answers[number].values() if number == 6 else answers[number]
        assert sum(name in feedback.says for name in expected) <= 1 or "The names are" in (
            feedback.says
        )


def test_every_exercise_has_typical_wrong_answers():
    assert {number for number, _, _ in SLIPS.values()} == set(EXERCISES)
    assert len(SLIPS) >= 40


def test_feedback_in_a_notebook_says_the_same_in_words_and_escapes_them():
    shown = check(3, ["<b>x</b>"])._repr_html_()
    assert "<b>Not yet.</b>" in shown
    assert 'role="status"' in shown
    assert "&lt;b&gt;x&lt;/b&gt;" in shown


def test_an_exercise_that_does_not_exist_is_named_with_those_that_do():
    with pytest.raises(UnknownNameError, match=r"no exercise 11(.|\n)*1, 2, 3"):
        check(11, 0)


def test_the_practice_network_and_its_training_are_the_same_each_time_and_leave_no_trace():
    before = torch.get_rng_state()
    one, other = recorded_run(), recorded_run()
    assert torch.equal(before, torch.get_rng_state())
    assert len(one) == EPOCHS + 1
    for mine, yours in zip(one, other, strict=True):
        assert all(torch.allclose(mine[name], yours[name], atol=1e-6) for name in mine)


def test_the_misfiled_run_is_one_that_the_doctor_finds_fault_with():
    found = lx.check(misfiled_run(), progress=False)
    (error,) = found.at_least("error")
    assert "3, 40" in str(found)
    assert error.check == "duplicates"
