"""Local files that can be trusted: where they are, and that they are whole.

With `hub_client`, the only module that may use the network. Data sets and weights are fetched only
when somebody asks for it; every stack of the catalog is bundled.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import http.client
import os
import re
import urllib.request
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

from explorer.errors import CheckpointError, DataError, ManifestError
from explorer.inventory.names import link_out_of, unsafe
from explorer.inventory.placing import placed

CATALOG_FOLDER = Path(__file__).parent
BUNDLED_FOLDER = CATALOG_FOLDER / "bundled"
STACK_FILE = "stack.json"
"""Name of the manifest of one stack, kept beside its checkpoints."""
DATA_VARIABLE = "EXPLORER_DATA"
"""Environment variable that names the folder of the data sets."""
CHUNK = 2**16
TIMEOUT = 30.0
"""Seconds without an answer after which a download is given up."""

_DIGITS = {"epoch": 4, "step": 6}
"""What a checkpoint's number counts → least digits of it in a file's name."""


VERIFIED, UNVERIFIED = "sha256", "unverified"
"""What is known of a stack's files: the hash of each, which is compared before use, or none."""


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


def checkpoint_file(number: int, unit: str = "epoch") -> str:
    """Name of the file of one epoch or ``"step"``; zero-padded so that names sort by number."""
    return f"{unit}-{number:0{_DIGITS[unit]}d}.safetensors"


def is_checkpoint_file(name: str) -> bool:
    """Tell whether a file is named as `checkpoint_file` names them."""
    return any(re.fullmatch(rf"{u}-\d{{{d},}}\.safetensors", name) for u, d in _DIGITS.items())


