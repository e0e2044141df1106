"""Pages of SCAN and their cursors, parsed quickly enough for 100k entries a second.

A page (zdbd/commands_scan.c, command_scan_send_scanlist) is parsed with one regular expression;
whatever does not fit it exactly goes through the bounded parser of replies, which says what is
wrong.
"""

import re
import struct
from dataclasses import dataclass
from typing import Final, NamedTuple, Self

from sync.agent.zdb.errors import ZdbProtocolError, ZdbReplyError
from sync.agent.zdb.protocol import (
    MAX_KEY_BYTES,
    MAX_PAYLOAD_BYTES,
    NeedMoreBytes,
    Reply,
    ReplyParser,
    parser_of,
)

# idlength, fileid, length, idxoffset, crc (packed).
_CURSOR: Final = struct.Struct("<BIIII")
_CURSOR_BYTES: Final = _CURSOR.size
# Said by SCAN and RSCAN past their last entry, and by an empty namespace.
_NO_MORE_DATA: Final = "No more data"
# zdbd lists for 2 ms a page (zdbd/commands_scan.h, SCAN_TIMESLICE_US): some hundred to a thousand
# entries. More than these is no page.
_MAX_PAGE_ENTRIES: Final = 65_536
_MAX_PAGE_BYTES: Final = 32 << 20
# What such a page of the longest keys costs as objects of the parser of replies.
PAGE_BYTES: Final = 64 << 20
# What an entry takes beside its bytes on the wire: tuple, key, digits, and its length as a number.
_ENTRY_COST_BYTES: Final = 320
_HEADER: Final = re.compile(rb"\*2\r\n\$17\r\n(.{17})\r\n\*(\d{1,6})\r\n", re.DOTALL)
# Length and timestamp are printed signed: a time after 2038 comes as a negative number.
_ENTRY: Final = re.compile(rb"\*3\r\n\$16\r\n(.{16})\r\n:(\d{1,7})\r\n:(-?\d{1,11})\r\n", re.DOTALL)
_ENTRY_HEAD: Final = b"*3\r\n$16\r\n"
_ENTRY_FRAME_BYTES: Final = len(b"*3\r\n$16\r\n0123456789abcdef\r\n:\r\n:\r\n")
_ENTRY_NUMBERS_BYTES: Final = 19
_ENTRY_LINES: Final = 5
_SMALLEST_ENTRY_BYTES: Final = len(b"*3\r\n$1\r\nk\r\n:0\r\n:0\r\n")
# One listed entry as the wire has it: key, then length and timestamp as decimal digits.
Entry = tuple[bytes, bytes, bytes]


@dataclass(frozen=True, slots=True)
class Cursor:
    """A position in a namespace's index (0-db: libzdb/index.h, index_bkey_t).

    raw: the 17 bytes as the server gave them. Cursors of one namespace are ordered by
    `position`, (index file, offset in it), which is the order of SCAN.
    """

    raw: bytes

    def __post_init__(self) -> None:
        if len(self.raw) != _CURSOR_BYTES:
            raise ZdbProtocolError(f"a cursor of {len(self.raw)} bytes instead of {_CURSOR_BYTES}")

    @property
    def position(self) -> tuple[int, int]:
        """(index file id, offset in that file)."""
        _, file_id, _, offset, _ = _CURSOR.unpack(self.raw)
        return file_id, offset

    @property
    def length_bytes(self) -> int:
        """Payload length of the entry that the cursor stands on."""
        length: int = _CURSOR.unpack(self.raw)[2]
        return length

    @property
    def hex(self) -> str:
        """For the status record and the state file."""
        return self.raw.hex()

    @classmethod
    def from_hex(cls, text: str) -> Self:
        """Read what `hex` gave; ValueError or ZdbProtocolError where it is none."""
        return cls(bytes.fromhex(text))


class ScanPage(NamedTuple):
    """One page of SCAN or RSCAN: the cursor of its last entry, and its entries as listed."""

    cursor: Cursor
    entries: list[Entry]

    @property
    def cost_bytes(self) -> int:
        """What it takes in memory."""
        keys_bytes = sum([len(key) for key, _, _ in self.entries])
        return keys_bytes + _ENTRY_COST_BYTES * len(self.entries)


