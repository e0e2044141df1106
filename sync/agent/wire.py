"""One HTTP/1.1 connection to a master that is trusted with nothing.

Requests may be written ahead of their replies (pipelining): a flist and its digest then cost one
round trip. Every read has a deadline, and a peer that sends too slowly, too much, or breaks off
ends the connection with an HttpError.
"""

import http.client
import io
import socket
import ssl
import time
from collections.abc import Mapping
from dataclasses import dataclass
from email.message import Message
from typing import Any, Final
from urllib.parse import SplitResult

import certifi

from sync.agent.limits import TokenBucket
from sync.agent.runtime import Control

_SLICE_SECONDS: Final = 0.5  # how soon a blocked read notices that the job stops
_READ_BYTES: Final = 1 << 18
# A transfer that brings less than this in a read timeout counts as hung.
LEAST_BYTES: Final = 1024


class HttpError(Exception):
    """A request failed.

    retry: asking again may help. retry_after_seconds: when the master said. at_once: the master
    had merely closed a connection that was kept open, so asking again need not wait.
    """

    def __init__(self, message: str, *, retry: bool, retry_after_seconds: float = 0) -> None:
        super().__init__(message)
        self.retry = retry
        self.retry_after_seconds = retry_after_seconds
        self.at_once = False


class HttpStoppedError(HttpError):
    """The job stops; nothing is wrong with the master."""

    def __init__(self) -> None:
        super().__init__("the job stops", retry=False)


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


@dataclass(frozen=True)
class WireLimits:
    """Timeouts in seconds; bandwidth: the job's bucket of bytes, or None."""

    connect_timeout_seconds: float
    read_timeout_seconds: float
    bandwidth: TokenBucket | None
    control: Control


class _Reader(io.RawIOBase):
    """The socket's bytes, under a deadline that moves on while enough of them come."""

    def __init__(self, sock: socket.socket, limits: WireLimits) -> None:
        self._sock = sock
        self._limits = limits
        self._window_ends = 0.0
        self._window_bytes = 0
        self.restart()

    def restart(self) -> None:
        """Start a new window of patience (a new reply)."""
        self._window_ends = time.monotonic() + self._limits.read_timeout_seconds
        self._window_bytes = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer)
        while True:
            if self._limits.control.stopping():
                raise HttpStoppedError
            left = self._window_ends - time.monotonic()
            if left <= 0:
                raise HttpError(
                    f"hung: {self._window_bytes} bytes in {self._limits.read_timeout_seconds:g} s",
                    retry=True,
                )
            self._sock.settimeout(min(_SLICE_SECONDS, left))
            try:
                count = self._sock.recv_into(view)
            except TimeoutError:
                continue
            self._account(count)
            return count

    def _account(self, count: int) -> None:
        self._window_bytes += count
        if self._window_bytes >= LEAST_BYTES:
            self.restart()
        if self._limits.bandwidth is not None and count:
            wait = self._limits.bandwidth.take(count)
            if wait:
                if self._limits.control.wait(wait):
                    raise HttpStoppedError
                self.restart()


class _Shared(io.BufferedReader):
    """One buffer for all replies of a connection: closing a reply leaves it open.

    as_they_come: a read returns what is there already, so that nothing is lost when the rest
    never comes (a chunked body needs whole reads).
    """

    as_they_come = False

    def read(self, size: int | None = -1) -> bytes:
        """Return `size` bytes, or what has come of them."""
        if self.as_they_come and size is not None and size >= 0:
            return self.read1(size)
        return super().read(size)

    def close(self) -> None:
        """Keep the buffer; the connection closes its socket itself."""


class _SocketOfReply:
    """What http.client.HTTPResponse asks of a socket."""

    def __init__(self, buffer: _Shared) -> None:
        self._buffer = buffer

    def makefile(self, *_: object) -> _Shared:
        return self._buffer


class Reply:
    """A reply whose body has not been read yet."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self._response = response
        self.status = response.status
        self.headers: Message = response.headers
        self.keeps_alive = not response.will_close

    @property
    def length(self) -> int | None:
        """Bytes of the body that are still to come; None where the master did not say."""
        return self._response.length

    @property
    def says_its_end(self) -> bool:
        """Tell whether a body that breaks off can be told from a whole one."""
        return self._response.length is not None or bool(self._response.chunked)

    @property
    def ended(self) -> bool:
        """Tell whether the body was read to its end."""
        return self._response.isclosed()

    def read(self, amount: int = _READ_BYTES) -> bytes:
        """Return the next bytes of the body, nothing at its end. Raises HttpError."""
        try:
            data = self._response.read(amount)
        except (http.client.HTTPException, OSError, ValueError) as error:
            raise HttpError(f"broke off: {error!r}", retry=True) from error
        if not data and self._response.length:
            raise HttpError(f"truncated: {self._response.length} bytes missing", retry=True)
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


class Wire:
    """One connection. After any HttpError it must be closed, not used again."""

    def __init__(self, origin: Origin, limits: WireLimits) -> None:
        self._origin = origin
        self._limits = limits
        self._sock = _connect(origin, limits)
        self._reader = _Reader(self._sock, limits)
        self._buffer = _Shared(self._reader, _READ_BYTES)
        self._unread = 0
        self.replies = 0
        self._keeps_alive = True
        self._last: Reply | None = None

    @property
    def reusable(self) -> bool:
        """Tell whether every reply was read to its end and the master keeps the line open."""
        ended = self._last is None or self._last.ended
        return ended and self._keeps_alive and self._unread == 0

    def send(self, method: str, target: str, headers: Mapping[str, str]) -> None:
        """Write one request; its reply is read by `reply`, in the order of the requests."""
        lines = [f"{method} {target} HTTP/1.1", f"Host: {self._origin.host_header}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        data = "\r\n".join([*lines, "", ""]).encode("ascii")
        try:
            self._sock.settimeout(self._limits.read_timeout_seconds)
            self._sock.sendall(data)
        except OSError as error:
            raise HttpError(f"connection lost: {error!r}", retry=True) from error
        self._unread += 1

    def reply(self, method: str) -> Reply:
        """Read the head of the next reply."""
        self._reader.restart()
        self._buffer.as_they_come = False
        response = http.client.HTTPResponse(
            _SocketOfReply(self._buffer),  # type: ignore[arg-type]
            method=method,
        )
        try:
            response.begin()
        except (http.client.HTTPException, OSError, ValueError) as error:
            raise HttpError(f"no reply: {error!r}", retry=True) from error
        self._buffer.as_they_come = not response.chunked
        self._unread -= 1
        self.replies += 1
        self._last = Reply(response)
        self._keeps_alive = self._last.keeps_alive
        return self._last

    def close(self) -> None:
        """Close the connection."""
        self._sock.close()


def _connect(origin: Origin, limits: WireLimits) -> socket.socket:
    address = (origin.host, origin.port)
    try:
        sock = socket.create_connection(address, limits.connect_timeout_seconds)
    except OSError as error:
        raise HttpError(f"{origin.host_header}: can not connect: {error}", retry=True) from error
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if origin.scheme == "https":
            context = ssl.create_default_context(cafile=certifi.where())
            return context.wrap_socket(sock, server_hostname=origin.host)
    except OSError as error:
        sock.close()
        raise HttpError(f"{origin.host_header}: no TLS: {error}", retry=True) from error
    return sock
