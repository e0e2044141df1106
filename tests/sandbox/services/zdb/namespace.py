"""One 0-db namespace: its entries in index append order, held in memory."""

import contextlib
import struct
import zlib
from array import array
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from operator import add
from typing import Final

NIL: Final = b"$-1\r\n"
MAX_KEY_BYTES: Final = 255
DEFAULT_DATASIZE_BYTES: Final = 256 << 20
PAGE_ENTRIES: Final = 1000  # zdbd walks for 2 ms, which gives about as many

# 0-db, libzdb/index.h and data.h: sizes of the packed headers and items.
INDEX_HEADER_BYTES: Final = 29
INDEX_ITEM_BYTES: Final = 34
DATA_HEADER_BYTES: Final = 28
DATA_ITEM_BYTES: Final = 18
_ZERO_CURSOR_END: Final = INDEX_ITEM_BYTES + ord("I")  # the magic's first byte is the key length
_OFFSET: Final = 0xFFFFFFFF  # of a place: file id << 32 | offset
_MEMORY_ITEM_BYTES: Final = 64  # index_entry_t, without the key

_CURSOR: Final = struct.Struct("<BIIII")  # idlength, fileid, length, index offset, check word
_CHECK: Final = struct.Struct("<QII")

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
    """What the index knows of a key: payload length in bytes, time of the write in seconds."""

    key: bytes
    length: int
    timestamp: int


@dataclass(frozen=True)
class RawEntry:
    """An entry as DATA RAW gives it; payload None is a tombstone."""

    key: bytes
    previous: int
    timestamp: int
    payload: bytes | None


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
        self._data_places: array[int] = array("Q")  # position -> file id << 32 | offset in data
        self._dead: dict[int, Entry] = {}
        self._old_replies: dict[int, bytes] = {}
        self._tombstones: dict[int, Entry] = {}  # data place -> what was deleted there
        self._file = 0
        self._index_offset = INDEX_HEADER_BYTES
        self._data_offset = DATA_HEADER_BYTES
        self._previous = 0

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

    def raw(self, file: int, offset: int) -> RawEntry | None:
        """Return the entry at an offset of a data file; None where no entry begins.

        Raises EOFError past the end of an existing file, FileNotFoundError for a missing one.
        """
        if file > self._file:
            raise FileNotFoundError(file)
        place = file << 32 | offset
        if place in self._tombstones:
            entry = self._tombstones[place]
            return RawEntry(entry.key, 0, entry.timestamp, None)
        position = bisect_left(self._data_places, place)
        if position == len(self._data_places) or self._data_places[position] >> 32 != file:
            raise EOFError(file)
        if self._data_places[position] != place:
            return None
        entry = self._entry_at(position)
        previous = self._data_places[position - 1] & 0xFFFFFFFF if position else 0
        return RawEntry(entry.key, previous, entry.timestamp, self._written(position, entry))

    def _written(self, position: int, entry: Entry) -> bytes:
        """Return what a write stored, whatever became of its key since."""
        alive = self._live.get(entry.key) == position
        reply = self.replies((entry.key,))[0] if alive else self._buried(position)
        return reply[reply.index(b"\n") + 1 : -2]

    def _buried(self, position: int) -> bytes:
        """Return the bulk reply that was served for a dead entry."""
        return self._old_replies[position]

    def _keep(self, position: int, key: bytes) -> None:
        """Keep a dying entry's payload for DATA RAW."""
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
        place = self._places[position]
        entry = self._entry_at(position)
        check = _check_word(place, entry)
        file, offset = place >> 32, place & 0xFFFFFFFF
        return _CURSOR.pack(len(entry.key), file, entry.length, offset, check)

    def cursor_of(self, key: bytes) -> bytes | None:
        """Return the cursor of a live key, or None."""
        position = self._live.get(key)
        return None if position is None else self.cursor(position)

    def position(self, cursor: bytes) -> int:
        """Position in the log that a cursor names; ValueError when it names none."""
        if len(cursor) != _CURSOR.size:
            raise ValueError("cursor size")
        if cursor == bytes(_CURSOR.size) and self._places:
            # zdbd reads the file's header as an item, takes it, and goes on somewhere behind it.
            return bisect_left(self._places, _ZERO_CURSOR_END) - 1
        _, file, length, offset, check = _CURSOR.unpack(cursor)
        place = file << 32 | offset
        position = bisect_left(self._places, place)
        if position == len(self._places) or self._places[position] != place:
            raise ValueError("cursor place")
        entry = self._entry_at(position)
        if entry.length != length or _check_word(place, entry) != check:
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
        items_bytes = [size + DATA_ITEM_BYTES for size in map(add, sizes, lengths)]
        self._data_places.extend(accumulate(items_bytes, initial=file | self._data_offset))
        self._data_offset = self._data_places.pop() & _OFFSET
        self.payload_bytes += sum(lengths)
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
        if old is not None:
            self._bury(old)
        self._live[key] = len(self._items)
        self._items.append(
            b"*3\r\n$%d\r\n%b\r\n:%d\r\n:%d\r\n" % (len(key), key, length, timestamp)
        )
        self._places.append(self._file << 32 | self._index_offset)
        self._data_places.append(self._file << 32 | self._data_offset)
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
        self._forget(key, timestamp)
        return True

    def _forget(self, key: bytes, timestamp: int) -> None:
        position = self._live.pop(key)
        self._keep(position, key)
        self._bury(position)
        self._drop(key)
        self._tombstones[self._file << 32 | self._data_offset] = Entry(key, 0, timestamp)
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
        self._replies[key] = bulk(payload)


def _parsed(item: bytes) -> Entry:
    start = item.index(b"\n", 4) + 1
    key_length = int(item[5 : start - 2])
    key = item[start : start + key_length]
    length, timestamp = item[start + key_length + 3 : -2].split(b"\r\n:")
    return Entry(key, int(length), int(timestamp))


def _check_word(place: int, entry: Entry) -> int:
    return zlib.crc32(_CHECK.pack(place, entry.length, entry.timestamp & 0xFFFFFFFF))
