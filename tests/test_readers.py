"""Checkpoints as other libraries leave them, and what a stack of them says about itself.

The folders in tests/golden are made by scripts/golden_folders.py; each number of a checkpoint in
them is the number of completed epochs.
"""

from __future__ import annotations

import json
import logging
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import explorer as lx
from explorer.errors import CheckpointError, StackError, UnknownNameError, UsageError
from explorer.weights.numbering import check_epochs
from explorer.weights.readers import torch_files
from explorer.weights.readers.when import MOST, When
from explorer.weights.stack import epoch_numbers, read_epoch
from tests import toy

GOLDEN = Path(__file__).parent / "golden"
ROOT = Path(__file__).parents[1]


def opened(name, **options):
    """Open a golden folder for the network that it is of."""
    return lx.open_stack(GOLDEN / name, model=toy.Switch(), **options)


def values(stack):
    """One number of each checkpoint, which is the same everywhere in it."""
    found = [
        {float(a.flat[k]) for a in read_epoch(stack, e).values() for k in (0, -1)}
        for e in epoch_numbers(stack)
    ]
    assert all(len(one) == 1 for one in found)
    return [one.pop() for one in found]


def copied_run(name, tmp_path):
    """Copy a golden folder, to be damaged."""
    return Path(shutil.copytree(GOLDEN / name, tmp_path / name))


# --- one test for each row of docs/stacks.md ------------------------------------------------------


def test_safetensors_files_are_read_and_bfloat16_becomes_float32():
    stack = opened("safetensors")
    assert (epoch_numbers(stack), values(stack)) == ([0, 1, 2], [0.0, 1.0, 2.0])
    assert stack["first"]["weight"].dtype == np.float32
    assert stack.attrs["notes"] == ["Stored as bfloat16, read as float32."]
    assert stack.attrs["reader"] == "safetensors"


@pytest.mark.parametrize("folder", ["torch", "torch-old"])
def test_files_of_torch_new_and_old_are_read(folder):
    stack = opened(folder)
    assert (epoch_numbers(stack), values(stack)) == ([0, 1, 2], [0.0, 1.0, 2.0])
    assert stack.attrs["reader"] == "torch"
    assert stack.attrs["notes"] == []


def test_shards_with_an_index_are_one_checkpoint():
    stack = lx.open_stack(GOLDEN / "sharded")
    assert epoch_numbers(stack) == [0]
    assert stack.attrs["layers"] == ["first", "second"]
    state = read_epoch(stack, 0)
    expected = {}
    for path in sorted((GOLDEN / "sharded").glob("*.safetensors")):
        expected |= {n: t.numpy() for n, t in safetensors_file(path).items()}
    assert len(expected) == 4
    for name, array in expected.items():
        np.testing.assert_array_equal(state[name], array)


def safetensors_file(path):
    from safetensors.torch import load_file

    return load_file(path)


def test_lightnings_files_count_steps_and_on_request_completed_epochs(caplog):
    caplog.set_level(logging.INFO)
    stack = opened("lightning")
    assert (epoch_numbers(stack), values(stack)) == ([2, 4, 6], [1.0, 2.0, 3.0])
    assert stack.attrs["checkpoint_unit"] == "step"
    assert stack.attrs["prefixes"] == ["model."]
    notes = [
        "Left out, as no numbered checkpoints: last.ckpt.",
        "The state dict under 'state_dict' was taken.",
        "Taken off the beginning of the names: 'model.'.",
    ]
    assert stack.attrs["notes"] == notes
    assert all(note in caplog.text for note in notes)
    by_epoch = opened("lightning", unit="epoch")
    assert (epoch_numbers(by_epoch), values(by_epoch)) == ([1, 2, 3], [1.0, 2.0, 3.0])
    assert by_epoch.attrs["checkpoint_unit"] == "epoch"


def test_the_trainers_folders_count_steps_and_on_request_completed_epochs():
    stack = opened("trainer")
    assert (epoch_numbers(stack), values(stack)) == ([2, 4, 6], [1.0, 2.0, 3.0])
    assert stack.attrs["checkpoint_unit"] == "step"
    assert epoch_numbers(opened("trainer", unit="epoch")) == [1, 2, 3]
    assert values(opened("trainer/checkpoint-4")) == [2.0]


