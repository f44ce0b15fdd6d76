"""Effective parameters as the reader sees them: curve and command."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from bokeh.models import Scatter

import explorer as lx
from explorer.cli import main
from explorer.ui.effective_figure import LOOKS, _left_is_freer, effective_figure


def test_the_curve_has_every_set_and_marks_the_best(bundled):
    found = lx.effective_parameters(bundled, device="cpu", progress=False)
    plot = effective_figure(found)
    points = [r.data_source.data for r in plot.renderers if isinstance(r.glyph, Scatter)]
    *curves, best = points
    assert sum(len(one["x"]) for one in curves) == found.sizes["step"]
    assert list(best["x"]) == [found["effective_parameters"].item()]
    assert list(best["y"]) == [found["joint_error"].item()]
    assert curves[0]["tip"][1].startswith("also reset: layer3\n1 layer reset together")
    assert "269,322 of 335,114" in " ".join(plot.title.text.split())
    assert "269,322 of 335,114" in plot.html_attributes["aria-label"]


@pytest.mark.parametrize(
    ("left", "errors", "at_left"),
    [
        ([0, 50, 100], [0.9, 0.5, 0.1], True),
        ([10, 100], [0.12, 0.03], False),
        ([0, 100], [np.nan, 0.1], True),  # what could not be measured is not drawn
    ],
)
def test_the_allowed_error_is_written_where_the_curves_are_further_from_it(left, errors, at_left):
    steps = xr.Dataset({"parameters_left": ("step", left), "trial_error": ("step", errors)})
    assert _left_is_freer(steps, 100, 0.11) == at_left


def test_directions_can_be_told_apart_without_colours():
    assert len({look[1:3] for look in LOOKS.values()}) == len(LOOKS)


def test_the_command_says_what_is_needed_and_that_robust_alone_is_not_robust_together(
    tmp_path, capsys
):
    out, picture = tmp_path / "e.nc", tmp_path / "e.html"
    wanted = ["--margin", "0.1", "--device", "cpu", "--out", str(out), "--picture", str(picture)]
    assert main(["effective", "fcn3x256-digits", *wanted]) == 0
    said = capsys.readouterr().out
    assert "269,322 of 335,114 parameters (80.4%) are needed" in said
    assert "within alone: layer3, layer4" in said
    assert "all of these together, error 33.9%" in said
    with xr.open_dataset(out, engine="h5netcdf") as again:
        assert again["effective_parameters"].item() == 269_322
    assert "aria-label" in picture.read_text(encoding="utf-8")
