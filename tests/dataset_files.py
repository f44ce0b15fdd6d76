"""Small data sets in the files that the real ones come in, and a server on this machine."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import pickle
import struct
import tarfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
from PIL import Image
from torchvision import datasets


def md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def write(path: Path, content: bytes) -> str:
    """Write a file with its folders; returns its md5."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return md5(content)


# --- IDX: MNIST and Fashion-MNIST ------------------------------------------------------------


def idx(array: np.ndarray) -> bytes:
    """Unsigned bytes as an IDX file: two zeros, type 8, number of dimensions, sizes, content."""
    head = struct.pack(">HBB", 0, 8, array.ndim) + struct.pack(f">{array.ndim}I", *array.shape)
    return head + array.astype(np.uint8).tobytes()


def mnist_arrays(train: int = 30, test: int = 12) -> dict[str, np.ndarray]:
    random = np.random.RandomState(0)
    return {
        "train-images-idx3-ubyte": random.randint(0, 256, (train, 28, 28)),
        "train-labels-idx1-ubyte": np.arange(train) % 10,
        "t10k-images-idx3-ubyte": random.randint(0, 200, (test, 28, 28)),
        "t10k-labels-idx1-ubyte": np.arange(test) % 10,
    }


def write_mnist(folder: Path, monkeypatch, kind: str = "MNIST") -> dict[str, np.ndarray]:
    """Write the four archives and make torchvision's class expect them."""
    arrays = mnist_arrays()
    listed = [
        (f"{name}.gz", write(folder / f"{name}.gz", gzip.compress(idx(array), mtime=0)))
        for name, array in arrays.items()
    ]
    monkeypatch.setattr(getattr(datasets, kind), "resources", listed)
    return arrays


# --- pickled batches: CIFAR ------------------------------------------------------------------


def cifar_batch(count: int, seed: int, label: str, classes: int) -> dict[str, object]:
    random = np.random.RandomState(seed)
    return {
        "batch_label": f"batch {seed}",
        label: [int(v) for v in (np.arange(count) + seed) % classes],
        "data": random.randint(0, 256, (count, 3072)).astype(np.uint8),
        "filenames": [f"{seed}_{i}.png" for i in range(count)],
    }


def write_cifar(folder: Path, monkeypatch, kind: str = "CIFAR10") -> dict[str, dict[str, object]]:
    """Write the batches and the archive, and make torchvision's class expect them."""
    cls = getattr(datasets, kind)
    ten = kind == "CIFAR10"
    label, classes = ("labels", 10) if ten else ("fine_labels", 100)
    train = [f"data_batch_{i}" for i in range(1, 6)] if ten else ["train"]
    test = "test_batch" if ten else "test"
    contents: dict[str, dict[str, object]] = {
        name: cifar_batch(8 if ten else 120, seed, label, classes)
        for seed, name in enumerate([*train, test])
    }
    meta = {cls.meta["key"]: [f"class {i}" for i in range(classes)], "num_vis": 3072}
    files = {name: pickle.dumps(batch, protocol=2) for name, batch in contents.items()}
    files[cls.meta["filename"]] = pickle.dumps(meta, protocol=2)
    sums = {name: write(folder / cls.base_folder / name, file) for name, file in files.items()}
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w:gz") as tar:
        for name, file in files.items():
            member = tarfile.TarInfo(f"{cls.base_folder}/{name}")
            member.size = len(file)
            tar.addfile(member, io.BytesIO(file))
    monkeypatch.setattr(cls, "tgz_md5", write(folder / cls.filename, archive.getvalue()))
    monkeypatch.setattr(cls, "train_list", [[name, sums[name]] for name in train])
    monkeypatch.setattr(cls, "test_list", [[test, sums[test]]])
    monkeypatch.setattr(cls, "meta", {**cls.meta, "md5": sums[cls.meta["filename"]]})
    return contents


# --- class folders: ImageNet -----------------------------------------------------------------


def write_folder(
    root: Path, classes: tuple[str, ...] = ("cat", "dog"), each: int = 3, size=(40, 32)
) -> None:
    """Write train/ and val/ with PNG and JPEG files of one width and height, grey ones among them.

    PNG pixels are random, so that a crop shows where it was taken.
    """
    random = np.random.RandomState(0)
    for part in ("train", "val"):
        for name in classes:
            folder = root / part / name
            folder.mkdir(parents=True)
            for i in range(each):
                pixels = random.randint(0, 256, (size[1], size[0], 3)).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{i}.png")
            Image.fromarray(pixels[:, :, 0]).save(folder / f"{each}.JPEG")


# --- text: LM1B ------------------------------------------------------------------------------


def write_lm1b(root: Path, sentences: int = 40) -> dict[str, str]:
    """Write two training shards and the held-out one, whole and in two of its pieces."""
    line = "The {} number {} is written on a line of its own .\n"
    shards = {
        "training-monolingual.tokenized.shuffled/news.en-00001-of-00100": "first",
        "training-monolingual.tokenized.shuffled/news.en-00002-of-00100": "second",
        "heldout-monolingual.tokenized.shuffled/news.en-00000-of-00100": "whole",
        "heldout-monolingual.tokenized.shuffled/news.en.heldout-00000-of-00050": "piece",
        "heldout-monolingual.tokenized.shuffled/news.en.heldout-00001-of-00050": "last",
    }
    texts = {
        path: "".join(line.format(word, i) for i in range(sentences))
        for path, word in shards.items()
    }
    for path, text in texts.items():
        write(root / path, text.encode())
    return texts


# --- a server --------------------------------------------------------------------------------


@dataclass
class Server:
    """What a server on this machine sends, and what it was asked for."""

    address: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    """Path → content; anything else is not found."""
    cut: set[str] = field(default_factory=set)
    """Paths whose content stops after half of the announced bytes."""
    asked: list[str] = field(default_factory=list)


@contextlib.contextmanager
def serving() -> Iterator[Server]:
    """Serve files on 127.0.0.1 for a while."""
    about = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            about.asked.append(self.path)
            content = about.files.get(self.path)
            if content is None:
                self.send_error(404)
                return
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[: len(content) // 2] if self.path in about.cut else content)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    about.address = f"http://127.0.0.1:{server.server_port}/"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield about
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
