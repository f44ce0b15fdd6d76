"""Distances of files that are read in pieces: the numbers of any other way, whatever goes wrong."""

from __future__ import annotations

import os
import shutil
import threading
from pathlib import Path

import psutil
import pytest
import torch
import xarray as xr
from safetensors.torch import save, save_file

import explorer as lx
from explorer.errors import CheckpointError, StackError
from explorer.inventory.hub import Hub
from explorer.stats import blocks, distances, pieces
from explorer.stats.distances import stack_distances
from explorer.stats.kernels import BLOCK
from explorer.weights.lazy import tensor_opener
from explorer.weights.safetensors_file import OpenTensor
from tests.hub_server import hub_server, neox_state

GOLDEN = Path(__file__).parent / "golden"

EPOCHS = 7
"""More than two groups of four and the one that is the reference."""

KINDS = (torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int16)


def states():
    """Layers of every dtype, of one piece and of several, among them one number and no number."""
    generator = torch.Generator().manual_seed(0)
    for _ in range(EPOCHS):
        yield {
            **{
                f"{str(kind)[6:]}.weight": (100 * torch.randn(3, 30_001, generator=generator)).to(
                    kind
                )
                for kind in KINDS
            },
            "float32.bias": torch.randn((), generator=generator),
            "float32.nothing": torch.empty(0, 3),
        }


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("stack")
    for epoch, state in enumerate(states()):
        save_file({f"module.{n}": t for n, t in state.items()}, path / f"epoch-{epoch}.safetensors")
    return path


@pytest.fixture
def small(monkeypatch):
    """Pieces of one or a few blocks of the kernel, and blocks of two pieces."""
    monkeypatch.setattr(pieces, "PIECE_BYTES", 8 * BLOCK)
    monkeypatch.setattr(pieces, "_memory", pieces._Memory())
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 16 * BLOCK)


@pytest.fixture
def taken(monkeypatch):
    """How many values each call took from a file."""
    seen, original = [], OpenTensor.take

    def watched(self, count, memory):
        seen.append(count)
        return original(self, count, memory)

    monkeypatch.setattr(OpenTensor, "take", watched)
    return seen


def through_xarray(stack, **options):
    return stack_distances(stack, **options)


def in_pieces(stack, **options):
    return stack_distances(stack, opener=tensor_opener, **options)


def test_pieces_give_the_bits_that_reading_through_xarray_and_states_in_memory_give(
    folder, small, taken
):
    stack = lx.open_stack(folder)
    found = in_pieces(stack, reference=2)
    assert sum(taken) == (EPOCHS - 1) * (len(KINDS) * 90_003 + 1)
    assert max(taken) == 4 * BLOCK  # of float16 and int16
    taken.clear()
    xr.testing.assert_identical(found, through_xarray(stack, reference=2))
    assert taken == []
    in_memory = lx.open_stack(list(states()))
    expected = in_pieces(in_memory, reference=2).sel(layer=found.layer)
    xr.testing.assert_equal(found, expected)
    assert taken == []


@pytest.mark.parametrize("readers", [1, 3])
def test_the_bits_do_not_depend_on_threads_or_on_the_size_of_a_piece(
    folder, small, monkeypatch, readers
):
    stack = lx.open_stack(folder)
    expected = in_pieces(stack)
    monkeypatch.setattr(distances, "READERS", readers)
    monkeypatch.setattr(pieces, "PIECE_BYTES", 16 * BLOCK * readers)
    monkeypatch.setattr(pieces, "_memory", pieces._Memory())
    xr.testing.assert_identical(in_pieces(stack), expected)


def test_the_size_of_a_piece_is_a_whole_number_of_blocks_of_every_dtype():
    for bytes_each in (1, 2, 4, 8):
        assert pieces.PIECE_BYTES // bytes_each % BLOCK == 0


def test_what_is_not_a_whole_tensor_of_a_file_is_read_as_xarray_reads_it(folder, small, taken):
    stack = lx.open_stack(folder)
    chosen = stack.isel(epoch=[5, 0, 3]).isel(epoch=slice(1, None))
    expected = through_xarray(chosen)
    xr.testing.assert_identical(in_pieces(chosen), expected)
    assert taken != []
    taken.clear()
    for other in (stack.chunk(), stack.load()):
        xr.testing.assert_equal(in_pieces(other), through_xarray(other))
    stack = lx.open_stack(folder)
    weight = stack["float32"]["weight"].variable
    assert tensor_opener(weight) is not None
    for part in (weight[:, :2], weight[:, [0, 2]], weight[3], weight.copy(data=weight.values)):
        assert tensor_opener(part) is None
    assert taken == []


def test_shards_are_read_in_pieces_too(tmp_path, taken):
    for step in (0, 1):
        shutil.copytree(GOLDEN / "sharded", tmp_path / f"step-{step}")
    stack = lx.open_stack(str(tmp_path / "*" / "*.index.json"))
    xr.testing.assert_identical(in_pieces(stack), through_xarray(stack))
    assert taken != []


