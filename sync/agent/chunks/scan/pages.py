"""Listing pages and the batches of keys they are cut into, quick enough for 100k entries a second.

A page of SCAN is parsed with one regular expression; whatever does not fit it exactly goes through
the bounded parser of the 0-db client, which tells what is wrong.
"""

import re
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Final, NamedTuple

from sync.agent.zdb.errors import ZdbProtocolError, ZdbReplyError
from sync.agent.zdb.protocol import (
    MAX_PAYLOAD_BYTES,
    Limits,
    Reply,
    ReplyParser,
    check_entry,
)
from sync.agent.zdb.replies import CURSOR_BYTES, Cursor

PROVEN_KEY_BYTES: Final = 16
MAX_PAGE_ENTRIES: Final = 65_536
MAX_PAGE_BYTES: Final = 32 << 20
_HEADER: Final = re.compile(rb"\*2\r\n\$17\r\n(.{17})\r\n\*(\d{1,6})\r\n", re.DOTALL)
_ENTRY: Final = re.compile(rb"\*3\r\n\$16\r\n(.{16})\r\n:(\d{1,7})\r\n:(-?\d{1,11})\r\n", re.DOTALL)
_ENTRIES: Final = re.compile(
    rb"(?:\*3\r\n\$16\r\n.{16}\r\n:\d{1,7}\r\n:-?\d{1,11}\r\n)*", re.DOTALL
)
_ENTRY_HEAD: Final = b"*3\r\n$16\r\n"
_ENTRY_FRAME_BYTES: Final = len(b"*3\r\n$16\r\n\r\n:\r\n:\r\n") + PROVEN_KEY_BYTES
_ENTRY_NUMBERS_BYTES: Final = 19
_SMALLEST_ENTRY_BYTES: Final = len(b"*3\r\n$1\r\nk\r\n:0\r\n:0\r\n")


class Listed(NamedTuple):
    """One listed entry as the wire has it: length and timestamp as decimal digits."""

    key: bytes
    length: bytes
    timestamp: bytes

    @property
    def proves_itself(self) -> bool:
        """Tell whether the key is the hash of its payload (0-flist) rather than any name."""
        return len(self.key) == PROVEN_KEY_BYTES


# What the regular expression gives; the same three fields without the cost of the class.
Entry = tuple[bytes, bytes, bytes]


class NeedMoreBytes(Exception):  # noqa: N818 - not an error: the reply is not complete yet
    """The reply is not complete yet."""