@pytest.mark.parametrize("form", ["pytorch_model.bin", "shards"])
def test_the_trainers_older_forms_are_read_too(tmp_path, form):
    for step, state in zip((9, 10), toy.switch_states(), strict=False):
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        if form == "shards":
            names = {}
            for k, part in enumerate((list(state)[:2], list(state)[2:]), start=1):
                file = f"pytorch_model-0000{k}-of-00002.bin"
                torch.save({name: state[name] for name in part}, folder / file)
                names |= dict.fromkeys(part, file)
            index = folder / "pytorch_model.bin.index.json"
            index.write_text(json.dumps({"metadata": {}, "weight_map": names}))
        else:
            torch.save(state, folder / form)
    stack = lx.open_stack(tmp_path, model=toy.Switch())
    assert epoch_numbers(stack) == [9, 10]
    assert read_epoch(stack, 10)["second.bias"].tolist() == [0.0, 2.0, 0.0]


def test_open_lths_files_count_epochs_and_its_others_are_left_out():
    stack = opened("open_lth")
    assert (epoch_numbers(stack), values(stack)) == ([0, 1, 2, 3], [0.0, 1.0, 2.0, 3.0])
    assert stack.attrs["checkpoint_unit"] == "epoch"
    assert stack.attrs["notes"] == ["Left out, as no numbered checkpoints: checkpoint.pth."]


def test_open_lths_iterations_are_steps_and_not_mixed_with_epochs(tmp_path):
    for name in ("model_ep0_it0", "model_ep0_it500"):
        torch.save(toy.switch_states()[0], tmp_path / f"{name}.pth")
    stack = lx.open_stack(tmp_path)
    assert (epoch_numbers(stack), stack.attrs["checkpoint_unit"]) == ([0, 500], "step")
    torch.save(toy.switch_states()[0], tmp_path / "model_ep1_it0.pth")
    with pytest.raises(StackError, match=r"model_ep0_it0.pth and model_ep1_it0.pth among"):
        lx.open_stack(tmp_path)


def test_timms_files_are_read_in_spite_of_the_arguments_in_them():
    stack = opened("timm")
    assert (epoch_numbers(stack), values(stack)) == ([1, 2, 3], [1.0, 2.0, 3.0])
    assert stack.attrs["notes"] == [
        "timm counts from 0: its checkpoint-3 holds the network after 4 epochs.",
        "Left out, as no numbered checkpoints: last.pth.tar, model_best.pth.tar.",
        "The state dict under 'state_dict' was taken; beside it: state_dict_ema.",
    ]
    assert values(opened("timm", key="state_dict_ema")) == [1.0, 2.0, 3.0]


def test_a_file_of_timms_name_that_holds_no_mapping_says_nothing_of_its_epoch(tmp_path):
    path = tmp_path / "checkpoint-3.pth.tar"
    torch.save([torch.ones(2)], path)
    assert torch_files.torch_when(path) == When()
    with pytest.raises(CheckpointError, match=r"checkpoint-3.*it holds a list"):
        lx.open_stack(tmp_path)


def test_one_file_per_layer_is_one_checkpoint():
    net = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3))
    stack = lx.open_stack(GOLDEN / "neox", model=net)
    assert (epoch_numbers(stack), values(stack)) == ([0, 1, 1000], [0.0, 1.0, 2.0])
    assert stack.attrs["checkpoint_unit"] == "step"
    assert stack.attrs["layers"] == ["0", "2"]


@pytest.mark.parametrize(
    "name", ["state_dict", "model", "model_state_dict", "ema", "module", "anything"]
)
def test_a_nested_state_dict_is_found_and_named(tmp_path, name):
    state = toy.switch_states()[1]
    optimiser = {"state": {0: {"momentum_buffer": torch.ones(2)}}, "param_groups": [{"lr": 0.1}]}
    torch.save({"epoch": 7, name: state, "optimizer": optimiser}, tmp_path / "newest.pt")
    stack = lx.open_stack(tmp_path, model=toy.Switch())
    assert read_epoch(stack, 7)["second.bias"].tolist() == [0.0, 2.0, 0.0]
    assert stack.attrs["notes"] == [f"The state dict under {name!r} was taken."]


