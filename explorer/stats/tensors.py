"""One tensor compared with itself at other times, where it lies: in memory or on a GPU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from explorer.errors import StackError
from explorer.stats.kernels import STATISTICS, four_statistics

TOGETHER = 4
"""Other times that one pass over the reference takes; as many as the kernel does."""

WITHOUT_FLOAT64 = ("mps",)
"""Kinds of device that cannot add in float64; what lies there is copied and measured on the CPU."""

Tensor = Any
"""An array, or a torch tensor on any device; told apart without importing torch."""


def tensor_statistics(start: Tensor, others: Sequence[Tensor]) -> NDArray[np.float64]:
    """Compare one tensor with itself at other times, four of them in one pass.

    Parameters
    ----------
    start : array or torch tensor
        Any dtype; what float32 does not hold exactly is measured as float64. Where it lies on a
        GPU that has float64, the numbers are made there.
    others : sequence of arrays or torch tensors
        Of the same shape, anywhere.

    Returns
    -------
    numpy.ndarray
        (other, statistic) float64, as `STATISTICS` names them.

    Raises
    ------
    StackError
        The shapes differ.
    """
    if _adds_by_itself(start):
        _check_shapes(start, others)
        from explorer.stats import torch_kernels  # heavy, and loaded where such a tensor is

        return torch_kernels.tensor_statistics(start, others)
    found = np.zeros((-(-len(others) // TOGETHER), TOGETHER, len(STATISTICS)))
    for k, out in enumerate(found):
        add_statistics(start, others[k * TOGETHER : (k + 1) * TOGETHER], out)
    return found.reshape(-1, len(STATISTICS))[: len(others)]


def add_statistics(start: Tensor, others: Sequence[Tensor], out: NDArray[np.float64]) -> None:
    """Compare a tensor, or the next piece of one, with itself at up to four other times.

    Parameters
    ----------
    start, others : array or torch tensor
        As for `tensor_statistics`; at least one other.
    out : (4, 6) float64
        For each of the others what is added to, see `four_statistics`; other rows get no meaning.

    Raises
    ------
    StackError
        The shapes differ.
    """
    _check_shapes(start, others)
    arrays = [_array(values) for values in (start, *others)]
    kept = np.can_cast(np.result_type(*arrays), np.float32)
    dtype = np.dtype(np.float32 if kept else np.float64)
    reference, *flat = (_flat(values, dtype) for values in arrays)
    a, b, c, d = flat + flat[-1:] * (TOGETHER - len(flat))  # the last one fills up
    four_statistics(reference, a, b, c, d, out)


def _check_shapes(start: Tensor, others: Sequence[Tensor]) -> None:
    """The kernels trust lengths, so nothing else may reach them."""
    expected = np.shape(start)
    for values in others:
        if np.shape(values) != expected:
            raise StackError(
                f"A tensor of shape {tuple(np.shape(values))} was to be compared with one of "
                f"{tuple(expected)}.",
                "The same tensor at two times has the same shape.",
                "Compare checkpoints of one network.",
            )


def _adds_by_itself(values: Tensor) -> bool:
    """Whether this is a torch tensor on a device that has float64 and is not the CPU."""
    return hasattr(values, "detach") and values.device.type not in ("cpu", *WITHOUT_FLOAT64)


def _array(values: Tensor) -> NDArray[Any]:
    """An array of the same values; nothing is copied of what lies in memory already."""
    if not hasattr(values, "detach"):
        return np.asarray(values)
    tensor = values.detach().cpu()
    if tensor.is_floating_point() and tensor.element_size() < 4:
        tensor = tensor.float()  # numpy has no bfloat16
    array: NDArray[Any] = tensor.numpy()
    return array


def _flat(values: NDArray[Any], dtype: np.dtype[Any]) -> NDArray[Any]:
    """One axis, aligned, not to be written to: the one kind of array the kernel is compiled for."""
    flat = np.ascontiguousarray(values, dtype).reshape(-1)
    flat = flat.view() if flat.flags.aligned else flat.copy()
    flat.flags.writeable = False
    return flat
