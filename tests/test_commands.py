"""The commands of `explorer/commands`: what they print, write and exit with."""

from __future__ import annotations

import pytest
import xarray as xr

from explorer.cli import main
from explorer.engine.evaluator import Evaluator

QUICK = ["fcn3x256-digits", "--layers", "layer4", "--device", "cpu", "--quiet"]


def test_criticality_prints_a_table_and_writes_the_data(capsys, tmp_path):
    out = tmp_path / "valley.nc"
    arguments = ["--alphas", "0.5", "1", "--sigmas", "0", "0.01", "0.1", "--draws", "2"]
    assert main(["criticality", *QUICK, *arguments, "--out", str(out)]) == 0
    text = capsys.readouterr().out
    with xr.open_dataset(out, engine="h5netcdf") as found:
        assert f"{found['criticality'].item():.4g}" in text
        assert found["sigma"].values.tolist() == [0, 0.01, 0.1]
    assert "μ from epoch 0 to 100" in text
    assert "1.01 times the final; 2 draws" in text
    assert f"Data: {out}" in text


def test_criticality_says_why_there_is_no_number(capsys):
    assert main(["criticality", *QUICK, "--alphas", "1", "--sigmas", "5", "--draws", "1"]) == 0
    assert "layer4: no point of the grid is good enough" in capsys.readouterr().out


def test_paths_prints_the_barriers_of_every_kind_and_writes_the_data(capsys, tmp_path):
    out = tmp_path / "paths.nc"
    arguments = ["--epochs", "0", "8", "--shares", "0.5", "--start", "40", "--cumulative"]
    assert main(["paths", *QUICK, *arguments, "--quantity", "loss", "--out", str(out)]) == 0
    text = capsys.readouterr().out
    for words in ("one layer moves", "all up to it", "all from it on", "whole network"):
        assert f"\n{words}:\n" in text
    with xr.open_dataset(out, engine="h5netcdf") as found:
        height = found["upto_loss_barrier"].sel(layer="layer4", epoch=0).item()
        assert found.attrs["start"] == 40
    assert f"{height:.4f}" in text
    assert "from epoch 40 to fcn3x256-digits" in text


def test_paths_between_two_runs_begin_at_the_epoch_where_they_end(capsys):
    arguments = ["--other", "fcn3x256-digits", "--start", "same", "--epochs", "8"]
    assert main(["paths", *QUICK, *arguments, "--shares", "0.5"]) == 0
    assert "from the same epoch to" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["criticality", "paths"])
def test_after_ctrl_c_what_is_known_is_printed_and_the_status_says_so(command, capsys, monkeypatch):
    original, calls = Evaluator.count, []

    def stopped(self, replacements, *arguments, **options):
        calls.append(len(replacements))
        if sum(calls) > 1:  # the intact network alone is still counted
            raise KeyboardInterrupt
        return original(self, replacements, *arguments, **options)

    monkeypatch.setattr(Evaluator, "count", stopped)
    assert main([command, *QUICK]) == 130
    assert "FCN 3×256" in capsys.readouterr().out


def test_a_start_that_is_no_number_is_refused(capsys):
    assert main(["paths", *QUICK, "--start", "soon"]) == 2
    assert "The start is 'soon'" in capsys.readouterr().err
