"""Files from strangers: names, links, sizes and code in them, none of which is followed."""

from __future__ import annotations

import ast
import json
import os
import pickle
import shutil
import tracemalloc
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

import explorer as lx
from explorer.engine.results import open_sweep
from explorer.errors import CheckpointError, ManifestError, StackError
from explorer.inventory import hub as hub_module
from explorer.inventory import manifest
from explorer.inventory.hub_folder import Revision
from explorer.inventory.names import link_out_of, unsafe, unsafe_name
from explorer.weights import labelled, safetensors_file
from explorer.weights.readers import parts, pickled
from explorer.weights.stack import read_epoch
from tests import toy
from tests.test_bad_checkpoints import Payload

PACKAGE = Path(lx.__file__).parent


# --- names ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("../evil", "leaves its folder"),
        ("a/../../evil", "leaves its folder"),
        ("/etc/passwd", "leaves its folder"),
        ("C:\\x", "leaves its folder"),
        ("c:x", "leaves its folder"),
        ("\\\\server\\share\\x", "leaves its folder"),
        ("//server/share/x", "leaves its folder"),
        ("\\\\?\\C:\\x", "leaves its folder"),
        ("..\\evil", "leaves its folder"),
        ("a\\..\\..\\evil", "leaves its folder"),
        ("a\\b", "has a backslash"),
        ("CON", "names the Windows device 'CON'"),
        ("con", "names the Windows device 'con'"),
        ("nul.safetensors", "names the Windows device 'nul.safetensors'"),
        ("AUX .tar.gz", "names the Windows device"),
        ("COM1", "names the Windows device 'COM1'"),
        ("LPT¹.bin", "names the Windows device"),
        ("sub/PRN.pt", "names the Windows device 'PRN.pt'"),
        ("CONOUT$", "names the Windows device"),
        ("epoch-0.safetensors:hidden", "has a colon"),
        ("epoch-0.safetensors::$DATA", "has a colon"),
        ("a\x00b", "has a character"),
        ("a\nb", "has a character"),
        ("a*", "has a character"),
        ("a\udc80", "has a character"),
        ("a\x9b", "has a character"),
        (256 * "a", "has a part longer than 255 bytes"),
        (128 * "é", "has a part longer than 255 bytes"),
        (341 * "ab/" + "cc", "is longer than 1024 bytes"),
        ("evil.", "whose end Windows leaves out"),
        ("evil /x", "whose end Windows leaves out"),
        ("a//b", "has a part without a name"),
        ("a/", "has a part without a name"),
        ("", "is no name"),
        (None, "is no name"),
        (7, "is no name"),
    ],
)
def test_a_name_that_leads_elsewhere_on_any_system_is_told(path, reason):
    assert reason in unsafe(path)
    assert reason in unsafe_name(path)


@pytest.mark.parametrize(
    "path",
    [
        *("epoch-0000.safetensors", "sub/a.pt", ".", "console.pt", "a..b", "COM10", "Größe.pt"),
        *(255 * "a", 127 * "é", 341 * "ab/" + "c"),
    ],
)
def test_a_plain_name_is_accepted(path):
    assert unsafe(path) == ""


@pytest.mark.parametrize("name", ["sub/a.pt", "."])
def test_a_name_alone_has_no_path(name):
    assert unsafe_name(name) == "lies outside its folder"


@pytest.mark.parametrize("name", ["C:\\x.bin", "..\\x.bin", "NUL.bin", "a.bin:b", 7, None])
def test_an_index_that_leads_elsewhere_on_windows_is_refused_everywhere(tmp_path, name):
    index = tmp_path / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"weight_map": {"w": name}}))
    with pytest.raises(CheckpointError, match=r"index.json names .*, which .*\n.*without a path"):
        lx.open_stack(tmp_path)


# --- links ----------------------------------------------------------------------------------------


@pytest.fixture
def outside(tmp_path):
    path = tmp_path / "elsewhere" / "epoch-1.safetensors"
    path.parent.mkdir()
    save_file({"w": np.ones(4, np.float32)}, path)
    return path


