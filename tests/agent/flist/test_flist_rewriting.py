"""A rewritten flist has every row where the master's has it: nodes make inodes of the numbers."""

import json
import os
import sqlite3
import subprocess
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sync.agent.digests import file_digest
from sync.agent.flist import archive, read_flist, rewrite_flist
from sync.agent.flist.database import Backend
from sync.agent.flist.errors import FlistError
from sync.agent.flist.keys import keys_of
from sync.agent.flist.reader_pool import ReaderPool
from tests.agent.hub.flists_of import keys_in
from tests.golden.flists import NAMES, Recorded
from tests.sandbox.flist import Flist

MIRROR = Backend("mirror.example", 9901, "default")
MASTER = Backend("hub.example.org", 9900, "default")
ZFLIST = os.environ.get("ZFLIST")
# Objects that real flists have: one with thousands of bytes and far pointers, too.
OBJECTS = sorted({value for name in NAMES for value in Recorded.of(name).flist().entries.values()})
ENTRIES = "CREATE TABLE entries (key VARCHAR(64) PRIMARY KEY, value BLOB)"
METADATA = (
    "CREATE TABLE metadata (key VARCHAR(64) PRIMARY KEY, value TEXT)",
    "CREATE TABLE metadata (key TEXT, value TEXT)",
    'CREATE TABLE "METADATA" ("value" TEXT, "key" VARCHAR(20) PRIMARY KEY)',
    None,
)

Rows = dict[str, list[tuple[object, ...]]]


@pytest.fixture(params=NAMES)
def recorded(request: pytest.FixtureRequest) -> Recorded:
    return Recorded.of(request.param)


def rows_of(database: Path) -> Rows:
    """Return number, key and value of all rows of both tables, but for the one of the backend."""
    with closing(sqlite3.connect(f"file:{database}?immutable=1", uri=True)) as opened:
        assert opened.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        names = [name for (name,) in opened.execute("SELECT lower(name) FROM sqlite_schema")]
        return {
            table: [
                row
                for row in opened.execute(f"SELECT rowid, key, value FROM {table}")
                if table == "entries" or row[1] != "backend"
            ]
            for table in ("entries", "metadata")
            if table in names
        }


def backend_rows(database: Path) -> list[str]:
    with closing(sqlite3.connect(f"file:{database}?immutable=1", uri=True)) as opened:
        found = opened.execute("SELECT value FROM metadata WHERE key='backend'").fetchall()
        return [value for (value,) in found]


def rewritten(flist: Path, place: Path) -> tuple[Rows, Path]:
    """Rewrite a flist; returns its rows as they were before, and the database in the new one."""
    contents = read_flist(flist, place / "scratch")
    before = rows_of(place / "scratch")
    rewrite_flist(place / "scratch", place / "after.flist", MIRROR)
    again = read_flist(place / "after.flist", place / "after.db")
    assert again.backend == MIRROR
    assert keys_in(again) == keys_in(contents)
    return before, place / "after.db"


# -- what zflist packed ------------------------------------------------------------------------


def test_recorded_flist_is_read_as_it_tells(recorded: Recorded, tmp_path: Path) -> None:
    contents = read_flist(recorded.path, tmp_path / "scratch")
    assert {key.hex() for key in keys_in(contents)} == {*recorded.about["chunks"]}
    assert contents.backend == (MASTER if recorded.about["metadata"] else None)


def test_recorded_flist_keeps_every_row(recorded: Recorded, tmp_path: Path) -> None:
    before, after = rewritten(recorded.path, tmp_path)
    assert before["entries"][0][0] == 1
    assert rows_of(after) == before


def test_recorded_flist_is_the_same_to_a_node_but_for_its_backend(
    recorded: Recorded, tmp_path: Path
) -> None:
    rewritten(recorded.path, tmp_path)
    before, after = recorded.flist(), Flist.decode((tmp_path / "after.flist").read_bytes())
    assert (after.entries, after.rows) == (before.entries, before.rows)
    assert [*after.entries] == [*before.entries]
    backend = json.loads(after.metadata["backend"])
    assert backend == {"host": "mirror.example", "namespace": "default", "port": 9901}


def test_flist_without_a_table_for_metadata_gets_that_of_zflist(
    recorded: Recorded, tmp_path: Path
) -> None:
    old = tmp_path / "old.flist"
    old.write_bytes(recorded.flist().encode_of_2018())
    assert read_flist(old, tmp_path / "scratch", keep=False).backend is None
    before, after = rewritten(old, tmp_path)
    assert rows_of(after) == {**before, "metadata": []}
    with closing(sqlite3.connect(after)) as opened:
        schema = {sql for (sql,) in opened.execute("SELECT sql FROM sqlite_schema") if sql}
    assert schema == {*recorded.about["tables"]}


def test_reader_process_tells_size_and_md5_of_what_it_rewrote(
    recorded: Recorded, reading: ReaderPool, tmp_path: Path
) -> None:
    flist = tmp_path / "a.flist"
    for data in (recorded.path.read_bytes(), recorded.flist().encode_of_2018()):
        flist.write_bytes(data)
        read = reading.read(flist, tmp_path / "scratch", [(None, MIRROR)])
        assert {key.hex() for key in keys_of(read.groups)} == {*recorded.about["chunks"]}
        assert read.rewritten == file_digest(flist) != file_digest(recorded.path)


