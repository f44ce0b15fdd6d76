"""Outputs as the reader sees them: heatmap and command."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from bokeh.models import Rect

import explorer as lx
from explorer.cli import main
from explorer.ui.outputs_figure import SHOWN, outputs_figure


@pytest.fixture(scope="module")
def found(bundled):
    return lx.outputs(bundled, epochs=[0, 100], draws=1, device="cpu", progress=False)


def cells_of(plot):
    cells = next(r.data_source for r in plot.renderers if isinstance(r.glyph, Rect))
    return cells.data


@pytest.mark.parametrize("quantity", SHOWN)
def test_every_quantity_is_a_heatmap_in_which_the_trained_network_is_white(found, quantity):
    plot = outputs_figure(found, quantity)
    cells = cells_of(plot)
    assert len(cells["x"]) == 4 * 3
    trained = cells["fill"][cells["where"].index("layer1 ← epoch 100")]
    patched = cells["fill"][cells["where"].index("layer1 ← epoch 0")]
    assert trained != patched
    if quantity != "ece":
        assert trained == "#ffffff"
    assert SHOWN[quantity].words in plot.html_attributes["aria-label"]


def test_a_cell_without_a_number_is_hatched_and_says_why(found):
    broken = found.copy(deep=True)
    broken["cka"].values[0, 0] = np.nan
    broken["reason"].values[0, 0] = "out of memory"
    cells = cells_of(outputs_figure(broken, "cka"))
    at = cells["where"].index("layer1 ← epoch 0")
    assert (cells["hatch"][at], cells["tip"][at]) == ("/", "out of memory")


def test_the_command_prints_one_quantity_and_writes_all(tmp_path, capsys):
    out, picture = tmp_path / "o.nc", tmp_path / "o.html"
    wanted = ["--epochs", "0", "100", "--draws", "1", "--show", "cka", "--device", "cpu"]
    files = ["--out", str(out), "--picture", str(picture)]
    assert main(["outputs", "fcn3x256-digits", *wanted, *files]) == 0
    said = capsys.readouterr().out
    assert "linear CKA of the logits" in said
    assert "ReRnd" in said
    with xr.open_dataset(out, engine="h5netcdf") as again:
        assert float(again["softmax_cosine"].sel(layer="layer3", epoch=100)) == pytest.approx(1)
    assert "aria-label" in picture.read_text(encoding="utf-8")
