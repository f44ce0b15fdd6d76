"""What was altered is noticed before it is used, what cannot be known is said, and results too."""

from __future__ import annotations

import copy
import json
import warnings

import h5py
import numpy as np
import pytest
import torch
import xarray as xr

import explorer as lx
from explorer.api import save_netcdf
from explorer.engine import remote
from explorer.engine.results import read_sweep
from explorer.errors import ChangedStackWarning, CheckpointError
from explorer.inventory.entries import StackEntry
from explorer.inventory.manifest import load_manifest
from explorer.inventory.store import BUNDLED_FOLDER, FileRecord, plainly_wrong, verified
from explorer.ui.grid import Grid
from explorer.ui.known import known_results
from explorer.ui.report import report_page, write_report
from explorer.ui.settings import Settings
from explorer.ui.wording import title_of
from explorer.weights.stack import content_hash, read_epoch
from tests import fakes, toy
from tests.conftest import BUNDLED

FETCH = r"(.|\n)*Put the file back: copy epoch-0001.safetensors again from where .*explorer train"


def altered(path):
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)


FAULTS = {
    "altered": (altered, r"epoch-0001.safetensors has been altered: sha256 [0-9a-f]{64}"),
    "truncated": (lambda p: p.write_bytes(p.read_bytes()[:-1]), r"epoch-0001.* has \d+ bytes"),
    "missing": (lambda p: p.unlink(), r"epoch-0001.safetensors cannot be read: No such file"),
}


@pytest.fixture(params=FAULTS)
def fault(request, copied):
    spoil, match = FAULTS[request.param]
    spoil(copied / "epoch-0001.safetensors")
    return request.param, match


def test_a_file_that_is_not_the_one_of_the_manifest_is_refused_with_how_to_get_it(copied, fault):
    stack = lx.open_stack(copied)
    with pytest.raises(CheckpointError, match=fault[1] + FETCH):
        read_epoch(stack, 1)
    assert read_epoch(stack, 2)


def test_its_column_is_marked_and_the_others_are_measured(copied, fault):
    stack = lx.open_stack(copied, only=[0, 1, 100])
    swept = lx.sweep(stack, layers=["layer1"], draws=0, device="cpu", progress=False)
    assert np.isnan(swept.error.sel(epoch=1)).all()
    assert np.isfinite(swept.error.sel(epoch=[0, 100])).all()
    reason = str(swept.reason.sel(epoch=1, layer="layer1").item())
    assert "epoch-0001.safetensors" in reason
    assert "epoch-0001.safetensors" in swept._repr_html_()


def test_what_a_look_at_its_size_shows_is_said_when_the_stack_is_opened(copied, fault, caplog):
    stack = lx.open_stack(copied)
    seen = fault[0] != "altered"  # which takes reading it
    assert ("1" in stack.attrs.get("unreadable", {})) is seen
    assert ("epoch 1 cannot be used" in caplog.text) is seen
    assert ("epoch-0001.safetensors" in stack._repr_html_()) is seen


def test_a_bundled_file_is_to_be_had_by_installing_again():
    record = FileRecord(BUNDLED_FOLDER / BUNDLED, "epoch-9999.safetensors", 7, "0" * 64)
    assert "No such file" in plainly_wrong(record)
    with pytest.raises(CheckpointError, match=r"pip install --force-reinstall(.|\n)*git restore"):
        verified(record)


# --- without a hash -------------------------------------------------------------------------------

SAID = "unverified: no hash of the files is known"


def test_the_catalog_says_that_every_file_has_a_hash():
    frame = lx.catalog()
    stacks = frame[frame.kind == "stack"]
    assert len(stacks) > 3
    assert set(stacks.integrity) == {"sha256"}
    assert lx.open_stack(BUNDLED).attrs["integrity"] == "sha256"
    assert SAID not in lx.open_stack(BUNDLED)._repr_html_()


@pytest.mark.parametrize("name", ["copy.zarr", "copy.nc"])
def test_a_stack_in_labelled_files_is_visibly_unverified(tmp_path, bundled, name):
    if name.endswith("zarr"):
        pytest.importorskip("zarr")
    stack = lx.open_stack(lx.save_stack(bundled.isel(epoch=[0, -1]), tmp_path / name))
    assert stack.attrs["integrity"] == "unverified"
    assert SAID in stack._repr_html_()


def test_a_copy_in_a_folder_has_hashes_of_its_own(tmp_path, switch):
    assert switch.attrs["integrity"] == "unverified"
    assert lx.open_stack(lx.save_stack(switch, tmp_path / "a")).attrs["integrity"] == "sha256"


def test_a_manifest_cannot_say_itself_that_it_is_another(tmp_path, switch):
    folder = lx.save_stack(switch, tmp_path / "copy")
    content = json.loads((folder / "stack.json").read_text())
    forged = {"content_hash": "f" * 64, "integrity": "notarised", "name": "bundled"}
    content["copies"][0]["attributes"] |= forged
    (folder / "stack.json").write_text(json.dumps(content))
    attrs = lx.open_stack(folder).attrs
    assert not set(forged.values()) & {attrs["content_hash"], attrs["integrity"], attrs["name"]}


