"""How much of the code behind each target its corpus reaches, line by line.

python -m tests.fuzz.reach
"""

from __future__ import annotations

import dis
import logging
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

from tests.fuzz.limits import hold
from tests.fuzz.targets import CRASHES, TARGETS, inputs_of

PACKAGE = Path(__file__).parents[2] / "explorer"


def main() -> None:
    """Print a row for each target and file: lines that ran, and lines within functions."""
    logging.disable(logging.CRITICAL)
    for name, target in TARGETS.items():
        files = {str(PACKAGE / module): module for module in target.modules}
        inputs = [*inputs_of(name), *inputs_of(name, CRASHES)]
        ran = _lines_run(name, inputs, set(files))
        for file, module in files.items():
            there = lines_of(Path(file))
            reached = there & ran.get(file, set())
            print(f"| {name} | {module} | {len(reached)} of {len(there)} |", flush=True)


def _lines_run(name: str, inputs: list[Path], files: set[str]) -> dict[str, set[int]]:
    """File → lines that ran while the inputs were read."""
    ran: dict[str, set[int]] = {}

    def local(frame: FrameType, event: str, _: Any) -> Any:
        if event == "line":
            ran.setdefault(frame.f_code.co_filename, set()).add(frame.f_lineno)
        return local

    def called(frame: FrameType, event: str, _: Any) -> Any:
        return local if frame.f_code.co_filename in files else None

    with tempfile.TemporaryDirectory() as folder:
        for path in inputs:
            sys.settrace(called)
            try:
                hold(TARGETS[name].harness, path.read_bytes(), Path(folder))
            except AssertionError:  # tracing takes longer than the limit
                continue
            finally:
                sys.settrace(None)
    return ran


def lines_of(file: Path) -> set[int]:
    """Lines of a file within functions; what runs at its import says nothing."""
    code = compile(file.read_text(encoding="utf-8"), os.fspath(file), "exec")
    return {
        line
        for function in _functions(code)
        for _, line in dis.findlinestarts(function)
        if line is not None and line != function.co_firstlineno
    }


def _functions(code: CodeType) -> Iterator[CodeType]:
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            if constant.co_flags & 0x0002:  # with local variables: a function, no body of a class
                yield constant
            yield from _functions(constant)


if __name__ == "__main__":
    main()
