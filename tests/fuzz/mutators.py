"""Changes that keep what a format checks first, so that what is behind it is reached as well."""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import math
import pickletools
import random
import re
import struct
import warnings
import zipfile
from collections.abc import Callable
from typing import Any

from tests.fuzz import bundles

Mutator = Callable[[bytes, random.Random], bytes]

WORDS = (
    *("", "..", "../../x", "C:\\x", "a/b", "/", "epoch", "step", "layer", "a.b_0", "(root)"),
    *("\u0000", "\ud800", "\x1b[2J", "<script>", "é", "0", "٣", "NaN", "F32", "BF16", "F8_E4M3"),
    *("I64", "U16", "BOOL", "__metadata__", "weight_map", "module.", "epoch-1.safetensors"),
)
RAW = (
    *("1e999", "-1e999", "NaN", "-0.0", "1e308", "0.5", "9" * 5000, "[" * 3000 + "]" * 3000),
    *("18446744073709551616", "9223372036854775807", "4294967296", '{"a":1,"a":2}', '"\\ud800"'),
    "[" + "1," * 300 + "1]",
)
"""Values that Python's own writer of JSON would not write, or not so."""
SCALARS = (0, 1, -1, 2, 255, 2**31, 2**63, 10**30, True, False, None, 1.5, [], {}, [0], [[]])
INTEGERS = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 2**31 - 1, 2**32 - 1, 2**63, 2**64 - 1)


def mutated(data: bytes, random_: random.Random) -> bytes:
    """Change an input by what it is: one to three changes."""
    for _ in range(random_.choice((1, 1, 1, 2, 3))):
        change = havoc if random_.random() < 0.15 else _kind_of(data)
        data = change(data, random_)
    return data


def _kind_of(data: bytes) -> Mutator:
    start = data[:16].lstrip()
    if data.startswith(bundles.MARK):
        return bundle
    if data.startswith(b"PK"):
        return archive
    if data.startswith(b"\x80") and b"." in data:
        return pickle
    if len(data) > 9 and data[8:9] == b"{" and int.from_bytes(data[:8], "little") < len(data):
        return safetensors
    return text if start[:1] in (b"{", b"[") else havoc


def havoc(data: bytes, random_: random.Random) -> bytes:
    """Bytes set, flipped, doubled, left out; numbers at their limits."""
    raw = bytearray(data or b"\0")
    at = random_.randrange(len(raw))
    length = random_.randint(1, min(16, len(raw)))
    choice = random_.randrange(7)
    if choice == 0:
        raw[at] ^= 1 << random_.randrange(8)
    elif choice == 1:
        raw[at] = random_.randrange(256)
    elif choice == 2:
        del raw[at : at + length]
    elif choice == 3:
        raw[at:at] = raw[at : at + length] * random_.choice((1, 1, 20))
    elif choice == 4:
        raw[at:at] = random_.randbytes(length)
    elif choice == 5:
        del raw[at:]
    else:
        size = random_.choice((1, 2, 4, 8))
        number = random_.choice(INTEGERS) % 256**size
        raw[at : at + size] = number.to_bytes(size, random_.choice(("little", "big")))
    return bytes(raw)


# --- JSON -------------------------------------------------------------------------------------


def text(data: bytes, random_: random.Random) -> bytes:
    """JSON with one of its parts changed; lines of JSON with one of its lines changed."""
    if b"\n" in data.strip() and random_.random() < 0.9:
        lines = data.splitlines(keepends=True)
        if all(line.lstrip()[:1] in (b"{", b"[") for line in lines):
            at = random_.randrange(len(lines))
            return b"".join((*lines[:at], text(lines[at], random_), *lines[at + 1 :]))
    try:
        content = json.loads(data)
    except (ValueError, RecursionError):
        return havoc(data, random_)
    return _written(_changed([content], random_)[0], random_)


def _written(content: Any, random_: random.Random) -> bytes:
    try:
        plain = json.dumps(content, ensure_ascii=random_.random() < 0.5)
    except (ValueError, RecursionError):
        return b"{}"
    written = re.sub(r'"@@(\d+)@@"', lambda found: RAW[int(found[1])], plain)
    return written.encode("utf-8", "surrogatepass")


def _value(random_: random.Random) -> Any:
    kind = random_.randrange(3)
    if kind == 0:
        return f"@@{random_.randrange(len(RAW))}@@"
    return random_.choice(WORDS if kind == 1 else SCALARS)


