"""Many checkpoints as lazy arrays: what is read, when, from where, and by whom."""

from __future__ import annotations

import json
import pickle
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import psutil
import pytest
import xarray as xr
from hypothesis import given
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save, save_file

import explorer as lx
from explorer.errors import CheckpointError, StackError, UnknownNameError
from explorer.stats import blocks
from explorer.weights import fitting, lazy, safetensors_file
from explorer.weights.checkpoints import SafetensorsCheckpoint
from explorer.weights.safetensors_file import read_header, read_part
from explorer.weights.stack import layer_names, layer_variables
from tests import toy
from tests.conftest import copy_bundled
from tests.indexing import indexed

MANY = 1000
SHORT = "000000"


def small_state():
    random = np.random.default_rng(0)
    shapes = {"weight": (4, 3), "bias": (4,)}
    return {
        f"layers.{k}.{name}": random.standard_normal(shape, np.float32)
        for k in range(30)
        for name, shape in shapes.items()
    }


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """A thousand checkpoints of sixty tensors, alike but for the step in their header."""
    folder = tmp_path_factory.mktemp("many")
    content = save(small_state(), metadata={"step": SHORT})
    assert content.count(SHORT.encode()) == 1
    for step in range(MANY):
        number = f"{step:06d}"
        path = folder / f"step-{number}.safetensors"
        path.write_bytes(content.replace(SHORT.encode(), number.encode()))
    return folder


@pytest.fixture
def reads(monkeypatch):
    """File, first byte and shape of every piece that is read of a tensor."""
    seen = []
    original = safetensors_file._read

    def watched(path, offset, shape, dtype):
        seen.append((path.name, offset, shape))
        return original(path, offset, shape, dtype)

    monkeypatch.setattr(safetensors_file, "_read", watched)
    return seen


# --- a thousand checkpoints -----------------------------------------------------------------------


def test_a_thousand_checkpoints_open_and_show_themselves_without_reading_a_tensor(many, reads):
    stack = lx.open_stack(many)
    assert stack.sizes["epoch"] == MANY
    assert stack.attrs["checkpoint_unit"] == "step"
    assert "layers.0" in repr(stack)
    assert "1000" in stack._repr_html_()
    assert reads == []


def test_headers_that_say_the_same_are_parsed_once_whatever_their_notes_and_their_length(tmp_path):
    safetensors_file._layout.cache_clear()
    for step in (1, 10, 100, 1000, 10_000, 100_000):
        save_file(small_state(), tmp_path / f"{step}.safetensors", {"step": str(step)})
    layouts = {id(read_header(path).layout) for path in tmp_path.iterdir()}
    assert len(layouts) == 1
    assert safetensors_file._layout.cache_info().misses == 1


def test_what_follows_from_a_header_is_found_once_for_all_files_that_share_it(many, monkeypatch):
    counted = Counter()
    for name in ("prefix_of", "_odd"):
        original = getattr(fitting, name)

        def watched(*arguments, name=name, original=original):
            counted[name] += 1
            return original(*arguments)

        monkeypatch.setattr(fitting, name, watched)
    assert lx.open_stack(many).sizes["epoch"] == MANY
    assert counted == {"prefix_of": 1, "_odd": 1}


def test_a_manifest_of_a_thousand_checkpoints_opens_without_a_file(copied):
    path = copied / "stack.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    [entry] = content["stacks"]
    one = entry["checkpoints"][0]
    entry["checkpoints"] = [{**one, "epoch": k, "file": f"{k}.safetensors"} for k in range(MANY)]
    path.write_text(json.dumps(content), encoding="utf-8")
    stack = lx.open_stack(copied)
    assert stack.sizes["epoch"] == MANY


