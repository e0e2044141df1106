"""Flists are read to the last chunk key, rewritten to the same bytes, and can do no harm."""

import gzip
import hashlib
import io
import json
import random
import resource
import sqlite3
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sync.agent.flist import archive, database, read_flist, reader_pool, rewrite_flist
from sync.agent.flist.database import Backend
from sync.agent.flist.errors import FlistError
from sync.agent.flist.keys import KeyGroup, keys_of
from sync.agent.flist.reader_process import directories as sent_directories
from tests.agent.flist.directories import build_directory
from tests.agent.hub.flists_of import keys_in
from tests.sandbox.flist import Backend as PackedBackend
from tests.sandbox.flist import Flist, Packed, pack_directory

MIRROR = Backend("mirror.example", 9901, "default")
MASTER = PackedBackend("hub.grid.tf")


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Packed:
    source = tmp_path_factory.mktemp("source")
    chance = random.Random(1)
    for number in range(40):
        folder = source / f"d{number % 7}" / f"e{number % 3}"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"f{number}").write_bytes(chance.randbytes(number * 997))
    (source / "large").write_bytes(chance.randbytes(3 << 19))
    (source / "empty").write_bytes(b"")
    (source / "link").symlink_to("large")
    return pack_directory(source)


@pytest.fixture
def flist(packed: Packed, tmp_path: Path) -> Path:
    path = tmp_path / "a.flist"
    path.write_bytes(packed.archive(MASTER))
    return path


@pytest.fixture(params=[True, False], ids=["in a file", "in memory"])
def keep(request: pytest.FixtureRequest) -> bool:
    """Whether the database is left in a file; a small one is else read in memory."""
    return bool(request.param)


def scratch(tmp_path: Path) -> Path:
    return tmp_path / "scratch.db"


def test_every_chunk_key_of_a_packed_flist_is_found(
    packed: Packed, flist: Path, tmp_path: Path
) -> None:
    contents = read_flist(flist, scratch(tmp_path))
    assert keys_in(contents) == packed.chunks.keys()
    assert contents.backend == Backend("hub.grid.tf", 9900, "default")


def test_rewriting_changes_the_backend_and_nothing_else(
    packed: Packed, flist: Path, tmp_path: Path
) -> None:
    read_flist(flist, scratch(tmp_path))
    rewrite_flist(scratch(tmp_path), tmp_path / "b.flist", MIRROR)
    contents = read_flist(tmp_path / "b.flist", scratch(tmp_path))
    assert contents.backend == Backend("mirror.example", 9901, "default")
    assert keys_in(contents) == packed.chunks.keys()
    before = Flist.decode(flist.read_bytes())
    after = Flist.decode((tmp_path / "b.flist").read_bytes())
    assert after.entries == before.entries
    assert {**after.metadata, "backend": ""} == {**before.metadata, "backend": ""}


