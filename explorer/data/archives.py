"""Files of MNIST's and CIFAR's kind: which there are, verified, unpacked, read by torchvision.

torchvision's own download is not used: it writes into place before it knows the hash, goes from
https to http without a word, and leaves a wrong file where it is. Addresses, hashes and readers
are torchvision's.
"""

# torchvision is imported inside functions: it takes a second, which the embedded data sets and
# those that users bring need not pay.

from __future__ import annotations

import contextlib
import gzip
import pickle
import shutil
import tarfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from explorer.errors import DataError
from explorer.inventory.placing import placed
from explorer.inventory.store import DATA_VARIABLE, fetch, md5_of


class ImageFiles(Protocol):
    """The files of one image set below a folder."""

    def fetch(self, root: Path, progress: bool) -> None:
        """Download the archives that are not there yet, verified."""

    def prepare(self, name: str, root: Path) -> None:
        """Make sure that the files to be read are there and as they should be."""

    def read(self, root: Path, *, train: bool) -> tuple[Tensor, Tensor]:
        """Pixels (example, channel, row, column) uint8 and labels (example,) int64."""

    def class_names(self, root: Path) -> tuple[str, ...]:
        """What the labels stand for; the files have been prepared."""


@dataclass(frozen=True)
class MnistFiles:
    """Four compressed IDX files: images and labels, for training and test."""

    kind: str
    """torchvision's class, which names the folder too: ``MNIST`` or ``FashionMNIST``."""
    names: tuple[str, ...]
    """What the labels stand for, which the files do not say."""

    def fetch(self, root: Path, progress: bool) -> None:
        """Download the archives that are not there yet, verified."""
        for file, md5 in self._about.resources:
            addresses = [mirror + file for mirror in self._about.mirrors]
            fetch(addresses, self._raw(root) / file, md5, progress=progress)

    def prepare(self, name: str, root: Path) -> None:
        """Verify the archives and make sure that each lies unpacked beside itself."""
        expected = {self._raw(root) / file: md5 for file, md5 in self._about.resources}
        _check(name, expected)
        for archive in expected:
            unpacked = archive.with_suffix("")
            if not _is_unpacked(archive, unpacked):
                with placed(unpacked) as temporary:
                    _decompress(archive, temporary)

    def read(self, root: Path, *, train: bool) -> tuple[Tensor, Tensor]:
        """Pixels (example, 1, 28, 28) uint8 and labels (example,) int64."""
        # The class itself would prefer old files of torchvision's own, which have no known hash.
        from torchvision.datasets.mnist import read_image_file, read_label_file

        part = "train" if train else "t10k"
        images = read_image_file(str(self._raw(root) / f"{part}-images-idx3-ubyte"))
        labels = read_label_file(str(self._raw(root) / f"{part}-labels-idx1-ubyte"))
        return images.unsqueeze(1), labels

    def class_names(self, root: Path) -> tuple[str, ...]:
        """What the labels stand for."""
        return self.names

    @property
    def _about(self) -> Any:
        return _torchvision_class(self.kind)

    def _raw(self, root: Path) -> Path:
        return root / self.kind / "raw"


@dataclass(frozen=True)
class CifarFiles:
    """An archive of pickled batches."""

    kind: str
    """torchvision's class: ``CIFAR10`` or ``CIFAR100``."""

    def fetch(self, root: Path, progress: bool) -> None:
        """Download the archive, verified, unless it or what it holds is there already."""
        about = self._about
        if _differing(self._batches(root)):
            fetch([about.url], root / about.filename, about.tgz_md5, progress=progress)

    def prepare(self, name: str, root: Path) -> None:
        """Verify the batches; where they are not there, take them from a verified archive."""
        expected = self._batches(root)
        archive, md5 = root / self._about.filename, self._about.tgz_md5
        if _differing(expected) and archive.exists():
            _check(name, {archive: md5})
            _unpack(archive, expected)
        _check(name, expected, f" (or {archive.name} in {root})")

    def read(self, root: Path, *, train: bool) -> tuple[Tensor, Tensor]:
        """Pixels (example, 3, 32, 32) uint8 and labels (example,) int64."""
        try:
            # verifies every batch once more before it unpickles the first
            batches = self._about(root, train=train, download=False)
        except RuntimeError as error:
            raise DataError(
                f"torchvision does not accept the {self.kind} files in {root}: {error}",
                "The original batches are needed.",
                "Remove them and get them again.",
            ) from error
        pixels = torch.from_numpy(batches.data)  # (example, row, column, channel)
        return pixels.permute(0, 3, 1, 2).contiguous(), torch.tensor(batches.targets)

    def class_names(self, root: Path) -> tuple[str, ...]:
        """What the labels stand for, as the file says that was verified with the batches."""
        about = self._about
        content = (root / about.base_folder / about.meta["filename"]).read_bytes()
        return tuple(pickle.loads(content, encoding="latin1")[about.meta["key"]])

    @property
    def _about(self) -> Any:
        return _torchvision_class(self.kind)

    def _batches(self, root: Path) -> dict[Path, str]:
        about = self._about
        listed = [*about.train_list, *about.test_list, (about.meta["filename"], about.meta["md5"])]
        return {root / about.base_folder / file: md5 for file, md5 in listed}


def _torchvision_class(kind: str) -> Any:
    from torchvision import datasets

    return getattr(datasets, kind)


def _differing(expected: dict[Path, str]) -> list[Path]:
    """Files that are missing or not what their md5 says."""
    return [path for path, md5 in expected.items() if not path.is_file() or md5_of(path) != md5]


def _check(name: str, expected: dict[Path, str], instead: str = "") -> None:
    """Refuse files that are missing or damaged, saying which, and how to get them."""
    wrong = _differing(expected)
    if not wrong:
        return
    missing = [path.name for path in wrong if not path.exists()]
    damaged = [path.name for path in wrong if path.exists()]
    folder = wrong[0].parent
    parts = [f"{', '.join(missing)} missing"] if missing else []
    parts += [f"{', '.join(damaged)} damaged (another md5 than the original)"] if damaged else []
    raise DataError(
        f"The data set {name!r} is not complete in {folder}: {'; '.join(parts)}.",
        f"Needed there: {', '.join(path.name for path in expected)}{instead}.",
        f"Run `explorer data {name} --download`, or set {DATA_VARIABLE} to the folder that "
        f"torchvision has downloaded it to.",
    )


def _is_unpacked(archive: Path, unpacked: Path) -> bool:
    """Tell from the archive's trailer whether a file is what it holds."""
    if not unpacked.is_file():
        return False
    with archive.open("rb") as stream:
        stream.seek(-8, 2)
        trailer = stream.read()
    found = zlib.crc32(unpacked.read_bytes()), unpacked.stat().st_size % 2**32
    return found == (int.from_bytes(trailer[:4], "little"), int.from_bytes(trailer[4:], "little"))


def _decompress(archive: Path, target: Path) -> None:
    with gzip.open(archive) as source, target.open("wb") as stream:
        shutil.copyfileobj(source, stream)


def _unpack(archive: Path, expected: dict[Path, str]) -> None:
    """Take the expected files out of a verified archive, and nothing else."""
    with tarfile.open(archive) as tar:
        for path in expected:
            with contextlib.suppress(KeyError):  # what is not in it is reported as missing
                source = tar.extractfile(f"{path.parent.name}/{path.name}")
                if source is not None:
                    with source, placed(path) as temporary:
                        temporary.write_bytes(source.read())