def _changed(content: list[Any], random_: random.Random) -> list[Any]:
    """Change one place below a list that holds the whole."""
    places = _places(content)
    inside, key = random_.choice(places)
    choice = random_.randrange(6)
    old = inside[key]
    if choice == 0 and inside is not content:
        del inside[key]
    elif choice == 1 and isinstance(inside, dict):
        inside[random_.choice((*WORDS, *map(str, inside)))] = inside.pop(key)
    elif choice == 2 and isinstance(inside, list) and inside is not content:
        inside.insert(key, old)
    elif choice == 3 and isinstance(old, (int, float)):
        inside[key] = random_.choice((old + 1, old - 1, old * 2, -old, bool(old), str(old)))
    else:
        inside[key] = random_.choice(places)[1] if choice == 4 else _value(random_)
    return content


def _places(content: list[Any]) -> list[tuple[Any, Any]]:
    """Every mapping or list of nested ones, with each of its keys."""
    places: list[tuple[Any, Any]] = []
    waiting: list[Any] = [content]
    while waiting:
        inside = waiting.pop()
        keys = list(inside) if isinstance(inside, dict) else range(len(inside))
        places += [(inside, key) for key in keys]
        waiting += [inside[key] for key in keys if isinstance(inside[key], (dict, list))]
    return places


# --- checkpoints --------------------------------------------------------------------------------

_SIZES = {"F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2}


def safetensors(data: bytes, random_: random.Random) -> bytes:
    """A header with one change; mostly its length fits, often the offsets as well."""
    length = int.from_bytes(data[:8], "little")
    header, body = data[8 : 8 + length], data[8 + length :]
    if random_.random() < 0.1:
        return data[:8] + header + havoc(body, random_)
    header = text(header, random_)
    if random_.random() < 0.6:
        header, body = _laid_out(header, body)
    header += b" " * (random_.choice((0, 0, -len(header) % 8, 3)))
    if random_.random() < 0.05:
        return havoc(data[:8], random_) + header + body
    return struct.pack("<Q", len(header)) + header + body


def _laid_out(header: bytes, body: bytes) -> tuple[bytes, bytes]:
    """Offsets that fit dtypes and shapes, where those can be understood, and as many bytes."""
    try:
        content = json.loads(header)
        at = 0
        for name, entry in content.items():
            if name != "__metadata__":
                size = _SIZES.get(entry["dtype"], 1) * math.prod(entry["shape"])
                entry["data_offsets"] = [at, at := at + size]
        if not 0 <= at < 100_000:
            return json.dumps(content).encode(), body
        return json.dumps(content).encode(), (body + bytes(at))[:at]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError):
        return header, body


def archive(data: bytes, random_: random.Random) -> bytes:
    """A zip archive with one record changed, its checksums and lengths made to fit."""
    records = _records(data)
    if not records:
        return havoc(data, random_)
    at = next((k for k, (n, _) in enumerate(records) if n.endswith(".pkl")), 0)
    if random_.random() < 0.3:
        at = random_.randrange(len(records))
    name, content = records[at]
    choice = random_.randrange(12)
    if choice == 0:
        del records[at]
    elif choice == 1:
        records.append((name, content))
    elif choice == 2:
        records[at] = (random_.choice((*WORDS[:4], f"{name}x", "x/data/0", "x/data.pkl")), content)
    elif choice > 4:
        inner = pickle if content.startswith(b"\x80") else havoc
        records[at] = (name, inner(content, random_))
    whole = bytearray(_zipped(records, zipfile.ZIP_DEFLATED if choice == 3 else zipfile.ZIP_STORED))
    if choice == 4:  # the flags of a record, such as that it is encrypted
        whole[whole.rfind(b"PK\x01\x02") + 8] ^= 1 << random_.randrange(8)
    return bytes(whole)


def _records(data: bytes) -> list[tuple[str, bytes]]:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as opened:
            return [(info.filename, opened.read(info)) for info in opened.infolist()]
    except Exception:  # whatever a damaged archive makes of it
        return []


def _zipped(records: list[tuple[str, bytes]], how: int) -> bytes:
    file = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(file, "w", how) as writing:
        warnings.simplefilter("ignore")  # two records of one name are meant
        for name, content in records:
            writing.writestr(name.encode("utf-8", "replace").decode() or "x", content)
    return file.getvalue()


