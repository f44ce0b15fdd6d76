"""What each panel asks and hands to its figures and table: pure functions, nothing is measured."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import xarray as xr

from explorer.ui import across_page, across_panel, panels
from explorer.ui.grid import Grid
from explorer.ui.panel import Asked, Shown, code_of

PANELS = {panel.kind: panel for panel in panels.PANELS}

ASKED = Asked(Grid(("first", "second"), (0, 1, 2), 3), share=0.2, draws=3, seed=0, stack="own")


def asked(**changes):
    return Asked(**{**vars(ASKED), **changes})


@pytest.mark.parametrize(
    ("kind", "about", "chosen", "wanted"),
    [
        ("effective", ASKED, [0], {"threshold": 0.2}),
        ("effective", ASKED, [1], {"threshold": 0.2, "epoch": 1}),
        ("effective", asked(seed=4), [None], {"threshold": 0.2, "draws": 1, "seed": 4}),
        ("criticality", ASKED, [0, 1.01, False], {}),
        ("criticality", ASKED, [1, 1.5, True], {"epoch": 1, "factor": 1.5, "every_cell": True}),
        ("criticality", asked(seed=4), [0, 1.01, False], {"seed": 4}),
        ("paths", ASKED, [11, None, "", False], {}),
        ("paths", ASKED, [5, 0, "", True], {"shares": 5, "start": 0, "cumulative": True}),
        ("paths", ASKED, [11, "same", "", False], {"start": "same"}),
        ("motion", asked(seed=4), [], {}),
        ("outputs", asked(draws=0, seed=4), [], {}),
        ("outputs", ASKED, [], {"draws": 3}),
        ("outputs", asked(seed=4), [], {"draws": 3, "seed": 4}),
        ("across", ASKED, [["vgg"]], {"stacks": ("vgg",), "threshold": 0.2}),
        (
            "across",
            asked(draws=1, seed=4),
            [[]],
            {"stacks": (), "threshold": 0.2, "draws": 1, "seed": 4},
        ),
    ],
)
def test_what_is_chosen_becomes_arguments_but_for_what_is_so_by_default(
    kind, about, chosen, wanted
):
    assert PANELS[kind].arguments(about, chosen) == wanted


def test_the_code_of_a_panel_says_its_arguments_and_how_the_network_is_run():
    code = code_of(PANELS["paths"], {"shares": 5, "start": 0}, "'own'", ", device='cpu'")
    assert "stack = lx.open_stack('own')" in code
    assert "found = lx.paths(stack, shares=5, start=0, device='cpu')" in code


def nothing(layers=("first", "second"), epochs=(0, 1, 2)):
    """A result that says only what it is about."""
    return xr.Dataset(coords={"layer": list(layers), "epoch": list(epochs)})


@pytest.fixture
def drawn(monkeypatch):
    """What is handed to a figure or table instead of it: name, what stands behind the result."""
    calls = []

    def note(where, name):
        def made(_found, *arguments):
            calls.append((name, *arguments))
            return name

        monkeypatch.setattr(where, name, made)

    for name in vars(panels):
        if name.endswith("_figure"):
            note(panels, name)
    for name in vars(panels.tables):
        if name.endswith("_table") and not name.startswith("_"):
            note(panels.tables, name)
    return calls


def shown(kind, by, layer="second", epoch=1, found=None):
    return PANELS[kind], Shown(nothing() if found is None else found, by, layer, epoch)


@pytest.mark.parametrize(
    ("kind", "by", "figures", "table"),
    [
        ("effective", None, [("effective_figure", "second")], ("effective_table",)),
        (
            "criticality",
            "error",
            [("criticality_figure", "second"), ("valley_figure", "second", "error")],
            ("criticality_table",),
        ),
        (
            "paths",
            "upto_loss",
            [
                ("barrier_figure", "loss", "second", "upto_"),
                ("path_figure", 1, "second", "loss", "upto_"),
            ],
            ("barrier_table", "loss", "upto_"),
        ),
        (
            "motion",
            "spectral_norm",
            [
                ("curves_figure", "spectral_norm", "second"),
                ("error_figure", panels.CURVES["spectral_norm"].beside, "second"),
            ],
            ("motion_table", "spectral_norm"),
        ),
        (
            "outputs",
            "cka",
            [("outputs_figure", "cka", "second")],
            ("outputs_table", "cka", "second", 1),
        ),
    ],
)
def test_figures_and_table_show_what_is_selected_and_chosen(drawn, kind, by, figures, table):
    panel, what = shown(kind, by)
    assert len(panel.figures(what)) == len(panel.names(what.found)) == len(figures)
    assert drawn == figures
    drawn.clear()
    panel.table(what)
    assert drawn == [table]


def test_of_a_layer_or_checkpoint_that_is_not_there_the_first_is_shown(drawn):
    panel, what = shown("criticality", "loss", layer="elsewhere")
    panel.figures(what)
    assert drawn[1] == ("valley_figure", "first", "loss")
    drawn.clear()
    panel, what = shown("paths", "error", layer="", epoch=7)
    panel.figures(what)
    assert drawn[1] == ("path_figure", 0, None, "error", "")


def test_the_menu_of_outputs_offers_what_was_found():
    offered = PANELS["outputs"].show
    assert list(offered(nothing().assign(cka=0.5)).entries.values()) == ["cka"]
    assert len(offered(None).entries) == 6


def test_the_rule_below_a_comparison_is_escaped(monkeypatch):
    """It names stacks, and these are named by files."""
    monkeypatch.setattr(across_page, "comparison_html", lambda _found: "")
    monkeypatch.setattr(across_page, "comparison_rule", lambda _found: "<i>margins</i>")
    table = PANELS["across"].table(Shown(SimpleNamespace(), None, "", 0))
    assert "&lt;i&gt;margins" in table
    assert "<i>" not in table


def test_the_code_of_a_comparison_names_the_stacks_and_says_the_arguments():
    arguments = {"stacks": ("vgg11-digits",), "threshold": 0.2}
    code = across_panel.code_of_comparison(
        arguments, "fcn3x256-digits", "'fcn3x256-digits'", ", device='cpu'"
    )
    listed = "['fcn3x256-digits', 'vgg11-digits']"
    assert f"found = lx.compare({listed}, threshold=0.2, device='cpu')" in code
