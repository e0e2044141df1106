"""One HTTP/1.1 connection to a master that is trusted with nothing.

Requests may be written ahead of their replies (pipelining): a flist and its digest then cost one
round trip. Every read has a deadline, and a peer that sends too slowly, too much, or breaks off
ends the connection with an HttpError.
"""

import io
import re
import socket
import ssl
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, Final
from urllib.parse import SplitResult

import certifi

from sync.agent.job import Control
from sync.agent.rate_limit import TokenBucket
from sync.contract.dialing import dial, fell_silent
from sync.contract.spec import HttpLimits

_SLICE_SECONDS: Final = 0.5  # how soon a blocked read notices that the job stops
_READ_BYTES: Final = 1 << 18
# Of a head, or of the trailers: each connection may hold one, and no budget counts it.
_HEAD_BYTES: Final = 1 << 16
_MOST_FIELDS: Final = 100
_MOST_HEADS: Final = 8
_INTERIM: Final = range(100, 200)
_WITHOUT_BODY: Final = frozenset({204, 304})
_STATUS: Final = re.compile(r"HTTP/1\.([01]) ([1-5][0-9]{2})(?: .*)?", re.ASCII)
_TOKEN: Final = re.compile(r"[a-z0-9!#$%&'*+.^_`|~-]+", re.ASCII)
LENGTH: Final = re.compile(r"[0-9]{1,18}", re.ASCII)
_CHUNK: Final = re.compile(r"[0-9a-fA-F]{1,15}", re.ASCII)
# A transfer that brings less than this in a read timeout counts as hung, whatever else is going on.
LEAST_BYTES: Final = 1024


@dataclass(eq=False)
class HttpError(Exception):
    """A request failed.

    retry: asking again may help. retry_after_seconds: when the master said.
    unreachable: there was no connection (DNS, refused, TLS, time-out), whatever was asked for.
    unanswered: nothing came that answers; whether to this request alone is not known.
    elsewhere: nothing came but that it is at another origin.
    at_once: the master had merely closed a connection that was kept open, so asking again need not
    wait; set by the client, which knows.
    """

    message: str
    _: KW_ONLY
    retry: bool
    retry_after_seconds: float = 0
    unreachable: bool = False
    unanswered: bool = False
    elsewhere: bool = False
    at_once: bool = False

    def __str__(self) -> str:
        return self.message


class HttpStoppedError(Exception):
    """The job stops; nothing is wrong with the master.

    It is no HttpError: nobody who can go on after one of those goes on after this.
    """

    def __init__(self, message: str = "the job stops") -> None:
        super().__init__(message)


class EndpointLostError(HttpStoppedError):
    """The name by which the master was asked died: the pass stops, to begin anew.

    others: the master has another name that may answer. retry_after_seconds: when the first of its
    names may be asked again.
    """

    def __init__(self, message: str, *, others: bool, retry_after_seconds: float) -> None:
        super().__init__(message)
        self.others = others
        self.retry_after_seconds = retry_after_seconds


