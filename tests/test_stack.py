"""Stacks as lazy DataTrees."""

from __future__ import annotations

import copy
import subprocess
import sys

import numpy as np
import pytest
import torch
import xarray as xr

import explorer as lx
from explorer.errors import CheckpointError, StackError, UnknownNameError
from explorer.weights import checkpoints
from explorer.weights.checkpoints import SafetensorsCheckpoint, write_checkpoint
from explorer.weights.stack import content_hash, layer_names, read_epoch, read_layer
from tests import toy
from tests.test_distances import damage


@pytest.fixture
def reads(monkeypatch):
    """Count the tensors read from files."""
    seen = []
    original = SafetensorsCheckpoint.read

    def counted(self, name):
        seen.append(name)
        return original(self, name)

    monkeypatch.setattr(checkpoints.SafetensorsCheckpoint, "read", counted)
    return seen


def test_opening_and_showing_a_stack_reads_no_tensor(reads):
    stack = lx.open_stack("fcn3x256-digits")
    assert "layer1" in repr(stack)
    stack._repr_html_()
    stack.sel(epoch=[0, 8])
    assert reads == []


def test_reading_one_layer_at_one_epoch_reads_only_its_tensors(reads, bundled):
    assert set(read_layer(bundled, "layer2", 8)) == {"layer2.weight", "layer2.bias"}
    assert reads == ["layer2.weight", "layer2.bias"]


def test_the_tree_has_the_documented_form(bundled):
    assert isinstance(bundled, xr.DataTree)
    assert bundled.coords["epoch"].values.tolist() == [0, 1, 2, 3, 8, 40, 90, 100]
    assert layer_names(bundled) == ["layer1", "layer2", "layer3", "layer4"]
    weight = bundled["layer1"]["weight"]
    assert weight.dims[0] == "epoch"
    assert weight.shape == (8, 256, 784)
    assert weight.attrs == {"parameter": "layer1.weight", "buffer": False, "fan_in": 784}
    assert bundled.attrs["family"] == "fcn"
    assert len(content_hash(bundled)) == 64


@pytest.mark.parametrize(
    "key",
    [
        (0, 1, 2),
        (slice(None), 3, slice(1, 5)),
        (slice(None, None, -1), slice(None), 0),
        ([2, 0], slice(0, 4, 2), [1, 1, 0]),
        (slice(1, 1), slice(None), slice(None)),
    ],
)
def test_indexing_a_lazy_tensor_is_indexing_the_loaded_one(bundled, key):
    lazy = bundled["layer4"]["weight"]
    indexers = dict(zip(lazy.dims, key, strict=True))
    np.testing.assert_array_equal(lazy.isel(indexers), lazy.compute().isel(indexers))


def test_a_subset_of_epochs_is_a_stack_too(bundled):
    early = bundled.sel(epoch=[0, 1])
    assert read_layer(early, "layer4", 1)["layer4.bias"].shape == (10,)
    with pytest.raises(UnknownNameError, match=r"no epoch 8(.|\n)*Known: 0, 1\."):
        read_layer(early, "layer4", 8)


def test_an_unknown_layer_is_refused_with_the_list(bundled):
    with pytest.raises(UnknownNameError, match=r"no layer 'layer9'(.|\n)*layer1, layer2"):
        read_layer(bundled, "layer9", 0)


def test_an_altered_checkpoint_is_refused_and_the_others_stay_usable(copied):
    stack = lx.open_stack(copied)
    damage(copied / "epoch-0003.safetensors")
    with pytest.raises(CheckpointError, match=r"epoch-0003.* has been altered(.|\n)*Expected"):
        read_epoch(stack, 3)
    assert len(read_epoch(stack, 2)) == 8


def test_a_missing_checkpoint_is_refused_and_the_others_stay_usable(copied):
    (copied / "epoch-0003.safetensors").unlink()
    stack = lx.open_stack(copied)
    with pytest.raises(CheckpointError, match=r"epoch-0003.* cannot be read"):
        read_layer(stack, "layer1", 3)
    assert len(read_epoch(stack, 2)) == 8


