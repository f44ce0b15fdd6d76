"""Whatever bytes come in: it works, or it is refused in our words. See docs/decisions/0021."""

from __future__ import annotations

import logging
import os
import random
import socket
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from explorer.errors import CheckpointError, ExplorerError
from explorer.inventory.hub_folder import Revision, checked
from tests.fuzz import bundles
from tests.fuzz.limits import PromiseError, hold
from tests.fuzz.mutators import mutated
from tests.fuzz.targets import CORPUS, CRASHES, TARGETS, inputs_of, promise

AT_LEAST_KEPT = 100
"""Inputs that the corpus has at least: a test of nothing finds nothing."""

KNOWN_CRASHES = [path for name in TARGETS for path in inputs_of(name, CRASHES)]


@pytest.fixture(autouse=True, scope="module")
def silence() -> Iterator[None]:
    """Warnings of our log on what cannot be used, of which fuzzing makes thousands."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(before)


def check_changed(target: str, examples: int, root: Path) -> None:
    """Give so many changed inputs, and a few of random bytes, to a target."""
    kept = [path.read_bytes() for path in inputs_of(target)]
    changed = st.builds(
        lambda data, seed: mutated(data, random.Random(seed)),
        st.sampled_from(kept),
        st.integers(0, 2**32),
    )

    @settings(
        max_examples=examples,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.one_of(changed, changed, changed, st.binary(max_size=300)))
    def holds(data: bytes) -> None:
        promise(target, data, root)

    holds()


@pytest.mark.parametrize("target", TARGETS)
def test_every_kept_input_keeps_the_promise(target: str, tmp_path: Path) -> None:
    for path in inputs_of(target):
        promise(target, path.read_bytes(), tmp_path)


@pytest.mark.parametrize("path", KNOWN_CRASHES, ids=lambda path: f"{path.parent.name}-{path.name}")
def test_what_once_broke_a_promise_keeps_it(path: Path, tmp_path: Path) -> None:
    promise(path.parent.name, path.read_bytes(), tmp_path)


@pytest.mark.parametrize("target", TARGETS)
def test_changed_inputs_keep_the_promise(target: str, tmp_path: Path) -> None:
    check_changed(target, TARGETS[target].examples, tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("target", TARGETS)
def test_many_changed_inputs_keep_the_promise(target: str, tmp_path: Path) -> None:
    check_changed(target, 50 * TARGETS[target].examples, tmp_path)


def test_the_corpus_is_there_and_small() -> None:
    kept = [path for target in TARGETS for path in inputs_of(target)]
    assert len(kept) >= AT_LEAST_KEPT
    assert all(inputs_of(target) for target in TARGETS)
    assert len(KNOWN_CRASHES) >= 60
    folders = (CORPUS, CRASHES)
    size = sum(path.stat().st_size for folder in folders for path in folder.rglob("*"))
    assert size < 600_000


@pytest.mark.parametrize("target", [name for name in TARGETS if name != "dataset"])
def test_the_seeds_of_a_target_get_to_its_end(target: str, tmp_path: Path) -> None:
    seeds = [path for path in inputs_of(target) if path.name.startswith("seed-")]
    outcomes = [promise(target, path.read_bytes(), tmp_path) for path in seeds]
    worked = sum(outcome is None for outcome in outcomes)
    assert worked or target == "manifest"  # whose checkpoint files are not in the corpus


def test_a_bundle_is_a_folder_and_cannot_leave_it(tmp_path: Path) -> None:
    files = [(b"a/b.pt", b"1"), (b"../c.pt", b"2"), (b"/d.pt", b"3"), (b"e\0.pt", b"4")]
    assert bundles.unpacked(bundles.packed(files)) == files
    bundles.write(bundles.packed(files), tmp_path)
    assert {p.name for p in tmp_path.rglob("*.pt")} == {"b.pt", "d.pt", "e.pt"}
    assert not (tmp_path.parent / "c.pt").exists()


# --- that each promise can be broken --------------------------------------------------------------


def wrong_class(data: bytes, folder: Path) -> None:
    raise KeyError("epoch")


def no_advice(data: bytes, folder: Path) -> None:
    raise CheckpointError("It came.", "This is accepted.", " ")


def writes_outside(data: bytes, folder: Path) -> None:
    (folder.parent / "outside").write_bytes(data)


def moves_outside(data: bytes, folder: Path) -> None:
    (folder / "a").write_bytes(data)
    (folder / "a").rename(folder.parent / "moved")


def starts_a_program(data: bytes, folder: Path) -> None:
    subprocess.run([sys.executable, "-c", ""], check=True)


def calls_others(data: bytes, folder: Path) -> None:
    with socket.socket() as caller:
        caller.settimeout(0.1)
        caller.connect_ex(("127.0.0.1", 9))


def takes_long(data: bytes, folder: Path) -> None:
    start = time.process_time()
    while time.process_time() < start + 1.1:
        pass


def floods(data: bytes, folder: Path) -> None:
    for k in range(30):
        warnings.warn(f"number {k}", stacklevel=1)


def allocates(data: bytes, folder: Path) -> None:
    np.empty(10**9, dtype=np.uint8)


@pytest.mark.parametrize(
    ("harness", "match"),
    [
        (wrong_class, r"KeyError: 'epoch'"),
        (no_advice, r"lacks one of its three parts"),
        (writes_outside, r"open .*outside"),
        (moves_outside, r"os\.rename .*moved"),
        (starts_a_program, r"subprocess\.Popen"),
        (calls_others, r"socket\.connect"),
        (takes_long, r"It took \d+\.\d s"),
        (floods, r"warned 30 times"),
        pytest.param(
            allocates,
            r"wanted more than 200000000 bytes",
            marks=pytest.mark.skipif(
                os.name != "posix" or sys.platform == "darwin", reason="Linux"
            ),
        ),
    ],
)
def test_a_broken_promise_is_noticed(harness, match: str, tmp_path: Path) -> None:
    with pytest.raises(PromiseError, match=match):
        hold(harness, b"x", tmp_path)


def test_our_errors_are_let_through_and_the_folder_is_removed(tmp_path: Path) -> None:
    def refuses(data: bytes, folder: Path) -> None:
        (folder / "file").write_bytes(data)
        raise CheckpointError("It came.", "This is accepted.", "Do that.")

    assert isinstance(hold(refuses, b"x", tmp_path), ExplorerError)
    assert list(tmp_path.iterdir()) == []


def test_a_commit_of_the_hub_cannot_be_a_path() -> None:
    assert checked(Revision("owner/name", "main", "0" * 40)).commit == "0" * 40
    with pytest.raises(ValueError, match=r"'\.\./\.\./x', which is no hash"):
        checked(Revision("owner/name", "main", "../../x"))


def test_a_message_is_short_and_does_not_control_the_terminal() -> None:
    error = CheckpointError("\x1b[2J" + "x" * 9000, "a\ud800b\u00e9", "two\nlines")
    assert len(str(error)) < 2200
    assert str(error).startswith(r"\x1b[2J")
    assert "a\\ud800b\u00e9\ntwo\nlines" in str(error)
    assert error.came == error.args[0]
