"""Parts of tensors in files of torch and of the hub: what is read, and that it is the same."""

from __future__ import annotations

import itertools
import zlib

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import explorer as lx
from explorer.errors import CheckpointError, StackError
from explorer.inventory.hub import Hub
from explorer.stats import blocks
from explorer.weights.hub_checkpoint import HubCheckpoint
from explorer.weights.readers import torch_formats
from explorer.weights.readers.checksums import MOST_PIECES, Pieces
from explorer.weights.readers.torch_files import TorchCheckpoint
from tests.hub_server import hub_server
from tests.indexing import indexed

FORMATS = pytest.mark.parametrize("old", [False, True], ids=["new", "old"])


def save(state, path, *, old=False):
    torch.save(state, path, _use_new_zipfile_serialization=not old)
    return path


@pytest.fixture
def reads(monkeypatch):
    """Key, first byte and length of every piece of a storage that is read."""
    seen = []
    for kind in (torch_formats.ZipFormat, torch_formats.OldFormat):
        original = kind.read

        def watched(self, key, begin, length, original=original):
            seen.append((key, begin, length))
            return original(self, key, begin, length)

        monkeypatch.setattr(kind, "read", watched)
    return seen


# --- files of torch -------------------------------------------------------------------------------


@FORMATS
def test_of_a_matrix_in_a_file_of_torch_only_the_rows_that_are_asked_for_are_read(
    tmp_path, reads, old
):
    for epoch in range(3):
        values = torch.arange(12.0).reshape(4, 3) + 100 * epoch
        save({"a.w": values, "a.b": torch.ones(5)}, tmp_path / f"epoch-{epoch}.pt", old=old)
    weight = lx.open_stack(tmp_path)["a"]["w"]
    assert reads == []
    assert weight[2, 1:3].values.tolist() == [[203, 204, 205], [206, 207, 208]]
    assert weight[1, 2, 1:].values.tolist() == [107, 108]
    assert weight[0, [3, 1], 0].values.tolist() == [9, 3]
    assert [(begin, length) for _, begin, length in reads] == [(12, 24), (28, 8), (12, 28)]


LAYOUTS = {
    "plain": lambda t: t,
    "transposed": lambda t: (
        t.permute(*reversed(range(t.ndim))).contiguous().permute(*reversed(range(t.ndim)))
    ),
    "channels_last": lambda t: t.to(memory_format=torch.channels_last) if t.ndim == 4 else t,
    "view": lambda t: torch.cat([t.flatten()[:1], t.flatten(), t.flatten()])[
        1 : 1 + t.numel()
    ].view(t.shape),
    "bfloat16": lambda t: t.bfloat16(),
}


@FORMATS
@pytest.mark.parametrize("layout", list(LAYOUTS))
def test_a_part_in_any_layout_is_what_indexing_the_whole_gives(tmp_path_factory, old, layout):
    path = tmp_path_factory.mktemp("parts") / "0.pt"

    @given(indexed(least_axes=1))
    def holds(drawn):
        shape, key = drawn
        tensor = LAYOUTS[layout](torch.arange(float(np.prod(shape))).reshape(shape))
        save({"before": torch.ones(3), "w": tensor, "behind": torch.ones(2)}, path, old=old)
        torch_formats._opened.cache_clear()  # files of one second may look the same
        found = TorchCheckpoint(path).read_part("w", key)
        expected = tensor.float().numpy()
        for axis in reversed(range(len(shape))):
            expected = expected[(slice(None),) * axis + (key[axis],)]
        np.testing.assert_array_equal(found, expected)

    holds()


def test_blocks_of_distances_are_the_pieces_that_are_read_and_together_they_are_checked(
    tmp_path, reads, monkeypatch
):
    """One bit altered in a file is noticed, though no block is the whole of its storage."""
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 64)
    values = torch.arange(64.0).reshape(16, 4)
    for epoch in range(3):
        save({"a.w": values + epoch}, tmp_path / f"epoch-{epoch}.pt")
    found = lx.distances(lx.open_stack(tmp_path))
    assert found.l1.values.tolist() == [[0, 64, 128]]
    assert {length for _, _, length in reads} == {64}
    path = tmp_path / "epoch-1.pt"
    whole = path.read_bytes()
    at = whole.index((values + 1).numpy().tobytes())
    path.write_bytes(whole[: at + 130] + bytes([whole[at + 130] ^ 1]) + whole[at + 131 :])
    found = lx.distances(lx.open_stack(tmp_path))
    assert found.l1.isnull().values.tolist() == [[False, True, False]]
    assert "does not fit its checksum" in found.reason.sel(layer="a", epoch=1).item()