def test_state_dicts_become_a_stack_with_one_layer_per_module(switch):
    assert layer_names(switch) == ["first", "second"]
    assert switch.coords["epoch"].values.tolist() == [0, 1, 2]
    assert read_layer(switch, "first", 0)["first.bias"].tolist() == [5.0, 0.0, 0.0]


def test_epochs_can_be_given():
    stack = lx.open_stack(toy.switch_states(), epochs=[0, 10, 20])
    assert stack.coords["epoch"].values.tolist() == [0, 10, 20]


@pytest.mark.parametrize("epochs", [[0, 1], [0, 1, 1], [2, 1, 0]])
def test_epochs_that_do_not_rise_one_per_checkpoint_are_refused(epochs):
    with pytest.raises(StackError, match="One epoch per checkpoint"):
        lx.open_stack(toy.switch_states(), epochs=epochs)


def test_a_generator_of_live_state_dicts_is_copied_as_it_comes():
    net = toy.Switch()

    def training():
        for k in range(3):
            with torch.no_grad():
                net.first.bias.fill_(float(k))
            yield net.state_dict()

    stack = lx.open_stack(training(), model=net)
    assert stack["first"]["bias"].values[:, 0].tolist() == [0.0, 1.0, 2.0]


def test_a_list_of_live_state_dicts_is_refused():
    net = toy.Switch()
    with pytest.raises(StackError, match=r"share the memory(.|\n)*copy.deepcopy"):
        lx.open_stack([net.state_dict(), net.state_dict()], model=net)


def test_a_folder_is_ordered_by_the_numbers_in_its_names(tmp_path):
    states = [{n: t.numpy() for n, t in s.items()} for s in toy.switch_states()]
    for epoch, state in zip((9, 10, 100), states, strict=True):
        write_checkpoint(tmp_path / f"net_step2_ep{epoch}.safetensors", state, epoch)
    stack = lx.open_stack(tmp_path, model=toy.Switch())
    assert stack.coords["epoch"].values.tolist() == [9, 10, 100]
    assert read_layer(stack, "second", 10)["second.bias"].tolist() == [0.0, 2.0, 0.0]


def test_files_of_torch_are_read_without_running_code(tmp_path):
    for epoch, state in enumerate(toy.switch_states()):
        torch.save(state, tmp_path / f"{epoch}.pt")
    stack = lx.open_stack(sorted(tmp_path.iterdir()), model=toy.Switch())
    assert read_layer(stack, "first", 0)["first.bias"].tolist() == [5.0, 0.0, 0.0]


class Payload:
    def __reduce__(self):
        return print, ("code ran",)


def test_a_file_that_would_run_code_is_refused(tmp_path, capsys):
    torch.save({"w": Payload()}, tmp_path / "0.pt")
    with pytest.raises(CheckpointError, match=r"0.pt cannot be read as a checkpoint"):
        lx.open_stack(tmp_path / "0.pt")
    assert "code ran" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "suffix"), [(b"", ".pt"), (b"", ".safetensors"), (b"x" * 99, ".pt")]
)
def test_a_damaged_file_is_refused_by_name(tmp_path, content, suffix):
    path = tmp_path / f"0{suffix}"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"0\.\w+ cannot be read as a checkpoint: \w+"):
        lx.open_stack(path)


@pytest.mark.parametrize(
    ("state", "match"),
    [
        ({"state_dict": {"w": torch.ones(1)}}, r"holds a dict under 'state_dict'(.|\n)*reader="),
        ({}, r"holds a dict without tensors"),
        ({"epoch": 3}, r"holds a int under 'epoch'"),
    ],
)
def test_a_state_that_holds_more_than_tensors_is_refused(state, match):
    with pytest.raises(CheckpointError, match=match):
        lx.open_stack([state])


def test_a_reader_opens_other_formats(tmp_path):
    np.savez(tmp_path / "3.npz", **{n: t.numpy() for n, t in toy.switch_states()[0].items()})
    stack = lx.open_stack(tmp_path, reader=lambda path: dict(np.load(path)))
    assert stack.coords["epoch"].values.tolist() == [3]


