"""Two stacks or two checkpoints side by side."""

from __future__ import annotations

import json

import numpy as np
import pytest

import explorer as lx
from explorer import cli
from explorer.doctor.diff import split_epoch
from explorer.errors import StackError, UnknownNameError
from explorer.stats.measures import MEASURES
from explorer.weights.folder import save_checkpoint
from explorer.weights.stack import layer_names, read_epoch
from tests import toy

STACK = "fcn3x256-digits"


def diff(a, b, **options):
    return lx.diff(a, b, progress=False, **options)


def numpy_states():
    """States of the convolutional toy as arrays, to be changed."""
    return [{n: t.numpy() for n, t in state.items()} for state in toy.conv_states()]


def test_a_stack_is_the_same_as_itself(bundled):
    found = diff(STACK, bundled)
    assert found.same
    assert (found.distances["differing"] == 0).all()
    assert "The same bit for bit." in str(found)
    assert found.as_json()["same"] is True


def test_two_checkpoints_are_as_far_apart_as_distances_says(bundled):
    found = diff(f"{STACK}@0", f"{STACK}@40")
    expected = lx.distances(bundled, draws=0).sel(epoch=40)
    assert found.distances["layer"].values.tolist() == layer_names(bundled)
    for measure in MEASURES:
        np.testing.assert_array_equal(found.distances[measure].isel(pair=0), expected[measure])
    assert found.distances["differing"].values.ravel().tolist() == [2, 2, 2, 2]
    assert not found.same


def test_one_checkpoint_is_compared_with_every_one_of_a_stack():
    found = diff(f"{STACK}@40", STACK)
    assert found.a.epochs == (40,) * 8
    assert found.distances["differing"].sum("layer").values.tolist() == [8, 8, 8, 8, 8, 0, 8, 8]
    (heads,) = [line for line in str(found).splitlines() if line.split()[:1] == ["0"]]
    assert heads.split() == ["0", "1", "2", "3", "8", "40", "90", "100"]
    assert found._repr_html_().count("<td>=</td>") == 4


def test_two_stacks_are_compared_where_their_numbers_are_equal(bundled):
    found = diff(bundled.isel(epoch=[0, 1, 2]), bundled.isel(epoch=[1, 2, 3, 4]))
    assert found.a.epochs == found.b.epochs == (1, 2)
    assert (found.a.only_epochs, found.b.only_epochs) == ((0,), (3, 8))
    assert not found.same
    assert "Only in B: epochs 3, 8." in str(found)


def test_tensors_of_one_side_and_other_shapes_and_dtypes_are_named():
    a, b = numpy_states()[:2]
    del a["head.bias"]
    b["conv.bias"] = b["conv.bias"][:3]
    b["norm.bias"] = b["norm.bias"].astype(np.float64)
    del b["norm.weight"]
    found = diff(a, b)
    assert (found.a.only, found.b.only) == (("norm.weight",), ("head.bias",))
    assert [vars(one) for one in found.changed] == [
        {"tensor": "conv.bias", "a": "float32 (4,)", "b": "float32 (3,)"},
        {"tensor": "norm.bias", "a": "float32 (4,)", "b": "float64 (4,)"},
    ]
    assert "conv.bias: float32 (4,) in A, float32 (3,) in B." in str(found)
    assert found.distances["tensors"].sel(layer="conv").item() == 1
    assert found.distances["differing"].sel(layer="norm").item() == 3  # bias and statistics


def test_what_counts_is_every_bit_and_also_that_of_buffers():
    a = numpy_states()[0]
    a["head.weight"][0, 0] = np.nan
    assert diff(a, a).same  # a NaN is the same as the same NaN
    b = {name: array.copy() for name, array in a.items()}
    a["head.bias"][0], b["head.bias"][0] = 0.0, -0.0
    found = diff(a, b)
    assert found.distances["differing"].sel(layer="head").item() == 1
    assert not found.same
    b = {name: array.copy() for name, array in a.items()}
    b["norm.running_mean"][0] += 1
    found = diff(a, b)
    assert not found.same
    assert found.distances["l2"].sel(layer="norm").item() == 0  # distances leave buffers out


