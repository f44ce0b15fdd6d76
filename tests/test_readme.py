"""README.md: its pictures are there, can be read by all, and no number in it is of nowhere."""

from __future__ import annotations

import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from explorer.cli import _parser

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PLACEHOLDER = "OWNER/layer-explorer"
"""Where the address of the repository has to be put for a release, docs/releasing.md."""


class Pictures(HTMLParser):
    """Images and their texts."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[str, str] = {}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if tag == "img":
            self.found[str(given["src"])] = given.get("alt") or ""
        if tag == "source":
            assert "(prefers-reduced-motion: reduce)" in str(given["media"])
            self.found[str(given["srcset"])] = "the still of the picture after it"


def pictures() -> dict[str, str]:
    """Return address → text of every picture, in Markdown or HTML."""
    parser = Pictures()
    parser.feed(README)
    found = {**parser.found, **{b: a for a, b in re.findall(r"!\[([^]]*)\]\(([^)]+)\)", README)}}
    assert len(found) >= 4
    return found


def test_every_picture_is_there_and_says_what_it_shows() -> None:
    for address, text in pictures().items():
        assert len(text) >= 20, f"{address} has no text for those who do not see it"
        if "://" not in address:
            assert (ROOT / address).is_file(), address


def test_the_capture_is_short_and_small_and_has_a_still_of_the_same_size() -> None:
    path = ROOT / "docs" / "images" / "clicks.gif"
    assert path.stat().st_size < 2_000_000
    with Image.open(path) as capture, Image.open(path.with_suffix(".png")) as still:
        assert capture.size == still.size
        assert f'width="{capture.size[0]}"' in README
        lasting = []
        for frame in range(capture.n_frames):
            capture.seek(frame)
            lasting.append(capture.info["duration"])
    assert len(lasting) >= 10
    assert 10_000 <= sum(lasting) <= 20_000


def test_the_plot_of_speed_is_what_the_tables_say() -> None:
    command = [sys.executable, str(ROOT / "scripts" / "readme_plot.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_number_of_seconds_and_times_beside_the_plot_stands_in_a_table() -> None:
    """Times of setting up are another matter: they have no table."""
    measured = "".join(
        path.read_text(encoding="utf-8") for path in (ROOT / "benchmarks/results").glob("*.md")
    )
    selling = README.partition("## Use it")[0]
    numbers = re.findall(r"(?<![\w.])\d+\.\d+ s\b", selling)
    assert numbers
    assert [number for number in numbers if f" {number} " not in measured] == []


def test_the_readme_names_every_command() -> None:
    [action] = [one for one in _parser()._actions if hasattr(one, "choices") and one.choices]
    listed = re.search(r"`explorer (catalog(?: \| [a-z]+)+)`", README)
    assert listed
    assert set(listed[1].split(" | ")) == set(action.choices)


def test_the_address_of_the_repository_is_one_everywhere() -> None:
    """Either all of these have it, or all still have the placeholder."""
    files = ("README.md", "conda/recipe.yaml")
    waiting = {PLACEHOLDER in (ROOT / name).read_text(encoding="utf-8") for name in files}
    assert len(waiting) == 1


@pytest.mark.parametrize("heading", ["## Use it", "## The words", "## What it needs", "## Cite"])
def test_the_readme_has_the_parts_that_others_refer_to(heading: str) -> None:
    assert f"\n{heading}\n" in README


def test_the_first_screen_sells_and_the_whole_is_short() -> None:
    assert "\nmake lab " in "\n".join(README.splitlines()[:25])
    assert len(README.split()) < 1500
