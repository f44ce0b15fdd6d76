"""Checkpoints of the model hub: which revisions there are, what they weigh, and their files.

Everything is asked of the hub through its own client, `huggingface_hub` (extra ``[hub]``);
nothing is guessed. Files lie in a folder of our own with a disk budget. What the hub's client has
in its own cache is used from there, and never removed.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import re
import threading
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from tqdm.auto import tqdm

from explorer.errors import CheckpointError, StackError, UsageError
from explorer.inventory.hub_client import (
    BUDGET_VARIABLE,
    FOLDER_VARIABLE,
    OTHERS_STAY,
    explained,
    load_client,
)
from explorer.inventory.store import cache_folder, placed

BUDGET_GB = 20.0
"""Where nothing else is said. One checkpoint of a model of 7 billion weights has about 14 GB."""


@dataclass(frozen=True)
class Revision:
    """One checkpoint: a commit of a repository."""

    repository: str
    """Owner and name, such as ``"EleutherAI/pythia-14m"``."""
    name: str
    """Branch or tag, such as ``"step3000"``."""
    commit: str
    """What the name stands for, 40 hexadecimal digits."""

    def __str__(self) -> str:
        return f"{self.repository}@{self.name}"


@dataclass(frozen=True)
class HubFile:
    """A file as the hub describes it."""

    path: str
    """Path in the repository."""
    bytes: int
    """Its size."""
    digest: str
    """sha256 of a large file (64 hexadecimal digits), git's sha1 of a small one (40)."""


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
        self.budget = _budget_bytes(budget)
        self.offline = bool(self._client.is_offline_mode()) if offline is None else offline
        named = folder or os.environ.get(FOLDER_VARIABLE)
        self.folder = Path(named).expanduser() if named else cache_folder() / "hub"
        self._api = self._client.HfApi(endpoint=endpoint)
        self._bar = None if progress else _NoBar
        self._used: float | None = None  # bytes in the folder, once they are counted
        self._lock = threading.RLock()  # a reader and a background thread may want the same file

    def __reduce__(self) -> tuple[Any, ...]:
        """Copy, and travel to other processes, without the lock."""
        return _hub, self._options

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
            return self._remade(Revision, repository, "revisions")
        with explained(repository, StackError):
            refs = self._api.list_repo_refs(repository)
            names = {ref.name: ref.target_commit for ref in (*refs.tags, *refs.branches)}
            found = [checked(Revision(repository, name, commit)) for name, commit in names.items()]
        self._note(repository, "revisions", [asdict(one) for one in found])
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
            return self._remade(Revision, *note)
        with explained(f"{owner}/{beginning}*", StackError):
            models = self._api.list_models(author=owner, search=beginning, expand=["sha"])
            found = [
                checked(Revision(model.id, "main", model.sha or self._api.model_info(model.id).sha))
                for model in models
                if model.id.startswith(f"{owner}/{beginning}")
            ]
        self._note(*note, [asdict(one) for one in found])
        return found

    def files(self, revision: Revision) -> dict[str, HubFile]:
        """Files in the main folder of a revision, by name.

        Raises
        ------
        CheckpointError
            The hub has no such revision or cannot be reached; offline: it was not listed before.
        """
        with contextlib.suppress(CheckpointError):  # a commit never changes
            return {one.path: one for one in self._remade(HubFile, *_tree_note(revision))}
        if self.offline:
            raise _not_here(revision, "its list of files")
        with explained(str(revision)):
            tree = list(self._api.list_repo_tree(revision.repository, revision=revision.commit))
            files = [
                checked(HubFile(one.path, one.size, one.lfs.sha256 if one.lfs else one.blob_id))
                for one in tree
                if hasattr(one, "blob_id")  # a folder has none
            ]
        found = {one.path: one for one in files}
        self._note(*_tree_note(revision), [asdict(one) for one in found.values()])
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
            return _checked_header(self._noted(revision.repository, key), revision.repository)
        if self.offline:
            raise _not_here(revision, f"the header of {path}")
        with explained(f"{path} of {revision}"):
            described = self._api.parse_safetensors_file_metadata(
                revision.repository, path, revision=revision.commit
            )
            listed = [(name, one.dtype, one.shape) for name, one in described.tensors.items()]
        found = _checked_header(listed, f"{path} of {revision}")
        self._note(revision.repository, key, [(n, d, s) for n, (d, s) in found.items()])
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
                self._make_room(revision, known)
                found = self._download(revision, path)
            self._check(found, known, revision)
            self._mark_used(revision)
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

    def _mark_used(self, revision: Revision) -> None:
        snapshot = self._repository_folder(revision.repository) / "snapshots" / revision.commit
        if snapshot.is_dir():
            os.utime(snapshot)

    def _make_room(self, revision: Revision, file: HubFile) -> None:
        """Remove the least recently used revisions until a file fits into the budget."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if self._used is not None and self._used + file.bytes <= self.budget:
            self._used += file.bytes  # looking at every file again would take longer each time
            return
        cached = self._client.scan_cache_dir(self.folder)
        others = [
            (one.snapshot_path.stat().st_mtime, one.commit_hash)
            for repository in cached.repos
            for one in repository.revisions
            if one.commit_hash != revision.commit
        ]
        used = cached.size_on_disk
        for _, commit in sorted(others):
            if used + file.bytes <= self.budget:
                break
            strategy = cached.delete_revisions(commit)
            strategy.execute()
            used -= strategy.expected_freed_size
            cached = self._client.scan_cache_dir(self.folder)
        if used + file.bytes > self.budget:
            raise CheckpointError(
                f"{revision} needs {sizes(used + file.bytes)} on the disk.",
                f"The budget for checkpoints of the hub is {sizes(self.budget)}.",
                f"Allow more with {BUDGET_VARIABLE}, or hub=Hub(budget=…). {OTHERS_STAY}",
            )
        self._used = used + file.bytes

    # What was learnt is kept, so that it is there offline

    def _repository_folder(self, repository: str) -> Path:
        names = self._client.file_download
        return self.folder / str(names.repo_folder_name(repo_id=repository, repo_type="model"))

    def _note_file(self, repository: str, what: str) -> Path:
        name = hashlib.sha256(f"{repository}\n{what}".encode()).hexdigest()
        return self.folder / ".explorer" / f"{name}.json"

    def _note(self, repository: str, what: str, content: Any) -> None:
        with placed(self._note_file(repository, what)) as temporary:
            temporary.write_text(json.dumps(content), encoding="utf-8")

    def _noted(self, repository: str, what: str) -> Any:
        try:
            return json.loads(self._note_file(repository, what).read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise CheckpointError(
                f"What the hub says of {repository} is not known here, and this is offline.",
                f"Offline, what was asked before is used; it lies in {self.folder}.",
                "Open it once with a connection (without HF_HUB_OFFLINE=1 or offline=True).",
            ) from error

    def _remade(self, kind: type[Noted], repository: str, what: str) -> list[Noted]:
        """Values as they were noted."""
        noted = self._noted(repository, what)
        try:
            return [checked(kind(**one)) for one in noted]
        except (TypeError, ValueError) as error:
            raise _unfit(f"What was noted of {repository}", error) from error


Noted = TypeVar("Noted", Revision, HubFile)

_COMMIT = re.compile(r"[0-9a-f]{40}")


def checked(one: Noted) -> Noted:
    """Refuse values of other types than declared, and a commit that is none but part of a path."""
    for field in fields(one):
        value = getattr(one, field.name)
        if type(value).__name__ != field.type:
            raise ValueError(f"its {field.name} is a {type(value).__name__}")
        if field.name == "commit" and not _COMMIT.fullmatch(value):
            raise ValueError(f"its commit is {value[:80]!r}, and no 40 hexadecimal digits")
    return one


def _checked_header(listed: Any, what: str) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Name → dtype and shape, of what is known to be that."""
    try:
        found = {name: (dtype, tuple(shape)) for name, dtype, shape in listed}
    except (TypeError, ValueError) as error:
        raise _unfit(what, error) from error
    for name, (dtype, shape) in found.items():
        if type(name) is not str or type(dtype) is not str:
            raise _unfit(what, ValueError(f"a tensor is named {name!r}, its dtype {dtype!r}"))
        if not all(type(n) is int and n >= 0 for n in shape):
            raise _unfit(what, ValueError(f"{name!r} has the shape {list(shape)[:5]}"))
    return found


def _unfit(what: str, error: Exception) -> CheckpointError:
    return CheckpointError(
        f"{what} has another form than expected: {error}.",
        "What the hub and this cache write is understood.",
        f"Open it again with a connection. {OTHERS_STAY}",
    )


def sizes(number: float) -> str:
    """Bytes in words: 57.3 MB."""
    for unit in ("bytes", "kB", "MB"):
        if number < 1000:
            return f"{number:.0f} bytes" if unit == "bytes" else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:.1f} GB"


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


def _budget_bytes(budget: float | None) -> float:
    text = os.environ.get(BUDGET_VARIABLE, BUDGET_GB) if budget is None else budget
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not number > 0:
        raise UsageError(
            f"The disk budget for checkpoints of the hub is {text!r}.",
            "A positive number of gigabytes is needed.",
            f"Set {BUDGET_VARIABLE}=50, for example, or leave it out for {BUDGET_GB:g}.",
        )
    return number * 1e9


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
