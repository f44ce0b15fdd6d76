"""The explorer of a network that has one checkpoint, the trained one."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import explorer as lx
from explorer.ui.grid import Cell, Grid, unit_of
from explorer.ui.relations import verdict_words
from explorer.ui.wording import error_legend, how_to, size_of
from tests import fakes
from tests.bench import text_of


def trained():
    return fakes.stack(content_hash="", unit="checkpoint").isel(epoch=[2])


def options(menu):
    return [name for name, _ in menu.options]


def test_the_only_column_besides_the_fresh_draws_is_called_trained(on_bench):
    bench = on_bench(stack=trained())
    assert list(bench.session.grid.source_labels.values()) == ["ReRnd", "trained"]
    assert "epoch" not in " ".join(bench.pictures.errors._cells.data["where"])
    assert "second ← trained" in bench.pictures.errors._cells.data["where"]
    assert options(bench.controls.source)[:5] == [
        "all fresh draws (ReRnd)",
        "fresh draw 0",
        "fresh draw 1",
        "fresh draw 2",
        "trained",
    ]
    assert bench.controls.source.label == "all fresh draws (ReRnd)"  # where a reader begins
    assert "choose a layer and fresh draws" in bench.status


def test_a_click_on_fresh_draws_and_one_on_the_trained_layer_are_measured(on_bench):
    bench = on_bench(stack=trained())
    bench.tap(-1.3, 1)
    bench.wait()
    assert bench.evaluator.asked[-3:] == [f"second ← fresh draw {draw}" for draw in range(3)]
    assert bench.status.startswith("second ← fresh draws: mean test error 42.0 %")
    bench.tap(0, 0)
    bench.wait()
    assert bench.evaluator.asked[-1] == "first ← epoch 5"
    assert bench.status.startswith("first ← trained: test error 42.0 %")
    assert bench.alert == ""


@pytest.mark.parametrize(
    ("source", "asked"),
    [
        ("trained mean and spread", "second ← trained moments, draw 2"),
        ("zeros", "second ← zeros"),
        ("skipped (identity)", "second ← skipped"),
    ],
)
def test_sources_without_a_column_work_as_ever(on_bench, source, asked):
    bench = on_bench(stack=trained())
    bench.controls.layer.index = 1
    bench.controls.source.index = options(bench.controls.source).index(source)
    bench.controls.compute.click()
    bench.wait()
    assert bench.evaluator.asked[-1] == asked
    assert bench.alert == ""


def test_the_profile_says_that_there_is_one_checkpoint(on_bench):
    bench = on_bench(stack=trained())
    bench.tap(-1.3, 1)
    bench.wait()
    title = bench.pictures.profile.figure.title.text.replace(" \n", " ")
    assert title == "second\nOne checkpoint, the trained network: compare it with fresh draws."
    assert "no earlier one" in text_of(bench.shown.heading.value)


def test_a_sweep_of_it_measures_the_draws_and_calls_no_layer_robust(on_bench):
    bench = on_bench(stack=trained())
    bench.controls.sweep.click()
    bench.wait()
    assert bench.explorer.results["rerandomized_error"].notnull().all()
    assert bench.alert == ""


def test_a_reader_without_draws_begins_at_the_trained_network(on_bench):
    bench = on_bench(stack=trained(), draws=0)
    assert bench.controls.source.label == "trained"
    bench.tap(0, 0)
    bench.wait()
    assert bench.alert == ""


def test_it_is_written_so_that_no_number_is_taken_for_an_epoch():
    grid = Grid(("first",), (1,), 2, "checkpoint")
    assert unit_of({"checkpoint_unit": "checkpoint"}) == "checkpoint"
    assert str(Cell("first", 1, "checkpoint")) == "first ← trained"
    assert size_of(grid) == "1 layers by 1 checkpoint"
    assert "fresh draws" in how_to("checkpoint")
    assert "no earlier one" in error_legend("checkpoint")
    assert grid.start is None


def test_the_real_explorer_opens_clicks_and_sweeps_one_checkpoint():
    """Nothing here is scripted: a real network, evaluated and its distances measured."""
    network = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    stack = lx.open_stack([network.state_dict()], model=network)
    stack.attrs["checkpoint_unit"] = "checkpoint"
    generator = torch.Generator().manual_seed(0)
    data = (torch.randn(20, 4, generator=generator), torch.arange(20) % 3)
    explorer = lx.Explorer(stack, model=network, data=data, device="cpu", draws=2)
    try:
        session = explorer._exploration.session
        session._warm_up.join()
        explorer._exploration.controls.sweep.click()
        assert session.wait_until_idle(30)
        found = explorer.results
        assert np.isfinite(found["error"].values).all()
        assert np.isfinite(found["rerandomized_error"].values).all()
        assert (session.distances["l2"] == 0).all()
        assert text_of(explorer._exploration.status.alert) == ""
        assert set(verdict_words(found, 0.1).values()) == {"not known"}
    finally:
        explorer.close()
