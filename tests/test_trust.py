"""Every test that docs/trust.md names for a promise exists."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "trust.md").read_text(encoding="utf-8")
FILES = {path.name: path for path in (ROOT / "tests").rglob("*.py")}
NAMED = sorted(set(re.findall(r"(?:test|long)_\w+\.py", PAGE)))
TESTS = sorted(set(re.findall(r"(?:(test_\w+\.py)::|`)(test_\w+)`", PAGE)))


def defined_in(text):
    return set(re.findall(r"^def (test_\w+)\(", text, re.MULTILINE))


EVERYWHERE = set().union(*(defined_in(path.read_text(encoding="utf-8")) for path in FILES.values()))


@pytest.mark.parametrize("name", NAMED)
def test_a_file_that_is_named_is_there(name):
    assert name in FILES


@pytest.mark.parametrize(("file", "name"), TESTS)
def test_a_test_that_is_named_is_there(file, name):
    known = defined_in(FILES[file].read_text(encoding="utf-8")) if file else EVERYWHERE
    assert name in known or f"{name}.py" in FILES


def test_the_page_names_many():
    assert len(NAMED) > 20
    assert len(TESTS) > 20
