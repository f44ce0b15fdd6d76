"""Coloured tables, and what a notebook shows of a stack, a sweep and distances."""

from __future__ import annotations

import copy
import math
import pickle
import re
import shutil

import numpy as np
import pytest
import xarray as xr

import explorer as lx
from explorer.colours import contrast
from explorer.engine.overview import missing, sweep_table
from explorer.engine.results import Sweep, empty_results
from explorer.inventory.manifest import load_manifest
from explorer.stats.distances import Distances
from explorer.stats.overview import distances_table
from explorer.tables import MOST_ROWS, Cell, Row, Table, page_html, shown, table_html
from explorer.ui.table import sweep_html
from explorer.weights.checkpoints import SafetensorsCheckpoint
from explorer.weights.stack import Stack
from tests import fakes, toy

STACKS = [entry.name for entry in load_manifest().stacks.values()]
MOST_BYTES = 10_000


def made_up(layers=2, epochs=3):
    """A sweep with so many layers and epochs."""
    small = fakes.sweep()
    rows, columns = [at % 2 for at in range(layers)], [at % 3 for at in range(epochs)]
    large = small.isel(layer=rows, epoch=columns)
    names = [f"layer{at + 1}.with_a_long_name" for at in range(layers)]
    large = large.assign_coords(layer=names, epoch=range(epochs))
    return Sweep(large.data_vars, large.coords, large.attrs)


@pytest.fixture(scope="module", params=["stack", "sweep", "distances"])
def thing(request, bundled):
    """Each of the three in turn."""
    makers = {
        "stack": lambda: bundled,
        "sweep": lambda: lx.open_sweep("fcn3x256-digits"),
        "distances": lambda: lx.distances(bundled),
    }
    return makers[request.param]()


# --- tables ---------------------------------------------------------------------------------------


def test_the_head_of_words_begins_where_they_do_and_that_of_numbers_ends_where_they_do():
    cells = (Cell("2.9"), Cell("every epoch is within", words=True))
    html = table_html(Table("caption", ("error", "because"), (Row("layer1", cells),)))
    assert '<th scope="col" style="text-align:left">because</th>' in html
    assert '<th scope="col">error</th>' in html


def test_every_string_of_a_table_is_escaped():
    row = Row("<row>", (Cell("<cell>"), Cell("<b>", 0.5)))
    html = table_html(Table("<caption>&", ("<one>", "<two>"), (row,)))
    assert re.findall(r"&lt;(\w+)&gt;", html) == ["caption", "one", "two", "row", "cell", "b"]


def test_the_text_around_a_table_is_escaped_and_code_is_set_as_code():
    notes = ["see `x<y`", "an ` alone <b>"]
    html = page_html("<title>", {"<name>": "<value>", "nothing": ""}, "<table></table>", notes)
    assert "&lt;title&gt;" in html
    assert "&lt;name&gt; <b>&lt;value&gt;</b>" in html
    assert "nothing" not in html
    assert "see <code>x&lt;y</code>" in html
    assert "an ` alone &lt;b&gt;" in html


@pytest.mark.parametrize(("count", "most"), [(0, 4), (4, 4), (5, 4), (100, 40), (7, None)])
def test_of_many_rows_the_first_and_the_last_are_shown_and_the_others_counted(count, most):
    places = shown(count, most)
    assert [at for at in places if at is not None] == sorted(
        {at for at in places if at is not None}
    )
    if most is None or count <= most:
        assert places == list(range(count))
    else:
        assert len(places) == most + 1
        assert (places[0], places[-1], places.count(None)) == (0, count - 1, 1)


def test_what_is_left_out_of_a_table_is_counted():
    rows = tuple(Row(f"row{at}", tuple(Cell(str(k)) for k in range(9))) for at in range(9))
    html = table_html(Table("", tuple("abcdefghi"), rows), 4, 4)
    assert "5 more are not shown" in html
    assert "… 5 more</th>" in html
    assert re.findall(r'<th scope="row"[^>]*>(\w+)<', html) == ["row0", "row1", "row2", "row8"]
    assert len(re.findall("<td>.</td>", html)) == 4 * 5


@pytest.mark.parametrize("share", [-1.0, 0.0, 0.2, 0.5, 0.8, 1.0, 7.0])
def test_every_cell_can_be_read_on_its_colour_whatever_the_page(share):
    html = table_html(Table("", ("a",), (Row("r", (Cell("12", share),)),)))
    assert '<tr style="background:#fff">' in html
    ground = re.search(r"<td[^>]*background:(#\w{6})", html)
    written = re.search(r"<td[^>]*;color:(#\w+)", html)
    ink = "#ffffff" if written and written[1] == "#fff" else "#111111"
    assert contrast(ground[1] if ground else "#ffffff", ink) >= 4.5
    assert 'tbody style="color:#111' in html


def test_a_cell_without_a_number_has_no_colour():
    html = table_html(Table("", ("a", "b"), (Row("r", (Cell("–"), Cell("–", math.nan))),)))
    assert html.count("<td>–</td>") == 2


# --- what a notebook shows ------------------------------------------------------------------------