def test_one_layer_over_all_epochs_is_read_without_touching_the_others(many, reads):
    layer = lx.open_stack(many)["layers.7"].to_dataset().load()
    np.testing.assert_array_equal(layer["bias"][123], small_state()["layers.7.bias"])
    entries = read_header(many / f"step-{SHORT}.safetensors").layout.entries
    start = read_header(many / f"step-{SHORT}.safetensors").start
    wanted = {start + entries[f"layers.7.{name}"].begin for name in ("weight", "bias")}
    assert {offset for _, offset, _ in reads} == wanted
    assert len(reads) == 2 * MANY


def test_of_a_matrix_only_the_rows_that_are_asked_for_are_read(many, reads):
    weight = lx.open_stack(many)["layers.7"]["weight"]
    reads.clear()
    assert weight[5, 1:3].values.shape == (2, 3)
    assert weight[5, [3, 1], 0].values.shape == (2,)
    assert weight[5, 2, 1:].values.shape == (2,)
    assert weight[5, ::3].values.shape == (2, 3)
    assert weight[5, 1, 2].values.shape == ()
    begin = {name: offset for name, offset, _ in reads}["step-000005.safetensors"] - 4 * 5
    found = [(offset - begin, shape) for _, offset, shape in reads]
    assert found == [(12, (2, 3)), (12, (3, 3)), (28, (1, 2)), (0, (4, 3)), (20, (1, 1))]


@given(indexed())
def test_a_part_is_what_indexing_the_whole_gives(tmp_path_factory, drawn):
    shape, key = drawn
    values = np.arange(np.prod(shape, dtype=int), dtype=np.int32).reshape(shape)
    path = tmp_path_factory.getbasetemp() / "part.safetensors"
    save_file({"before": np.ones(3, np.int8), "w": values, "behind": np.ones(3)}, path)
    found = read_part(path, "w", values.dtype, key)
    expected = values
    for axis in reversed(range(len(shape))):
        expected = expected[(slice(None),) * axis + (key[axis],)]
    np.testing.assert_array_equal(found, expected)


# --- the header -----------------------------------------------------------------------------------

DTYPES = ("f8", "f4", "f2", "i8", "i4", "i2", "i1", "u1", "?")


def test_what_is_read_is_what_the_library_reads(tmp_path):
    random = np.random.default_rng(0)
    state = {dtype: random.integers(0, 2, (3, 2)).astype(dtype) for dtype in DTYPES}
    state |= {"one": np.array(7.0), "none": np.zeros((0, 3)), "ü/../x": np.ones(1)}
    path = tmp_path / "0.safetensors"
    save_file(state, path)
    checkpoint = SafetensorsCheckpoint(path)
    with safe_open(path, framework="numpy") as file:
        assert set(checkpoint.specs()) == set(file.keys())
        for name in file.keys():  # noqa: SIM118 - no dict
            expected, found = file.get_tensor(name), checkpoint.read(name)
            assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
            np.testing.assert_array_equal(found, expected)
            assert checkpoint.specs()[name].shape == expected.shape