def folder_with(tmp_path, link, target):
    folder = tmp_path / "run"
    folder.mkdir()
    for epoch in (0, 2):
        save_file({"w": np.full(4, epoch, np.float32)}, folder / f"epoch-{epoch}.safetensors")
    (folder / link).symlink_to(target)
    return folder


LEAVES = r"epoch-1.safetensors is a link that leaves the folder .*run, to .*elsewhere"


def test_a_link_that_leaves_the_folder_is_refused_and_the_others_stay(tmp_path, outside):
    folder = folder_with(tmp_path, "epoch-1.safetensors", outside)
    stack = lx.open_stack(folder)
    assert list(stack.attrs["unreadable"]) == ["1"]
    with pytest.raises(CheckpointError, match=LEAVES + r"(.|\n)*name the files: open_stack\(\["):
        read_epoch(stack, 1)
    assert read_epoch(stack, 2)["w"].tolist() == [2.0] * 4


def test_a_link_whose_target_was_named_by_the_reader_of_it_is_followed(tmp_path, outside):
    folder = folder_with(tmp_path, "epoch-1.safetensors", outside)
    stack = lx.open_stack(sorted(folder.iterdir()))
    assert read_epoch(stack, 1)["w"].tolist() == [1.0] * 4


def test_a_link_within_the_folder_is_followed(tmp_path):
    folder = folder_with(tmp_path, "epoch-1.safetensors", "epoch-0.safetensors")
    assert "unreadable" not in lx.open_stack(folder).attrs


