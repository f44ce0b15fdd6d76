"""What bad input gets: each fault by itself, and one bad checkpoint among good ones."""

from __future__ import annotations

import json
import pickle
import shutil
import struct
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

import explorer as lx
from explorer.errors import CheckpointError, StackError
from explorer.weights.checkpoints import array_spec
from explorer.weights.readers.pickled import PickleError, read_pickle
from explorer.weights.stack import content_hash, epoch_numbers, read_epoch
from tests import toy
from tests.test_readers import GOLDEN, copied_run, values

LITTLE = 2_000_000
"""Bytes: what opening a bad file may allocate. Each of them declares far more."""


def saved(tmp_path, content=None, **options):
    path = tmp_path / "step_0.pt"
    torch.save(toy.switch_states()[0] if content is None else content, path, **options)
    return path


def rewritten(path, change):
    """Write a zip archive anew, each record as `change(name, data)` gives it."""
    with zipfile.ZipFile(path) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in records.items():
            data, how = change(name, data)
            if data is not None:
                archive.writestr(name, data, how)
    return path


def damaged(path, edit):
    raw = bytearray(path.read_bytes())
    path.write_bytes(edit(raw))
    return path


@pytest.mark.parametrize("old", [False, True], ids=["new", "old"])
@pytest.mark.parametrize(
    ("edit", "match"),
    [
        (lambda raw: b"", r"cannot be read as a checkpoint: it is empty"),
        (lambda raw: raw[: len(raw) // 2], r"cut short|is damaged|declares"),
        (lambda raw: raw[:-1], r"cut short|declares \d+ bytes and has|follows the end"),
        (lambda raw: raw + bytes(1000), r"follows the end|declares \d+ bytes and has \d+"),
        (lambda raw: b"<html>not found</html>", r"does not begin as a file of torch.save does"),
    ],
    ids=["empty", "half", "one byte less", "1000 bytes more", "foreign"],
)
def test_a_file_that_is_no_whole_checkpoint_is_refused(tmp_path, edit, match, old):
    path = damaged(saved(tmp_path, _use_new_zipfile_serialization=not old), edit)
    with pytest.raises(CheckpointError, match=rf"step_0.pt.*({match})"):
        lx.open_stack(path)


def test_an_archive_of_something_else_is_refused_by_its_name(tmp_path):
    program, others = tmp_path / "step_0.pt", tmp_path / "step_1.pt"
    for path, names in ((program, ("a/data.pkl", "a/constants.pkl")), (others, ("a.txt",))):
        with zipfile.ZipFile(path, "w") as archive:
            for name in names:
                archive.writestr(name, "nothing")
    with pytest.raises(CheckpointError, match=r"step_0.pt.* it is a program of torch.jit and no"):
        lx.open_stack(program)
    with pytest.raises(CheckpointError, match=r"step_1.pt.* it is a zip archive of others and no"):
        lx.open_stack(others)


@pytest.mark.parametrize(
    ("edit", "match"),
    [
        (lambda raw: b"", "header"),
        (lambda raw: raw[:-1], "step_0.safetensors cannot be read"),
        (lambda raw: raw + bytes(1000), "step_0.safetensors cannot be read"),
    ],
    ids=["empty", "one byte less", "1000 bytes more"],
)
def test_a_safetensors_file_that_is_not_whole_is_refused(tmp_path, edit, match):
    path = damaged(good_safetensors(tmp_path), edit)
    with pytest.raises(CheckpointError, match=match):
        lx.open_stack(path)


def good_safetensors(tmp_path):
    path = tmp_path / "step_0.safetensors"
    save_file({"w": np.ones(4, np.float32), "v": np.zeros(4, np.float32)}, path)
    return path


def test_a_changed_bit_in_a_file_of_torch_is_noticed(tmp_path):
    path = saved(tmp_path)
    with zipfile.ZipFile(path) as archive, archive.open("step_0/data/0") as stream:
        content = stream.read()
    at = path.read_bytes().index(content)
    damaged(path, lambda raw: raw[: at + 3] + bytes([raw[at + 3] ^ 1]) + raw[at + 4 :])
    torch.load(path, weights_only=True)  # torch itself takes it
    stack = lx.open_stack(path)
    with pytest.raises(CheckpointError, match=r"step_0.pt.*does not fit its checksum"):
        read_epoch(stack, 0)


def test_an_encrypted_archive_is_told(tmp_path):
    path = saved(tmp_path, {"w": torch.ones(2)})
    flag = path.read_bytes().index(b"PK\x01\x02") + 8  # of the first record in the directory
    damaged(path, lambda raw: raw[:flag] + bytes([raw[flag] | 1]) + raw[flag + 1 :])
    with pytest.raises(CheckpointError, match=r"step_0.pt.*records are encrypted, which is not"):
        lx.open_stack(path)


# --- pickles --------------------------------------------------------------------------------------


class Payload:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("old", [False, True], ids=["new", "old"])
@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize(
    ("function", "name"),
    [(print, "builtins.print"), (eval, "builtins.eval"), (getattr, "builtins.getattr")],
)
def test_a_pickle_that_would_call_something_is_refused_by_its_name(
    tmp_path, capsys, function, name, protocol, old
):
    content = {"w": torch.ones(1), "x": Payload(function, "print('code ran')")}
    path = saved(
        tmp_path, content, pickle_protocol=protocol, _use_new_zipfile_serialization=not old
    )
    with pytest.raises(CheckpointError, match=rf"it would call {name}, which is not"):
        lx.open_stack(path)
    assert "code ran" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (b"", "pickle is damaged"),
        (b"\x80\x02", "pickle is damaged"),
        (b"\x80\x02.", "pickle is damaged"),
        (b"\x80\x02h\x05.", "pickle is damaged"),
        (b"\x80\x02NNt.", "no mark"),
        (b"\x80\x02]}s.", "pickle is damaged"),
        (b"\x80\x02\x8e" + struct.pack("<Q", 2**62) + b"x.", "pickle is damaged"),
        (b"\x80\x05\x96" + struct.pack("<Q", 2**62) + b"x.", "damaged|not understood"),
        (b"\x80\x02N" + b"r" + struct.pack("<I", 2**32 - 1), "pickle is damaged"),
        (b"\x80\x02\x82\x01.", "EXT1"),
        (b"(i__builtin__\nprint\n.", "INST"),
        (pickle.dumps(7)[:-1] + b"Q.", "pickle is damaged"),
    ],
)
def test_a_damaged_pickle_is_told_and_takes_no_memory(data, match):
    from io import BytesIO

    with bounded(), pytest.raises(PickleError, match=match):
        read_pickle(BytesIO(data))