def test_the_table_of_formats_names_tests_that_exist():
    page = (ROOT / "docs" / "stacks.md").read_text(encoding="utf-8")
    rows = [line for line in page.splitlines() if re.match(r"\|.*`test_\w+`", line)]
    named = re.findall(r"`(test_\w+)`", page)
    source = "".join(p.read_text(encoding="utf-8") for p in Path(__file__).parent.glob("test_*.py"))
    assert [name for name in named if f"def {name}(" not in source] == []
    assert len(rows) >= 12
    listed = set(re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE))
    assert listed >= set(lx.readers().index)


# --- which state dict -----------------------------------------------------------------------------


def test_of_several_state_dicts_the_usual_one_is_taken_and_the_others_are_named(tmp_path):
    first, second, _ = toy.switch_states()
    torch.save({"model": first, "ema": second}, tmp_path / "0.pt")
    stack = lx.open_stack(tmp_path, model=toy.Switch())
    assert read_epoch(stack, 0)["first.bias"][0] == 5.0
    assert stack.attrs["notes"] == ["The state dict under 'model' was taken; beside it: ema."]
    chosen = lx.open_stack(tmp_path, model=toy.Switch(), key="ema")
    assert read_epoch(chosen, 0)["second.bias"][1] == 2.0


def test_a_nested_key_is_written_with_a_dot(tmp_path):
    torch.save({"model": {}, "ema": {"module": toy.switch_states()[0]}}, tmp_path / "0.pt")
    stack = lx.open_stack(tmp_path, key="ema.module")
    assert read_epoch(stack, 0)["first.bias"][0] == 5.0


@pytest.mark.parametrize(
    ("content", "key", "match"),
    [
        ({"a": 0, "b": 1}, None, r"holds several state dicts: a, b\.(.|\n)*key='a'"),
        ({"model": 0, "state_dict": 1}, None, r"several state dicts: model, state_dict"),
        ({"model": 0}, "ema", r"no state dict under 'ema'(.|\n)*'model': a dict"),
    ],
)
def test_what_is_not_clear_is_refused_with_the_choices(tmp_path, content, key, match):
    states = toy.switch_states()
    torch.save({name: states[k] for name, k in content.items()}, tmp_path / "0.pt")
    with pytest.raises(CheckpointError, match=match):
        lx.open_stack(tmp_path, key=key)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ({}, r"0\.pt cannot be read as a checkpoint: it holds an empty mapping"),
        ([1], r"holds a list"),
        ({"epoch": 3, "w": torch.ones(1)}, r"a mapping with 'epoch': a int, 'w': a tensor"),
        (toy.Switch(), r"holds a whole tests.toy.Switch object(.|\n)*net.state_dict\(\)"),
    ],
)
def test_what_is_no_state_dict_is_refused_with_what_it_is(tmp_path, content, match):
    torch.save(content, tmp_path / "0.pt")
    with pytest.raises(CheckpointError, match=match):
        lx.open_stack(tmp_path / "0.pt")


# --- names ----------------------------------------------------------------------------------------


class Wrapper(nn.Module):
    """Keeps a network under the name that Lightning's users give it."""

    def __init__(self):
        super().__init__()
        self.model = toy.Switch()


WRAPPED = {
    "module.": lambda: nn.DataParallel(toy.Switch()),
    "_orig_mod.": lambda: torch.compile(toy.Switch()),
    "model.": Wrapper,
    "module._orig_mod.": lambda: nn.DataParallel(torch.compile(toy.Switch())),
}


@pytest.mark.parametrize("model", [toy.Switch(), None])
@pytest.mark.parametrize("prefix", WRAPPED)
def test_what_a_wrapper_puts_before_the_names_is_taken_off_and_named(prefix, model):
    wrapped = WRAPPED[prefix]()
    state = {name: tensor.clone() for name, tensor in wrapped.state_dict().items()}
    stack = lx.open_stack([state], model=model)
    assert stack.attrs["prefixes"] == [prefix]
    assert stack.attrs["notes"] == [f"Taken off the beginning of the names: '{prefix}'."]
    assert list(read_epoch(stack, 0)) == list(toy.Switch().state_dict())
    assert prefix[:-1] in stack._repr_html_()


