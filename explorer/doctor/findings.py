"""What the doctor found, as values, text, HTML and JSON."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from explorer.tables import MOST_ROWS, Cell, Row, Table, page_html, table_html

Severity = Literal["ok", "note", "warning", "error"]

SEVERITIES: tuple[Severity, ...] = ("ok", "note", "warning", "error")
"""From harmless to harmful. ok: examined and as it should be; note: worth knowing, or could not be
judged; warning: probably wrong, by a statistic; error: wrong for certain."""

MOST_LINES = 12
"""Findings of one check and severity that a text shows; the rest is counted."""

WIDTH = 100
"""Columns of a text."""

_SHARES = {"ok": 0.0, "note": 0.15, "warning": 0.5, "error": 0.85}
"""Severity → place on the ramp of a table's colours."""


@dataclass(frozen=True)
class Finding:
    """One thing that was found."""

    severity: Severity
    """How bad it is."""
    check: str
    """What was examined: ``"hashes"``, ``"order"``, …"""
    found: str
    """A sentence, with the values."""
    advice: str = ""
    """What to do about it; empty where nothing needs to be done."""
    epochs: tuple[int, ...] = ()
    """Checkpoints it is about, as the stack counts them; empty: all of them."""
    layer: str = ""
    """Layer it is about; empty: not one of them."""
    tensor: str = ""
    """Name in the state dict; empty: not one of them."""


@dataclass(frozen=True)
class Examined:
    """One checkpoint and whether its file is the one that was once made."""

    epoch: int
    """Its number."""
    file: str
    """Where it was read from."""
    state: str
    """``"verified"`` (the file has the known sha256), ``"altered"`` (it has not), ``"unverified"``
    (no hash is known), ``"missing"`` or ``"unreadable"``."""


@dataclass(frozen=True)
class Diagnosis:
    """What `explorer.check` found; `print` shows it as a table."""

    stack: str
    """Name of the stack, or where it was read from."""
    unit: str
    """What its numbers count: ``"epoch"`` or ``"step"``."""
    checkpoints: tuple[Examined, ...]
    """In the order of their numbers, unreadable ones too."""
    findings: tuple[Finding, ...]
    """In the order of the checks."""

    def __iter__(self) -> Iterator[Finding]:
        return iter(self.findings)

    @property
    def worst(self) -> Severity:
        """The worst severity that occurs."""
        return max((f.severity for f in self.findings), key=SEVERITIES.index, default="ok")

    def at_least(self, severity: Severity) -> tuple[Finding, ...]:
        """Findings that are as bad or worse."""
        least = SEVERITIES.index(severity)
        return tuple(f for f in self.findings if SEVERITIES.index(f.severity) >= least)

    def as_json(self) -> dict[str, Any]:
        """Everything, in the types that JSON has."""
        return {
            "stack": self.stack,
            "unit": self.unit,
            "worst": self.worst,
            "checkpoints": [asdict(one) for one in self.checkpoints],
            "findings": [asdict(finding) for finding in self.findings],
        }

    def __str__(self) -> str:
        return "\n".join([self._title(), "", *_lines(self.findings, self.unit), "", self._sum()])

    def _repr_html_(self) -> str:
        worst_first = sorted(self.findings, key=lambda f: -SEVERITIES.index(f.severity))
        rows = tuple(Row(finding.check, self._cells(finding)) for finding in worst_first)
        columns = ("severity", "where", "found", "what to do")
        table = table_html(Table("What was examined, the worst first", columns, rows), MOST_ROWS)
        return page_html(self._title(), {"in all": self._sum()}, table, [])

    def _cells(self, finding: Finding) -> tuple[Cell, ...]:
        texts = (_where(finding, self.unit), finding.found, finding.advice)
        severity = Cell(finding.severity, _SHARES[finding.severity], words=True)
        return (severity, *(Cell(text, words=True) for text in texts))

    def _title(self) -> str:
        numbers = [one.epoch for one in self.checkpoints]
        return f"{self.stack}: {len(numbers)} checkpoints, {spoken(numbers, self.unit)}"

    def _sum(self) -> str:
        counts = Counter(finding.severity for finding in self.findings)
        said = [f"{counts[s]} {s}{'s' if counts[s] != 1 else ''}" for s in SEVERITIES[:0:-1]]
        return ", ".join(said) + "."


def spoken(numbers: Sequence[int], unit: str) -> str:
    """Name checkpoints: "epoch 3", "epochs 0, 1, 2, …, 90, 100"."""
    names = [str(n) for n in dict.fromkeys(numbers)]
    shown = names if len(names) <= 8 else [*names[:5], "…", *names[-2:]]
    return f"{unit}{'s' if len(names) != 1 else ''} {', '.join(shown)}"


def some(names: Sequence[str], most: int = 3) -> str:
    """A few names, and how many more there are."""
    shown = ", ".join(names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


def _where(finding: Finding, unit: str) -> str:
    parts = [spoken(finding.epochs, unit) if finding.epochs else "", finding.layer, finding.tensor]
    return " · ".join(part for part in parts if part)


def _lines(findings: Sequence[Finding], unit: str) -> Iterator[str]:
    """A table of fixed columns; advice that is the same for several follows the last of them."""
    severities = max((len(f.severity) for f in findings), default=0)
    checks = max((len(f.check) for f in findings), default=0)
    told: Counter[tuple[str, str]] = Counter()
    total = Counter((f.check, f.severity) for f in findings)
    for at, f in enumerate(findings):
        key = (f.check, f.severity)
        told[key] += 1
        if told[key] > MOST_LINES:
            continue
        margin = f"{f.severity:<{severities}}  {f.check:<{checks}}  "
        where = _where(f, unit)
        text = f"{where}: {f.found}" if where else f.found
        yield from _wrapped(text, margin)
        following = findings[at + 1].advice if at + 1 < len(findings) else ""
        last = told[key] == MOST_LINES
        if f.advice and (last or f.advice != following):
            yield from _wrapped(f"→ {f.advice}", " " * len(margin))
        if last and total[key] > MOST_LINES:
            yield f"{' ' * len(margin)}… and {total[key] - MOST_LINES} more like this (all: --json)"


def _wrapped(text: str, margin: str) -> list[str]:
    return textwrap.wrap(
        text,
        WIDTH,
        initial_indent=margin,
        subsequent_indent=" " * len(margin),
        break_long_words=False,
        break_on_hyphens=False,
    )
