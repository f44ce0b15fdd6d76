"""A hub on this machine: the part of its protocol that its own client speaks, faults included."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np
from safetensors.numpy import save

LARGE = (".safetensors", ".bin")
"""Endings of files that the hub keeps apart from git, under their sha256 (LFS)."""


@dataclass
class FakeHub:
    """Repositories with their revisions, and what was asked for."""

    address: str = ""
    repositories: dict[str, dict[str, dict[str, bytes]]] = field(default_factory=dict)
    """Repository → revision → path → content."""
    gone: set[str] = field(default_factory=set)
    """Revisions that are listed, but no longer there."""
    cut: dict[str, int] = field(default_factory=dict)
    """Path → how often its content still breaks off half-way."""
    altered: set[str] = field(default_factory=set)
    """Paths that arrive with one bit changed."""
    refused: dict[str, tuple[str, int]] = field(default_factory=dict)
    """Repository that may not be read → the hub's code and status of every answer."""
    asked: list[tuple[str, str, str]] = field(default_factory=list)
    """(method, path, range) of every request."""

    def put(self, repository: str, revision: str, files: Mapping[str, bytes]) -> None:
        self.repositories.setdefault(repository, {}).setdefault(revision, {}).update(files)

    def downloads(self, ending: str = "") -> list[str]:
        """Files whose content was asked for as a whole, in order."""
        return [
            p
            for m, p, r in self.asked
            if m == "GET" and "/resolve/" in p and not r and p.endswith(ending)
        ]

    def commit(self, repository: str, revision: str) -> str:
        return hashlib.sha1(f"{repository} {revision}".encode()).hexdigest()

    def content(self, repository: str, commit: str) -> dict[str, bytes] | None:
        for name, files in self.repositories.get(repository, {}).items():
            if commit in (name, self.commit(repository, name)) and name not in self.gone:
                return files
        return None


def digest_of(path: str, content: bytes) -> str:
    if path.endswith(LARGE):
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()


def described(path: str, content: bytes) -> dict[str, object]:
    oid = digest_of(path, content)
    about: dict[str, object] = {"type": "file", "path": path, "size": len(content), "oid": oid}
    if path.endswith(LARGE):
        pointer = hashlib.sha1(oid.encode()).hexdigest()  # of the pointer file, another one
        about |= {"oid": pointer, "lfs": {"oid": oid, "size": len(content), "pointerSize": 134}}
    return about


class Handler(BaseHTTPRequestHandler):
    hub: FakeHub

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, *, body: bool) -> None:
        url = urlsplit(self.path)
        path = unquote(url.path)
        self.hub.asked.append((self.command, path, self.headers.get("Range", "")))
        refusal = next((r for n, r in self.hub.refused.items() if f"/{n}/" in path), None)
        if refusal:
            self._missing(*refusal)
        elif match := re.fullmatch(r"/api/models/(.+)/refs", path):
            self._refs(match[1])
        elif match := re.fullmatch(r"/api/models/(.+)/tree/([^/]+)", path):
            self._tree(*match.groups())
        elif path == "/api/models":
            self._models(parse_qs(url.query))
        elif match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self._file(*match.groups(), body=body)
        else:
            self._missing("EntryNotFound")

    def _refs(self, repository: str) -> None:
        if repository not in self.hub.repositories:
            self._missing("RepoNotFound", 401)
            return
        branches = [
            {"name": n, "ref": f"refs/heads/{n}", "targetCommit": self.hub.commit(repository, n)}
            for n in self.hub.repositories[repository]
        ]
        self._json({"branches": branches, "tags": [], "converts": []})

    def _models(self, query: Mapping[str, list[str]]) -> None:
        author, search = query.get("author", [""])[0], query.get("search", [""])[0]
        expand = query.get("expand", [])  # without it a list has no commits
        found = [
            {"id": name, "_id": name}
            | ({"sha": self.hub.commit(name, "main")} if "sha" in expand else {})
            for name in self.hub.repositories
            if name.startswith(f"{author}/") and search in name
        ]
        self._json(found)

    def _tree(self, repository: str, commit: str) -> None:
        files = self.hub.content(repository, commit)
        if files is None:
            self._missing("RevisionNotFound")
        else:
            self._json([described(path, content) for path, content in files.items()])

    def _file(self, repository: str, commit: str, path: str, *, body: bool) -> None:
        content = (self.hub.content(repository, commit) or {}).get(path)
        if content is None:
            known = self.hub.content(repository, commit) is not None
            self._missing("EntryNotFound" if known else "RevisionNotFound")
            return
        etag, whole = digest_of(path, content), len(content)
        if path in self.hub.altered:
            content = content[:-1] + bytes([content[-1] ^ 1])
        start, stop = 0, whole
        if match := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            start, stop = int(match[1]), min(int(match[2] or whole) + 1, whole)
        self.send_response(206 if match else 200)
        self.send_header("ETag", f'"{etag}"')
        self.send_header("X-Repo-Commit", commit)
        self.send_header("X-Linked-Etag", f'"{etag}"')
        self.send_header("X-Linked-Size", str(whole))
        self.send_header("Content-Length", str(stop - start))
        if match:
            self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{whole}")
        self.end_headers()
        if body:
            part = content[start:stop]
            if self.hub.cut.get(path) and not match:
                self.hub.cut[path] -= 1
                part = part[: len(part) // 2]
            self.wfile.write(part)

    def _json(self, content: object) -> None:
        text = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def _missing(self, code: str, status: int = 404) -> None:
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", f"{code}, says the server")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def hub_server() -> Iterator[FakeHub]:
    """Serve a hub on 127.0.0.1 for a while."""
    hub = FakeHub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"hub": hub}))
    hub.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


