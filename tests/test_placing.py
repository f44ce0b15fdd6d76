"""Files and folders appear as a whole or not at all, and what killed processes left is removed."""

from __future__ import annotations

import errno
import os
import threading
import time

import pytest

from explorer.errors import CheckpointError
from explorer.inventory import placing
from explorer.inventory.locks import locked
from explorer.inventory.placing import (
    STRAY_AGE,
    placed,
    placed_folder,
    put_back,
    sweep_strays,
)

OURS = ".result.nc.123-0a1b2c3d"
FORMER = ".copy.77-ffffffff.old"


def age(path, seconds=STRAY_AGE + 60):
    then = time.time() - seconds
    for each in (*path.rglob("*"), path):
        os.utime(each, (then, then))
    return path


def write(folder, content):
    with placed_folder(folder) as temporary:
        (temporary / "part").write_text(content)


@pytest.fixture
def flushed(monkeypatch):
    """Record what is flushed, renamed and in which order."""
    seen = []
    fsync, replace = os.fsync, os.replace

    def recorded_fsync(handle):
        seen.append(("flush", os.path.basename(os.readlink(f"/proc/self/fd/{handle}"))))
        fsync(handle)

    def recorded_replace(source, target):
        seen.append(("rename", target.name))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", recorded_fsync)
    monkeypatch.setattr(os, "replace", recorded_replace)
    return seen


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="names of handles are in /proc")
def test_a_file_is_flushed_before_it_is_renamed_and_its_name_after(tmp_path, flushed):
    with placed(tmp_path / "result.nc") as temporary:
        temporary.write_bytes(b"new")
    assert flushed == [("flush", temporary.name), ("rename", "result.nc"), ("flush", tmp_path.name)]


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="names of handles are in /proc")
def test_all_of_a_folder_is_flushed_before_it_is_renamed_and_its_name_after(tmp_path, flushed):
    with placed_folder(tmp_path / "copy") as temporary:
        (temporary / "inner").mkdir()
        (temporary / "inner" / "part").write_bytes(b"new")
    *before, rename, after = flushed
    assert {name for _, name in before} == {"part", "inner", temporary.name}
    assert (rename, after) == (("rename", "copy"), ("flush", tmp_path.name))


