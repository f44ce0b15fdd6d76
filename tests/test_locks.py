"""One process at a time, also where the lock's last holder was killed."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from explorer.engine.estimate import Estimate
from explorer.engine.interventions import Intervention, reinitialise
from explorer.engine.journal import Journal, key
from explorer.errors import CheckpointError
from explorer.inventory import locks
from explorer.inventory.locks import STALE_AGE, locked

ELSEWHERE = "123 abcdef another-machine boot pid:[1]"


@pytest.fixture
def lock(tmp_path):
    return tmp_path / "new" / ".cells.lock"


def test_a_lock_is_there_while_it_is_held_and_gone_after(lock):
    with locked(lock):
        assert lock.read_text().startswith(f"{os.getpid()} ")
    assert os.listdir(lock.parent) == []


def test_who_holds_a_lock_is_said_to_whom_it_takes_too_long(lock):
    lock.parent.mkdir()
    lock.write_text(ELSEWHERE)
    started = time.monotonic()
    with (
        pytest.raises(
            CheckpointError,
            match=r"new is being written to by process 123 on another-machine\.\nOne process at a "
            r"time.*0 s\.\nWait for it, or choose another place.*remove .*\.cells\.lock",
        ),
        locked(lock, wait=0.1),
    ):
        pass
    assert time.monotonic() - started < 5
    assert lock.read_text() == ELSEWHERE


def test_a_lock_without_a_sign_of_life_is_taken_over(lock):
    lock.parent.mkdir()
    lock.write_text(ELSEWHERE)
    then = time.time() - STALE_AGE - 5
    os.utime(lock, (then, then))
    with locked(lock, wait=5):
        assert lock.read_text().startswith(f"{os.getpid()} ")
    assert os.listdir(lock.parent) == []


def test_the_age_of_a_lock_is_told_by_the_clock_of_its_folder(lock, monkeypatch):
    lock.parent.mkdir()
    lock.write_text(ELSEWHERE)
    monkeypatch.setattr(time, "time", lambda: 4e9)
    with pytest.raises(CheckpointError, match="another-machine"), locked(lock, wait=0.1):
        pass
    os.utime(lock, (0, 0))
    monkeypatch.setattr(time, "time", lambda: 0.0)
    with locked(lock, wait=5):
        assert lock.read_text().startswith(f"{os.getpid()} ")


def test_whoever_holds_a_lock_gives_signs_of_life(lock, monkeypatch):
    monkeypatch.setattr(locks, "BEAT", 0.02)
    with locked(lock):
        os.utime(lock, (0, 0))
        time.sleep(0.3)
        assert time.time() - lock.stat().st_mtime < 60


@pytest.mark.skipif(sys.platform != "linux", reason="process numbers are compared on Linux only")
def test_a_lock_of_a_process_that_was_killed_here_is_taken_over_at_once(lock):
    code = f"""
import sys, time
from pathlib import Path
from explorer.inventory.locks import locked
with locked(Path({str(lock)!r})):
    print("held", flush=True)
    time.sleep(60)
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    with pytest.raises(CheckpointError, match=f"by process {process.pid} on"), locked(lock, wait=0):
        pass
    process.kill()
    process.communicate()
    started = time.monotonic()
    with locked(lock):
        assert time.monotonic() - started < STALE_AGE / 3


def test_a_lock_that_was_taken_over_is_not_removed_by_its_former_holder(lock):
    with locked(lock):
        lock.write_text(ELSEWHERE)
    assert lock.read_text() == ELSEWHERE


def test_a_stale_lock_that_another_process_has_just_renewed_is_given_back(lock):
    lock.parent.mkdir()
    lock.write_text("new holder")
    locks._remove_stale(lock, "what was seen")
    assert lock.read_text() == "new holder"
    assert os.listdir(lock.parent) == [lock.name]


@pytest.mark.parametrize("stale", [False, True])
def test_of_many_threads_one_at_a_time_is_inside(lock, stale):
    """Also where all of them find a stale lock, each of which only one may take away."""
    lock.parent.mkdir()
    if stale:
        lock.write_text(ELSEWHERE)
        os.utime(lock, (0, 0))
    inside, most = 0, 0

    def enter():
        nonlocal inside, most
        with locked(lock):
            inside += 1
            most = max(most, inside)
            time.sleep(0.005)
            inside -= 1

    threads = [threading.Thread(target=enter) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1


def test_a_file_system_without_links_has_locks_too(lock, monkeypatch):
    def refused(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refused)
    with locked(lock):
        assert lock.read_text().startswith(f"{os.getpid()} ")
        with (
            pytest.raises(CheckpointError, match=f"by process {os.getpid()}"),
            locked(lock, wait=0),
        ):
            pass
        assert not locks._made_without_links(lock, "another")  # made since it was looked for
        assert lock.read_text().startswith(f"{os.getpid()} ")
    assert os.listdir(lock.parent) == []


def test_a_folder_that_cannot_be_written_to_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(CheckpointError, match=r"lock could not be written(.|\n)*may write to"),
        locked(tmp_path / "file" / "x.lock"),
    ):
        pass


ADDING = """
import sys
from pathlib import Path
from explorer.engine.estimate import Estimate
from explorer.engine.interventions import reinitialise
from explorer.engine.journal import Journal
start = int(sys.argv[2])
journal = Journal(Path(sys.argv[1]), {"content_hash": "abc"})
for k in range(start, start + 40):
    journal.add({reinitialise("layer1", k): Estimate(10, 10, k % 10, 0.5, 7, 0)})
"""


def test_two_processes_that_write_one_journal_lose_no_line(tmp_path):
    path = tmp_path / "cells.jsonl"
    command = [sys.executable, "-c", ADDING, str(path)]
    running = [subprocess.Popen([*command, str(start)]) for start in (0, 1000)]
    assert [process.wait(60) for process in running] == [0, 0]
    found = Journal(path, {"content_hash": "abc"}).finished
    numbers = [*range(40), *range(1000, 1040)]
    assert set(found) == {key(reinitialise("layer1", k)) for k in numbers}
    assert len(path.read_bytes().splitlines()) == 1 + len(numbers)
    assert os.listdir(tmp_path) == ["cells.jsonl"]


def test_a_line_that_another_process_left_half_written_is_removed_before_the_next(tmp_path):
    path = tmp_path / "cells.jsonl"
    journal = Journal(path, {"content_hash": "abc"})
    with path.open("ab") as stream:
        stream.write(b'{"cell": "half')
    one = Estimate(10, 10, 3, 0.5, 7, 0)
    journal.add({Intervention(()): one})
    assert list(Journal(path, {"content_hash": "abc"}).finished.values()) == [one]


def test_a_journal_that_cannot_be_written_to_is_read_all_the_same(tmp_path, monkeypatch):
    path = tmp_path / "cells.jsonl"
    one = Estimate(10, 10, 3, 0.5, 7, 0)
    Journal(path, {"content_hash": "abc"}).add({Intervention(()): one})

    def refused(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "write_text", refused)
    assert list(Journal(path, {"content_hash": "abc"}).finished.values()) == [one]
    with pytest.raises(CheckpointError, match=r"cells.jsonl cannot be used: .*Permission denied"):
        Journal(path, {"content_hash": "abc"}).add({Intervention(()): one})