class _Buffered:
    """Feeds the bounded parser from what has been received so far."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def receive(self) -> bytes:
        if not self._data:
            raise NeedMoreBytes
        data, self._data = self._data, b""
        return data


def parse_reply(data: bytes | bytearray, limits: Limits | None = None) -> tuple[Reply, int]:
    """Parse one reply from the start of `data`; returns it and how many bytes it took.

    Raises NeedMoreBytes, ZdbProtocolError.
    """
    parser = ReplyParser(_Buffered(bytes(data)).receive, limits)
    reply = parser.reply()
    return reply, len(data) - parser.buffered_bytes


def parse_page(data: bytearray) -> tuple[Cursor, list[Entry]] | None:
    """Parse a whole SCAN reply; None stands for the end ("No more data").

    Raises NeedMoreBytes, ZdbReplyError (an error of the server), ZdbProtocolError.
    """
    header = _HEADER.match(data)
    if header is None:
        return _parse_odd(data)
    count = int(header[2])
    start = header.end()
    if count > MAX_PAGE_ENTRIES or len(data) > MAX_PAGE_BYTES:
        raise ZdbProtocolError(f"SCAN: a page of {count} entries, {len(data)} bytes")
    if len(data) < start + count * _SMALLEST_ENTRY_BYTES:
        raise NeedMoreBytes
    entries = _ENTRY.findall(data, start)
    covered = len(entries) * _ENTRY_FRAME_BYTES
    covered += sum([len(length) + len(timestamp) for _, length, timestamp in entries])
    if len(entries) != count or start + covered != len(data):
        if len(entries) < count and _is_cut_off(data, start):
            raise NeedMoreBytes
        return _parse_odd(data)
    return Cursor(bytes(header[1])), entries


def _is_cut_off(data: bytearray, start: int) -> bool:
    """Tell quickly whether all entries are of 16-byte keys but the last, which is incomplete."""
    regular = _ENTRIES.match(data, start)
    end = regular.end() if regular else start
    if len(data) - end >= _ENTRY_FRAME_BYTES + _ENTRY_NUMBERS_BYTES:
        return False
    rest = data[end:]
    numbers = rest[len(_ENTRY_HEAD) + PROVEN_KEY_BYTES :]
    return _ENTRY_HEAD.startswith(rest[: len(_ENTRY_HEAD)]) and numbers.count(b"\r\n") < 3  # noqa: PLR2004 - of the key and of both numbers


def _parse_odd(data: bytearray) -> tuple[Cursor, list[Entry]] | None:
    reply, taken = parse_reply(data)
    if taken != len(data):
        raise ZdbProtocolError("SCAN: bytes after the end of the page")
    if isinstance(reply, ZdbReplyError):
        if reply.reason == "No more data":
            return None
        raise reply
    match reply:
        case [bytes(cursor), list(items)] if len(cursor) == CURSOR_BYTES:
            return Cursor(cursor), [_odd_entry(item) for item in items]
    raise ZdbProtocolError("SCAN: a page that is not a cursor and a list")


def _odd_entry(item: Reply) -> Entry:
    match item:
        case [bytes(key), int(length), int(timestamp)]:
            check_entry(key, length)
            return key, b"%d" % length, b"%d" % timestamp
    raise ZdbProtocolError("SCAN: an entry that is not (key, length, timestamp)")


@dataclass(slots=True)
class Page:
    """Listed entries whose copying is acknowledged as one.

    cursor: where listing stands once this page is done. open_batches: batches not yet on the
    slave. items, payload_bytes: what the slave did not have. lengths: listed ones, in bytes; named:
    keys that prove nothing.
    """

    cursor: Cursor | None
    edge_key: bytes
    entries: list[Entry]
    open_batches: int = 0
    items: int = 0
    payload_bytes: int = 0
    lengths: list[int] = field(init=False)
    named: list[bytes] = field(init=False)

    def __post_init__(self) -> None:
        self.lengths = [int(entry[1]) for entry in self.entries]
        keys = [entry[0] for entry in self.entries]
        proven = {*map(len, keys)} <= {PROVEN_KEY_BYTES}
        self.named = [] if proven else [key for key in keys if len(key) != PROVEN_KEY_BYTES]


@dataclass(slots=True)
class Batch:
    """Keys fetched with one MGET. ordered: keys that prove nothing keep their order."""

    page: Page
    entries: list[Entry]
    lengths: list[int]
    ordered: bool
    refused: list[bytes] = field(default_factory=list)

    @property
    def payload_bytes(self) -> int:
        """Sum of the listed lengths."""
        return sum(self.lengths)

    def request(self) -> bytes:
        """Encode the MGET."""
        keys = [entry[0] for entry in self.entries]
        head = b"*%d\r\n$4\r\nMGET\r\n" % (len(keys) + 1)
        if not self.ordered:
            return b"%b$16\r\n%b\r\n" % (head, b"\r\n$16\r\n".join(keys))
        return head + b"".join([b"$%d\r\n%b\r\n" % (len(key), key) for key in keys])


def cut(page: Page, entries: list[Entry], batch_keys: int, batch_bytes: int) -> list[Batch]:
    """Cut entries of a page into batches of at most so many keys and about so many bytes."""
    if not page.named:
        lengths = page.lengths if entries is page.entries else _lengths(entries)
        batches = _cut(page, entries, lengths, (batch_keys, batch_bytes), ordered=False)
    else:
        proven = [entry for entry in entries if len(entry[0]) == PROVEN_KEY_BYTES]
        odd = [entry for entry in entries if len(entry[0]) != PROVEN_KEY_BYTES]
        most = (batch_keys, batch_bytes)
        batches = _cut(page, proven, _lengths(proven), most, ordered=False)
        batches += _cut(page, odd, _lengths(odd), most, ordered=True)
    page.open_batches += len(batches)
    return batches


def _lengths(entries: Sequence[Entry]) -> list[int]:
    return [int(entry[1]) for entry in entries]


def _cut(
    page: Page,
    entries: Sequence[Entry],
    lengths: list[int],
    most: tuple[int, int],
    *,
    ordered: bool,
) -> list[Batch]:
    batch_keys, batch_bytes = most
    if lengths and max(lengths) > MAX_PAYLOAD_BYTES:
        check_entry(entries[0][0], max(lengths))
    ends = list(accumulate(lengths))
    batches: list[Batch] = []
    start = 0
    taken = 0
    while start < len(entries):
        end = min(bisect_right(ends, taken + batch_bytes), start + batch_keys)
        end = max(end, start + 1)
        part = list(entries[start:end])
        batches.append(Batch(page, part, lengths[start:end], ordered))
        start, taken = end, ends[end - 1]
    return batches
