"""A text of the reader's own for a language model that brings its tokenizer."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from explorer.data.examples import LabelledExamples, examples_of
from explorer.data.text import windows
from explorer.data.tokenizers import JsonTokenizer
from explorer.errors import DataError

LENGTH = 64
"""Tokens of a window, or the model's context where that is shorter."""

LONGEST_NAME = 255
"""Characters of a text that may still be the name of a file."""


def own_text(data: str, tokenizer: str, context: int = 0) -> LabelledExamples:
    """Windows of a whole text, each token answered by the one after it.

    Parameters
    ----------
    data : str
        Path of a text file, or the text itself.
    tokenizer : str
        Path of a tokenizer.json; empty where the model has none.
    context : int
        Most tokens that the model takes; 0 where that is not known.

    Returns
    -------
    LabelledExamples
        Inputs and labels (example, position) int64.

    Raises
    ------
    DataError
        There is no tokenizer, no such file, or the text is too short.
    """
    if not tokenizer:
        raise DataError(
            f"The test data is the text {data[:40]!r}, and the model has no tokenizer.json.",
            "Tokens as numbers, (example, position), are needed.",
            "Pass data=(tokens[:, :-1], tokens[:, 1:]).",
        )
    text, name = _read(data)
    reader = JsonTokenizer(Path(tokenizer))
    tokens = reader.encode(text, name)
    length = min(LENGTH, context or LENGTH, len(tokens) - 1)
    if length < 1:
        raise DataError(
            f"{name} has {len(tokens)} tokens.",
            "At least 2 are needed: one to read, and one to predict.",
            "Use a longer text.",
        )
    chosen = torch.arange((len(tokens) - 1) // length)
    return examples_of(*windows(tokens, tokens, chosen, length), name, reader.names)


def _read(data: str) -> tuple[bytes, str]:
    """A text and its name: of a file, or given as it is."""
    if len(data) <= LONGEST_NAME and "\n" not in data:
        path = Path(data).expanduser()
        if os.path.isfile(path):  # also where no file can have such a name
            return path.read_bytes().replace(b"\r\n", b"\n"), path.name
        if path.suffix and " " not in data:
            raise DataError(
                f"There is no file {data}.",
                "The path of a text file, or the text itself, is needed.",
                "Correct the path.",
            )
    return data.encode(), "text"
