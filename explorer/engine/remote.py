"""A sweep, or other work on a stack, shared out among the workers of a cluster."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import xarray as xr
from torch import nn

from explorer.engine import on_worker
from explorer.engine.cluster import Sender, packed
from explorer.engine.examples import examples_for
from explorer.engine.interventions import Intervention
from explorer.engine.journal import Journal
from explorer.engine.measuring import Outcome
from explorer.engine.shares import assign_devices, share_out
from explorer.errors import ClusterError, ExplorerError
from explorer.weights.stack import content_hash, epoch_numbers, layer_names, layers_hash
from explorer.weights.unwrapped import unwrapped


class RemoteEvaluator:
    """A stack, a network and test examples on the workers of a cluster, ready to be measured.

    The stack travels by its path: its files are read where they are needed. Where a worker does
    not find the same files, the tensors of the chosen epochs are sent instead. The network
    travels as a pickle, test examples by their name or, where they have none, themselves. Each
    worker process opens one evaluator, on a device of its own, and keeps it.

    Parameters
    ----------
    client : distributed.Client
        Of a running cluster; at least one worker has to come within half a minute.
    stack, model, data, device, batch_size, batchnorm, screen, memory, calibration
        As for `explorer.engine.evaluator.Evaluator`. ``"auto"`` shares out each machine's CUDA
        devices among its workers; all workers use one batch size, that of the first to be ready.
    epochs : sequence of int, optional
        The only ones that will be asked for, besides the last; default all.

    Attributes
    ----------
    provenance : dict
        As `explorer.engine.provenance.provenance_of` returns it, but ``device`` names all that
        are used, and ``workers`` is the number of worker processes at the start.
    total, chance_error
        As those of the evaluator.

    Raises
    ------
    ClusterError
        There is no worker, or one has other versions of a package.
    StackError, DataError, UsageError, UnknownNameError
        As from the evaluator.
    """

    def __init__(
        self,
        client: Any,
        stack: xr.DataTree,
        *,
        model: nn.Module | None = None,
        data: Any = None,
        calibration: Any = None,
        device: str = "auto",
        epochs: Sequence[int] | None = None,
        **settings: Any,
    ) -> None:
        named = data is None or isinstance(data, str)
        own = {
            "model": unwrapped(model),
            "data": data if named else examples_for(stack, data),
            "calibration": calibration,
        }
        # known here once, so that no worker has to read all files to learn it
        known = stack.copy()
        known.attrs = {**stack.attrs, "content_hash": content_hash(stack)}
        self._layers = layer_names(stack)
        self._sender = Sender(client, {**own, "stack": known}, epochs)
        self._settle(token=_token(known, own))
        label = self._share_devices() if device == "auto" else ""
        self._settle(settings={**settings, "device": device})
        [(_, described)] = self._sender.finished(on_worker.describe, [()])
        if isinstance(described, BaseException):
            raise _unfinished("The evaluator could not be opened", described)
        self.total, self.chance_error = described.total, described.chance_error
        self.provenance = described.provenance | ({"device": label} if label else {})
        self.provenance["workers"] = self._sender.workers
        # the last bit of a loss may depend on it
        same = {"batch_size": self.provenance["batch_size"]}
        self._settle(settings={**settings, "device": device, **same})

    def _share_devices(self) -> str:
        """Share out the CUDA devices; return the names of those in use, empty without any."""
        found = dict(self._sender.on_every_worker(on_worker.visible_devices))
        chosen = assign_devices({w: [identity for identity, _ in c] for w, c in found.items()})
        self._settle(devices={worker: f"cuda:{number}" for worker, number in chosen.items()})
        names = {c[chosen[w]][1] if w in chosen else "CPU" for w, c in found.items()}
        return " and ".join(sorted(names)) if chosen else ""

    def _settle(self, **fields: Any) -> None:
        """Fix something of the work, for all tasks from now on."""
        self._sender.work = replace(self._sender.work, **fields)

    def measure(
        self,
        interventions: Iterable[Intervention],
        *,
        tolerance: float = 0.0,
        journal: Journal | None = None,
        patience: float | None = None,
    ) -> Generator[Mapping[Intervention, Outcome], None, None]:
        """Stream the outcomes of many interventions, group by group as workers finish them.

        To stop, close the iterator: tasks that have not begun are cancelled, the others end after
        the slice of test examples that they are at. A group whose worker dies, or that fails, is
        measured again, in the end intervention by intervention; the outcome of one that fails
        again is the reason.

        Parameters
        ----------
        interventions, tolerance, journal
            As for `explorer.engine.measuring.measure`; the journal is written here, on the client.
        patience : float, optional
            Seconds after which an empty mapping is yielded when no group was finished meanwhile,
            so that a caller with somebody to listen to may stop.

        Yields
        ------
        mapping
            Intervention → final outcome.

        Raises
        ------
        ExplorerError
            Where measuring without a cluster would raise it.
        """
        wanted = []
        for intervention in interventions:
            known = None if journal is None else journal.get(intervention)
            if known is None:
                wanted.append(intervention)
            else:
                yield {intervention: known}
        groups = share_out(wanted, self._layers, self._sender.workers)
        stream = self._sender.finished(on_worker.count, groups, tolerance, patience=patience)
        with contextlib.closing(stream):
            for group, result in stream:
                if not group:
                    yield {}
                    continue
                lost = isinstance(result, ClusterError)  # what is found so far is worth keeping
                if isinstance(result, ExplorerError) and not lost:
                    raise result
                if isinstance(result, BaseException):
                    yield dict.fromkeys(group, _reason(result))
                    continue
                if journal is not None:
                    journal.add({i: o for i, o in result.items() if not isinstance(o, str)})
                yield result


def for_each_layer(
    client: Any,
    stack: xr.DataTree,
    function: Callable[..., Any],
    *,
    model: nn.Module | None = None,
    **arguments: Any,
) -> list[Any]:
    """Call ``function(layer's part of the stack, model=…, …)`` for each layer, on the workers.

    Parameters
    ----------
    client : distributed.Client
        Of a running cluster.
    stack, model
        They travel as those of a `RemoteEvaluator`.
    function : callable
        Of a module that the workers can import; what it returns is sent back.
    **arguments
        Passed on.

    Returns
    -------
    list
        What it returned, in the order of the layers.

    Raises
    ------
    ExplorerError
        As from the function; a ClusterError where it failed otherwise.
    """
    sender = Sender(client, {"stack": stack, "model": unwrapped(model)})
    pieces = [(layer,) for layer in layer_names(stack)]
    found = {}
    with contextlib.closing(
        sender.finished(on_worker.on_layer, pieces, function, arguments)
    ) as stream:
        for (layer,), result in stream:
            if isinstance(result, BaseException):
                raise _unfinished(f"{layer} could not be measured", result)
            found[layer] = result
    return [found[layer] for layer in layer_names(stack)]


def _token(stack: xr.DataTree, own: Mapping[str, Any]) -> str:
    """Name of a stack with a reader's own network and examples; another content, another name."""
    names = json.dumps([content_hash(stack), layers_hash(stack), epoch_numbers(stack)])
    return hashlib.sha256(names.encode() + packed(own)).hexdigest()


def _reason(error: BaseException) -> str:
    """Why a cell has no number, in one line."""
    if isinstance(error, ExplorerError):
        return str(error)
    first = (str(error).splitlines() or [""])[0]
    return f"failed on the cluster: {type(error).__name__}: {first}"


def _unfinished(what: str, error: BaseException) -> ExplorerError:
    """The error to raise where one task stands for all."""
    if isinstance(error, ExplorerError):
        return error
    return ClusterError(
        f"{what}: {_reason(error)}",
        "What runs without a cluster runs on one whose workers have the same packages and data.",
        "Try it without client=; the worker's log says more.",
    )
