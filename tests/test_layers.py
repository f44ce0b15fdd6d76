"""How tensors are divided into layers."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from explorer.errors import StackError
from explorer.weights.layers import fan_in, group_layers, short_names

NAMES = ("stem.weight", "block.0.conv.weight", "block.0.norm.running_mean", "scale")
PART = st.text("abc01", min_size=1, max_size=3)


def test_fine_layers_are_the_modules_that_own_tensors():
    assert group_layers(NAMES, "fine") == {
        "stem": ("stem.weight",),
        "block.0.conv": ("block.0.conv.weight",),
        "block.0.norm": ("block.0.norm.running_mean",),
        "(root)": ("scale",),
    }


def test_paper_layers_are_the_familys_units():
    assert group_layers(("a.w",), "paper", {"unit": ("a.w",)}) == {"unit": ("a.w",)}
    assert group_layers(("a.w",), None, {"unit": ("a.w",)}) == {"unit": ("a.w",)}


def test_another_scheme_goes_before_the_familys_units():
    assert group_layers(("a.w",), "fine", {"unit": ("a.w",)}) == {"a": ("a.w",)}


def test_paper_layers_of_an_unknown_family_are_refused():
    with pytest.raises(StackError, match=r"layers='paper'(.|\n)*'fine', patterns"):
        group_layers(NAMES, "paper")


def test_the_text_that_a_pattern_matches_names_the_layer():
    assert list(group_layers(NAMES, [r"^block\.\d+", r"^\w+"])) == ["stem", "block.0", "scale"]


def test_a_mapping_gives_patterns_names_and_the_first_match_wins():
    groups = group_layers(NAMES, {"blocks": r"block", "rest": r".*"})
    assert groups == {"rest": ("stem.weight", "scale"), "blocks": NAMES[1:3]}


def test_a_function_names_the_layer():
    assert list(group_layers(NAMES, lambda name: name[0])) == ["s", "b"]


@pytest.mark.parametrize(
    ("scheme", "match"),
    [
        ([r"block"], r"No pattern of the layer scheme matches the tensor 'stem.weight'"),
        ("coarse", r"The layer scheme is 'coarse'"),
        (lambda name: "a/b", r"A layer is named 'a/b'"),
        (lambda name: "", r"A layer is named ''"),
        (5, r"The layer scheme is 5\."),
        ([b"stem"], r"holds b'stem' in the place of a regular expression(.|\n)*Write it as text"),
        ([re.compile(b"stem")], r"in the place of a regular expression"),
        ({"a": None}, r"holds None in the place of a regular expression"),
        ({"a": ["b.w", "scale"]}, r"holds \['b\.w', 'scale'\](.|\n)*names by \|: 'b\\\\.w\|scale'"),
    ],
)
def test_a_scheme_that_does_not_work_is_refused(scheme, match):
    with pytest.raises(StackError, match=match):
        group_layers(NAMES, scheme)


@given(st.lists(st.lists(PART, min_size=1, max_size=4).map(".".join), min_size=1, unique=True))
def test_every_tensor_is_in_exactly_one_fine_layer(names):
    groups = group_layers(names, "fine")
    assert sorted(n for members in groups.values() for n in members) == sorted(names)


@given(st.lists(st.lists(PART, min_size=1, max_size=4).map(".".join), min_size=1, unique=True))
def test_short_names_stay_different(names):
    short = short_names(names)
    assert len(set(short.values())) == len(names)
    assert all(full.endswith(part) for full, part in short.items())


def test_a_bias_has_the_fan_in_of_its_matrix_and_a_scale_has_one():
    shapes = {"c.weight": (8, 3, 5, 5), "c.bias": (8,), "n.weight": (8,), "n.bias": (8,)}
    assert [fan_in(n, shapes) for n in shapes] == [75, 75, 1, 1]
