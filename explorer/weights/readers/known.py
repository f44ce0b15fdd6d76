"""The readers there are: ours, and those that other packages add."""

from __future__ import annotations

import dataclasses
import re
from importlib.metadata import entry_points
from pathlib import Path

import pandas as pd

from explorer.errors import StackError, unknown_name
from explorer.weights.readers.parts import (
    SHARD,
    has_layer_files,
    open_file,
    open_index,
    open_layer_files,
    open_trainer_folder,
    safetensors_when,
    trainer_when,
)
from explorer.weights.readers.reader import Reader
from explorer.weights.readers.torch_files import torch_when
from explorer.weights.readers.when import When, when_of_folder

GROUP = "explorer.readers"
"""Entry points of this group name a `Reader`."""

TORCH_SUFFIXES = (".pt", ".pth", ".tar", ".bin", ".th")
BESIDE = re.compile(
    r"optimizer.*|scheduler.*|scaler.*|rng_state.*|random_states.*|training_args.*|mask.*"
)
"""Files beside checkpoints that hold no network, by the beginning of their names."""


def _open_lth(path: Path) -> When:
    """``model_ep3_it0`` is after 3 epochs; ``it`` counts on within the epoch."""
    epoch, step = (int(number) for number in re.findall(r"\d+", path.name)[:2])
    if step == 0:
        return When(epoch=epoch, step=0 if epoch == 0 else None)
    return When(step=step) if epoch == 0 else When()


def _timm(path: Path) -> When:
    """``checkpoint-3`` is written when the pass number 3 has ended, counted from 0."""
    numbers = re.findall(r"\d+", path.name)
    return When(epoch=int(numbers[0]) + 1) if numbers else When()


def _lightning(path: Path) -> When:
    """Only the step: ``epoch=3`` is the number of the current pass, complete or not."""
    found = re.search(r"step=(\d+)", path.name)
    return When(step=int(found[1])) if found else When()


def _is_torch(path: Path) -> bool:
    known = path.suffix in TORCH_SUFFIXES and path.is_file()
    return known and not BESIDE.match(path.name) and not SHARD.search(path.name)


def _trainer(path: Path) -> bool:
    return bool(re.fullmatch(r"checkpoint-\d+", path.name)) and path.is_dir()


OURS = (
    Reader(
        "neox",
        "folders global_step1000 with one file per layer, as DeepSpeed's pipelines leave them",
        lambda path: path.is_dir() and has_layer_files(path),
        open_layer_files,
        lambda path: when_of_folder(path.name),
    ),
    Reader(
        "trainer",
        "folders checkpoint-84 of the Hugging Face Trainer, in one file or in shards",
        _trainer,
        open_trainer_folder,
        lambda path: when_of_folder(path.name),
        trainer_when,
    ),
    Reader(
        "lightning",
        "files epoch=3-step=84.ckpt of PyTorch Lightning",
        lambda path: path.suffix == ".ckpt" and path.is_file(),
        open_file,
        _lightning,
        torch_when,
    ),
    Reader(
        "open_lth",
        "files model_ep3_it0.pth of open_lth",
        lambda path: bool(re.fullmatch(r"model_ep\d+_it\d+\.pth", path.name)),
        open_file,
        _open_lth,
        torch_when,
    ),
    Reader(
        "timm",
        "files checkpoint-3.pth.tar of timm",
        lambda path: bool(re.fullmatch(r"checkpoint-\d+\.pth\.tar", path.name)),
        open_file,
        _timm,
        torch_when,
        remark="timm counts from 0: its checkpoint-3 holds the network after 4 epochs.",
    ),
    Reader(
        "sharded",
        "shards of safetensors or torch files with an index, model.safetensors.index.json",
        lambda path: path.name.endswith((".safetensors.index.json", ".bin.index.json")),
        open_index,
        plain=True,
    ),
    Reader(
        "safetensors",
        "files of safetensors",
        lambda path: path.suffix == ".safetensors" and not SHARD.search(path.name),
        open_file,
        inside=safetensors_when,
        plain=True,
    ),
    Reader(
        "torch",
        f"files of torch.save, {', '.join(TORCH_SUFFIXES)}: a state dict, alone or under a key",
        _is_torch,
        open_file,
        inside=torch_when,
        plain=True,
    ),
)
"""The most particular first: where several claim something in a folder, the first one has it."""


def readers() -> pd.DataFrame:
    """The kinds of checkpoints that can be read, ours and those that other packages add.

    Returns
    -------
    pandas.DataFrame
        One row per reader, by name: what it reads, and the package that brings it.

    Raises
    ------
    StackError
        What a package adds is not a reader.
    """
    rows = [(one.name, one.reads, one.home) for one in all_readers()]
    table = pd.DataFrame(rows, columns=["name", "reads", "from"])
    return table.set_index("name")


def all_readers() -> tuple[Reader, ...]:
    """Ours, then those of other packages by name."""
    return (*OURS, *theirs())


def theirs() -> list[Reader]:
    """Readers that other packages add.

    Raises
    ------
    StackError
        An entry point cannot be loaded, or names something else than a `Reader`.
    """
    found = []
    for point in sorted(entry_points(group=GROUP), key=lambda point: point.name):
        home = point.dist.name if point.dist else point.value
        try:
            reader = point.load()
        except (ImportError, AttributeError) as error:
            raise _unusable(point.name, home, f"cannot be loaded: {error}") from error
        if not isinstance(reader, Reader):
            raise _unusable(point.name, home, f"is a {type(reader).__name__}")
        found.append(dataclasses.replace(reader, name=point.name, home=home))
    return found


def reader_named(name: str) -> Reader:
    """Find a reader by its name.

    Raises
    ------
    UnknownNameError
        There is none of this name.
    """
    known = {one.name: one for one in reversed(all_readers())}  # ours go before others'
    if name not in known:
        raise unknown_name("reader", name, sorted(known))
    return known[name]


def _unusable(name: str, home: str, what: str) -> StackError:
    return StackError(
        f"The reader {name!r} of the package {home} {what}.",
        f"An entry point of the group {GROUP} names an explorer.weights.readers.reader.Reader.",
        f"Update or remove the package {home}.",
    )