@dataclass(frozen=True)
class Origin:
    """Scheme, host and port that a job talks to; it is never led anywhere else."""

    scheme: str
    host: str
    port: int

    @classmethod
    def of(cls, url: SplitResult) -> "Origin":
        """Read the origin of an http or https URL. Raises ValueError for any other."""
        if url.scheme not in {"http", "https"} or not url.hostname:
            raise ValueError(f"{url.geturl()!r} is not an http or https URL")
        return cls(url.scheme, url.hostname, url.port or (443 if url.scheme == "https" else 80))

    @property
    def host_header(self) -> str:
        """Value of the Host header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        default = 443 if self.scheme == "https" else 80
        return host if self.port == default else f"{host}:{self.port}"


@dataclass(eq=False)
class _Reader(io.RawIOBase):
    """The socket's bytes, under a deadline that moves on while enough of them come."""

    sock: socket.socket
    timeout_seconds: float
    control: Control
    bandwidth: TokenBucket | None
    least_bytes: Callable[[], float] = lambda: LEAST_BYTES

    def __post_init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Start a new window of patience (a new reply)."""
        # Only what is spent waiting for the peer counts: who reads may be busy meanwhile.
        self._left_seconds = self.timeout_seconds
        self._window_bytes = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer)
        while True:
            if self.control.stopping():
                raise HttpStoppedError
            if self._left_seconds <= 0:
                fell_silent(self.sock)
                raise HttpError(
                    f"hung: {self._window_bytes} bytes in {self.timeout_seconds:g} s", retry=True
                )
            # Short, as nothing else wakes a blocked read when the job stops.
            self.sock.settimeout(min(_SLICE_SECONDS, self._left_seconds))
            began = time.monotonic()
            try:
                count = self.sock.recv_into(view)
            except TimeoutError:
                continue
            finally:
                self._left_seconds -= time.monotonic() - began
            self._window_bytes += count
            if self._window_bytes >= self.least_bytes():
                self.restart()
            if self.bandwidth is not None and count and (wait := self.bandwidth.take(count)):
                if self.control.wait(wait):
                    raise HttpStoppedError
                self.restart()
            return count


class Reply:
    """A reply whose body has not been read yet (RFC 9112).

    What can be read in more than one way is refused: the two ends of a pipelined connection, or a
    cache before the master, would disagree on where the next reply starts (RFC 9112, 11.2).
    length: of the body, in bytes; None where the master did not say. ended: all of it was read.
    Raises HttpError when the head is wrong.
    """

    def __init__(self, source: io.BufferedIOBase, method: str) -> None:
        self._source = source
        self.status = _INTERIM.start
        # Interim replies may come before the one that counts, asked for or not (RFC 9110, 15.2).
        for _ in range(_MOST_HEADS):
            if self.status not in _INTERIM:
                break
            persistent = self._read_status()
            self._fields = self._read_fields()
        else:
            raise HttpError("no reply: interim ones without end", retry=True)
        self.length: int | None = 0
        self.says_its_end = True
        self._body: Iterator[bytes] = iter(())
        # These have no body, whatever their headers say of its length (RFC 9112, 6.3).
        if method != "HEAD" and self.status not in _WITHOUT_BODY:
            self._body = self._framed()
        self.ended = self.length == 0
        # HTTP/1.1 keeps the connection unless it says close, 1.0 the reverse (RFC 9112, 9.3).
        options = {option.strip() for option in self.header("Connection").lower().split(",")}
        kept = "close" not in options if persistent else "keep-alive" in options
        self.keeps_alive = kept and self.says_its_end

    def header(self, name: str) -> str:
        """Return a field's value, several of one name joined by commas; empty where it is not."""
        # Names have no case, and fields of one name are one list (RFC 9110, 5.1 and 5.3).
        return self._fields.get(name.lower(), "")

    def _line(self, most_bytes: int = _HEAD_BYTES) -> str:
        line = self._received(self._source.readline, most_bytes)
        if not line.endswith(b"\n"):
            fault = f"a head of more than {_HEAD_BYTES} bytes" if line else "closed"
            raise HttpError(f"no reply: {fault}", retry=True)
        # A lone LF ends a line as well (RFC 9112, 2.2).
        return line.rstrip(b"\r\n").decode("latin-1")

    def _read_status(self) -> bool:
        """Read the status line; True for HTTP/1.1, whose connections stay open."""
        line = self._line()
        found = _STATUS.fullmatch(line)
        if found is None:
            raise HttpError(f"no reply: {line[:80]!r} is not HTTP/1", retry=True)
        self.status = int(found[2])
        return found[1] == "1"

    def _read_fields(self) -> dict[str, str]:
        fields: dict[str, str] = {}
        left_bytes = _HEAD_BYTES
        for _ in range(_MOST_FIELDS):
            line = self._line(left_bytes)
            if not line:
                return fields
            left_bytes = max(1, left_bytes - len(line))
            name, colon, value = line.partition(":")
            key, value = name.lower(), value.strip(" \t")
            # No blank before the colon, and no line that goes on with another (RFC 9112, 5.1, 5.2).
            if not colon or not _TOKEN.fullmatch(key):
                raise HttpError(f"no reply: {line[:80]!r} is no header", retry=True)
            fields[key] = f"{fields[key]}, {value}" if key in fields else value
        raise HttpError(f"no reply: more than {_MOST_FIELDS} headers", retry=True)

    def _framed(self) -> Iterator[bytes]:
        """Return the pieces of the body: it ends by chunks, by length, or with the connection."""
        coding = self.header("Transfer-Encoding").lower()
        length = self.header("Content-Length")
        # Both at once is how requests are smuggled (RFC 9112, 6.3), and no other coding than
        # chunked was asked for by TE (RFC 9110, 10.1.4).
        if coding and (length or coding != "chunked"):
            raise HttpError(f"no reply: transfer coding {coding[:20]!r}", retry=True)
        if length:
            # Also "3, 4" of two fields, or a sign (RFC 9110, 8.6; RFC 9112, 6.3).
            if not LENGTH.fullmatch(length):
                raise HttpError(f"no reply: a length of {length[:40]!r}", retry=True)
            self.length = int(length)
            return self._sized(self.length)
        self.length = None
        if coding:
            return self._chunks()
        # It ends with the connection, as it also does when cut off (RFC 9112, 8).
        self.says_its_end = False
        return iter(lambda: self._received(self._source.read1, _READ_BYTES), b"")

    def _sized(self, left: int) -> Iterator[bytes]:
        while left:
            data = self._received(self._source.read1, min(_READ_BYTES, left))
            if not data:
                raise HttpError(f"truncated: {left} bytes missing", retry=True)
            left -= len(data)
            yield data

    def _chunks(self) -> Iterator[bytes]:
        while size := self._chunk_size():
            yield from self._sized(size)
            if self._line():
                raise HttpError("truncated: in a chunk", retry=True)
        self._read_fields()  # trailers, which may be thrown away (RFC 9112, 7.1.2)

    def _chunk_size(self) -> int:
        # Extensions after the size are to be ignored (RFC 9112, 7.1.1).
        size = self._line().partition(";")[0].strip()
        if not _CHUNK.fullmatch(size):
            raise HttpError(f"broke off: a chunk of {size[:20]!r} bytes", retry=True)
        return int(size, 16)

    def _received(self, read: Callable[[int], bytes], amount: int) -> bytes:
        try:
            return read(amount)
        except (OSError, ValueError) as error:
            raise HttpError(f"broke off: {error!r}", retry=True) from error

    def read(self) -> bytes:
        """Return next bytes of the body as they come, nothing at its end. Raises HttpError."""
        data = next(self._body, b"")
        self.ended = not data
        return data

    def read_all(self, max_bytes: int) -> bytes:
        """Return the whole body. Raises HttpError when it is longer than max_bytes."""
        parts: list[bytes] = []
        size = 0
        while part := self.read():
            size += len(part)
            if size > max_bytes:
                raise HttpError(f"reply is longer than {max_bytes} bytes", retry=False)
            parts.append(part)
        return b"".join(parts)