@pytest.mark.parametrize("kind", ["float16", "bfloat16", "float32"])
def test_files_of_the_hub_are_read_in_pieces_and_widened(tmp_path, taken, kind):
    pytest.importorskip("huggingface_hub", reason="needs the extra [hub]")
    with hub_server() as server:
        for step in (0, 1, 2):
            state = {n: torch.from_numpy(a) for n, a in neox_state(step).items()}
            content = save({n: t.to(getattr(torch, kind)) for n, t in state.items()})
            server.put("a/b", f"step{step}", {"model.safetensors": content})
        hub = Hub(folder=tmp_path, endpoint=server.address, progress=False)
        stack = lx.open_stack("hub:a/b", hub=hub, layers="fine")
        expected = through_xarray(stack)
        assert taken == []
        xr.testing.assert_identical(in_pieces(stack), expected)
    assert sum(taken) == 2 * sum(a.size for a in neox_state(0).values())


# --- files that are not as they were -------------------------------------------------------------


@pytest.mark.parametrize(
    ("left", "reason"), [(-1, "bytes, where header and tensors take"), (5000, "bytes too early")]
)
def test_a_file_that_is_cut_while_it_is_read_leaves_the_others_as_they_are(
    folder, small, tmp_path, monkeypatch, left, reason
):
    """It is cut under the open file; with a memory map that would end the process."""
    monkeypatch.setattr(distances, "READERS", 1)  # what another has open decides the reason
    shutil.copytree(folder, tmp_path / "stack")
    stack = lx.open_stack(tmp_path / "stack")
    expected = in_pieces(stack)
    path = tmp_path / "stack" / "epoch-3.safetensors"
    original = OpenTensor.take

    def cutting(self, count, memory):
        if path.stat().st_size == size:
            os.truncate(path, left % size)
        return original(self, count, memory)

    size = path.stat().st_size
    monkeypatch.setattr(OpenTensor, "take", cutting)
    found = in_pieces(stack)
    assert any(reason in one for one in found.reason.sel(epoch=3).values)
    kept = [0, 1, 2, 4, 5, 6]
    xr.testing.assert_identical(found.sel(epoch=kept), expected.sel(epoch=kept))


@pytest.mark.parametrize("readers", [1, 2])
def test_the_reason_is_that_of_the_first_block_that_could_not_be_read(
    folder, small, monkeypatch, readers
):
    monkeypatch.setattr(distances, "READERS", readers)

    def failing(variable):
        original = tensor_opener(variable)

        def opened(position, first):
            if position == 4 and first:
                raise CheckpointError(f"no {first}", "", "")
            return original(position, first)

        return opened

    found = stack_distances(lx.open_stack(folder), opener=failing)
    reasons = [str(one).strip() for one in found.reason.sel(epoch=4).values]
    assert dict(zip(found.layer.values, reasons, strict=True)) == {
        "float16": "",  # a single block
        "int16": "",
        "bfloat16": "no 60002",
        "float32": "no 60002",
        "float64": "no 30001",
    }


def test_a_tensor_that_has_changed_its_shape_is_an_error_and_every_file_is_closed(
    tmp_path, monkeypatch
):
    for epoch in range(3):
        save_file({"a.weight": torch.ones(4, 5)}, tmp_path / f"epoch-{epoch}.safetensors")
    stack = lx.open_stack(tmp_path)
    closed, original = [], OpenTensor.close
    monkeypatch.setattr(OpenTensor, "close", lambda self: closed.append(1) or original(self))
    save_file({"a.weight": torch.ones(5, 4)}, tmp_path / "epoch-2.safetensors")
    with pytest.raises(StackError, match=r"float32 \(5, 4\) in checkpoint 2(.|\n)*\(4, 5\)"):
        in_pieces(stack)
    assert len(closed) == 2  # the one before it, and itself


def test_no_file_stays_open(folder, small):
    stack = lx.open_stack(folder)
    in_pieces(stack)
    before = psutil.Process().num_fds() if hasattr(psutil.Process, "num_fds") else 0
    for _ in range(3):
        in_pieces(stack)
    after = psutil.Process().num_fds() if hasattr(psutil.Process, "num_fds") else 0
    assert after == before


def test_a_thread_holds_one_block_and_pieces_of_four_files(folder, small, monkeypatch):
    """Memory of the files that are compared: pieces, in the same place every time."""
    places, original = set(), OpenTensor.take

    def watched(self, count, memory):
        places.add((threading.get_ident(), memory.ctypes.data))
        assert memory.nbytes == 8 * BLOCK
        return original(self, count, memory)

    monkeypatch.setattr(OpenTensor, "take", watched)
    in_pieces(lx.open_stack(folder))
    for thread in {thread for thread, _ in places}:
        assert sum(one == thread for one, _ in places) <= 4