def test_a_file_of_torch_that_changes_under_an_open_stack_is_noticed(tmp_path):
    path = save({"a.w": torch.ones(2, 3)}, tmp_path / "0.pt")
    stack = lx.open_stack(path)
    assert stack["a"]["w"][0, 1].values.tolist() == [1, 1, 1]
    save({"a.w": torch.ones(5, 3)}, path)
    for key in (0, (0, 1)):
        with pytest.raises(StackError, match=r"float32 \(5, 3\) in checkpoint 0(.|\n)*\(2, 3\)"):
            _ = stack["a"]["w"][key].values
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(CheckpointError, match="archive is damaged or cut short"):
        _ = stack["a"]["w"][0, 1].values


@FORMATS
def test_a_file_of_torch_that_is_cut_while_it_is_read_is_refused(tmp_path, monkeypatch, old):
    path = save({"w": torch.ones(9)}, tmp_path / "0.pt", old=old)
    opened = torch_formats.open_format(path)
    monkeypatch.setattr("explorer.weights.readers.torch_files.open_format", lambda _: opened)
    whole = path.read_bytes()
    path.write_bytes(whole[: whole.index(torch.ones(9).numpy().tobytes()) + 10])
    with pytest.raises(CheckpointError, match=r"it ends 26 bytes too early"):
        TorchCheckpoint(path).read("w")


def test_a_record_that_is_not_where_the_archive_says_is_refused(tmp_path):
    path = save({"w": torch.ones(9)}, tmp_path / "0.pt")
    whole = path.read_bytes()
    at = whole.index(b"0/data/0")
    path.write_bytes(whole[:at] + b"0/data/9" + whole[at + 8 :])
    with pytest.raises(CheckpointError, match=r"record data/0 is not where it should be"):
        TorchCheckpoint(path).read_part("w", [slice(0, 2)])


def test_files_of_torch_that_hold_the_same_names_share_what_is_known_of_them(tmp_path):
    for k in range(3):
        save({"a.w": torch.full((3,), float(k))}, tmp_path / f"epoch-{k}.pt")
    specs = [TorchCheckpoint(tmp_path / f"epoch-{k}.pt").specs() for k in range(3)]
    assert specs[0] is specs[1] is specs[2]


@given(st.binary(min_size=1, max_size=200), st.data())
def test_the_checksum_of_pieces_in_any_order_is_that_of_the_whole(raw, drawn):
    cuts = drawn.draw(st.sets(st.integers(1, len(raw)), max_size=6))
    edges = sorted({0, len(raw), *cuts})
    order = drawn.draw(st.permutations(list(itertools.pairwise(edges))))
    pieces = Pieces()
    for _ in range(2):  # what has been read as a whole may be read again
        found = [pieces.add(low, raw[low:high], len(raw)) for low, high in order]
        assert found == [None] * (len(order) - 1) + [zlib.crc32(raw)]


def test_pieces_that_overlap_are_no_whole_and_many_of_them_are_not_kept():
    pieces = Pieces()
    assert pieces.add(0, b"abc", 5) is None
    assert pieces.add(2, b"cde", 5) is None
    assert pieces.add(3, b"de", 5) == zlib.crc32(b"abcde")
    for k in range(200):
        assert pieces.add(2 * k, b"x", 1000) is None
    assert len(pieces._found) <= MOST_PIECES


# --- the hub --------------------------------------------------------------------------------------


@pytest.fixture
def checkpoint(tmp_path, monkeypatch):
    """A function that puts a file on a hub and opens it as a checkpoint of a stack."""
    pytest.importorskip("huggingface_hub", reason="needs the extra [hub]")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "others"))
    with hub_server() as server:

        def put(file):
            server.put("a/one", "step0", {file.name: file.read_bytes()})
            hub = Hub(folder=tmp_path / "hub", endpoint=server.address, progress=False)
            [revision] = hub.revisions("a/one")
            return HubCheckpoint(hub, revision, lambda names: {name: name for name in names})

        yield put


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_parts_of_the_hubs_tensors_are_read_by_themselves(
    tmp_path, checkpoint, reads, name, dtype, monkeypatch
):
    from safetensors.torch import save_file

    values = torch.arange(12.0).reshape(4, 3).to(dtype)
    path = tmp_path / name
    save({"w": values}, path) if path.suffix == ".bin" else save_file({"w": values}, path)
    one = checkpoint(path)
    pieces = []
    original = lx.weights.safetensors_file._read
    monkeypatch.setattr(
        lx.weights.safetensors_file,
        "_read",
        lambda *a: pieces.append(a[2]) or original(*a),
    )
    part = one.read_part("w", (slice(1, 3), slice(None)))
    assert part.dtype == np.float32
    assert part.tolist() == [[3, 4, 5], [6, 7, 8]]
    assert (one.spec("w").dtype, one.spec("w").shape) == (np.float32, (4, 3))
    size = values.element_size()
    if path.suffix == ".bin":
        assert [(begin, length) for _, begin, length in reads] == [(3 * size, 6 * size)]
    else:
        assert pieces == [(2, 3)]
