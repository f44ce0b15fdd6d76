"""What a worker of a cluster does: open what was sent, keep it, and count one group of cells.

These functions run in the workers' processes. Nothing here knows how they were sent.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import platform
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
import xarray as xr

from explorer.engine.evaluator import Evaluator
from explorer.engine.interventions import Intervention
from explorer.engine.measuring import Outcome, measure
from explorer.engine.provenance import provenance_of
from explorer.errors import CheckpointError, StackError
from explorer.weights.stack import epoch_numbers, layer_names, layer_variables


class NotReadableHereError(Exception):
    """The files of a stack are not to be found on this worker, or hold something else."""


@dataclass(frozen=True)
class Work:
    """What all tasks of one sweep have in common, besides the parcel with the stack."""

    fingerprint: str
    """What `fingerprint` gives for the stack where it was opened."""
    token: str = ""
    """Names the content of the parcel: the same content needs no second evaluator."""
    run: str = ""
    """Names the tasks that are stopped together."""
    devices: Mapping[str, str] = field(default_factory=dict)
    """Process, as `process` names it → the device that is its own."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of the evaluator that need no parcel."""


@dataclass(frozen=True)
class Described:
    """What the first evaluator says about the work."""

    provenance: dict[str, Any]
    """As `explorer.engine.provenance.provenance_of` returns it."""
    total: int
    """Test examples, or labels where an example has several."""
    chance_error: float
    """Error of always answering the most frequent label."""


@dataclass(frozen=True)
class _Kept:
    token: str
    batch_size: int
    evaluator: Evaluator


_turn = threading.Lock()  # a worker with several threads has one device all the same
_kept: _Kept | None = None  # the last one only: two networks may not fit on a device
_stopped: set[str] = set()


def process() -> str:
    """Name this process among all of a cluster."""
    return f"{platform.node()} {os.getpid()}"


def visible_devices() -> tuple[str, list[tuple[str, str]]]:
    """Name this process, and the CUDA devices that it sees: (identity, name) in torch's order."""
    cards = [torch.cuda.get_device_properties(k) for k in range(torch.cuda.device_count())]
    return process(), [(str(card.uuid), card.name) for card in cards]


def stop(run: str) -> None:
    """Have the tasks of this name end after the slice of test examples that they are at."""
    _stopped.add(run)


def describe(work: Work, parcel: bytes, _: tuple[()]) -> Described:
    """Open the evaluator, and say what the numbers will be computed from."""
    with _turn:
        evaluator = _evaluator(work, parcel)
        return Described(provenance_of(evaluator), evaluator.total, evaluator.chance_error)


def count(
    work: Work, parcel: bytes, interventions: Iterable[Intervention], tolerance: float
) -> dict[Intervention, Outcome]:
    """Count a group of interventions to its end, or until the sweep is stopped."""
    found: dict[Intervention, Outcome] = {}
    with _turn:
        evaluator = _evaluator(work, parcel)
        for some in measure(evaluator, interventions, tolerance=tolerance):
            if work.run in _stopped:
                break
            found.update(some)
    return found


def on_layer(
    work: Work, parcel: bytes, layers: tuple[str], function: Callable[..., Any], arguments: Any
) -> Any:
    """Call a function with the part of the stack that is one layer."""
    contents, (layer,) = _opened(work, parcel), layers
    return function(one_layer(contents["stack"], layer), model=contents["model"], **arguments)


def one_layer(stack: xr.DataTree, layer: str) -> xr.DataTree:
    """The part of a stack that is one layer; no tensor is read."""
    root = stack.to_dataset().assign_attrs(layers=[layer])
    return xr.DataTree(root, children={layer: stack.children[layer].copy()})


def fingerprint(stack: xr.DataTree) -> str:
    """Hash of the smallest parameter of every epoch, which tells whether the files are the same.

    An epoch that cannot be read counts as such: it marks its cells, wherever they are measured.
    """
    variables = [v for name in layer_names(stack) for v in layer_variables(stack, name).values()]
    smallest = min(variables, key=lambda array: (array.attrs["buffer"], array[0].nbytes))
    digest = hashlib.sha256()
    for position, epoch in enumerate(epoch_numbers(stack)):
        digest.update(f"epoch {epoch}".encode())
        try:
            digest.update(smallest.isel(epoch=position).values.tobytes())
        except (CheckpointError, StackError):
            digest.update(b"cannot be read")
    return digest.hexdigest()


def _opened(work: Work, parcel: bytes) -> dict[str, Any]:
    """Unpack a parcel, and make sure that its stack can be read here."""
    contents: dict[str, Any] = pickle.loads(parcel)  # from the client, whose code runs here anyway
    if fingerprint(contents["stack"]) != work.fingerprint:
        raise NotReadableHereError(platform.node())
    return contents


def _evaluator(work: Work, parcel: bytes) -> Evaluator:
    """The evaluator of this process, opened when it is first needed."""
    global _kept
    wanted = work.settings["batch_size"]
    if _kept is not None and _kept.token == work.token and wanted in (None, _kept.batch_size):
        return _kept.evaluator
    _kept = None  # gives its memory back before the next one takes some
    contents = _opened(work, parcel)
    settings = {**work.settings, "device": _device(work)}
    evaluator = Evaluator(**contents, **settings)
    # where memory runs out later, slices are halved: what was asked for is what is compared
    _kept = _Kept(work.token, wanted or evaluator.batch_size, evaluator)
    return evaluator


def _device(work: Work) -> str:
    """The device of this process; for one that came later, the one with the most free memory."""
    wanted = str(work.settings["device"])
    if wanted != "auto" or not torch.cuda.is_available():
        return wanted
    if process() in work.devices:
        return work.devices[process()]
    free = [torch.cuda.mem_get_info(k)[0] for k in range(torch.cuda.device_count())]
    return f"cuda:{free.index(max(free))}"