class bounded:  # noqa: N801 - reads as a word
    """Fail when more memory is allocated within than a little."""

    def __enter__(self):
        tracemalloc.start()

    def __exit__(self, *_):
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert most < LITTLE


# --- sizes ----------------------------------------------------------------------------------------


def compressed(tmp_path):
    path = saved(tmp_path, {"w": torch.zeros(2_000_000)})
    return rewritten(path, lambda name, data: (data, zipfile.ZIP_DEFLATED))


def expanded(tmp_path):
    return saved(tmp_path, {"w": torch.ones(1).expand(10**12)})


def too_large_storage(tmp_path):
    huge = struct.pack("<i", 2**30)
    path = saved(tmp_path, {"w": torch.ones(77)})
    return rewritten(path, lambda n, d: (d.replace(b"KM", b"J" + huge), zipfile.ZIP_STORED))


def missing_storage(tmp_path):
    path = saved(tmp_path, {"w": torch.ones(77)})
    return rewritten(path, lambda n, d: (None if n.endswith("/0") else d, zipfile.ZIP_STORED))


def beyond_storage(tmp_path):
    path = saved(tmp_path, {"w": torch.ones(77)[7:]})
    return rewritten(path, lambda n, d: (d.replace(b"K\x07", b"K\x08"), zipfile.ZIP_STORED))


def old_too_large_storage(tmp_path):
    path = saved(tmp_path, {"w": torch.ones(77)}, _use_new_zipfile_serialization=False)
    return damaged(path, lambda raw: raw.replace(b"KM", b"J" + struct.pack("<i", 2**30)))