def test_a_prefix_that_is_the_models_own_stays():
    stack = lx.open_stack([Wrapper().state_dict()], model=Wrapper())
    assert "prefixes" not in stack.attrs
    assert stack.attrs["layers"] == ["model.first", "model.second"]


def test_names_beside_the_prefix_are_left_alone_and_listed():
    state = {**Wrapper().state_dict(), "loss.weight": torch.ones(3)}
    stack = lx.open_stack([state], model=toy.Switch())
    assert stack.attrs["unmatched"] == ["loss.weight"]
    assert "Left alone, as no part of the model: loss.weight." in stack.attrs["notes"]


@pytest.mark.parametrize("prefix", ["", "module."])
def test_names_that_the_model_lacks_are_never_passed_over(prefix):
    state = {prefix + name: t for name, t in toy.switch_states()[0].items()}
    with pytest.raises(StackError, match=r"lack nothing and have third.bias beyond the model's"):
        lx.open_stack([{**state, f"{prefix}third.bias": torch.ones(1)}], model=toy.Switch())
    del state[f"{prefix}first.bias"]
    with pytest.raises(StackError, match=r"lack first.bias and have nothing beyond"):
        lx.open_stack([state], model=toy.Switch())


def test_no_name_in_common_is_an_error_of_its_own():
    with pytest.raises(StackError, match=r"None of the 4 names(.|\n)*module\., _orig_mod\.(.|\n)*"):
        lx.open_stack([toy.switch_states()[0]], model=toy.ConvNet())


def test_checkpoints_with_and_without_a_prefix_are_one_stack():
    first, second, _ = toy.switch_states()
    wrapped = {f"module.{name}": tensor for name, tensor in second.items()}
    stack = lx.open_stack([first, wrapped], model=toy.Switch())
    assert read_epoch(stack, 1)["second.bias"][1] == 2.0


# --- sources and numbers --------------------------------------------------------------------------


def save_steps(folder, numbers, form="step_{}.pt"):
    folder.mkdir(exist_ok=True)
    for number in numbers:
        torch.save(toy.switch_state(float(number), 0.0), folder / form.format(number))
    return folder


def numbers_of(stack):
    """First bias of each checkpoint: the number under which it was saved."""
    return [int(v) for v in stack["first"]["bias"].values[:, 0]]


def test_step_9000_comes_before_step_10000(tmp_path):
    stack = lx.open_stack(save_steps(tmp_path, (10000, 9000, 800)))
    assert epoch_numbers(stack) == numbers_of(stack) == [800, 9000, 10000]
    assert stack.attrs["checkpoint_unit"] == "step"
    given = lx.open_stack(tmp_path, epochs=[1, 2, 3])
    assert (epoch_numbers(given), numbers_of(given)) == ([1, 2, 3], [800, 9000, 10000])


def test_a_pattern_and_a_list_are_sources_like_a_folder(tmp_path):
    for number in (2, 10):
        save_steps(tmp_path / f"step{number}", [number], "model.pt")
    from_pattern = lx.open_stack(str(tmp_path / "*" / "model.pt"))
    assert from_pattern.attrs["name"] == tmp_path.name
    from_list = lx.open_stack([tmp_path / "step10" / "model.pt", tmp_path / "step2" / "model.pt"])
    for stack in (from_pattern, from_list):
        assert epoch_numbers(stack) == numbers_of(stack) == [2, 10]
        assert stack.attrs["checkpoint_unit"] == "step"


def test_the_largest_number_that_a_coordinate_holds_is_an_epoch():
    assert check_epochs([0, MOST], ["a", "b"]) == [0, MOST]
    with pytest.raises(StackError, match=r"^b has the number 9223372036854775808"):
        check_epochs([0, MOST + 1], ["a", "b"])


