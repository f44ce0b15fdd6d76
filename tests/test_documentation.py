"""What the README and the pages of docs/ say is so: their code runs, their links lead somewhere."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from scripts.docs.links import Link, links_of
from scripts.docs.plots import plots
from scripts.docs.tables import number, table
from tests.pages import (
    ROOT,
    Block,
    Shown,
    blocks_of,
    commands_of,
    compare_output,
    pages,
    run_command,
)
from tests.stand_ins import measure_few, world_of

LEAST_BLOCKS = {"python": 28, "shell": 14}
"""Blocks that are run at the least; fewer, and the scanner has gone blind."""

SLOW = ("docs/verdicts.md", "docs/criticality.md", "docs/paths.md")
"""Pages that show what a search over many sets of layers, or along many ways, prints."""

RUNNING = [
    pytest.param(page, marks=pytest.mark.slow) if page in SLOW else page
    for page in pages()
    if any(block.is_run for block in blocks_of(page))
]


# --- code -----------------------------------------------------------------------------------------


@pytest.mark.timeout(600)  # a busy machine: the README takes 20 s of processor time
@pytest.mark.parametrize("page", RUNNING)
def test_the_code_on_a_page_runs(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocks = [block for block in blocks_of(page) if block.is_run]
    with world_of(page, tmp_path, monkeypatch) as names:
        ran = sum(run(block, names, monkeypatch) for block in blocks)
    assert ran == len(blocks) > 0


def run(block: Block, names: dict, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Run a block; of those that show an output everything is measured."""
    with monkeypatch.context() as patch:
        if block.kind == "python":
            measure_few(patch)
            exec(compile(block.text, block.where, "exec"), names)
            return True
        shown = [one for one in commands_of(block) if not block.excuses(one.command)]
        if not any(one.output for one in shown):
            measure_few(patch)
        for one in shown:
            run_command(one, block.where)
    return True


def all_blocks() -> list[Block]:
    return [block for page in pages() for block in blocks_of(page)]


@pytest.mark.parametrize("kind", LEAST_BLOCKS)
def test_there_are_many_blocks_to_run(kind: str) -> None:
    found = [block for block in all_blocks() if block.kind == kind and block.is_run]
    assert len(found) >= LEAST_BLOCKS[kind]


HIDDEN = re.compile(r"^[ >]*(?:```|~~~)", re.MULTILINE)
"""A line that begins or ends a block, however it is written: in a list, with another sign."""


def test_no_block_hides_from_the_scanner() -> None:
    texts = {page: (ROOT / page).read_text(encoding="utf-8") for page in pages()}
    assert len(texts) >= 50
    fences = {page: len(HIDDEN.findall(text)) for page, text in texts.items()}
    assert fences == {page: 2 * len(blocks_of(page, text)) for page, text in texts.items()}


@pytest.mark.parametrize(
    "text",
    ["- a list\n\n  ```python\n  x\n  ```\n", "~~~python\nx\n~~~\n", "```python title=x\nx\n```\n"],
)
def test_a_block_that_the_scanner_does_not_see_is_noticed(text: str) -> None:
    assert len(HIDDEN.findall(text)) != 2 * len(blocks_of("p.md", text))


def test_what_is_not_run_says_why_and_is_little() -> None:
    excused = {(b.page, beginning): why for b in all_blocks() for beginning, why in b.excused}
    assert all(len(why) > 15 for why in excused.values())
    assert len(excused) <= 10, f"What cannot be run becomes much: {excused}"
    assert [b.where for b in all_blocks() if b.kind == "other" and b.language != "toml"] == []


def test_a_marker_belongs_to_the_block_behind_it() -> None:
    text = "<!-- not run: it takes an hour -->\n```sh\nmake bench\n```\n\n```sh\nmake test\n```\n"
    first, second = blocks_of("page.md", text)
    assert (first.excused, first.is_run, first.line) == ((("", "it takes an hour"),), False, 3)
    assert (second.excused, second.is_run) == ((), True)


def test_a_marker_may_be_about_some_lines_of_a_block() -> None:
    marker = "<!-- not run `git clone`: it is here already -->\n"
    [block] = blocks_of("page.md", f"{marker}```\ngit clone X && cd Y\nmake lab  # opens\n```\n")
    assert block.is_run
    run_or_excused = [one.command for one in commands_of(block) if not block.excuses(one.command)]
    assert run_or_excused == ["cd Y", "make lab"]


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("rm -rf build", r"p\.md:7: `rm -rf build` cannot be run here"),
        ("make tea", "the Makefile has no target tea"),
        ("pip install 'layer-explorer[coffee]'", "there is no extra coffee"),
        ("explorer catalog", r"not printed \(any more, or in this order\): a line of ours"),
    ],
)
def test_a_command_that_does_not_do_what_the_page_says_is_noticed(
    command: str, message: str
) -> None:
    with pytest.raises(AssertionError, match=message):
        run_command(Shown(command, ("a line of ours",)), "p.md:7")