# --- a tiny GPT-NeoX ------------------------------------------------------------------------------

NEOX = {
    "model_type": "gpt_neox",
    "architectures": ["GPTNeoXForCausalLM"],
    "vocab_size": 40,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 24,
    "rotary_pct": 0.25,
    "initializer_range": 0.02,
    "tie_word_embeddings": False,
    "use_parallel_residual": True,
}
"""Its config.json, as those of Pythia."""


def neox_state(seed: int) -> dict[str, np.ndarray]:
    """A state dict with the names of transformers' GPTNeoXForCausalLM, made by hand."""
    rng = np.random.default_rng(seed)
    width, inner, vocabulary = NEOX["hidden_size"], NEOX["intermediate_size"], NEOX["vocab_size"]
    shapes: dict[str, tuple[int, ...]] = {"gpt_neox.embed_in.weight": (vocabulary, width)}
    for k in range(NEOX["num_hidden_layers"]):
        at = f"gpt_neox.layers.{k}."
        for norm in ("input_layernorm", "post_attention_layernorm"):
            shapes |= {f"{at}{norm}.weight": (width,), f"{at}{norm}.bias": (width,)}
        for name, (rows, columns) in {
            "attention.query_key_value": (3 * width, width),
            "attention.dense": (width, width),
            "mlp.dense_h_to_4h": (inner, width),
            "mlp.dense_4h_to_h": (width, inner),
        }.items():
            shapes |= {f"{at}{name}.weight": (rows, columns), f"{at}{name}.bias": (rows,)}
    shapes |= {"gpt_neox.final_layer_norm.weight": (width,)}
    shapes |= {"gpt_neox.final_layer_norm.bias": (width,), "embed_out.weight": (vocabulary, width)}
    return {
        name: np.ones(shape, np.float32)
        if name.endswith("norm.weight")
        else rng.normal(0, 0.3, shape).astype(np.float32)
        for name, shape in shapes.items()
    }


def put_neox(
    hub: FakeHub, repository: str, steps: Mapping[str, int], *, config: bool = False
) -> None:
    """Put revisions into a repository: name → seed of its weights."""
    for name, seed in steps.items():
        files = {
            **({"config.json": json.dumps(NEOX).encode()} if config else {}),
            "model.safetensors": save(neox_state(seed)),
            "README.md": b"never needed",
            "optimizer.bin": b"never needed, and large",
        }
        hub.put(repository, name, files)