def test_given_epochs_belong_to_a_list_in_its_own_order(tmp_path):
    save_steps(tmp_path, (1, 2))
    stack = lx.open_stack([tmp_path / "step_2.pt", tmp_path / "step_1.pt"], epochs=[5, 6])
    assert numbers_of(stack) == [2, 1]


def test_an_iterator_of_state_dicts_is_a_source():
    stack = lx.open_stack(iter([toy.switch_state(0.0, 0.0), toy.switch_state(1.0, 0.0)]))
    assert epoch_numbers(stack) == numbers_of(stack) == [0, 1]


@pytest.mark.parametrize(
    ("form", "unit"),
    [
        ("epoch{}.pt", "epoch"),
        ("net-ep{}.pt", "epoch"),
        ("step{}-tokens4B.pt", "step"),
        ("iter_000{}.pt", "step"),
        ("{}.pt", "epoch"),
        ("resnet18-{}.pt", "epoch"),
        ("epoch=7-step={}-v1.pt", "step"),
        ("step2_epoch{}.pt", "epoch"),
        ("sweep7-epoch.{}.pt", "epoch"),
    ],
)
def test_a_name_says_what_its_number_counts(tmp_path, form, unit):
    stack = lx.open_stack(save_steps(tmp_path, (3, 12), form))
    assert (epoch_numbers(stack), stack.attrs["checkpoint_unit"]) == ([3, 12], unit)


def test_a_file_says_its_epoch_where_its_name_does_not(tmp_path):
    for name, epoch in (("begin", 3), ("end", 12)):
        content = {"epoch": epoch, "global_step": 10 * epoch, "model": toy.switch_state(epoch, 0.0)}
        torch.save(content, tmp_path / f"{name}.pt")
    for options, numbers in (({}, [30, 120]), ({"unit": "epoch"}, [3, 12])):
        stack = lx.open_stack(tmp_path, **options)
        assert epoch_numbers(stack) == numbers
        assert numbers_of(stack) == [3, 12]
        assert not any("in the order" in note for note in stack.attrs["notes"])


def test_our_own_files_say_their_epoch_under_any_name(tmp_path):
    from explorer.weights.checkpoints import write_checkpoint

    state = {n: t.numpy() for n, t in toy.switch_states()[0].items()}
    write_checkpoint(tmp_path / "renamed.safetensors", state, 16, "step")
    stack = lx.open_stack(tmp_path)
    assert (epoch_numbers(stack), stack.attrs["checkpoint_unit"]) == ([16], "step")


def save_named(folder, names):
    """Files whose first bias is their place in this order."""
    for k, name in enumerate(names):
        (folder / name).parent.mkdir(exist_ok=True)
        torch.save(toy.switch_state(float(k), 0.0), folder / name)
    return folder


@pytest.mark.parametrize(
    "names",
    [
        ["start.pt", "end.pt"],
        ["init.pt", "final.pt"],
        ["ModelINIT.pt", "modelBest.pt", "ModelFinal.pt"],
        ["vgg-untrained.pt", "vgg-a.pt", "vgg-b.pt", "vgg-trained.pt"],
        ["random/model.pt", "final/model.pt"],
        ["begin.pt", "initiated.pt", "weekend.pt", "last.pt"],
        ["a.pt", "b.pt"],
        ["a.pt", "random-to-final.pt"],
    ],
)
@pytest.mark.parametrize("epochs", [False, True])
def test_files_without_numbers_are_ordered_by_words_and_the_order_is_said(tmp_path, names, epochs):
    save_named(tmp_path, names)
    source = str(tmp_path / "*" / "*.pt") if "/" in names[0] else tmp_path
    options = {"epochs": [10 * k for k in range(len(names))]} if epochs else {}
    stack = lx.open_stack(source, **options)
    assert numbers_of(stack) == list(range(len(names)))
    assert stack.attrs["notes"] == [
        f"Without numbers in their names, the checkpoints were taken in the order "
        f"{', '.join(names)}, and {names[-1]} for the trained network. Where that is wrong, pass "
        "the files as a list in the order of training, with epochs=[…]."
    ]


