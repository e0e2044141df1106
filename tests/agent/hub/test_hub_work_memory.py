"""What a flist costs, in memory, scratch disk and chunks, ends no job and stops no other flist."""

import contextlib
import hashlib
import shutil
import sqlite3
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sync.agent.budget import Budget, BudgetClosedError
from sync.agent.disk_room import ScratchError
from sync.agent.flist.database import Backend as Named
from sync.agent.flist.errors import NeedsMoreError
from sync.agent.flist.keys import KEYS_AT_ONCE, KeyGroup, pack_keys, slices_of
from sync.agent.flist.reader_pool import USUAL, Granted, ReaderPool
from sync.agent.hub import chunk_store, pins
from sync.agent.hub.chunk_store import batches
from sync.agent.hub.listing import Name
from sync.agent.hub.state_db import DATABASE, HubStateDb
from sync.agent.hub.work_room import WorkRoom
from sync.agent.job import PassIncompleteError
from sync.agent.zdb.connection import ZdbConnection
from sync.contract.job_memory import PAYLOADS_BYTES
from sync.contract.pinned_chunks import FILE
from tests.agent.hub.flists_of import small
from tests.agent.mirrors import MIRROR, UsersMirror
from tests.sandbox.flist import Backend, Directory, Flist

MIB = 1 << 20
Timed = list[tuple[bytes, int | None] | None]
OLD = 1_700_000_000.0
# As little as a job needs for itself and a flist.
SMALL_MB = 160


class Usage(NamedTuple):
    """What shutil.disk_usage says."""

    total: int
    used: int
    free: int


def keys_from(first: int, count: int) -> bytes:
    """Return so many keys, one after the other."""
    return b"".join(number.to_bytes(16, "little") for number in range(first, first + count))


def words(*halves: int) -> bytes:
    return struct.pack(f"<{len(halves)}I", *halves)


