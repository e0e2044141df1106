"""The sandbox reads and writes flists as zflist does: held to three that zflist packed.

Where a real zflist is at hand (ZFLIST=/path/to/zflist), trees of all shapes are packed by both.
"""

import hashlib
import os
import random
import stat
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from tests.golden.flists import NAMES, Entry, Recorded, told
from tests.sandbox.flist import Directory, Flist, pack, pack_directory
from tests.sandbox.flist.tree import Access

ZFLIST = os.environ.get("ZFLIST")


@pytest.fixture(params=NAMES)
def recorded(request: pytest.FixtureRequest) -> Recorded:
    return Recorded.of(request.param)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder in which owners can be changed and devices made."""
    place = tmp_path / "tree"
    place.mkdir()
    try:
        os.mknod(tmp_path / "device", stat.S_IFCHR | 0o600, os.makedev(1, 3))
        os.chown(tmp_path / "device", 1, 1)
    except PermissionError:
        pytest.skip("needs root, to change owners and make devices")
    return place


# -- reading ---------------------------------------------------------------------------------


def test_recorded_flist_is_read_to_the_last_field(recorded: Recorded) -> None:
    flist = recorded.flist()
    assert told(flist) == [
        _without(entry, "name", "parent", "blocksize") for entry in recorded.entries
    ]
    assert flist.metadata == recorded.about["metadata"]
    assert hashlib.md5(recorded.path.read_bytes()).hexdigest() == recorded.about["md5"]
    assert {key.hex() for key in flist.chunk_keys()} == {*recorded.about["chunks"]}


def test_chunks_of_a_recorded_flist_open_to_files_of_the_size_that_it_tells(
    recorded: Recorded,
) -> None:
    for entry in recorded.entries:
        if entry["type"] == "file":
            assert len(recorded.content(entry)) == entry["size"], entry["path"]


def _without(entry: Entry, *names: str) -> Entry:
    return {name: value for name, value in entry.items() if name not in names}


# -- writing ---------------------------------------------------------------------------------


def test_objects_of_a_recorded_flist_are_written_to_the_same_bytes(recorded: Recorded) -> None:
    flist = recorded.flist()
    for key, value in flist.entries.items():
        again = Access.decode(value) if len(key) == 16 else Directory.decode(value)
        assert again.encode() == value, again
        assert again.key == key


def test_recorded_flist_is_written_with_the_same_rows(recorded: Recorded) -> None:
    flist = recorded.flist()
    assert Flist.decode(flist.encode()) == flist
    assert [*flist.rows] == [*flist.entries]


def test_packing_the_tree_of_a_recorded_flist_gives_its_rows_and_chunks(
    recorded: Recorded, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Number, key and bytes of each row, but for the time of the last change of status."""
    users = {entry["uid"]: entry["user"] for entry in recorded.entries}
    groups = {entry["gid"]: entry["group"] for entry in recorded.entries}
    monkeypatch.setattr(pack, "_user", users.__getitem__)
    monkeypatch.setattr(pack, "_group", groups.__getitem__)
    recorded.make(folder)
    packed = pack_directory(folder)
    wanted = recorded.flist()
    assert packed.flist.rows == wanted.rows
    assert _with_created(packed.flist, wanted) == wanted.entries
    assert packed.chunks == recorded.payloads


def _with_created(flist: Flist, of: Flist) -> dict[str, bytes]:
    """Return the entries with the creation times of another flist: none can be set on a disk."""
    entries = dict(flist.entries)
    for directory in flist.walk():
        other = of.directory(directory.path)
        times = {inode.name: inode.created for inode in other.inodes}
        inodes = tuple(replace(one, created=times[one.name]) for one in directory.inodes)
        entries[directory.key] = replace(directory, created=other.created, inodes=inodes).encode()
    return entries


def test_link_targets_are_kept_as_they_are_written(tmp_path: Path) -> None:
    targets = ["./a", "a//b", "a/../b", "dir/", "."]
    for number, target in enumerate(targets):
        os.symlink(target, tmp_path / f"link-{number}")  # noqa: PTH211 -- Path would rewrite it
    inodes = pack_directory(tmp_path).flist.directory().inodes
    assert [inode.target for inode in inodes] == targets


def test_first_row_is_an_access_record(tmp_path: Path) -> None:
    """g8ufs takes the first row for the root's: a mount fails where another directory is there."""
    for name in ("zoo", "a", "m"):
        (tmp_path / name / "deep").mkdir(parents=True)
    flist = pack_directory(tmp_path).flist
    assert min(flist.rows.values()) == 1
    assert next(iter(flist.entries)) == Access().key


# -- beside the real one -----------------------------------------------------------------------


@pytest.mark.skipif(ZFLIST is None, reason="no real zflist to compare with: name one with ZFLIST")
@pytest.mark.parametrize("seed", range(12))
def test_real_zflist_packs_the_same_rows(seed: int, folder: Path, tmp_path: Path) -> None:
    grown(folder, random.Random(seed))
    real = zflist_packed(folder, tmp_path)
    ours = pack_directory(folder, keep=lambda _: True).flist
    assert ours.rows == real.rows
    assert told(ours) == told(real)
    sizes = {inode.size for one in real.walk() for inode in one.inodes if inode.kind == "directory"}
    if sizes <= {4096}:  # else this file system's directories have other sizes than ext4's
        assert ours.entries == real.entries
    assert Flist.decode(ours.encode()) == ours


def zflist_packed(folder: Path, tmp_path: Path) -> Flist:
    """Pack a folder as the hub has it packed."""
    environ = {**os.environ, "ZFLIST_MNT": str(tmp_path / "mnt")}
    target = tmp_path / "real.flist"
    for arguments in (["init"], ["putdir", str(folder), "/"], ["commit", str(target)]):
        subprocess.run([str(ZFLIST), *arguments], env=environ, check=True, capture_output=True)
    return Flist.decode(target.read_bytes())


def grown(folder: Path, chance: random.Random) -> None:
    """Fill a folder with entries of all kinds, owners, modes and times, nested and numerous."""
    directories = [folder]
    for number in range(chance.choice([1, 8, 40, 200, 600])):
        place = chance.choice(directories) / _name(number, chance)
        kind = chance.choice(["directory", "directory", "file", "file", "file", "link", "special"])
        if kind == "directory":
            place.mkdir()
            directories.append(place)
        elif kind == "file":
            place.write_bytes(chance.randbytes(chance.choice([0, 1, 5000])))
        elif kind == "link":
            os.symlink("../" * chance.randrange(1, 300) + "x", place)  # noqa: PTH211
        else:
            mode = chance.choice([stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO, stat.S_IFSOCK])
            os.mknod(place, mode | 0o600, os.makedev(chance.randrange(300), chance.randrange(300)))
        os.chown(
            place,
            *(chance.choice([0, 1, 33, 1000, 4_000_000]) for _ in "ug"),
            follow_symlinks=False,
        )
        if kind != "link":
            place.chmod(chance.choice([0o644, 0o755, 0o4755, 0o2755, 0o1777, 0o600, 0]))
    for place in reversed([folder, *folder.rglob("*")]):
        when = chance.choice([0, 1, 1_600_000_000, -1000, 4_000_000_000])
        os.utime(place, (when, when), follow_symlinks=False)


def _name(number: int, chance: random.Random) -> str:
    words = ["a", "a-b", "A", "é", "b c", "\udce9", "-", ".x", "z" * 200, "q'\"", "l\nn", "日"]
    return f"{chance.choice(words)}{number}"
