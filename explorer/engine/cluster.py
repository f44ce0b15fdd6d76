"""Tasks for the workers of a Dask cluster. The only module that knows Dask."""

from __future__ import annotations

import contextlib
import io
import platform
import time
import uuid
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from explorer.engine import on_worker
from explorer.errors import CheckpointError, ClusterError, ExplorerError, UsageError
from explorer.weights.stack import epoch_numbers

try:
    import cloudpickle
    from distributed import Client, Future, as_completed
except ModuleNotFoundError as error:
    raise UsageError(
        f"The package {error.name} is not installed.",
        "Work on a cluster needs dask and distributed.",
        "Install them: pip install 'layer-explorer[cluster]'.",
    ) from error

WAIT = 30.0
"""Seconds to wait for the scheduler, for the first worker, and for an answer of each of them."""

LOOK = 0.01
"""Seconds between two looks for a finished task, where the caller has no more than patience."""

ATTEMPTS = 3
"""How often a task is sent again because the cluster lost what it needed."""

PACKAGES = ("layer-explorer", "torch", "numpy", "xarray")
"""Packages of which every worker needs the client's version: numbers and pickles depend on them."""

Piece = tuple[Any, ...]
"""What one task does: interventions, or the name of a layer."""


def connect(address: str) -> Client:
    """Client of a running cluster, to be used as a context manager.

    Parameters
    ----------
    address : str
        Of the scheduler, for example ``"tcp://10.0.0.1:8786"``.

    Raises
    ------
    ClusterError
        Nothing answers there.
    """
    try:
        return Client(address, timeout=WAIT, set_as_default=False)
    except (OSError, ValueError) as error:
        raise ClusterError(
            f"No Dask scheduler answers at {address!r}.",
            "The address that dask scheduler prints is needed, such as tcp://10.0.0.1:8786.",
            "Start one with: dask scheduler; and workers with: dask worker ADDRESS --nthreads 1.",
        ) from error


def asks_versions() -> Callable[[], dict[str, str]]:
    """A function that runs even where this package is missing: it is sent itself, not its name."""

    def versions() -> dict[str, str]:
        found = {"python": ".".join(platform.python_version_tuple()[:2])}
        for name in PACKAGES:
            with contextlib.suppress(PackageNotFoundError):
                found[name] = version(name)
        return found

    return versions


