"""Files are verified before use, and written as a whole or not at all."""

from __future__ import annotations

import os

import pytest

from explorer.errors import CheckpointError
from explorer.inventory.placing import placed
from explorer.inventory.store import FileRecord, record_of, verified


@pytest.fixture
def record(tmp_path):
    (tmp_path / "a.bin").write_bytes(b"weights")
    return record_of(tmp_path, "a.bin")


def test_a_file_as_recorded_is_returned(record):
    assert verified(record) == record.path


def test_an_altered_file_of_the_same_size_is_refused_with_both_hashes(record):
    record.path.write_bytes(b"WEIGHTS")
    expected = f"(.|\n)*Expected sha256 {record.sha256}"
    with pytest.raises(CheckpointError, match=r"altered: sha256 [0-9a-f]{64}" + expected):
        verified(record)


def test_an_alteration_after_the_first_check_is_seen(record):
    verified(record)
    record.path.write_bytes(b"WEIGHTS")
    os.utime(record.path, ns=(1, 1))
    with pytest.raises(CheckpointError, match="has been altered"):
        verified(record)


def test_a_truncated_file_is_refused_with_both_sizes(record):
    record.path.write_bytes(b"wei")
    with pytest.raises(CheckpointError, match=r"has 3 bytes(.|\n)*7 bytes"):
        verified(record)


def test_a_missing_file_is_refused_with_what_to_do(tmp_path):
    record = FileRecord(tmp_path, "gone.bin", 7, "0" * 64)
    with pytest.raises(CheckpointError, match=r"gone.bin cannot be read(.|\n)*Put the file back"):
        verified(record)


def test_a_failed_write_leaves_the_old_file_and_no_stray(tmp_path):
    target = tmp_path / "result.nc"
    target.write_bytes(b"old")

    def write_half():
        with placed(target) as temporary:
            temporary.write_bytes(b"ne")
            raise ValueError("stopped")

    with pytest.raises(ValueError, match="stopped"):
        write_half()
    assert target.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["result.nc"]


def test_a_finished_write_replaces_the_old_file(tmp_path):
    target = tmp_path / "new" / "result.nc"
    for content in (b"one", b"two"):
        with placed(target) as temporary:
            temporary.write_bytes(content)
        assert target.read_bytes() == content
    assert os.listdir(target.parent) == ["result.nc"]


def test_a_folder_that_cannot_be_made_is_refused_in_three_parts(tmp_path):
    (tmp_path / "file").write_bytes(b"")

    def write_below_a_file():
        with placed(tmp_path / "file" / "result.nc") as temporary:
            temporary.write_bytes(b"x")

    with pytest.raises(
        CheckpointError, match=r"could not be written(.|\n)*may write to(.|\n)*Choose"
    ):
        write_below_a_file()


def test_a_full_disk_leaves_the_old_file_and_says_so(tmp_path):
    target = tmp_path / "result.nc"
    target.write_bytes(b"old")

    def write_too_much():
        with placed(target):
            raise OSError(28, "No space left on device")

    with pytest.raises(CheckpointError, match="No space left on device"):
        write_too_much()
    assert target.read_bytes() == b"old"
