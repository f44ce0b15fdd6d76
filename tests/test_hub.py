"""Stacks of the hub, end to end: its own client against a hub on this machine."""

from __future__ import annotations

import errno
import io
import json
import logging
import os

import numpy as np
import pytest
import torch
from safetensors.numpy import save

import explorer as lx
from explorer.errors import CheckpointError, StackError, UnknownNameError, UsageError
from explorer.inventory.hub import Hub
from explorer.ui.background import measure_distances
from explorer.weights.hub_checkpoint import HubCheckpoint
from explorer.weights.stack import content_hash, epochs_here, read_epoch
from tests.hub_server import hub_server, neox_state, put_neox

client = pytest.importorskip("huggingface_hub", reason="needs the extra [hub]")

NAME = "EleutherAI/pythia-tiny"
STEPS = {"step0": 0, "step1": 1, "step16": 2, "step1000": 3, "main": 3}
WEIGHT = "gpt_neox.layers.0.attention.dense.weight"


@pytest.fixture
def server():
    with hub_server() as server:
        put_neox(server, NAME, STEPS)
        yield server


@pytest.fixture
def opened(server, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "others"))

    def open_hub(**options):
        options = {"folder": tmp_path / "hub", "endpoint": server.address, **options}
        return Hub(progress=False, **options)

    return open_hub


def open_tiny(hub, address=f"hub:{NAME}", **options):
    return lx.open_stack(address, hub=hub, layers="fine", **options)


def test_opening_lists_the_revisions_and_downloads_no_weights(server, opened):
    stack = open_tiny(opened())
    assert stack.epoch.values.tolist() == [0, 1, 16, 1000]
    assert stack.attrs["checkpoint_unit"] == "step"
    assert stack.attrs["revisions_left_out"] == ["main"]
    size = len(save(neox_state(0)))
    assert stack.attrs["download_bytes"] == size
    assert stack.attrs["title"].startswith("EleutherAI/pythia-tiny: 4 of 4 checkpoints, 25.9 kB")
    assert server.downloads(".safetensors") == []
    assert {r for _, p, r in server.asked if p.endswith(".safetensors")} == {"bytes=0-100000"}
    content_hash(stack)
    assert "pythia-tiny" in stack._repr_html_()
    assert server.downloads(".safetensors") == []


def test_a_tensor_is_read_from_its_revision_and_nothing_else_is_downloaded(server, opened):
    stack = open_tiny(opened())
    variable = stack["gpt_neox.layers.0.attention.dense"]["weight"]
    assert np.array_equal(variable.sel(epoch=16).values, neox_state(2)[WEIGHT])
    [only] = server.downloads(".safetensors")
    assert server.commit(NAME, "step16") in only
    assert not any("README" in p or "optimizer" in p for _, p, _ in server.asked)
    state = read_epoch(stack, 16)
    assert {n: a.tobytes() for n, a in state.items()} == {
        n: a.tobytes() for n, a in neox_state(2).items()
    }
    assert len(server.downloads(".safetensors")) == 1


@pytest.mark.parametrize("progress", [True, False])
def test_a_download_shows_how_far_it_is_unless_that_is_turned_off(
    server, tmp_path, monkeypatch, capsys, progress
):
    monkeypatch.setenv("TQDM_POSITION", "-1")  # the client's way to show bars without a terminal
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "others"))
    hub = Hub(folder=tmp_path / "hub", endpoint=server.address, progress=progress)
    stack = open_tiny(hub)
    assert "safetensors" not in capsys.readouterr().err  # opening downloads none
    read_epoch(stack, 16)
    shown = capsys.readouterr().err
    assert ("100%" in shown) == progress
    assert ("model.safetensors" in shown) == progress


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"every": 2}, [0, 16, 1000]),
        ({"only": [1, 1000]}, [1, 1000]),
        ({"epochs": [0, 1]}, [0, 1]),
        ({"only": slice(1, 16)}, [1, 16]),
        ({"only": slice(None, 16), "every": 2}, [0, 16]),
    ],
)
def test_some_of_the_steps_can_be_chosen(opened, options, expected):
    assert open_tiny(opened(), **options).epoch.values.tolist() == expected


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"only": [2]}, UnknownNameError, r"no checkpoint 2(.|\n)*0, 1, 16, 1000"),
        ({"only": slice(2, 9)}, StackError, r"None of the 4 checkpoints, 0 to 1000, is in slice"),
        ({"every": 0}, UsageError, r"every is 0"),
    ],
)
def test_steps_that_do_not_exist_are_refused_by_those_that_do(opened, options, error, message):
    with pytest.raises(error, match=message):
        open_tiny(opened(), **options)