class Sender:
    """Sends a parcel to the workers, then tasks that need it, and sends again what is lost.

    Parameters
    ----------
    client : distributed.Client
        Of a running cluster; at least one worker has to come within half a minute.
    contents : mapping
        What the parcel holds: ``stack``, ``model``, and what else the tasks need.
    epochs : sequence of int, optional
        The only ones of the stack that will be asked for, besides the last; default all.

    Attributes
    ----------
    work : Work
        What the tasks have in common, to be completed before the first.
    workers : int
        Workers that were there at the start.

    Raises
    ------
    ClusterError
        There is no worker, or one has another version of a package.
    """

    def __init__(
        self, client: Client, contents: Mapping[str, Any], epochs: Sequence[int] | None = None
    ) -> None:
        self._client = client
        self._contents = dict(contents)
        self._epochs = epochs
        self.workers = _check_workers(client)
        self.work = on_worker.Work(on_worker.fingerprint(contents["stack"]))
        self._in_memory = self._gone = False
        self._parcel = self._scattered(packed(self._contents))

    def finished(
        self,
        function: Callable[..., Any],
        pieces: Iterable[Piece],
        *rest: Any,
        patience: float | None = None,
    ) -> Generator[tuple[Piece, Any], None, None]:
        """Yield each piece with what ``function(work, parcel, piece, *rest)`` returned or raised.

        A piece that fails as a whole comes back in its parts. What was not finished when the
        iterator is closed is cancelled. With patience, an empty piece is yielded whenever nothing
        has come for so many seconds, so that a caller may do something else, or close it.
        """
        run = uuid.uuid4().hex
        pending: dict[str, tuple[Future[Any], Piece, int]] = {}
        arriving = as_completed(loop=self._client.loop)

        def submit(piece: Piece, attempt: int = 1) -> None:
            work = replace(self.work, run=run)
            future = self._client.submit(function, work, self._parcel, piece, *rest, pure=False)
            pending[str(future.key)] = (future, piece, attempt)
            arriving.add(future)

        try:
            for piece in pieces:
                submit(piece)
            for future in _arrivals(arriving, patience):
                if future is None:
                    yield (), None
                    continue
                _, piece, attempt = pending.pop(str(future.key))
                result = _result(future)
                again = self._again(piece, result, attempt)
                for part in again:
                    submit(part, attempt + 1)
                if not again:
                    yield piece, _lost() if result is None else result
        finally:
            if pending:
                self._client.cancel([future for future, _, _ in pending.values()], force=True)
                with contextlib.suppress(ClusterError):  # who does not answer counts on in vain
                    _answers(self._client, on_worker.stop, run, on_error="ignore")

    def _again(self, piece: Piece, result: Any, attempt: int) -> list[Piece]:
        """What of a piece is to be tried again, given what came of it; nothing when it is done."""
        if isinstance(result, on_worker.NotReadableHereError):
            self._send_tensors()
            return [piece]
        if result is None:
            return [piece] if attempt < ATTEMPTS and self._sent_again() else []
        failed = isinstance(result, BaseException) and not isinstance(result, ExplorerError)
        return [(part,) for part in piece] if failed and len(piece) > 1 else []

    def on_every_worker(self, function: Callable[[], Any]) -> list[Any]:
        """What a function returns on each of the workers, beside their tasks."""
        return list(_answers(self._client, function).values())

    def _sent_again(self) -> bool:
        """Send the parcel anew if it is lost; tell whether there are workers that have it."""
        if self._parcel.status != "finished" and not self._gone:
            try:
                self._parcel = self._scattered(packed(self._contents))
            except ClusterError:
                self._gone = True
        return not self._gone

    def _send_tensors(self) -> None:
        """From now on send the tensors themselves: some worker does not find the files."""
        if self._in_memory:
            return
        stack = self._contents["stack"]
        numbers = epoch_numbers(stack)
        chosen = [*(numbers if self._epochs is None else self._epochs), numbers[-1]]
        places = sorted({numbers.index(epoch) for epoch in chosen})
        try:
            loaded = stack.isel(epoch=places).load()
        except CheckpointError as error:
            raise ClusterError(
                f"Not every worker finds the stack's files, and they cannot be sent: {error.came}",
                "A folder that every worker sees under the same path, or whole files, are needed.",
                "Leave the checkpoint out with epochs=, or move the stack to a shared folder.",
            ) from error
        self._contents["stack"] = loaded
        token = f"{self.work.token} of {places}"  # another content than that of the files
        self.work = replace(self.work, fingerprint=on_worker.fingerprint(loaded), token=token)
        self._parcel = self._scattered(packed(self._contents))
        self._in_memory = True

    def _scattered(self, parcel: bytes) -> Future[Any]:
        """Give the parcel to every worker; once more where one dies while it is given to it."""
        deadline = time.monotonic() + WAIT
        while True:
            try:
                sent: Future[Any] = self._client.scatter(
                    parcel, broadcast=True, hash=False, timeout=WAIT
                )
            except OSError as error:  # which a TimeoutError is: no worker has come
                if time.monotonic() >= deadline or self._client.status != "running":
                    raise _lost() from error
                time.sleep(LOOK)
            else:
                return sent


class _Pickler(cloudpickle.Pickler):  # type: ignore[misc]  # no types in the package
    """A pickler whose paths lead to the same files from another folder."""

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, Path):
            return Path, (str(obj.absolute()),)
        return super().reducer_override(obj)


