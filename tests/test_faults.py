"""Faults of the machine: full, read-only, forbidden, gone, out of memory, a clock set back.

Each ends in a message with three parts, and nothing that was there is lost.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from bokeh.plotting import figure
from ipywidgets.widgets.widget import _instances

import explorer as lx
from explorer.engine.journal import Journal
from explorer.engine.memory import is_out_of_memory
from explorer.errors import CheckpointError, ManifestError
from explorer.inventory import locks, store
from explorer.inventory.hdf5 import PatientFile
from explorer.inventory.locks import locked
from explorer.inventory.placing import STRAY_AGE, sweep_strays
from explorer.stats import blocks
from explorer.ui import background
from explorer.ui.live import LiveBokeh
from explorer.ui.panel_pane import PanelPane
from explorer.ui.panels import PANELS
from explorer.weights import safetensors_file
from explorer.weights.stack import read_epoch
from tests import toy
from tests.conftest import copy_bundled
from tests.writers import ORIGIN, WRITERS, digest

NOBODY = 65_534
"""A user without rights, where the tests run as one whom no permission stops."""

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="mounts and limits are Linux's here")


def parts_of(error):
    """The three parts of a message, none of them empty."""
    came, accepted, advice = str(error).split("\n")
    assert came
    assert accepted
    assert advice
    return came, accepted, advice


def mounted(*arguments):
    done = subprocess.run(["mount", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"no file system can be mounted here: {done.stderr.strip()}")


@pytest.fixture
def disk(tmp_path):
    """A file system of 24 MB of its own, in memory."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if shutil.which("mount") is None:
        pytest.skip("there is no mount")
    mounted("-t", "tmpfs", "-o", "size=24m", "tmpfs", str(folder))
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture(scope="module")
def writers():
    return {name: make() for name, make in WRITERS.items()}


def fill(folder):
    """Leave not a byte."""
    with (folder / "filler").open("wb", buffering=0) as stream, contextlib.suppress(OSError):
        while stream.write(bytes(4096)):
            pass


def refused(writer, folder):
    """What a writer says; a journal may still find room in its last block."""
    for number in range(7, 12):
        try:
            writer.write(folder, number)
        except CheckpointError as error:
            return error
    raise AssertionError("it was written all the same")


# --- a disk that is full --------------------------------------------------------------------------


@LINUX
def test_a_disk_that_is_really_full_leaves_what_was_there_and_is_told(disk, writers):
    for name, writer in writers.items():
        (disk / name).mkdir()
        writer.write(disk / name, 1)
    before = {name: digest(disk / name) for name in writers if name != "journals"}
    fill(disk)
    assert shutil.disk_usage(disk).free == 0
    for name, writer in writers.items():
        came, accepted, advice = parts_of(refused(writer, disk / name))
        assert "No space left on device" in came, name
        assert "on a disk with room, is needed" in accepted
        assert "is as it was" in advice or "is kept" in advice
        assert writer.read(disk / name) >= 1
        assert name not in before or digest(disk / name) == before[name]
    (disk / "filler").unlink()
    for name, writer in writers.items():  # and when there is room again, work goes on
        writer.write(disk / name, 20)
        assert writer.read(disk / name) == 20


