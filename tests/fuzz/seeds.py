"""Write the corpus that fuzzing starts from: valid files, made by the libraries that make them.

python -m tests.fuzz.seeds
"""

from __future__ import annotations

import collections
import io
import json
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.numpy import save as save_safetensors

from explorer.engine.journal import FORMAT
from explorer.engine.results import DIMS, QUANTITIES, as_json, read_sweep
from explorer.inventory.manifest import load_manifest
from explorer.inventory.store import manifest_path
from explorer.weights.saving import save_stack
from explorer.weights.stack import open_stack
from tests import toy
from tests.fuzz import bundles, other_targets
from tests.fuzz.targets import CORPUS

GOLDEN = Path(__file__).parents[1] / "golden"

Named = Iterator[tuple[str, bytes]]


def write_all(folder: Path = CORPUS) -> int:
    """Write the seeds of every target; returns how many there are."""
    count = 0
    for target, seeds in _SEEDS.items():
        for name, content in seeds():
            path = folder / target / f"seed-{name}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
            count += 1
    return count


def _compact(content: Any) -> bytes:
    return json.dumps(content, separators=(",", ":")).encode()


def _manifest() -> Named:
    whole = json.loads(manifest_path().read_text(encoding="utf-8"))
    first = next(s for s in whole["stacks"] if s["name"] == "fcn3x256-digits")
    kept = dict(list(first["tensors"].items())[:2])
    stack = {
        **first,
        "folder": ".",
        "tensors": kept,
        "layers": {"layer1": list(kept)},
        "checkpoints": first["checkpoints"][:2],
    }
    copied = ("name", "title", "family", "dataset", "folder", "layers", "tensors", "checkpoints")
    copy = {key: stack[key] for key in copied} | {"unit": "step", "attributes": {"note": "x"}}
    yield "stack", _compact({"schema_version": 1, "stacks": [stack]})
    yield "copy", _compact({"schema_version": 1, "stacks": [], "copies": [copy]})
    recipes = whole["recipes"][:2]
    yield "recipes", _compact({"schema_version": 1, "stacks": [stack], "recipes": recipes})
    assert load_manifest().stacks


def _safetensors() -> Named:
    tensors = {"first.weight": np.eye(3, dtype="f4"), "first.bias": np.zeros(3, "f8")}
    others = {"a": np.ones((2, 0, 3), "i8"), "b": np.array(5, "i4"), "c": np.ones(3, "?")}
    yield "plain", save_safetensors(tensors)
    yield "notes", save_safetensors(tensors, {"epoch": "3", "format": "pt"})
    yield "kinds", save_safetensors(others | {"d": np.ones(4, "f2"), "e": np.ones(4, "u2")})
    from safetensors.torch import save

    yield "bfloat16", save({"h": torch.ones(2, 2, dtype=torch.bfloat16)})
    yield "float8", save({"h": torch.ones(2, 2).to(torch.float8_e4m3fn)})
    yield "empty", save_safetensors({})


def _headers() -> Named:
    for name, content in _safetensors():
        yield name, content[8 : 8 + int.from_bytes(content[:8], "little")]


def _saved(content: Any, **options: Any) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, **options)
    return file.getvalue()


def _contents() -> Iterator[tuple[str, Any]]:
    state = toy.switch_states()[0]
    small = {"w": torch.arange(6.0).reshape(2, 3), "b": torch.ones(3, dtype=torch.bfloat16)}
    yield "state", state
    yield "nested", {"state_dict": small, "epoch": 3, "global_step": 12, "arch": "x", "version": 2}
    yield "two", {"model": small, "ema": small, "args": collections.OrderedDict(lr=0.1)}
    yield (
        "views",
        {"t": small["w"].t(), "e": torch.ones(1).expand(4), "p": torch.nn.Parameter(small["w"])},
    )
    yield "ints", {"i": torch.ones(2, dtype=torch.int64), "o": torch.ones(2, dtype=torch.bool)}


def _torch() -> Named:
    for name, content in _contents():
        yield f"new-{name}", _saved(content)
        yield f"old-{name}", _saved(content, _use_new_zipfile_serialization=False)


def _pickles() -> Named:
    for name, content in _contents():
        with zipfile.ZipFile(io.BytesIO(_saved(content))) as archive:
            record = next(n for n in archive.namelist() if n.endswith("data.pkl"))
            yield name, archive.read(record)
    yield "call", b"\x80\x02cposix\nsystem\nX\x04\0\0\0trueq\x00\x85R."