def message(keys: bytes, count: int | None = None) -> bytes:
    """Return a directory of one file, of a block for each key or (count) of as many for the first.

    Written as words (capnproto.org/encoding.html), as hundreds of thousands of blocks are wanted.
    """
    number = len(keys) // 16 if count is None else count
    struct_at, list_of_structs, bytes_of_key = 0, 7, 16 << 3 | 2
    body = words(struct_at, 5 << 16 | 2) + bytes(8 * 4)
    body += words(2 << 2 | 1, 6 << 3 | list_of_structs) + bytes(8 * 2)
    body += words(1 << 2, 3 << 16 | 3) + bytes(8) + words(1, 0) + bytes(8 * 2)
    body += words(1 << 2, 1 << 16 | 1) + bytes(8 * 2)
    body += words(0 << 2 | 1, 2 * number << 3 | list_of_structs) + words(number << 2, 2 << 16)
    if count is None:
        blocks = (words((2 * number - 1) << 2 | 1, bytes_of_key) + bytes(8)) * number
    else:
        to_first = range(2 * number - 1, 0, -2)
        blocks = b"".join(words(away << 2 | 1, bytes_of_key, 0, 0) for away in to_first)
    body += blocks + keys
    return words(0, len(body) // 8) + body


def archive(*messages: bytes) -> bytes:
    """Return a flist of directories, the first of which is the root."""
    rows = {
        Directory(f"d{number}" if number else "", "").key: one
        for number, one in enumerate(messages)
    }
    return Flist(rows, {"backend": Backend("hub.grid.tf").encode()}).encode()


def one_directory_of_many_keys() -> bytes:
    return archive(message(keys_from(0, 260_000)))


def many_directories_of_many_keys() -> bytes:
    return archive(*(message(keys_from(number * 20_000, 20_000)) for number in range(14)))


def directories_of_one_key(count: int) -> bytes:
    """Return a flist of so many directories, each of one file of one block."""
    key = bytes(range(100, 116))
    one = message(key)
    return archive(*(one.replace(key, keys_from(number << 64, 1)) for number in range(count)))


def very_many_directories() -> bytes:
    """Return a flist whose keys are few, and the objects for them many."""
    return directories_of_one_key(60_000)


def one_key_named_very_often() -> bytes:
    """Return a flist whose blocks all point to one key: 16 bytes on the disk, 72 as an object."""
    return archive(message(keys_from(0, 1), 300_000))


def an_entry_of_many_megabytes() -> bytes:
    return archive(message(keys_from(0, 1)), message(keys_from(0, 1)) + bytes(40 * MIB))


COSTLY = [
    one_directory_of_many_keys,
    many_directories_of_many_keys,
    very_many_directories,
    one_key_named_very_often,
    an_entry_of_many_megabytes,
]


@pytest.mark.parametrize("rewrites", [True, False], ids=["rewritten", "as it is"])
@pytest.mark.parametrize("costly", COSTLY)
def test_flist_that_costs_more_than_the_job_has_is_withheld_alone_until_there_is_more(
    costly: Callable[[], bytes], rewrites: bool, mirror: UsersMirror
) -> None:
    mirror.settings["memory_limit_mb"] = SMALL_MB
    mirror.settings["publish_backend"] = MIRROR if rewrites else None
    mirror.upstream.model.add_flist("alice", "costly.flist", costly(), OLD)
    for _ in range(2):
        record = mirror.one_pass()
        assert record.lag.items == 0
        assert record.broken.names == [
            next(name for name in record.broken.names if name.startswith("alice/costly.flist: "))
        ]
        assert "limits.users.memoryMb" in record.broken.names[0]
        assert "alice/blog.flist" in mirror.served()


def test_flist_that_cost_too_much_is_published_once_the_job_has_more(mirror: UsersMirror) -> None:
    model, chunk = mirror.upstream.model, b"x"
    key = hashlib.blake2b(chunk, digest_size=16).digest()
    model.add_flist("alice", "costly.flist", archive(message(key, 300_000)), OLD)
    model.add_chunks({key: chunk})
    mirror.settings["memory_limit_mb"] = SMALL_MB
    assert mirror.one_pass().broken.count == 1
    mirror.settings["memory_limit_mb"] = 1024
    assert mirror.one_pass().broken.count == 0
    assert "alice/costly.flist" in mirror.served()


def test_flist_is_read_or_needs_more_whatever_its_reader_is_given(tmp_path: Path) -> None:
    """Wherever the memory ends: nothing is wrong with the flist, which is as it was."""
    flist, pool, outcomes = tmp_path / "x.flist", ReaderPool(), list[bool]()
    count = 100_000  # Of which a reader takes some 15 MiB more than what it has anyway.
    data = directories_of_one_key(count)
    for reader_bytes in (2 * MIB, 15 * MIB, 40 * MIB):
        flist.write_bytes(data)
        grant = Granted(reader_bytes, 16 * MIB, 64 * MIB)
        try:
            read = pool.read(
                flist, tmp_path / "scratch", [(None, Named("mirror", 9900, "x"))], grant
            )
        except NeedsMoreError:
            outcomes.append(False)
            assert flist.read_bytes() == data
        else:
            outcomes.append(True)
            assert len(read.groups) == count
    assert {*outcomes} == {False, True}
    assert outcomes == sorted(outcomes)


def disk_with(free_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = Usage(1 << 40, 0, free_bytes)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)


@pytest.mark.parametrize("unfolded", [90 * MIB, 200 * MIB])
def test_flist_whose_database_would_take_the_disk_below_its_floor_fails_alone(
    unfolded: int, mirror: UsersMirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = archive(message(keys_from(0, 1)), message(keys_from(0, 1)) + bytes(unfolded // 2))
    mirror.upstream.model.add_flist("alice", "unfolds.flist", data, OLD)
    mirror.settings["free_space_floor_bytes"] = MIB
    disk_with(unfolded + MIB, monkeypatch)
    with mirror.engine() as (engine, status):
        with contextlib.suppress(PassIncompleteError):
            engine.one_pass()
        assert "freeSpaceFloorBytes" in str(status.record)
    assert "alice/unfolds.flist" not in mirror.served()
    assert "alice/blog.flist" in mirror.served()


def test_flist_that_is_larger_than_what_the_disk_has_is_not_fetched(
    mirror: UsersMirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror.settings["free_space_floor_bytes"] = MIB
    disk_with(MIB + 100, monkeypatch)
    with mirror.engine() as (engine, status):
        with contextlib.suppress(PassIncompleteError):
            engine.one_pass()
        assert "freeSpaceFloorBytes" in str(status.record)
        assert engine._master.bytes_received == 0


def test_disk_that_others_hold_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk_with(100 * MIB, monkeypatch)
    room, order = WorkRoom(tmp_path, 0), list[str]()

    def want() -> None:
        with room.on_disk(60 * MIB, "another"):
            order.append("another")

    with room.on_disk(60 * MIB, "one"):
        waiting = threading.Thread(target=want)
        waiting.start()
        assert room.usual_scratch_bytes() == 20 * MIB
        order.append("one")
    waiting.join(10)
    assert order == ["one", "another"]
    with pytest.raises(ScratchError, match="freeSpaceFloorBytes"), room.on_disk(101 * MIB, "x"):
        pass


@given(
    st.lists(st.tuples(st.binary(min_size=1, max_size=16), st.integers(0, 8 * MIB)), max_size=80),
    st.integers(1, 64),
)
def test_batches_hold_each_chunk_once_and_fit_the_room_for_payloads(
    chunks: list[tuple[bytes, int]], most_keys: int
) -> None:
    made = list(batches(chunks, most_keys))
    assert [*chain.from_iterable(batch.keys for batch in made)] == [key for key, _ in chunks]
    assert sum(batch.payload_bytes for batch in made) == sum(size for _, size in chunks)
    for batch in made:
        assert len(batch.keys) <= most_keys
        assert batch.held_bytes <= PAYLOADS_BYTES


@contextmanager
def payloads_asked_for(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Yield what is being fetched from the master at once, in bytes, each time that it changes."""
    now, seen, lock = [0], [0], threading.Lock()
    ask = ZdbConnection.mget_timed

    def counted(self: ZdbConnection, keys: Sequence[bytes], size: int | None = None) -> Timed:
        with lock:
            now[0] += size or 0
            seen.append(now[0])
        try:
            return ask(self, keys, size)
        finally:
            with lock:
                now[0] -= size or 0

    monkeypatch.setattr(ZdbConnection, "mget_timed", counted)
    yield seen


def test_flist_of_3_kb_that_names_chunks_of_megabytes_has_a_few_of_them_fetched_at_a_time(
    mirror: UsersMirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    payloads = [bytes([number]) * (8 * MIB if number < 4 else 3 * MIB) for number in range(14)]
    chunks = {hashlib.blake2b(one, digest_size=16).digest(): one for one in payloads}
    model = mirror.upstream.model
    model.add_flist("alice", "large.flist", archive(message(b"".join(chunks))), OLD)
    model.add_chunks(chunks)
    with payloads_asked_for(monkeypatch) as seen:
        assert mirror.one_pass().broken.count == 0
    assert chunks.keys() <= mirror.local_keys()
    assert 8 * MIB <= max(seen) <= PAYLOADS_BYTES // 4


def test_zdb_that_sends_more_than_it_announced_is_not_believed(
    mirror: UsersMirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ZdbConnection, "lengths", lambda _, keys: [1 for _ in keys])
    large = bytes(6 * MIB)
    chunks = {hashlib.blake2b(large, digest_size=16).digest(): large}
    model = mirror.upstream.model
    model.add_flist("alice", "large.flist", archive(message(b"".join(chunks))), OLD)
    model.add_chunks(chunks)
    broken = mirror.one_pass().broken
    assert [text.partition(":")[0] for text in broken.names] == ["alice/large.flist"]
    assert not chunks.keys() & mirror.local_keys()


@given(st.lists(st.lists(st.binary(min_size=1, max_size=20), max_size=9), max_size=9))
def test_keys_in_slices_are_the_keys(named: list[list[bytes]]) -> None:
    groups = [KeyGroup(pack_keys(keys)) for keys in named]
    found = [*chain.from_iterable(slices_of(groups))]
    assert sorted(found) == sorted(chain.from_iterable(named))


def test_slices_are_small_however_many_keys_there_are() -> None:
    groups = [KeyGroup(b"\x10" + bytes(16 * 3 * KEYS_AT_ONCE)), KeyGroup(b"\x10" + bytes(16))]
    assert [len(keys) for keys in slices_of(groups)] == [KEYS_AT_ONCE] * 3 + [1]


def test_who_waits_for_memory_does_not_keep_a_job_that_stops(tmp_path: Path) -> None:
    room, readers = WorkRoom(tmp_path, 0), ReaderPool()
    room.begin(Budget(160 * MIB), 0, readers)
    held = room.hold(room.most)
    ended: list[BaseException] = []

    def wait() -> None:
        try:
            room.hold(USUAL)
        except BudgetClosedError as error:
            ended.append(error)

    waiting = threading.Thread(target=wait)
    waiting.start()
    room.close()
    waiting.join(10)
    assert len(ended) == 1
    held.release()


def named_keys(mirror: UsersMirror) -> set[bytes]:
    with HubStateDb(mirror.directories.state / DATABASE) as rows:
        return set(chain.from_iterable(rows.all_keys()))


def pinned_keys(mirror: UsersMirror) -> set[bytes]:
    table = sqlite3.connect(mirror.directories.state / FILE)
    with contextlib.closing(table):
        return {row[0] for row in table.execute("SELECT key FROM chunk")}


@pytest.mark.parametrize("most", [0, 3, 1000])
def test_keys_that_are_let_go_leave_the_table_however_many_they_are(
    most: int, mirror: UsersMirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pins, "_MOST_RELEASED", most)
    model = mirror.upstream.model
    mirror.one_pass()
    before = pinned_keys(mirror)
    assert before == named_keys(mirror)
    model.change_flist("alice", "blog.flist", small(77))
    model.delete_flist("alice", "shop.flist")
    mirror.one_pass()
    assert pinned_keys(mirror) == named_keys(mirror)
    assert before - pinned_keys(mirror)


def test_flist_that_lacks_many_chunks_is_tried_again_and_published_once_they_are_there(
    mirror: UsersMirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunk_store, "MOST_MISSING", 5)
    payloads = [b"%d" % number for number in range(40)]
    chunks = {hashlib.blake2b(one, digest_size=16).digest(): one for one in payloads}
    model = mirror.upstream.model
    model.add_flist("alice", "lacks.flist", archive(message(b"".join(chunks))), OLD)
    assert "40 of its chunks" in mirror.one_pass().broken.names[0]
    with HubStateDb(mirror.directories.state / DATABASE) as rows:
        assert [len(one.missing) for one in rows.withheld().values()] == [1]
        assert len(rows.missing(Name("alice", "lacks.flist"))) == 5
    model.add_chunks(chunks)
    assert mirror.one_pass().broken.count == 0
    assert "alice/lacks.flist" in mirror.served()
