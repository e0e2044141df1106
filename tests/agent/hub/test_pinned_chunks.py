"""The table of chunks that may not be deleted has just the keys that it should."""

import sqlite3
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sync.agent.flist.keys import KeyGroup, pack_groups, pack_keys, unpack_keys
from sync.contract import pinned_chunks
from sync.contract.pinned_chunks import PinnedChunks

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
