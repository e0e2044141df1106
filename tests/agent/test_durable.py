"""Files are wholly there or not at all."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
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


# Folders


def folder_of(parent: Path, *names: str) -> Path:
    folder = durable.temporary_in(parent)
    folder.mkdir()
    for name in names:
        (folder / name).symlink_to(name)
    return folder


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.mark.parametrize("exchanges", [True, False], ids=["exchange", "two renames"])
@pytest.mark.parametrize("before", ["nothing", "folder", "file", "link"])
def test_folder_takes_any_place_with_its_own_time(
    before: str, exchanges: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not exchanges:
        monkeypatch.setattr(durable, "exchange", lambda *_: False)
    staging, place = durable.staging_directory(tmp_path), tmp_path / "place é"
    if before == "folder":
        folder_of(tmp_path, "old", "both").rename(place)
    elif before == "file":
        place.write_bytes(b"x")
    elif before == "link":
        place.symlink_to("/etc")
    new = folder_of(staging, "both", "new")
    durable.set_time(new, 1000)
    durable.publish_directory(new, place, tmp_path)
    assert names_in(place) == {"both", "new"}
    assert not place.is_symlink()
    assert place.stat().st_mtime == 1000
    assert names_in(staging) == set()


@pytest.mark.parametrize("killed_at", range(7))
def test_folder_that_a_kill_left_without_its_name_gets_it_back(
    killed_at: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    staging, place = durable.staging_directory(tmp_path), tmp_path / "place"
    folder_of(tmp_path, "old").rename(place)
    new = folder_of(staging, "new")
    note, old = (staging / f"{new.name}{end}" for end in (".place", ".old"))
    steps: list[Callable[[], object]] = [
        lambda: note.write_bytes(b""),  # not durable when the power went
        lambda: note.write_bytes(b"place"),
        lambda: place.rename(old),
        lambda: new.rename(place),
        note.unlink,
        lambda: durable.discard(old),
    ]
    for step in steps[:killed_at]:
        step()
    durable.staging_directory(tmp_path)
    assert names_in(place) == ({"old"} if killed_at < 3 else {"new"})
    assert names_in(staging) == set()


def test_folder_that_can_not_be_placed_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(durable, "exchange", lambda *_: False)
    staging, place = durable.staging_directory(tmp_path), tmp_path / "place"
    folder_of(tmp_path, "old").rename(place)
    new = folder_of(staging, "new")
    rename = Path.rename

    def fails(path: Path, target: Path) -> Path:
        if path == new:
            raise OSError(5, "I/O error")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", fails)
    with pytest.raises(OSError, match="I/O error"):
        durable.publish_directory(new, place, tmp_path)
    assert names_in(place) == {"old"}


def test_names_are_exchanged_or_the_fault_is_named(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    one.mkdir()
    other.write_bytes(b"x")
    if durable.exchange(one, other):
        assert one.is_file()
        assert other.is_dir()
    with pytest.raises(FileNotFoundError, match="none"):
        durable.exchange(one, tmp_path / "none")


def test_removed_folder_goes_with_all_that_is_in_it(tmp_path: Path) -> None:
    staging = durable.staging_directory(tmp_path)
    (tmp_path / "a" / "b").mkdir(parents=True)
    durable.remove_directory(tmp_path / "a", staging)
    durable.remove_directory(tmp_path / "never-was", staging)
    assert names_in(tmp_path) == {durable.STAGING}
    assert names_in(staging) == set()


@pytest.mark.parametrize(
    ("seconds", "served"),
    [(-1e12, 0), (-0.5, 0), (0, 0), (5, 5), (2**32 - 1, 2**32 - 1), (1e15, 2**32 - 1)],
)
def test_times_are_those_that_nodes_can_read(seconds: float, served: float, tmp_path: Path) -> None:
    staging = durable.staging_directory(tmp_path)
    file, link = tmp_path / "file", tmp_path / "link"
    new = durable.temporary_in(staging)
    new.write_bytes(b"x")
    durable.publish(new, file, mtime_seconds=seconds)
    durable.publish_link("file", link, staging, seconds)
    assert (file.stat().st_mtime, link.lstat().st_mtime) == (served, served)


@pytest.mark.parametrize("mode", [0o000, 0o300, 0o500, 0o600])
def test_folder_that_shuts_its_owner_out_goes_too(mode: int, tmp_path: Path) -> None:
    """A job is its files' owner and no more: it lacks root's right to pass everywhere."""
    if os.getuid() == 0 and shutil.which("setpriv") is None:
        pytest.skip("needs setpriv, to be no more than an owner")
    staging = durable.staging_directory(tmp_path)
    inner = staging / "left" / "by" / "another"
    (inner / "below").mkdir(parents=True)
    (inner / "file").write_bytes(b"x")
    for folder in (inner / "below", inner, inner.parent):
        folder.chmod(mode)
    as_owner = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]
    code = (
        "import sys, pathlib; from sync.agent import durable;"
        "durable.discard(pathlib.Path(sys.argv[1]))"
    )
    command = [sys.executable, "-c", code, str(staging / "left")]
    subprocess.run([*(as_owner if os.getuid() == 0 else []), *command], check=True, timeout=30)
    assert names_in(staging) == set()
