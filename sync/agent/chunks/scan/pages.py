"""Pages of SCAN, parsed quickly enough for 100k entries a second.

A page (zdbd/commands_scan.c, command_scan_send_scanlist) is parsed with one regular expression;
whatever does not fit it exactly goes through the bounded parser of the 0-db client, which says what
is wrong.
"""

import re
from dataclasses import dataclass, field
from typing import Final

from sync.agent.zdb.errors import ZdbProtocolError, ZdbReplyError
from sync.agent.zdb.protocol import Reply, ReplyParser
from sync.agent.zdb.replies import NO_MORE_DATA, Cursor, scan_page

# A chunk's key is the BLAKE2b-128 of its payload (0-flist: libflist/zero_chunk.c); a key of any
# other size proves nothing.
HASH_BYTES: Final = 16
# zdbd lists for 2 ms a page (zdbd/commands_scan.h, SCAN_TIMESLICE_US): some hundred to a thousand
# entries. More than these is no page.
MAX_PAGE_ENTRIES: Final = 65_536
MAX_PAGE_BYTES: Final = 32 << 20
_HEADER: Final = re.compile(rb"\*2\r\n\$17\r\n(.{17})\r\n\*(\d{1,6})\r\n", re.DOTALL)
# Length and timestamp are printed signed: a time after 2038 comes as a negative number.
_ENTRY: Final = re.compile(rb"\*3\r\n\$16\r\n(.{16})\r\n:(\d{1,7})\r\n:(-?\d{1,11})\r\n", re.DOTALL)
_ENTRY_HEAD: Final = b"*3\r\n$16\r\n"
_ENTRY_FRAME_BYTES: Final = len(b"*3\r\n$16\r\n\r\n:\r\n:\r\n") + HASH_BYTES
_ENTRY_NUMBERS_BYTES: Final = 19
_ENTRY_LINES: Final = 5
_SMALLEST_ENTRY_BYTES: Final = len(b"*3\r\n$1\r\nk\r\n:0\r\n:0\r\n")
# One listed entry as the wire has it: key, then length and timestamp as decimal digits.
Entry = tuple[bytes, bytes, bytes]


class NeedMoreBytes(Exception):  # noqa: N818 - not an error: the reply is not complete yet
    """The reply is not complete yet."""


def parse_reply(data: bytes | bytearray) -> tuple[Reply, int]:
    """Parse one reply from the start of `data`; returns it and how many bytes it took.

    Raises NeedMoreBytes, ZdbProtocolError.
    """
    pieces = [bytes(data)] if data else []

    def receive() -> bytes:
        if not pieces:
            raise NeedMoreBytes
        return pieces.pop()

    parser = ReplyParser(receive)
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
    # findall passes over what does not match: only the lengths show that there was nothing else.
    if len(entries) != count or start + covered != len(data):
        if len(entries) < count and _is_cut_off(data[start + covered :]):
            raise NeedMoreBytes
        return _parse_odd(data)
    return Cursor(bytes(header[1])), entries


def _is_cut_off(rest: bytearray) -> bool:
    """Return whether a page may lack just the end of its last entry, without parsing it slowly."""
    return (
        len(rest) < _ENTRY_FRAME_BYTES + _ENTRY_NUMBERS_BYTES
        and rest.count(b"\r\n") < _ENTRY_LINES
        and _ENTRY_HEAD.startswith(rest[: len(_ENTRY_HEAD)])
    )


def _parse_odd(data: bytearray) -> tuple[Cursor, list[Entry]] | None:
    reply, taken = parse_reply(data)
    if taken != len(data):
        raise ZdbProtocolError("SCAN: bytes after the end of the page")
    if isinstance(reply, ZdbReplyError):
        # The end of the index comes as an error (commands_scan.c, command_scan_send_scanlist).
        if reply.reason == NO_MORE_DATA:
            return None
        raise reply
    page = scan_page(reply)
    return page.cursor, [(key, b"%d" % size, b"%d" % at) for key, size, at in page.entries]


@dataclass(slots=True)
class Page:
    """Listed entries whose copying is acknowledged as one.

    cursor, edge_key: where listing stands once this page is done. stored_items: what the slave did
    not have. lengths: listed ones, in bytes. plain_keys: those that are no hash of their payload.
    """

    cursor: Cursor | None
    edge_key: bytes
    entries: list[Entry]
    stored_items: int = 0
    lengths: list[int] = field(init=False)
    plain_keys: list[bytes] = field(init=False)
    # The first hold is the listing's own, until all batches are cut: a page is never done before.
    _holds: int = field(default=1, init=False)

    def __post_init__(self) -> None:
        self.lengths = [int(entry[1]) for entry in self.entries]
        keys = [entry[0] for entry in self.entries]
        hashes = {*map(len, keys)} <= {HASH_BYTES}
        self.plain_keys = [] if hashes else [key for key in keys if len(key) != HASH_BYTES]

    def hold(self, batches: int) -> None:
        """Keep the page from being done until so many batches are released."""
        self._holds += batches

    def release(self) -> None:
        """Give up one hold. Raises ZdbProtocolError where there is none."""
        if self._holds == 0:
            raise ZdbProtocolError("more replies than batches")
        self._holds -= 1

    @property
    def done(self) -> bool:
        """Whether every entry is on the slave, or cannot be."""
        return self._holds == 0
