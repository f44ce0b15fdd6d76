"""Copies of a stack on the disk: lossless, whole or not at all, and over nothing else."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
import xarray as xr
import zarr

import explorer as lx
from explorer.errors import CheckpointError, StackError, UsageError
from explorer.inventory.manifest import load_manifest
from explorer.weights import labelled
from explorer.weights.stack import content_hash, epoch_numbers, read_epoch
from tests import toy
from tests.conftest import copy_bundled
from tests.test_distances import damage

NAMES = {"folder": "copy", "zarr": "copy.zarr", "netcdf": "copy.nc"}
ALL_FORMS = pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)


@pytest.fixture
def stack():
    """A stack with buffers, one of them a single number, and attributes of its own."""
    stack = lx.open_stack(toy.conv_states(), model=toy.ConvNet(), epochs=[0, 5, 20])
    return with_attributes(stack, note="kept", rates=np.array([0.1, 0.01]), rows=np.int64(3))


def with_attributes(stack, **attributes):
    copy = stack.copy()
    copy.attrs.update(attributes)
    return copy


def same(found, expected, *, ordered=True):
    """Compare all but what is known of the files, names and numbers bit for bit."""
    of_the_files = {"content_hash": None, "integrity": None}
    attrs = {**labelled.plain(expected.attrs), **of_the_files}
    assert {**found.attrs, **of_the_files} == attrs
    assert list(found.children) == list(expected.children)
    for layer in expected.children:
        xr.testing.assert_identical(found[layer].to_dataset(), expected[layer].to_dataset())
    for epoch in epoch_numbers(expected):
        a, b = read_epoch(found, epoch), read_epoch(expected, epoch)
        assert list(a) == list(b) or (not ordered and set(a) == set(b))
        assert {n: (v.dtype, v.shape, v.tobytes()) for n, v in a.items()} == {
            n: (v.dtype, v.shape, v.tobytes()) for n, v in b.items()
        }


@ALL_FORMS
def test_a_copy_is_the_stack_again(tmp_path, stack, name):
    path = lx.save_stack(stack, tmp_path / name)
    assert path == tmp_path / name
    found = lx.open_stack(path)
    same(found, stack)
    for array in found["norm"].data_vars.values():
        assert (type(array.attrs["buffer"]), type(array.attrs["fan_in"])) == (bool, int)
    assert "0, 5, 20" in found._repr_html_()
    xr.testing.assert_identical(lx.distances(found).drop_attrs(), lx.distances(stack).drop_attrs())


@ALL_FORMS
def test_a_copy_of_a_copy_and_of_some_epochs_is_a_stack_too(tmp_path, stack, name):
    first = lx.open_stack(lx.save_stack(stack, tmp_path / name))
    for form in NAMES:
        path = lx.save_stack(first.sel(epoch=[5, 20]), tmp_path / f"again-{form}", form=form)
        if form == "netcdf":
            path = path.rename(path.with_suffix(".nc"))
        same(lx.open_stack(path), stack.sel(epoch=[5, 20]))


ODD = {
    "nan": np.array([0x7FC00001, 0xFF800000, 0x80000000], np.uint32).view(np.float32),
    "f8": np.array([[1 / 3, -0.0]]),
    "i8": np.array([2**62 + 1]),
    "u1": np.arange(3, dtype=np.uint8),
    "bool": np.array([True, False]),
    "one": np.array(3, np.int16),
    "none": np.zeros((0, 2), np.float32),
    "zeros": np.zeros((2, 2), np.float32),
}


@ALL_FORMS
def test_every_bit_of_every_dtype_is_kept(tmp_path, name):
    half = {} if name.endswith(".nc") else {"f2": np.array([1 / 3, np.inf], np.float16)}
    states = [{f"a.{n}": v for n, v in {**ODD, **half}.items()} for _ in range(2)]
    stack = lx.open_stack(states)
    same(lx.open_stack(lx.save_stack(stack, tmp_path / name)), stack)


@ALL_FORMS
def test_names_that_a_file_system_would_mind_are_kept(tmp_path, name):
    states = [{"weight": np.ones(2), "a b.ü.weight": np.ones(3), "a b.é": np.ones(1)}]
    stack = lx.open_stack(states)
    assert list(stack.children) == ["(root)", "a b.ü", "a b"]
    same(lx.open_stack(lx.save_stack(stack, tmp_path / name)), stack)


def test_a_folder_of_a_bundled_stack_is_the_same_bytes_and_has_the_same_hash(tmp_path, bundled):
    lx.save_stack(bundled, tmp_path / "copy")
    original = load_manifest()["fcn3x256-digits"].folder
    for file in (tmp_path / "copy").glob("*.safetensors"):
        assert file.read_bytes() == (original / file.name).read_bytes()
    copy = lx.open_stack(tmp_path / "copy")
    assert content_hash(copy) == content_hash(bundled)
    assert copy.attrs == bundled.attrs


def test_steps_stay_steps(tmp_path, stack):
    steps = with_attributes(stack, checkpoint_unit="step")
    lx.save_stack(steps, tmp_path / "copy")
    assert (tmp_path / "copy" / "step-000005.safetensors").is_file()
    assert lx.open_stack(tmp_path / "copy").attrs["checkpoint_unit"] == "step"


def test_a_copy_is_verified_like_any_stack_with_a_manifest(tmp_path, stack):
    lx.save_stack(stack, tmp_path / "copy")
    damage(tmp_path / "copy" / "epoch-0005.safetensors")
    found = lx.open_stack(tmp_path / "copy")
    with pytest.raises(CheckpointError, match=r"epoch-0005.* has been altered"):
        read_epoch(found, 5)
    assert len(read_epoch(found, 20)) == len(read_epoch(stack, 20))


def test_what_xarray_writes_as_zarr_is_opened_too_and_has_no_hash(tmp_path, bundled):
    bundled.to_zarr(tmp_path / "copy")
    found = lx.open_stack(tmp_path / "copy")
    same(found, bundled, ordered=False)
    assert found.attrs["content_hash"] == ""


@pytest.mark.parametrize("name", ["copy.zarr", "copy.nc"])
def test_compressed_copies_are_smaller_and_cut_into_chunks_of_one_epoch(
    tmp_path, bundled, monkeypatch, name
):
    monkeypatch.setattr(labelled, "CHUNK_BYTES", 784 * 4 * 100)
    path = lx.save_stack(bundled, tmp_path / name)
    files = [path] if path.is_file() else [f for f in path.rglob("*") if f.is_file()]
    raw = sum(a.nbytes for node in bundled.children.values() for a in node.data_vars.values())
    assert sum(file.stat().st_size for file in files) < 0.92 * raw
    found = lx.open_stack(path)
    assert found["layer1"]["weight"].encoding["preferred_chunks"] == {
        "epoch": 1,
        "weight_0": 100,
        "weight_1": 784,
    }
    same(found, bundled)


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((), ()),
        ((0, 3), (1, 3)),
        ((5,), (5,)),
        ((30,), (10,)),
        ((4, 5), (2, 5)),
        ((2, 30), (1, 10)),
    ],
)
def test_chunks_are_rows_that_lie_together(monkeypatch, shape, expected):
    monkeypatch.setattr(labelled, "CHUNK_BYTES", 80)
    array = xr.DataArray(np.zeros((3, *shape)))
    assert labelled.chunks_of(array) == (1, *expected)


@ALL_FORMS
def test_no_more_than_a_checkpoint_is_in_memory_while_a_copy_is_written(
    tmp_path, monkeypatch, name
):
    most = []
    original = lx.weights.lazy.StackedTensor._read
    monkeypatch.setattr(
        lx.weights.lazy.StackedTensor,
        "_read",
        lambda self, key: most.append(np.ndim(key[0])) or original(self, key),
    )
    lx.save_stack(lx.open_stack("fcn3x256-digits"), tmp_path / name)
    assert len(most) >= 64
    assert set(most) == {0}  # one epoch at a time


# --- whole or not at all, and over nothing else ---------------------------------------------------


@ALL_FORMS
def test_a_copy_replaces_an_older_copy_even_of_itself(tmp_path, stack, name):
    path = lx.save_stack(stack, tmp_path / name)
    lx.save_stack(lx.open_stack(path).isel(epoch=[0, 2]), path)
    same(lx.open_stack(path), stack.isel(epoch=[0, 2]))
    assert os.listdir(tmp_path) == [name]


class BrokenError(Exception):
    pass


@ALL_FORMS
@pytest.mark.parametrize("error", [BrokenError, OSError])
def test_a_copy_that_fails_leaves_the_old_one_and_nothing_beside_it(
    tmp_path, stack, monkeypatch, name, error
):
    path = lx.save_stack(stack, tmp_path / name)
    original = lx.weights.lazy.StackedTensor._read

    def fails(self, key):
        if key[0] == 2:
            raise error("no room")
        return original(self, key)

    with monkeypatch.context() as patch:
        patch.setattr(lx.weights.lazy.StackedTensor, "_read", fails)
        with pytest.raises((BrokenError, CheckpointError), match="no room"):
            lx.save_stack(stack, path)
    same(lx.open_stack(path), stack)
    assert os.listdir(tmp_path) == [name]


def test_a_folder_that_cannot_be_moved_into_place_puts_the_old_one_back(
    tmp_path, stack, monkeypatch
):
    path = lx.save_stack(stack, tmp_path / "copy")
    original = os.replace

    def fails(source, target):
        if source.name.startswith(".copy") and not source.name.endswith(".old"):
            raise OSError("no room")
        return original(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", fails)
        with pytest.raises(CheckpointError, match=r"could not be written: no room"):
            lx.save_stack(stack.isel(epoch=[0]), path)
    same(lx.open_stack(path), stack)
    assert os.listdir(tmp_path) == ["copy"]


KILLED = """
import sys, time
import explorer as lx
from explorer.weights.lazy import StackedTensor
original = StackedTensor._read
def slow(self, key):
    if key[0] == 7:
        print("half-way", flush=True)
        time.sleep(60)
    return original(self, key)
