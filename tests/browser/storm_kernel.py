"""What a storm asks of the kernel: memory, threads, hashes, complaints, numbers measured anew."""

from __future__ import annotations

import ctypes
import gc
import hashlib
import json
import logging
import threading
from typing import Any

import psutil
import torch
from ipywidgets import Widget

import explorer as lx
from explorer.ui.painting import error_text
from explorer.ui.results import read
from explorer.ui.session import _open_sessions
from explorer.weights.stack import read_epoch
from tests import toy

complaints: list[str] = []
"""Errors and warnings that anything in the kernel has logged."""


kinds: dict[str, str] = {}
"""The class of every widget there has been, by the number of its comm."""


class _Ear(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        complaints.append(self.format(record))


def listen() -> None:
    """Note from now on what is logged as an error, by the explorer or by the kernel itself."""
    ear = _Ear(logging.ERROR)
    for name in ("", "traitlets", "ipykernel", "IPKernelApp"):
        logging.getLogger(name).addHandler(ear)
    Widget.open = _opened(Widget.open)
    threading.excepthook = lambda given: complaints.append(f"{given.thread}: {given.exc_value!r}")


def _opened(original: Any) -> Any:
    def open_and_note(widget: Any) -> None:
        original(widget)
        kinds[widget.model_id] = type(widget).__name__

    return open_and_note


def own_network() -> tuple[torch.nn.Module, lx.Explorer]:
    """Return a network of the reader's own with batch normalisation, and its explorer."""
    states = []
    for seed in range(4):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            net = toy.DeepConvNet().train()
            net(torch.randn(32, 1, 6, 6) * (seed + 1))
            states.append({name: tensor.clone() for name, tensor in net.state_dict().items()})
    net.eval()
    stack = lx.open_stack(states, model=net)
    return net, lx.Explorer(stack, model=net, data=toy.conv_examples(2000))


def tensors_hash(tensors: Any) -> str:
    """Return a sha256 over names, types, shapes and values."""
    found = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        array = torch.as_tensor(tensor).detach().cpu().contiguous()
        found.update(f"{name} {array.dtype} {tuple(array.shape)}".encode())
        found.update(array.reshape(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def look(explorers: list[lx.Explorer], net: torch.nn.Module) -> str:
    """Return, as JSON, what is going on in the kernel."""
    gc.collect()
    _give_back()
    process = psutil.Process()
    return json.dumps(
        {
            "busy": [one._exploration.session.busy for one in explorers],
            "complaints": complaints,
            "hash": tensors_hash(net.state_dict()),
            "stranger": [name for one in explorers for name in _changed(one)],
            "resident": process.memory_info().rss,
            "sessions": len(_open_sessions),
            "threads": sorted(map(_named, threading.enumerate())),
            "native": process.num_threads(),
        }
    )


def _give_back() -> None:
    """Let the C library return what it holds for threads that have ended: no leak of ours."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def kinds_of(comms: list[str]) -> str:
    """Return, as JSON, what the widgets of these numbers were."""
    return json.dumps([kinds.get(one, "unknown") for one in comms])


def _named(thread: threading.Thread) -> str:
    return f"Timer {thread.name}" if isinstance(thread, threading.Timer) else thread.name


def _changed(explorer: lx.Explorer) -> list[str]:
    """Name the networks in memory that are not, bit for bit, the last checkpoint of their stack."""
    session = explorer._exploration.session
    if session.networks.evaluator is None:
        return []
    held = session.networks.evaluator.network._state
    last = read_epoch(session._stack, session.grid.epochs[-1])
    # bundled files have one number on an axis where torch has it on none
    wanted = {name: last[name].reshape(held[name].shape) for name in held}
    return [] if tensors_hash(held) == tensors_hash(wanted) else [explorer._opened]


def shown(explorer: lx.Explorer) -> str:
    """Return, as JSON, the text that each cell of the error heatmap should show."""
    exploration = explorer._exploration
    with exploration.session.lock:
        results = exploration.session.results
        zero = float(results.attrs["final_error"]) if exploration.shown.difference else None
        readings = {str(cell): read(results, cell) for cell in exploration.session.grid.cells}
    return json.dumps(
        {
            cell: error_text(reading.value, zero)
            for cell, reading in readings.items()
            if reading.state == "measured"
        }
    )


def anew(explorer: lx.Explorer, at: int) -> str:
    """Return, as JSON, a number that a click has measured beside that of a fresh evaluation."""
    with explorer._exploration.session.lock:
        entries = [one for one in explorer._exploration.session.measured if not one.failure]
    settings = explorer._settings
    found = []
    for entry in [entries[at % len(entries)]] if entries else []:
        *_, last = lx.evaluate(
            explorer._stack,
            entry.intervention,
            model=settings.model,
            data=settings.data,
            device="cpu",
            batchnorm=settings.batchnorm,
        )
        before = (entry.error, entry.turned_wrong, entry.turned_right)
        after = (last.error, last.turned_wrong, last.turned_right)
        found.append((str(entry.choice), before, after))
    return json.dumps(found)