@pytest.fixture(scope="module")
def loose(tmp_path_factory):
    """A stack of files that no hash is known of, with its sweep and distances."""
    folder = tmp_path_factory.mktemp("loose")
    for epoch, state in enumerate(toy.switch_states()):
        torch.save(state, folder / f"epoch-{epoch}.pt")
    stack = lx.open_stack(folder, model=toy.Switch())
    data = toy.one_hot_examples()
    swept = lx.sweep(stack, model=toy.Switch(), data=data, draws=1, device="cpu", progress=False)
    return folder, stack, swept, lx.distances(stack, model=toy.Switch())


def test_loose_files_are_visibly_unverified_wherever_they_are_shown(loose):
    _, stack, swept, distances = loose
    assert SAID in stack._repr_html_()
    assert "unverified" in repr(stack)
    assert swept.attrs["integrity"] == "unverified"
    assert SAID in swept._repr_html_()
    assert "(unverified)</h1>" in report_page(swept, distances)
    grid = Grid(("switch",), (0, 1, 2), 1)
    results = known_results(stack, grid, Settings(model=toy.Switch()))
    assert title_of(results.attrs).endswith(" (unverified)")


def test_the_widget_s_heading_says_it_too(on_bench):
    stack = fakes.stack()
    stack.attrs["integrity"] = "unverified"
    assert "(unverified)</h2>" in on_bench(stack=stack).shown.heading.value


# --- results --------------------------------------------------------------------------------------


def test_results_carry_the_hashes_they_were_computed_from(loose, bundled):
    _, stack, swept, _ = loose
    assert swept.attrs["content_hash"] == content_hash(stack)
    assert len(swept.attrs["dataset_hash"]) == len(swept.attrs["layers_hash"]) == 64
    entry = load_manifest()[BUNDLED]
    assert isinstance(entry, StackEntry)
    known = {lx.open_sweep(BUNDLED).attrs["content_hash"], content_hash(bundled)}
    assert known == {entry.content_hash, lx.distances(bundled, draws=0).attrs["content_hash"]}
    assert len(known) == 1


def test_results_of_a_stack_that_has_changed_since_warn(loose, tmp_path):
    _, stack, swept, _ = loose
    path = save_netcdf(swept, tmp_path / "sweep.nc")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        lx.open_sweep(path, stack)
        lx.open_sweep(path)
    states = copy.deepcopy(toy.switch_states())
    states[1]["switch.weight" if "switch.weight" in states[1] else next(iter(states[1]))] += 1
    changed = lx.open_stack(states, model=toy.Switch())
    with pytest.warns(ChangedStackWarning, match=r"sweep.nc was computed from other checkpoints"):
        found = lx.open_sweep(path, changed)
    xr.testing.assert_equal(found, swept)


def test_a_bundled_sweep_of_other_checkpoints_than_the_catalog_s_warns(monkeypatch):
    monkeypatch.setattr(StackEntry, "content_hash", "0" * 64)
    with pytest.warns(ChangedStackWarning, match=rf"{BUNDLED} was .*than those.*\(000000000000"):
        lx.open_sweep(BUNDLED)


def test_an_explorer_of_a_changed_stack_warns_and_shows_none_of_the_old_numbers(copied):
    content = json.loads((copied / "stack.json").read_text())
    del content["stacks"][0]["checkpoints"][1]
    (copied / "stack.json").write_text(json.dumps(content))
    stack = lx.open_stack(copied)
    layers = tuple(str(layer) for layer in stack.attrs["layers"])
    grid = Grid(layers, tuple(int(epoch) for epoch in stack.epoch), 1)
    with pytest.warns(ChangedStackWarning, match=r"bundled sweep of fcn3x256-digits was computed"):
        results = known_results(stack, grid, Settings())
    assert np.isnan(results.error).all()


def test_results_with_one_axis_twice_are_refused_by_the_name_of_the_variable(tmp_path):
    """xarray opens them and warns; which numbers a selection would give is anybody's guess."""
    path = tmp_path / "sweep.nc"
    with h5py.File(path, "w") as file:
        file["epoch"], file["error"] = [0, 1], np.eye(2)
        file["epoch"].make_scale("epoch")
        for axis in file["error"].dims:
            axis.attach_scale(file["epoch"])
    with pytest.raises(CheckpointError, match=r"sweep.nc cannot be.* the axes of 'error'"):
        read_sweep(path)


def test_workers_know_a_stack_by_its_content_and_the_reader_s_own_network_and_examples(loose):
    _, stack, *_ = loose
    states = copy.deepcopy(toy.switch_states())
    next(iter(states[1].values())).add_(1)
    changed = lx.open_stack(states, model=toy.Switch())
    own = {"model": toy.Switch(), "data": None}
    names = [
        remote._token(stack, own),
        remote._token(stack, own),
        remote._token(changed, own),
        remote._token(stack, {**own, "data": toy.one_hot_examples()}),
    ]
    assert len(set(names)) == 3
    assert names[0] == names[1]


def test_a_report_of_a_sweep_and_distances_of_two_stacks_warns(loose, tmp_path):
    _, _, swept, distances = loose
    other = distances.assign_attrs(content_hash="0" * 64)
    with pytest.warns(ChangedStackWarning, match=r"These distances was computed"):
        write_report(swept, other, tmp_path / "report.html")