def test_olmo_s_names_with_tokens_make_steps_and_other_stages_stay_out(server, opened):
    names = ("step1000-tokens4B", "step5000-tokens20B", "stage1-step7-tokens1B")
    others = ("stage2-ingredient1-step1000-tokens3B", "stage2-step5-tokens3B", "main")
    others += ("step" + 20 * "9",)  # more than an int64 counts
    put_neox(server, "allenai/OLMo-tiny", dict.fromkeys((*names, *others), 0))
    stack = open_tiny(opened(), "hub:allenai/OLMo-tiny")
    assert stack.epoch.values.tolist() == [7, 1000, 5000]
    assert set(stack.attrs["revisions_left_out"]) == set(others)


def test_two_revisions_of_one_step_are_refused(server, opened):
    put_neox(server, "a/twice", {"step10": 0, "step10-tokens1B": 1})
    with pytest.raises(StackError, match=r"a/twice@step10 and .*tokens1B are both step 10"):
        open_tiny(opened(), "hub:a/twice")


def test_a_pattern_makes_a_stack_of_repositories_that_exist(server, opened):
    for number, seed in (("0k", 0), ("20k", 1), ("2000k", 2), ("final", 3)):
        put_neox(server, f"google/multiberts-seed_0-step_{number}", {"main": seed})
    put_neox(server, "google/multiberts-seed_1-step_40k", {"main": 0})
    stack = open_tiny(opened(), "hub:google/multiberts-seed_0-step_*")
    assert stack.epoch.values.tolist() == [0, 20_000, 2_000_000]
    assert stack.attrs["revisions_left_out"] == ["google/multiberts-seed_0-step_final"]
    weight = stack["gpt_neox.layers.0.attention.dense"]["weight"]
    assert np.array_equal(weight.sel(epoch=20_000).values, neox_state(1)[WEIGHT])
    with pytest.raises(StackError, match=r"no repositories google/other-\*"):
        open_tiny(opened(), "hub:google/other-*")
    with pytest.raises(StackError, match=r"one \* that stands for the number"):
        open_tiny(opened(), "hub:google/*-step_*")


def test_one_revision_can_be_opened_alone(opened):
    stack = open_tiny(opened(), f"hub:{NAME}@main")
    assert stack.epoch.values.tolist() == [1]
    with pytest.raises(StackError, match=r"no revision 'mian'(.|\n)*main"):
        open_tiny(opened(), f"hub:{NAME}@mian")


def test_a_repository_that_is_not_there_or_has_no_steps_is_explained(server, opened):
    with pytest.raises(StackError, match=r"no repository EleutherAI/pythia-15m(.|\n)*hf auth"):
        open_tiny(opened(), "hub:EleutherAI/pythia-15m")
    put_neox(server, "a/final-only", {"main": 0})
    with pytest.raises(StackError, match=r"no revisions named stepN(.|\n)*hub:a/final-only@main"):
        open_tiny(opened(), "hub:a/final-only")


# --- formats --------------------------------------------------------------------------------------


def put_pieces(server):
    """Put weights in two pieces of about the same size; return their files by name."""
    state = neox_state(5)
    halves = [dict(list(state.items())[:10]), dict(list(state.items())[10:])]
    names = [f"model-0000{k}-of-00002.safetensors" for k in (1, 2)]
    index = {n: name for half, name in zip(halves, names, strict=True) for n in half}
    files = {name: save(half) for half, name in zip(halves, names, strict=True)}
    files["model.safetensors.index.json"] = json.dumps({"weight_map": index}).encode()
    server.put("a/pieces", "step0", files)
    return files


