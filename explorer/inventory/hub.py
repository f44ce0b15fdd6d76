"""Checkpoints of the model hub: which revisions there are, what they weigh, and their files.

Everything is asked of the hub through its own client, `huggingface_hub` (extra ``[hub]``);
nothing is guessed. Files lie in a folder of our own with a disk budget. What the hub's client has
in its own cache is used from there, and never removed.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import threading
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from explorer.errors import CheckpointError, StackError
from explorer.inventory.hub_client import FOLDER_VARIABLE, OTHERS_STAY, explained, load_client
from explorer.inventory.hub_folder import (
    HubFile,
    HubFolder,
    Noted,
    Revision,
    budget_bytes,
    checked,
    checked_header,
)
from explorer.inventory.locks import locked
from explorer.inventory.store import cache_folder


class Hub:
    """The hub, and the folder in which its files are kept.

    Parameters
    ----------
    budget : float, optional
        Gigabytes (10⁹ bytes) that downloaded checkpoints may take; default what the environment
        variable EXPLORER_HUB_CACHE_GB says, else 20. The least recently used revisions make room
        for new ones.
    offline : bool, optional
        Use only what is there already; default as HF_HUB_OFFLINE says.
    folder : str or Path, optional
        Where the files lie; default what EXPLORER_HUB_CACHE says, else in the user's caches.
    endpoint : str, optional
        Address of the hub; default its public one, or what HF_ENDPOINT says.
    progress : bool
        Show a progress bar while something is downloaded.

    Raises
    ------
    UsageError
        The client is not installed, or the budget is no positive number.
    """

    def __init__(
        self,
        *,
        budget: float | None = None,
        offline: bool | None = None,
        folder: str | Path | None = None,
        endpoint: str | None = None,
        progress: bool = True,
    ) -> None:
        self._options = (budget, offline, folder, endpoint, progress)
        self._client = load_client()
        self.budget = budget_bytes(budget)
        self.offline = bool(self._client.is_offline_mode()) if offline is None else offline
        named = folder or os.environ.get(FOLDER_VARIABLE)
        self.folder = Path(named).expanduser() if named else cache_folder() / "hub"
        self._kept = HubFolder(self.folder, self.budget, self._client)
        self._api = self._client.HfApi(endpoint=endpoint)
        self._bar = None if progress else _NoBar
        self._lock = threading.RLock()  # a reader and a background thread may want the same file

    def __reduce__(self) -> tuple[Any, ...]:
        """Copy, and travel to other processes, without the lock."""
        return _hub, self._options

    def without_connection(self) -> Hub:
        """The same folder, and nothing that is not in it."""
        budget, _, folder, endpoint, progress = self._options
        return _hub(budget, True, folder, endpoint, progress)

    # What there is

    def revisions(self, repository: str) -> list[Revision]:
        """Branches and tags of a repository, as the hub lists them.

        Raises
        ------
        StackError
            There is no such repository, or it may not be read.
        CheckpointError
            The hub cannot be reached; offline: it was never listed here.
        """
        if self.offline:
            return self._kept.remade(Revision, repository, "revisions")
        with explained(repository, StackError):
            refs = self._api.list_repo_refs(repository)
            names = {ref.name: ref.target_commit for ref in (*refs.tags, *refs.branches)}
        found = [_trusted(Revision(repository, *one), repository) for one in names.items()]
        self._kept.note(repository, "revisions", [asdict(one) for one in found])
        return found

    def repositories(self, owner: str, beginning: str) -> list[Revision]:
        """Newest commits of an owner's models whose names begin in a certain way.

        Raises
        ------
        CheckpointError
            The hub cannot be reached; offline: they were never listed here.
        """
        note = (f"{owner}/{beginning}".rstrip("-_"), "repositories")
        if self.offline:
            return self._kept.remade(Revision, *note)
        with explained(f"{owner}/{beginning}*", StackError):
            models = self._api.list_models(author=owner, search=beginning, expand=["sha"])
            named = [
                Revision(model.id, "main", model.sha or self._api.model_info(model.id).sha)
                for model in models
                if model.id.startswith(f"{owner}/{beginning}")
            ]
        found = [_trusted(one, one.repository) for one in named]
        self._kept.note(*note, [asdict(one) for one in found])
        return found

    def files(self, revision: Revision) -> dict[str, HubFile]:
        """Files in the main folder of a revision, by name.

        Raises
        ------
        CheckpointError
            The hub has no such revision or cannot be reached; offline: it was not listed before.
        """
        with contextlib.suppress(CheckpointError):  # a commit never changes
            return {one.path: one for one in self._kept.remade(HubFile, *_tree_note(revision))}
        if self.offline:
            raise _not_here(revision, "its list of files")
        with explained(str(revision)):
            tree = list(self._api.list_repo_tree(revision.repository, revision=revision.commit))
            files = [
                HubFile(one.path, one.size, one.lfs.sha256 if one.lfs else one.blob_id)
                for one in tree
                if hasattr(one, "blob_id")  # a folder has none
            ]
        found = {one.path: _trusted(one, revision) for one in files}
        self._kept.note(*_tree_note(revision), [asdict(one) for one in found.values()])
        return found

    def header(self, revision: Revision, path: str) -> dict[str, tuple[str, tuple[int, ...]]]:
        """Names, dtypes and shapes of a safetensors file; without downloading it where possible.

        Raises
        ------
        CheckpointError
            The file is not there, or has no readable header.
        """
        key = f"header-{revision.commit}-{path}"
        with contextlib.suppress(CheckpointError):
            return checked_header(
                self._kept.noted(revision.repository, key), f"What was noted of {revision}"
            )
        if self.offline:
            raise _not_here(revision, f"the header of {path}")
        with explained(f"{path} of {revision}"):
            described = self._api.parse_safetensors_file_metadata(
                revision.repository, path, revision=revision.commit
            )
            listed = [(name, one.dtype, one.shape) for name, one in described.tensors.items()]
        found = checked_header(listed, f"{path} of {revision}")
        self._kept.note(revision.repository, key, [(n, d, s) for n, (d, s) in found.items()])
        return found

    # Files

    def fetch(self, revision: Revision, path: str) -> Path:
        """Path of a file on this machine, downloaded if need be and checked by the hub's own hash.

        A cut connection is taken up again where it broke. The revision counts as used.

        Raises
        ------
        CheckpointError
            It cannot be downloaded, is altered, or does not fit on the disk or in the budget;
            offline: it is not here.
        """
        with self._lock:
            known = self.files(revision).get(path)
            if known is None:
                raise CheckpointError(
                    f"{revision} has no file {path}.",
                    f"It has {', '.join(sorted(self.files(revision))) or 'no files'}.",
                    OTHERS_STAY,
                )
            found = self._present(revision, path)
            if found is None:
                if self.offline:
                    raise _not_here(revision, path)
                with locked(self.folder / ".explorer" / "room.lock"):
                    self._kept.make_room(revision, known)
                found = self._download(revision, path)
            self._check(found, known, revision)
            self._kept.mark_used(revision)
            return found

    def is_here(self, revision: Revision, path: str) -> bool:
        """Whether a file needs no download."""
        return self._present(revision, path) is not None

    def _present(self, revision: Revision, path: str) -> Path | None:
        """Where a file lies: in our folder, or in the cache of the hub's client."""
        for folder in (str(self.folder), None):
            found = self._client.try_to_load_from_cache(
                revision.repository, path, cache_dir=folder, revision=revision.commit
            )
            if isinstance(found, str):
                return Path(found)
        return None

    def _download(self, revision: Revision, path: str) -> Path:
        with explained(f"{path} of {revision}"):
            found = self._api.hf_hub_download(
                revision.repository,
                path,
                revision=revision.commit,
                cache_dir=str(self.folder),
                tqdm_class=self._bar,
            )
        return Path(found)

    def _check(self, path: Path, known: HubFile, revision: Revision) -> None:
        """Refuse a file that is not the one the hub has; one in our folder is removed."""
        blob, status = path.resolve(), path.stat()
        found = _digest(blob, len(known.digest), status.st_size, status.st_mtime_ns)
        if found == known.digest:
            return
        ours = self.folder.resolve() in blob.parents
        if ours:
            path.unlink()
            blob.unlink(missing_ok=True)
        raise CheckpointError(
            f"{known.path} of {revision} is not what the hub says it is: hash {found}.",
            f"The hub's own hash is {known.digest}, of {known.bytes} bytes.",
            f"{'The copy has been removed' if ours else f'Remove {path}'}; read it again to "
            f"download it anew. {OTHERS_STAY}",
        )


