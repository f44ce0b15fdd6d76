"""Which examples a network is tested on, and which it takes its running statistics from."""

from __future__ import annotations

from typing import Any

import torch
import xarray as xr
from torch import Tensor

from explorer.data.datasets import (
    LabelledExamples,
    as_examples,
    as_tensor,
    is_dataset_name,
    load_training_set,
)
from explorer.data.examples import check_plain
from explorer.data.own_text import own_text
from explorer.errors import DataError

CALIBRATION_EXAMPLES = 1024
"""Training examples from which running statistics are taken anew."""

TOKENS = (torch.int32, torch.int64)
"""What an embedding takes."""


def examples_for(stack: xr.DataTree, data: Any) -> LabelledExamples:
    """Labelled test examples: those that are given, else those of the stack's dataset.

    Raises
    ------
    DataError, UnknownNameError
        They do not fit together, or nothing is given and the stack names no known dataset.
    """
    tokenizer = stack.attrs.get("tokenizer")
    if tokenizer is not None and isinstance(data, str) and not is_dataset_name(data):
        return own_text(data, str(tokenizer), int(stack.attrs.get("context", 0)))
    if data is not None:
        return as_examples(data)
    name = str(stack.attrs.get("dataset", ""))
    if not name:
        raise DataError(
            f"The stack {stack.attrs.get('name')!r} does not name a dataset.",
            "Labelled test examples are needed.",
            "Pass data=, a torch Dataset of (input, label) or a pair (inputs, labels).",
        )
    return as_examples(name)


def calibration_inputs(stack: xr.DataTree, given: Any) -> Tensor:
    """Inputs (example, …) from which running statistics are taken anew, a copy of what is given.

    Tokens, which are int32 or int64, stay whole numbers; anything else becomes float32.

    Raises
    ------
    DataError, UnknownNameError
        What is given are no inputs; or nothing is, and the stack names no known dataset.
    """
    if given is not None:
        return _own_inputs(given)
    name = str(stack.attrs.get("dataset", ""))
    if not name:
        raise DataError(
            "The policy 'recalibrate' needs training examples, and the stack names no dataset.",
            "Inputs of the network, about a thousand, are needed; labels are not.",
            "Pass calibration=, a tensor (example, …) of training inputs.",
        )
    return load_training_set(name).evaluation(limit=CALIBRATION_EXAMPLES).inputs


def _own_inputs(given: Any) -> Tensor:
    """Copy inputs that the reader has given; a network may write to what it is given."""
    if isinstance(given, (str, bytes, LabelledExamples)) or (
        isinstance(given, tuple) and len(given) == 2
    ):
        raise DataError(
            f"calibration is a {type(given).__name__}"
            + (f", {given!r}." if isinstance(given, (str, bytes)) else " of inputs and labels."),
            "A tensor or array (example, …) of training inputs is needed, without labels.",
            "Leave it out to take those of the stack's dataset."
            if isinstance(given, (str, bytes))
            else "Pass the inputs alone: calibration=inputs.",
        )
    values = as_tensor(given, "calibration examples")
    check_plain(values, "calibration examples")
    if not values.ndim or not values.numel():
        raise DataError(
            f"The calibration examples have shape {tuple(values.shape)}.",
            "A tensor or array (example, …) of at least one training input is needed.",
            "Pass about a thousand.",
        )
    return values.clone() if values.dtype in TOKENS else values.to(torch.float32, copy=True)
