"""Names of files that strangers have written down: whether they stay where they should.

What is refused on one operating system is refused on all, so that a folder means the same wherever
it is opened.
"""

from __future__ import annotations

import re
from pathlib import Path

_DEVICES = re.compile(r"(CON|PRN|AUX|NUL|CONIN\$|CONOUT\$|(COM|LPT)[0-9¹²³])( *\..*)? *", re.I)
"""What Windows takes for a device in every folder, whatever the ending."""

_FORBIDDEN = re.compile(r'[\x00-\x1f\x7f-\x9f\ud800-\udfff<>"|?*]')
"""Characters that Windows does not have in names, halves of some, and those that nobody sees."""

_LONGEST_PART, _LONGEST = 255, 1024
"""Bytes of a part of a path, and of all of it, that every system can have."""

_WRONG = {
    "\\": "has a backslash, which other systems take for a part of the name",
    ":": "has a colon, which Windows takes for a stream beside the file",
}


def unsafe(path: object) -> str:
    """Say what is wrong with a relative path, parts joined by ``/``; empty if nothing is.

    Parameters
    ----------
    path : object
        As a manifest, an index or a hub gives it.

    Returns
    -------
    str
        The end of a sentence: "leaves its folder", "names the Windows device 'CON'", …
    """
    if not isinstance(path, str) or not path:
        return "is no name"
    parts = re.split(r"[/\\]", path)
    if path[0] in "/\\" or re.match(r"[A-Za-z]:", path) or ".." in parts:
        return "leaves its folder"
    for wrong, reason in _WRONG.items():
        if wrong in path:
            return reason
    if _FORBIDDEN.search(path):
        return "has a character that not every system has in names"
    if len(path.encode()) > _LONGEST:
        return f"is longer than {_LONGEST} bytes"
    return "" if path == "." else next(filter(None, map(_unsafe_part, parts)), "")


def _unsafe_part(part: str) -> str:
    if _DEVICES.fullmatch(part):
        return f"names the Windows device {part!r}"
    if part.endswith((".", " ")):
        return f"has the part {part!r}, whose end Windows leaves out"
    if len(part.encode()) > _LONGEST_PART:
        return f"has a part longer than {_LONGEST_PART} bytes"
    return "" if part else "has a part without a name"


def unsafe_name(name: object) -> str:
    """Say what is wrong with the name of a file without a path; empty if nothing is."""
    reason = unsafe(name)
    return reason or ("lies outside its folder" if "/" in str(name) or name == "." else "")


def link_out_of(folder: Path, path: Path) -> Path | None:
    """Where a path below a folder really leads, if that is elsewhere; None if it stays.

    In the cache of the hub's client a snapshot consists of links into ``blobs`` beside it, and
    that counts as inside.
    """
    real, home = path.resolve(), folder.resolve()
    if real.is_relative_to(home):
        return None
    parts = home.parts
    if "snapshots" in parts:
        cache = Path(*parts[: len(parts) - 1 - parts[::-1].index("snapshots")])
        if real.is_relative_to(cache / "blobs"):
            return None
    return real
