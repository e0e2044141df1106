"""The only way in which a job talks HTTP to its master: bounded, retried, resumed, verified.

One `Master` is shared by a job's threads. It keeps at most `connections` connections, all to the
origin of the job's source; a redirect is followed only within that origin.
"""

import contextlib
import email.utils
import functools
import hashlib
import json
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, TypeVar
from urllib.parse import urljoin, urlsplit

from sync.agent.limits import TokenBucket
from sync.agent.runtime import Control
from sync.agent.schedule import BackoffClock
from sync.agent.wire import Headers, HttpError, HttpStoppedError, Origin, Reply, Wire, WireLimits
from sync.contract.spec import Backoff, HttpLimits

__all__ = [
    "Downloaded",
    "Expected",
    "HttpError",
    "HttpMissingError",
    "HttpStoppedError",
    "Master",
    "Page",
]

_T = TypeVar("_T")
ATTEMPTS: Final = 4
_REDIRECTS: Final = 3
_ERROR_PAGE_BYTES: Final = 1 << 16
_STRONG_DATE_SECONDS: Final = 2.0
_LONGEST_RETRY_AFTER_SECONDS: Final = 3600.0
_OK, _PARTIAL, _NOT_MODIFIED, _RANGE_WRONG = 200, 206, 304, 416
_GONE: Final = frozenset({404, 410})
_REDIRECT: Final = frozenset({301, 302, 303, 307, 308})
_TRY_AGAIN: Final = frozenset({408, 425, 429, 500, 502, 503, 504})


class HttpMissingError(HttpError):
    """The master has no such page (404, 410)."""

    def __init__(self, path: str, status: int) -> None:
        super().__init__(f"{path}: {status}", retry=False)


@dataclass(frozen=True)
class Page:
    """A small reply: its body (empty for 304) and the headers that tell one version from another.

    date: the master's clock when it answered, as it says it; None where it did not.
    whole: False where the master did not say how long the body is, so that it may be half.
    """

    status: int
    body: bytes = b""
    etag: str | None = None
    last_modified: str | None = None
    length: int | None = None
    date: str | None = None
    whole: bool = True

    @property
    def modified_seconds(self) -> float | None:
        """Last-Modified as unix seconds."""
        return http_seconds(self.last_modified)

    @property
    def date_seconds(self) -> float | None:
        """Date as unix seconds; None where the master did not say it."""
        return http_seconds(self.date)

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
class _Partial:
    """A file on its way: what is there already, and the page under which it came."""

    path: Path
    max_bytes: int
    expected: Expected
    size_bytes: int = 0
    page: Page | None = None
    digest: "hashlib._Hash" = field(default_factory=lambda: hashlib.md5(usedforsecurity=False))

    def restart(self) -> None:
        """Begin anew: what is there is overwritten."""
        self.size_bytes = 0
        self.page = None
        self.digest = hashlib.md5(usedforsecurity=False)

    def headers(self) -> dict[str, str]:
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
    try:
        return email.utils.parsedate_to_datetime(text).timestamp()
    except (ValueError, TypeError):
        return None


def _retry_after(headers: Headers) -> float:
    text = headers.get("Retry-After")
    if text.isdigit() and text.isascii():
        return min(float(text), _LONGEST_RETRY_AFTER_SECONDS)
    at = http_seconds(text)
    return 0.0 if at is None else min(max(0.0, at - time.time()), _LONGEST_RETRY_AFTER_SECONDS)


def _page(reply: Reply, body: bytes, *, whole: bool = True) -> Page:
    headers = reply.headers
    length = headers.get("Content-Length")
    return Page(
        status=reply.status,
        body=body,
        etag=headers.get("ETag") or None,
        last_modified=headers.get("Last-Modified") or None,
        length=int(length) if length.isascii() and length.isdigit() else None,
        date=headers.get("Date") or None,
        whole=whole,
    )


def _validator(page: Page) -> str | None:
    """Return what If-Range may carry: a strong ETag, else a date after which a second passed.

    A file that is younger than that may have been written twice under one date.
    """
    if page.etag and not page.etag.startswith("W/"):
        return page.etag
    modified, now = page.modified_seconds, page.date_seconds
    if modified is not None and now is not None and now - modified < _STRONG_DATE_SECONDS:
        return None
    return page.last_modified


def _unpacked(reply: Reply, max_bytes: int) -> bytes:
    coding = reply.headers.get("Content-Encoding", "identity").lower()
    data = reply.read_all(max_bytes)
    if coding in {"identity", ""}:
        return data
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


