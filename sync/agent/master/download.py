"""A file on its way from the master: resumed where it broke off, checked by size and MD5."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from sync.agent.master.http1 import HttpError, Reply
from sync.agent.master.replies import Page, page_of

_PART, _RANGE_WRONG = 206, 416
# One second would do by the RFC (9110, 8.8.2.2); file systems and servers round differently.
_STRONG_DATE_SECONDS: Final = 2.0


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
    """A file on its way: how much of it has come, and the page under which it came.

    name: of the file, for messages. count: is given the size of each piece that comes.
    """

    name: str
    path: Path
    max_bytes: int
    expected: Expected
    count: Callable[[int], None]
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

    def receive(self, reply: Reply) -> Downloaded:
        """Take the file, or the rest of it, from a reply. Raises HttpError, and OSError of disk."""
        # The file is shorter by now than what came of it (RFC 9110, 15.5.17).
        if reply.status == _RANGE_WRONG:
            self.restart()
            raise HttpError(f"{self.name}: cannot be resumed", retry=True)
        page = page_of(reply)
        if reply.status != _PART:
            # Also to a request with Range: If-Range did not match (RFC 9110, 13.1.5).
            self.restart()
            self.page = page
        # Only Content-Range says which part it is; a server may send another (RFC 9110, 15.3.7).
        elif not reply.header("Content-Range").startswith(f"bytes {self.size_bytes}-"):
            self.restart()
            raise HttpError(f"{self.name}: answered with another range", retry=True)
        too_long = HttpError(f"{self.name}: longer than {self.max_bytes} bytes", retry=False)
        if self.size_bytes + (reply.length or 0) > self.max_bytes:
            raise too_long
        with self.path.open("ab" if self.size_bytes else "wb") as file:
            while data := reply.read():
                if self.size_bytes + len(data) > self.max_bytes:
                    raise too_long
                file.write(data)
                self.digest.update(data)
                self.size_bytes += len(data)
                self.count(len(data))
        return self._verified(page)

    def _verified(self, page: Page) -> Downloaded:
        md5, size, expected = self.digest.hexdigest(), self.size_bytes, self.expected
        wrong = ""
        if expected.size_bytes not in {None, size}:
            wrong = f"{size} bytes, not {expected.size_bytes}"
        elif expected.md5 not in {None, md5}:
            wrong = f"MD5 {md5}, not {expected.md5}"
        elif not page.whole and expected == Expected():
            # It ended with the connection, as it would when cut off (RFC 9112, 6.3 and 8).
            wrong = "the master does not say how long it is"
        if wrong:
            self.restart()
            raise HttpError(f"{self.name}: {wrong}", retry=True)
        return Downloaded(size, md5, page)


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
