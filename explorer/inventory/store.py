"""Local files that can be trusted: where they are, that they are whole, how they are written.

The only module that may use the network; so far every stack is bundled and nothing is fetched.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import re
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath

from explorer.errors import CheckpointError, ManifestError

CATALOG_FOLDER = Path(__file__).parent
BUNDLED_FOLDER = CATALOG_FOLDER / "bundled"
STACK_FILE = "stack.json"
"""Name of the manifest of one stack, kept beside its checkpoints."""


@dataclass(frozen=True)
class FileRecord:
    """A file that a manifest vouches for."""

    folder: Path
    """Folder of the stack."""
    file: str
    """Path below the folder, parts joined by '/'."""
    bytes: int
    """Expected size."""
    sha256: str
    """Expected hash, 64 hexadecimal digits."""

    @property
    def path(self) -> Path:
        """Where the file lies."""
        return self.folder / self.file


def manifest_path() -> Path:
    """Path of the catalog's manifest: inside an installed package, else top of the checkout."""
    packaged = CATALOG_FOLDER / "pretrained_manifest.json"
    return packaged if packaged.exists() else CATALOG_FOLDER.parents[1] / packaged.name


def checkpoint_file(epoch: int) -> str:
    """Name of the file that holds one epoch; zero-padded so that names sort by epoch."""
    return f"epoch-{epoch:04d}.safetensors"


def is_checkpoint_file(name: str) -> bool:
    """Tell whether a file is named as `checkpoint_file` names them."""
    return re.fullmatch(r"epoch-\d{4,}\.safetensors", name) is not None


def check_relative(path: str, where: str) -> None:
    """Refuse a path that is absolute or could leave its folder, on any operating system."""
    posix, windows = PurePosixPath(path), PureWindowsPath(path)
    if posix.is_absolute() or windows.drive or windows.root or ".." in windows.parts:
        raise ManifestError(
            f"{where} is {path!r}, which leaves the stack's folder.",
            "Relative paths below the folder are accepted, for example 'epoch-0000.safetensors'.",
            "Correct the manifest; if it came from somebody else, do not trust its files.",
        )


def verified(record: FileRecord) -> Path:
    """Path of a file whose size and hash are as its manifest says.

    Parameters
    ----------
    record : FileRecord

    Returns
    -------
    Path

    Raises
    ------
    CheckpointError
        The file is missing, or its size or sha256 differs.
    """
    try:
        status = record.path.stat()
    except OSError as error:
        raise CheckpointError(
            f"{record.path} cannot be read: {error.strerror}.",
            f"A file of {record.bytes} bytes with sha256 {record.sha256} is expected there.",
            "Put the file back (a bundled one: reinstall, or `git restore` in a checkout).",
        ) from error
    if status.st_size != record.bytes:
        raise CheckpointError(
            f"{record.path} has {status.st_size} bytes.",
            f"{record.bytes} bytes with sha256 {record.sha256} are expected.",
            "Put the original file back; other epochs of the stack stay usable.",
        )
    found = _sha256(record.path, status.st_size, status.st_mtime_ns)
    if found != record.sha256:
        raise CheckpointError(
            f"{record.path} has been altered: sha256 {found}.",
            f"Expected sha256 {record.sha256}.",
            "Put the original file back; other epochs of the stack stay usable.",
        )
    return record.path


def record_of(folder: Path, file: str) -> FileRecord:
    """Describe a file that lies in a folder."""
    status = (folder / file).stat()
    hashed = _sha256(folder / file, status.st_size, status.st_mtime_ns)
    return FileRecord(folder, file, status.st_size, hashed)


@functools.lru_cache(maxsize=4096)
def _sha256(path: Path, size: int, mtime_ns: int) -> str:
    """Hash of a file; size and time of change only make the remembered value expire."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextlib.contextmanager
def placed(target: Path) -> Iterator[Path]:
    """Write a file as a whole or not at all.

    Yields a temporary path beside the target; on success it is flushed to the disk and renamed
    over the target, on failure it is removed and an older target stays as it was.

    Raises
    ------
    CheckpointError
        The folder cannot be written to, or the disk is full.
    """
    temporary = target.with_name(f".{target.name}.{os.getpid()}-{secrets.token_hex(4)}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch(exist_ok=False)
        yield temporary
        with temporary.open("rb+") as stream:
            os.fsync(stream.fileno())
        temporary.replace(target)
    except OSError as error:
        raise CheckpointError(
            f"{target} could not be written: {error.strerror or error}.",
            "A folder that you may write to, on a disk with room, is needed.",
            "Choose another folder, or correct its permissions.",
        ) from error
    finally:
        with contextlib.suppress(OSError):  # the folder itself may be what cannot be used
            temporary.unlink(missing_ok=True)