def test_a_command_that_ends_with_an_error_is_noticed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(AssertionError, match="explorer check nowhere ended with 2"):
        run_command(Shown("explorer check nowhere", ()), "p.md:7")


def test_an_output_is_compared_line_by_line_in_its_order() -> None:
    printed = "a   1\nbeginning and end\nz\n"
    compare_output(printed, ("a 1", "begin… end", "z"), "here")
    for wrong in (("z", "a 1"), ("a 2",), ("beginning",)):
        with pytest.raises(AssertionError, match="not printed"):
            compare_output(printed, wrong, "here")


# --- links ----------------------------------------------------------------------------------------

TEXTS = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")
IN_HTML = re.compile(r"<(?:img|a|source)\b[^>]*?(?:src|href)=\"([^\"]+)\"")


def written() -> dict[str, str]:
    """Path in the repository → Markdown of everything that people read."""
    found = [ROOT / name for name in TEXTS]
    found += [*ROOT.glob("docs/**/*.md"), *ROOT.glob("benchmarks/results/*.md")]
    texts = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in found}
    for path in ROOT.glob("notebooks/*.ipynb"):
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        words = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown"]
        texts[path.relative_to(ROOT).as_posix()] = "\n\n".join(words)
    return texts


def anchors(text: str) -> set[str]:
    """Anchors of a page's headings, as forges make them."""
    code = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#{1,6} +(.+?) *$", code.sub("", text), re.MULTILINE)
    plain = [re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading) for heading in headings]
    return {re.sub(r"[^\w\- ]", "", one.lower()).replace(" ", "-") for one in plain}


def broken(path: str, text: str, texts: dict[str, str]) -> list[str]:
    """Links of a page that lead nowhere."""
    found = [*links_of(text), *(Link("", target, True) for target in IN_HTML.findall(text))]
    wrong = []
    for link in (one for one in found if one.is_inside):
        file, _, anchor = link.target.partition("#")
        target = (ROOT / path).parent / file if file else ROOT / path
        if not target.exists():
            wrong.append(f"{path}: {link.target}")
        elif anchor:
            name = target.resolve().relative_to(ROOT).as_posix()
            if anchor not in anchors(texts.get(name, "")):
                wrong.append(f"{path}: {link.target} (no such heading)")
    return wrong


def test_every_link_and_picture_inside_the_repository_leads_somewhere() -> None:
    texts = written()
    inside = [link for text in texts.values() for link in links_of(text) if link.is_inside]
    assert len(texts) >= 50
    assert len(inside) >= 110
    assert sum("#" in link.target for link in inside) >= 5
    assert [wrong for path, text in texts.items() for wrong in broken(path, text, texts)] == []


@pytest.mark.parametrize(
    "text",
    [
        "[a](nowhere.md)",
        "![a](no.png)",
        "[a](#no-heading)",
        '<img src="no.png">',
        "[a](stacks.md#x)",
    ],
)
def test_a_link_that_leads_nowhere_is_noticed(text: str) -> None:
    texts = {"docs/stacks.md": "# Stacks"}
    assert len(broken("docs/check.md", f"# A page\n\n{text}", texts)) == 1


def test_code_that_looks_like_a_link_is_none() -> None:
    assert links_of("`[a](b)` and [c](d)\n\n```\n[e](f)\n```\n") == [Link("c", "d", False)]


def test_every_picture_says_in_words_what_it_shows() -> None:
    pictures = [link for text in written().values() for link in links_of(text) if link.picture]
    assert len(pictures) >= 25
    assert [link.target for link in pictures if len(link.text) < 40] == []


# --- plots ----------------------------------------------------------------------------------------


def test_the_plots_are_those_of_the_tables() -> None:
    for name, drawn in plots().items():
        kept = (ROOT / "docs" / "images" / f"{name}.svg").read_text(encoding="utf-8")
        assert kept == drawn, f"{name}.svg is of another table: run make plots"


def test_a_number_is_read_with_its_commas_and_without_its_unit() -> None:
    texts = ("9.01 s", "3.8×", "1e5, in cache", "4,000", "23.0 (29.4) ms")
    assert [number(text) for text in texts] == [9.01, 3.8, 1e5, 4000, 23.0]
    with pytest.raises(ValueError, match="No number in the cell '–'"):
        number("–")


def test_a_table_is_found_by_a_column_that_it_alone_has() -> None:
    with pytest.raises(ValueError, match=r"sweep-cpu\.md has 0 tables with a column 'tea'"):
        table("sweep-cpu", "tea")
    with pytest.raises(ValueError, match=r"sweep-cpu\.md has 3 tables with a column 'cells'"):
        table("sweep-cpu", "cells")