def test_weights_that_are_no_numbers_leave_null_in_the_json():
    a, b = numpy_states()[:2]
    b["head.weight"][0, 0] = np.nan
    (row,) = [row for row in diff(a, b).as_json()["layers"] if row["layer"] == "head"]
    assert (row["l2"], row["nonfinite"]) == (None, 1)
    json.dumps(row, allow_nan=False)


def test_a_damaged_checkpoint_leaves_the_others_usable(copied):
    (copied / "epoch-0002.safetensors").write_bytes(b"short")
    found = diff(str(copied), STACK)
    assert not found.complete
    assert not found.same
    assert (found.distances["reason"] != "").sum("layer").values.tolist() == [
        0,
        0,
        4,
        0,
        0,
        0,
        0,
        0,
    ]
    assert int(found.distances["differing"].sum()) == 0
    assert "Not measured: " in str(found)
    assert "epoch-0002.safetensors has 5 bytes" in str(found)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("vit-digits@3", ("vit-digits", 3)),
        ("vit-digits", ("vit-digits", None)),
        ("torchvision/resnet50@IMAGENET1K_V2", ("torchvision/resnet50@IMAGENET1K_V2", None)),
        ("a@b@12", ("a@b", 12)),
        ("@3", ("@3", None)),
        ("name@", ("name@", None)),
    ],
)
def test_the_epoch_follows_the_last_at_sign(text, parts):
    assert split_epoch(text) == parts


def test_a_folder_that_ends_like_an_epoch_is_a_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_checkpoint(tmp_path / "run@3", 5, numpy_states()[0], "epoch")
    assert diff("run@3", "run@3@5").same


def test_what_cannot_be_compared_is_explained(bundled, tmp_path):
    with pytest.raises(UnknownNameError, match="no epoch 4"):
        diff(f"{STACK}@4", STACK)
    with pytest.raises(UnknownNameError, match="no stack 'fcn'"):
        diff("fcn@4", STACK)
    with pytest.raises(StackError, match=r"Name one checkpoint of each: STACK@NUMBER"):
        diff(bundled.isel(epoch=[0, 1]), bundled.isel(epoch=[2, 3]))
    for number, state in enumerate(numpy_states()):
        save_checkpoint(tmp_path, number, state, "step")
    with pytest.raises(StackError, match=r"count epochs, those of .* steps"):
        diff(bundled, tmp_path)


def test_layers_are_divided_as_asked(bundled):
    found = diff(read_epoch(bundled, 0), read_epoch(bundled, 1), layers=["weight", "bias"])
    assert found.distances["layer"].values.tolist() == ["weight", "bias"]


# --- the command ----------------------------------------------------------------------------------


def run(capsys, *arguments):
    status = cli.main(["diff", *map(str, arguments)])
    said = capsys.readouterr()
    return status, said.out, said.err


def test_the_exit_status_is_that_of_diff(capsys, copied):
    status, said, progress = run(capsys, STACK, copied)
    assert (status, "The same bit for bit." in said, "diff: 100%" in progress) == (0, True, True)
    status, said, progress = run(capsys, f"{STACK}@3", f"{STACK}@8", "--quiet")
    assert (status, progress) == (1, "")
    assert all(measure in said for measure in MEASURES)
    assert run(capsys, f"{STACK}@3", "nothing")[0] == 2
    (copied / "epoch-0002.safetensors").unlink()
    assert run(capsys, STACK, copied)[0] == 2


def test_the_json_has_a_row_per_layer_and_pair(capsys):
    status, said, _ = run(capsys, f"{STACK}@3", f"{STACK}@8", "--quiet", "--json")
    content = json.loads(said)
    assert (status, content["same"], len(content["layers"])) == (1, False, 4)
    assert content["a"]["epochs"] == [3]
    assert set(MEASURES) < set(content["layers"][0])


def test_a_measure_can_be_chosen(capsys):
    assert "linf (max |Δ|)" in run(capsys, STACK, STACK, "--measure", "linf", "--quiet")[1]
    with pytest.raises(SystemExit, match="0"):
        cli.main(["diff", "--help"])
    assert "{" + ",".join(MEASURES) + "}" in "".join(capsys.readouterr().out.split())
