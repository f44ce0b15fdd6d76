"""The processes of `make test` share its tests so that nothing costly is made twice."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.conftest import pytest_xdist_make_scheduler

MAKEFILE = Path(__file__).parents[1] / "Makefile"
DISTRIBUTED = ["--dist", "loadfile", "--no-loadscope-reorder"]

COLLECTED = [
    f"{file}::test_{number}"
    for file in ("tests/browser/test_a.py", "tests/browser/test_b.py", "tests/fuzz/test_c.py")
    for number in range(3)
] + [f"tests/test_{letter}.py::test_{n}" for letter in "defgh" for n in range(4)]


class Process:
    """What the scheduler sees of a process; its tests are done when they are asked for."""

    shutting_down = False

    def __init__(self, name):
        self.gateway, self.given = SimpleNamespace(id=name), []

    def send_runtest_some(self, indices):
        self.given += indices

    def shutdown(self):
        self.shutting_down = True


def handed_out(config):
    """Let two processes do all tests in turns; return which tests each has had, in order."""
    scheduler = pytest_xdist_make_scheduler(config, None)
    processes = [Process("gw0"), Process("gw1")]
    for process in processes:
        scheduler.add_node(process)
        scheduler.add_node_collection(process, COLLECTED)
    scheduler.schedule()
    done = [0, 0]
    while sum(done) < len(COLLECTED):
        for k, process in enumerate(processes):
            if done[k] < len(process.given):
                done[k] += 1
                scheduler.mark_test_complete(process, process.given[done[k] - 1])
    return [[COLLECTED[index] for index in process.given] for process in processes]


@pytest.fixture
def config(pytestconfig):
    """The options of `make test`, as xdist reads them."""
    plugins = pytestconfig.pluginmanager
    if not plugins.hasplugin("xdist"):
        pytest.skip("needs pytest-xdist, which has been switched off")
    parser = pytestconfig._parser
    option = parser.parse(["-n", "2", *DISTRIBUTED])
    option.tx = ["popen", "popen"]
    return SimpleNamespace(option=option, getoption=vars(option).get, getvalue=vars(option).get)


def test_make_test_hands_out_whole_files():
    assert f"-n $(WORKERS) {' '.join(DISTRIBUTED)} $(ARGS)" in MAKEFILE.read_text(encoding="utf-8")


def test_each_file_is_run_by_one_process_in_its_order_and_all_of_the_browser_by_one(config):
    one, other = handed_out(config)
    assert sorted(one + other) == sorted(COLLECTED)
    files = [{name.split("::")[0] for name in given} for given in (one, other)]
    assert files[0] & files[1] == set()
    assert [name for name in one + other if "browser" in name] == COLLECTED[:6]
    assert one[:6] == COLLECTED[:6]  # what takes longest is begun first
    assert other[:3] == COLLECTED[6:9]


def test_another_way_to_share_the_tests_can_be_asked_for(config):
    config.option.dist = "worksteal"
    assert pytest_xdist_make_scheduler(config, None) is None