def _hub(
    budget: float | None,
    offline: bool | None,
    folder: str | Path | None,
    endpoint: str | None,
    progress: bool,
) -> Hub:
    return Hub(budget=budget, offline=offline, folder=folder, endpoint=endpoint, progress=progress)


class _NoBar(tqdm):  # type: ignore[misc]  # tqdm has no types
    """A progress bar that is not shown."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{**kwargs, "disable": True, "name": None})


def _trusted(one: Noted, where: object) -> Noted:
    """What the hub says, if its names stay in the cache and its hashes are some."""
    try:
        return checked(one)
    except ValueError as error:
        raise CheckpointError(
            f"The hub names {error} (asked for {where}).",
            "Names that stay in the cache, and hashes, are accepted from a hub.",
            "Do not trust this hub; check HF_ENDPOINT.",
        ) from error


def _tree_note(revision: Revision) -> tuple[str, str]:
    return revision.repository, f"files-{revision.commit}"


def _not_here(revision: Revision, what: str) -> CheckpointError:
    return CheckpointError(
        f"{what} of {revision} is not on this machine, and this is offline.",
        "Offline, only what was downloaded before can be read.",
        f"Read it once with a connection. {OTHERS_STAY}",
    )


@functools.lru_cache(maxsize=4096)
def _digest(path: Path, length: int, size: int, mtime_ns: int) -> str:
    """Hash of a file as the hub gives it; size and time of change make it expire."""
    with path.open("rb") as stream:
        if length == 64:
            return hashlib.file_digest(stream, "sha256").hexdigest()
        git = hashlib.sha1(f"blob {size}\0".encode(), usedforsecurity=False)
        git.update(stream.read())
        return git.hexdigest()