def test_pieces_are_found_through_their_index_and_only_those_needed_come(server, opened):
    state, files = neox_state(5), put_pieces(server)
    names = [name for name in files if name.endswith(".safetensors")]
    stack = open_tiny(opened(), "hub:a/pieces")
    assert stack.attrs["download_bytes"] == sum(len(files[n]) for n in names)
    assert np.array_equal(stack["embed_out"]["weight"].values[0], state["embed_out.weight"])
    assert [p.rpartition("/")[2] for p in server.downloads(".safetensors")] == [names[1]]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("file", ["model.safetensors", "pytorch_model.bin"])
def test_halves_are_widened_to_float32_without_loss(server, opened, dtype, file):
    from safetensors.torch import save as save_torch

    half = {n: torch.from_numpy(a).to(dtype) for n, a in neox_state(6).items()}
    stream = io.BytesIO()
    torch.save(half, stream)
    content = save_torch(half) if file.endswith(".safetensors") else stream.getvalue()
    server.put("a/half", "step0", {file: content})
    for name, array in read_epoch(open_tiny(opened(), "hub:a/half"), 0).items():
        assert array.dtype == np.float32
        assert np.array_equal(array, half[name].float().numpy()), name


def test_code_in_a_file_of_torch_is_not_run(server, opened, tmp_path):
    ran = tmp_path / "payload-ran"

    class Payload:
        def __reduce__(self):
            return os.mkdir, (str(ran),)

    stream = io.BytesIO()
    torch.save({"weight": Payload()}, stream)
    server.put("a/evil", "step0", {"pytorch_model.bin": stream.getvalue()})
    with pytest.raises(CheckpointError, match=r"it would call \w+\.mkdir, which is not known"):
        open_tiny(opened(), "hub:a/evil")
    assert not ran.exists()


@pytest.mark.parametrize("name", ["../../evil.bin", "..\\evil.bin", "C:\\evil.bin", "NUL.bin"])
def test_an_index_on_the_hub_cannot_lead_out_of_the_cache(server, opened, tmp_path, name):
    index = {"weight_map": {"w": name}}
    server.put("a/evil", "step0", {"pytorch_model.bin.index.json": json.dumps(index).encode()})
    with pytest.raises(CheckpointError, match=r"index.json names .*, which (leaves|names the)"):
        open_tiny(opened(), "hub:a/evil")
    assert not list(tmp_path.rglob("evil*"))


@pytest.mark.parametrize("config", ["[" * 100_000, "[1]", '{"a": ' + "9" * 5000 + "}", ""])
def test_a_config_on_the_hub_of_another_form_is_told(server, opened, config):
    put_neox(server, "a/odd", {"step0": 0})
    server.put("a/odd", "step0", {"config.json": config.encode()})
    with pytest.raises(CheckpointError, match=r"config.json of a/odd@step0 cannot be read"):
        open_tiny(opened(), "hub:a/odd")


def test_an_index_on_the_hub_that_names_what_is_not_there_is_told(server, opened):
    index = {"weight_map": {"w": "absent.bin"}}
    server.put("a/half", "step0", {"pytorch_model.bin.index.json": json.dumps(index).encode()})
    with pytest.raises(CheckpointError, match=r"names 'absent.bin', which is not there"):
        open_tiny(opened(), "hub:a/half")


def test_a_hub_that_lists_a_file_elsewhere_is_not_trusted(server, opened, tmp_path):
    server.put("a/evil", "step0", {"model.safetensors": save({"w": np.ones(1)}), "../evil": b"x"})
    with pytest.raises(CheckpointError, match=r"hub names the file '../evil'.*leaves its folder"):
        open_tiny(opened(), "hub:a/evil")
    assert not list(tmp_path.rglob("evil"))


def test_what_would_fill_the_memory_is_refused_from_the_hub_too(server, opened):
    stream = io.BytesIO()
    torch.save({"w": torch.ones(1).expand(10**12)}, stream)
    server.put("a/wide", "step0", {"pytorch_model.bin": stream.getvalue()})
    with pytest.raises(CheckpointError, match=r"w declares 1000000000000 elements"):
        open_tiny(opened(), "hub:a/wide")


def test_a_revision_without_weights_says_what_it_has(server, opened):
    server.put("a/empty", "step0", {"flax_model.msgpack": b"x"})
    with pytest.raises(CheckpointError, match=r"no weights that can be read; it has flax_model"):
        open_tiny(opened(), "hub:a/empty")


