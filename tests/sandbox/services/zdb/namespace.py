"""One 0-db namespace: its entries in index append order, held in memory."""

import contextlib
import struct
from array import array
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Final

from tests.sandbox.services.zdb.crc32c import crc32c

NIL: Final = b"$-1\r\n"
MAX_KEY_BYTES: Final = 255
DEFAULT_DATASIZE_BYTES: Final = 256 << 20
PAGE_ENTRIES: Final = 1000  # zdbd walks for 2 ms, which gives about as many

# 0-db, libzdb/index.h and data.h: sizes of the packed headers and items.
INDEX_HEADER_BYTES: Final = 29
INDEX_ITEM_BYTES: Final = 34
DATA_HEADER_BYTES: Final = 28
DATA_ITEM_BYTES: Final = 18
_OFFSET: Final = 0xFFFFFFFF  # of a place: file id << 32 | offset
_MEMORY_ITEM_BYTES: Final = 64  # index_entry_t, without the key

_CURSOR: Final = struct.Struct("<BIIII")  # idlength, fileid, length, index offset, CRC of payload
_VERSION: Final = struct.Struct("<II")  # of HISTORY: fileid, index offset

Write = tuple[bytes, bytes, int]  # key, payload, timestamp
# Key, payload as the bulk reply of GET, its length, timestamp.
BulkWrite = tuple[bytes, bytes, int, int]


def bulk(data: bytes) -> bytes:
    """Encode a bulk string: a payload as GET answers it, a key as SET does."""
    return b"$%d\r\n%b\r\n" % (len(data), data)


def bulk_write(write: Write) -> BulkWrite:
    """Encode a write's payload."""
    key, payload, timestamp = write
    return key, bulk(payload), len(payload), timestamp


class WriteFailedError(OSError):
    """The payload could not be written; zdbd answers `-Cannot write data right now`."""


@dataclass(frozen=True)
class Entry:
    """What the index knows of a key: payload length in bytes, time of the write in seconds.

    The time is a signed number of 32 bits; all but SCAN print it unsigned.
    """

    key: bytes
    length: int
    timestamp: int


@dataclass(frozen=True)
class Version:
    """A key as it was: what names the version before it (None: there is none), time, payload."""

    older: bytes | None
    timestamp: int
    payload: bytes


