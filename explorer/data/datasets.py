"""Datasets by name, and whatever the user brings, in one form.

=================  =============================================  =====================
name               what it is                                     where it comes from
=================  =============================================  =====================
``digits``         1×8×8 digits                                   embedded
``digits16``       the same, scaled to 12×12, on 1×16×16          embedded
``digits28``       … scaled to 20×20, on 1×28×28 as MNIST         embedded
``digits32``       … scaled to 24×24, on 1×32×32                  embedded
``mnist``          1×28×28, as are those of ``fashion-mnist``     `download_dataset`
``cifar10``        3×32×32, as are those of ``cifar100``          `download_dataset`
``folder:PATH``    3×224×224 from train/CLASS/* and val/CLASS/*   ImageNet, or your own
``pydoc-text``     windows of 64 characters of English            embedded
``text:PATH``      windows of 64 bytes or pieces                  LM1B, or your own
=================  =============================================  =====================

Options follow a path after commas. ``folder:``: ``side=64`` (pixels), ``limit=5000`` (test images),
``scale=global`` (the paper's), ``imagenet`` or ``half``. ``text:``: ``length=128`` (tokens of a
window), ``limit=10000`` (windows), ``tokenizer=FILE.model`` (SentencePiece) or ``FILE.json``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from explorer.data.digits import FORMS, digits_test, digits_training
from explorer.data.examples import LabelledExamples, TrainingSet, from_arrays, from_dataset
from explorer.data.folders import SCALES, FolderForm, folder_test, folder_training
from explorer.data.images import IMAGE_SETS, images_test, images_training
from explorer.data.text import (
    BYTES,
    EMBEDDED_NAME,
    TextForm,
    embedded_form,
    text_test,
    text_training,
)
from explorer.data.tokenizers import JsonTokenizer, SentencePieceTokenizer, Tokenizer
from explorer.errors import DataError, UsageError, unknown_name
from explorer.inventory.store import data_folder

__all__ = [
    "LabelledExamples",
    "TrainingSet",
    "as_examples",
    "dataset_names",
    "download_dataset",
    "load_test_set",
    "load_training_set",
]

FOLDER, TEXT = "folder:", "text:"
"""Beginnings of names that hold a path."""

OPTIONS = {FOLDER: ("side", "limit", "scale"), TEXT: ("length", "limit", "tokenizer")}


def dataset_names() -> list[str]:
    """Names of all datasets, the two that take a path with the word PATH."""
    return [*FORMS, *IMAGE_SETS, EMBEDDED_NAME, f"{FOLDER}PATH", f"{TEXT}PATH"]


def is_dataset_name(name: str) -> bool:
    """Tell whether a name is one of a dataset, or begins as one that takes a path does."""
    return name in dataset_names() or name.startswith((FOLDER, TEXT))


def load_test_set(name: str, folder: str | Path | None = None) -> LabelledExamples:
    """Test examples of a named dataset.

    Parameters
    ----------
    name : str
        One of `dataset_names`, with its options. The digits have 360 test originals, which in
        the framed forms stand at five fixed shifts each: 1,800 images.
    folder : str or Path, optional
        Where downloaded sets lie; default as `explorer.inventory.store.data_folder` says.

    Returns
    -------
    LabelledExamples
    --------

    Raises
    ------
    UnknownNameError
        No dataset has this name.
    UsageError
        An option that the dataset does not take.
    DataError
        Files are missing or damaged, or the examples do not fit in memory.
    """
    if name in FORMS:
        return digits_test(name)
    if name in IMAGE_SETS:
        return images_test(name, data_folder(folder))
    if name.startswith(FOLDER):
        return folder_test(_folder_form(name))
    return text_test(_text_form(name))


def load_training_set(
    name: str,
    *,
    augment: bool = True,
    label_noise: float = 0.0,
    seed: int = 0,
    folder: str | Path | None = None,
) -> TrainingSet:
    """Training examples of a named dataset.

    Parameters
    ----------
    name : str
        One of `dataset_names`, with its options. The digits have 1,437 training originals.
    augment : bool
        Draw the examples of each epoch anew, as in the paper: framed digits at random shifts,
        CIFAR with 4 pixels of padding, a random crop and flip, folders in random crops, text
        from a random first character on. False: in the middle, as they are.
    label_noise : float
        Share of the training labels that are replaced by uniformly random ones, 0 … 1.
    seed : int
        Fixes which labels are replaced, and by what.
    folder : str or Path, optional
        Where downloaded sets lie; default as `explorer.inventory.store.data_folder` says.

    Returns
    -------
    TrainingSet

    Raises
    ------
    UnknownNameError
        No dataset has this name.
    UsageError
        The label noise is no share, or an option that the dataset does not take.
    DataError
        Files are missing or damaged.
    """
    if name in FORMS:
        return digits_training(name, augment, label_noise, seed)
    if name in IMAGE_SETS:
        return images_training(name, data_folder(folder), augment, label_noise, seed)
    if name.startswith(FOLDER):
        return folder_training(_folder_form(name), augment, label_noise, seed)
    return text_training(_text_form(name), augment, label_noise, seed)


def download_dataset(name: str, folder: str | Path | None = None, *, progress: bool = True) -> Path:
    """Download a dataset, verified by the hashes that torchvision lists, and unpack it.

    What is there already is verified and not downloaded again.

    Parameters
    ----------
    name : str
        ``"mnist"``, ``"fashion-mnist"``, ``"cifar10"`` or ``"cifar100"``.
    folder : str or Path, optional
        Where to; default as `explorer.inventory.store.data_folder` says.
    progress : bool
        Show a progress bar.

    Returns
    -------
    Path
        The folder, which `load_test_set` and `load_training_set` take.

    Raises
    ------
    UnknownNameError
        No dataset has this name.
    UsageError
        The dataset is embedded, or one's own.
    DataError
        No server gave the right file.
    CheckpointError
        The folder cannot be written to.
    """
    root = data_folder(folder)
    if name in IMAGE_SETS:
        files = IMAGE_SETS[name].files
        files.fetch(root, progress)
        files.prepare(name, root)
        return root
    if name in FORMS or name == EMBEDDED_NAME or name.startswith((FOLDER, TEXT)):
        raise UsageError(
            f"{name!r} is not downloaded: it is part of the package or a folder of your own.",
            f"Downloaded are: {', '.join(IMAGE_SETS)}.",
            "Use it as it is.",
        )
    raise unknown_name("dataset", name, dataset_names())


def as_examples(data: str | LabelledExamples | Dataset[Any] | tuple[Any, Any]) -> LabelledExamples:
    """Bring what a user may pass as test data into one form.

    Parameters
    ----------
    data : str, LabelledExamples, torch Dataset of (input, label), or pair (inputs, labels)
        A pair holds arrays or tensors: (example, …) numbers and (example,) integers, or
        (example, position, …) and (example, position) where each position has its own label.

    Returns
    -------
    LabelledExamples
    --------

    Raises
    ------
    UnknownNameError
        A name that no dataset has.
    DataError
        Anything that is not a non-empty set of labelled examples.
    """
    if isinstance(data, LabelledExamples):
        return data
    if isinstance(data, str):
        return load_test_set(data)
    if isinstance(data, tuple) and len(data) == 2:
        return from_arrays(as_tensor(data[0], "inputs"), as_tensor(data[1], "labels"), "arrays")
    kind = data.__name__ if isinstance(data, type) else ""
    if (
        not kind
        and hasattr(data, "__getitem__")
        and (hasattr(data, "__len__") or hasattr(data, "__iter__"))
    ):
        return from_dataset(data)
    raise DataError(
        f"The test data is the class {kind}."
        if kind
        else f"The test data is a {type(data).__name__}.",
        "A dataset's name, a torch Dataset of (input, label), or a pair (inputs, labels) will do.",
        "Pass data=loader.dataset, what it loads."
        if isinstance(data, DataLoader)
        else "Pass data=(inputs, labels) with one integer label per input.",
    )


def as_tensor(values: Any, what: str) -> Tensor:
    """Turn what holds numbers, such as an array, lists or a table, into a tensor.

    Raises
    ------
    DataError
        It holds none, or they have no common shape.
    """
    if isinstance(values, Tensor):
        return values.detach()
    try:
        if isinstance(values, Dataset):  # which torch would read without an end
            raise TypeError("it has items, not numbers")
        if hasattr(values, "__array__"):  # torch warns of one that may only be read
            values = np.require(values, requirements="W")
        return torch.as_tensor(values)
    except (TypeError, ValueError, RuntimeError) as error:
        raise DataError(
            f"The {what} are a {type(values).__name__} that makes no tensor: {error}",
            "An array or tensor of numbers is needed, or what turns into one.",
            "Give examples one shape, and classes numbers from 0 on.",
        ) from error


# --- names with a path -----------------------------------------------------------------------


def _folder_form(name: str) -> FolderForm:
    path, options = _parsed(name, FOLDER)
    scale = options.get("scale", "global")
    if scale not in ("global", *SCALES):
        raise unknown_name("scale", scale, ("global", *SCALES))
    return FolderForm(
        name=name,
        path=path,
        side=_number(name, options, "side") or FolderForm.side,
        limit=_number(name, options, "limit"),
        scale=scale,
    )


def _text_form(name: str) -> TextForm:
    if name == EMBEDDED_NAME:
        return embedded_form()
    if not name.startswith(TEXT):
        raise unknown_name("dataset", name, dataset_names())
    path, options = _parsed(name, TEXT)
    file = options.get("tokenizer")
    return TextForm(
        name=name,
        path=path,
        length=_number(name, options, "length") or TextForm.length,
        limit=_number(name, options, "limit"),
        tokenizer=_tokenizer(Path(file).expanduser()) if file else BYTES,
    )


def _tokenizer(file: Path) -> Tokenizer:
    return JsonTokenizer(file) if file.suffix == ".json" else SentencePieceTokenizer(file)


def _parsed(name: str, beginning: str) -> tuple[Path, dict[str, str]]:
    """Path and options of a name such as ``text:notes.txt,length=128``."""
    path, *parts = re.split(r",(?=\w+=)", name.removeprefix(beginning))
    options = dict(part.split("=", 1) for part in parts)
    for option in options:
        if option not in OPTIONS[beginning]:
            raise UsageError(
                f"{name!r} has the option {option!r}.",
                f"{beginning}PATH takes {', '.join(OPTIONS[beginning])}.",
                "Correct it or leave it out.",
            )
    if not path:
        raise UsageError(
            f"{name!r} names no path.", f"{beginning}PATH is expected.", "Add the path."
        )
    return Path(path).expanduser(), options


def _number(name: str, options: Mapping[str, str], key: str) -> int | None:
    if key not in options:
        return None
    text = options[key]
    if not text.isascii() or not text.isdigit() or int(text) < 1:
        raise UsageError(
            f"{key}={text} in {name!r} is not a number above 0.",
            "A whole number is needed.",
            f"Write {key}=64, for example, or leave it out.",
        )
    return int(text)