@pytest.mark.parametrize("name", STACKS)
def test_what_a_notebook_shows_of_a_bundled_stack_is_short(name):
    stack = lx.open_stack(name)
    for thing in (stack, lx.open_sweep(name), lx.distances(stack)):
        html = thing._repr_html_()
        assert len(html.encode()) < MOST_BYTES, type(thing)
        assert all(f">{layer}</th>" in html for layer in stack.attrs["layers"])


def test_a_stack_shows_its_layers_and_how_to_get_at_them(bundled):
    html = bundled._repr_html_()
    entry = load_manifest()["fcn3x256-digits"]
    for said in (entry.title, entry.family, entry.dataset, "0, 1, 2, 3, 8, 40, 90, 100"):
        assert said in html
    assert ">335,114<" in html
    assert ">200,960</td>" in html  # 784 × 256 weights and 256 biases
    assert "weight 256×784, bias 256" in html
    assert "float32" in html
    assert "bluer" in html


def test_an_expression_that_a_stack_suggests_gives_what_it_says(bundled):
    code = re.search(r"<code>(stack\[.*?)</code>", bundled._repr_html_())[1]
    tensor = eval(code.replace("&#x27;", "'"), {"stack": bundled})
    assert (tensor.shape, int(tensor.epoch)) == ((256, 784), 100)


def test_a_sweep_shows_its_verdicts_its_ends_and_what_is_behind_it():
    html = lx.open_sweep("fcn3x256-digits")._repr_html_()
    words = re.findall(r">(layer\d)</th>.*?<td>(robust|mixed|critical)</td></tr>", html)
    assert dict(words)["layer1"] == "critical"
    assert dict(words)["layer4"] == "robust"
    for said in ("2.9%", "87.8%", "1,800", "digits28", "seed <b>0</b>", "with_layer"):
        assert said in html
    assert ">70.9</td>" in html


def test_white_is_the_final_error_and_dark_red_is_chance():
    table = sweep_table(fakes.sweep())
    shares = {cell.text: cell.share for row in table.rows for cell in row.cells}
    assert shares["10.0"] == pytest.approx(0)
    assert shares["90.0"] == pytest.approx(1)
    assert shares["30.0"] == pytest.approx(0.25)


def test_the_table_of_a_sweep_is_the_same_wherever_it_is_shown():
    sweep = lx.open_sweep("vgg11-digits")
    assert sweep_html(sweep) in sweep._repr_html_()


def test_a_sweep_says_what_is_missing_and_why():
    nothing = empty_results(["a", "<b>"], [0, 1], 2, "not measured: <stopped>")
    nothing.attrs.update(final_error=math.nan, chance_error=0.9)
    html = nothing._repr_html_()
    assert "–: 10 cells, not measured: &lt;stopped&gt;" in html
    assert "not known" in html
    assert "<b>&lt;" not in html.split("<tbody")[1]


def test_of_many_reasons_a_sweep_writes_out_some_and_counts_the_rest():
    sweep = made_up(20)
    sweep["reason"].values[:, 0] = [f"reason {at}" for at in range(20)]
    html = sweep._repr_html_()
    assert len(missing(sweep)) == 20
    assert "reason 4" in html
    assert "reason 5" not in html
    assert "… and 15 more reasons" in html


def test_cells_that_are_estimates_are_told():
    sweep = made_up()
    sweep["examples"].values[0, 0] = 40
    assert "the fewest examples behind a cell are 40 of 100" in sweep._repr_html_()


def test_distances_show_the_yard_stick_and_the_names_of_the_others(bundled):
    html = lx.distances(bundled)._repr_html_()
    assert "fresh draws from each layer&#x27;s initialiser" in html
    assert ">ReRnd</th>" in html
    for name in ("l1", "l2", "l2_per_sqrt_fan_in", "l2_relative", "linf", "cosine"):
        assert f"<code>{name}</code>" in html


def test_distances_without_a_yard_stick_or_of_damaged_weights_say_so():
    states = toy.switch_states()
    states[1]["first.bias"][0] = math.nan
    html = lx.distances(lx.open_stack(states))._repr_html_()
    assert "none: the stack names no known family" in html
    assert ">ReRnd</th>" not in html
    assert "NaN or infinite" in html
    assert ">–</td>" in html


def test_a_network_of_62_layers_and_154_checkpoints_is_shown_in_part():
    sweep = made_up(62, 154)
    html = sweep._repr_html_()
    assert html.count("<th scope=") <= MOST_ROWS + 17
    assert "23 more are not shown" in html
    assert "140 more</th>" in html
    assert ">layer1.with_a_long_name<" in html
    assert ">fullmodel</th>" in html
    assert ">verdict</th>" in html


def test_a_stack_of_62_layers_is_shown_in_part():
    names = [f"block{at}" for at in range(62)]
    states = [{f"{name}.weight": np.full(3, float(epoch)) for name in names} for epoch in range(50)]
    html = lx.open_stack(states)._repr_html_()
    assert "22 more are not shown" in html
    assert "13, 14, …, 46, 47, 48, 49" in html


