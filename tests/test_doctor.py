"""The doctor finds each fault of a stack on disk, and nothing in the stack's healthy twin."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from torch import nn

import explorer as lx
from explorer import cli
from explorer.doctor import order
from explorer.doctor.hashing import RunningHash, tensor_spans
from explorer.errors import ExplorerError, StackError, UnknownNameError
from explorer.inventory.manifest import load_manifest
from explorer.inventory.store import checkpoint_file
from explorer.weights.checkpoints import SafetensorsCheckpoint
from explorer.weights.families.known import find_family
from explorer.weights.folder import about_of, file_entry, finish, save_checkpoint
from explorer.weights.fresh import fresh_layer
from explorer.weights.stack import epoch_numbers, read_epoch
from tests import toy

ROOT = Path(__file__).parents[1]
BUNDLED = sorted(load_manifest().stacks)
SIZES = {"depth": 2, "width": 32, "inputs": 64, "classes": 10}
FCN = find_family("fcn")
LAYERS = FCN.layers(SIZES)
NUMBERS = (0, 1, 2, 3, 4, 5)


def initial(seed=0, family="fcn", sizes=SIZES):
    """State of a freshly drawn network."""
    network = find_family(family).build(sizes)
    state = {}
    for layer, names in find_family(family).layers(sizes).items():
        state |= fresh_layer(network, family, layer, names, 0, seed)
    return {name: tensor.numpy() for name, tensor in state.items()}


def walk(seed=0, count=6):
    """States along a random walk, with steps of equal length on average."""
    generator = np.random.default_rng(seed)
    states = [initial(seed)]
    while len(states) < count:
        states.append({n: moved(a, generator) for n, a in states[-1].items()})
    return states


def moved(array, generator, far=0.03):
    return array + far * generator.standard_normal(array.shape, dtype=np.float32)


def describe(folder, numbers=NUMBERS, buffers=()):
    """Write a stack.json with the hashes of what lies in a folder."""
    entry = load_manifest()["fcn3x256-digits"]
    about = {**about_of(entry), "name": "made-up", "family": {"name": "fcn", "sizes": SIZES}}
    about["final"] = {"train_error": 0.1, "test_error": 0.1}
    del about["keep"]
    finish(folder, about, numbers, LAYERS, buffers)


def write(folder, states, numbers=NUMBERS, described=True):
    """Write a stack, with its stack.json or without."""
    for number, state in zip(numbers, states, strict=True):
        save_checkpoint(folder, number, state, "epoch")
    if described:
        describe(folder, numbers)
    return folder


@pytest.fixture
def healthy(tmp_path):
    """Write a stack with nothing wrong; return its folder."""
    return write(tmp_path / "healthy", walk())


@pytest.fixture
def bare(tmp_path):
    """Write the same without a stack.json; return its folder."""
    return write(tmp_path / "bare", walk(), described=False)


@pytest.fixture(scope="module")
def trained(bundled):
    """Return the states of the bundled stack."""
    return [read_epoch(bundled, epoch) for epoch in epoch_numbers(bundled)]


def check(stack, **options):
    return lx.check(stack, progress=False, **options)


def found(diagnosis, name, least="note"):
    """Findings of one check."""
    return [finding for finding in diagnosis.at_least(least) if finding.check == name]


def only(diagnosis, name, least="warning"):
    """The one finding that there is in all of its severity."""
    (finding,) = diagnosis.at_least(least)
    assert finding.check == name, finding
    return finding


# --- what is well stays quiet ---------------------------------------------------------------------


def test_a_healthy_stack_is_well_in_every_respect(healthy):
    diagnosis = check(healthy)
    assert {f.severity for f in diagnosis} == {"ok"}
    assert [f.check for f in diagnosis] == [
        *("hashes", "checkpoints", "shapes", "finite", "duplicates", "order", "beginning")
    ]
    assert {one.state for one in diagnosis.checkpoints} == {"verified"}
    assert diagnosis.worst == "ok"


def test_without_a_stack_json_it_is_said_what_cannot_be_judged(bare):
    diagnosis = check(bare)
    assert {f.check for f in diagnosis.at_least("note")} == {"hashes", "beginning"}
    assert diagnosis.worst == "note"
    assert {one.state for one in diagnosis.checkpoints} == {"unverified"}
    (beginning,) = found(diagnosis, "beginning")
    assert "Cannot be judged: the stack names no family" in beginning.found


@pytest.mark.parametrize("name", BUNDLED)
def test_no_bundled_stack_gives_a_warning(name):
    diagnosis = check(name)
    assert diagnosis.at_least("warning") == ()
    assert found(diagnosis, "order", "ok")[0].severity == "ok"
    assert found(diagnosis, "beginning", "ok")[0].severity == "ok"


@pytest.mark.parametrize("seed", range(5))
def test_no_random_walk_gives_a_warning(seed):
    assert check(walk(seed, 12)).at_least("warning") == ()


@pytest.mark.parametrize("seed", range(4))
def test_scatter_about_a_point_gives_no_warning_whatever_the_learning_rate_did(seed):
    generator = np.random.default_rng(seed)
    far = generator.choice([0.003, 0.03, 0.1], 12)
    far = np.sort(far)[::-1] if seed % 2 else np.repeat(far[:1], 12)  # falling, or the same
    start = initial(seed)
    states = [{n: moved(a, generator, f) for n, a in start.items()} for f in far]
    assert found(check(states), "order") == []


# --- files ----------------------------------------------------------------------------------------


def test_a_flipped_bit_is_found_and_the_rest_is_still_examined(healthy):
    path = healthy / "epoch-0003.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    diagnosis = check(healthy)
    finding = only(diagnosis, "hashes")
    assert (finding.severity, finding.epochs) == ("error", (3,))
    assert "epoch-0003.safetensors has another sha256" in finding.found
    assert [one.state for one in diagnosis.checkpoints].count("verified") == 5
    assert found(diagnosis, "beginning", "ok")[0].severity == "ok"


def test_a_missing_file_is_found(healthy):
    (healthy / "epoch-0004.safetensors").unlink()
    diagnosis = check(healthy)
    finding = only(diagnosis, "checkpoints")
    assert (finding.severity, finding.epochs) == ("error", (4,))
    assert "Missing: epoch-0004.safetensors" in finding.found
    assert diagnosis.checkpoints[4].state == "missing"


def test_a_file_that_was_cut_off_is_found(healthy, bare):
    for folder in (healthy, bare):
        path = folder / "epoch-0002.safetensors"
        path.write_bytes(path.read_bytes()[:-1000])
    size = (healthy / "epoch-0002.safetensors").stat().st_size
    finding = only(check(healthy), "checkpoints")
    assert (
        finding.found == f"Cut off: epoch-0002.safetensors has {size:,} bytes of {size + 1000:,}."
    )
    finding = only(check(bare), "checkpoints")
    assert (finding.severity, finding.epochs) == ("error", (2,))
    assert "cannot be read as a checkpoint" in finding.found


def test_one_file_alone_is_examined_whole_or_not(bare):
    path = bare / "epoch-0002.safetensors"
    assert check(path).worst == "note"
    path.write_bytes(b"")
    finding = only(check(path), "checkpoints")
    assert (finding.severity, finding.epochs) == ("error", (2,))


def test_several_damaged_checkpoints_are_all_reported(healthy):
    (healthy / "epoch-0000.safetensors").write_bytes(b"")
    (healthy / "epoch-0002.safetensors").unlink()
    state = load_file(healthy / "epoch-0004.safetensors")
    state["layer2.weight"][0, :3] = np.nan
    save_checkpoint(healthy, 4, state, "epoch")
    diagnosis = check(healthy)
    assert {(f.check, f.epochs) for f in diagnosis.at_least("error")} == {
        ("checkpoints", (0,)),
        ("checkpoints", (2,)),
        ("hashes", (4,)),
        ("finite", (4,)),
    }
    assert "epoch 0 could not be read" in found(diagnosis, "beginning")[0].found


def test_a_checkpoint_without_one_tensor_is_incomplete(tmp_path):
    states = walk()
    del states[3]["layer2.bias"]
    for described in (True, False):
        folder = write(tmp_path / str(described), states, described=described)
        finding = only(check(folder), "checkpoints")
        assert (finding.severity, finding.epochs) == ("error", (3,))
        assert (finding.layer.split(".")[0], finding.tensor) == ("layer2", "layer2.bias")


def test_a_numbered_folder_without_weights_is_found(tmp_path):
    for number, state in zip(NUMBERS, walk(), strict=True):
        save_file(state, make(tmp_path / f"checkpoint-{number}") / "model.safetensors")
    assert check(tmp_path).at_least("warning") == ()
    (make(tmp_path / "checkpoint-6") / "optimizer.pt").write_bytes(b"no weights")
    finding = only(check(tmp_path), "checkpoints")
    assert "checkpoint-6" in finding.found
    assert (finding.severity, finding.epochs) == ("error", (6,))


def test_a_numbered_folder_that_no_reader_counts_is_found_too(tmp_path):
    for number, state in zip(NUMBERS, walk(), strict=True):
        save_file(state, tmp_path / f"epoch-{number}.safetensors")
    make(tmp_path / "epoch-6")
    finding = only(check(tmp_path), "checkpoints")
    assert (finding.found, finding.epochs) == ("The folder epoch-6 holds no weights.", (6,))
    assert finding.severity == "error"


def test_a_reader_opens_other_formats_piece_by_piece_too(tmp_path):
    def load(path):
        with np.load(path) as file:
            return dict(file)

    states = walk()
    states[4]["layer1.bias"] = states[4]["layer1.bias"][:-1]
    for number, state in zip(NUMBERS, states, strict=True):
        np.savez(tmp_path / f"epoch-{number}.npz", **state)
    finding = only(check(tmp_path, reader=load), "shapes")
    assert finding.epochs == (4,)


def test_a_missing_shard_is_found(bare):
    index = {"weight_map": {"a": "epoch-0000.safetensors", "b": "epoch-0009.safetensors"}}
    (bare / "model.safetensors.index.json").write_text(json.dumps(index))
    finding = only(check(bare), "checkpoints")
    assert "of 2 shards epoch-0009.safetensors is not in" in finding.found
    index["weight_map"]["b"] = "epoch-0001.safetensors"
    (bare / "model.safetensors.index.json").write_text(json.dumps(index))
    assert check(bare).at_least("warning") == ()


def test_what_an_interrupted_write_left_behind_is_found(healthy):
    (healthy / ".epoch-0006.safetensors.123-0123abcd").write_bytes(b"half")
    (healthy / "epoch-0006.safetensors.incomplete").write_bytes(b"half")
    make(healthy / "tmp-checkpoint-6")
    warnings = check(healthy).at_least("warning")
    assert [f.found.partition(" was not written to its end")[0] for f in warnings] == [
        *(".epoch-0006.safetensors.123-0123abcd", "epoch-0006.safetensors.incomplete"),
        "tmp-checkpoint-6",
    ]
    assert {f.severity for f in warnings} == {"warning"}


def test_a_checkpoint_that_the_stack_does_not_name_is_a_note(healthy):
    save_checkpoint(healthy, 9, initial(), "epoch")
    (note,) = check(healthy).at_least("note")
    assert "epoch-0009.safetensors is in the folder, but no part of the stack" in note.found


def test_a_broken_stack_json_is_reported_and_the_files_are_examined(healthy):
    (healthy / "stack.json").write_text('{"schema_version": 1, "stacks": [')
    diagnosis = check(healthy)
    assert "stack.json, line 1" in only(diagnosis, "hashes").found
    assert len(diagnosis.checkpoints) == 6
    assert found(diagnosis, "finite", "ok")[0].severity == "ok"


# --- numbers --------------------------------------------------------------------------------------


def test_a_file_under_another_number_than_it_says_inside_is_found(healthy):
    a, b = healthy / "epoch-0002.safetensors", healthy / "epoch-0003.safetensors"
    a.rename(healthy / "aside")
    b.rename(a)
    (healthy / "aside").rename(b)
    describe(healthy)
    numbers = {f.epochs: f.found for f in found(check(healthy), "numbers")}
    assert set(numbers) == {(2,), (3,)}
    assert "epoch-0002.safetensors says in its metadata that it is epoch 3" in numbers[2,]


def test_a_number_that_stands_twice_is_found(bare):
    shutil.copy(bare / "epoch-0003.safetensors", bare / "again-3.safetensors")
    twice = found(check(bare), "numbers", "error")
    assert "again-3.safetensors, epoch-0003.safetensors have the same number" in twice[0].found


def test_a_gap_in_a_regular_row_is_a_note(tmp_path):
    numbers = [0, 1, 100, 200, 300, 500, 600, 700]
    folder = write(tmp_path, walk(0, 8), numbers)
    (note,) = check(folder).at_least("note")
    assert (note.check, "far apart: 400." in note.found) == ("numbers", True)


# --- tensors --------------------------------------------------------------------------------------


def test_nan_and_infinity_are_counted_per_tensor(tmp_path):
    states = walk()
    states[3]["layer1.weight"][0, :2] = np.nan
    states[4]["layer1.weight"][0, :5] = np.inf
    states[4]["layer3.bias"][1] = -np.inf
    diagnosis = check(write(tmp_path, states))
    errors = {f.tensor: f for f in diagnosis.at_least("warning")}
    assert set(errors) == {"layer1.weight", "layer3.bias"}
    assert errors["layer1.weight"].found == "2 NaN and 5 infinite values."
    assert errors["layer1.weight"].epochs == (3, 4)
    assert errors["layer3.bias"].layer == "layer3"
    assert all(f.check == "finite" for f in errors.values())


def test_a_mask_of_infinities_is_a_note():
    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(4, 4)
            self.register_buffer("mask", torch.full((4, 4), -torch.inf).triu(1))

    states = []
    for seed in range(3):
        torch.manual_seed(seed)
        states.append(Masked().state_dict())
    (finding,) = found(check(states, model=Masked()), "finite")
    assert (finding.severity, finding.tensor) == ("note", "mask")


def test_a_change_of_dtype_or_shape_is_found(tmp_path):
    for change in (lambda a: a.astype(np.float16), lambda a: a[:-1]):
        states = walk()
        states[2]["layer1.bias"] = change(states[2]["layer1.bias"])
        for described in (True, False):
            folder = write(tmp_path / f"{described}", states, described=described)
            finding = only(check(folder), "shapes")
            assert (finding.severity, finding.epochs) == ("error", (2,))
            assert finding.tensor == "layer1.bias"
            assert finding.found.endswith("instead of float32 (32,).")


def test_the_odd_one_out_is_named_even_if_it_is_the_first():
    states = walk()
    states[0] = {name: array.astype(np.float16) for name, array in states[0].items()}
    errors = check(states).at_least("error")
    assert {(f.check, f.epochs) for f in errors} == {("shapes", (0,))}


def test_tied_tensors_are_named():
    states = walk()
    for state in states:
        state["other.weight"] = state["layer2.weight"]
        state["third.weight"] = np.zeros((2, 2), np.float32)  # constants are no news
        state["fourth.weight"] = np.zeros((2, 2), np.float32)
    (note,) = found(check(states), "tied")
    assert note.found.startswith("layer2.weight and other.weight are the same in every checkpoint")
    assert note.severity == "note"
    states[-1]["other.weight"] = states[-1]["other.weight"] + 1
    assert found(check(states), "tied") == []


# --- duplicates and order -------------------------------------------------------------------------


def test_a_step_that_holds_the_final_model_is_an_error_and_nothing_else(tmp_path):
    states = walk()
    states[2] = states[-1]
    finding = only(check(write(tmp_path, states)), "duplicates")
    assert (finding.severity, finding.epochs) == ("error", (2,))
    assert "Holds the final model, that of epoch 5" in finding.found


def test_any_two_equal_checkpoints_with_others_between_are_an_error(tmp_path):
    states = walk()
    states[3] = states[1]
    finding = only(check(write(tmp_path, states)), "duplicates")
    assert (finding.severity, finding.epochs) == ("error", (1, 3))


def test_equal_neighbours_are_a_warning(tmp_path):
    states = walk()
    states[3] = states[2]
    finding = only(check(write(tmp_path, states)), "duplicates")
    assert (finding.severity, finding.epochs) == ("warning", (2, 3))


def test_one_bit_makes_no_duplicate(tmp_path):
    states = walk()
    states[2] = {name: array.copy() for name, array in states[-1].items()}
    states[2]["layer3.bias"][0] = np.nextafter(states[2]["layer3.bias"][0], np.float32(9))
    assert found(check(write(tmp_path, states)), "duplicates") == []


def test_two_that_have_changed_places_are_found(tmp_path):
    states = walk()
    states[2], states[3] = states[3], states[2]
    finding = only(check(write(tmp_path, states)), "order")
    assert (finding.severity, finding.epochs) == ("warning", (2, 3))
    assert "2 and 3 seem to have changed places" in finding.found


@pytest.mark.parametrize("pair", [(1, 2), (2, 3), (3, 4), (4, 5)])
def test_a_bundled_stack_with_two_epochs_exchanged_is_suspicious(pair, trained):
    """As step_9000 after step_10000 was, in a public stack."""
    states = list(trained)
    states[pair[0]], states[pair[1]] = states[pair[1]], states[pair[0]]
    (finding,) = found(check(states), "order")
    assert finding.epochs == pair


def test_a_checkpoint_of_another_run_is_far_off_the_path(tmp_path):
    states = walk()
    states[3] = walk(seed=1)[3]
    finding = only(check(write(tmp_path, states)), "order")
    assert (finding.severity, finding.epochs, finding.layer) == ("warning", (3,), "")
    assert "Far off the path between 2 and 4" in finding.found


def test_one_layer_of_another_run_is_named(tmp_path):
    """As when one shard is from another step."""
    states = walk()
    foreign = walk(seed=1)[3]
    states[3] |= {name: foreign[name] for name in LAYERS["layer2"]}
    finding = only(check(write(tmp_path, states)), "order")
    assert (finding.epochs, finding.layer) == ((3,), "layer2")


def test_few_weights_are_not_judged(switch):
    (note,) = found(check(switch), "order")
    assert "Cannot be judged: no layer has 1000 parameters" in note.found
    assert order.FEWEST == 1000


def test_two_checkpoints_have_no_order():
    (note,) = found(check(walk(0, 2)), "order")
    assert "2 checkpoints can be compared, and it takes three" in note.found


# --- the beginning --------------------------------------------------------------------------------


@pytest.mark.parametrize(("first", "sign"), [(1, "lie beyond all"), (4, "standard errors")])
def test_a_trained_checkpoint_is_no_initialisation(first, sign, trained, bundled):
    """After one epoch the moments are still those of the initialiser, but not the range."""
    network = FCN.build(bundled.attrs["sizes"])
    assert check(trained, model=network).at_least("warning") == ()
    finding = only(check(trained[first:], model=network), "beginning")
    assert (finding.severity, finding.epochs) == ("warning", (0,))
    assert "Not an initialisation" in finding.found
    assert sign in finding.found


def test_a_stack_that_does_not_claim_to_begin_at_the_beginning_gets_a_note(bundled):
    late = bundled.isel(epoch=slice(1, None))
    (note,) = found(check(late), "beginning")
    assert (note.severity, note.epochs) == ("note", (1,))


@pytest.mark.parametrize("change", [lambda a: a * 1.2, lambda a: a + 0.02, lambda a: a * 0])
def test_another_scale_mean_or_a_constant_is_no_draw(change, tmp_path):
    states = walk()
    states[0]["layer1.weight"] = change(states[0]["layer1.weight"]).astype(np.float32)
    (finding,) = found(check(write(tmp_path, states)), "beginning")
    assert (finding.layer, finding.tensor) == ("layer1", "layer1.weight")


def test_a_constant_of_the_initialiser_has_to_be_that_constant():
    model = toy.ConvNet()
    states = toy.conv_states()
    fresh = {name: t.clone() for name, t in model.state_dict().items()}
    assert found(check([fresh, *states], model=model), "beginning", "ok")[0].severity == "ok"
    (finding,) = found(check(states, model=model), "beginning")  # running statistics have moved
    assert "norm.running_mean" in finding.found
    assert "every value is 1, not 0" in finding.found  # num_batches_tracked


def test_a_module_that_cannot_draw_anew_cannot_be_judged():
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(3))

    (note,) = found(check([Own().state_dict()], model=Own()), "beginning")
    assert "Cannot be judged" in note.found
    assert "has no reset_parameters" in note.found


# --- how it reads ---------------------------------------------------------------------------------


def test_each_tensor_is_read_once_and_each_file_hashed_in_passing(healthy, monkeypatch):
    seen, hashed = [], []
    read, take = SafetensorsCheckpoint.read, RunningHash._take
    monkeypatch.setattr(
        SafetensorsCheckpoint, "read", lambda s, n: seen.append((s.source, n)) or read(s, n)
    )
    monkeypatch.setattr(
        RunningHash, "_take", lambda s, a, b: hashed.append((s._path, b - a)) or take(s, a, b)
    )
    assert check(healthy).worst == "ok"
    assert len(seen) == len(set(seen)) == 6 * 6
    path = healthy / "epoch-0000.safetensors"
    assert sum(n for p, n in hashed if p == path) == path.stat().st_size


def test_a_file_with_its_tensors_in_another_order_is_hashed_all_the_same(tmp_path):
    write(tmp_path, walk())
    path = tmp_path / checkpoint_file(3)
    state = load_file(path)
    state["layer3.bias"] = state["layer3.bias"].astype(np.float64)  # wide ones are laid out first
    save_file(state, path, metadata={"epoch": "3"})
    describe(tmp_path)
    assert list(tensor_spans(path)[1]) != list(tensor_spans(tmp_path / checkpoint_file(2))[1])
    diagnosis = check(tmp_path)
    assert {one.state for one in diagnosis.checkpoints} == {"verified"}
    assert only(diagnosis, "shapes").tensor == "layer3.bias"


def test_what_is_not_there_at_all_is_refused(tmp_path, bundled):
    with pytest.raises(UnknownNameError, match="no stack 'fcn3x256'"):
        check("fcn3x256")
    with pytest.raises(StackError, match="no checkpoint files"):
        check(tmp_path)
    with pytest.raises(ExplorerError, match="no checkpoints"):
        check([])
    with pytest.raises(StackError, match="has no checkpoints"):
        check(bundled.isel(epoch=[]))


# --- what is shown --------------------------------------------------------------------------------


def test_a_text_is_aligned_and_a_page_is_escaped(healthy):
    (healthy / "epoch-0004.safetensors").unlink()
    diagnosis = check(healthy)
    lines = str(diagnosis).splitlines()
    assert lines[0] == "made-up: 6 checkpoints, epochs 0, 1, 2, 3, 4, 5"
    assert lines[-1] == "1 error, 0 warnings, 0 notes."
    (at,) = [k for k, line in enumerate(lines) if line.startswith("error  checkpoints  epoch 4: ")]
    assert lines[at + 1] == " " * 20 + "→ Put the original file back, or leave this checkpoint out."
    html = diagnosis._repr_html_()
    assert html.index("Missing: epoch-0004") < html.index("have the known sha256")  # worst first
    assert all(len(line) <= 100 for line in lines)


def test_many_findings_of_one_kind_are_counted():
    states = walk()
    for k in range(20):
        for state in states:
            state[f"layer{k + 9}.weight"] = np.full(4, np.nan, np.float32)
    text = str(check(states))
    assert text.count("error  finite ") == 12
    assert "… and 8 more like this (all: --json)" in text


# --- the command ----------------------------------------------------------------------------------


def run(capsys, *arguments):
    status = cli.main([str(a) for a in arguments])
    said = capsys.readouterr()
    return status, said.out, said.err


def test_check_tells_scripts_what_it_found(capsys, healthy, tmp_path):
    status, said, progress = run(capsys, "check", healthy, "--strict")
    assert (status, "0 errors, 0 warnings, 0 notes." in said) == (0, True)
    assert "check: 100%" in progress
    states = walk()
    states[3] = states[2]  # a warning
    warned = write(tmp_path / "warned", states)
    assert run(capsys, "check", warned, "--quiet")[0::2] == (0, "")
    assert run(capsys, "check", warned, "--strict")[0] == 1
    (healthy / "epoch-0004.safetensors").unlink()
    assert run(capsys, "check", healthy)[0] == 1
    status, said, complaint = run(capsys, "check", tmp_path / "nothing")
    assert (status, said) == (2, "")
    assert "There is no stack" in complaint


def test_check_as_json_has_everything(capsys, healthy):
    (healthy / "epoch-0004.safetensors").unlink()
    status, said, _ = run(capsys, "check", healthy, "--json", "--quiet")
    content = json.loads(said)
    assert (status, content["worst"]) == (1, "error")
    assert content["checkpoints"][4] == {
        "epoch": 4,
        "file": "epoch-0004.safetensors",
        "state": "missing",
    }
    assert set(content["findings"][0]) == {
        *("severity", "check", "found", "advice", "epochs", "layer", "tensor")
    }


# --- docs/check.md --------------------------------------------------------------------------------


def spoil(folder):
    """Damage a copy of the bundled stack as docs/check.md shows it."""
    flipped = folder / checkpoint_file(1)
    content = bytearray(flipped.read_bytes())
    content[-2] ^= 0x40
    flipped.write_bytes(content)
    (folder / checkpoint_file(2)).write_bytes(content[:1_000_000])
    (folder / checkpoint_file(40)).unlink()
    state = load_file(folder / checkpoint_file(8))
    state["layer2.weight"][7, :5] = np.nan
    save_checkpoint(folder, 8, state, "epoch")
    state = load_file(folder / checkpoint_file(100))
    save_checkpoint(folder, 3, state, "epoch")
    entry = json.loads((folder / "stack.json").read_text(encoding="utf-8"))
    for checkpoint in entry["stacks"][0]["checkpoints"]:
        if checkpoint["epoch"] in (3, 8):
            checkpoint |= file_entry(folder, checkpoint["file"])
    (folder / "stack.json").write_text(json.dumps(entry), encoding="utf-8")


PAGE = (
    "check fcn3x256-digits",
    "check my-run",
    "diff fcn3x256-digits@3 fcn3x256-digits@100",
)


@pytest.mark.parametrize("command", PAGE)
def test_the_page_shows_what_the_command_prints(command, copied, monkeypatch, capsys):
    spoil(copied)
    copied.rename(copied.with_name("my-run"))
    monkeypatch.chdir(copied.parent)
    page = (ROOT / "docs" / "check.md").read_text(encoding="utf-8")
    shown = page.partition(f"$ explorer {command}\n")[2].partition("```")[0]
    assert len(shown) > 400
    assert run(capsys, *command.split())[1] == shown


def make(folder):
    """Make a folder and return it."""
    folder.mkdir(parents=True)
    return folder


@pytest.mark.parametrize(
    ("kind", "damaged", "unit", "numbers", "number"),
    [
        ("lightning", "epoch=1-step=4.ckpt", "step", [2, 4, 6], 4),
        ("open_lth", "model_ep2_it0.pth", "epoch", [0, 1, 2, 3], 2),
        ("timm", "checkpoint-1.pth.tar", "epoch", [1, 2, 3], 2),
        ("trainer", "checkpoint-4/model.safetensors", "step", [2, 4, 6], 4),
    ],
)
def test_a_damaged_checkpoint_of_another_library_is_the_only_finding(
    tmp_path, kind, damaged, unit, numbers, number
):
    """The readers know what is numbered how, and what is no checkpoint."""
    folder = tmp_path / kind
    shutil.copytree(Path(__file__).parent / "golden" / kind, folder)
    file = folder / damaged
    file.write_bytes(file.read_bytes()[:100])
    found = check(folder)
    assert found.unit == unit
    assert [one.epoch for one in found.checkpoints] == numbers
    (error,) = found.at_least("warning")
    assert (error.check, error.epochs) == ("checkpoints", (number,))


@pytest.mark.parametrize("damage", ["missing", "cut"])
def test_of_a_single_sharded_checkpoint_the_damage_is_said_and_shards_are_no_checkpoints(
    tmp_path, damage
):
    folder = Path(shutil.copytree(Path(__file__).parent / "golden" / "sharded", tmp_path / "one"))
    shard = max(folder.glob("*.safetensors"))
    if damage == "missing":
        shard.unlink()
    else:
        shard.write_bytes(shard.read_bytes()[:-10])
    found = check(folder)
    assert [one.epoch for one in found.checkpoints] == [0]
    problems = [one.found for one in found.at_least("error") if one.check == "checkpoints"]
    words = "1 of 2 shards are missing" if damage == "missing" else "cannot be read as a checkpoint"
    assert any(words in problem and shard.name in problem for problem in problems), problems
    assert not any("refuses" in one.found for one in found.at_least("note"))


def test_folders_that_no_reader_counts_are_looked_into_and_counted_by_their_names(tmp_path):
    for number, state in zip(NUMBERS, walk(), strict=True):
        save_file(state, make(tmp_path / f"step_{number}") / "net.safetensors")
    (make(tmp_path / "plots") / "loss.png").write_bytes(b"")
    found = check(tmp_path)
    assert (found.unit, [one.epoch for one in found.checkpoints]) == ("step", list(NUMBERS))
    assert found.at_least("warning") == ()


def test_two_files_with_one_number_are_examined_by_their_own_names(tmp_path):
    states = walk()
    for name, state in zip(("epoch-1.safetensors", "epoch-01.safetensors"), states, strict=False):
        save_file(state, tmp_path / name)
    found = check(tmp_path)
    assert [one.epoch for one in found.checkpoints] == [1, 1]
    assert any("refuses them" in one.found for one in found.at_least("note"))
    assert any(one.check == "numbers" for one in found.at_least("error"))
