"""What a reply says of a page or a file, and a file on its way, checked as it comes."""

import email.utils
import functools
import hashlib
import json
import time
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from sync.agent.master.http1 import HttpError, Reply

# One second would do by the RFC (9110, 8.8.2.2); file systems and servers round differently.
_STRONG_DATE_SECONDS: Final = 2.0
_LONGEST_RETRY_AFTER_SECONDS: Final = 3600.0


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
        try:
            return json.loads(self.body)
        except (ValueError, RecursionError) as error:
            raise HttpError(f"not JSON: {error}", retry=True) from error


@dataclass(frozen=True)
class Expected:
    """What a file must turn out to be; None where the master said nothing about it."""

    size_bytes: int | None = None
    md5: str | None = None


@dataclass(frozen=True)
class Downloaded:
    """A whole file: its size, its MD5 (hex) and the page that described it."""

    size_bytes: int
    md5: str
    page: Page


@dataclass
class Partial:
    """A file on its way: how much of it has come, and the page under which it came."""

    path: Path
    max_bytes: int
    expected: Expected
    size_bytes: int = 0
    page: Page | None = None
    digest: "hashlib._Hash" = field(default_factory=lambda: hashlib.md5(usedforsecurity=False))

    def restart(self) -> None:
        """Begin anew: the bytes that came are overwritten."""
        self.size_bytes = 0
        self.page = None
        self.digest = hashlib.md5(usedforsecurity=False)

    def headers(self) -> dict[str, str]:
        """Return the headers that ask for the rest, provided that the file is the same."""
        validator = _validator(self.page) if self.size_bytes and self.page else None
        if validator is None:
            self.restart()
            return {}
        return {"Range": f"bytes={self.size_bytes}-", "If-Range": validator}


@functools.lru_cache(1024)
def http_seconds(text: str | None) -> float | None:
    """Read an HTTP date as unix seconds; None for anything else."""
    if not text:
        return None
    # Reads all three forms, also the obsolete ones (RFC 9110, 5.6.7).
    try:
        return email.utils.parsedate_to_datetime(text).timestamp()
    except (ValueError, TypeError):
        return None


def retry_after(reply: Reply) -> float:
    """Return the seconds that the master asks to wait, 0 where it does not."""
    # Seconds or a date (RFC 9110, 10.2.3), within a bound that nobody can raise from outside.
    text = reply.header("Retry-After")
    # isdigit alone takes digits of all scripts.
    if text.isdigit() and text.isascii():
        return min(float(text), _LONGEST_RETRY_AFTER_SECONDS)
    at = http_seconds(text)
    return 0.0 if at is None else min(max(0.0, at - time.time()), _LONGEST_RETRY_AFTER_SECONDS)


def page_of(reply: Reply, body: bytes = b"") -> Page:
    """Return the page that a reply carries."""
    length = reply.header("Content-Length")
    return Page(
        status=reply.status,
        body=body,
        etag=reply.header("ETag") or None,
        last_modified=reply.header("Last-Modified") or None,
        length=int(length) if length.isascii() and length.isdigit() else None,
        date_seconds=http_seconds(reply.header("Date")),
        whole=reply.says_its_end,
    )


def _validator(page: Page) -> str | None:
    """Return a value for If-Range: a strong ETag, else a date that is strong enough."""
    # A weak ETag must not be sent with it (RFC 9110, 13.1.5); a file as young as its date's
    # resolution may have been written twice under one date (8.8.2.2).
    if page.etag and not page.etag.startswith("W/"):
        return page.etag
    modified, now = page.modified_seconds, page.date_seconds
    if modified is not None and now is not None and now - modified < _STRONG_DATE_SECONDS:
        return None
    return page.last_modified


def unpacked(reply: Reply, max_bytes: int) -> bytes:
    """Read a body, which may have come as gzip. Raises HttpError."""
    coding = reply.header("Content-Encoding").lower()
    data = reply.read_all(max_bytes)
    if coding in {"identity", ""}:
        return data
    # x-gzip is the same (RFC 9110, 8.4.1.3).
    if coding not in {"gzip", "x-gzip"}:
        raise HttpError(f"content coding {coding[:20]!r} was not asked for", retry=False)
    inflate = zlib.decompressobj(wbits=31)
    try:
        body = inflate.decompress(data, max_bytes + 1)
    except zlib.error as error:
        raise HttpError(f"broken gzip: {error}", retry=True) from error
    if len(body) > max_bytes or not inflate.eof:
        raise HttpError(f"gzip is broken or longer than {max_bytes} bytes", retry=True)
    return body


def verified(path: str, partial: Partial, page: Page) -> Downloaded:
    """Return the file if it is whole and as expected. Raises HttpError."""
    md5, size, expected = partial.digest.hexdigest(), partial.size_bytes, partial.expected
    wrong = ""
    if expected.size_bytes not in {None, size}:
        wrong = f"{size} bytes, not {expected.size_bytes}"
    elif expected.md5 not in {None, md5}:
        wrong = f"MD5 {md5}, not {expected.md5}"
    elif not page.whole and expected == Expected():
        # It ended with the connection, as it would when cut off (RFC 9112, 6.3 and 8).
        wrong = "the master does not say how long it is"
    if wrong:
        partial.restart()
        raise HttpError(f"{path}: {wrong}", retry=True)
    return Downloaded(size, md5, page)
