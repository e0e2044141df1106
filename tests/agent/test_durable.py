"""Files are wholly there or not at all."""

import os
from pathlib import Path

import pytest

from sync.agent import durable


def test_publish_replaces_a_file_in_one_step(tmp_path: Path) -> None:
    staging = durable.staging_directory(tmp_path)
    target = tmp_path / "served"
    target.write_bytes(b"old")
    held_open = target.open("rb")
    new = durable.temporary_in(staging)
    new.write_bytes(b"new")
    durable.publish(new, target, mtime_seconds=1000)
    assert held_open.read() == b"old"
    held_open.close()
    assert (target.read_bytes(), target.stat().st_mtime) == (b"new", 1000)
    assert target.stat().st_mode & 0o777 == 0o644


def test_staging_is_private_and_forgets_what_a_killed_process_left(tmp_path: Path) -> None:
    staging = durable.staging_directory(tmp_path)
    durable.temporary_in(staging).write_bytes(b"half")
    assert durable.staging_directory(tmp_path).stat().st_mode & 0o777 == 0o700
    assert [path.name for path in staging.iterdir()] == []


def test_failed_publish_bytes_leaves_the_old_file_and_no_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "status.json"
    durable.publish_bytes(b"old", target)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        durable.publish_bytes(b"new", target)
    assert target.read_bytes() == b"old"
    assert [path.name for path in tmp_path.iterdir()] == ["status.json"]


def test_link_replaces_file_and_link_in_one_step(tmp_path: Path) -> None:
    staging = durable.staging_directory(tmp_path)
    (tmp_path / "name").write_bytes(b"a file before")
    for target in ("first", "second"):
        durable.publish_link(target, tmp_path / "name", staging)
        assert str((tmp_path / "name").readlink()) == target
    assert [path.name for path in staging.iterdir()] == []


def test_space_floor_names_directory_and_remedy(tmp_path: Path) -> None:
    durable.require_free_space(tmp_path, 0)
    with pytest.raises(durable.NoSpaceError, match="freeSpaceFloorBytes"):
        durable.require_free_space(tmp_path, 1 << 60)


def test_removing_what_is_gone_is_fine(tmp_path: Path) -> None:
    durable.remove(tmp_path / "never-was")