class Master:
    """The master's HTTP service, within the limits of the spec."""

    def __init__(
        self,
        source: str,
        limits: HttpLimits,
        control: Control,
        *,
        bandwidth: TokenBucket | None = None,
        backoff: Backoff | None = None,
    ) -> None:
        url = urlsplit(source)
        self._origin = Origin.of(url)
        self._prefix = url.path.rstrip("/")
        self._control = control
        self._backoff = backoff or Backoff()
        self._wire_limits = WireLimits(
            limits.connect_timeout_seconds,
            limits.read_timeout_seconds,
            bandwidth,
            control,
        )
        rate = limits.requests_per_second
        self._requests = TokenBucket(rate, max(1.0, rate / 4)) if rate else None
        self._slots = threading.BoundedSemaphore(limits.connections)
        self._lock = threading.Lock()
        self._idle: list[Wire] = []
        # The master must not be hammered by N threads after it asked one of them to wait.
        self._not_before = 0.0
        self._pipelines = True
        self.requests_sent = 0
        self.bytes_received = 0

    def close(self) -> None:
        """Close the idle connections."""
        with self._lock:
            wires, self._idle = self._idle, []
        for wire in wires:
            wire.close()

    def get(self, path: str, max_bytes: int, headers: Mapping[str, str] | None = None) -> Page:
        """Fetch a small page. 304 comes back as a Page; other statuses raise HttpError."""

        def once() -> Page:
            with self._wire() as wire:
                return self._get_once(wire, path, max_bytes, headers or {})

        return self._retried(once)

    def head(self, path: str) -> Page:
        """Ask for the headers of a page."""

        def once() -> Page:
            with self._wire() as wire:
                reply = self._exchange(wire, "HEAD", path, {})
                self._raise_for(path, reply)
                return _page(reply, reply.read_all(0))

        return self._retried(once)

    def download(
        self, path: str, target: Path, max_bytes: int, expected: Expected | None = None
    ) -> Downloaded:
        """Fetch a file to `target`, resumed where it broke off, and verify size and MD5.

        On failure `target` is gone. Raises HttpError, and OSError of the disk.
        """
        partial = _Partial(target, max_bytes, expected or Expected())

        def once() -> Downloaded:
            with self._wire() as wire:
                reply = self._exchange(wire, "GET", path, partial.headers())
                return self._receive(path, reply, partial)

        try:
            return self._retried(once)
        except BaseException:
            target.unlink(missing_ok=True)
            raise

    def download_described(
        self,
        description_path: str,
        path: str,
        target: Path,
        max_bytes: int,
        describe: Callable[[Page], Expected],
    ) -> tuple[Page, Downloaded]:
        """Fetch a small page that describes a file, and the file, in one round trip.

        describe: reads from the page what the file must be. Where the master does not keep
        connections open the two are asked for one after the other.
        """
        if self._pipelines:
            with contextlib.suppress(HttpError):
                return self._pipelined(description_path, path, target, max_bytes, describe)
            target.unlink(missing_ok=True)
            if self._control.stopping():
                raise HttpStoppedError
        page = self.get(description_path, _ERROR_PAGE_BYTES)
        return page, self.download(path, target, max_bytes, describe(page))

    def _pipelined(
        self,
        description_path: str,
        path: str,
        target: Path,
        max_bytes: int,
        describe: Callable[[Page], Expected],
    ) -> tuple[Page, Downloaded]:
        with self._wire() as wire:
            self._send(wire, "GET", [description_path, path], {})
            first = wire.reply("GET")
            if not first.keeps_alive:
                self._pipelines = False
                raise HttpError("does not keep connections open", retry=True)
            self._raise_for(description_path, first)
            page = _page(first, first.read_all(_ERROR_PAGE_BYTES))
            partial = _Partial(target, max_bytes, describe(page))
            return page, self._receive(path, wire.reply("GET"), partial)

    def _get_once(self, wire: Wire, path: str, max_bytes: int, headers: Mapping[str, str]) -> Page:
        reply = self._exchange(wire, "GET", path, {"Accept-Encoding": "gzip", **headers})
        if reply.status == _NOT_MODIFIED:
            return _page(reply, reply.read_all(0))
        self._raise_for(path, reply)
        whole = reply.says_its_end
        return _page(reply, _unpacked(reply, max_bytes), whole=whole)

    def _receive(self, path: str, reply: Reply, partial: _Partial) -> Downloaded:
        if reply.status == _RANGE_WRONG:
            partial.restart()
            raise HttpError(f"{path}: can not be resumed", retry=True)
        self._raise_for(path, reply)
        page = _page(reply, b"", whole=reply.says_its_end)
        if reply.status == _OK:
            partial.restart()
            partial.page = page
        elif not _continues(reply, partial):
            partial.restart()
            raise HttpError(f"{path}: answered with another range", retry=True)
        if partial.size_bytes + (reply.length or 0) > partial.max_bytes:
            raise HttpError(f"{path}: longer than {partial.max_bytes} bytes", retry=False)
        with partial.path.open("ab" if partial.size_bytes else "wb") as file:
            while data := reply.read():
                if partial.size_bytes + len(data) > partial.max_bytes:
                    raise HttpError(f"{path}: longer than {partial.max_bytes} bytes", retry=False)
                file.write(data)
                partial.digest.update(data)
                partial.size_bytes += len(data)
                self.bytes_received += len(data)
        return _verified(path, partial, page)

    def _exchange(self, wire: Wire, method: str, path: str, headers: Mapping[str, str]) -> Reply:
        for _ in range(_REDIRECTS + 1):
            self._send(wire, method, [path], headers)
            reply = wire.reply(method)
            if reply.status not in _REDIRECT:
                return reply
            path = self._redirected(path, reply)
        raise HttpError(f"{path}: more than {_REDIRECTS} redirects", retry=False)

    def _redirected(self, path: str, reply: Reply) -> str:
        here = f"{self._origin.scheme}://{self._origin.host_header}{self._prefix}{path}"
        reply.read_all(_ERROR_PAGE_BYTES)
        location = reply.headers.get("Location")
        try:
            url = urlsplit(urljoin(here, location))
            same = Origin.of(url) == self._origin and f"{url.path}{url.query}".isascii()
        except ValueError:
            same = False
        if not same or not reply.keeps_alive:
            raise HttpError(
                f"{path}: redirected to {location[:200]!r}, which is not followed; "
                "set the source to where the master really is",
                retry=False,
            )
        target = url.path + (f"?{url.query}" if url.query else "")
        return target.removeprefix(self._prefix)

    def _send(self, wire: Wire, method: str, paths: list[str], headers: Mapping[str, str]) -> None:
        """Ask for some pages at once: the replies come one after the other."""
        if self._requests is not None and self._control.wait(self._requests.take(len(paths))):
            raise HttpStoppedError
        with self._lock:
            self.requests_sent += len(paths)
        base = {"User-Agent": "gridhub-mirror/1", "Accept-Encoding": "identity"}
        wire.send(method, [self._prefix + path for path in paths], {**base, **headers})

    def _raise_for(self, path: str, reply: Reply) -> None:
        if reply.status in {_OK, _PARTIAL}:
            return
        # The connection is given up with the error, so the page need not be read.
        if reply.status in _GONE:
            raise HttpMissingError(path, reply.status)
        wait = _retry_after(reply.headers)
        if wait:
            with self._lock:
                self._not_before = max(self._not_before, time.monotonic() + wait)
        raise HttpError(
            f"{path}: {reply.status}",
            retry=reply.status in _TRY_AGAIN,
            retry_after_seconds=wait,
        )

    def _retried(self, once: Callable[[], _T]) -> _T:
        clock = BackoffClock(self._backoff)
        while True:
            try:
                return once()
            except HttpError as error:
                if error.at_once:
                    continue
                if not error.retry or clock.failures + 1 >= ATTEMPTS:
                    raise
                wait = clock.after_failure(error.retry_after_seconds)
                if self._control.wait(wait):
                    raise HttpStoppedError from error

    @contextlib.contextmanager
    def _wire(self) -> Iterator[Wire]:
        """Lend a connection; it is kept only when the exchange ended well."""
        self._slots.acquire()
        wire: Wire | None = None
        kept_replies = 0
        try:
            if self._control.wait(self._not_before - time.monotonic()):
                raise HttpStoppedError
            with self._lock:
                wire = self._idle.pop() if self._idle else None
            kept_replies = wire.replies if wire else 0
            wire = wire or Wire(self._origin, self._wire_limits)
            yield wire
            if wire.reusable:
                with self._lock:
                    self._idle.append(wire)
                wire = None
        except HttpError as error:
            error.at_once = error.retry and 0 < kept_replies == (wire.replies if wire else 0)
            raise
        finally:
            if wire is not None:
                wire.close()
            self._slots.release()


def _continues(reply: Reply, partial: _Partial) -> bool:
    text = reply.headers.get("Content-Range")
    return reply.status == _PARTIAL and text.startswith(f"bytes {partial.size_bytes}-")


def _verified(path: str, partial: _Partial, page: Page) -> Downloaded:
    md5 = partial.digest.hexdigest()
    expected = partial.expected
    size = partial.size_bytes
    if expected.size_bytes is not None and size != expected.size_bytes:
        partial.restart()
        raise HttpError(f"{path}: {size} bytes, not {expected.size_bytes}", retry=True)
    if expected.md5 is not None and md5 != expected.md5:
        partial.restart()
        raise HttpError(f"{path}: MD5 {md5}, not {expected.md5}", retry=True)
    if not page.whole and expected == Expected():
        partial.restart()
        raise HttpError(f"{path}: the master does not say how long it is", retry=True)
    return Downloaded(size, md5, page)
