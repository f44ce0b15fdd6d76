"""The one pass over the weights: each tensor over the epochs, and what is kept of it."""

from __future__ import annotations

import hashlib
from collections import deque
from dataclasses import dataclass, field
from math import prod

import numpy as np
from numpy.typing import NDArray
from tqdm.auto import tqdm

from explorer.doctor.beginning import Beginning
from explorer.doctor.hashing import RunningHash, tensor_spans
from explorer.doctor.patient import Item, Patient
from explorer.errors import ExplorerError
from explorer.stats.kernels import STATISTICS
from explorer.stats.tensors import tensor_statistics
from explorer.weights.checkpoints import Array

_SQUARED, _BAD = STATISTICS.index("l2_squared"), STATISTICS.index("bad")


@dataclass
class Chart:
    """What the pass wrote down; positions are those of the patient's items."""

    digests: dict[str, dict[int, bytes]] = field(default_factory=dict)
    """Tensor → position → hash of its values, with dtype and shape."""
    varied: set[str] = field(default_factory=set)
    """Floating tensors whose elements differ from each other in some checkpoint."""
    bad: dict[str, dict[int, tuple[int, int]]] = field(default_factory=dict)
    """Tensor → position → numbers of NaN and of infinite elements, where there are any."""
    chain: dict[int, int] = field(default_factory=dict)
    """Positions whose parameters can be compared with each other → 0, 1, 2, … among these."""
    steps: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    """Layer → (2, chain) squared distance to the one before, and to the one before that."""
    hashes: dict[int, str] = field(default_factory=dict)
    """Position → sha256 of its file, where one is expected."""
    problems: dict[int, str] = field(default_factory=dict)
    """Position → why a tensor could not be read after all."""


def examine(patient: Patient, beginning: Beginning, *, progress: bool) -> Chart:
    """Read every tensor of every checkpoint once.

    Three checkpoints of one tensor are in memory at a time: it is compared with the two before.
    The file hashes are taken from the same bytes while they are read.

    Parameters
    ----------
    patient : Patient
        What is examined.
    beginning : Beginning
        Looks at the first checkpoint's tensors while they are in memory.
    progress : bool
        Show a progress bar on standard error.

    Returns
    -------
    Chart
    """
    order = _reading_order(patient)
    comparable = [k for k, item in enumerate(patient.items) if _comparable(item, patient)]
    chart = Chart(chain={k: at for at, k in enumerate(comparable)})
    for layer in patient.layers:
        chart.steps[layer] = np.zeros((2, len(chart.chain)))
    hashed = {
        k: RunningHash(item.record.path, order)
        for k, item in enumerate(patient.items)
        if item.record is not None and item.checkpoint is not None
    }
    total = sum(_amount(patient, name) for name in order)
    with tqdm(desc="check", total=total, unit="B", unit_scale=True, disable=not progress) as bar:
        for name in order:
            _examine_tensor(name, patient, beginning, chart, hashed)
            bar.update(_amount(patient, name))
    chart.hashes = {k: running.hexdigest() for k, running in hashed.items()}
    return chart


def _examine_tensor(
    name: str,
    patient: Patient,
    beginning: Beginning,
    chart: Chart,
    hashed: dict[int, RunningHash],
) -> None:
    """Read one tensor at all epochs."""
    layer = patient.layer_of.get(name, "")
    moving = name in patient.parameters
    before: deque[Array] = deque(maxlen=2)
    for k, item in enumerate(patient.items):
        values = _read(name, k, item, chart, hashed)
        if values is None:
            continue
        chart.digests.setdefault(name, {})[k] = _digest(values)
        if k == 0:
            beginning.look(name, values)
        if values.dtype.kind == "f":
            _note_values(name, k, values, chart)
        if moving and k in chart.chain:
            for lag, squared in enumerate(_squared_distances(values, before)):
                chart.steps[layer][lag, chart.chain[k]] += squared
            before.appendleft(values)


def _read(
    name: str, k: int, item: Item, chart: Chart, hashed: dict[int, RunningHash]
) -> Array | None:
    """Values of a tensor in one checkpoint; None where it has none or they cannot be read."""
    if item.checkpoint is None or name not in item.specs:
        return None
    if k in hashed:
        hashed[k].take(name)
    try:
        return item.checkpoint.read(name)
    except ExplorerError as error:
        chart.problems[k] = error.came
        return None


def _squared_distances(values: Array, before: deque[Array]) -> list[float]:
    """‖Δ‖² to the one before and to the one before that; NaN where a weight is not finite."""
    if not before:
        return []
    found = tensor_statistics(values, list(before))
    return [float("nan") if row[_BAD] else float(row[_SQUARED]) for row in found]


def _note_values(name: str, k: int, values: Array, chart: Chart) -> None:
    flat = values.reshape(-1)
    if name not in chart.varied and flat.size and (flat != flat[0]).any():
        chart.varied.add(name)
    if not np.isfinite(flat).all():
        counts = int(np.isnan(flat).sum()), int(np.isinf(flat).sum())
        chart.bad.setdefault(name, {})[k] = counts


def _digest(values: Array) -> bytes:
    """Hash of a tensor's bits, dtype and shape; equal only where all of them are."""
    digest = hashlib.blake2b(f"{values.dtype} {values.shape}".encode(), digest_size=16)
    digest.update(np.ascontiguousarray(values).reshape(-1).view(np.uint8).data)
    return digest.digest()


def _comparable(item: Item, patient: Patient) -> bool:
    """Whether a checkpoint has all parameters in the shapes that are expected."""
    return item.checkpoint is not None and all(
        name in item.specs and item.specs[name].shape == patient.specs[name].shape
        for name in patient.parameters
    )


def _reading_order(patient: Patient) -> list[str]:
    """All names that occur, those of a file in the order in which they lie there."""
    names: dict[str, None] = {}
    for item in patient.items:
        if item.record is not None and item.checkpoint is not None:
            names |= dict.fromkeys(tensor_spans(item.record.path)[1])
    for item in patient.items:
        names |= dict.fromkeys(item.specs)
    return list(names)


def _amount(patient: Patient, name: str) -> int:
    """Bytes of one tensor in all checkpoints."""
    specs = [item.specs[name] for item in patient.items if name in item.specs]
    return sum(prod(spec.shape) * spec.dtype.itemsize for spec in specs)