def _index() -> Named:
    files = {
        f"{n}.weight": f"model-0000{k}-of-00002.safetensors"
        for k, n in ((1, "first"), (2, "second"))
    }
    yield "index", _compact({"metadata": {"total_size": 16}, "weight_map": files})


def _trainer_state() -> Named:
    yield "trainer", (GOLDEN / "trainer/checkpoint-2/trainer_state.json").read_bytes()
    yield "plain", _compact({"epoch": 2.0, "global_step": 84, "log_history": []})
    loops = {"fit_loop": {"epoch_progress": {"current": {"processed": 3}}}}
    yield "lightning", _compact({"pytorch-lightning_version": "2", "epoch": 3, "loops": loops})
    yield "timm", _compact({"arch": "x", "version": 2, "epoch": 3, "step": 7})


def _names() -> Named:
    yield "epochs", b"epoch-1.pt\nepoch-10.pt\nep2.safetensors\nbest.pt"
    yield "steps", b"step_9000.pth\nglobal-step10000.pt\niter12.bin\nstep=3"
    yield (
        "libraries",
        b"epoch=3-step=84-v1.ckpt\nmodel_ep3_it0.pth\ncheckpoint-3.pth.tar\ncheckpoint-84",
    )


def _folders() -> Named:
    for folder in sorted(GOLDEN.iterdir()):
        if folder.is_dir():
            some = bundles.unpacked(bundles.of_folder(folder))
            kept = [(n, c) for n, c in some if len(c) < 6000 and not n.startswith(b"training_args")]
            yield folder.name, bundles.packed(kept[:5])
    yield (
        "wrapped",
        bundles.packed(
            (
                f"epoch-{k}.safetensors".encode(),
                save_safetensors({f"module.{n}": t.numpy() for n, t in s.items()}),
            )
            for k, s in enumerate(toy.switch_states())
        ),
    )


def _saved_stack(suffix: str) -> bytes:
    states = [
        {"a.weight": s["first.weight"], "a.bias": s["first.bias"]} for s in toy.switch_states()[:2]
    ]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"stack{suffix}"
        save_stack(open_stack(states), path)
        return bundles.of_folder(path) if path.is_dir() else path.read_bytes()


def _netcdf() -> Named:
    yield "file", _saved_stack(".nc")
    attrs = {
        "explorer_stack": json.dumps({"name": "x", "layers": ["a"], "checkpoint_unit": "epoch"})
    }
    weight = {
        "dims": ["epoch", "w_0"],
        "dtype": "f4",
        "attrs": {"parameter": "a.w", "buffer": 0, "fan_in": 1},
    }
    epoch = {"dims": ["epoch"], "dtype": "i8", "values": [0, 1]}
    layer = {"dims": {"w_0": 3}, "variables": {"w": weight}}
    yield (
        "described",
        _compact(
            {
                "attrs": attrs,
                "dims": {"epoch": 2},
                "variables": {"epoch": epoch},
                "groups": {"a": layer},
            }
        ),
    )


def _sweep() -> Named:
    sizes = {"layer": 2, "epoch": 2, "draw": 2}
    variables: dict[str, Any] = {
        "layer": {"dims": ["layer"], "dtype": "str", "values": ["a", "b"]},
        "epoch": {"dims": ["epoch"], "dtype": "i8", "values": [0, 5]},
        "draw": {"dims": ["draw"], "dtype": "i8", "values": [0, 1]},
    }
    for prefix, dims in DIMS.items():
        for quantity in QUANTITIES:
            kind = "i8" if quantity == "examples" else "f8"
            variables[prefix + quantity] = {"dims": dims, "dtype": kind, "values": 0.5}
        variables[f"{prefix}reason"] = {"dims": dims, "dtype": "str", "values": ""}
    attrs = {"final_error": 0.1, "chance_error": 0.9, "examples": 12, "stack": "x", "complete": 1}
    described = _compact({"attrs": attrs, "dims": sizes, "variables": variables})
    yield "described", described
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "sweep.nc"
        other_targets._write_netcdf(described, path)
        yield "file", path.read_bytes()


def _sweep_text() -> Named:
    described = next(content for name, content in _sweep() if name == "described")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "sweep.nc"
        other_targets._write_netcdf(described, path)
        yield "text", as_json(read_sweep(path)).encode()


