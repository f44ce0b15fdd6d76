"""Files of ``torch.save``, looked into without torch, and read one tensor or part at a time.

All that a file declares is compared with its size before anything is allocated.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from explorer.errors import CheckpointError
from explorer.weights.checkpoints import Array, ArraySpec, numpy_dtype, unreadable, widened
from explorer.weights.readers.pickled import PickleError, RefusedError, StoredTensor
from explorer.weights.readers.states import State, choose_state
from explorer.weights.readers.torch_formats import TorchFormat, open_format, size_of
from explorer.weights.readers.when import When, when_inside
from explorer.weights.safetensors_file import bounds, outer


@dataclass(frozen=True)
class TorchCheckpoint:
    """A file of ``torch.save``: a state dict, alone or beside other things."""

    path: Path
    """Where it lies."""
    key: str | None = None
    """Under which key the state dict lies, where there are several."""
    in_parts = True

    def specs(self) -> dict[str, ArraySpec]:
        """Read names, dtypes and shapes, and check that the file can hold what it declares."""
        with _told(self.path):
            opened = open_format(self.path)
            state = self._state(opened)
            for name, tensor in state.tensors.items():
                _check(opened, name, tensor)
            return state.specs

    def spec(self, name: str) -> ArraySpec | None:
        """What one tensor looks like; the others are not checked."""
        with _told(self.path):
            return self._state(open_format(self.path)).specs.get(name)

    def read(self, name: str) -> Array:
        """Read one tensor."""
        with _told(self.path):
            opened = open_format(self.path)
            tensor = self._tensor(opened, name)
            return _values(opened, name, tensor, (slice(None),) * len(tensor.shape))

    def read_part(self, name: str, key: Sequence[Any]) -> Array:
        """Read one tensor where each of its axes is indexed by itself.

        What is read is the shortest run of bytes that holds it: of a matrix, the rows from the
        first to the last that is asked for; of one that was saved transposed, nearly all.
        """
        with _told(self.path):
            opened = open_format(self.path)
            return _values(opened, name, self._tensor(opened, name), key)

    def notes(self) -> list[str]:
        """What was chosen in this file."""
        with _told(self.path):
            return self._state(open_format(self.path)).notes

    def _state(self, opened: TorchFormat) -> State:
        states = opened.pickled.states
        if self.key not in states:
            states[self.key] = choose_state(opened.pickled.content, self.key, str(self.path))
        state: State = states[self.key]
        return state

    def _tensor(self, opened: TorchFormat, name: str) -> StoredTensor:
        tensor = self._state(opened).tensors.get(name)
        if tensor is None:
            raise PickleError(f"it has no tensor {name!r}")
        return tensor


@contextlib.contextmanager
def _told(path: Path) -> Iterator[None]:
    """Name the file in whatever goes wrong with it."""
    try:
        yield
    except CheckpointError:  # it does so already
        raise
    except RefusedError as error:
        raise CheckpointError(
            f"{path} cannot be read as a checkpoint: {error}.",
            "A file with nothing but tensors, and plain values beside them, is read; no code is "
            "run from it.",
            "Ask its maker for safetensors. If you trust the file, choose to run its code: "
            "reader=lambda path: torch.load(path, weights_only=False)['state_dict'].",
        ) from error
    except (PickleError, OSError) as error:
        raise unreadable(path, error) from error


def torch_when(path: Path) -> When:
    """What a file says about how far training had come.

    Raises
    ------
    CheckpointError
        It cannot be read.
    """
    with _told(path):
        content = open_format(path).pickled.content
    return when_inside(content) if isinstance(content, Mapping) else When()


def _check(opened: TorchFormat, name: str, tensor: StoredTensor) -> int:
    """Bytes of one element of a tensor, once it is known to be there as a whole."""
    storage, size = tensor.storage, size_of(tensor.dtype, f"tensor {name!r}")
    there = opened.size(storage.key)
    if storage.elements * size != there:
        raise PickleError(
            f"{name} declares a storage of {storage.elements} elements, {storage.elements * size} "
            f"bytes, and {there} are there"
        )
    elements = math.prod(tensor.shape)
    if elements == 0:
        return size
    span = 1 + sum((n - 1) * s for n, s in zip(tensor.shape, tensor.strides, strict=True))
    if tensor.offset + span > storage.elements or elements > span:
        raise PickleError(
            f"{name} declares {elements} elements, {list(tensor.shape)}, as a view of "
            f"{storage.elements}"
        )
    return size


def _values(opened: TorchFormat, name: str, tensor: StoredTensor, key: Sequence[Any]) -> Array:
    """Elements from the first to the last that is asked for, and of these those that are."""
    size = _check(opened, name, tensor)
    limits = [bounds(length, one) for length, one in zip(tensor.shape, key, strict=True)]
    shape = tuple(high - low for low, high, _ in limits)
    within = [one for _, _, one in limits]
    if math.prod(shape) == 0:
        return outer(np.zeros(shape, numpy_dtype(tensor.dtype, name)), within)
    first = tensor.offset + sum(
        low * stride for (low, _, _), stride in zip(limits, tensor.strides, strict=True)
    )
    span = 1 + sum((n - 1) * s for n, s in zip(shape, tensor.strides, strict=True))
    raw = opened.read(tensor.storage.key, first * size, span * size)
    if len(raw) < span * size:
        raise PickleError(f"it ends {span * size - len(raw)} bytes too early")
    stored = "uint16" if tensor.dtype == "bfloat16" else tensor.dtype
    flat = np.frombuffer(raw, np.dtype(stored).newbyteorder(opened.byte_order))
    lengths = zip(shape, tensor.strides, strict=True)
    steps = [stride * size if n > 1 else 0 for n, stride in lengths]  # numpy counts in int64
    view = np.lib.stride_tricks.as_strided(flat, shape, steps, writeable=False)
    native = np.array(outer(view, within), dtype=stored, order="C")
    return widened(native) if tensor.dtype == "bfloat16" else native
