"""Replies of a 0-db: RESP, pages of SCAN, and the texts of INFO and NSINFO."""

from collections.abc import Iterator
from pathlib import Path
from typing import Final

from sync.agent.budget import OverBudgetError
from sync.agent.zdb.errors import ZdbError, ZdbProtocolError
from sync.agent.zdb.namespace_info import NamespaceInfo, text_fields
from sync.agent.zdb.protocol import NeedMoreBytes, Reply, ReplyParser, parse_reply
from sync.agent.zdb.scan_pages import ScanPage, page_of, quick_page
from tests.fuzz.target import Target, promise
from tests.golden.replay_zdb import recorded

_CURSOR: Final = bytes(17)
_Outcome = tuple[list[Reply] | None, str]


class _EndError(Exception):
    """The bytes are at their end."""


def _replies(data: bytes, piece_bytes: int) -> tuple[list[object], str]:
    """Parse reply after reply, out of pieces of some size; returns them and why they ended."""
    pieces = [data[at : at + piece_bytes] for at in range(0, len(data), piece_bytes)]
    pieces.reverse()

    def receive() -> bytes:
        if not pieces:
            raise _EndError
        return pieces.pop()

    parser, found = ReplyParser(receive), list[object]()
    try:
        while True:
            reply = parser.reply()
            found.append(repr(reply))
    except (ZdbProtocolError, OverBudgetError) as error:
        return found, type(error).__name__
    except _EndError:
        return found, "the end"


def _page(data: bytes) -> None:
    """Parse a page in the quick way and in the strict one: they agree wherever both give one."""
    quick, strict = _quick(data), _strict(data)
    if quick is not None:
        promise(strict, "a page by the quick reading alone")
        promise(_numbers(quick) == _numbers(strict), f"two readings: {quick} and {strict}")


def _numbers(page: ScanPage | None) -> object:
    # The quick reading keeps the digits as they came: -0, or zeros before them.
    return page and (page.cursor, [(key, int(size), int(at)) for key, size, at in page.entries])


def _quick(data: bytes) -> ScanPage | None:
    try:
        found = quick_page(data)
    except (NeedMoreBytes, ZdbError, OverBudgetError):
        return None
    return found[0] if found else None


def _strict(data: bytes) -> ScanPage | None:
    try:
        return page_of(parse_reply(data)[0])
    except (NeedMoreBytes, ZdbError, OverBudgetError):
        return None


def run(data: bytes, _scratch: Path) -> None:
    """Read as replies that come whole or in pieces, as a page, or as the text of INFO."""
    how, data = data[:1], data[1:]
    if how == b"p":
        _page(data)
    elif how == b"i":
        try:
            text_fields(data, "INFO")
            NamespaceInfo.of(data)
        except ZdbProtocolError:
            pass
    else:
        pieces = how[0] % 32 + 1 if how else 1
        whole = _replies(data, len(data) + 1)
        promise(_replies(data, pieces) == whole, f"another reading in pieces of {pieces}")


def seeds() -> Iterator[bytes]:
    """Return replies of each type, a page, and the texts that a real 0-db gave."""
    yield b"r:1\r\n:0\r\n:1\r\n"
    yield b"r+OK\r\n-No more data\r\n$3\r\nabc\r\n$-1\r\n*-1\r\n*0\r\n"
    entry = b"*3\r\n$16\r\n0123456789abcdef\r\n:%d\r\n:-%d\r\n"
    page = b"*2\r\n$17\r\n" + _CURSOR + b"\r\n*2\r\n" + entry % (7, 8) + entry % (524288, 1)
    yield b"r" + page
    yield b"p" + page
    yield b"p*2\r\n$17\r\n" + _CURSOR + b"\r\n*1\r\n*3\r\n$1\r\nk\r\n:0\r\n:0\r\n"
    yield b"p-No more data\r\n"
    yield b"i# namespace\nname: default\nentries: 5\ndata_size_bytes: 99\nkey: v"
    lines = {line for text in _texts(recorded()) for line in text}
    yield b"i" + "\n".join(sorted(lines)[:60]).encode()


def _texts(found: object) -> Iterator[list[str]]:
    if isinstance(found, dict):
        lines = found.get("lines")
        if isinstance(lines, list):
            yield [str(line) for line in lines]
        found = list(found.values())
    if isinstance(found, list):
        for value in found:
            yield from _texts(value)


TARGET: Final = Target(
    "zdb",
    run,
    seeds,
    (b"\r\n", b"*65536\r\n", b"$8388608\r\n", b":-1\r\n", b"*3\r\n$16\r\n", b"*1\r\n"),
)