def test_a_link_that_leaves_from_inside_a_checkpoint_is_refused(tmp_path, outside):
    for step in (1, 2):
        folder = tmp_path / "run" / f"checkpoint-{step}"
        folder.mkdir(parents=True)
        save_file({"w": np.ones(4, np.float32)}, folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").symlink_to(outside)
    assert "leaves the folder" in lx.open_stack(tmp_path / "run").attrs["unreadable"]["2"]
    with pytest.raises(CheckpointError, match="leaves the folder"):
        lx.open_stack(folder)


def test_a_manifest_s_file_that_is_a_link_out_of_its_folder_is_refused(copied, tmp_path):
    file = copied / "epoch-0001.safetensors"
    shutil.move(file, tmp_path / "moved")
    file.symlink_to(tmp_path / "moved")
    stack = lx.open_stack(copied)
    with pytest.raises(CheckpointError, match=r"epoch-0001.* leaves its folder, to .*moved"):
        read_epoch(stack, 1)


def test_the_cache_of_the_hub_s_client_consists_of_links_that_are_inside(tmp_path):
    snapshot = tmp_path / "models--a--b" / "snapshots" / "abc"
    blob = tmp_path / "models--a--b" / "blobs" / "123"
    for path in (snapshot, blob.parent):
        path.mkdir(parents=True)
    save_file({"w": np.ones(4, np.float32)}, blob)
    (snapshot / "model.safetensors").symlink_to("../../blobs/123")
    assert link_out_of(snapshot, snapshot / "model.safetensors") is None
    assert len(lx.open_stack(snapshot).epoch) == 1
    (snapshot / "model.safetensors").unlink()
    (snapshot / "model.safetensors").symlink_to("../../../secret")
    assert link_out_of(snapshot, snapshot / "model.safetensors") == tmp_path / "secret"


# --- budgets --------------------------------------------------------------------------------------


class little:  # noqa: N801 - reads as a word
    """Fail when more than two megabytes are allocated within."""

    def __enter__(self):
        tracemalloc.start()

    def __exit__(self, *_):
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert most < 2_000_000


def sparse(path, size, start=b""):
    """A file that takes no room on the disk, whatever size it has."""
    with path.open("wb") as stream:
        stream.write(start)
        stream.truncate(size)
    return path


def test_a_header_of_safetensors_that_fills_the_file_is_not_read_beyond_its_budget(tmp_path):
    length = safetensors_file.LONGEST_HEADER + 1
    sparse(tmp_path / "step_0.safetensors", 2 * length, length.to_bytes(8, "little"))
    with little(), pytest.raises(CheckpointError, match=rf"the header claims {length}"):
        lx.open_stack(tmp_path)


def test_an_index_beyond_its_budget_is_not_read(tmp_path):
    sparse(tmp_path / "model.safetensors.index.json", parts.LONGEST + 1)
    with little(), pytest.raises(CheckpointError, match=rf"it has {parts.LONGEST + 1} bytes, over"):
        lx.open_stack(tmp_path)


def test_a_manifest_beyond_its_budget_is_not_read(tmp_path):
    sparse(tmp_path / "stack.json", manifest.LONGEST + 1)
    with little(), pytest.raises(ManifestError, match=rf"has {manifest.LONGEST + 1} bytes"):
        lx.open_stack(tmp_path)


@pytest.mark.parametrize("old", [False, True], ids=["new", "old"])
def test_a_pickle_beyond_its_budget_is_not_read(tmp_path, monkeypatch, old):
    monkeypatch.setattr(pickled, "LONGEST", 1000)
    monkeypatch.setattr("explorer.weights.readers.torch_formats.LONGEST", 1000)
    content = {"w": torch.ones(1), "words": [f"word {k}" for k in range(1000)]}
    torch.save(content, tmp_path / "step_0.pt", _use_new_zipfile_serialization=not old)
    with pytest.raises(CheckpointError, match=r"pickle has (more than 1000|\d+) bytes"):
        lx.open_stack(tmp_path)


# --- labelled files -------------------------------------------------------------------------------


@pytest.fixture
def saved(tmp_path, switch):
    return lambda name: lx.save_stack(switch, tmp_path / name)


def external(file, name, _):
    file[f"{name}/x"] = h5py.ExternalLink("/etc/passwd", "/x")


def soft(file, name, _):
    file[f"{name}/x"] = h5py.SoftLink("/epoch")


def raw(file, name, folder):
    (folder / "secret").write_bytes(bytes(64))
    file[name].create_dataset("x", (16,), "f4", external=[(str(folder / "secret"), 0, 64)])


def virtual(file, name, folder):
    layout = h5py.VirtualLayout((16,), "f4")
    layout[:] = h5py.VirtualSource(str(folder / "other.nc"), "x", (16,))
    file[name].create_virtual_dataset("x", layout)


def cycle(file, name, _):
    file[f"{name}/x"] = file["/"]


def large(file, name, _):
    file[name].create_dataset("x", (10**12,), "f4", chunks=(1024,), compression="gzip")


def large_together(file, name, _):
    for k, elements in enumerate((10**12, 10**12, 1)):
        options = {"chunks": (min(elements, 1024),), "compression": "gzip"}
        file[name].create_dataset(f"x{k}", (elements,), "f4", **options)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (external, "'/.*/x' is a link, or has its numbers in another file"),
        (soft, "'/.*/x' is a link"),
        (raw, "has its numbers in another file"),
        (virtual, "has its numbers in another file"),
        (cycle, "contains itself"),
        (large, r"declares 40000000\d+ bytes of numbers and has \d+ bytes"),
        (large_together, r"declares 80000000\d+ bytes of numbers and has \d+ bytes"),
    ],
)
@pytest.mark.parametrize("kind", ["stack", "results"])
def test_a_netcdf_that_leads_out_or_declares_too_much_is_refused(
    saved, tmp_path, kind, change, match
):
    path = saved("stack.nc")
    with h5py.File(path, "a") as file:
        change(file, next(n for n in file if isinstance(file[n], h5py.Group)), tmp_path)
    with pytest.raises(CheckpointError, match=match):
        lx.open_stack(path) if kind == "stack" else open_sweep(path)