def packed(contents: Mapping[str, Any]) -> bytes:
    """Pickle with the reader's own classes in it, and with paths that lead there from anywhere."""
    stream = io.BytesIO()
    _Pickler(stream).dump(dict(contents))
    return stream.getvalue()


def _arrivals(arriving: as_completed, patience: float | None) -> Iterator[Future[Any] | None]:
    """Yield what is finished; with patience, None whenever nothing was for so many seconds."""
    while not arriving.is_empty():
        waited = time.monotonic()
        while patience is not None and not arriving.has_ready():
            time.sleep(LOOK)
            if time.monotonic() - waited > patience:
                yield None
                waited = time.monotonic()
        yield next(arriving)


def _result(future: Future[Any]) -> Any:
    """What a task returned or raised; None where the cluster has lost what it needed."""
    if future.status == "cancelled":  # the parcel died with the workers that had it
        return None
    return future.exception() or future.result()


def _lost() -> ClusterError:
    return ClusterError(
        "The cluster has lost all its workers.",
        "At least one that stays is needed.",
        "Start workers again; with store= what was measured is not measured again.",
    )


def _answers(
    client: Client,
    function: Callable[..., Any],
    *arguments: Any,
    on_error: Literal["raise", "ignore"] = "raise",
) -> dict[str, Any]:
    """What a function returns on each worker, beside its tasks; who dies meanwhile is left out.

    Raises
    ------
    ClusterError
        One of them does not answer: its process is held, or its machine is gone.
    """
    try:
        found: dict[str, Any] = client.run(
            function, *arguments, on_error="return", callback_timeout=WAIT
        )
    except TimeoutError as error:
        raise ClusterError(
            f"Not every worker of the cluster at {client.scheduler_info()['address']} answers.",
            f"An answer from each within {WAIT:g} seconds is needed.",
            "End the worker that hangs (the dashboard shows which), or start the cluster anew.",
        ) from error
    failed = [answer for answer in found.values() if isinstance(answer, Exception)]
    for failure in failed:
        if on_error == "raise" and not isinstance(failure, OSError):  # a broken connection is one
            raise failure
    return {worker: answer for worker, answer in found.items() if answer not in failed}


def _check_client(client: Any) -> None:
    """Make sure that something can be sent with it."""
    if getattr(client, "asynchronous", False):
        raise ClusterError(
            "The client is asynchronous.",
            "A client that waits for its results is needed.",
            "Make it with Client(address), without asynchronous=True.",
        )
    if not isinstance(client, Client):
        raise UsageError(
            f"client is {client!r}.",
            "A distributed.Client is needed.",
            "Make one with Client(address), the address that dask scheduler prints.",
        )
    if client.status != "running":
        raise ClusterError(
            f"The client has no connection: it is {client.status}.",
            "A client that is connected to its scheduler is needed.",
            "Make a new one with Client(address).",
        )


def _check_workers(client: Client) -> int:
    """Number of workers, once there are any and all have the client's packages."""
    _check_client(client)
    try:
        client.wait_for_workers(1, timeout=WAIT)
    except TimeoutError as error:
        raise ClusterError(
            f"The cluster at {client.scheduler_info()['address']} has no workers.",
            "At least one is needed.",
            "Start one for each device: dask worker ADDRESS --nthreads 1 --nworkers N.",
        ) from error
    here = asks_versions()()
    there = _answers(client, asks_versions())
    if not there:  # all of them died meanwhile
        raise _lost()
    for worker, found in sorted(there.items()):
        different = [name for name in here if found.get(name) != here[name]]
        if different:
            name = different[0]
            raise ClusterError(
                f"The worker {worker} has {name} {found.get(name) or '(not installed)'}.",
                f"The client's version is needed: {here[name]}.",
                "Install the same versions on both sides, for example with constraints.txt.",
            )
    return len(there)
