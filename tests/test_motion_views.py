"""Motion as the reader sees it: curves, points beside the error, and the command."""

from __future__ import annotations

import pytest
import xarray as xr
from bokeh.models import Column, Line, Scatter

import explorer as lx
from explorer.cli import main
from explorer.colours import contrast
from explorer.ui.motion_figure import (
    CURVE_COLOURS,
    WORDS,
    error_figure,
    motion_figure,
    rotation_figure,
)


@pytest.fixture(scope="module")
def found(bundled):
    return lx.motion(bundled, sweep=lx.open_sweep("fcn3x256-digits"), progress=False)


def test_every_layer_has_a_curve_that_can_be_told_from_the_others(found):
    plot = rotation_figure(found)
    lines = [r for r in plot.renderers if isinstance(r.glyph, Line)]
    assert [list(r.data_source.data["y"]) for r in lines] == found["rotation"].values.tolist()
    many = lx.motion(lx.open_stack("vit-digits"), progress=False)
    lines = [r.glyph for r in motion_figure(many).renderers if isinstance(r.glyph, Line)]
    assert (
        len({(line.line_color, line.line_dash[0] if line.line_dash else 0) for line in lines}) == 14
    )
    assert "layer4 .293" in plot.html_attributes["aria-label"]


def test_every_curve_stands_out_from_a_white_page_and_from_a_dark_one():
    assert len(set(CURVE_COLOURS)) == 8
    assert min(contrast(one, page) for one in CURVE_COLOURS for page in ("#ffffff", "#111111")) >= 3


@pytest.mark.parametrize("quantity", WORDS)
def test_every_quantity_can_be_set_beside_the_error(found, quantity):
    plot = error_figure(found, quantity)
    (points,) = (r.data_source.data for r in plot.renderers if isinstance(r.glyph, Scatter))
    assert list(points["where"]) == ["layer1", "layer2", "layer3", "layer4"]
    assert list(points["x"]) == found["moved"].sel(quantity=quantity).values.tolist()
    assert "over 4 layers, 95 % interval" in " ".join(plot.title.text.split())


def test_with_a_sweep_both_pictures_are_shown(found):
    assert isinstance(motion_figure(found), Column)


def test_the_command_prints_curves_and_what_they_say_of_the_error(tmp_path, capsys):
    out, picture = tmp_path / "m.nc", tmp_path / "m.html"
    files = ["--out", str(out), "--picture", str(picture)]
    assert main(["motion", "fcn3x256-digits", "--sweep", "fcn3x256-digits", *files]) == 0
    said = capsys.readouterr().out
    assert "1 − cos(θ, θ_start)" in said
    assert said.count("Rank correlation with the error") == 5
    with xr.open_dataset(out, engine="h5netcdf") as again:
        assert again["rotation"].sel(epoch=100).idxmax().item() == "layer4"
    assert "aria-label" in picture.read_text(encoding="utf-8")
    assert main(["motion", "fcn3x256-digits", "--show", "stable_rank"]) == 0
    assert "layer2.weight" in capsys.readouterr().out
