"""Weights that are NaN or infinite: what a network gives with them is no error rate."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from torch import Tensor

from explorer.errors import InterventionError


def nonfinite_weights(tensors: Mapping[str, Tensor], buffers: Collection[str]) -> dict[str, int]:
    """Count NaN and infinities in each tensor that may hold none.

    Logits can be finite all the same: 1/∞ is 0, tanh(∞) is 1, and not every row of an embedding is
    used. A buffer that holds no running statistics may hold infinities, as attention masks do.

    Parameters
    ----------
    tensors : mapping
        Name → values.
    buffers : collection of str
        Names of those that are not trained.

    Returns
    -------
    dict
        Name → how many; empty if there are none.
    """
    found = {}
    for name, tensor in tensors.items():
        mask = name in buffers and not name.rpartition(".")[2].startswith("running_")
        if not (tensor.is_floating_point() or tensor.is_complex()):
            continue
        # a fifth of the time that looking at each takes; torch has no sum of eight bits
        if tensor.dtype.itemsize > 1 and bool(tensor.sum().isfinite()):
            continue
        bad = int(tensor.isnan().sum()) if mask else tensor.numel() - int(tensor.isfinite().sum())
        if bad:
            found[name] = bad
    return found


NOT_FINITE = "NaN or infinite weights"
"""How the reason of a cell begins that has such weights."""


def refuse_nonfinite(found: Mapping[str, int]) -> None:
    """Refuse to run a network with such weights.

    Raises
    ------
    InterventionError
        There are some.
    """
    if found:
        counts = ", ".join(f"{count:,} of {name}" for name, count in list(found.items())[:3])
        more = f" and of {len(found) - 3} more tensors" if len(found) > 3 else ""
        raise InterventionError(
            f"{NOT_FINITE}: {counts}{more}.",
            "Finite weights are needed, of the layers put back and of the trained network.",
            "Choose another epoch or another draw; explorer.check says which checkpoints are "
            "damaged.",
        )