def test_a_list_of_files_without_numbers_keeps_its_order_and_it_is_said(tmp_path):
    save_named(tmp_path, ["init.pt", "final.pt"])
    files = [tmp_path / "final.pt", tmp_path / "init.pt"]
    stack = lx.open_stack(files)
    assert numbers_of(stack) == [1, 0]
    assert "in the order final.pt, init.pt, and init.pt for the" in stack.attrs["notes"][0]
    assert lx.open_stack(files, epochs=[0, 1]).attrs["notes"] == []


def test_the_trained_network_among_files_without_numbers_is_the_last_that_is_kept(tmp_path):
    names = [f"{letter}.pt" for letter in "abcdefgh"]
    stack = lx.open_stack(save_named(tmp_path, names), only=[0, 4])
    assert numbers_of(stack) == [0, 4]
    said = "in the order a.pt, b.pt, c.pt, …, g.pt, h.pt, and e.pt for the trained network."
    assert said in stack.attrs["notes"][0]


def test_words_do_not_matter_beside_numbers(tmp_path):
    save_named(tmp_path, ["end-of-epoch-1.pt", "start-of-epoch-2.pt", "best.pt"])
    stack = lx.open_stack(tmp_path)
    assert (epoch_numbers(stack), numbers_of(stack)) == ([1, 2], [0, 1])
    assert stack.attrs["notes"] == ["Left out, as no numbered checkpoints: best.pt."]
    assert numbers_of(lx.open_stack(tmp_path, epochs=[5, 6])) == [0, 1]


def test_one_file_without_a_number_needs_no_order(tmp_path):
    assert lx.open_stack(save_named(tmp_path, ["final.pt"])).attrs["notes"] == []


def test_two_checkpoints_with_one_number_are_refused_by_name(tmp_path):
    save_steps(tmp_path, (3,))
    save_steps(tmp_path, (3,), "step_{}-v1.pt")
    with pytest.raises(StackError, match=r"step_3-v1.pt and step_3.pt have the same"):
        lx.open_stack(tmp_path)


def test_a_unit_that_the_checkpoints_do_not_have_is_refused(tmp_path):
    save_steps(tmp_path, (3, 4))
    with pytest.raises(StackError, match=r"step_3.pt does not say its epoch, nor do 1 more"):
        lx.open_stack(tmp_path, unit="epoch")
    with pytest.raises(UsageError, match=r"'pass'(.|\n)*'epoch' and 'step'"):
        lx.open_stack(tmp_path, unit="pass")


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ({"every": 4}, [0, 4, 8, 10]),
        ({"only": range(2, 8, 2)}, [2, 4, 6]),
        ({"only": range(8, 100, 2)}, [8, 10]),
        ({"only": slice(3, 6)}, [3, 4, 5, 6]),
        ({"only": slice(8, None)}, [8, 9, 10]),
        ({"only": [0, 10]}, [0, 10]),
        ({"only": range(2, 9), "every": 3}, [2, 5, 8]),
    ],
)
def test_a_stride_and_a_range_choose_checkpoints(tmp_path, options, kept):
    folder = save_steps(tmp_path, range(11))
    for source in (folder, lx.open_stack(folder), [toy.switch_state(k, 0.0) for k in range(11)]):
        stack = lx.open_stack(source, **options)
        assert epoch_numbers(stack) == numbers_of(stack) == kept


def test_what_is_not_chosen_is_not_opened(tmp_path, monkeypatch):
    folder = save_steps(tmp_path, range(11))
    seen = []
    original = torch_files.TorchCheckpoint.specs
    monkeypatch.setattr(
        torch_files.TorchCheckpoint,
        "specs",
        lambda self: seen.append(self.path.name) or original(self),
    )
    lx.open_stack(folder, every=5)
    assert seen == ["step_0.pt", "step_5.pt", "step_10.pt"]


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"every": 0}, UsageError, "every is 0"),
        ({"only": [7]}, UnknownNameError, r"no checkpoint 7\.(.|\n)*Known: 1, 2"),
        ({"only": range(5, 9)}, StackError, r"None of the 2 checkpoints, 1 to 2, is in range"),
    ],
)
def test_a_choice_that_leaves_nothing_is_refused(tmp_path, options, error, match):
    with pytest.raises(error, match=match):
        lx.open_stack(save_steps(tmp_path, (1, 2)), **options)