def test_a_revision_of_other_shapes_is_refused_when_it_is_read(server, opened):
    odd = {**neox_state(0), WEIGHT: np.zeros((3, 3), np.float32)}
    server.put(NAME, "step1", {"model.safetensors": save(odd)})
    stack = open_tiny(opened())
    with pytest.raises(StackError, match=r"is float32 \(3, 3\) in checkpoint 1"):
        stack["gpt_neox.layers.0.attention.dense"]["weight"].sel(epoch=1).load()


# --- faults ---------------------------------------------------------------------------------------


def weight_at(stack, step):
    return stack["gpt_neox.layers.0.attention.dense"]["weight"].sel(epoch=step).values


def test_a_cut_connection_is_taken_up_where_it_broke(server, opened, monkeypatch):
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda _seconds: None)
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 1024)
    server.cut["model.safetensors"] = 1
    assert np.array_equal(weight_at(open_tiny(opened()), 16), neox_state(2)[WEIGHT])
    arrived = len(save(neox_state(2))) // 2 // 1024 * 1024  # whole chunks
    ranges = [r for m, p, r in server.asked if m == "GET" and "/resolve/" in p]
    assert ranges[-2:] == ["", f"bytes={arrived}-"]


def test_a_revision_that_is_gone_leaves_the_others_usable(server, opened):
    server.gone.add("step16")
    stack = open_tiny(opened())
    with pytest.raises(CheckpointError, match=r"does not have .*step16(.|\n)*stay usable"):
        weight_at(stack, 16)
    assert np.array_equal(weight_at(stack, 1), neox_state(1)[WEIGHT])


def test_a_file_that_is_not_the_one_the_hub_has_is_refused_and_removed(server, opened, tmp_path):
    server.altered.add("model.safetensors")
    stack = open_tiny(opened())
    with pytest.raises(CheckpointError, match=r"not what the hub says(.|\n)*removed"):
        weight_at(stack, 16)
    blobs = tmp_path / "hub" / "models--EleutherAI--pythia-tiny" / "blobs"
    assert not any(f.stat().st_size > 1000 for f in blobs.iterdir())
    server.altered.clear()
    assert np.array_equal(weight_at(stack, 16), neox_state(2)[WEIGHT])


def test_a_small_file_is_checked_too(server, opened):
    server.altered.add("model.safetensors.index.json")
    files = {"model.safetensors.index.json": b'{"weight_map": {}}'}
    server.put("a/index", "step0", files)
    with pytest.raises(CheckpointError, match=r"index.json of a/index@step0 is not what the hub"):
        open_tiny(opened(), "hub:a/index")


def test_a_full_disk_is_said_and_leaves_nothing_behind(server, opened, tmp_path, monkeypatch):
    stack = open_tiny(opened())

    def full(_url, file, **_options):
        file.write(b"some of it")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("huggingface_hub.file_download.http_get", full)
    with pytest.raises(CheckpointError, match=r"disk was full(.|\n)*EXPLORER_HUB_CACHE"):
        weight_at(stack, 16)
    monkeypatch.undo()
    assert not list((tmp_path / "hub").rglob("*.incomplete"))


def test_a_hub_that_cannot_be_reached_is_explained(tmp_path):
    with hub_server() as server:
        address = server.address
    hub = Hub(folder=tmp_path, endpoint=address, progress=False)
    with pytest.raises(CheckpointError, match=r"could not be had(.|\n)*offline"):
        open_tiny(hub)


def test_offline_uses_what_is_here_and_the_other_columns_say_so(server, opened):
    weight_at(open_tiny(opened()), 16)
    asked = len(server.asked)
    stack = open_tiny(opened(offline=True))
    assert stack.epoch.values.tolist() == [0, 1, 16, 1000]
    assert np.array_equal(weight_at(stack, 16), neox_state(2)[WEIGHT])
    with pytest.raises(CheckpointError, match=r"step1 is not on this machine(.|\n)*stay usable"):
        weight_at(stack, 1)
    with pytest.raises(CheckpointError, match=r"model.safetensors of .*step1000 is not on this"):
        weight_at(stack, 1000)  # listed when the stack was opened, but never read
    assert len(server.asked) == asked
    with pytest.raises(CheckpointError, match=r"a/other is not known here"):
        open_tiny(opened(offline=True), "hub:a/other")