def _journal() -> Named:
    cell = {"cell": '["first ← Epoch(epoch=0)"]', "examples": 12, "total": 12, "errors": 3}
    counts = {
        "loss_sum": 1.5,
        "agreements": 9,
        "nonfinite": 0,
        "turned_wrong": 1,
        "turned_right": 0,
    }
    lines = [
        {"format": FORMAT, **other_targets.ORIGIN},
        cell | counts,
        cell | counts | {"cell": "[]"},
    ]
    yield "whole", b"".join(_compact(line) + b"\n" for line in lines)


def _picture(kind: str) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (12, 10), (200, 30, 30)).save(file, kind)
    return file.getvalue()


def _dataset() -> Named:
    text = b"It was a text, long enough to be read in windows of a few tokens. " * 3
    tokenizer = {
        "version": "1.0",
        "model": {
            "type": "WordLevel",
            "vocab": {"It": 0, "was": 1, "[UNK]": 2},
            "unk_token": "[UNK]",
        },
    }
    words = {"truncation": None, "padding": None, "added_tokens": [], "normalizer": None}
    splitting = {"pre_tokenizer": {"type": "Whitespace"}, "post_processor": None, "decoder": None}
    yield (
        "text",
        bundles.packed(
            [(b"notes.txt", text), (b"tokenizer.json", _compact(tokenizer | words | splitting))]
        ),
    )
    pictures = [(b"val/a/1.png", _picture("PNG")), (b"val/b/2.jpg", _picture("JPEG"))]
    yield (
        "pictures",
        bundles.packed(
            [*pictures, (b"train/a/1.bmp", _picture("BMP")), (b"train/b/1.gif", _picture("GIF"))]
        ),
    )
    yield (
        "idx",
        bundles.packed(
            [
                (b"MNIST/raw/t10k-labels-idx1-ubyte.gz", b"\x1f\x8b\x08"),
                (b"cifar-10-batches-py/batches.meta", b"\x80\x02}."),
            ]
        ),
    )


def _command() -> Named:
    yield "sweep", b"sweep\nx\n--layers\nfirst\nblocks\\.\\d\n--epochs\n0\n1\n--tolerance\n0.01"
    yield "train", b"train\nfcn3x256-digits\n--set\nweight_decay=5e-4\n--seeds\n0,1,2\n--keep\n0,1"
    yield "settings", b"decay_at=0.3,0.6\naugment=off\nwidth=64\nkeep=0,1,10\nbetas=0.9,0.99"
    yield "diff", b"a@3\nb@5"
    yield "text", b"notes.txt,length=3,limit=5"


def _hub() -> Named:
    refs = {
        "branches": [{"name": "main", "ref": "refs/heads/main", "targetCommit": "0" * 40}],
        "converts": [],
    }
    refs["tags"] = [
        {"name": f"step{k}", "ref": f"refs/tags/step{k}", "targetCommit": f"{k}" * 40}
        for k in (1, 2)
    ]
    lfs = {"oid": "a" * 64, "size": 100, "pointerSize": 130}
    tree = [{"type": "file", "oid": "b" * 40, "size": 100, "path": "model.safetensors", "lfs": lfs}]
    models = [
        {
            "id": "owner/name-step_20k",
            "sha": "0" * 40,
            "private": False,
            "tags": [],
            "downloads": 1,
            "likes": 0,
        }
    ]
    file = save_safetensors({"a.weight": np.eye(2, dtype="f4")})
    answers = {b"refs": refs, b"tree": tree, b"models": models, b"model": models[0]}
    yield (
        "answers",
        bundles.packed([*((k, _compact(v)) for k, v in answers.items()), (b"file", file)]),
    )


def _hub_notes() -> Named:
    yield (
        "revisions",
        _compact(
            [
                {"repository": "owner/name", "name": f"step{k}", "commit": f"{k}" * 40}
                for k in (1, 2)
            ]
        ),
    )
    yield "files", _compact([{"path": "model.safetensors", "bytes": 100, "digest": "a" * 64}])
    yield "header", _compact([["a.weight", "F32", [2, 2]], ["a.bias", "F32", [2]]])


_SEEDS = {
    **{"manifest": _manifest, "safetensors": _safetensors, "header": _headers, "torch": _torch},
    **{"pickle": _pickles, "index": _index, "trainer-state": _trainer_state, "names": _names},
    **{"stack": _folders, "zarr": lambda: iter([("stack", _saved_stack(".zarr"))])},
    **{
        "netcdf": _netcdf,
        "sweep": _sweep,
        "sweep-text": _sweep_text,
        "journal": _journal,
        "dataset": _dataset,
    },
    **{"command": _command, "hub": _hub, "hub-notes": _hub_notes},
}

if __name__ == "__main__":
    print(f"{write_all()} seeds in {CORPUS}")