class Namespace:
    """Entries by key and in append order: an overwritten key reappears at the end.

    Every write has a place (file id, offset in the index file), which is what a cursor names; it
    stays valid after its key is overwritten or deleted. Not locked: the store's lock guards it.
    """

    def __init__(self, name: str, datasize_bytes: int = DEFAULT_DATASIZE_BYTES) -> None:
        self.name = name
        self.password: str | None = None
        self.public = True
        self.worm = False
        self.maxsize_bytes = 0
        self.locked = 0  # 0 open, 1 read-only, 2 frozen
        self.datasize_bytes = datasize_bytes
        self.clear()

    def clear(self) -> None:
        """Forget every entry, as a new master would have."""
        self.payload_bytes = 0
        self._replies: dict[bytes, bytes] = {}  # key -> the bulk reply of GET
        self._live: dict[bytes, int] = {}  # key -> position in the log
        self._items: list[bytes] = []  # position -> item of a SCAN reply, b"" once dead
        self._places: array[int] = array("Q")  # position -> file id << 32 | offset in index
        self._dead: dict[int, Entry] = {}
        self._old_replies: dict[int, bytes] = {}
        self._crcs: dict[int, int] = {}  # position -> CRC of its payload, where it was asked for
        self._parents: dict[int, int] = {}  # position -> position of the version it replaced
        self.next_id = 0  # new keys so far; after a start, the length of the log
        self._file = 0
        self._index_offset = INDEX_HEADER_BYTES
        self._data_offset = DATA_HEADER_BYTES

    def reload(self) -> None:
        """Read the namespace again from where it is kept (RELOAD)."""
        self.next_id = self.log_length

    def __len__(self) -> int:
        return len(self._live)

    def __contains__(self, key: object) -> bool:
        return key in self._live

    def keys(self) -> list[bytes]:
        """Every key, in index append order."""
        return sorted(self._live, key=self._live.__getitem__)

    # -- reading -----------------------------------------------------------------------------

    def replies(self, keys: Sequence[bytes]) -> list[bytes]:
        """Return the bulk reply for each key, nil where there is none."""
        get = self._replies.get
        return [get(key, NIL) for key in keys]

    def payload(self, key: bytes) -> bytes | None:
        """Return the payload of a key, or None."""
        reply = self.replies((key,))[0]
        return None if reply == NIL else reply[reply.index(b"\n") + 1 : -2]

    def entry(self, key: bytes) -> Entry | None:
        """Return what the index knows of a live key, or None."""
        position = self._live.get(key)
        return None if position is None else self._entry_at(position)

    def _entry_at(self, position: int) -> Entry:
        item = self._items[position]
        return _parsed(item) if item else self._dead[position]

    def intact(self, key: bytes) -> bool:
        """Tell whether the payload is as it was written (CHECK)."""
        return key in self._live

    def history(self, key: bytes, version: bytes | None) -> Version | None:
        """Return a version of a key: its last, or the one that `version` names.

        None where the key has no such version; ValueError where `version` names another key's.
        """
        position = (
            self._live.get(key) if version is None else self._named(*_VERSION.unpack(version))
        )
        if position is None:
            return None
        entry = self._entry_at(position)
        if entry.key != key:
            raise ValueError("another key")
        parent = self._parents.get(position)
        older = None if parent is None else _VERSION.pack(*divmod(self._places[parent], 1 << 32))
        return Version(older, entry.timestamp, self._written(position))

    def _named(self, file: int, offset: int) -> int | None:
        """Return the position of the write that has this place in the index, or None."""
        place = file << 32 | offset
        position = bisect_left(self._places, place)
        found = position < len(self._places) and self._places[position] == place
        return position if found else None

    def _written(self, position: int) -> bytes:
        """Return the payload that a write stored, whatever became of its key since."""
        key = self._entry_at(position).key
        alive = self._live.get(key) == position
        reply = self.replies((key,))[0] if alive else self._buried(position)
        return reply[reply.index(b"\n") + 1 : -2]

    def _buried(self, position: int) -> bytes:
        """Return the bulk reply that was served for a dead entry."""
        return self._old_replies[position]

    def _keep(self, position: int, key: bytes) -> None:
        """Keep a dying entry's payload for HISTORY."""
        self._old_replies[position] = self._replies[key]

    @property
    def end(self) -> tuple[int, int]:
        """Current data file id and the offset where its next entry goes."""
        return self._file, self._data_offset

    @property
    def index_bytes(self) -> int:
        """Memory that zdbd's index would take."""
        return sum(map(len, self._live)) + _MEMORY_ITEM_BYTES * len(self._live)

    # -- cursors -----------------------------------------------------------------------------

    def cursor(self, position: int) -> bytes:
        """Return the 17 bytes that name a place in the index."""
        file, offset = divmod(self._places[position], 1 << 32)
        entry = self._entry_at(position)
        return _CURSOR.pack(len(entry.key), file, entry.length, offset, self._crc(position))

    def _crc(self, position: int) -> int:
        if position not in self._crcs:
            self._crcs[position] = crc32c(self._written(position))
        return self._crcs[position]

    def cursor_of(self, key: bytes) -> bytes | None:
        """Return the cursor of a live key, or None."""
        position = self._live.get(key)
        return None if position is None else self.cursor(position)

    def position(self, cursor: bytes) -> int:
        """Position in the log that a cursor names; ValueError when it names none.

        EOFError: a cursor of zeros, where zdbd takes the file's header for an entry.
        """
        if len(cursor) != _CURSOR.size:
            raise ValueError("cursor size")
        if not any(cursor[1:]) and self._places:
            raise EOFError
        _, file, length, offset, crc = _CURSOR.unpack(cursor)
        position = self._named(file, offset)
        if position is None:
            raise ValueError("cursor place")
        if self._entry_at(position).length != length or self._crc(position) != crc:
            raise ValueError("cursor check")
        return position

    def page(self, after: int, entries: int = PAGE_ENTRIES) -> tuple[int, int, bytes] | None:
        """Return live items behind a position: last position, count, encoding; None at the end."""
        items = self._items
        taken: list[bytes] = []
        start, last = after + 1, -1
        while len(taken) < entries and start < len(items):
            stop = min(start + entries - len(taken), len(items))
            part = items[start:stop]
            live = [item for item in part if item]
            if live:
                last = stop - 1 - next(i for i, item in enumerate(reversed(part)) if item)
                taken += live
            start = stop
        return (last, len(taken), b"".join(taken)) if taken else None

    def page_back(self, before: int, entries: int = PAGE_ENTRIES) -> tuple[int, int, bytes] | None:
        """As `page`, walking towards the first entry (RSCAN)."""
        taken: list[bytes] = []
        last = -1
        for position in range(before - 1, -1, -1):
            if item := self._items[position]:
                taken.append(item)
                last = position
                if len(taken) == entries:
                    break
        return (last, len(taken), b"".join(taken)) if taken else None

    @property
    def log_length(self) -> int:
        """Number of writes so far: the position behind the last one."""
        return len(self._items)

    # -- writing -----------------------------------------------------------------------------

    def set_many(self, writes: Sequence[Write]) -> None:
        """Store each (key, payload, timestamp), as a SET would."""
        self.store([bulk_write(write) for write in writes])

    def store(self, writes: Sequence[BulkWrite]) -> bytes:
        """Store writes whose payloads are encoded; the replies of their SETs, in order."""
        keys = [key for key, _, _, _ in writes]
        fresh = set(keys)
        if len(fresh) == len(writes) and self._live.keys().isdisjoint(fresh):
            lengths = [length for _, _, length, _ in writes]
            taken = sum(lengths) + len(writes) * (DATA_ITEM_BYTES + MAX_KEY_BYTES)
            if taken < self.datasize_bytes - self._data_offset:
                # Where one can not be written: say for each whether it is the one.
                with contextlib.suppress(WriteFailedError):
                    return self._store_fresh(keys, lengths, writes)
        return b"".join([self._store_one(write) for write in writes])

    def _store_fresh(
        self, keys: list[bytes], lengths: list[int], writes: Sequence[BulkWrite]
    ) -> bytes:
        """Store writes of new keys that fit into the current file: the way of a mirror."""
        self._keep_fresh(writes)
        heads = [bulk(key) for key in keys]
        first = len(self._items)
        self._items += [
            b"*3\r\n%b:%d\r\n:%d\r\n" % (head, length, timestamp)
            for head, (_, _, length, timestamp) in zip(heads, writes, strict=True)
        ]
        self._live.update(zip(keys, range(first, first + len(keys)), strict=True))
        sizes = [*map(len, keys)]
        file = self._file << 32
        items_bytes = [size + INDEX_ITEM_BYTES for size in sizes]
        self._places.extend(accumulate(items_bytes, initial=file | self._index_offset))
        self._index_offset = self._places.pop() & _OFFSET
        written_bytes = sum(lengths)
        self._data_offset += sum(sizes) + written_bytes + DATA_ITEM_BYTES * len(sizes)
        self.payload_bytes += written_bytes
        self.next_id += len(keys)
        return b"".join(heads)

    def _keep_fresh(self, writes: Sequence[BulkWrite]) -> None:
        """Keep the payloads of new keys; raises WriteFailedError when none of them is kept."""
        self._replies.update([(key, reply) for key, reply, _, _ in writes])

    def _store_one(self, write: BulkWrite) -> bytes:
        key, _, length, timestamp = write
        if self._unchanged(write):
            return NIL
        if self._data_offset + length > self.datasize_bytes:
            self.rotate()
        old = self._live.get(key)
        if old is not None:
            self._keep(old, key)
        try:
            self._keep_fresh([write])
        except WriteFailedError:
            return b"-Cannot write data right now\r\n"
        self._append(key, length, timestamp)
        return bulk(key)

    def _unchanged(self, write: BulkWrite) -> bool:
        return self._replies.get(write[0]) == write[1]

    def _append(self, key: bytes, length: int, timestamp: int) -> None:
        old = self._live.get(key)
        if old is None:
            self.next_id += 1
        else:
            self._bury(old)
            self._parents[len(self._items)] = old
        self._live[key] = len(self._items)
        self._items.append(
            b"*3\r\n$%d\r\n%b\r\n:%d\r\n:%d\r\n" % (len(key), key, length, timestamp)
        )
        self._places.append(self._file << 32 | self._index_offset)
        self._index_offset += INDEX_ITEM_BYTES + len(key)
        self._data_offset += DATA_ITEM_BYTES + len(key) + length
        self.payload_bytes += length

    def _bury(self, position: int) -> None:
        entry = _parsed(self._items[position])
        self._dead[position] = entry
        self._items[position] = b""
        self.payload_bytes -= entry.length

    def delete(self, key: bytes, timestamp: int) -> bool:
        """Delete a key; False when there is none."""
        position = self._live.get(key)
        if position is None:
            return False
        self._store_tombstone(key, timestamp)
        self._forget(key)
        return True

    def _forget(self, key: bytes) -> None:
        position = self._live.pop(key)
        self._keep(position, key)
        self._bury(position)
        self._drop(key)
        self._data_offset += DATA_ITEM_BYTES + len(key)

    def _store_tombstone(self, key: bytes, timestamp: int) -> None:
        """Make the delete durable (memory has nothing to do)."""

    def _drop(self, key: bytes) -> None:
        self._replies.pop(key, None)

    def rotate(self) -> None:
        """Go on in the next pair of data and index files."""
        self._file += 1
        self._index_offset = INDEX_HEADER_BYTES
        self._data_offset = DATA_HEADER_BYTES

    # -- what only a test does ---------------------------------------------------------------

    def replace_payload(self, key: bytes, payload: bytes) -> None:
        """Serve other bytes under a key without any trace in the index (bit rot, an attacker)."""
        self._crc(self._live[key])  # the index has that of what was written
        self._replies[key] = bulk(payload)


def _parsed(item: bytes) -> Entry:
    start = item.index(b"\n", 4) + 1
    key_length = int(item[5 : start - 2])
    key = item[start : start + key_length]
    length, timestamp = item[start + key_length + 3 : -2].split(b"\r\n:")
    return Entry(key, int(length), int(timestamp))