StackedTensor._read = slow
lx.save_stack(lx.open_stack("fcn3x256-digits"), sys.argv[1])
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system has no SIGKILL")
@pytest.mark.parametrize("name", ["copy", pytest.param("copy.nc", marks=pytest.mark.slow)])
def test_a_run_that_is_killed_half_way_leaves_the_old_copy(tmp_path, stack, name):
    path = lx.save_stack(stack, tmp_path / name)
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, str(path)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "half-way\n"
        process.kill()
    assert len(os.listdir(tmp_path)) == 2  # what it had written, under a hidden name
    same(lx.open_stack(path), stack)


def test_nothing_but_a_copy_is_ever_replaced(tmp_path, stack):
    training = copy_bundled(tmp_path / "training")
    for extra in ("log.csv", "sweep.json"):  # with them it would be refused anyway
        (training / extra).unlink()
    log = lx.save_stack(stack, tmp_path / "log")
    (log / "log.csv").write_text("epoch", encoding="utf-8")
    (tmp_path / "file").write_text("mine", encoding="utf-8")
    (tmp_path / "mine.nc").write_text("mine", encoding="utf-8")
    xr.Dataset({"a": ("x", [1, 2])}).to_netcdf(tmp_path / "other.nc", engine="h5netcdf")
    zarr.create_group(tmp_path / "mine.zarr", attributes={"whose": "mine"})
    lx.save_stack(stack, tmp_path / "turned.zarr", form="folder")
    before = sorted(path for path in tmp_path.rglob("*"))
    for name in ("training", "log", "file", "mine.nc", "other.nc", "mine.zarr", "turned.zarr"):
        with pytest.raises(UsageError, match=rf"{name} exists(.|\n)*Choose another path"):
            lx.save_stack(stack, tmp_path / name)
    assert sorted(path for path in tmp_path.rglob("*")) == before
    assert len(lx.open_stack(training).coords["epoch"]) == 8
    (tmp_path / "empty").mkdir()
    same(lx.open_stack(lx.save_stack(stack, tmp_path / "empty")), stack)


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda s: xr.DataTree(), r"This DataTree is no stack"),
        (lambda s: s["norm"], r"This \w+ is no stack"),
        (lambda s: s.isel(epoch=slice(None, None, -1)), r"epochs of this stack are \[20, 5, 0\]"),
        (lambda s: s.isel(epoch=[]), r"epochs of this stack are \[\]"),
        (lambda s: with_attributes(s, model=toy.Switch()), r"attribute of the type Switch"),
    ],
)
@ALL_FORMS
def test_what_is_no_stack_is_refused_and_nothing_is_written(tmp_path, stack, change, match, name):
    with pytest.raises(StackError, match=match):
        lx.save_stack(change(stack), tmp_path / name)
    assert os.listdir(tmp_path) == []