def test_the_hub_s_own_variable_makes_it_offline(opened, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert opened().offline
    assert not opened(offline=False).offline


def test_which_checkpoints_are_here_is_known_without_asking(server, opened):
    stack = open_tiny(opened())
    asked = len(server.asked)
    assert epochs_here(stack) == []
    assert len(server.asked) == asked
    for step in (16, 0):
        weight_at(stack, step)
    asked = len(server.asked)
    assert epochs_here(stack) == [0, 16]
    assert epochs_here(stack.isel(epoch=[1, 2, 3])) == [16]
    assert epochs_here(open_tiny(opened(offline=True))) == [0, 16]
    assert len(server.asked) == asked
    assert epochs_here(stack.load()) == [0, 1, 16, 1000]


def test_the_explorers_distances_are_those_of_checkpoints_that_are_here(server, opened):
    stack = open_tiny(opened())
    options = {"model": None, "draws": 0, "seed": 0}
    assert measure_distances(stack, **options, epochs=epochs_here(stack)) is None
    for step in (0, 16):
        weight_at(stack, step)
    before = len(server.downloads())
    found = measure_distances(stack, **options, epochs=epochs_here(stack))
    assert len(server.downloads()) == before
    expected = lx.distances(stack.sel(epoch=[0, 16]))
    assert np.array_equal(found.l2.sel(epoch=[0, 16]), expected.l2)
    assert np.isnan(found.l2.sel(epoch=[1, 1000])).all()
    assert (found.nonfinite == 0).all()
    dense = found.reason.sel(layer="gpt_neox.layers.0.attention.dense").values.tolist()
    assert [text[:23] for text in dense] == ["", "not on this machine yet", "", dense[1][:23]]


# --- gated and private repositories ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "status", "advice"),
    [
        ("GatedRepo", 403, r"accepted its terms(.|\n)*Accept the terms on its page, and log in"),
        ("GatedRepo", 401, r"accepted its terms(.|\n)*hf auth login"),
        ("RepoNotFound", 401, r"no repository(.|\n)*for a private one log in with `hf auth login`"),
        ("RepoNotFound", 404, r"no repository(.|\n)*for a private one log in with `hf auth login`"),
        ("", 403, r"not allowed(.|\n)*hf auth login"),
        ("", 401, r"not allowed(.|\n)*hf auth login"),
    ],
)
def test_what_may_not_be_read_says_what_to_do(server, opened, code, status, advice):
    server.refused[NAME] = (code, status)
    with pytest.raises(StackError, match=advice):
        open_tiny(opened())


def test_a_repository_that_lists_its_files_and_keeps_them_back_says_so_too(server, opened):
    """So it is with gated ones: what there is can be seen, and not read."""
    stack = open_tiny(opened())
    weight_at(stack, 0)
    server.refused[NAME] = ("GatedRepo", 403)
    with pytest.raises(CheckpointError, match=r"accepted its terms(.|\n)*hf auth login"):
        weight_at(stack, 1)
    assert np.array_equal(weight_at(stack, 0), neox_state(0)[WEIGHT])


# --- the disk budget ------------------------------------------------------------------------------


def here(hub, step):
    revision = next(one for one in hub.revisions(NAME) if one.name == f"step{step}")
    return hub.is_here(revision, "model.safetensors")


def test_the_least_recently_used_revision_makes_room(opened):
    size = len(save(neox_state(0)))
    hub = opened(budget=2.5 * size / 1e9)
    stack = open_tiny(hub)
    for seconds, step in enumerate((0, 1)):
        weight_at(stack, step)
        later(hub, step, seconds)
    later(hub, 0, 5)  # used again
    weight_at(stack, 16)
    assert [step for step in (0, 1, 16) if here(hub, step)] == [0, 16]
    used = sum(f.stat().st_size for f in hub.folder.rglob("blobs/*") if f.is_file())
    assert used <= hub.budget