def test_a_file_system_that_cannot_flush_folders_does_for_the_rest(tmp_path, monkeypatch):
    original = os.fsync

    def fsync(handle):
        if os.path.isdir(f"/proc/self/fd/{handle}"):
            raise OSError(errno.EINVAL, "Invalid argument")
        original(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    with placed(tmp_path / "result.nc") as temporary:
        temporary.write_bytes(b"new")
    assert (tmp_path / "result.nc").read_bytes() == b"new"


@pytest.mark.parametrize(
    ("name", "swept"),
    [
        (OURS, True),
        (".copy.77-ffffffff", True),
        (".result.nc.123-0a1b2c3", False),
        (".result.nc.-0a1b2c3d", False),
        ("result.nc.123-0a1b2c3d", False),
        (".result.nc.123-0a1b2c3d.txt", False),
        (".result.nc.swp", False),
        (FORMER, False),  # nothing is in its place: it may be the only one
    ],
)
def test_only_old_temporaries_of_ours_are_swept(tmp_path, name, swept):
    path = tmp_path / name
    path.write_bytes(b"half")
    assert sweep_strays(tmp_path) == []  # fresh: somebody may be writing it
    age(path)
    assert sweep_strays(tmp_path) == ([path] if swept else [])
    assert path.exists() is not swept


def test_a_folder_that_is_still_written_to_is_not_swept(tmp_path):
    stray = tmp_path / ".copy.77-ffffffff"
    (stray / "layer1").mkdir(parents=True)
    age(stray)
    (stray / "layer1" / "chunk").write_bytes(b"")
    os.utime(stray, (0, 0))
    assert sweep_strays(tmp_path) == []
    age(stray)
    assert sweep_strays(tmp_path) == [stray]


def test_a_former_folder_is_swept_when_another_has_its_place(tmp_path):
    former = tmp_path / FORMER
    former.mkdir()
    (tmp_path / "copy").mkdir()
    age(former)
    assert sweep_strays(tmp_path) == [former]


def test_a_link_with_the_name_of_a_stray_is_removed_and_what_it_leads_to_kept(tmp_path):
    inner, precious = tmp_path / "inner", tmp_path / "precious"
    inner.mkdir()
    precious.mkdir()
    (precious / "file").write_bytes(b"keep")
    link = inner / OURS
    link.symlink_to(precious)
    os.utime(link, (0, 0), follow_symlinks=False)
    assert sweep_strays(inner) == [link]
    assert os.listdir(inner) == []
    assert (precious / "file").read_bytes() == b"keep"


def test_writing_sweeps_the_folder_first(tmp_path):
    stray = tmp_path / OURS
    stray.write_bytes(b"half")
    age(stray)
    with placed(tmp_path / "other.nc") as temporary:
        temporary.write_bytes(b"new")
    assert os.listdir(tmp_path) == ["other.nc"]


def test_the_folders_around_a_new_one_are_made(tmp_path):
    write(tmp_path / "new" / "inner" / "copy", "one")
    assert (tmp_path / "new" / "inner" / "copy" / "part").read_text() == "one"


def test_writing_a_folder_sweeps_the_one_around_it_first(tmp_path):
    stray = tmp_path / ".copy.77-ffffffff"
    stray.mkdir()
    age(stray)
    write(tmp_path / "other", "new")
    assert os.listdir(tmp_path) == ["other"]


def test_a_clock_that_was_set_back_sweeps_nothing(tmp_path, monkeypatch):
    stray = tmp_path / OURS
    stray.write_bytes(b"half")
    monkeypatch.setattr(time, "time", lambda: 1e12)  # and forward: the disk's own clock counts
    os.utime(stray, (4e9, 4e9))
    assert sweep_strays(tmp_path) == []


def test_a_process_that_is_killed_between_two_renames_has_moved_nothing_for_good(
    tmp_path, monkeypatch
):
    target = tmp_path / "copy"
    write(target, "one")
    original = os.replace

    def killed(source, to):
        original(source, to)
        raise SystemExit("killed")  # after the old one has been moved aside

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", killed)
        patch.setattr(placing.shutil, "rmtree", lambda *_, **__: None)
        with pytest.raises(SystemExit, match="killed"):
            write(target, "two")
    assert not target.exists()
    put_back(target)
    assert (target / "part").read_text() == "one"
    write(target, "three")
    assert (target / "part").read_text() == "three"


def test_of_two_former_folders_the_latest_comes_back(tmp_path):
    for name, seconds in ((".copy.9-aaaaaaaa.old", 60), (".copy.8-bbbbbbbb.old", 600)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "part").write_text(f"{seconds} s ago")
        age(tmp_path / name, seconds)
    put_back(tmp_path / "copy")
    assert (tmp_path / "copy" / "part").read_text() == "60 s ago"


@pytest.mark.parametrize(("left", "act"), [("copy", write), (FORMER, put_back)])
def test_between_its_two_renames_a_folder_is_one_process_s_alone(tmp_path, left, act):
    (tmp_path / left).mkdir()
    target = tmp_path / "copy"
    acting = threading.Thread(target=act, args=(target, "new") if act is write else (target,))
    with locked(tmp_path / ".copy.lock"):
        acting.start()
        acting.join(0.3)
        assert acting.is_alive()
        assert (tmp_path / left).exists()
        assert not (target / "part").exists()
    acting.join(30)
    assert target.exists()
    assert os.listdir(tmp_path) == ["copy"]


def test_what_fails_in_between_keeps_its_own_words(tmp_path):
    def write_while_reading_fails():
        with placed(tmp_path / "copy.nc"):
            raise CheckpointError("epoch-0003 is damaged.", "A whole one.", "Fetch it again.")

    with pytest.raises(CheckpointError, match=r"^epoch-0003 is damaged\.\nA whole"):
        write_while_reading_fails()
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("step", ["write", "fsync", "replace"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_disk_that_is_full_at_any_step_leaves_the_old_file(tmp_path, monkeypatch, step, code):
    target = tmp_path / "result.nc"
    target.write_bytes(b"old")

    def full(*_):
        raise OSError(code, os.strerror(code))

    def attempt():
        with placed(target) as temporary:
            if step == "write":
                full()
            temporary.write_bytes(b"new")

    with monkeypatch.context() as patch:
        if step != "write":
            patch.setattr(os, step, full)
        with pytest.raises(
            CheckpointError,
            match=rf"result.nc could not be written: {os.strerror(code)}\.\n"
            r".*on a disk with room, is needed\.\nFree some space.*was there before is as it was",
        ):
            attempt()
    assert target.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["result.nc"]


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_disk_that_is_full_at_any_step_leaves_the_old_folder(tmp_path, monkeypatch, step):
    target = tmp_path / "copy"
    write(target, "old")

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, step, full)
        with pytest.raises(CheckpointError, match=r"copy could not be written: No space left"):
            write(target, "new")
    assert (target / "part").read_text() == "old"
    assert os.listdir(tmp_path) == ["copy"]


def test_a_folder_that_cannot_take_its_place_gives_it_back_to_the_former_one(tmp_path, monkeypatch):
    target = tmp_path / "copy"
    write(target, "old")
    original = os.replace

    def refused(source, to):
        if to == target and not source.name.endswith(".old"):
            raise OSError(errno.ENOSPC, "No space left on device")
        original(source, to)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", refused)
        with pytest.raises(CheckpointError, match="copy could not be written: No space left"):
            write(target, "new")
    assert (target / "part").read_text() == "old"
    assert os.listdir(tmp_path) == ["copy"]
