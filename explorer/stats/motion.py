"""How layers move during training: rotation, steps, signs, singular values, dead units."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from tqdm.auto import tqdm

from explorer.stats.spectra import as_matrix, spectrum

OF_LAYERS = {
    "rotation": "1 − cos(θ, θ_start)",
    "step": "‖θ − θ_before‖₂",
    "step_per_epoch": "‖θ − θ_before‖₂ / epochs between",
    "sign_flips": "share of weights with another sign than at the start",
}
"""Over (layer, epoch) → how it is written."""

OF_MATRICES = {
    "spectral_norm": "‖W‖₂, largest singular value",
    "spectral_error": "bound of the error of ‖W‖₂; 0: rounding alone",
    "stable_rank": "‖W‖_F² / ‖W‖₂²",
    "dead_in": "share of outputs whose incoming weights are all 0",
    "dead_out": "share of inputs whose outgoing weights are all 0",
}
"""Over (matrix, epoch) → how it is written."""

NOT_REACHED = "not measured yet"

AT_ONCE = 4_194_304
"""Bytes of one parameter at all checkpoints together, up to which they are read in one call: of
small tensors the calls cost as much as the reading."""

Vector = NDArray[np.float64]

Measured = tuple[dict[str, Vector], dict[str, dict[str, Vector]], list[str]]
"""One layer's rows, those of its matrices, and why checkpoints have no numbers."""


def stack_motion(stack: xr.DataTree, *, progress: bool = True) -> xr.Dataset:
    """Do what `explorer.motion` does without a sweep; after Ctrl-C what is finished.

    Parameters
    ----------
    stack : xarray.DataTree
        As `explorer.open_stack` returns it.
    progress : bool
        Show a progress bar.
    """
    known: Callable[[], xr.Dataset] = partial(_dataset, stack, {})
    total = len(stack.attrs["layers"])
    bar = tqdm(desc="motion", unit=" layers", total=total, disable=not progress)
    with bar, contextlib.suppress(KeyboardInterrupt):
        for one in motion_parts(stack):
            known = one
            bar.update()
    return known()


def motion_parts(stack: xr.DataTree) -> Iterator[Callable[[], xr.Dataset]]:
    """Do what `stack_motion` does; after each layer yield what lays out what is known.

    To stop, do not ask for the next.
    """
    epochs = [int(epoch) for epoch in stack.coords["epoch"].values]
    found: dict[str, Measured] = {}
    for layer in map(str, stack.attrs["layers"]):
        found[layer] = _layer(stack.children[layer], epochs)
        yield partial(_dataset, stack, dict(found))


@dataclass(frozen=True)
class _Start:
    """What later checkpoints of a layer are compared with."""

    direction: Vector
    """Its first weights, of length 1; NaN where all are 0."""
    signs: Vector
    """Their signs."""

    @classmethod
    def of(cls, weights: Vector) -> _Start:
        length = np.linalg.norm(weights)
        return cls(weights / (length if length else np.nan), np.sign(weights))

    def rotation(self, now: Vector) -> float:
        """1 − cos of the angle to later weights, from ‖a/‖a‖ − b/‖b‖‖² / 2: exact near 0."""
        length = np.linalg.norm(now)
        if not length:
            return np.nan
        apart: Vector = self.direction - now / length
        return float(apart @ apart / 2)