def test_an_unknown_form_is_refused_with_the_known_ones(tmp_path, stack):
    with pytest.raises(UsageError, match=r"'hdf'(.|\n)*folder, zarr, netcdf are known"):
        lx.save_stack(stack, tmp_path / "x", form="hdf")


def test_a_dtype_that_a_form_lacks_is_refused_with_the_forms_that_have_it(tmp_path):
    half = lx.open_stack([{"a.w": torch.ones(2, dtype=torch.float16)}])
    with pytest.raises(StackError, match=r"a.w is float16(.|\n)*as a folder or as .zarr"):
        lx.save_stack(half, tmp_path / "x.nc")
    wide = lx.open_stack([{"a.w": np.ones(2, np.uint32)}])
    with pytest.raises(StackError, match=r"dtype uint32(.|\n)*save as .zarr"):
        lx.save_stack(wide, tmp_path / "x")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", ["copy.zarr", "copy.nc"])
def test_what_was_chosen_at_saving_cannot_be_chosen_at_opening(tmp_path, stack, name):
    path = lx.save_stack(stack, tmp_path / name)
    with pytest.raises(UsageError, match=r"layers=, epochs= was given for .*copy"):
        lx.open_stack(path, layers="fine", epochs=[1, 2, 3])


def test_labelled_files_that_hold_no_stack_or_are_damaged_are_refused(tmp_path, stack):
    xr.Dataset({"a": ("x", [1, 2])}).to_netcdf(tmp_path / "other.nc", engine="h5netcdf")
    with pytest.raises(StackError, match=r"other.nc holds no stack(.|\n)*attributes \[\]"):
        lx.open_stack(tmp_path / "other.nc")
    path = lx.save_stack(stack, tmp_path / "copy.nc")
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(CheckpointError, match=r"copy.nc cannot be read as netCDF"):
        lx.open_stack(path)
    folder = lx.save_stack(stack, tmp_path / "copy.zarr")
    shutil.rmtree(folder / "norm")
    with pytest.raises(StackError, match=r"copy.zarr holds no stack"):
        lx.open_stack(folder)
    (folder / "zarr.json").write_text("{", encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"copy.zarr cannot be read as zarr"):
        lx.open_stack(folder)


def test_without_zarr_the_other_forms_work_and_the_package_is_named(tmp_path, stack, monkeypatch):
    monkeypatch.setitem(sys.modules, "zarr", None)
    with pytest.raises(UsageError, match=r"zarr is not installed(.|\n)*layer-explorer\[zarr\]"):
        lx.save_stack(stack, tmp_path / "copy.zarr")
    same(lx.open_stack(lx.save_stack(stack, tmp_path / "copy.nc")), stack)


def test_a_manifest_of_a_copy_with_a_key_too_many_is_refused(tmp_path, stack):
    path = lx.save_stack(stack, tmp_path / "copy") / "stack.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    content["copies"][0]["colour"] = "red"
    path.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(ValueError, match=r"copies\[0\]: .*'colour' was unexpected"):
        lx.open_stack(tmp_path / "copy")
