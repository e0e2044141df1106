"""A file on its way from the master: resumed where it broke off, checked by size and MD5."""

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from sync.agent.master.http1 import HttpError, Reply
from sync.agent.master.replies import Page, page_of, refuse_coding

_PART, _RANGE_WRONG = 206, 416
# What a part is of the whole (RFC 9110, 14.4); units have no case (14.1), and "*" is not known.
_CONTENT_RANGE: Final = re.compile(
    r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18}|\*)", re.ASCII | re.IGNORECASE
)
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


@dataclass(frozen=True)
class _Part:
    """The bytes of a file that a reply brings, from `start` to before `end`; None: not said."""

    start: int
    end: int | None
    total: int | None

    def is_whole_of(self, length: int | None) -> bool:
        """Return whether it is all of a file that is so long (bytes; None: not known)."""
        return self.start == 0 and self.end == self.total and length in {None, self.total}


@dataclass
class Partial:
    """A file on its way: how much of it has come, and the page under which it came.

    name: of the file, for messages. count: is given the size of each piece that comes. begins: is
    given the size of the whole, or what it may be at most, before its first byte is kept.
    total_bytes: how long the master said the whole is, None until it did.
    """

    name: str
    path: Path
    max_bytes: int
    expected: Expected
    count: Callable[[int], None]
    begins: Callable[[int], None] | None = None
    size_bytes: int = 0
    total_bytes: int | None = None
    page: Page | None = None
    digest: "hashlib._Hash" = field(default_factory=lambda: hashlib.md5(usedforsecurity=False))

    def restart(self) -> None:
        """Begin anew: the bytes that came are overwritten."""
        self.size_bytes = 0
        self.total_bytes = None
        self.page = None
        self.digest = hashlib.md5(usedforsecurity=False)

    def headers(self) -> dict[str, str]:
        """Return the headers that ask for the rest, provided that the file is the same."""
        validator = _validator(self.page) if self.size_bytes and self.page else None
        if validator is None:
            self.restart()
            return {}
        return {"Range": f"bytes={self.size_bytes}-", "If-Range": validator}

    def receive(self, reply: Reply) -> Downloaded | None:
        """Take the file, or a part of it, from a reply; None while more parts are to be asked for.

        Raises HttpError, and OSError of disk.
        """
        # The file is shorter by now than what came of it (RFC 9110, 15.5.17).
        if reply.status == _RANGE_WRONG:
            raise self._anew("cannot be resumed")
        refuse_coding(reply)
        part = self._part(reply)
        too_long = HttpError(f"{self.name}: longer than {self.max_bytes} bytes", retry=False)
        if max(part.end or 0, part.total or 0) > self.max_bytes:
            raise too_long
        if self.begins is not None and self.size_bytes == 0:
            self.begins(self.max_bytes if part.total is None else part.total)
        with self.path.open("ab" if self.size_bytes else "wb") as file:
            while data := reply.read():
                if self.size_bytes + len(data) > (self.max_bytes if part.end is None else part.end):
                    raise too_long if part.end is None else self._anew("longer than it says")
                file.write(data)
                self.digest.update(data)
                self.size_bytes += len(data)
                self.count(len(data))
        if part.end is not None and self.size_bytes < part.end:
            raise HttpError(f"{self.name}: a part is shorter than it says", retry=True)
        if part.total is None or self.size_bytes == part.total:
            return self._verified()
        # A server may send less than was asked for (RFC 9110, 15.3.7), a slice at a time.
        if self.page is None or _validator(self.page) is None:
            raise self._anew("comes in parts that nothing shows to be of one file")
        return None

    def _anew(self, fault: str) -> HttpError:
        """Begin anew; returns the error that says why."""
        self.restart()
        return HttpError(f"{self.name}: {fault}", retry=True)

    def _part(self, reply: Reply) -> _Part:
        """Return which bytes a reply brings. Raises HttpError where what it says does not agree."""
        page, said = page_of(reply), reply.header("Content-Range")
        found = _CONTENT_RANGE.fullmatch(said)
        if reply.status != _PART:
            # Also to a request with Range: If-Range did not match (RFC 9110, 13.1.5).
            self.restart()
            self.page, self.total_bytes = page, reply.length
            part = _Part(0, reply.length, reply.length)
            # It means nothing there (14.4); a server that sends it anyway may mean it.
            if said and not (found and _read_range(found).is_whole_of(reply.length)):
                raise self._anew(f"all of it is announced, and then {said[:60]!r}")
            return part
        if found is None:
            raise self._anew(f"a part of it, {said[:60]!r}")
        if self.page is None:
            # To a request without Range as well: what it says of itself is all that counts.
            self.page = page
        part = _read_range(found)
        total = part.total if part.total is not None else self.total_bytes
        total = total if total is not None else self.expected.size_bytes
        if part.start != self.size_bytes:
            raise self._anew(f"answered with another range, {said[:60]!r}")
        if total is None or part.end is None or not part.start < part.end <= total:
            raise self._anew(f"a part that is none of the whole: {said[:60]!r}")
        if reply.length not in {None, part.end - part.start}:
            raise self._anew(f"{reply.length} bytes of {said[:60]!r}")
        if self.total_bytes not in {None, total} or not _is_same(self.page, page):
            raise self._anew("changed while it was fetched")
        self.total_bytes = total
        return replace(part, total=total)

    def _verified(self) -> Downloaded:
        md5, size, expected = self.digest.hexdigest(), self.size_bytes, self.expected
        page = self.page or Page(_PART)
        wrong = ""
        if expected.size_bytes not in {None, size}:
            wrong = f"{size} bytes, not {expected.size_bytes}"
        elif expected.md5 not in {None, md5}:
            wrong = f"MD5 {md5}, not {expected.md5}"
        elif not page.whole and self.total_bytes is None and expected == Expected():
            # It ended with the connection, as it would when cut off (RFC 9112, 6.3 and 8).
            wrong = "the master does not say how long it is"
        if wrong:
            raise self._anew(wrong)
        return Downloaded(size, md5, replace(page, length=size))


def _read_range(found: re.Match[str]) -> _Part:
    first, last, total = found.groups()
    return _Part(int(first), int(last) + 1, None if total == "*" else int(total))


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


def _is_same(first: Page, later: Page) -> bool:
    """Return whether a later part says nothing that the first one contradicts."""
    # Parts of one file have one validator (RFC 9110, 15.3.7.3); after If-Range it may be left out.
    return later.etag in {None, first.etag} and later.last_modified in {None, first.last_modified}