def test_same_input_gives_the_same_bytes_whenever_it_is_rewritten(
    flist: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = []
    for number in range(2):
        monkeypatch.setattr(time, "time", lambda years=number: years * 3.2e7)
        read_flist(flist, scratch(tmp_path))
        target = tmp_path / f"{number}.flist"
        rewrite_flist(scratch(tmp_path), target, MIRROR)
        results.append(target.read_bytes())
    assert results[0] == results[1]
    assert results[0][4:8] == bytes(4)  # gzip: no time


def test_rewritten_flist_is_a_tar_that_others_read(flist: Path, tmp_path: Path) -> None:
    read_flist(flist, scratch(tmp_path))
    rewrite_flist(scratch(tmp_path), tmp_path / "b.flist", MIRROR)
    with tarfile.open(tmp_path / "b.flist", "r:gz") as tar:
        member = tar.getmember("flistdb.sqlite3")
        assert (member.mode, member.uid, member.mtime) == (0o644, 0, 0)
        extracted = tar.extractfile(member)
        assert extracted is not None
        assert extracted.read() == scratch(tmp_path).read_bytes()


def test_reader_processes_find_the_same_as_the_reader(
    packed: Packed, flist: Path, reading: reader_pool.ReaderPool, tmp_path: Path
) -> None:
    foreign = Backend("hub.grid.tf", 9900, "default")
    plain = reading.read(flist, scratch(tmp_path), [])
    assert keys_of(plain.groups) == packed.chunks.keys()
    assert plain.rewritten is None
    wanted = [(foreign, MIRROR), (None, Backend("x", 1, "y"))]
    rewritten = reading.read(flist, scratch(tmp_path), wanted)
    assert read_flist(flist, scratch(tmp_path)).backend == MIRROR
    data = flist.read_bytes()
    assert rewritten.rewritten == (len(data), hashlib.md5(data).hexdigest())


def test_database_in_memory_says_the_same_as_the_one_in_a_file(
    packed: Packed, flist: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    contents = read_flist(flist, scratch(tmp_path), keep=False)
    assert not scratch(tmp_path).exists()
    assert keys_in(contents) == packed.chunks.keys()
    assert contents.backend == read_flist(flist, scratch(tmp_path)).backend
    scratch(tmp_path).unlink()
    monkeypatch.setattr(archive, "MAX_IN_MEMORY_BYTES", 1024)
    assert keys_in(read_flist(flist, scratch(tmp_path), keep=False)) == keys_in(contents)
    assert scratch(tmp_path).exists()


def test_database_in_wal_mode_is_read(keep: bool, tmp_path: Path) -> None:
    def edit(made: sqlite3.Connection) -> None:
        made.execute("PRAGMA journal_mode=WAL")

    data = sqlite_bytes(tmp_path, edit)
    assert data[18:20] == b"\2\2"
    path = tmp_path / "w.flist"
    path.write_bytes(tarred({"flistdb.sqlite3": data}))
    assert keys_in(read_flist(path, scratch(tmp_path), keep=keep)) == frozenset()


@settings(max_examples=60, deadline=None)
@given(
    flists=st.lists(st.lists(st.integers(0, 11), max_size=6), max_size=20),
    max_bytes=st.integers(0, 3000),
)
def test_directories_are_sent_once_and_understood_for_as_long_as_the_reader_knows_them(
    schema: Any, flists: list[list[int]], max_bytes: int
) -> None:
    """However small the reader's memory is: its numbers stand for the right keys."""
    built = [build_directory(schema, random.Random(number)) for number in range(12)]
    cache, known = database.DirectoryCache(max_bytes), reader_pool.KnownDirectories()
    for numbers in flists:
        directories = tuple(dict.fromkeys(cache.directory(built[number][0]) for number in numbers))
        named = tuple(one for one in directories if one.keys)
        answer, keys = sent_directories(database.Contents(None, named), cache)
        came = io.BytesIO(b"".join(keys))

        def take(size: int, came: io.BytesIO = came) -> KeyGroup:
            return KeyGroup(came.read(size))

        groups = known.groups(json.loads(json.dumps(answer)), take)
        assert keys_of(groups) == {key for number in numbers for key in built[number][1]}
        assert [group.keys for group in groups] == [one.keys for one in named]
        assert len(known.kept) <= 12 + len(groups)


def test_reader_that_ends_or_hangs_makes_a_bad_flist_and_is_replaced(
    flist: Path,
    reading: reader_pool.ReaderPool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(reader_pool, "LONGEST_SECONDS", 0.0)
    with pytest.raises(FlistError, match="its reader ended"):
        reading.read(flist, scratch(tmp_path), [])
    monkeypatch.setattr(reader_pool, "LONGEST_SECONDS", 60.0)
    assert reading.read(flist, scratch(tmp_path), []).groups
    flist.write_bytes(b"<html>")
    with pytest.raises(FlistError, match="gzip"):
        reading.read(flist, scratch(tmp_path), [])
    with pytest.raises(FileNotFoundError):
        reading.read(tmp_path / "none", scratch(tmp_path), [])
    assert not scratch(tmp_path).exists()


def tarred(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


def sqlite_bytes(tmp_path: Path, edit: Callable[[sqlite3.Connection], None]) -> bytes:
    path = tmp_path / "hostile.db"
    path.unlink(missing_ok=True)
    with sqlite3.connect(path, isolation_level=None) as hostile:
        hostile.execute("CREATE TABLE entries (key VARCHAR(64) PRIMARY KEY, value BLOB)")
        hostile.execute("CREATE TABLE metadata (key VARCHAR(64) PRIMARY KEY, value TEXT)")
        edit(hostile)
    hostile.close()
    return path.read_bytes()


HOSTILE_SQL = {
    "view": "DROP TABLE entries; CREATE VIEW entries AS SELECT 1 AS key, 2 AS value",
    "endless view": "DROP TABLE entries; CREATE VIEW entries(key, value) AS WITH RECURSIVE "
    "n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n) SELECT i, i FROM n",
    "trigger": "CREATE TRIGGER t AFTER INSERT ON metadata BEGIN DELETE FROM entries; END",
    "further table": "CREATE TABLE more (x)",
    "index on an expression": "CREATE INDEX i ON entries(length(value))",
    "virtual table": "CREATE VIRTUAL TABLE v USING fts5(x)",
    "no entries": "DROP TABLE entries",
    "check": "DROP TABLE metadata; CREATE TABLE metadata (key TEXT, value TEXT CHECK(abs(value)))",
    "generated": "DROP TABLE metadata; "
    "CREATE TABLE metadata (key TEXT, value TEXT AS (hex(zeroblob(100000000))))",
    "text entry": "INSERT INTO entries VALUES('k', 'text')",
    "number entry": "INSERT INTO entries VALUES('k', 7)",
    "bad message": "INSERT INTO entries VALUES('k', x'ffffffff00000000')",
    "backend no JSON": "INSERT INTO metadata VALUES('backend', 'nonsense')",
    "backend a list": "INSERT INTO metadata VALUES('backend', '[]')",
    "backend deep": f"INSERT INTO metadata VALUES('backend', '{'[' * 4000}')",
    "backend long": f"INSERT INTO metadata VALUES('backend', '{'x' * 5000}')",
    "backend port": 'INSERT INTO metadata VALUES(\'backend\', \'{"host":"h","port":"x"}\')',
}


@pytest.mark.parametrize("kind", HOSTILE_SQL)
def test_hostile_database_is_refused(kind: str, keep: bool, tmp_path: Path) -> None:
    def edit(hostile: sqlite3.Connection) -> None:
        hostile.executescript(HOSTILE_SQL[kind])

    path = tmp_path / "h.flist"
    path.write_bytes(tarred({"flistdb.sqlite3": sqlite_bytes(tmp_path, edit)}))
    with pytest.raises(FlistError):
        read_flist(path, scratch(tmp_path), keep=keep)


def test_damaged_databases_are_refused_or_read_but_never_crash(
    keep: bool, flist: Path, tmp_path: Path
) -> None:
    read_flist(flist, scratch(tmp_path))
    whole = scratch(tmp_path).read_bytes()
    chance = random.Random(6)
    refused = 0
    for _ in range(150):
        damaged = bytearray(whole)
        for _ in range(20):
            damaged[chance.randrange(len(damaged))] = chance.randrange(256)
        (tmp_path / "damaged.db").write_bytes(damaged)
        try:
            database.read(tmp_path / "damaged.db" if keep else bytes(damaged))
        except FlistError:
            refused += 1
    assert refused > 10


NO_FLIST = {
    "html": b"<html>404 Not Found</html>",
    "empty": b"",
    "gzip of nothing": gzip.compress(b""),
    "gzip of text": gzip.compress(b"hello" * 1000),
    "other member": tarred({"readme": b"x"}),
    "path outside": tarred({"../flistdb.sqlite3": b"x"}),
    "no database": tarred({"flistdb.sqlite3": b"not a database at all" * 100}),
    "empty database": tarred({"flistdb.sqlite3": b""}),
    "many members": tarred({f"m{number}": b"" for number in range(100)}),
}


@pytest.mark.parametrize("kind", NO_FLIST)
def test_what_is_no_flist_is_refused(kind: str, keep: bool, tmp_path: Path) -> None:
    path = tmp_path / "h.flist"
    path.write_bytes(NO_FLIST[kind])
    with pytest.raises(FlistError):
        read_flist(path, scratch(tmp_path), keep=keep)


def test_truncated_flist_is_refused_wherever_it_ends(
    keep: bool, flist: Path, tmp_path: Path
) -> None:
    whole = flist.read_bytes()
    for end in range(0, len(whole), max(1, len(whole) // 60)):
        (tmp_path / "cut").write_bytes(whole[:end])
        with pytest.raises(FlistError):
            read_flist(tmp_path / "cut", scratch(tmp_path), keep=keep)


def test_flipped_bit_in_the_archive_is_refused_or_changes_nothing(
    keep: bool, flist: Path, tmp_path: Path
) -> None:
    whole = flist.read_bytes()
    undamaged = read_flist(flist, scratch(tmp_path))
    chance = random.Random(7)
    refused = 0
    for _ in range(60):
        damaged = bytearray(whole)
        damaged[chance.randrange(12, len(whole))] ^= 1 << chance.randrange(8)
        (tmp_path / "flipped").write_bytes(damaged)
        try:
            read = read_flist(tmp_path / "flipped", scratch(tmp_path), keep=keep)
        except FlistError:
            refused += 1
        else:  # a bit that deflate does not use, at the end of its last byte
            assert (read.backend, keys_in(read)) == (undamaged.backend, keys_in(undamaged))
    assert refused >= 55


def test_zip_bomb_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "MAX_DATABASE_BYTES", 1 << 20)
    path = tmp_path / "bomb.flist"
    path.write_bytes(tarred({"flistdb.sqlite3": bytes(2 << 20)}))
    with pytest.raises(FlistError, match="a member of"):
        read_flist(path, scratch(tmp_path))
    trailing = gzip.decompress(tarred({"flistdb.sqlite3": b"x"})) + bytes(2 << 20)
    path.write_bytes(gzip.compress(trailing))
    with pytest.raises(FlistError, match="longer than"):
        read_flist(path, scratch(tmp_path))
    assert not scratch(tmp_path).exists() or scratch(tmp_path).stat().st_size <= 1 << 20


def test_full_disk_while_rewriting_is_no_fault_of_the_flist(flist: Path, tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    read_flist(flist, scratch)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (scratch.stat().st_size, before[1]))
    try:
        with pytest.raises(OSError, match="sqlite"):
            rewrite_flist(scratch, tmp_path / "out", Backend("h" * 20_000, 9900, "default"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
