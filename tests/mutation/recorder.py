"""A plugin of pytest that notes which lines each test runs, and how long it takes.

`python -m pytest -p tests.mutation.recorder --lines-of explorer/engine --lines-to reached.json …`
"""

from __future__ import annotations

import json
import time
from collections.abc import Generator
from pathlib import Path

import coverage
import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--lines-of", action="append", default=[], help="folders to look at")
    parser.addoption("--lines-to", help="the JSON file to write")


def pytest_configure(config: pytest.Config) -> None:
    config.pluginmanager.register(Recorder(config.getoption("lines_of"), config.rootpath))


class Recorder:
    """Switches coverage's context from test to test: set-up, call and teardown are one."""

    def __init__(self, folders: list[str], root: Path) -> None:
        self.root = root
        self.coverage = coverage.Coverage(data_file=None, source=folders, config_file=False)
        self.seconds: dict[str, float] = {}
        self.not_passed: set[str] = set()
        self.coverage.start()

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        self.coverage.switch_context(item.nodeid)
        before = time.process_time()  # which other work on the machine does not change
        result = yield
        self.seconds[item.nodeid] = time.process_time() - before
        return result

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed or report.skipped:
            self.not_passed.add(report.nodeid)

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        self.coverage.stop()
        data = self.coverage.get_data()
        lines: dict[str, dict[str, list[int]]] = {}
        for file in sorted(data.measured_files()):
            name = Path(file).relative_to(self.root).as_posix()
            for line, contexts in data.contexts_by_lineno(file).items():
                for test in contexts:
                    if test in self.seconds and test not in self.not_passed:
                        lines.setdefault(test, {}).setdefault(name, []).append(line)
        reached = {
            test: {"seconds": round(self.seconds[test], 3), "lines": lines[test]}
            for test in sorted(lines)
        }
        Path(session.config.getoption("lines_to")).write_text(json.dumps(reached))
