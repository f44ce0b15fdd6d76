"""Which files of the repository are pages of the site, and links between them."""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

OUTSIDE = {
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
}
"""Pages whose text stands at the top of the repository → where they lie in the site."""

LINK = re.compile(r"(?P<picture>!?)\[(?P<text>(?:[^\[\]]|\[[^\]]*\])*)\]\((?P<target>[^()\s]+)\)")
CODE = re.compile(r"^(?P<fence>`{3,})[^\n]*\n.*?^(?P=fence)[^\n]*$|`[^`\n]+`", re.DOTALL | re.M)
"""Fenced blocks and code within a line, in which nothing is a link."""


@dataclass(frozen=True)
class Link:
    """A link or picture of a Markdown text."""

    text: str
    """What the reader sees."""
    target: str
    """As it is written: an address, or a path relative to the file."""
    picture: bool
    """Whether it begins with an exclamation mark."""

    @property
    def is_inside(self) -> bool:
        """Whether it leads to a file of the repository, or to a heading."""
        return not re.match(r"[a-z]+:", self.target)


def site_path(path: str) -> str | None:
    """Where a file of the repository lies among the site's sources; None if it does not."""
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    if path.startswith("benchmarks/results/") and path.endswith(".md"):
        return path
    if re.fullmatch(r"notebooks/\d\d[a-z]?-[\w-]+\.ipynb", path):
        return path.removesuffix(".ipynb") + ".md"
    return OUTSIDE.get(path)


def outside_pages() -> Iterator[tuple[str, str]]:
    """Give (path in the repository, path among the site's sources) of pages not in docs/."""
    found = [*OUTSIDE, *(f"benchmarks/results/{p.name}" for p in _files("benchmarks/results"))]
    found += [f"notebooks/{p.name}" for p in _files("notebooks")]
    for path in found:
        target = site_path(path)
        if target is not None:
            yield path, target


def _files(folder: str) -> list[Path]:
    return sorted(path for path in (ROOT / folder).iterdir() if path.is_file())


def replace_links(text: str, new: Callable[[Link], str | None]) -> str:
    """Replace links outside of code; `new` gives the Markdown of one, or None to leave it."""

    def replaced(found: re.Match[str]) -> str:
        link = Link(found["text"], found["target"], bool(found["picture"]))
        return new(link) or found[0]

    pieces, end = [], 0
    for code in CODE.finditer(text):
        pieces += [LINK.sub(replaced, text[end : code.start()]), code[0]]
        end = code.end()
    return "".join([*pieces, LINK.sub(replaced, text[end:])])


def links_of(text: str) -> list[Link]:
    """List the links and pictures of a Markdown text, those in code left out."""
    found: list[Link] = []
    replace_links(text, found.append)
    return found


def for_site(text: str, path: str) -> str:
    """Let a page's links lead to pages of the site; a file that is none keeps its name only.

    Parameters
    ----------
    text : str
        Markdown of the page.
    path : str
        Where its text lies in the repository, with slashes.
    """
    here = posixpath.dirname(site_path(path) or "")

    def new(link: Link) -> str | None:
        if not link.is_inside or link.target.startswith("#"):
            return None
        file, hash_, anchor = link.target.partition("#")
        target = posixpath.normpath(posixpath.join(posixpath.dirname(path), file))
        page = site_path(target)
        if page is None or (ROOT / target).is_dir():
            return None if link.picture else link.text  # a picture would be missed: a warning
        return f"{'!' * link.picture}[{link.text}]({posixpath.relpath(page, here)}{hash_}{anchor})"

    return replace_links(text, new)