def test_names_from_outside_are_escaped_wherever_they_are_shown():
    evil = "<img src=x>"
    states = [{f"{evil}.weight": np.full((2, 2), float(k))} for k in range(2)]
    stack = lx.open_stack(states)
    stack.attrs.update(title=evil, name=evil, family=evil, dataset=evil)
    sweep = made_up().assign_coords(layer=[evil, "b"])
    sweep.attrs.update(stack_title=evil, dataset=evil, device=evil, batchnorm=evil)
    distances = lx.distances(stack).assign_attrs(yardstick=evil, stack=evil)
    for thing in (stack, sweep, distances):
        html = thing._repr_html_()
        assert "<img" not in html
        assert html.count("&lt;img") >= 3


# --- laziness -------------------------------------------------------------------------------------


def test_a_stack_is_shown_even_when_its_files_are_gone(copied, monkeypatch):
    read = []
    monkeypatch.setattr(SafetensorsCheckpoint, "read", lambda self, name: read.append(name))
    stack = lx.open_stack(copied)
    whole = stack._repr_html_()
    shutil.rmtree(copied)
    assert stack._repr_html_() == whole
    assert stack.sel(epoch=[0, 8])._repr_html_() != whole
    assert read == []


# --- they are what xarray makes of them -----------------------------------------------------------


def test_they_are_plain_xarray_objects_to_everything_but_a_notebook(thing):
    assert isinstance(thing, (Stack, Sweep, Distances))
    assert isinstance(thing, xr.DataTree if isinstance(thing, Stack) else xr.Dataset)
    assert repr(thing) == str(thing)
    assert repr(thing).startswith("<xarray.")


def pickled(thing):
    return pickle.loads(pickle.dumps(thing))


@pytest.mark.parametrize("copied_by", [copy.copy, copy.deepcopy, lambda x: x.copy(), pickled])
def test_a_copy_is_identical_and_shown_alike(thing, copied_by):
    other = copied_by(thing)
    assert type(other) is type(thing)
    assert other.identical(thing)
    assert other._repr_html_() == thing._repr_html_()


def test_they_are_identical_to_the_same_content_without_their_class(thing):
    if isinstance(thing, Stack):
        plain = xr.DataTree.from_dict(thing.to_dict())
    else:
        plain = xr.Dataset(thing.data_vars, thing.coords, thing.attrs)
    assert type(plain) in (xr.DataTree, xr.Dataset)
    assert plain.identical(thing)
    assert thing.identical(plain)


def test_a_selection_is_shown_too_as_long_as_it_has_the_form(thing):
    part = thing.isel(epoch=[0, -1])
    assert type(part) is type(thing)
    assert part._repr_html_().startswith("<div><div><b>")
    assert len(part._repr_html_()) < len(thing._repr_html_())


def test_what_has_lost_the_form_is_shown_as_xarray_shows_it(thing):
    html = thing.isel(epoch=0)._repr_html_()
    assert "xr-header" in html


@pytest.mark.parametrize(
    "lose",
    [
        lambda s: s.mean("layer"),
        lambda s: s[["loss"]],
        lambda s: s.isel(draw=0),
        lambda s: s.transpose("epoch", "layer", "draw"),
        lambda s: s.drop_attrs(),
    ],
)
def test_whatever_is_done_to_a_sweep_it_can_still_be_shown(lose):
    words = ["reason", "rerandomized_reason", "fullmodel_reason"]
    numbers = lx.open_sweep("fcn3x256-digits").drop_vars(words)
    numbers["reason"] = numbers.error * 0
    assert "xr-header" not in numbers._repr_html_()
    assert "xr-header" in lose(numbers)._repr_html_()


def test_a_sweep_and_distances_survive_netcdf(tmp_path, bundled):
    sweep, distances = lx.open_sweep("fcn3x256-digits"), lx.distances(bundled)
    for thing, path in ((sweep, tmp_path / "s.nc"), (distances, tmp_path / "d.nc")):
        thing.to_netcdf(path, engine="h5netcdf")
        with xr.open_dataset(path, engine="h5netcdf") as opened:
            assert opened.load().equals(thing)
    assert lx.open_sweep(tmp_path / "s.nc")._repr_html_() == sweep._repr_html_()


def test_a_layer_of_a_stack_is_shown_as_xarray_shows_it(bundled):
    assert "xr-header" in bundled["layer1"]._repr_html_()
    assert "xr-header" in bundled.isel(epoch=[0])["layer1"]._repr_html_()


def test_a_distance_that_is_not_finite_does_not_set_the_scale_of_the_others():
    distances = xr.Dataset(
        {"l2": (("layer", "epoch"), [[math.nan, 1.0, 2.0], [0.0, math.inf, 4.0]])},
        {"layer": ["a", "b"], "epoch": [0, 1, 2]},
    )
    first, second = distances_table(distances, "l2").rows
    assert [cell.text for cell in (*first.cells, *second.cells)] == ["–", "1", "2", "0", "–", "4"]
    shares = [cell.share for cell in (*first.cells[1:], second.cells[0], second.cells[2])]
    assert shares == [0.25, 0.5, 0, 1]