def _layer(node: xr.DataTree, epochs: Sequence[int]) -> Measured:
    """One layer's rows, those of its matrices, and why checkpoints have no numbers."""
    rows = {name: np.full(len(epochs), np.nan) for name in OF_LAYERS}
    matrices: dict[str, dict[str, Vector]] = {}
    reasons = [""] * len(epochs)
    start: _Start | None = None
    before: tuple[int, Vector] | None = None
    for k, weights in enumerate(_times(node, reasons)):
        if weights is None:
            continue
        _add_spectra(matrices, weights, k, len(epochs))
        now = np.concatenate([np.empty(0), *map(np.ravel, weights.values())], dtype=np.float64)
        if not np.isfinite(now).all():
            reasons[k] = "NaN or infinite weights"
            continue
        if not now.size:
            reasons[k] = "the layer has no parameters, only buffers"
            continue
        if k == 0:
            start = _Start.of(now)
        if start is not None:
            rows["rotation"][k] = start.rotation(now)
            rows["sign_flips"][k] = np.count_nonzero(start.signs * now < 0) / now.size
        if before is not None and before[0] == k - 1:
            rows["step"][k] = float(np.linalg.norm(now - before[1]))
            rows["step_per_epoch"][k] = rows["step"][k] / (epochs[k] - epochs[k - 1])
        before = k, now
    return rows, matrices, reasons


def _add_spectra(
    matrices: dict[str, dict[str, Vector]], weights: Mapping[str, NDArray[Any]], k: int, times: int
) -> None:
    """Note what is told of each matrix of a layer at one checkpoint."""
    for name, one in weights.items():
        if one.ndim > 1:
            empty = {key: np.full(times, np.nan) for key in OF_MATRICES}
            own = matrices.setdefault(name, empty)
            for key, value in spectrum(as_matrix(one)).items():
                own[key][k] = value


def _times(node: xr.DataTree, reasons: list[str]) -> Iterator[Mapping[str, NDArray[Any]] | None]:
    """Parameters of a layer at each checkpoint in turn; None, and a reason, where unreadable."""
    arrays = {
        str(array.attrs["parameter"]): array
        for array in node.to_dataset(inherit=False).data_vars.values()
        if not array.attrs["buffer"]
    }
    held: dict[str, NDArray[Any]] = {}
    with contextlib.suppress(OSError):  # then each checkpoint by itself, which says its reason
        held = {n: one.variable[:].values for n, one in arrays.items() if one.nbytes <= AT_ONCE}
    for k in range(len(reasons)):
        try:
            yield {
                name: held[name][k] if name in held else array.variable[k].values
                for name, array in arrays.items()
            }
        except OSError as error:  # a CheckpointError is one: the other checkpoints stay usable
            reasons[k] = str(error)
            yield None


def _dataset(stack: xr.DataTree, found: Mapping[str, Measured]) -> xr.Dataset:
    """Lay out what is known of the layers that are finished."""
    epochs = [int(epoch) for epoch in stack.coords["epoch"].values]
    layers = [str(layer) for layer in stack.attrs["layers"]]
    matrices = [(layer, name, one) for layer in found for name, one in found[layer][1].items()]
    empty = np.full(len(epochs), np.nan)
    of_layers = {
        name: (
            ("layer", "epoch"),
            np.array([found[layer][0][name] if layer in found else empty for layer in layers]),
            {"long_name": formula},
        )
        for name, formula in OF_LAYERS.items()
    }
    of_matrices = {
        name: (
            ("matrix", "epoch"),
            np.array([one[name] for *_, one in matrices]).reshape(-1, len(epochs)),
            {"long_name": formula},
        )
        for name, formula in OF_MATRICES.items()
    }
    not_reached = [NOT_REACHED] * len(epochs)
    why = [found[layer][2] if layer in found else not_reached for layer in layers]
    return xr.Dataset(
        {**of_layers, **of_matrices, "reason": (("layer", "epoch"), np.array(why, object))},
        {
            "layer": np.array(layers, object),
            "epoch": list(epochs),
            "matrix": np.array([name for _, name, _ in matrices], object),
            "of_layer": ("matrix", np.array([layer for layer, *_ in matrices], object)),
        },
        {
            "stack": str(stack.attrs.get("name", "")),
            "stack_title": str(stack.attrs.get("title", "")),
            "checkpoint_unit": str(stack.attrs.get("checkpoint_unit", "epoch")),
            "content_hash": str(stack.attrs.get("content_hash", "")),
            "reference_epoch": epochs[0],
            "complete": int(len(found) == len(layers)),
        },
    )
