"""Finished cells on disk, so that a sweep that was killed goes on where it stopped.

A journal is a text file of one JSON object a line: first what the numbers were computed from, then
one finished cell after the other. Only whole lines count; a line that a crash cut short is dropped.
Several processes may add to one journal: each holds a lock while it writes its lines.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from explorer.engine.estimate import Estimate
from explorer.engine.interventions import Intervention
from explorer.errors import CheckpointError, UsageError
from explorer.inventory.disk import append_lines
from explorer.inventory.locks import locked
from explorer.inventory.placing import placed

FORMAT = "layer-explorer sweep 2"

CLOSE = 2e-3
"""Share of the largest by which numbers of the header may differ: machines round otherwise."""


class Journal:
    """Finished cells of one sweep.

    Parameters
    ----------
    path : Path
        The file; made if it is missing.
    origin : mapping
        What the numbers are computed from; an existing journal must be of the same.

    Raises
    ------
    UsageError
        The file is of another origin, or is no journal.
    CheckpointError
        The file cannot be read or written, or holds counts that cannot be.
    """

    def __init__(self, path: Path, origin: Mapping[str, Any]) -> None:
        self.path = path
        self._header = {"format": FORMAT, **origin}
        self._lock = path.with_name(f".{path.name}.lock")
        with self._told():
            content = self._read()
        self.finished = self._cells(content)

    def get(self, intervention: Intervention) -> Estimate | None:
        """Counts under an intervention, where they are known."""
        return self.finished.get(key(intervention))

    def add(self, outcomes: Mapping[Intervention, Estimate]) -> None:
        """Write finished cells; when this returns they are on the disk."""
        lines = [
            {"cell": key(intervention), **asdict(estimate)}
            for intervention, estimate in outcomes.items()
        ]
        self.finished.update({key(i): e for i, e in outcomes.items()})
        with self._told(), locked(self._lock):
            append_lines(self.path, _text(lines))

    def _read(self) -> bytes:
        if self._is_new():
            with locked(self._lock):
                if self._is_new():  # nobody else was faster
                    with placed(self.path) as temporary:
                        temporary.write_text(_text([self._header]), encoding="utf-8")
        return self.path.read_bytes()

    def _cells(self, content: bytes) -> dict[str, Estimate]:
        whole = content[: content.rfind(b"\n") + 1]
        try:
            header, *cells = [json.loads(line) for line in whole.splitlines()]
        except (ValueError, RecursionError):  # not JSON, or nothing whole
            header, cells = None, []
        self._check(header)
        try:
            finished = {cell.pop("cell"): Estimate(**cell) for cell in cells}
        except (AttributeError, KeyError, TypeError) as error:
            raise self._damaged(str(error)) from error
        wrong = next((name for name, cell in finished.items() if not _is_possible(cell)), None)
        if wrong is not None:
            raise self._damaged(f"the cell {wrong}")
        return finished

    def _check(self, found: Any) -> None:
        if not isinstance(found, dict) or found.get("format") != FORMAT:
            raise UsageError(
                f"{self.path} is not the journal of a sweep.",
                "A file that an earlier sweep wrote, or a new one, is needed.",
                "Give store= another path.",
            )
        different = [
            name for name, value in self._header.items() if not _agree(found.get(name), value)
        ]
        if different:
            name = different[0]
            raise UsageError(
                f"{self.path} holds cells whose {name} is {found.get(name)!r}.",
                f"This sweep's is {self._header[name]!r}.",
                "Give store= another path, or remove the file to measure all cells anew.",
            )

    def _damaged(self, what: str) -> CheckpointError:
        return CheckpointError(
            f"{self.path} holds counts that no sweep writes: {what}.",
            "A file that an earlier sweep wrote, as it left it, is needed.",
            "Remove the file to measure all cells anew, or give store= another path.",
        )

    def _is_new(self) -> bool:
        return not self.path.exists() or not self.path.stat().st_size

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            reason = error.came if isinstance(error, CheckpointError) else f"{error.strerror}."
            raise CheckpointError(
                f"{self.path} cannot be used: {reason}",
                "A file in a folder that you may write to, on a disk with room, is needed.",
                "Give store= another path; what is in the file is kept.",
            ) from error


def _agree(found: Any, wanted: Any) -> bool:
    """Whether two entries say the same; numbers in a text may differ by rounding."""
    if found == wanted or not (isinstance(found, str) and isinstance(wanted, str)):
        return bool(found == wanted)
    try:
        pairs = list(zip(map(float, found.split()), map(float, wanted.split()), strict=True))
    except ValueError:  # they are no numbers, or not as many
        return False
    largest = max((abs(number) for pair in pairs for number in pair), default=0.0)
    return all(abs(a - b) <= CLOSE * largest for a, b in pairs)


def _text(lines: list[dict[str, Any]]) -> str:
    return "".join(json.dumps(line) + "\n" for line in lines)


def _is_possible(counts: Estimate) -> bool:
    """Whether counts could have been counted: whole, and none larger than all examples."""
    loss, *whole = (getattr(counts, name) for name in ("loss_sum", *_COUNTS))
    numbers = type(loss) in (int, float) and all(type(number) is int for number in whole)
    return (
        numbers
        and 0 < counts.examples <= counts.total
        and all(0 <= number <= counts.examples for number in whole[1:])
    )


_COUNTS = ("total", "examples", "errors", "agreements", "nonfinite", "turned_wrong", "turned_right")


def key(intervention: Intervention) -> str:
    """Name of an intervention that is the same in every session."""
    parts = [f"{layer} ← {source!r}" for layer, source in sorted(intervention.changes, key=str)]
    return json.dumps(parts, ensure_ascii=False)