def check_relative(path: str, where: str) -> None:
    """Refuse a path that could leave the stack's folder, or be a device, on any system."""
    reason = unsafe(path)
    if reason:
        raise ManifestError(
            f"{where} is {path!r}, which {reason}.",
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
        The file is missing, is a link that leaves its folder, or its size or sha256 differs.
    """
    outside = link_out_of(record.folder, record.path)
    if outside is not None:
        raise CheckpointError(
            f"{record.path} is a link that leaves its folder, to {outside}.",
            "Files in the folder of their stack.json, and links among them, are accepted.",
            "Copy the file itself into the folder, if you know where it comes from.",
        )
    try:
        status = record.path.stat()
        if status.st_size != record.bytes:
            raise CheckpointError(
                f"{record.path} has {status.st_size} bytes.",
                f"{record.bytes} bytes with sha256 {record.sha256} are expected.",
                _again(record),
            )
        found = _sha256(record.path, status.st_size, status.st_mtime_ns)
    except CheckpointError:
        raise
    except OSError as error:  # it may also go between the two looks at it
        raise CheckpointError(
            f"{record.path} cannot be read: {error.strerror}.",
            f"A file of {record.bytes} bytes with sha256 {record.sha256} is expected there.",
            "Correct its permissions; other checkpoints of the stack stay usable."
            if isinstance(error, PermissionError)
            else _again(record),
        ) from error
    if found != record.sha256:
        raise CheckpointError(
            f"{record.path} has been altered: sha256 {found}.",
            f"Expected sha256 {record.sha256}.",
            _again(record),
        )
    return record.path


def _again(record: FileRecord) -> str:
    """How a file that is missing or altered is to be had again."""
    if record.folder.is_relative_to(BUNDLED_FOLDER):
        how = "Put the file back: `pip install --force-reinstall --no-deps layer-explorer`, or "
        how += f"`git restore {record.path}` in a checkout"
    else:
        how = f"Put the file back: copy {record.file} again from where the stack was made, or make "
        how += "it anew (`explorer train … --restart`, explorer.save_stack)"
    return f"{how}; other checkpoints of the stack stay usable."


def plainly_wrong(record: FileRecord) -> str:
    """Say what a look at the size of a file shows, without reading it; empty if nothing."""
    try:
        size = record.path.stat().st_size
    except OSError as error:
        return f"{record.path} cannot be read: {error.strerror}."
    return "" if size == record.bytes else f"{record.path} has {size} bytes, not {record.bytes}."


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


# --- data sets -------------------------------------------------------------------------------


def data_folder(folder: str | Path | None = None) -> Path:
    """Folder in which downloaded data sets lie, whether it exists or not.

    The one given, else the one in the environment variable EXPLORER_DATA, else
    ``layer-explorer/data`` in the user's folder for caches.
    """
    named = folder or os.environ.get(DATA_VARIABLE)
    if named:
        return Path(named).expanduser()
    return cache_folder() / "data"


def cache_folder() -> Path:
    """Our folder among the user's caches, whether it exists or not."""
    caches = os.environ.get("XDG_CACHE_HOME") or os.environ.get("LOCALAPPDATA")
    return (Path(caches) if caches else Path.home() / ".cache") / "layer-explorer"


def torch_weights_folder() -> Path:
    """Folder in which torchvision keeps the weights that it downloads; ours are the same files."""
    caches = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    home = os.environ.get("TORCH_HOME") or Path(caches) / "torch"
    return Path(home).expanduser() / "hub" / "checkpoints"


def fetch(
    addresses: Sequence[str],
    target: Path,
    digest: str,
    *,
    algorithm: str = "md5",
    progress: bool = True,
) -> Path:
    """Download a file whose hash is known, unless it is there already.

    The file is placed only when it has arrived as a whole and with the right hash; until then
    an older one stays as it was.

    Parameters
    ----------
    addresses : sequence of str
        Where it can be had; the next one is tried when one fails.
    target : Path
        Where it is to lie.
    digest : str
        Its hash, hexadecimal, or the first digits of it where no more is known.
    algorithm : str
        ``"md5"``, with which old data sets are listed, or ``"sha256"``.
    progress : bool
        Show a progress bar.

    Returns
    -------
    Path
        The target.

    Raises
    ------
    DataError
        No address gave the right file.
    CheckpointError
        The folder cannot be written to, or the disk is full.
    """
    if target.is_file() and _hash_of(target, algorithm).startswith(digest):
        return target
    reasons = []
    for address in addresses:
        try:
            with placed(target) as temporary:
                _receive(address, temporary, digest, algorithm, progress)
            return target
        except DataError as error:
            reasons.append(error.came)
    raise DataError(
        f"{target.name} could not be downloaded. {' '.join(reasons)}",
        f"The original file with {algorithm} {digest} is needed.",
        f"Try again later, or put the file into {target.parent} yourself.",
    )


def md5_of(path: Path) -> str:
    """The md5 of a file, hexadecimal; what data sets of that age are listed with."""
    return _hash_of(path, "md5")


def _hash_of(path: Path, algorithm: str) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: _new_hash(algorithm)).hexdigest()


def _new_hash(algorithm: str) -> Any:
    return hashlib.new(algorithm, usedforsecurity=False)


def _receive(address: str, file: Path, wanted: str, algorithm: str, progress: bool) -> None:
    """Write what an address sends into a file, and refuse anything but the right content."""
    digest = _new_hash(algorithm)
    with file.open("wb") as stream, contextlib.closing(_chunks(address, progress)) as chunks:
        for chunk in chunks:
            digest.update(chunk)
            stream.write(chunk)
    if not digest.hexdigest().startswith(wanted):
        raise _refused(address, f"sent another file, with {algorithm} {digest.hexdigest()}")


def _chunks(address: str, progress: bool) -> Generator[bytes, None, None]:
    """What an address sends, piece by piece; a network that fails or stops early is explained."""
    try:
        with urllib.request.urlopen(address, timeout=TIMEOUT) as answer:
            announced = answer.length
            unit = {"unit": "B", "unit_scale": True}
            with tqdm(total=announced, desc=address, disable=not progress, **unit) as bar:
                while chunk := answer.read(CHUNK):
                    bar.update(len(chunk))
                    yield chunk
            if answer.length:  # what is still to come
                raise _refused(
                    address, f"stopped after {announced - answer.length} of {announced} bytes"
                )
    except (OSError, http.client.HTTPException) as error:
        raise _refused(address, f"failed: {error}") from error


def _refused(address: str, reason: str) -> DataError:
    return DataError(f"{address} {reason}.", "The original file is needed.", "Try again later.")