@pytest.mark.skipif(ZFLIST is None, reason="no real zflist to ask: name one with ZFLIST")
@pytest.mark.parametrize("old", [False, True], ids=["today's", "of 2018"])
def test_real_zflist_opens_what_was_rewritten(
    recorded: Recorded, old: bool, tmp_path: Path
) -> None:
    flist = tmp_path / "a.flist"
    whole = recorded.flist()
    flist.write_bytes(whole.encode_of_2018() if old else whole.encode())
    rewritten(flist, tmp_path)
    (tmp_path / "mnt").mkdir()
    environ = {**os.environ, "ZFLIST_MNT": str(tmp_path / "mnt")}

    def zflist(*arguments: str, **extra: str) -> bytes:
        command = [str(ZFLIST), *arguments]
        done = subprocess.run(command, env=environ | extra, check=True, capture_output=True)
        return done.stdout

    zflist("open", str(tmp_path / "after.flist"))
    backend = json.loads(zflist("metadata", "backend", ZFLIST_JSON="1"))["response"]["value"]
    assert backend == {"host": "mirror.example", "namespace": "default", "port": 9901}
    paths = [os.fsencode(entry["path"]) for entry in recorded.entries[1:]]
    assert zflist("find").startswith(b"\n".join(paths) + b"\n")


# -- any database ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Shape:
    """How a flist's database came to be."""

    page_bytes: int
    auto_vacuum: int
    encoding: str
    metadata: str | None
    rows: list[tuple[int, str, bytes]]
    notes: list[tuple[str, str]]
    dropped: list[int]
    vacuumed: bool
    wal: bool


texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=40)
shapes = st.builds(
    Shape,
    page_bytes=st.sampled_from([512, 1024, 4096, 65536]),
    auto_vacuum=st.sampled_from([0, 1, 2]),
    encoding=st.sampled_from(["UTF-8", "UTF-16le"]),
    metadata=st.sampled_from(METADATA),
    rows=st.lists(
        st.tuples(st.integers(-5, 1 << 40), texts, st.sampled_from(OBJECTS)),
        max_size=60,
        unique_by=(lambda row: row[0], lambda row: row[1]),
    ),
    notes=st.lists(
        st.tuples(st.sampled_from(["backend", "readme", "origin", "z", ""]), texts),
        max_size=6,
        unique_by=lambda note: note[0],
    ),
    dropped=st.lists(st.integers(0, 59), max_size=30),
    vacuumed=st.booleans(),
    wal=st.booleans(),
)


def written(shape: Shape, database: Path) -> None:
    """Write a database with SQLite as it is, and none of the agent's code."""
    with closing(sqlite3.connect(database, isolation_level=None)) as made:
        made.execute(f"PRAGMA page_size={shape.page_bytes}")
        made.execute(f"PRAGMA encoding='{shape.encoding}'")
        made.execute(f"PRAGMA auto_vacuum={shape.auto_vacuum}")
        made.execute("PRAGMA synchronous=OFF")
        made.execute("BEGIN")
        made.execute(ENTRIES)
        made.executemany("INSERT INTO entries(rowid, key, value) VALUES (?, ?, ?)", shape.rows)
        if shape.metadata is not None:
            made.execute(shape.metadata)
            master = json.dumps({"host": MASTER.host, "port": MASTER.port})
            notes = [(key, master if key == "backend" else text) for key, text in shape.notes]
            made.executemany("INSERT INTO metadata(key, value) VALUES (?, ?)", notes)
        for number in shape.dropped:
            if number < len(shape.rows):
                made.execute("DELETE FROM entries WHERE rowid=?", (shape.rows[number][0],))
        made.execute("COMMIT")
        if shape.vacuumed:
            made.execute("VACUUM")
        if shape.wal:
            made.execute("PRAGMA journal_mode=WAL")


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(shape=shapes)
def test_no_rewriting_renumbers_drops_or_reorders_a_row(
    shape: Shape, tmp_path_factory: pytest.TempPathFactory
) -> None:
    place = tmp_path_factory.mktemp("rewriting")
    written(shape, place / "made.db")
    archive.pack(place / "made.db", place / "before.flist")
    before, after = rewritten(place / "before.flist", place)
    assert rows_of(after) == {"metadata": [], **before}
    assert backend_rows(after) == [
        json.dumps({"host": MIRROR.host, "namespace": "default", "port": 9901}, sort_keys=True)
    ]
    assert {path.name for path in place.iterdir()} == {
        "made.db",
        "before.flist",
        "scratch",
        "after.flist",
        "after.db",
    }


@settings(max_examples=40, deadline=None)
@given(shape=shapes, more=st.sampled_from(["TABLE more (x)", "INDEX i ON entries(value)"]))
def test_what_is_more_than_the_two_tables_is_refused_and_left_as_it_is(
    shape: Shape, more: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A flist that zflist cannot have made is not rewritten in part."""
    place = tmp_path_factory.mktemp("refusing")
    written(shape, place / "made.db")
    with closing(sqlite3.connect(place / "made.db")) as made:
        made.execute(f"CREATE {more}")
    before = (place / "made.db").read_bytes()
    with pytest.raises(FlistError, match="unexpected"):
        rewrite_flist(place / "made.db", place / "after.flist", MIRROR)
    assert (place / "made.db").read_bytes() == before
    assert not (place / "after.flist").exists()