def later(hub, step, seconds):
    """Pretend that a revision was used at another time, without waiting for it."""
    revision = next(one for one in hub.revisions(NAME) if one.name == f"step{step}")
    [snapshot] = hub.folder.glob(f"models--*/snapshots/{revision.commit}")
    os.utime(snapshot, (1e9 + seconds, 1e9 + seconds))


def test_reading_counts_as_use(opened):
    hub = opened()
    stack = open_tiny(hub)
    weight_at(stack, 0)
    later(hub, 0, 0)
    weight_at(stack, 0)
    revision = next(one for one in hub.revisions(NAME) if one.name == "step0")
    [snapshot] = hub.folder.glob(f"models--*/snapshots/{revision.commit}")
    assert snapshot.stat().st_mtime > 1.1e9


def test_a_checkpoint_larger_than_the_budget_is_refused_before_it_is_downloaded(server, opened):
    stack = open_tiny(opened(budget=1e-6))
    with pytest.raises(CheckpointError, match=r"needs 2\d\.\d kB(.|\n)*budget .* is 1.0 kB"):
        weight_at(stack, 16)
    assert server.downloads(".safetensors") == []


def test_the_revision_in_use_is_never_removed(server, opened):
    largest = max(map(len, put_pieces(server).values()))
    hub = opened(budget=1.5 * largest / 1e9)
    stack = open_tiny(hub, "hub:a/pieces")
    first = stack["gpt_neox.embed_in"]["weight"].values
    with pytest.raises(CheckpointError, match=r"a/pieces@step0 needs .*(.|\n)*budget"):
        stack["embed_out"]["weight"].load()
    [revision] = hub.revisions("a/pieces")
    assert hub.is_here(revision, "model-00001-of-00002.safetensors")
    assert np.array_equal(stack["gpt_neox.embed_in"]["weight"].values, first)


def test_a_stack_larger_than_the_budget_is_said_at_once(opened, caplog):
    with caplog.at_level(logging.WARNING, "explorer"):
        open_tiny(opened(budget=5e-5))
    assert "the disk budget is 50.0 kB" in caplog.text


def test_what_the_client_has_in_its_own_cache_is_used_and_never_removed(server, opened, tmp_path):
    commit = server.commit(NAME, "step16")
    api = client.HfApi(endpoint=server.address)
    path = api.hf_hub_download(
        NAME, "model.safetensors", revision=commit, cache_dir=tmp_path / "others"
    )
    before = len(server.downloads(".safetensors"))
    stack = open_tiny(opened(budget=1e-6))
    assert np.array_equal(weight_at(stack, 16), neox_state(2)[WEIGHT])
    assert len(server.downloads(".safetensors")) == before
    with open(path, "r+b") as stream:
        stream.seek(-1, os.SEEK_END)
        stream.write(b"\x55")
    with pytest.raises(CheckpointError, match=r"not what the hub says(.|\n)*Remove "):
        weight_at(stack, 16)
    assert os.path.exists(path)


@pytest.mark.parametrize("budget", ["none", "-1", "0", "nan"])
def test_a_budget_that_is_none_is_refused(opened, monkeypatch, budget):
    monkeypatch.setenv("EXPLORER_HUB_CACHE_GB", budget)
    with pytest.raises(UsageError, match=rf"budget .* is '{budget}'"):
        opened()


def test_without_the_client_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "huggingface_hub", None)
    with pytest.raises(UsageError, match=r"layer-explorer\[hub\]"):
        Hub()


def test_a_name_that_is_not_of_the_hub_is_looked_up_as_before():
    with pytest.raises(UnknownNameError, match="no stack 'pythia-14m'"):
        lx.open_stack("pythia-14m")


def test_a_checkpoint_knows_its_tensors_without_their_values(server, opened):
    hub = opened()
    [revision] = [one for one in hub.revisions(NAME) if one.name == "step0"]
    checkpoint = HubCheckpoint(hub, revision, lambda names: {n: n for n in names})
    assert {n: s.shape for n, s in checkpoint.specs().items()} == {
        n: a.shape for n, a in neox_state(0).items()
    }
    with pytest.raises(CheckpointError, match=r"has no tensor other"):
        checkpoint.read("other")
    assert server.downloads() == []
