"""What nodes can use is read: flists with entries that nobody can, and archives cut into members.

Tried by hand on the real programs: zflist packed directories of 15,000 and of 40,000 files; g8ufs
(rfs 1.1.1) mounts both flists, and fails in those two directories alone.
"""

import gzip
import io
import sqlite3
import tarfile
from pathlib import Path
from typing import Any, Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sync.agent.flist import capnp, read_flist, rewrite_flist
from sync.agent.flist.database import Backend
from sync.agent.flist.errors import FlistError
from tests.agent.hub.flists_of import keys_in, small
from tests.sandbox.flist import Backend as PackedBackend
from tests.sandbox.flist.tree import path_key
from tests.sandbox.host import run

MIRROR: Final = Backend("mirror.example", 9901, "default")
WHOLE: Final = small(3).archive(PackedBackend("hub.grid.tf"))
ROOT: Final = path_key("")
PART: Final = path_key("part1")
# What zflist 2.3.0 left of 40,000 files is the first; SQLite may have left others before.
BROKEN: Final[dict[str, Any]] = {
    "zflist's text": "/\x07",
    "text of one byte": "\x01",
    "empty": b"",
    "null": None,
    "number": 7,
    "two bytes": b"\x13\x01",
    "header alone": bytes.fromhex("1301000036000000"),
    "half": small(3).flist.entries[PART][:-40],
    "no words": bytes(8),
}


def with_entry(key: str, value: Any) -> bytes:
    """Return the flist with another value of one entry."""
    with tarfile.open(fileobj=io.BytesIO(WHOLE), mode="r:gz") as tar:
        member = tar.getmembers()[-1]
        stored = tar.extractfile(member)
        assert stored is not None
        database = sqlite3.connect(":memory:", isolation_level=None)
        database.deserialize(stored.read())
    changed = database.execute("UPDATE entries SET value=? WHERE key=?", (value, key))
    assert changed.rowcount == 1
    data = database.serialize()
    database.close()
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", format=tarfile.USTAR_FORMAT) as tar:
        member.size = len(data)
        tar.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


@pytest.mark.parametrize("keep", [True, False], ids=["in a file", "in memory"])
@pytest.mark.parametrize("kind", BROKEN)
def test_one_directory_that_nobody_can_read_hides_none_of_the_others(
    kind: str, keep: bool, tmp_path: Path
) -> None:
    path, scratch = tmp_path / "a.flist", tmp_path / "scratch"
    path.write_bytes(with_entry(PART, BROKEN[kind]))
    lost = set(capnp.chunk_keys(small(3).flist.entries[PART]))
    assert lost
    kept = keys_in(read_flist(path, scratch, keep=keep))
    assert kept == small(3).chunks.keys() - lost
    read_flist(path, scratch)
    rewrite_flist(scratch, path, MIRROR)
    again = read_flist(path, scratch)
    assert (again.backend, keys_in(again)) == (MIRROR, kept)


@pytest.mark.parametrize("kind", BROKEN)
def test_a_flist_whose_root_nobody_can_read_is_refused(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "a.flist"
    path.write_bytes(with_entry(ROOT, BROKEN[kind]))
    with pytest.raises(FlistError, match="no readable root"):
        read_flist(path, tmp_path / "scratch")


def test_an_entry_that_is_a_message_but_lies_is_refused_still(tmp_path: Path) -> None:
    """Some program may read a part of it, whose chunks would be missing here."""
    lying = bytearray(small(3).flist.entries[PART])
    lying[8:12] = b"\xfc\xff\xff\x1f"  # the pointer to the root leads far out of the message
    path = tmp_path / "a.flist"
    path.write_bytes(with_entry(PART, bytes(lying)))
    with pytest.raises(FlistError, match="out of the message"):
        read_flist(path, tmp_path / "scratch")


def test_a_directory_of_more_segments_than_a_node_reads_keeps_its_chunks(schema: Any) -> None:
    """The master's own tools read it, and what they leave is no larger than 4 MiB."""
    directory = schema.Dir.new_message(
        num_first_segment_words=1, allocate_seg_callable=lambda words: bytearray(8 * words)
    )
    inodes = directory.init("contents", 300)
    for number, inode in enumerate(inodes):
        inode.name = f"f{number}"
        inode.attributes.init("file").init("blocks", 1)[0].hash = number.to_bytes(16, "little")
    message = directory.to_bytes()
    assert int.from_bytes(message[:4], "little") + 1 > 512
    assert len(set(capnp.chunk_keys(message))) == 300


cuts = st.lists(st.integers(0, len(gzip.decompress(WHOLE))), max_size=12).map(sorted)


@settings(max_examples=60, deadline=None)
@given(cuts=cuts, after=st.sampled_from([b"", b"\0" * 700, b"no gzip", b"\x1f", b"\x1f\x8bno"]))
def test_members_are_one_archive_wherever_it_is_cut(cuts: list[int], after: bytes) -> None:
    plain = gzip.decompress(WHOLE)
    parts = [plain[start:end] for start, end in zip([0, *cuts], [*cuts, len(plain)], strict=True)]
    with run.in_memory() as folder:
        path, scratch = Path(folder, "a.flist"), Path(folder, "scratch")
        path.write_bytes(WHOLE)
        whole = read_flist(path, scratch)
        path.write_bytes(b"".join(gzip.compress(part, 1) for part in parts) + after)
        for keep in (True, False):
            read = read_flist(path, scratch, keep=keep)
            assert (read.backend, keys_in(read)) == (whole.backend, keys_in(whole))


def test_of_two_archives_the_first_counts_as_on_a_node(tmp_path: Path) -> None:
    path = tmp_path / "a.flist"
    path.write_bytes(WHOLE + small(4).archive())
    assert keys_in(read_flist(path, tmp_path / "scratch")) == small(3).chunks.keys()


@pytest.mark.parametrize("damage", ["cut", "flipped"])
def test_a_damaged_member_that_is_needed_is_refused(damage: str, tmp_path: Path) -> None:
    plain = gzip.decompress(WHOLE)
    first, second = gzip.compress(plain[:3000]), bytearray(gzip.compress(plain[3000:]))
    if damage == "cut":
        del second[-9:]
    else:
        second[-6] ^= 1  # of the checksum
    path = tmp_path / "a.flist"
    path.write_bytes(first + second)
    with pytest.raises(FlistError, match="gzip"):
        read_flist(path, tmp_path / "scratch")


def test_members_without_end_are_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "a.flist"
    path.write_bytes(gzip.compress(b"", 1) * 20_000 + WHOLE)
    with pytest.raises(FlistError, match="members"):
        read_flist(path, tmp_path / "scratch")