def file_of(header, tensors=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + tensors


def entry(begin=0, end=8, dtype="F32", shape=(2,)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


FAULTS = {
    "claims": [b"", b"1234", file_of(b"{}", length=3), file_of(b"{}", length=2**60)],
    "JSON|Expecting|decode": [file_of(b"{"), file_of(b"\xff\xfe"), file_of(b"}")],
    "no mapping": [file_of([]), file_of({"__metadata__": 3, "a": entry()}, bytes(8))],
    "bytes, where header and tensors take": [
        file_of({"a": entry()}, bytes(7)),
        file_of({"a": entry()}, bytes(9)),
    ],
    "begin at": [
        file_of({"a": entry(), "b": entry(4, 12)}, bytes(12)),
        file_of({"a": entry(), "b": entry(12, 20)}, bytes(20)),
        file_of({"a": entry(4, 12)}, bytes(12)),
    ],
    "does not fit": [
        file_of({"a": entry(shape=(3,))}, bytes(8)),
        file_of({"a": entry(shape=(2**62, 2))}, bytes(8)),
        file_of({"a": entry(8, 0)}, bytes(8)),
    ],
    "not as it should be": [
        file_of({"a": entry(dtype="F31")}, bytes(8)),
        file_of({"a": {"dtype": "F32"}}, bytes(8)),
        file_of({"a": 3}),
    ],
    "holds": [
        file_of({"a": entry(shape=(-1, -2))}, bytes(8)),
        file_of({"a": entry(shape=(2.0,))}, bytes(8)),
        file_of({"a": entry(-8, 0)}, bytes(8)),
    ],
    "stands twice": [file_of(b'{"a":%b,"a":%b}' % ((json.dumps(entry()).encode(),) * 2), bytes(8))],
    "recursion": [file_of(b"[" * 100_000)],
}


@pytest.mark.parametrize(
    ("content", "reason"), [(one, reason) for reason, several in FAULTS.items() for one in several]
)
def test_a_header_that_the_library_refuses_is_refused_with_the_reason(tmp_path, content, reason):
    path = tmp_path / "0.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"0.safetensors cannot be read.*({reason})"):
        SafetensorsCheckpoint(path).specs()
    if reason != "stands twice":  # which the library does not notice
        with pytest.raises((SafetensorError, UnicodeDecodeError), match=r"."):
            safe_open(path, framework="numpy")


@pytest.mark.parametrize(
    "header",
    [
        {"__metadata__": {"by": "hand"}, "a": entry()},
        {"a": entry(), "__metadata__": {"by": "hand"}},
        b'{"__metadata__":{"a":"{,}"} , "a":%b}   ' % json.dumps(entry()).encode(),
        b'{"__metadata__":{},"a":%b}' % json.dumps(entry()).encode(),
        {"a": entry()},
    ],
)
def test_notes_may_stand_anywhere_in_a_header(tmp_path, header):
    path = tmp_path / "0.safetensors"
    path.write_bytes(file_of(header, np.array([3.0, 5.0], np.float32).tobytes()))
    assert SafetensorsCheckpoint(path).read("a").tolist() == [3, 5]
    with safe_open(path, framework="numpy") as file:
        assert file.get_tensor("a").tolist() == [3, 5]


def test_a_header_of_nothing_but_notes_has_no_tensors(tmp_path):
    path = tmp_path / "0.safetensors"
    save_file({}, path, metadata={"by": "hand"})
    assert SafetensorsCheckpoint(path).specs() == {}


def test_a_tensor_that_is_not_there_is_named(many):
    with pytest.raises(CheckpointError, match=r"it has no tensor 'layers\.99\.bias'"):
        SafetensorsCheckpoint(many / f"step-{SHORT}.safetensors").read("layers.99.bias")


def test_a_file_that_changes_under_an_open_stack_is_noticed(tmp_path):
    path = tmp_path / "0.safetensors"
    save_file({"a.w": np.ones((2, 3))}, path)
    stack = lx.open_stack(path)
    assert stack["a"]["w"][0, 1].values.tolist() == [1, 1, 1]
    save_file({"a.w": np.ones((5, 3))}, path)
    for key in (0, (0, 1)):
        with pytest.raises(StackError, match=r"float64 \(5, 3\) in checkpoint 0(.|\n)*\(2, 3\)"):
            _ = stack["a"]["w"][key].values
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(CheckpointError, match="bytes, where header and tensors take"):
        _ = stack["a"]["w"].values


def test_a_file_that_is_cut_while_it_is_read_is_refused(tmp_path):
    path = tmp_path / "0"
    path.write_bytes(bytes(10))
    with pytest.raises(CheckpointError, match="ends 6 bytes too early"):
        safetensors_file._read(path, 8, (2,), np.dtype("f4"))


# --- dask, threads, processes ---------------------------------------------------------------------


@pytest.mark.parametrize("chunks", [{"epoch": 1}, {"epoch": 2, "weight_0": 100}, {}])
def test_a_stack_in_chunks_has_the_values_and_the_distances_of_the_stack(bundled, chunks):
    chunked = bundled.chunk(chunks)
    weight = chunked["layer2"]["weight"]
    assert weight.chunks[0] == (chunks.get("epoch", 8),) * (8 // chunks.get("epoch", 8))
    xr.testing.assert_equal(weight.compute(scheduler="threads"), bundled["layer2"]["weight"])
    first = weight.isel(epoch=3)
    np.testing.assert_array_equal(first, bundled["layer2"]["weight"].isel(epoch=3))
    found = lx.distances(chunked, draws=0)
    xr.testing.assert_allclose(found, lx.distances(bundled, draws=0), rtol=1e-12)


def test_a_layer_of_a_thousand_checkpoints_is_cut_into_chunks_of_one(many):
    dataset = lx.open_stack(many)["layers.7"].to_dataset().chunk({"epoch": 1})
    assert dataset["weight"].chunks[0] == (1,) * MANY
    dataset = dataset.isel(epoch=slice(None, None, 50))
    means = dataset["weight"].mean(("weight_0", "weight_1")).compute()
    np.testing.assert_allclose(means, small_state()["layers.7.weight"].mean(), rtol=1e-5)


def test_two_stacks_of_the_same_form_are_not_taken_for_one_another(tmp_path):
    stacks = []
    for k in range(2):
        folder = tmp_path / str(k)
        folder.mkdir()
        save_file({"a.w": np.full(3, float(k))}, folder / "0.safetensors")
        stacks.append(lx.open_stack(folder)["a"]["w"].chunk())
    assert stacks[0].name == stacks[1].name
    assert stacks[0].data.name != stacks[1].data.name


def test_a_stack_is_pickled_without_what_is_open_and_reads_the_same(many):
    stack = lx.open_stack(many)
    before = psutil.Process().num_fds() if hasattr(psutil.Process(), "num_fds") else 0
    stack["layers.3"]["weight"].load()
    if before:
        assert psutil.Process().num_fds() == before
    again = pickle.loads(pickle.dumps(stack))
    assert again.attrs == stack.attrs
    xr.testing.assert_identical(again["layers.3"].to_dataset(), stack["layers.3"].to_dataset())


def test_the_checkpoints_of_a_stack_are_pickled_once_unless_they_are_large(many, monkeypatch):
    files = lazy.Checkpoints(
        [SafetensorsCheckpoint(many / f"step-{k:06d}.safetensors") for k in (1, 2)]
    )
    assert files.__getstate__()[1] is files.__getstate__()[1]
    again = pickle.loads(pickle.dumps(files))
    assert len(again) == 2
    assert again[:] == files[:]
    monkeypatch.setattr(lazy, "MOST_KEPT", 1)
    large = lazy.Checkpoints(files)
    assert large.__getstate__()[1] is not large.__getstate__()[1]


def test_many_threads_read_one_stack(many):
    stack = lx.open_stack(many)
    state = small_state()

    def read(k):
        name = f"layers.{k % 30}"
        found = stack[name]["weight"][k % MANY, k % 4].values
        return np.array_equal(found, state[f"{name}.weight"][k % 4])

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(read, range(500)))


# --- as an engine of xarray -----------------------------------------------------------------------


def test_xarray_opens_a_folder_and_a_name_with_the_engine_explorer(copied, bundled):
    for source in (copied, str(copied), "fcn3x256-digits"):
        tree = xr.open_datatree(source, engine="explorer")
        xr.testing.assert_identical(xr.DataTree.from_dict(tree.to_dict()), as_plain(bundled))
        assert layer_names(tree) == layer_names(bundled)
    chunked = xr.open_datatree(copied, engine="explorer", chunks={})
    assert chunked["layer1"]["weight"].chunks[0] == (1,) * 8
    fewer = xr.open_datatree(copied, engine="explorer", drop_variables=["bias"])
    assert list(fewer["layer1"].data_vars) == ["weight"]


def as_plain(stack):
    return xr.DataTree.from_dict(stack.to_dict())


def test_xarray_finds_the_engine_for_a_folder_with_a_stack_file_by_itself(copied, tmp_path):
    xr.testing.assert_identical(
        xr.open_datatree(copied), xr.open_datatree(copied, engine="explorer")
    )
    engine = xr.backends.list_engines()["explorer"]
    assert not engine.guess_can_open(tmp_path)
    assert not engine.guess_can_open(copied / "epoch-0000.safetensors")
    assert not engine.guess_can_open(b"bytes")


def test_xarray_opens_one_layer_as_a_dataset_and_the_root_without_a_name(copied, bundled):
    layer = xr.open_dataset(copied, engine="explorer", group="layer2")
    xr.testing.assert_identical(layer, bundled["layer2"].to_dataset())
    assert list(xr.open_dataset(copied, engine="explorer").variables) == ["epoch"]
    groups = xr.open_groups(copied, engine="explorer")
    assert set(groups) == {"/", "/layer1", "/layer2", "/layer3", "/layer4"}
    with pytest.raises(UnknownNameError, match=r"no layer 'layer9'(.|\n)*layer1, layer2"):
        xr.open_dataset(copied, engine="explorer", group="layer9")


def test_a_stack_of_state_dicts_still_reads_whole_tensors_and_parts():
    stack = lx.open_stack(toy.conv_states(), model=toy.ConvNet())
    count = stack["norm"]["num_batches_tracked"]
    assert count.values.tolist() == [1, 1, 1]
    assert count[1].values == 1
    expected = np.stack([state["conv.weight"].numpy()[2] for state in toy.conv_states()])
    np.testing.assert_array_equal(stack["conv"]["weight"][:, 2], expected)


def test_the_bundled_stack_is_verified_before_each_read(tmp_path):
    folder = copy_bundled(tmp_path / "copy")
    stack = lx.open_stack(folder)
    file = folder / "epoch-0003.safetensors"
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with pytest.raises(CheckpointError, match="has been altered"):
        _ = stack["layer4"]["weight"][3, 0].values
    assert stack["layer4"]["weight"][2, 0].values.shape == (256,)


@pytest.mark.parametrize(("in_parts", "parts"), [(True, 16), (False, 1)])
def test_distances_take_a_tensor_in_blocks_only_where_a_block_is_read_by_itself(
    tmp_path, monkeypatch, in_parts, parts
):
    """What reads a whole tensor each time would read it as often as it has blocks."""
    monkeypatch.setattr(SafetensorsCheckpoint, "in_parts", in_parts)
    for epoch in range(2):
        values = np.full((16, 4), epoch, np.float32)
        save_file({"model.w": values}, tmp_path / f"epoch-{epoch}.safetensors")
    monkeypatch.setattr(blocks, "BLOCK_BYTES", 16)
    stack = lx.open_stack(tmp_path)
    (array,) = layer_variables(stack, layer_names(stack)[0]).values()
    weights = blocks.LayerWeights(["w"], {"w": 4}, {"w": array}, 2)
    assert len(weights.blocks("w")) == parts
    assert lx.distances(stack).l1.sel(epoch=1).item() == 64


@pytest.mark.parametrize("saved", [False, True])
def test_a_chunk_of_states_in_memory_or_of_safetensors_need_not_be_a_whole_tensor(tmp_path, saved):
    states = [{"model.w": np.full((16, 4), epoch, np.float32)} for epoch in range(2)]
    for epoch, state in enumerate(states):
        save_file(state, tmp_path / f"epoch-{epoch}.safetensors")
    stack = lx.open_stack(tmp_path if saved else states)
    (array,) = layer_variables(stack, layer_names(stack)[0]).values()
    assert array.encoding["preferred_chunks"] == {"epoch": 1}
