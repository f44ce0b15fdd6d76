"""What the free names on the pages stand for when their code is run, and the files they open.

A page says `net` or `runs/7` and means the reader's own. These are small, and everything that is
measured is measured on the first `EXAMPLES` test examples, except where a page shows an output.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import hashlib
import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from torch import nn

import explorer as lx
from explorer.data import datasets
from explorer.inventory.hub import Hub
from tests.conftest import copy_bundled
from tests.hub_server import hub_server, put_neox
from tests.pages import ROOT
from tests.test_language_families import TEXT, tokenizer_json

EXAMPLES = 120
HUB = "EleutherAI/pythia-14m"
HUB_STEPS = {"step0": 0, "step512": 1, "step143000": 2, "main": 2}


def small_net() -> nn.Sequential:
    """The reader's network: 64 inputs, ten classes."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 10)
    )


def trained_states(net: nn.Module) -> list[dict[str, torch.Tensor]]:
    """State dicts of four moments; that the values come from training does not matter here."""
    states = [copy.deepcopy(net.state_dict())]
    for _ in range(3):
        states.append({name: value * 1.1 + 0.01 for name, value in states[-1].items()})
    net.load_state_dict(states[-1])
    return states


def digits() -> tuple[torch.Tensor, torch.Tensor]:
    """Scikit-learn's digits as 64 numbers each."""
    from sklearn.datasets import load_digits

    inputs, labels = load_digits(return_X_y=True)
    return torch.tensor(inputs[:300] / 16, dtype=torch.float32), torch.tensor(labels[:300])


def names_for(page: str) -> dict[str, Any]:
    """The free names of a page and what they stand for; a name is made when a page uses it."""
    net = small_net()
    inputs, labels = digits()
    batches = list(zip(inputs.split(50), labels.split(50), strict=True))
    names: dict[str, Any] = {
        "lx": lx,
        "net": net,
        "my_state_dicts": trained_states(net),
        "inputs": inputs,
        "labels": labels,
        "x_test": inputs,
        "y_test": labels,
        "train_batches": batches,
        "my_images": (torch.zeros(2, 3, 64, 64), torch.tensor([0, 1])),
    }
    return names | PAGES.get(page, dict)()


def bundled_stack(name: str = "fcn3x256-digits") -> dict[str, Any]:
    """`stack` on pages that begin with an open one, and what they do with it."""
    stack = lx.open_stack(name)
    sweep = lx.open_sweep(name)
    examples = datasets.load_test_set("digits28").inputs
    return {
        "stack": stack,
        "second_run": lx.open_stack(name),  # a second run only by its name
        "sweep": sweep,
        "a": sweep,
        "b": sweep,
        "inputs": examples,
    }


def second_run() -> dict[str, Any]:
    """A second run that is one only by its name, for the README, whose inputs are the reader's."""
    return {"second_run": lx.open_stack("fcn3x256-digits")}


def two_runs() -> dict[str, Any]:
    """Two stacks of the reader's, which have learnt something, and the networks they are of."""
    examples, nets = digits(), (small_net(), small_net())
    a, b = (lx.open_stack(learnt_states(net, *examples), model=net) for net in nets)
    return {"a": a, "b": b, "net_a": nets[0], "net_b": nets[1], "examples": examples}


def learnt_states(net: nn.Module, inputs: Any, labels: Any) -> list[dict[str, torch.Tensor]]:
    """State dicts before and after a little training."""
    first, optimiser = copy.deepcopy(net.state_dict()), torch.optim.Adam(net.parameters(), 0.01)
    for _ in range(60):
        optimiser.zero_grad()
        nn.functional.cross_entropy(net(inputs), labels).backward()
        optimiser.step()
    return [first, copy.deepcopy(net.state_dict())]


PAGES = {
    "README.md": second_run,
    "docs/across-models.md": two_runs,
    "docs/criticality.md": bundled_stack,
    "docs/outputs.md": bundled_stack,
    "docs/motion.md": functools.partial(bundled_stack, "vit-digits"),
    "docs/paths.md": bundled_stack,
    "docs/verdicts.md": bundled_stack,
}
"""Page → what its names stand for beyond those of every page."""


@contextmanager
def world_of(page: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """Be in a folder with the files that pages open, beside a small hub; give the names."""
    monkeypatch.chdir(folder)
    monkeypatch.setenv("EXPLORER_HUB_CACHE", str(folder / "hub"))
    text = (ROOT / page).read_text(encoding="utf-8")
    put_files(folder, text)
    with hub_server() as server:
        put_neox(server, HUB, HUB_STEPS, config=True)
        for step in HUB_STEPS:
            server.put(HUB, step, {"tokenizer.json": tokenizer_json()})
        local = functools.partial(Hub, endpoint=server.address, progress=False)
        monkeypatch.setattr("explorer.weights.hub_stack.Hub", local)
        names = names_for(page)
        if "cluster" in text or "dask_client" in text:
            with one_worker() as cluster:
                yield names | {"cluster": cluster[0], "dask_client": cluster[1]}
        else:
            yield names


@contextmanager
def one_worker() -> Iterator[tuple[Any, Any]]:
    """A Dask cluster of one worker in this process, and its client."""
    from distributed import Client, LocalCluster

    settings = {"n_workers": 1, "threads_per_worker": 1, "processes": False}
    with (
        LocalCluster(dashboard_address=None, **settings) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield cluster, client


def put_files(folder: Path, text: str) -> None:
    """Put the files and folders there that a page names."""
    (folder / "my-text.txt").write_text(f"{TEXT}\n" * 9, encoding="utf-8")
    for run in ("7", "8"):
        path = folder / "runs" / run
        path.mkdir(parents=True)
        for epoch, state in enumerate(trained_states(small_net())):
            torch.save(state, path / f"model_{epoch}.pt")
    if "my-run" in text:
        damaged_run(folder / "my-run")


def damaged_run(folder: Path) -> None:
    """The damaged copy of docs/check.md: two faults before its hashes were taken, three after."""
    copy_bundled(folder)
    files = {epoch: folder / f"epoch-{epoch:04}.safetensors" for epoch in (1, 2, 3, 8, 40, 100)}
    spoilt = load_file(files[8])
    spoilt["layer2.weight"] = spoilt["layer2.weight"].copy()
    spoilt["layer2.weight"].flat[:5] = math.nan
    for epoch, state in ((3, load_file(files[100])), (8, spoilt)):
        with safe_open(files[epoch], "numpy") as opened:
            save_file(state, files[epoch], metadata=opened.metadata())
        write_hash(folder / "stack.json", files[epoch])
    content = bytearray(files[1].read_bytes())
    content[-1] ^= 1
    files[1].write_bytes(content)
    files[2].write_bytes(files[2].read_bytes()[:1_000_000])
    files[40].unlink()


def write_hash(manifest: Path, file: Path) -> None:
    """Write the size and the hash of a file into a stack.json."""
    raw = json.loads(manifest.read_text(encoding="utf-8"))
    [entry] = [one for one in raw["stacks"][0]["checkpoints"] if one["file"] == file.name]
    content = file.read_bytes()
    entry |= {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    manifest.write_text(json.dumps(raw), encoding="utf-8")


def measure_few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let everything be measured on the first test examples only."""
    whole = datasets.load_test_set

    def first(name: str, folder: str | Path | None = None) -> Any:
        examples = whole(name, folder)
        return dataclasses.replace(
            examples, inputs=examples.inputs[:EXAMPLES], labels=examples.labels[:EXAMPLES]
        )

    monkeypatch.setattr(datasets, "load_test_set", first)
