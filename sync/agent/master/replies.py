"""What a reply says: of a page, of its time, of when to ask again."""

import email.utils
import functools
import time
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from sync.agent.master.http1 import LENGTH, HttpError, Reply
from sync.agent.master.json_rows import JsonRows, read_all

_LONGEST_RETRY_AFTER_SECONDS: Final = 3600.0
# The longest of the three forms has 33 characters (RFC 9110, 5.6.7); more would be kept for long.
_LONGEST_DATE: Final = 64
_INFLATED_BYTES: Final = 1 << 18


@dataclass(frozen=True)
class Page:
    """A small reply: its body (empty for 304) and the headers that distinguish its versions.

    date_seconds: the master's clock when it answered (unix); None where it did not say it.
    whole: False where the master did not say how long the body is, so that it may be half.
    """

    status: int
    body: bytes = b""
    etag: str | None = None
    last_modified: str | None = None
    length: int | None = None
    date_seconds: float | None = None
    whole: bool = True

    @property
    def modified_seconds(self) -> float | None:
        """Last-Modified as unix seconds."""
        return http_seconds(self.last_modified)

    def json(self) -> object:
        """Return the body as JSON. Raises HttpError where it is none."""
        return read_all(iter([self.body]), JsonRows.value)


def http_seconds(text: str | None) -> float | None:
    """Read an HTTP date as unix seconds; None for anything else."""
    return _date_seconds(text) if text and len(text) <= _LONGEST_DATE else None


@functools.lru_cache(1024)
def _date_seconds(text: str) -> float | None:
    # Reads all three forms, also the obsolete ones (RFC 9110, 5.6.7).
    try:
        return email.utils.parsedate_to_datetime(text).timestamp()
    except (ValueError, TypeError, OverflowError):
        return None


def retry_after(reply: Reply) -> float:
    """Return the seconds that the master asks to wait, 0 where it does not."""
    # Seconds or a date (RFC 9110, 10.2.3), within a bound that nobody can raise from outside.
    text = reply.header("Retry-After")
    # isdigit alone takes digits of all scripts.
    if text.isdigit() and text.isascii():
        return min(float(text), _LONGEST_RETRY_AFTER_SECONDS)
    at, now = http_seconds(text), http_seconds(reply.header("Date"))
    if at is None:
        return 0.0
    # By the clock that the date is of, where it is said: ours may be years away.
    wait = at - (time.time() if now is None else now)
    return min(max(0.0, wait), _LONGEST_RETRY_AFTER_SECONDS)


def _validator(value: str) -> str | None:
    """Return a header's value that may be sent back: it comes from a stranger."""
    return value if value and value.isascii() and value.isprintable() else None


def page_of(reply: Reply, body: bytes = b"") -> Page:
    """Return the page that a reply carries."""
    length = reply.header("Content-Length")
    known = bool(LENGTH.fullmatch(length))
    return Page(
        status=reply.status,
        body=body,
        etag=_validator(reply.header("ETag")),
        last_modified=_validator(reply.header("Last-Modified")),
        length=int(length) if known else None,
        date_seconds=http_seconds(reply.header("Date")),
        whole=reply.says_its_end,
    )


def refuse_coding(reply: Reply) -> None:
    """Raise HttpError where a body comes in a coding although none was asked for.

    Lengths, ranges and digests are of the file, and so is what is kept (RFC 9110, 8.4).
    """
    coding = reply.header("Content-Encoding").lower()
    if coding not in {"identity", ""}:
        raise HttpError(f"content coding {coding[:20]!r} was not asked for", retry=False)


def unpacked(reply: Reply, max_bytes: int) -> bytes:
    """Read a small body, which may have come as gzip. Raises HttpError."""
    return b"".join(unpacked_pieces(reply, max_bytes))


def unpacked_pieces(reply: Reply, max_bytes: int) -> Iterator[bytes]:
    """Yield a body, which may have come as gzip, in pieces of bounded size. Raises HttpError."""
    coding = reply.header("Content-Encoding").lower()
    # x-gzip is the same (RFC 9110, 8.4.1.3).
    if coding not in {"identity", "", "gzip", "x-gzip"}:
        raise HttpError(f"content coding {coding[:20]!r} was not asked for", retry=False)
    came = iter(reply.read, b"")
    pieces = _inflated(_bounded(came, max_bytes)) if coding.endswith("gzip") else came
    return _bounded(pieces, max_bytes)


def _bounded(pieces: Iterator[bytes], max_bytes: int) -> Iterator[bytes]:
    left = max_bytes
    for piece in pieces:
        left -= len(piece)
        if left < 0:
            raise HttpError(f"reply is longer than {max_bytes} bytes", retry=False)
        yield piece


def _inflated(packed: Iterator[bytes]) -> Iterator[bytes]:
    """Unfold gzip: a piece may unfold to a thousand times its size, and never does so at once."""
    inflate = zlib.decompressobj(wbits=31)
    for came in packed:
        piece, full = came, True
        # What did not fit into one piece is kept in the object, also where all input is taken.
        while (piece or full) and not inflate.eof:
            try:
                plain = inflate.decompress(piece, _INFLATED_BYTES)
            except zlib.error as error:
                raise HttpError(f"broken gzip: {error}", retry=True) from error
            if plain:
                yield plain
            piece, full = inflate.unconsumed_tail, len(plain) == _INFLATED_BYTES
    if not inflate.eof:
        raise HttpError("broken gzip: it ends too early", retry=True)