def claimed_size(tmp_path):
    """A record whose size in the archive's directory is larger than the file."""
    path = saved(tmp_path, {"w": torch.ones(77)})
    at = path.read_bytes().rindex(b"step_0/data/0")
    entry = at - 46  # the directory's entry begins with 46 bytes before the name
    size = struct.pack("<2L", 2**31, 2**31)
    return damaged(path, lambda raw: raw[: entry + 20] + size + raw[entry + 28 :])


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (compressed, r"is compressed, \d+ bytes that would become \d+; torch.save never"),
        (expanded, r"w declares 1000000000000 elements, \[1000000000000\], as a view of 1\b"),
        (too_large_storage, r"declares a storage of \d+ elements, \d+ bytes, and 308 are there"),
        (missing_storage, r"the record data/0 is missing"),
        (beyond_storage, r"w declares 70 elements, \[70\], as a view of 77"),
        (old_too_large_storage, r"it declares \d+ bytes and has \d+"),
        (claimed_size, r"the record data/0 claims 2147483648 bytes of a file of \d+"),
    ],
)
def test_what_would_fill_the_memory_is_refused_before_it_is_allocated(tmp_path, make, match):
    path = make(tmp_path)
    with bounded(), pytest.raises(CheckpointError, match=rf"step_0.pt.*{match}"):
        lx.open_stack(path)


def header(raw, text):
    """A safetensors file with another header and the data it had."""
    length = int.from_bytes(raw[:8], "little")
    return struct.pack("<Q", len(text)) + text + raw[8 + length :]


def entries(**changes):
    known = {
        "v": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]},
        "w": {"dtype": "F32", "shape": [4], "data_offsets": [16, 32]},
    }
    return json.dumps({name: {**entry, **changes.get(name, {})} for name, entry in known.items()})


@pytest.mark.parametrize(
    "edit",
    [
        lambda raw: struct.pack("<Q", 2**60) + raw[8:],
        lambda raw: header(raw, entries(w={"data_offsets": [8, 24]}).encode()),
        lambda raw: header(raw, entries(w={"data_offsets": [17, 33]}).encode()),
        lambda raw: header(
            raw, entries(w={"shape": [2**40], "data_offsets": [16, 2**42]}).encode()
        ),
        lambda raw: header(raw, entries(w={"shape": [2**62, 4]}).encode()),
        lambda raw: header(raw, entries().replace('"v"', '"w"').encode()),
    ],
    ids=["2**60", "overlap", "hole", "beyond the file", "overflow", "duplicate"],
)
def test_a_header_of_safetensors_that_is_not_true_is_refused(tmp_path, edit):
    path = damaged(good_safetensors(tmp_path), edit)
    with bounded(), pytest.raises(CheckpointError, match=r"step_0.safetensors cannot be read"):
        lx.open_stack(path)


@pytest.mark.parametrize("kind", ["safetensors", "torch"])
def test_a_tensors_name_is_never_a_path(tmp_path, kind):
    name = "../../x"
    if kind == "torch":
        path = saved(tmp_path, {name: torch.ones(1)})
    else:
        path = tmp_path / "step_0.safetensors"
        save_file({name: np.ones(1, np.float32)}, path)
    before = sorted(tmp_path.parent.rglob("*"))
    for layers, match in ((None, r"layer is named '\.\./\.'"), (["x"], r"tensor '\.\./\.\./x'")):
        with pytest.raises(StackError, match=match):
            lx.open_stack(path, layers=layers)
    assert sorted(tmp_path.parent.rglob("*")) == before


def test_an_index_that_leads_out_of_its_folder_is_refused(tmp_path):
    torch.save({"w": torch.ones(1)}, tmp_path / "secret.bin")
    folder = tmp_path / "run"
    folder.mkdir()
    index = {"weight_map": {"w": "../secret.bin"}}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match=r"names '../secret.bin', which leaves its folder"):
        lx.open_stack(folder)


@pytest.mark.parametrize(
    ("tensor", "match"),
    [
        (
            torch.zeros(2).to(torch.float8_e4m3fn),
            r"its tensor 'w' is torch.float8_e4m3fn, which is not read",
        ),
        (torch.zeros(2, dtype=torch.complex64), r"ComplexFloatStorage"),
        (torch.zeros(2).to_sparse(), r"it would call torch.serialization._get_layout, which"),
    ],
)
def test_a_tensor_of_another_kind_is_refused_by_its_name(tmp_path, tensor, match):
    with pytest.raises(CheckpointError, match=match):
        lx.open_stack(saved(tmp_path, {"w": tensor}))