def rewrite_zarr(path, change):
    about = next(p for p in sorted(path.rglob("zarr.json")) if '"shape"' in p.read_text())
    content = json.loads(about.read_text())
    change(content)
    about.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (
            lambda a: a["codecs"].append({"name": "numcodecs.pickle", "configuration": {}}),
            r"codec 'numcodecs.pickle', which could run code",
        ),
        (
            lambda a: a["codecs"].insert(
                0,
                {
                    "name": "sharding_indexed",
                    "configuration": {
                        "codecs": [{"name": "bytes"}],
                        "index_codecs": [{"name": "x"}],
                    },
                },
            ),
            r"codec 'x'",
        ),
        (lambda a: a.update(shape=[10**12]), r"declares 80\d+ bytes of numbers and has"),
        (lambda a: a.update(shape="wide"), r"cannot be read as zarr"),
    ],
)
def test_a_zarr_that_could_run_code_or_declares_too_much_is_refused(saved, change, match):
    pytest.importorskip("zarr")
    path = saved("stack.zarr")
    rewrite_zarr(path, change)
    with pytest.raises(CheckpointError, match=match):
        lx.open_stack(path)


def test_a_pickle_in_an_old_zarr_is_refused_by_its_name_and_not_run(tmp_path, capsys):
    pytest.importorskip("zarr")
    array = tmp_path / "evil.zarr" / "fc" / "w"
    array.mkdir(parents=True)
    (tmp_path / "evil.zarr" / ".zgroup").write_text('{"zarr_format": 2}')
    about = {"zarr_format": 2, "shape": [1, 2], "chunks": [1, 2], "dtype": "<f4", "order": "C"}
    about |= {"compressor": None, "filters": [{"id": "pickle"}], "fill_value": 0}
    (array / ".zarray").write_text(json.dumps(about))
    (array / "0.0").write_bytes(pickle.dumps(Payload(print, "code ran")))
    with pytest.raises(CheckpointError, match=r"w/.zarray is written with the codec 'pickle'"):
        lx.open_stack(tmp_path / "evil.zarr")
    assert "code ran" not in capsys.readouterr().out


def test_a_link_out_of_a_zarr_is_refused(saved, tmp_path):
    pytest.importorskip("zarr")
    path = saved("stack.zarr")
    (tmp_path / "secret").write_bytes(b"secret")
    (path / "zzz").symlink_to(tmp_path / "secret")
    with pytest.raises(CheckpointError, match=r"zzz is a link that leaves .*stack.zarr"):
        lx.open_stack(path)


def test_every_codec_that_is_known_is_one_of_zarr_s_or_numcodecs():
    zarr = pytest.importorskip("zarr")
    numcodecs = pytest.importorskip("numcodecs")
    own = {"bytes", "blosc", "zstd", "gzip", "crc32c", "transpose", "sharding_indexed"}
    assert all(zarr.registry.get_codec_class(name) for name in own)
    assert own | set(numcodecs.registry.codec_registry) >= labelled._CODECS


# --- code -----------------------------------------------------------------------------------------


def test_a_distributed_checkpoint_is_named_and_its_pickle_not_run(tmp_path, capsys):
    (tmp_path / ".metadata").write_bytes(pickle.dumps(Payload(print, "code ran")))
    (tmp_path / "__0_0.distcp").write_bytes(b"")
    with pytest.raises(StackError, match=r"torch.distributed.*could run code(.|\n)*dcp_to_torch"):
        lx.open_stack(tmp_path)
    assert "code ran" not in capsys.readouterr().out


def test_checkpoints_of_torch_distributed_in_folders_are_named_too(tmp_path):
    (tmp_path / "step-1").mkdir()
    (tmp_path / "step-1" / ".metadata").write_bytes(b"")
    with pytest.raises(StackError, match=r"torch.distributed"):
        lx.open_stack(tmp_path)


def test_what_was_refused_is_named_with_the_way_to_allow_it(tmp_path):
    path = tmp_path / "step_0.pt"
    torch.save({"state_dict": {"w": torch.ones(1)}, "x": Payload(os.mkdir, "made")}, path)
    with pytest.raises(
        CheckpointError,
        match=r"it would call posix.mkdir(.|\n)*no code is run(.|\n)*If you trust the file, choose "
        r"to run its code: reader=lambda path: torch.load\(path, weights_only=False\)",
    ):
        lx.open_stack(path)


