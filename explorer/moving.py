"""How layers move, beside the error: what `stats` and `engine` tell of one stack.

Not in `explorer.api`, whose import takes torch and numba along; motion needs neither.
"""

from __future__ import annotations

from typing import Any

import xarray as xr

from explorer.engine.results import warn_if_changed
from explorer.errors import UsageError
from explorer.stats.motion import stack_motion
from explorer.stats.rank_correlation import against
from explorer.weights.stack import check_is_stack, content_hash


def motion(
    stack: xr.DataTree, *, sweep: xr.Dataset | None = None, progress: bool = True
) -> xr.Dataset:
    """Measure how each layer moves from checkpoint to checkpoint; no data is needed.

    Buffers (running statistics) are left out, and all parameters of a layer count together.

    Parameters
    ----------
    stack : xarray.DataTree
        As `explorer.open_stack` returns it.
    sweep : xarray.Dataset, optional
        Of the same stack, as `explorer.sweep` returns it: how far each quantity goes along with
        the error is added.
    progress : bool
        Show a progress bar.

    Returns
    -------
    xarray.Dataset
        float64. Over (layer, epoch): rotation (1 − cos to the first checkpoint, 0…2), step (length
        of the way from the checkpoint before, weight units; NaN at the first), step_per_epoch,
        sign_flips (share), reason (why a checkpoint has no numbers). Over (matrix, epoch), one
        matrix for each parameter of two or more dimensions: spectral_norm, spectral_error,
        stable_rank, dead_in, dead_out; the coordinate ``of_layer`` says whose it is. With `sweep`
        over ``quantity``: rank_correlation, rank_low, rank_high, layers_compared (see
        `explorer.stats.rank_correlation.against`). After Ctrl-C the layers that are finished are
        there, and the attribute ``complete`` is 0.

    Raises
    ------
    StackError
        What is passed is no stack, or has no checkpoint.
    UsageError
        What is passed as a sweep is none.
    UnknownNameError
        The sweep has none of the layers, or not the stack's first checkpoint.

    Warns
    -----
    ChangedStackWarning
        The sweep was computed from other checkpoints than those of the stack.

    References
    ----------
    Rotation: Carbonnelle & De Vleeschouwer, arXiv 1806.01603. That such numbers do not tell which
    layers matter: Zhang, Bengio, Singer, JMLR 23(67), 2022, section on norms.

    Examples
    --------
    >>> import explorer as lx
    >>> found = lx.motion(lx.open_stack("fcn3x256-digits"), progress=False)
    >>> found.rotation.sel(epoch=100).idxmax().item()
    'layer4'
    """
    check_is_stack(stack)
    if sweep is None:
        return stack_motion(stack, progress=progress)
    _check_is_sweep(sweep)
    warn_if_changed(sweep.attrs, content_hash(stack), "The sweep")
    return against(stack_motion(stack, progress=progress), sweep)


def _check_is_sweep(sweep: Any) -> None:
    whole = isinstance(sweep, xr.Dataset) and "error" in sweep
    if not whole or set(sweep["error"].dims) != {"layer", "epoch"}:
        raise UsageError(
            f"The sweep is {sweep!r}."
            if isinstance(sweep, str)
            else f"The sweep is a {type(sweep).__name__} without the error of layers and epochs.",
            "What explorer.sweep or explorer.open_sweep returns is needed.",
            f"Open it first: sweep=explorer.open_sweep({sweep!r})."
            if isinstance(sweep, str)
            else "Pass sweep=explorer.sweep(stack), or leave it out to measure motion alone.",
        )