def test_sel_and_isel_are_those_of_xarray(tmp_path):
    stack = lx.open_stack(save_steps(tmp_path, (0, 10, 20, 30)))
    assert numbers_of(stack.sel(epoch=slice(10, 20))) == [10, 20]
    assert numbers_of(stack.isel(epoch=[0, -1])) == [0, 30]
    assert float(stack.sel(epoch=10)["first"]["bias"][0]) == 10.0
    assert float(stack["first"]["bias"].sel(epoch=29, method="nearest")[0]) == 30.0
    with pytest.raises(KeyError, match="not all values found"):
        stack.sel(epoch=11)


# --- readers of others ----------------------------------------------------------------------------


ADDED = """
import json
import numpy as np
from explorer.weights.checkpoints import StateCheckpoint
from explorer.weights.readers.reader import Reader

def open_lists(path, key):
    return StateCheckpoint({n: np.array(v) for n, v in json.loads(path.read_text()).items()})

lists = Reader("", "lists in JSON", lambda path: path.suffix == ".lists", open_lists)
"""


@pytest.fixture
def added(tmp_path, monkeypatch):
    """Install a package that adds a reader."""

    def install(module, target="reader_of_lists:lists"):
        site = tmp_path / "site"
        about = site / "reader_of_lists-1.dist-info"
        about.mkdir(parents=True)
        (about / "METADATA").write_text(
            "Metadata-Version: 2.1\nName: reader-of-lists\nVersion: 1\n"
        )
        (about / "entry_points.txt").write_text(f"[explorer.readers]\nlists = {target}\n")
        (site / "reader_of_lists.py").write_text(module)
        monkeypatch.syspath_prepend(str(site))
        monkeypatch.delitem(sys.modules, "reader_of_lists", raising=False)

    return install


def test_the_readers_are_listed_with_what_they_read():
    table = lx.readers()
    assert list(table.columns) == ["reads", "from"]
    assert {"safetensors", "torch", "lightning", "trainer", "neox"} <= set(table.index)
    assert set(table["from"]) == {"layer-explorer"}


def test_another_package_adds_a_reader_through_its_entry_point(added, tmp_path):
    added(ADDED)
    assert lx.readers().loc["lists"].tolist() == ["lists in JSON", "reader-of-lists"]
    runs = tmp_path / "runs"
    runs.mkdir()
    (runs / "epoch-3.lists").write_text('{"layer.bias": [1.0, 2.0]}')
    for options in ({}, {"reader": "lists"}):
        stack = lx.open_stack(runs, **options)
        assert read_epoch(stack, 3)["layer.bias"].tolist() == [1.0, 2.0]
        assert stack.attrs["reader"] == "lists"


@pytest.mark.parametrize(
    ("module", "match"),
    [
        ("lists = 3", r"'lists' of the package reader-of-lists is a int"),
        ("import not_there", r"reader-of-lists cannot be loaded: No module named 'not_there'"),
    ],
)
def test_an_entry_point_that_is_no_reader_is_told_by_package(added, module, match):
    added(module)
    with pytest.raises(StackError, match=match):
        lx.readers()
    assert values(opened("torch")) == [0.0, 1.0, 2.0]  # ours work as before


def test_a_reader_is_chosen_by_name(tmp_path):
    torch.save(toy.switch_states()[0], tmp_path / "weights.of3")
    with pytest.raises(CheckpointError, match=r"weights.of3 is not recognised(.|\n)*Readable: "):
        lx.open_stack(tmp_path / "weights.of3")
    stack = lx.open_stack(tmp_path / "weights.of3", reader="torch")
    assert read_epoch(stack, 0)["first.bias"][0] == 5.0
    with pytest.raises(UnknownNameError, match=r"no reader 'torhc'(.|\n)*mean 'torch'"):
        lx.open_stack(tmp_path / "weights.of3", reader="torhc")


def test_reading_files_of_torch_does_not_import_torch():
    code = (
        f"import explorer, sys; stack = explorer.open_stack({str(GOLDEN / 'timm')!r})\n"
        "assert float(stack['first']['bias'].values[0, 0]) == 1.0; print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