def test_what_did_not_fit_is_read_back_as_it_was_written(tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.write_bytes(b"0123456789")
    with PatientFile(path) as stream:
        monkeypatch.setattr(stream, "_file", Full(stream._file))
        stream.seek(8)
        assert stream.write(b"abcd") == 4
        stream.seek(20)
        stream.write(b"ef")
        stream.seek(9)
        stream.write(b"B")
        assert stream.tell() == 10
        buffer = bytearray(24)
        stream.seek(0)
        assert stream.readinto(buffer) == 24
        assert bytes(buffer) == b"01234567aBcd" + bytes(8) + b"ef" + bytes(2)
        stream.seek(9)
        assert stream.readinto(middle := bytearray(2)) == 2
        assert (bytes(middle), stream.tell()) == (b"Bc", 11)
        with pytest.raises(OSError, match="full"):
            stream.check()
    assert path.read_bytes() == b"0123456789"


class Full:
    """A file on a disk that has become full."""

    def __init__(self, file):
        self._file = file

    def __getattr__(self, name):
        return getattr(self._file, name)

    def write(self, data):
        raise OSError("full")


@LINUX
def test_training_on_a_disk_that_fills_up_says_so_and_goes_on_when_there_is_room(disk, tmp_path):
    options = {"device": "cpu", "progress": False, "epochs": 2}
    options["settings"] = {"width": 64, "batch_size": 256, "keep": [0, 1, 2]}
    wanted = lx.train("fcn3x256-digits", out=tmp_path / "whole", **options)
    room = sum(path.stat().st_size for path in wanted.glob("epoch-*.safetensors"))
    (disk / "filler").write_bytes(bytes(shutil.disk_usage(disk).free - int(room * 0.8)))
    with pytest.raises(CheckpointError, match="No space left on device") as told:
        lx.train("fcn3x256-digits", out=disk / "run", **options)
    assert "what was there before is as it was" in parts_of(told.value)[2]
    (disk / "filler").unlink()
    again = lx.train("fcn3x256-digits", out=disk / "run", **options)
    for path in wanted.glob("epoch-*.safetensors"):
        assert (again / path.name).read_bytes() == path.read_bytes()


# --- a folder that may only be read ---------------------------------------------------------------


@LINUX
def test_a_file_system_that_may_only_be_read_is_told_and_can_be_read(disk, writers):
    for name, writer in writers.items():
        (disk / name).mkdir()
        writer.write(disk / name, 1)
    copied = copy_bundled(disk / "stack")
    before = digest(disk)
    mounted("-o", "remount,ro", str(disk))
    for name, writer in writers.items():
        came, accepted, advice = parts_of(refused(writer, disk / name))
        assert "Read-only file system" in came, name
        assert "that you may write to" in accepted
        assert "permissions" in advice or "another path" in advice
        if name != "journals":  # which is read all the same where it holds the wanted cells
            assert writer.read(disk / name) == 1
    assert len(Journal(disk / "journals" / "cells.jsonl", ORIGIN).finished) == 30
    stack = lx.open_stack(copied)
    assert read_epoch(stack, 0)
    for attempt in (
        lambda: lx.train("fcn3x256-digits", out=disk / "run", device="cpu", progress=False),
        lambda: lx.sweep(stack, store=disk / "cells", device="cpu", progress=False),
    ):
        with pytest.raises(CheckpointError, match="Read-only file system") as told:
            attempt()
        parts_of(told.value)
    assert digest(disk) == before


@contextlib.contextmanager
def as_nobody():
    """Act as a user whom permissions stop."""
    if os.geteuid():
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def reachable():
    """A folder that every user may enter; pytest's own are closed to others."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    subprocess.run(["chmod", "-R", "u+rwX", str(folder)], check=True)
    shutil.rmtree(folder)


POSIX = pytest.mark.skipif(os.name != "posix", reason="permission bits are POSIX's")


@POSIX
def test_a_folder_without_permission_to_write_is_told_by_every_writer(reachable, writers):
    for name, writer in writers.items():
        (reachable / name).mkdir()
        writer.write(reachable / name, 1)
        (reachable / name).chmod(0o555)
    before = digest(reachable)
    for name, writer in writers.items():
        with as_nobody():
            error = refused(writer, reachable / name)
        came, accepted, advice = parts_of(error)
        assert "Permission denied" in came, name
        assert "that you may write to" in accepted
        assert "permissions" in advice or "another path" in advice
    assert digest(reachable) == before


# --- a file that may not be read, or goes ---------------------------------------------------------


def forbid(path):
    path.chmod(0)


@POSIX
def test_a_checkpoint_that_may_not_be_read_marks_its_column_and_says_why(reachable):
    folder = copy_bundled(reachable / "copy")
    options = {"draws": 0, "device": "cpu", "progress": False}
    lx.sweep(lx.open_stack(folder), epochs=[90], **options)  # which imports all that is needed
    forbid(folder / "epoch-0001.safetensors")
    store._sha256.cache_clear()
    with as_nobody():
        stack = lx.open_stack(folder)
        with pytest.raises(CheckpointError, match=r"epoch-0001.*Permission denied") as told:
            read_epoch(stack, 1)
        assert read_epoch(stack, 2)
        found = lx.sweep(stack, epochs=[0, 1, 90], **options)
    assert "Correct its permissions" in parts_of(told.value)[2]
    assert np.isfinite(found["error"].sel(epoch=[0, 90])).all()
    assert found["error"].sel(epoch=1).isnull().all()
    assert all("Permission denied" in str(why) for why in found["reason"].sel(epoch=1).values)


def loose(path):
    WRITERS["checkpoints"]().write(path.parent, 1)


def saved(path):
    lx.save_stack(lx.open_stack(toy.switch_states()), path)


READ = {
    "stack.json": (
        lambda path: (path.parent.rmdir(), copy_bundled(path.parent)),
        lambda path: lx.open_stack(path.parent),
        ManifestError,
    ),
    "epoch-0001.safetensors": (loose, lx.open_stack, CheckpointError),
    "state.pt": (
        lambda path: torch.save(toy.switch_state(1.0, 2.0), path),
        lx.open_stack,
        CheckpointError,
    ),
    "copy.nc": (saved, lx.open_stack, CheckpointError),
    "sweep.nc": (
        lambda path: WRITERS["results"]().write(path.parent, 1),
        lambda path: WRITERS["results"]().read(path.parent),
        CheckpointError,
    ),
    "cells": (
        lambda path: Journal(path, ORIGIN),
        lambda path: Journal(path, ORIGIN),
        CheckpointError,
    ),
    ".training-state.safetensors": (
        lambda path: WRITERS["states"]().write(path.parent, 1),
        lambda path: WRITERS["states"]().read(path.parent),
        CheckpointError,
    ),
}
"""Name of a file → how it is made, how it is opened, and what the error is."""


@POSIX
@pytest.mark.parametrize("name", READ)
def test_what_may_not_be_read_is_told_with_its_name(reachable, name):
    make, open_it, kind = READ[name]
    path = reachable / "inner" / name
    path.parent.mkdir()
    make(path)
    forbid(path)
    with as_nobody(), pytest.raises(kind, match=path.name) as told:
        open_it(path)
    assert "ermission" in str(told.value)
    parts_of(told.value)


class Vanishing:
    """Have a file go just before it is opened for the n-th time."""

    def __init__(self, monkeypatch, path, at):
        self.left = at
        original = Path.open

        def opened(self_, *arguments, **options):
            if self_ == path:
                self.left -= 1
                if self.left == 0:
                    path.unlink()
            return original(self_, *arguments, **options)

        monkeypatch.setattr(Path, "open", opened)


@pytest.mark.parametrize("at", [1, 2, 3])
@pytest.mark.parametrize("manifest", [True, False])
def test_a_file_that_goes_between_a_look_and_the_read_is_an_error_and_not_a_crash(
    copied, monkeypatch, at, manifest
):
    """Opened for its hash, for its header, for its values."""
    if not manifest:
        (copied / "stack.json").unlink()
    stack = lx.open_stack(copied)
    store._sha256.cache_clear()
    safetensors_file._header.cache_clear()
    path = copied / "epoch-0002.safetensors"
    vanishing = Vanishing(monkeypatch, path, at)
    with pytest.raises(CheckpointError, match=r"epoch-0002.*No such file") as told:
        read_epoch(stack, 2)
    assert vanishing.left == 0
    parts_of(told.value)
    assert read_epoch(stack, 8)


# --- too little memory ----------------------------------------------------------------------------

SCARCE = """
import resource, sys
import torch
import xarray as xr
from bokeh.plotting import figure
from ipywidgets.widgets.widget import _instances
import explorer as lx
from explorer.engine.evaluator import Evaluator
from tests import naive

class Wide(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = torch.nn.Conv2d(1, 64, 3), torch.nn.Linear(64, 3)
    def forward(self, x):
        return self.second(torch.relu(self.first(x)).amax((2, 3)))

torch.manual_seed(0)
nets = [Wide() for _ in range(2)]
data = torch.randn(256, 1, 34, 34), torch.randint(0, 3, (256,))
stack = lx.open_stack([net.state_dict() for net in nets], model=nets[1])
run = Evaluator(stack, model=nets[1], data=data, device="cpu", memory=1_000_000_000,
                batch_size=256)
cell = lx.reinitialise("first", 0)
before = {name: tensor.clone() for name, tensor in nets[1].state_dict().items()}
small = [bytes(400) for _ in range(20_000)]
held = small[::2000]  # Python keeps what lies between for its own: without room for an exception
del small  # it would end the process
now = int(open("/proc/self/statm").read().split()[0]) * 4096
room = int(sys.argv[1])
resource.setrlimit(resource.RLIMIT_AS, (now + room, resource.RLIM_INFINITY))
try:
    *_, last = run.estimates(cell)
    print(last.total, last.errors, run.batch_size)
except Exception as error:
    print(type(error).__name__, *str(error).splitlines())
resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
*_, last = run.estimates(cell)
nets[1].load_state_dict(nets[0].state_dict() | {k: v for k, v in before.items() if "second" in k})
wrong = int((nets[1](data[0]).argmax(1) != data[1]).sum())
print(last.errors == wrong, all(torch.equal(run.network._state[n], t) for n, t in before.items()))
"""


@LINUX
@pytest.mark.parametrize("room", [pytest.param(60_000_000, marks=pytest.mark.slow), 100_000])
def test_memory_that_really_runs_out_ends_in_fewer_examples_or_a_message(room):
    """256 examples take 67 MB at once; the system itself refuses them."""
    done = subprocess.run(
        [sys.executable, "-c", SCARCE, str(room)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    *said, after = done.stdout.splitlines()
    if room < 1_000_000:
        assert any(words in said[0] for words in ("allocate memory", "out of memory")), said
    else:
        total, _errors, batch = map(int, said[0].split())
        assert total == 256
        assert batch < 256
    assert after == "True True"  # the right count when there is memory again, the model as before


@pytest.mark.parametrize(
    "words", ["can't allocate memory: 1 bytes", "could not create a primitive"]
)
def test_what_torch_and_the_library_below_it_say_of_too_little_memory_is_understood(words):
    assert is_out_of_memory(RuntimeError(words))
    assert not is_out_of_memory(RuntimeError("shapes do not fit"))


# --- a thread that raises -------------------------------------------------------------------------


def test_a_thread_that_reads_ahead_and_fails_hands_its_error_over_and_ends(monkeypatch):
    stack = lx.open_stack(toy.switch_states())
    before = threading.active_count()
    inside = []

    def broken(*_arguments):
        inside.append(threading.current_thread())
        raise RuntimeError("a thread of its own")

    monkeypatch.setattr(blocks.LayerWeights, "at", broken)
    with pytest.raises(RuntimeError, match="a thread of its own"):
        lx.distances(stack)
    assert threading.main_thread() not in inside
    assert threading.active_count() == before


@pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("broken", ["open_evaluator", "measure_distances", "find_order"])
def test_a_thread_of_the_explorer_that_fails_says_so_and_the_next_click_is_answered(
    on_bench, monkeypatch, caplog, broken
):
    bench = on_bench()
    original = getattr(background, broken)

    def fails(*_arguments, **_options):
        raise RuntimeError("in a thread")

    monkeypatch.setattr(background, broken, fails)
    bench.session.rest()
    if broken == "measure_distances":
        bench.session._moved.epochs = []
        bench.session._moved.measure()
    elif broken == "find_order":
        bench.shown._find_order()
    else:
        bench.tap(0, 0)
    bench.wait()
    bench.eventually(lambda: bench.alert == "RuntimeError: in a thread")
    assert "Traceback" in caplog.text
    monkeypatch.setattr(background, broken, original)
    bench.tap(0, 0)
    bench.wait()
    assert bench.alert == ""
    assert bench.in_cell("first ← epoch 0") == "42"
    assert not bench.session.alive


# --- a clock that is set back ---------------------------------------------------------------------


class Clock:
    """A clock that jumps back by an hour each time it is looked at, in the middle of all work."""

    def __init__(self):
        self.now = 2e9

    def __call__(self):
        self.now -= 3600.0
        return self.now


def test_a_sweep_while_the_clock_is_set_back_gives_the_same_numbers(bundled, tmp_path, monkeypatch):
    options = {"epochs": [0, 90], "draws": 1, "device": "cpu", "progress": False}
    wanted = lx.sweep(bundled, store=tmp_path / "before", **options)
    monkeypatch.setattr(time, "time", Clock())
    found = lx.sweep(bundled, store=tmp_path / "cells", **options)
    assert found.drop_attrs().equals(wanted.drop_attrs())
    assert (tmp_path / "cells").read_bytes() == (tmp_path / "before").read_bytes()
    assert lx.sweep(bundled, store=tmp_path / "cells", **options).identical(found)


def test_what_was_altered_by_a_clock_set_back_is_seen(copied):
    """The time of a change need only be another one, not a later one."""
    stack = lx.open_stack(copied)
    path = copied / "epoch-0001.safetensors"
    assert read_epoch(stack, 1)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    os.utime(path, (0, 0))
    with pytest.raises(CheckpointError, match=r"epoch-0001.safetensors has been altered"):
        read_epoch(stack, 1)


def test_a_fresh_temporary_file_is_not_swept_and_an_old_one_is_by_a_wrong_clock(
    tmp_path, monkeypatch
):
    fresh, old = tmp_path / ".a.nc.1-0a1b2c3d", tmp_path / ".b.nc.2-0a1b2c3d"
    for path in (fresh, old):
        path.write_bytes(b"half")
    then = time.time() - 2 * STRAY_AGE
    os.utime(old, (then, then))
    for clock in (lambda: 0.0, lambda: 4e9):
        monkeypatch.setattr(time, "time", clock)
        sweep_strays(tmp_path)
        assert fresh.exists()
        assert not old.exists()


def test_a_lock_from_a_future_that_was_taken_back_is_taken_over(tmp_path, monkeypatch):
    """Its file is stamped a day ahead: its age never shows, but that nobody touches it does."""
    monkeypatch.setattr(locks, "STALE_AGE", 0.3)
    monkeypatch.setattr(locks, "LOOK", 0.05)
    lock = tmp_path / ".cells.lock"
    lock.write_text("123 abcdef another-machine boot pid:[1]")
    os.utime(lock, (time.time() + 86_400,) * 2)
    with locked(lock, wait=60):
        assert lock.read_text().startswith(f"{os.getpid()} ")


def test_a_lock_from_a_future_that_is_still_held_is_not_taken_over(tmp_path, monkeypatch):
    monkeypatch.setattr(locks, "STALE_AGE", 0.6)
    monkeypatch.setattr(locks, "LOOK", 0.02)
    lock = tmp_path / ".cells.lock"
    lock.write_text("123 abcdef another-machine boot pid:[1]")
    ended = threading.Event()

    def beat():
        for ahead in range(1, 10_000):
            os.utime(lock, (time.time() + 86_400 + ahead,) * 2)
            if ended.wait(0.02):
                return

    holder = threading.Thread(target=beat)
    holder.start()
    try:
        with (
            pytest.raises(CheckpointError, match="process 123 on another-machine"),
            locked(lock, wait=1.5),
        ):
            pass
    finally:
        ended.set()
        holder.join()


# --- a page that is reloaded ----------------------------------------------------------------------


@pytest.mark.parametrize("times", [1, 3])
def test_after_other_settings_every_widget_can_be_drawn_again_and_none_is_left(on_bench, times):
    """A reloaded page asks for the state of all of them at once, and shows none if one fails."""
    others = set(_instances)
    bench = on_bench()
    at_first = len(_instances) - len(others)
    for draws in range(1, times + 1):
        bench.explorer._apply(replace(bench.explorer._settings, draws=draws))
        bench.wait()
        bench.eventually(lambda: bench.session.distances is not None)
    new = [widget for key, widget in _instances.items() if key not in others]
    for widget in new:
        widget.get_state()
    assert at_first > 100
    assert len(new) <= at_first  # one explorer's in place of one


def test_a_panel_s_figures_that_go_leave_nothing_around_them_that_a_page_would_ask_for(
    on_bench, monkeypatch
):
    """The first has other parts the second time, and the second is not wanted any more."""
    bench = on_bench()
    shapes = iter([("line", "line"), ("scatter",), ("scatter", "line")])

    def figures(_shown):
        plots = {figure(height=50): kind for kind in next(shapes)}
        for plot, kind in plots.items():
            getattr(plot, kind)([0], [0])
        return list(plots)

    panel = replace(
        PANELS[0],
        csv=(),
        show=lambda _found: None,
        figures=figures,
        names=lambda _found: ("one", "two")[: len(pane.figures)],
        table=lambda _shown: "",
    )
    pane = PanelPane(panel, bench.shown._around())
    bench.session.found[panel.kind] = xr.Dataset()
    original = LiveBokeh.close

    def close(view):
        around = [one for one in _instances.values() if view in getattr(one, "children", ())]
        assert around == [], "a page that is reloaded now would not find it"
        original(view)

    counts = []
    for _ in range(3):
        with monkeypatch.context() as patch, bench.session.lock:
            patch.setattr(LiveBokeh, "close", close)
            pane.paint()
        for widget in tuple(_instances.values()):
            widget.get_state()
        counts.append((len(pane.figures), len(_instances)))
    assert [figures for figures, _ in counts] == [2, 1, 2]
    assert counts[0][1] == counts[2][1]
    pane.close()