def test_checkpoints_of_two_networks_are_refused():
    with pytest.raises(StackError, match=r"Checkpoint 1 differs from the first in conv.bias"):
        lx.open_stack([toy.switch_states()[0], toy.conv_states()[0]])


def test_another_networks_checkpoints_are_refused_with_the_names():
    with pytest.raises(StackError, match=r"lack conv.weight, conv.bias.*(.|\n)*first.weight"):
        lx.open_stack(toy.switch_states(), model=toy.ConvNet())


def test_a_wrong_shape_is_refused_with_both():
    states = copy.deepcopy(toy.switch_states())
    for state in states:
        state["first.weight"] = torch.eye(4)
    with pytest.raises(StackError, match=r"first.weight has shape \(4, 4\)(.|\n)*\(3, 3\)"):
        lx.open_stack(states, model=toy.Switch())


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(StackError, match="holds no checkpoint files"):
        lx.open_stack(tmp_path)


STATE = {"net.weight": torch.zeros(2, 2)}


@pytest.mark.parametrize(
    ("source", "match"),
    [
        ([], "no checkpoints"),
        (3, "source is a int"),
        (STATE, r"source is one state dict(.|\n)*Pass \[state_dict\]"),
        ({0: STATE, 5: STATE}, r"source is a mapping(.|\n)*epochs=list\(states\)"),
    ],
)
def test_what_is_no_stack_is_refused(source, match):
    with pytest.raises(StackError, match=match):
        lx.open_stack(source)


def test_buffers_are_told_from_parameters_with_and_without_a_model():
    for model in (toy.ConvNet(), None):
        stack = lx.open_stack(toy.conv_states(), model=model)
        kinds = {str(n): a.attrs["buffer"] for n, a in stack["norm"].data_vars.items()}
        assert kinds == {
            "weight": False,
            "bias": False,
            "running_mean": True,
            "running_var": True,
            "num_batches_tracked": True,
        }


def test_the_content_hash_follows_the_tensors(switch):
    states = toy.switch_states()
    assert content_hash(lx.open_stack(states)) == content_hash(switch)
    states[1]["first.bias"][0] += 1
    assert content_hash(lx.open_stack(states)) != content_hash(switch)


def test_opening_a_bundled_stack_does_not_import_torch():
    code = (
        "import explorer, sys; explorer.open_stack('fcn3x256-digits')\n"
        "assert 'xarray' in sys.modules; print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize(
    ("given", "hint"),
    [
        ("fcn3x256-digits", r"This str is no stack(.|\n)*open_stack\('fcn3x256-digits'\)"),
        ([STATE], r"This list is no stack(.|\n)*what explorer.open_stack returns"),
        (None, r"This NoneType is no stack"),
    ],
)
def test_what_could_be_opened_is_not_measured_unopened(given, hint):
    cells = lx.reinitialise("layer1", 0)
    for measure in (
        lambda: lx.sweep(given, progress=False),
        lambda: [*lx.evaluate(given, cells)],
        lambda: lx.predictions(given, cells),
        lambda: lx.reset_order(given, progress=False),
        lambda: lx.effective_parameters(given, progress=False),
        lambda: lx.paths(given, progress=False),
        lambda: lx.criticality(given, progress=False),
        lambda: lx.outputs(given, progress=False),
    ):
        with pytest.raises(StackError, match=hint):
            measure()


def test_a_stack_of_which_one_epoch_or_none_is_left_is_refused(bundled):
    """An epoch that is taken out has no coordinate to count along."""
    for stack, hint in (
        (bundled.isel(epoch=0), r"This Stack is no stack(.|\n)*isel\(epoch=\[0\]\)"),
        (bundled.isel(epoch=[]), r"epochs of this stack are \[\]"),
        (bundled.isel(epoch=[3, 0]), r"epochs of this stack are \[3, 0\](.|\n)*in this order"),
    ):
        for measure in (lx.sweep, lx.outputs, lx.criticality, lx.motion):
            with pytest.raises(StackError, match=hint):
                measure(stack, progress=False)
    lx.sweep(bundled.isel(epoch=[7]), draws=0, progress=False, device="cpu")
