"""The code on a page of the documentation: which blocks it has, and how its commands are run."""

from __future__ import annotations

import contextlib
import io
import re
import shlex
import tomllib
from dataclasses import dataclass
from pathlib import Path

from explorer.cli import main

ROOT = Path(__file__).resolve().parents[1]

FENCE = re.compile(r"^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.DOTALL | re.MULTILINE)
MARKER = re.compile(r"<!-- not run(?: `(?P<line>[^`]+)`)?: (?P<reason>[^>]+) -->\n")
"""Before a block: why it is not run, or why its lines that begin so are not."""

SHELL = ("sh", "bash", "console")
COMMANDS = ("explorer", "make", "pip", "git", "cd", "dask", "uvx", "pipx", "conda", "docker")
SETS_UP = re.compile(r"(?:pip|pipx|uvx) ")
GOES_ON = "…"
"""In what a page shows of an output: anything may stand here."""


@dataclass(frozen=True)
class Block:
    """A fenced block of code."""

    page: str
    """Path of its page in the repository."""
    line: int
    """The line its first line of code is on, from 1."""
    language: str
    """As the page says it; empty where it says none."""
    text: str
    """The code."""
    excused: tuple[tuple[str, str], ...]
    """(beginning of a line, or nothing for all lines; reason) of what is not run."""

    @property
    def where(self) -> str:
        """The place, for messages."""
        return f"{self.page}:{self.line}"

    @property
    def kind(self) -> str:
        """One of python, shell, other: what is no code to run."""
        if self.language == "python":
            return "python"
        first = self.text.split("\n", 1)[0].removeprefix("$ ").split(" ")[0]
        if self.language in SHELL or (not self.language and first in COMMANDS):
            return "shell"
        return "other"

    @property
    def is_run(self) -> bool:
        """Whether anything of it is."""
        return self.kind != "other" and all(beginning for beginning, _ in self.excused)

    def excuses(self, line: str) -> bool:
        """Whether a marker says that a line is not run."""
        return any(line.startswith(beginning) for beginning, _ in self.excused)


def pages() -> list[str]:
    """Pages whose code is run: the README and what is in docs/."""
    found = ["README.md", *(p.relative_to(ROOT).as_posix() for p in ROOT.glob("docs/**/*.md"))]
    return sorted(found)


def blocks_of(page: str, text: str | None = None) -> list[Block]:
    """Blocks of a page, in their order."""
    text = (ROOT / page).read_text(encoding="utf-8") if text is None else text
    return [
        Block(
            page,
            text.count("\n", 0, found.start()) + 2,
            found["language"],
            found["text"],
            tuple(markers_before(text[: found.start()])),
        )
        for found in FENCE.finditer(text)
    ]


def markers_before(text: str) -> list[tuple[str, str]]:
    """Markers at the end of a text."""
    found = []
    while match := re.search(rf"{MARKER.pattern}$", text):
        found.append((match["line"] or "", match["reason"]))
        text = text[: match.start()]
    return found


# --- commands -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Shown:
    """A command with what the page shows of its output."""

    command: str
    output: tuple[str, ...]


def commands_of(block: Block) -> list[Shown]:
    """Commands of a block: with `$` before each, output may follow; without, each line is one."""
    lines = [line for line in block.text.splitlines() if line.strip()]
    if not any(line.startswith("$ ") for line in lines):
        parts = [part for line in lines for part in line.split(" && ")]
        return [Shown(re.sub(r"\s+#.*", "", part).strip(), ()) for part in parts]
    starts = [k for k, line in enumerate(lines) if line.startswith("$ ")]
    ends = [*starts[1:], len(lines)]
    return [Shown(lines[a][2:], tuple(lines[a + 1 : b])) for a, b in zip(starts, ends, strict=True)]


def run_command(shown: Shown, where: str) -> None:
    """Run a command of the explorer; look at others that set something up; refuse the rest.

    The statuses 0 and, of the two commands that compare, 1 are as they should be.
    """
    word, *arguments = shlex.split(shown.command)
    if word == "explorer":
        output = io.StringIO()
        with contextlib.redirect_stdout(output):
            status = main(arguments)
        allowed = (0, 1) if arguments[0] in ("check", "diff") else (0,)
        assert status in allowed, f"{where}: {shown.command} ended with {status}"
        compare_output(output.getvalue(), shown.output, where)
    elif word == "make":
        targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert arguments[0] in targets, f"{where}: the Makefile has no target {arguments[0]}"
    elif word == "cd":
        assert len(arguments) == 1  # into the checkout, where the test is already
    elif SETS_UP.match(shown.command):
        check_extras(shown.command, where)
    else:
        raise AssertionError(
            f"{where}: `{shown.command}` cannot be run here.\n"
            "Commands of the explorer are run, targets of make and extras of pip are looked up.\n"
            "Say before the block why: <!-- not run: reason -->, or of some lines "
            f"<!-- not run `{word}`: reason -->"
        )


def check_extras(command: str, where: str) -> None:
    """See that the extras in what pip is asked for exist."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for extras in re.findall(r"layer-explorer\[([\w,]+)\]", command):
        unknown = set(extras.split(",")) - set(project["optional-dependencies"])
        assert not unknown, f"{where}: there is no extra {', '.join(unknown)}"


def compare_output(printed: str, shown: tuple[str, ...], where: str) -> None:
    """See that each line that a page shows was printed, in this order; spaces do not count."""
    lines = iter(" ".join(line.split()) for line in printed.splitlines())
    for expected in shown:
        words = " ".join(expected.split())
        pattern = re.escape(words).replace(re.escape(GOES_ON), ".*")
        found = any(re.fullmatch(pattern, line) for line in lines)
        assert found, f"{where}: not printed (any more, or in this order): {expected}\n{printed}"
