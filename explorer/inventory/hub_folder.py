"""The folder of what the hub's client has downloaded: its budget, and what is known offline."""

from __future__ import annotations

import hashlib
import json
import os
import re
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

from explorer.errors import CheckpointError, UsageError
from explorer.inventory.hub_client import BUDGET_VARIABLE, OTHERS_STAY
from explorer.inventory.names import unsafe
from explorer.inventory.placing import placed

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


Noted = TypeVar("Noted", Revision, HubFile)

_HASHES = {"commit": "[0-9a-f]{40}", "digest": "[0-9a-f]{40}|[0-9a-f]{64}"}
"""Fields that become parts of paths, or are compared with files, and what they have to be."""


def checked(one: Noted) -> Noted:
    """Refuse what is not as declared: other types, no hash, a path that leads elsewhere.

    Raises
    ------
    ValueError
        It is so; the message goes on after "names".
    """
    for field in fields(one):
        value = getattr(one, field.name)
        reason = "" if type(value).__name__ == field.type else f"is a {type(value).__name__}"
        if not reason and field.name == "path":
            reason = unsafe(value)
        if not reason and not re.fullmatch(_HASHES.get(field.name, "(?s:.*)"), str(value)):
            reason = "is no hash"
        if reason:
            what = "file" if field.name == "path" else field.name
            raise ValueError(f"the {what} {str(value)[:80]!r}, which {reason}")
    return one


def checked_header(listed: Any, what: str) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Name → dtype and shape, of what is known to be that.

    Raises
    ------
    CheckpointError
        It is something else.
    """
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


class HubFolder:
    """What is kept of the hub on this machine.

    Parameters
    ----------
    folder : Path
        Where it lies.
    budget : float
        Bytes that downloaded checkpoints may take.
    client : module
        The hub's client, which knows the form of the folder.
    """

    def __init__(self, folder: Path, budget: float, client: Any) -> None:
        self.folder, self.budget, self._client = folder, budget, client
        self._used: float | None = None  # bytes in the folder, once they are counted

    def mark_used(self, revision: Revision) -> None:
        """Have a revision be removed later than those that were used before."""
        snapshot = self._repository_folder(revision.repository) / "snapshots" / revision.commit
        if snapshot.is_dir():
            os.utime(snapshot)

    def make_room(self, revision: Revision, file: HubFile) -> None:
        """Remove the least recently used revisions until a file fits into the budget.

        Raises
        ------
        CheckpointError
            The revision alone does not fit.
        """
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

    def _repository_folder(self, repository: str) -> Path:
        names = self._client.file_download
        return self.folder / str(names.repo_folder_name(repo_id=repository, repo_type="model"))

    def _note_file(self, repository: str, what: str) -> Path:
        name = hashlib.sha256(f"{repository}\n{what}".encode()).hexdigest()
        return self.folder / ".explorer" / f"{name}.json"

    def note(self, repository: str, what: str, content: Any) -> None:
        """Keep what the hub said, so that it is known offline."""
        with placed(self._note_file(repository, what)) as temporary:
            temporary.write_text(json.dumps(content), encoding="utf-8")

    def noted(self, repository: str, what: str) -> Any:
        """What the hub said before.

        Raises
        ------
        CheckpointError
            It was never asked.
        """
        try:
            return json.loads(self._note_file(repository, what).read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise CheckpointError(
                f"What the hub says of {repository} is not known here, and this is offline.",
                f"Offline, what was asked before is used; it lies in {self.folder}.",
                "Open it once with a connection (without HF_HUB_OFFLINE=1 or offline=True).",
            ) from error

    def remade(self, kind: type[Noted], repository: str, what: str) -> list[Noted]:
        """Values as they were noted.

        Raises
        ------
        CheckpointError
            They were never asked for, or are no such values.
        """
        noted = self.noted(repository, what)
        try:
            return [checked(kind(**one)) for one in noted]
        except (TypeError, ValueError) as error:
            raise _unfit(f"What was noted of {repository}", error) from error


def sizes(number: float) -> str:
    """Bytes in words: 57.3 MB."""
    for unit in ("bytes", "kB", "MB"):
        if number < 1000:
            return f"{number:.0f} bytes" if unit == "bytes" else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:.1f} GB"


def budget_bytes(budget: float | None) -> float:
    """Bytes that downloaded checkpoints may take, from gigabytes or the environment.

    Raises
    ------
    UsageError
        It is no positive number.
    """
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
