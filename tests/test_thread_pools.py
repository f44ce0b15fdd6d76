"""Threads that torch keeps for the notebook's thread end before the explorer's work begins."""

from __future__ import annotations

import subprocess
import sys
import threading

import pytest
import torch

from explorer.ui import session, thread_pools

TRIAL = """
import os, sys, time
from explorer.ui.thread_pools import give_back_threads

def threads():
    return len(os.listdir("/proc/self/task"))

assert not give_back_threads()  # torch is not there, and is not loaded for it
assert "torch" not in sys.modules
import torch

torch.set_num_threads(3)
ones = torch.ones(600, 600)
product = ones @ ones
before = threads()
assert give_back_threads()
end = time.monotonic() + 10
while threads() > before - 2 and time.monotonic() < end:
    time.sleep(0.01)
assert threads() == before - 2
assert give_back_threads()  # twice is once
assert torch.equal(ones @ ones, product)
assert threads() == before
"""


@pytest.mark.skipif(sys.platform != "linux", reason="torch brings GNU's OpenMP on Linux alone")
def test_the_threads_of_a_notebook_end_and_come_back_when_torch_asks_for_them():
    subprocess.run([sys.executable, "-c", TRIAL], check=True, timeout=120)


def test_another_openmp_and_another_system_are_left_alone(monkeypatch):
    monkeypatch.setattr(torch, "__file__", "/nowhere/torch/__init__.py")
    assert not thread_pools.give_back_threads()
    monkeypatch.undo()
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not thread_pools.give_back_threads()


def test_they_are_given_back_by_the_thread_that_builds_an_explorer_and_by_that_of_a_click(
    on_bench, monkeypatch
):
    asked = []
    monkeypatch.setattr(
        session, "give_back_threads", lambda: asked.append(threading.current_thread())
    )
    bench = on_bench()
    assert asked == [threading.current_thread()]
    bench.tap(0, 0)
    assert asked == [threading.current_thread()] * 2
    bench.wait()