RUNS_CODE = {"load", "loads", "Unpickler", "read_pickle", "load_state_dict_from_url"}
MODULES = {"torch", "pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve"}
MODULES |= {"yaml", "np", "numpy", "pd", "pandas", "hub", "jsonpickle"}
ALLOWED = {
    ("engine/on_worker.py", "pickle.loads"): "from the client, whose code runs there anyway",
    ("weights/lazy.py", "pickle.loads"): "what this process, or dask's client, has pickled itself",
    ("data/archives.py", "pickle.loads"): "a file of CIFAR, after its md5",
}
ARGUMENTS = {"allow_pickle", "trust_remote_code", "shell"}
AT_LEAST_CALLS = 4000


def calls_that_run_code(source, file):
    """Dotted names of calls, and of what is passed around, that could run what a file says."""
    found = []
    nodes = list(ast.walk(ast.parse(source, file)))
    for node in nodes:
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            if node.value.id in MODULES and node.attr in RUNS_CODE:
                found.append(f"{node.value.id}.{node.attr}")
        elif isinstance(node, ast.Name) and node.id in {"eval", "exec", "compile", "__import__"}:
            found.append(node.id)
        elif isinstance(node, ast.ImportFrom) and node.module in MODULES:
            found += [f"{node.module}.{a.name}" for a in node.names if a.name in RUNS_CODE]
        elif isinstance(node, ast.keyword) and node.arg in ARGUMENTS and not _is_false(node.value):
            found.append(node.arg)
    return found, sum(isinstance(node, ast.Call) for node in nodes)


def _is_false(value):
    return isinstance(value, ast.Constant) and value.value is False


def test_nothing_in_the_package_runs_what_a_file_says():
    """No torch.load either: checkpoints are read by readers of our own, which call nothing."""
    found, calls, allowed = [], 0, set()
    for path in sorted(PACKAGE.rglob("*.py")):
        file = path.relative_to(PACKAGE).as_posix()
        names, seen = calls_that_run_code(path.read_text(encoding="utf-8"), file)
        calls += seen
        allowed |= {(file, name) for name in names} & set(ALLOWED)
        found += [(file, name) for name in names if (file, name) not in ALLOWED]
    assert found == []
    assert allowed == set(ALLOWED)  # an exception that is not needed is taken off the list
    assert calls > AT_LEAST_CALLS


@pytest.mark.parametrize(
    "source",
    [
        "torch.load(path)",
        "torch.load(path, weights_only=True)",
        "functools.partial(torch.load, path)",
        "pickle.loads(data)",
        "from pickle import loads",
        "pickle.Unpickler(stream)",
        "np.load(path)",
        "read(path, allow_pickle=True)",
        "eval(text)",
        "exec(text)",
        "yaml.load(text)",
        "pd.read_pickle(path)",
        "AutoModel.from_pretrained(name, trust_remote_code=True)",
        "subprocess.run(text, shell=True)",
    ],
)
def test_a_call_that_could_run_code_is_found(source):
    assert calls_that_run_code(source, "x.py")[0]


@pytest.mark.parametrize(
    "source", ["json.loads(text)", "module.eval()", "re.compile(text)", "f(allow_pickle=False)"]
)
def test_a_call_that_cannot_is_not(source):
    assert calls_that_run_code(source, "x.py")[0] == []


def test_torch_is_new_enough_for_files_that_readers_of_users_load():
    """Two holes in `weights_only=True` were closed in 2.6 and in 2.10."""
    text = (PACKAGE.parent / "pyproject.toml").read_text(encoding="utf-8")
    assert '"torch>=2.10' in text.replace(" ", "")


def test_hubs_that_lie_about_names_and_hashes_are_refused():
    for commit in ("../../evil", "A" * 40, None, "a" * 39):
        with pytest.raises(CheckpointError, match=r"hub names the commit .*\n.*(.|\n)*HF_ENDPOINT"):
            hub_module._trusted(Revision("a/b", "main", commit), "a/b")
    known = Revision("a/b", "main", "a" * 40)
    assert hub_module._trusted(known, "a/b") == known


def test_the_twin_of_toy_states_opens():
    """What the faults above are made from is itself without fault."""
    assert len(lx.open_stack(toy.switch_states(), model=toy.Switch()).epoch) == 3