@pytest.mark.parametrize("old", [False, True], ids=["new", "old"])
@pytest.mark.parametrize(
    "tensor",
    [
        torch.arange(12.0).reshape(3, 4).t(),
        torch.arange(24.0).reshape(1, 2, 3, 4).to(memory_format=torch.channels_last),
        torch.arange(12.0)[3:9:2],
        torch.tensor(3.0),
        torch.zeros(0, 3),
        torch.arange(5),
        torch.tensor([True, False]),
        torch.tensor([1.5, -2.0, float("inf")]).bfloat16(),
        torch.tensor([1.5, -2.0]).half(),
        torch.nn.Parameter(torch.arange(3.0)),
    ],
    ids=lambda t: f"{t.dtype}-{tuple(t.shape)}",
)
def test_what_torch_saves_is_what_is_read(tmp_path, tensor, old):
    content = {"tensor": tensor, "beside": torch.arange(100.0)}
    stack = lx.open_stack(
        saved(tmp_path, content, _use_new_zipfile_serialization=not old), layers=lambda _: "all"
    )
    read = read_epoch(stack, 0)
    expected = tensor.detach().float() if tensor.dtype == torch.bfloat16 else tensor.detach()
    np.testing.assert_array_equal(read["tensor"], expected.numpy())
    assert read["tensor"].dtype == expected.numpy().dtype
    assert read["tensor"].flags.writeable


# --- one among others -----------------------------------------------------------------------------


def test_an_incomplete_folder_marks_its_column(tmp_path, caplog):
    run = copied_run("trainer", tmp_path)
    (run / "checkpoint-4" / "model.safetensors").unlink()
    stack = lx.open_stack(run, model=toy.Switch())
    assert epoch_numbers(stack) == [2, 4, 6]
    lacking = r"checkpoint-4 is incomplete: it lacks the network itself. It holds optimizer.pt"
    assert lacking.replace("\\", "") in stack.attrs["unreadable"]["4"]
    assert "step 4 cannot be used" in caplog.text
    with pytest.raises(CheckpointError, match=lacking):
        read_epoch(stack, 4)
    assert values(stack.sel(epoch=[2, 6])) == [1.0, 3.0]
    assert "checkpoint-4 is incomplete" in stack._repr_html_()


@pytest.mark.parametrize(
    ("lost", "match"),
    [
        ("model-00002-of-00002.safetensors", r"1 of 2 shards are missing.*model-00002-of-00002"),
        ("model.safetensors.index.json", r"it lacks the index of its shards"),
    ],
)
def test_a_missing_shard_or_index_is_told(tmp_path, lost, match):
    for step in (1, 2, 3):
        shutil.copytree(GOLDEN / "sharded", tmp_path / f"checkpoint-{step}")
    (tmp_path / "checkpoint-2" / lost).unlink()
    stack = lx.open_stack(tmp_path)
    assert list(stack.attrs["unreadable"]) == ["2"]
    with pytest.raises(CheckpointError, match=match):
        read_epoch(stack, 2)
    assert len(read_epoch(stack, 3)) == 4


@pytest.mark.parametrize("name", ["epoch-0.pt", "epoch-1.pt", "epoch-2.pt"])
def test_a_damaged_file_of_a_folder_leaves_the_others_usable(tmp_path, name):
    run = copied_run("torch", tmp_path)
    damaged(run / name, lambda raw: raw[:-100])
    bad = int(name[6])
    stack = lx.open_stack(run, model=toy.Switch())
    assert list(stack.attrs["unreadable"]) == [str(bad)]
    with pytest.raises(CheckpointError, match=rf"{name} cannot be read as a checkpoint"):
        read_epoch(stack, bad)
    others = [epoch for epoch in (0, 1, 2) if epoch != bad]
    assert values(stack.sel(epoch=others)) == others


