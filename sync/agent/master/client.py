"""The only way in which a job talks HTTP to its master: bounded, retried, resumed, verified.

One `Master` is shared by a job's threads. It keeps at most `connections` connections, all to the
origin of the name that is in use; a redirect is followed only within that origin. When that name
dies, every request ends with EndpointLostError until the next pass begins with another one: a pass
sees one name, so that listing and files come from one service.
"""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final, TypeVar
from urllib.parse import urljoin, urlsplit

from sync.agent.backoff import BackoffClock
from sync.agent.job import Control
from sync.agent.master.download import Downloaded, Expected, Partial
from sync.agent.master.endpoints import EndpointReport, MasterEndpoints, no_report
from sync.agent.master.http1 import (
    LEAST_BYTES,
    Connection,
    EndpointLostError,
    HttpError,
    HttpStoppedError,
    Origin,
    Reply,
)
from sync.agent.master.json_rows import JsonRows, read_all
from sync.agent.master.replies import (
    Page,
    page_of,
    refuse_coding,
    retry_after,
    unpacked,
    unpacked_pieces,
)
from sync.agent.rate_limit import TokenBucket
from sync.contract.spec import Backoff, HttpLimits
from sync.contract.status import Service

__all__ = [
    "Downloaded",
    "EndpointLostError",
    "Expected",
    "HttpError",
    "HttpMissingError",
    "HttpStoppedError",
    "Master",
    "Page",
]

_T = TypeVar("_T")
ATTEMPTS: Final = 4
# At a name that may have died, while another one is there to go to.
_ATTEMPTS_BEFORE_OTHERS: Final = 2
# Of the read timeout.
_BRIEF_SHARE: Final = 0.25
# Of all that are under way: a file that trickles in would keep a pass from its end for days.
_SLOWEST_BYTES_PER_SECOND: Final = 16 << 10
# For how long any one page may have all others wait.
_PAGE_PATIENCE_SECONDS: Final = 10.0
_SLICE_SECONDS: Final = 0.5  # how soon one that waits notices that the name was given up
# Every service answers it in some way: asked where a request got no answer at all.
_FRONT_PAGE: Final = "/"
_REDIRECTS: Final = 3
# NAT and firewalls forget idle connections, and swallow what is sent on them then; to connect anew
# costs some round trips, to find out by silence a time-out.
_RESTED_SECONDS: Final = 2.0
_ERROR_PAGE_BYTES: Final = 1 << 16
_OK, _PART, _NOT_MODIFIED, _RANGE_WRONG = 200, 206, 304, 416
# A part, and what is not modified, are answers to who asked for a range, or under a condition
# (RFC 9110, 15.3.7 and 15.4.5): sent unasked, they would be taken for the page.
_PAGE: Final = frozenset({_OK})
_PAGE_OR_UNCHANGED: Final = frozenset({_OK, _NOT_MODIFIED})
_FILE: Final = frozenset({_OK, _PART})
_FILE_OR_SHORTER: Final = frozenset({_OK, _PART, _RANGE_WRONG})
# Caches that cut files into slices use 1 MB and more; the largest kernel has 2 GiB.
_MOST_PARTS: Final = 10_000
# Gone for good or not, it is not there now (RFC 9110, 15.5.5 and 15.5.11).
_GONE: Final = frozenset({404, 410})
# GET and HEAD stay what they are in all of these (RFC 9110, 15.4).
_REDIRECT: Final = frozenset({301, 302, 303, 307, 308})
# RFC 9110, 15.5.9 and 15.6; 425 of RFC 8470; 429 of RFC 6585.
_TRY_AGAIN: Final = frozenset({408, 425, 429, 500, 502, 503, 504})
# Said by a gateway before a service that is not there (RFC 9110, 15.6.3 to 15.6.5).
_NOBODY_BEHIND: Final = frozenset({502, 503, 504})


class HttpMissingError(HttpError):
    """The master has no such page (404, 410)."""