class Connection:
    """One connection. After any HttpError it must be closed, not used again.

    bandwidth: the job's bucket of bytes, or None.
    """

    def __init__(
        self, origin: Origin, limits: HttpLimits, control: Control, bandwidth: TokenBucket | None
    ) -> None:
        self.origin = origin
        self._sock = _connect(origin, limits.connect_timeout_seconds)
        self._reader = _Reader(self._sock, limits.read_timeout_seconds, control, bandwidth)
        self._buffer = io.BufferedReader(self._reader, _READ_BYTES)
        self._unread = 0
        self.replies = 0
        self.idle_since = 0.0
        self._last: Reply | None = None

    @property
    def patience_seconds(self) -> float:
        """How long a reply may bring nothing, or too little."""
        return self._reader.timeout_seconds

    def set_patience(self, seconds: float, least_bytes: Callable[[], float]) -> None:
        """Set for how long a reply may bring less than so many bytes."""
        self._reader.timeout_seconds = seconds
        self._reader.least_bytes = least_bytes

    @property
    def reusable(self) -> bool:
        """Whether every reply was read to its end and the master keeps the connection open."""
        last = self._last
        return self._unread == 0 and (last is None or (last.ended and last.keeps_alive))

    def send(self, method: str, targets: Sequence[str], headers: Mapping[str, str]) -> None:
        """Write requests as one piece; `reply` reads their replies in their order."""
        # Host is required, and should come first (RFC 9112, 3.2; RFC 9110, 7.2).
        fields = {"Host": self.origin.host_header, **headers}
        head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        requests = [f"{method} {target} HTTP/1.1\r\n{head}\r\n" for target in targets]
        data = "".join(requests).encode("ascii")
        try:
            self._sock.settimeout(self.patience_seconds)
            self._sock.sendall(data)
        except OSError as error:
            if isinstance(error, TimeoutError):
                fell_silent(self._sock)
            message = f"connection lost: {error!r}"
            raise HttpError(message, retry=True, unanswered=True) from error
        self._unread += len(targets)

    def reply(self, method: str) -> Reply:
        """Read the head of the next reply."""
        self._reader.restart()
        try:
            self._last = Reply(self._buffer, method)
        except HttpError as error:
            error.unanswered = True
            raise
        self._unread -= 1
        self.replies += 1
        return self._last

    def close(self) -> None:
        """Close the connection."""
        self._sock.close()


def _connect(origin: Origin, timeout_seconds: float) -> socket.socket:
    fault, sock = "cannot connect", None
    try:
        sock = dial(origin.host, origin.port, timeout_seconds)
        fault = "no TLS"
        if origin.scheme == "https":
            # The agent's image need not have authorities of its own.
            context = ssl.create_default_context(cafile=certifi.where())
            # By itself wrap_socket() closes what it fails with: then nobody can say who it was.
            sock = context.wrap_socket(
                sock, server_hostname=origin.host, do_handshake_on_connect=False
            )
            sock.do_handshake()
    except OSError as error:
        if sock is not None and isinstance(error, TimeoutError):
            fell_silent(sock)
        if sock is not None:
            sock.close()
        message = f"{origin.host_header}: {fault}: {error}"
        raise HttpError(message, retry=True, unreachable=True) from error
    return sock
