"""What the documentation site is made of, gathered in a folder for Sphinx.

The pages are those of docs/, the notebooks, the texts at the top of the repository, and the
reference, which is made of docstrings. Their links lead from page to page of the site.
"""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from scripts.docs.gallery import CARDS, cards, reports
from scripts.docs.links import ROOT, for_site, outside_pages
from scripts.docs.notebooks import beside_pictures, notebook_page
from scripts.docs.reference import reference_pages

LIVE = "live"
"""Folder of the pages that Sphinx copies as they are."""

CHAPTERS = {
    "": ("tutorial", "gallery"),
    "How to": ("how-to/own-model", "stacks", "how-to/*", "check"),
    "Course": ("teaching", "notebooks/*"),
    "Explanation": (
        "explanation/the-science",
        "explanation/partial-re-execution",
        "explanation/exact-labels",
        "verdicts",
        "effective*",
        "outputs",
        "motion",
        "criticality",
        "paths",
        "across*",
        "families",
    ),
    "Reference": ("reference/python", "reference/command-line", "reference/errors"),
    "Trust and speed": ("trust", "security", "benchmarks", "scale"),
    "Contributing": ("contributing", "releasing", "decisions/index", "changelog"),
}
"""Heading in the side bar → its pages, in this order; a pattern takes what it matches."""

BELOW = {"benchmarks": "benchmarks/results/*", "decisions/index": "decisions/[0-9]*"}
"""Page → the pages that stand below it in the side bar."""


def gather(folder: Path, gallery: Sequence[str]) -> None:
    """Put all sources of the site into a folder.

    Parameters
    ----------
    folder : Path
        An empty folder.
    gallery : sequence of str
        Names of the stacks whose reports the gallery shows.
    """
    (folder / LIVE).mkdir()
    pages = dict(texts(folder)) | reference_pages()
    names = sorted(path.removesuffix(".md") for path in pages)
    pages["decisions/index.md"] = "# Decisions\n\nWhat was decided, and why.\n"
    for page, pattern in BELOW.items():
        shown = page == "decisions/index"
        pages[f"{page}.md"] += toctree("", matching(names, [pattern]), hidden=not shown)
    pages["index.md"] += "".join(
        toctree(heading, matching([*names, "decisions/index"], patterns))
        for heading, patterns in CHAPTERS.items()
    )
    pages["gallery.md"] = pages["gallery.md"].replace(CARDS, cards(gallery))
    for path, text in pages.items():
        place(folder / path, text.encode())
    for name, report in reports(gallery):
        place(folder / LIVE / "gallery" / f"{name}.html", report.encode())


def texts(folder: Path) -> list[tuple[str, str]]:
    """Give (path, Markdown) of the written pages; their pictures are placed at once."""
    found = []
    for path in sorted((ROOT / "docs").rglob("*")):
        name = path.relative_to(ROOT).as_posix()
        if path.suffix == ".md":
            text = for_site(path.read_text(encoding="utf-8"), name)
            found.append((name.removeprefix("docs/"), text))
        elif path.is_file():
            place(folder / name.removeprefix("docs/"), path.read_bytes())
    for name, target in outside_pages():
        if name.endswith(".ipynb"):
            text, pictures = notebook_page(ROOT / name)
            for picture, content in pictures.items():
                place((folder / target).with_name(picture), content)
        else:
            text = (ROOT / name).read_text(encoding="utf-8")
        found.append((target, beside_pictures(for_site(text, name))))
    return found


def matching(names: Sequence[str], patterns: Sequence[str]) -> list[str]:
    """List the pages that the patterns match, in the order of the patterns, none twice."""
    found = [name for one in patterns for name in names if fnmatchcase(name, one)]
    return list(dict.fromkeys(found))


def toctree(caption: str, pages: Sequence[str], *, hidden: bool = True) -> str:
    """Return what makes Sphinx put pages into the side bar."""
    if not pages:
        return ""
    options = [f":caption: {caption}"] * bool(caption) + [":hidden:"] * hidden + [":maxdepth: 1"]
    entries = [f"/{page}" for page in pages]
    return "\n".join(["", "```{toctree}", *options, "", *entries, "```", ""])


def place(path: Path, content: bytes) -> None:
    """Write a file, with the folders it lies in."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
