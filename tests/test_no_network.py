"""Nothing goes over the network unless it was asked for: no telemetry, no download by the way."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from explorer.data.datasets import load_test_set
from explorer.errors import DataError
from explorer.inventory import store

BLOCKED = """
import socket, sys

asked = []

def refuse(name):
    original = getattr(socket.socket, name)
    def call(self, *arguments):
        if self.family == getattr(socket, "AF_UNIX", None):
            return original(self, *arguments)
        asked.append(f"{name} {arguments}")
        raise OSError("the network is blocked")
    return call

for name in ("connect", "connect_ex", "sendto", "bind"):
    setattr(socket.socket, name, refuse(name))

def resolve(*arguments, **options):
    asked.append(f"getaddrinfo {arguments}")
    raise OSError("the network is blocked")

socket.getaddrinfo = socket.gethostbyname = resolve
"""

MAIN_PATHS = """
import pathlib, tempfile
import explorer as lx

folder = pathlib.Path(tempfile.mkdtemp())
lx.catalog()
stack = lx.open_stack("fcn3x256-digits")
chosen = dict(layer=["layer4"], epoch=[0, 100])
result = lx.sweep(stack, layers=["layer4"], epochs=[0, 100], draws=1, device="cpu", progress=False)
distances = lx.distances(stack, draws=1).sel(**chosen)
from explorer.ui.report import write_report
write_report(result, distances, folder / "report.html")
"""

THE_OTHERS = """
import pathlib, tempfile
import explorer as lx
from explorer.cli import main

folder = pathlib.Path(tempfile.mkdtemp())
lx.readers()
lx.check("fcn3x256-digits", progress=False)
explorer = lx.Explorer("fcn3x256-digits", device="cpu")
explorer._exploration.session.hurry()
explorer._exploration._tapped(1.0, 1.0, False)
assert explorer._exploration.session.wait_until_idle(100)
explorer._exploration.session._warm_up.join(100)
explorer.close()
assert main(["data", "digits28"]) == 0
assert main(["data", "cifar10", "--folder", str(folder)]) == 2
out = str(folder / "run")
assert main(["train", "fcn3x256-digits", "--epochs", "1", "--quiet", "--out", out]) == 0
"""

SAY = "\nimport json\nprint(json.dumps(asked))\n"


def asked_of_the_network(code):
    done = subprocess.run(
        [sys.executable, "-c", BLOCKED + code + SAY], capture_output=True, text=True, timeout=390
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_importing_and_the_main_paths_ask_nothing_of_the_network():
    assert asked_of_the_network(MAIN_PATHS) == []


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_the_explorer_checking_and_training_ask_nothing_of_the_network():
    assert asked_of_the_network(THE_OTHERS) == []


def test_a_question_to_the_network_is_seen():
    code = """
import urllib.request
try:
    urllib.request.urlopen("http://x.example")
except OSError:
    pass
try:
    socket.create_connection(("127.0.0.1", 9))
except OSError:
    pass
"""
    assert len(asked_of_the_network(code)) == 2


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist", "cifar10", "cifar100"])
def test_a_dataset_that_is_not_there_is_not_fetched_but_said_how_to(name, tmp_path, monkeypatch):
    monkeypatch.setattr(store, "_chunks", lambda *_: pytest.fail("was downloaded"))
    with pytest.raises(DataError, match=f"Run `explorer data {name} --download`"):
        load_test_set(name, tmp_path)
    assert list(tmp_path.iterdir()) == []