class Master:
    """The master's HTTP service, within the limits of the spec.

    sources: base URLs, the names of one and the same service in order of preference.
    report: gets every change of the names' state. Its `source` is the base URL in use.
    """

    def __init__(
        self,
        sources: Sequence[str],
        limits: HttpLimits,
        control: Control,
        *,
        bandwidth: TokenBucket | None = None,
        backoff: Backoff | None = None,
        service: Service = "hub",
        report: EndpointReport = no_report,
    ) -> None:
        for source in sources:
            Origin.of(urlsplit(source))
        self._control = control
        self._backoff = backoff or Backoff()
        self._endpoints = MasterEndpoints(service, sources, self._backoff, report)
        self._limits = limits
        self._bandwidth = bandwidth
        # A quarter of a second's requests may leave at once.
        rate = limits.requests_per_second
        self._requests = TokenBucket(rate, max(1.0, rate / 4)) if rate else None
        self._slots = threading.BoundedSemaphore(limits.connections)
        self._busy = 0
        self._lock = threading.Lock()
        # Taken while one thread finds out whether the name in use died.
        self._judging = threading.Lock()
        self._idle: list[Connection] = []
        self._of_thread = threading.local()
        self.requests_sent = 0
        self.bytes_received = 0
        self._begin_at(self._endpoints.current)

    def begin_pass(self) -> None:
        """Go on with the most preferred name that may answer; nothing may be under way."""
        if self._lost is None:
            self._endpoints.settle()
        source = self._endpoints.choose()
        if self._lost is not None or source != self.source:
            self.close()
            self._begin_at(source)

    def _begin_at(self, source: str) -> None:
        url = urlsplit(source)
        self.source = source
        self._origin = Origin.of(url)
        self._prefix = url.path.rstrip("/")
        self._lost: EndpointLostError | None = None
        self._heard = False
        # The master must not be hammered by N threads after it asked one of them to wait.
        self._not_before = 0.0
        # Only a connection that is kept open answers two requests (RFC 9112, 9.3.2).
        self._pipelines = True

    @contextlib.contextmanager
    def while_listing(self) -> Iterator[None]:
        """Fetch the listing of a pass within it: a name that cannot give one is of no use.

        The name counts as answering once all of it came; any failure is a reason to skip the name.
        A single name is judged as in any request. Raises EndpointLostError, HttpError.
        """
        if self._endpoints.count == 1:
            yield
            return
        self._heard = True  # no reply by itself is reported as an answer
        try:
            yield
        except HttpError as error:
            with self._judging:
                self._lost = self._lost or self._skipped(error)
            raise self._lost from error
        self._endpoints.answered(settles=False)

    @contextlib.contextmanager
    def briefly(self) -> Iterator[None]:
        """Ask once within it, and with less patience: what this thread asks for failed before."""
        self._of_thread.is_brief = True
        try:
            yield
        finally:
            self._of_thread.is_brief = False

    @property
    def _is_brief(self) -> bool:
        return getattr(self._of_thread, "is_brief", False)

    def close(self) -> None:
        """Close the idle connections."""
        with self._lock:
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()

    def get(self, path: str, max_bytes: int, headers: Mapping[str, str] | None = None) -> Page:
        """Fetch a small page; a 304 comes back under conditions (`headers`). Raises HttpError."""
        page, body = self._fetched(path, max_bytes, b"".join, headers)
        return replace(page, body=body or b"")

    def get_rows(
        self,
        path: str,
        max_bytes: int,
        take: Callable[[JsonRows], _T],
        headers: Mapping[str, str] | None = None,
    ) -> tuple[Page, _T | None]:
        """Fetch a JSON page of any length, of which `take` keeps what it wants; None where 304.

        `take` may be called several times: each time the page broke off. Raises HttpError.
        """
        return self._fetched(path, max_bytes, lambda pieces: read_all(pieces, take), headers)

    def _fetched(
        self,
        path: str,
        max_bytes: int,
        read: Callable[[Iterator[bytes]], _T],
        headers: Mapping[str, str] | None,
    ) -> tuple[Page, _T | None]:
        asked = {"Accept-Encoding": "gzip", **(headers or {})}

        def take(reply: Reply) -> tuple[Page, _T | None]:
            # Without a body, and with the headers that may have changed (RFC 9110, 15.4.5).
            unchanged = reply.status == _NOT_MODIFIED
            return page_of(reply), None if unchanged else read(unpacked_pieces(reply, max_bytes))

        accepted = _PAGE_OR_UNCHANGED if headers else _PAGE
        return self._retried("GET", path, lambda: asked, take, accepted)

    def head(self, path: str) -> Page:
        """Ask for the headers of a page."""

        def read(reply: Reply) -> Page:
            refuse_coding(reply)
            return page_of(reply)

        return self._retried("HEAD", path, dict, read, _PAGE)

    def download(
        self,
        path: str,
        target: Path,
        max_bytes: int,
        expected: Expected | None = None,
        begins: Callable[[int], None] | None = None,
    ) -> Downloaded:
        """Fetch a file to `target`, resumed where it broke off, and verify size and MD5.

        begins: see Partial. On failure `target` is gone. Raises HttpError, and OSError of the disk.
        """
        partial = Partial(path, target, max_bytes, expected or Expected(), self._count, begins)
        try:
            return self._downloaded(path, partial)
        except BaseException:
            target.unlink(missing_ok=True)
            raise

    def _downloaded(self, path: str, partial: Partial) -> Downloaded:
        """Ask for a file until all of its parts came."""
        size_bytes = 0
        for _ in range(_MOST_PARTS):
            done = self._retried("GET", path, partial.headers, partial.receive, _FILE_OR_SHORTER)
            if done is not None:
                return done
            if partial.size_bytes <= size_bytes:
                raise HttpError(f"{path}: its parts begin anew again and again", retry=False)
            size_bytes = partial.size_bytes
        raise HttpError(f"{path}: comes in more than {_MOST_PARTS} parts", retry=False)

    def download_described(
        self,
        description_path: str,
        path: str,
        target: Path,
        max_bytes: int,
        describe: Callable[[Page], Expected],
    ) -> Downloaded:
        """Fetch a small page that describes a file, and the file, in one round trip.

        describe: reads from the page what the file must be. Where the master does not keep
        connections open the two are asked for one after the other.
        """
        if self._pipelines and not self._is_brief:
            with contextlib.suppress(HttpError, HttpStoppedError), self._connection() as connection:
                self._send(connection, "GET", [description_path, path], {})
                first = connection.reply("GET")
                if first.keeps_alive:
                    self._raise_for(description_path, first, _PAGE)
                    page = page_of(first, unpacked(first, _ERROR_PAGE_BYTES))
                    partial = Partial(path, target, max_bytes, describe(page), self._count)
                    second = connection.reply("GET")
                    self._raise_for(path, second, _FILE)
                    done = partial.receive(second)
                    if done is not None:
                        return done
                else:
                    self._pipelines = False
            target.unlink(missing_ok=True)
            if self._control.stopping():
                raise HttpStoppedError
        page = self.get(description_path, _ERROR_PAGE_BYTES)
        return self.download(path, target, max_bytes, describe(page))

    def _count(self, size_bytes: int) -> None:
        self.bytes_received += size_bytes

    def _exchange(
        self, connection: Connection, method: str, path: str, headers: Mapping[str, str]
    ) -> Reply:
        for _ in range(_REDIRECTS + 1):
            self._send(connection, method, [path], headers)
            reply = connection.reply(method)
            if reply.status not in _REDIRECT:
                return reply
            path = self._redirected(path, reply)
        raise HttpError(f"{path}: more than {_REDIRECTS} redirects", retry=False)

    def _redirected(self, path: str, reply: Reply) -> str:
        here = f"{self._origin.scheme}://{self._origin.host_header}{self._prefix}{path}"
        reply.read_all(_ERROR_PAGE_BYTES)
        # Relative or absolute (RFC 9110, 10.2.2), as Werkzeug's are before its release 2.1.
        location = reply.header("Location")
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
                unanswered=not same,
                elsewhere=not same,
            )
        target = url.path + (f"?{url.query}" if url.query else "")
        return target.removeprefix(self._prefix)

    def _send(
        self, connection: Connection, method: str, paths: list[str], headers: Mapping[str, str]
    ) -> None:
        """Ask for some pages at once: the replies come one after the other."""
        if self._requests is not None and self._control.wait(self._requests.take(len(paths))):
            raise HttpStoppedError
        with self._lock:
            self.requests_sent += len(paths)
        # Ranges and MD5s are of the file, so it must not come in a coding (RFC 9110, 12.5.3).
        base = {"User-Agent": "gridhub-mirror/1", "Accept-Encoding": "identity"}
        connection.send(method, [self._prefix + path for path in paths], {**base, **headers})

    def _raise_for(self, path: str, reply: Reply, accepted: frozenset[int] = _PAGE) -> None:
        if reply.status in accepted:
            return
        # The connection is given up with the error, so the page need not be read.
        if reply.status in _GONE:
            raise HttpMissingError(f"{path}: {reply.status}", retry=False)
        wait = retry_after(reply)
        # Whether all wait longer is found out by _asks_alone.
        self._have_all_wait(min(wait, _PAGE_PATIENCE_SECONDS))
        raise HttpError(
            f"{path}: {reply.status}",
            retry=reply.status in _TRY_AGAIN,
            retry_after_seconds=wait,
            unanswered=reply.status in _NOBODY_BEHIND,
        )

    def _retried(
        self,
        method: str,
        path: str,
        headers: Callable[[], Mapping[str, str]],
        read: Callable[[Reply], _T],
        accepted: frozenset[int],
    ) -> _T:
        """Ask for a page until `read` accepts its reply; headers: made for each attempt.

        accepted: the statuses that `read` knows.
        """
        clock = BackoffClock(self._backoff)
        while True:
            if self._lost is not None:
                raise self._lost
            try:
                with self._connection() as connection:
                    reply = self._exchange(connection, method, path, headers())
                    self._raise_for(path, reply, accepted)
                    done = read(reply)
            except HttpError as error:
                if error.at_once:
                    continue
                alone = self._asks_alone(error)
                if alone or not error.retry or clock.failures + 1 >= self._attempts(error):
                    self._judge(error)
                    raise
                self._wait(clock.after_failure(error.retry_after_seconds))
            else:
                self._note_answer()
                return done

    def _attempts(self, error: HttpError) -> int:
        """Return how often a request is sent before another name has to be asked."""
        if self._is_brief:
            return 1
        if not (error.unreachable or error.unanswered) or self._endpoints.count == 1:
            return ATTEMPTS
        if error.retry_after_seconds > self._limits.read_timeout_seconds:
            return 1
        return _ATTEMPTS_BEFORE_OTHERS if self._endpoints.has_others() else ATTEMPTS

    def _have_all_wait(self, seconds: float) -> None:
        with self._lock:
            self._not_before = max(self._not_before, time.monotonic() + seconds)

    def _asks_alone(self, error: HttpError) -> bool:
        """Return whether a page asks for a long wait, and the master's front page for none.

        One page must not keep all others away for hours: that is a failure of its own. Where the
        front page asks for patience, too, or does not answer, all wait for as long as was said.
        """
        wait = error.retry_after_seconds
        if wait <= _PAGE_PATIENCE_SECONDS:
            return False
        with self._judging:
            # Another thread found out already.
            if self._not_before - time.monotonic() > _PAGE_PATIENCE_SECONDS:
                return False
            front = self._front_page()
            if isinstance(front, Reply) and not retry_after(front):
                return True
            self._have_all_wait(wait)
            return False

    def _wait(self, seconds: float) -> None:
        """Wait, unless the job stops or the name in use is given up meanwhile."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            if self._control.wait(min(left, _SLICE_SECONDS)):
                raise HttpStoppedError
            if self._lost is not None:
                raise self._lost

    def _note_answer(self) -> None:
        if not self._heard:
            self._heard = True
            self._endpoints.answered(settles=False)

    def _judge(self, error: HttpError) -> None:
        """Raise EndpointLostError where the name died, rather than this request failed."""
        if not error.unreachable and not error.unanswered:
            self._note_answer()
            return
        # One asks for the front page; the others wait, and then stop for the same reason.
        with self._judging:
            if self._lost is None:
                if not error.unreachable and self._front_page_answers(error):
                    self._note_answer()
                    return
                self._lost = self._skipped(error)
            raise self._lost from error

    def _skipped(self, error: HttpError) -> EndpointLostError:
        asked = error.retry_after_seconds
        others = self._endpoints.skip(self.source, str(error), asked)
        message = str(error) if others or self._endpoints.count == 1 else self._endpoints.reasons()
        patience = self._endpoints.patience_seconds()
        return EndpointLostError(message, others=others, retry_after_seconds=patience)

    def _front_page_answers(self, error: HttpError) -> bool:
        """Return whether the name answers at all: anything but that no service is behind it.

        A redirect to another origin is usual there, and an answer; unless `error` is one, too.
        """
        front = self._front_page()
        if isinstance(front, Reply):
            return front.status not in _NOBODY_BEHIND
        if front.elsewhere:
            return not error.elsewhere
        return not front.unreachable and not front.unanswered

    def _front_page(self) -> Reply | HttpError:
        """Ask for the head of the front page, at once; returns the failure where none comes."""
        while True:
            try:
                with self._connection(at_once=True) as connection:
                    return self._exchange(connection, "HEAD", _FRONT_PAGE, {})
            except HttpError as failure:
                if not failure.at_once:
                    return failure

    def _kept(self) -> Connection | None:
        """Return a connection that is open already, if one did not rest."""
        with self._lock:
            newest = self._idle.pop() if self._idle else None
        if newest is None or time.monotonic() - newest.idle_since <= _RESTED_SECONDS:
            return newest
        # All others rested for longer.
        self.close()
        newest.close()
        return None

    @contextlib.contextmanager
    def _connection(self, *, at_once: bool = False) -> Iterator[Connection]:
        """Lend one of the connections; it is kept only when the exchange ended well.

        at_once: although the master asked for patience.
        """
        self._slots.acquire()
        while not at_once and (wait := self._not_before - time.monotonic()) > 0:
            self._slots.release()
            self._wait(wait)
            self._slots.acquire()
        connection: Connection | None = None
        kept_replies = 0
        with self._lock:
            self._busy += 1
        try:
            # One that was kept may be dead, which takes a time-out to find out.
            connection = None if self._is_brief else self._kept()
            kept_replies = connection.replies if connection else 0
            connection = connection or Connection(
                self._origin, self._limits, self._control, self._bandwidth
            )
            self._set_patience(connection, brief=self._is_brief and not at_once)
            yield connection
            if connection.reusable and self._lost is None and connection.origin == self._origin:
                connection.idle_since = time.monotonic()
                with self._lock:
                    self._idle.append(connection)
                connection = None
        except HttpError as error:
            # The master may close an idle connection at any time, also just as a request is on its
            # way; nothing we ask changes anything, so it is safe to ask again (RFC 9112, 9.3.1).
            replies = connection.replies if connection else 0
            error.at_once = error.retry and 0 < kept_replies == replies
            raise
        finally:
            if connection is not None:
                connection.close()
            with self._lock:
                self._busy -= 1
            self._slots.release()

    def _set_patience(self, connection: Connection, *, brief: bool) -> None:
        """Set how slow a reply may be: what is left alone has all of the way to itself."""
        seconds = self._limits.read_timeout_seconds
        least_bytes = _SLOWEST_BYTES_PER_SECOND * seconds
        connection.set_patience(
            seconds * (_BRIEF_SHARE if brief else 1.0),
            lambda: max(LEAST_BYTES, least_bytes / self._busy),
        )
