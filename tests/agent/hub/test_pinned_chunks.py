"""The table of chunks that may not be deleted has just the keys that it should."""

import contextlib
import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sync.agent.flist.keys import KeyGroup, pack_groups, pack_keys, unpack_keys
from sync.contract import pinned_chunks
from sync.contract.pinned_chunks import FILE, PinnedChunks, PinnedChunksReader

KEYS = st.lists(
    st.one_of(st.binary(min_size=16, max_size=16), st.binary(min_size=1, max_size=255)),
    max_size=30,
)


def stored(state: Path) -> set[bytes]:
    with sqlite3.connect(state / pinned_chunks.FILE) as table:
        return {key for (key,) in table.execute("SELECT key FROM chunk")}


@settings(
    max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(KEYS, KEYS, st.integers(1, 5))
def test_keys_of_any_size_are_added_and_let_go(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    first: list[bytes],
    second: list[bytes],
    together: int,
) -> None:
    monkeypatch.setattr(pinned_chunks, "_KEYS_PER_STATEMENT", together)
    with PinnedChunks(tmp_path) as table:
        table.rebuild([])
        table.add(first)
        assert stored(tmp_path) == set(first)
        groups = [KeyGroup(pack_keys(second)), KeyGroup(pack_keys(first[:3]))]
        for _ in range(2):
            table.add_groups(groups)
            assert stored(tmp_path) == {*first, *second}
        assert table.lacks([*first, *second]) == []
        gone = set(first) - set(second)
        assert table.release(set(first), [second]) == len(gone)
        assert stored(tmp_path) == set(second)
        table.add_groups(groups)  # what it knew before is not believed any more
        assert stored(tmp_path) == {*second, *first[:3]}
        table.rebuild([first, second])
        assert stored(tmp_path) == {*first, *second}


@given(st.lists(KEYS, max_size=4))
def test_groups_are_packed_with_all_their_keys(lists: list[list[bytes]]) -> None:
    packed = pack_groups([KeyGroup(pack_keys(keys)) for keys in lists])
    assert set(unpack_keys(packed)) == {key for keys in lists for key in keys}


def test_table_refuses_every_thread_but_its_own(tmp_path: Path) -> None:
    with (
        PinnedChunks(tmp_path) as table,
        ThreadPoolExecutor(1) as pool,
        pytest.raises(sqlite3.ProgrammingError, match="same thread"),
    ):
        pool.submit(table.add, [b"key"]).result()
    assert stored(tmp_path) == set()


# Whoever takes over the users job may leave any of these.
_WITHOUT_END = "WITH RECURSIVE row(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM row)"
NO_TABLES = {
    **{
        f"{name} is {what}": f"INSERT OR REPLACE INTO meta VALUES('{name}', {what})"
        for name in ("unread", "pass_started_at", "pass_completed_at", "passes_begun")
        for what in ("'abc'", "x'ff'", "9e999", "NULL")
    },
    "a large value": "INSERT INTO meta VALUES('unread', zeroblob(100000000))",
    "meta without end": f"DROP TABLE meta; CREATE VIEW meta AS {_WITHOUT_END}"
    " SELECT 'n' || x AS name, x AS value FROM row",
    "chunks without end": f"DROP TABLE chunk; CREATE VIEW chunk AS {_WITHOUT_END}"
    " SELECT x AS key FROM row",
    "no table": "DROP TABLE meta; DROP TABLE chunk",
}


@pytest.mark.parametrize("change", NO_TABLES.values(), ids=NO_TABLES)
def test_whatever_stands_in_the_tables_place_pins_every_chunk(change: str, tmp_path: Path) -> None:
    """And it costs the flists job neither its session, nor its memory, nor long."""
    with PinnedChunks(tmp_path) as table:
        table.set_unread(0)
        table.begin()
        table.completed(1.0, 2.0)
    with contextlib.closing(sqlite3.connect(tmp_path / FILE)) as database:
        database.executescript(change)
    reader = PinnedChunksReader(tmp_path)
    began = time.monotonic()
    if "VIEW chunk" not in change:
        assert reader.pass_started_at() is None
        assert reader.passes() is None
        assert reader.unread() in {0, 1}
    assert reader.sample(3) == []
    with pytest.raises(sqlite3.Error):
        reader.pinned([b"k" * 16])
    assert time.monotonic() - began < 20
