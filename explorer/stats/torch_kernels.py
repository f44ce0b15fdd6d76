"""The statistics of `kernels.py` for tensors that lie on a GPU; torch in `stats` is here only."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from explorer.stats.kernels import STATISTICS

HELD = 8_388_608
"""Numbers of one float64 temporary, of which there are up to four: 4 × 64 MiB on the device."""

LINF, BAD = STATISTICS.index("linf"), STATISTICS.index("bad")


def tensor_statistics(start: torch.Tensor, others: Sequence[Any]) -> NDArray[np.float64]:
    """Compare one tensor with itself at other times, on the device of the first.

    Parameters
    ----------
    start : torch.Tensor
        Of any dtype, on a device that has float64.
    others : sequence of torch tensors or arrays
        Of the same shape, anywhere; what lies elsewhere is copied block by block. A tensor that
        is not contiguous is copied whole.

    Returns
    -------
    numpy.ndarray
        (other, statistic) float64, as `STATISTICS` names them.
    """
    together = max(1, min(len(others), HELD // max(start.numel(), 1)))
    groups = [others[k : k + together] for k in range(0, len(others), together)]
    with torch.no_grad():
        reference = start.reshape(-1)
        found = [_group_statistics(reference, group) for group in groups]
    return np.concatenate(found) if found else np.empty((0, len(STATISTICS)))


def _group_statistics(reference: torch.Tensor, others: Sequence[Any]) -> NDArray[np.float64]:
    """(other, statistic) of one other, or of several that are shorter than `HELD` together."""
    flat = [_tensor(values).reshape(-1) for values in others]
    parts = [slice(k, k + HELD) for k in range(0, reference.numel(), HELD)]
    sums = [_sums(*_load(reference, flat, at)) for at in parts]
    if not sums:
        return np.zeros((len(flat), len(STATISTICS)))
    blocks: NDArray[np.float64] = torch.stack(sums).cpu().numpy()  # waits once for the device
    for at, block in zip(parts, blocks, strict=True):
        if not np.isfinite(block[:, LINF]).all():
            block[:] = _careful_sums(*_load(reference, flat, at)).cpu().numpy()
    total: NDArray[np.float64] = blocks.sum(axis=0)
    total[:, LINF] = blocks[:, :, LINF].max(axis=0)
    return total


def _tensor(values: Any) -> torch.Tensor:
    """A tensor of the same values; an array is copied, since it may not be written to."""
    return values if isinstance(values, torch.Tensor) else torch.tensor(values)


def _load(
    reference: torch.Tensor, others: Sequence[torch.Tensor], at: slice
) -> tuple[torch.Tensor, torch.Tensor]:
    """(weight,) of the reference and (other, weight), copies in float64 on its device."""
    r = reference[at].to(torch.float64, copy=True)
    c = r.new_empty((len(others), r.numel()))
    for row, values in zip(c, others, strict=True):
        row.copy_(values[at])
    return r, c


def _sums(r: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
    """(other, statistic) of one block; where a weight is not finite, max|c−r| is not either.

    Parameters
    ----------
    r : (weight,) or (other, weight) float64
        The reference; spoilt, as `c` is.
    c : (other, weight) float64
        The others.
    """
    delta = (c - r).abs_()
    l1, linf = delta.sum(1), delta.amax(1)  # amax hands NaN on
    l2 = delta.square_().sum(1)
    rr, cc = r.square_().sum(-1).expand(len(c)), c.square_().sum(1)
    return torch.stack([l1, l2, linf, rr, cc, torch.zeros_like(l1)], 1)


def _careful_sums(r: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
    """`_sums` over the weights that are finite in both, and the number of those that are not."""
    bad = ~(r.isfinite() & c.isfinite())  # (other, weight)
    found = _sums(r.expand_as(c).masked_fill(bad, 0.0), c.masked_fill_(bad, 0.0))
    found[:, BAD] = bad.sum(1)
    return found