def quick_page(
    data: bytes | bytearray, most_bytes: int = PAGE_BYTES
) -> tuple[ScanPage, int] | None:
    """Parse a page if `data` is just that; returns it and how many bytes it took.

    most_bytes: what it may take in memory. Raises NeedMoreBytes for the beginning of one,
    ZdbProtocolError for one that passes a limit.
    """
    if len(data) > min(_MAX_PAGE_BYTES, most_bytes):
        raise ZdbProtocolError(f"SCAN: a page of {len(data)} bytes passes the limit")
    # Parsing starts anew each time, as a page has no length: not before it may be complete.
    if not data.endswith(b"\r\n"):
        raise NeedMoreBytes
    header = _HEADER.match(data)
    if header is None:
        return None
    count, start = int(header[2]), header.end()
    if count > _MAX_PAGE_ENTRIES or len(data) + count * _ENTRY_COST_BYTES > most_bytes:
        raise ZdbProtocolError(f"SCAN: a page of {count} entries passes the limit")
    if len(data) < start + count * _SMALLEST_ENTRY_BYTES:
        raise NeedMoreBytes
    entries = _ENTRY.findall(data, start)
    covered = len(entries) * _ENTRY_FRAME_BYTES
    covered += sum([len(length) + len(timestamp) for _, length, timestamp in entries])
    # findall passes over what does not match: only the lengths show that there was nothing else.
    if len(entries) == count and start + covered == len(data):
        return ScanPage(Cursor(bytes(header[1])), entries), len(data)
    if len(entries) < count and _is_cut_off(data[start + covered :]):
        raise NeedMoreBytes
    return None


def _is_cut_off(rest: bytes | bytearray) -> bool:
    """Return whether a page may lack just the end of its last entry, without parsing it slowly."""
    return (
        len(rest) < _ENTRY_FRAME_BYTES + _ENTRY_NUMBERS_BYTES
        and rest.count(b"\r\n") < _ENTRY_LINES
        and _ENTRY_HEAD.startswith(rest[: len(_ENTRY_HEAD)])
    )


def read_page(parser: ReplyParser) -> ScanPage | None:
    """Take a reply to SCAN or RSCAN out of what the parser gets; as `page_of`.

    What it may take in memory is what the parser allows. Raises what `receive` of the parser does,
    ZdbReplyError (an error of the server), ZdbProtocolError.
    """
    found = parser.quick(quick_page)
    return found if isinstance(found, ScanPage) else page_of(found)


def parse_page(data: bytes | bytearray) -> ScanPage | None:
    """Parse a whole reply to SCAN or RSCAN; as `page_of`.

    Raises NeedMoreBytes, ZdbReplyError (an error of the server), ZdbProtocolError.
    """
    parser = parser_of(data)
    page = read_page(parser)
    if parser.buffered_bytes:
        raise ZdbProtocolError("SCAN: bytes after the end of the page")
    return page


def page_of(reply: Reply) -> ScanPage | None:
    """Read a reply to SCAN or RSCAN; None stands for the end ("No more data").

    Raises ZdbReplyError (an error of the server), ZdbProtocolError where it is not shaped as one.
    """
    if isinstance(reply, ZdbReplyError):
        # The end of the index comes as an error (commands_scan.c, command_scan_send_scanlist).
        if reply.reason == _NO_MORE_DATA:
            return None
        raise ZdbReplyError(reply.reason, "SCAN")
    # *2 <cursor of the last entry> *N [*3 key length timestamp] (zdbd/commands_scan.c).
    match reply:
        case [bytes(cursor), list(items)]:
            return ScanPage(Cursor(cursor), [_entry(item) for item in items])
    raise ZdbProtocolError("SCAN: a page that is not a cursor and a list")


def _entry(item: Reply) -> Entry:
    match item:
        case [bytes(key), int(length), int(timestamp)]:
            if not 0 < len(key) <= MAX_KEY_BYTES:
                what = f"a key of {len(key)} bytes; 0-db has 1 to {MAX_KEY_BYTES}"
                raise ZdbProtocolError(f"SCAN: {what}")
            check_payload_bytes(length)
            return key, b"%d" % length, b"%d" % timestamp
    raise ZdbProtocolError("SCAN: an entry that is not (key, length, timestamp)")


def check_payload_bytes(length_bytes: int) -> None:
    """Raise ZdbProtocolError for a listed payload length that no 0-db can have."""
    if not 0 <= length_bytes <= MAX_PAYLOAD_BYTES:
        raise ZdbProtocolError(
            f"SCAN: a payload of {length_bytes} bytes; 0-db has up to {MAX_PAYLOAD_BYTES}"
        )