PIECES = (
    *(b"0", b"1", b"2", b"(", b"t", b"\x85", b"\x86", b"\x87", b")", b"]", b"}", b"l", b"d"),
    *(b"a", b"e", b"s", b"u", b"R", b"b", b"Q", b"h\x00", b"h\x01", b"q\x00", b"q\x05", b"\x94"),
    *(b"N", b"\x88", b"K\x00", b"K\xff", b"J\xff\xff\xff\xff", b"J\xff\xff\xff\x7f", b"\x93"),
    *(b"\x8a\x09" + b"\xff" * 8 + b"\0", b"\x8b" + struct.pack("<i", 2000) + b"\x7f" * 2000),
    *(b"\x81", b"\x92", b"\x8f", b"\x90", b"\x91", b"X\x01\0\0\0a", b"X\x07\0\0\0storage", b"."),
    *(b"G" + struct.pack(">d", math.nan), b"G" + struct.pack(">d", math.inf), b"F1e400\n"),
    *(b"cposix\nsystem\n", b"cbuiltins\nexec\n", b"ctorch._utils\n_rebuild_tensor_v2\n"),
    *(b"ctorch._utils\n_rebuild_tensor_v3\n", b"ctorch\nO\n", b"ctorch\nFloatStorage\n"),
    *(
        b"ctorch\nBFloat16Storage\n",
        b"ccollections\nOrderedDict\n",
        b"ctorch._utils\n_rebuild_parameter\n",
    ),
    *(b"ctorch._tensor\n_rebuild_from_type_v2\n", b"ctorch\nSize\n", b"ctorch\nf4,f4\n"),
    *(b"ctorch\nBoolStorage\n", b"ctorch\nfloat32\n", b"\x8a\x01\x05", b"I01\n", b"L5L\n"),
    *(b"h\x00" * 2 + b"\x86q\x00", b"h\x01" * 3 + b"\x87q\x01"),
)
"""Instructions to put in, whole."""


def pickle(data: bytes, random_: random.Random) -> bytes:
    """A pickle, or a row of them, with one instruction more, less or other."""
    pieces = _instructions(data)
    if len(pieces) < 4:
        return havoc(data, random_)
    rest = pieces.pop()
    at = random_.randrange(1, len(pieces))
    choice = random_.randrange(7)
    if choice == 0:
        del pieces[at]
    elif choice == 1:
        pieces.insert(at, random_.choice(pieces))
    elif choice == 2:
        other = random_.randrange(1, len(pieces))
        pieces[at], pieces[other] = pieces[other], pieces[at]
    elif choice == 3:
        pieces[at] = random_.choice(PIECES)
    elif choice == 4:
        pieces[at] = pieces[at][:1] + havoc(pieces[at][1:], random_)
    else:
        pieces.insert(at, random_.choice(PIECES) * random_.choice((1, 1, 1, 2, 30, 1500)))
    return b"".join(pieces) + (havoc(rest, random_) if random_.random() < 0.1 else rest)


def _instructions(data: bytes) -> list[bytes]:
    """Instructions of a row of pickles as far as they can be followed, and what is behind them."""
    stream, starts = io.BytesIO(data), [0]
    with contextlib.suppress(Exception):  # a damaged one
        while data[stream.tell() : stream.tell() + 1] == b"\x80":
            for _, _, position in pickletools.genops(stream):
                starts.append(position)
            starts.append(stream.tell())
    return [data[a:b] for a, b in itertools.pairwise([*starts, len(data)])]


# --- folders ------------------------------------------------------------------------------------

_NUMBER = re.compile(rb"\d+")
_SUFFIXES = (b".pt", b".pth", b".ckpt", b".bin", b".safetensors", b".pth.tar", b".json", b".tmp")


def bundle(data: bytes, random_: random.Random) -> bytes:
    """A folder in which one file is changed, named otherwise, missing, or there twice."""
    files = bundles.unpacked(data)
    if not files:
        return havoc(data, random_)
    at = random_.randrange(len(files))
    name, content = files[at]
    choice = random_.randrange(10)
    if choice == 0:
        del files[at]
    elif choice == 1:
        files.append((_renamed(name, random_), content))
    elif choice == 2:
        files[at] = (_renamed(name, random_), content)
    elif choice == 3:
        files[at] = (name, random_.choice(files)[1])
    else:
        files[at] = (name, mutated(content, random_))
    return bundles.packed(files)


def _renamed(name: bytes, random_: random.Random) -> bytes:
    choice = random_.randrange(4)
    if choice == 0 and _NUMBER.search(name):
        number = str(random_.choice((0, 1, 7, 9000, 10**25, 10**70))).encode()
        return _NUMBER.sub(number, name, count=1)
    if choice == 1:
        return name.rpartition(b".")[0] + random_.choice(_SUFFIXES)
    if choice == 2:
        return random_.choice((b"x/", b"checkpoint-3/", b"global_step5/", b"zarr.json/")) + name
    return havoc(name, random_).replace(b"\n", b"")