def test_the_cells_of_a_damaged_checkpoint_carry_the_reason(tmp_path):
    for epoch, state in enumerate(toy.switch_states()):
        torch.save(state, tmp_path / f"epoch-{epoch}.pt")
    damaged(tmp_path / "epoch-1.pt", lambda raw: raw[:-100])
    stack = lx.open_stack(tmp_path, model=toy.Switch())
    swept = lx.sweep(
        stack,
        model=toy.Switch(),
        data=toy.one_hot_examples(),
        draws=1,
        device="cpu",
        progress=False,
    )
    assert np.isnan(swept["error"].sel(epoch=1)).all()
    assert np.isfinite(swept["error"].sel(epoch=[0, 2])).all()
    reasons = [str(r) for r in swept["reason"].sel(epoch=1).values]
    assert all("epoch-1.pt cannot be read as a checkpoint" in reason for reason in reasons)
    distances = lx.distances(stack, model=toy.Switch())
    assert np.isfinite(distances["l2"].sel(epoch=2)).all()


def test_one_checkpoint_of_another_network_is_marked(tmp_path):
    for epoch, state in enumerate(toy.switch_states()):
        torch.save(state, tmp_path / f"epoch-{epoch}.pt")
    torch.save(toy.conv_states()[0], tmp_path / "epoch-0.pt")
    stack = lx.open_stack(tmp_path, model=toy.Switch())
    with pytest.raises(CheckpointError, match=r"epoch-0.pt differs from the others in conv.bias"):
        read_epoch(stack, 0)
    assert len(read_epoch(stack, 2)) == 4


def test_when_no_checkpoint_is_usable_that_is_an_error(tmp_path):
    run = copied_run("torch", tmp_path)
    for path in run.iterdir():
        path.write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"None of the 3 checkpoints can be read.*epoch-0.pt"):
        lx.open_stack(run)


def test_a_function_that_fails_on_one_file_leaves_the_others_usable(tmp_path):
    for epoch, state in enumerate(toy.switch_states()):
        torch.save(state, tmp_path / f"{epoch}.pt")
    damaged(tmp_path / "1.pt", lambda raw: raw[:-100])
    stack = lx.open_stack(tmp_path, reader=lambda path: torch.load(path, weights_only=True))
    assert list(stack.attrs["unreadable"]) == ["1"]


def test_a_damaged_file_without_a_number_is_left_out_and_said(tmp_path):
    for name in ("first", "second"):
        torch.save({"epoch": len(name), "model": toy.switch_states()[0]}, tmp_path / f"{name}.pt")
    (tmp_path / "third.pt").write_bytes(b"")
    stack = lx.open_stack(tmp_path)
    assert epoch_numbers(stack) == [5, 6]
    assert "Left out, since it has no number: " in stack.attrs["notes"][0]


def test_a_folder_of_foreign_files_is_refused_with_what_it_holds(tmp_path):
    for name in ("notes.txt", "optimizer.pt"):
        Path(tmp_path / name).write_text("")
    with pytest.raises(StackError, match=r"It holds notes.txt, optimizer.pt\.(.|\n)*Readable: "):
        lx.open_stack(tmp_path)


def test_the_content_hash_of_a_stack_with_a_damaged_checkpoint_says_so(tmp_path):
    run = copied_run("torch", tmp_path)
    whole = content_hash(lx.open_stack(run))
    damaged(run / "epoch-1.pt", lambda raw: raw[:-100])
    assert content_hash(lx.open_stack(run)) != whole


def test_a_file_of_torch_is_looked_into_once_for_all_its_tensors(tmp_path, monkeypatch):
    state = {f"layer{k}.weight": torch.full((2,), float(k)) for k in range(20)}
    looks = []
    original = zipfile.ZipFile.__init__
    monkeypatch.setattr(
        zipfile.ZipFile,
        "__init__",
        lambda self, *a, **o: looks.append(a) or original(self, *a, **o),
    )
    stack = lx.open_stack(saved(tmp_path, state))
    looks.clear()
    assert [float(read_epoch(stack, 0)[name][1]) for name in state] == list(range(20))
    assert looks == []


def test_as_many_axes_as_numpy_has_besides_that_of_the_epochs_are_read():
    assert array_spec("F32", (1,) * 63, "w").shape == (1,) * 63
    with pytest.raises(CheckpointError, match=r"'w' has 64 axes(.|\n)*Up to 63 axes"):
        array_spec("F32", (1,) * 64, "w")
