"""Which examples a network is tested on, and which it takes its running statistics from."""

from __future__ import annotations

from typing import Any

import torch
import xarray as xr
from torch import Tensor

from explorer.data.datasets import (
    LabelledExamples,
    as_examples,
    is_dataset_name,
    load_training_set,
)
from explorer.data.own_text import own_text
from explorer.errors import DataError

CALIBRATION_EXAMPLES = 1024
"""Training examples from which running statistics are taken anew."""


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
    """Inputs (example, …) from which running statistics are taken anew.

    Raises
    ------
    DataError, UnknownNameError
        Nothing is given, and the stack names no known dataset.
    """
    if given is not None:
        return torch.as_tensor(given).float()
    name = str(stack.attrs.get("dataset", ""))
    if not name:
        raise DataError(
            "The policy 'recalibrate' needs training examples, and the stack names no dataset.",
            "Inputs of the network, about a thousand, are needed; labels are not.",
            "Pass calibration=, a tensor (example, …) of training inputs.",
        )
    return load_training_set(name).evaluation(limit=CALIBRATION_EXAMPLES).inputs
