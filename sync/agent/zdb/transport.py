"""Requests and replies over a blocking socket: pipelined, nudged, with limits in time and bytes."""

import contextlib
import socket
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import starmap
from typing import Final, Self, TypeVar

from sync.agent.zdb.errors import (
    ZdbConnectionError,
    ZdbProtocolError,
    ZdbReplyError,
    ZdbTimeoutError,
)
from sync.agent.zdb.protocol import MAX_PAYLOAD_BYTES, Reply, ReplyParser, Status, encode
from sync.contract.dialing import dial, fell_silent
from sync.contract.spec import ZdbEndpoint

# zdbd does not drain its edge-triggered socket when a read ends exactly on a request boundary; the
# requests behind it hang until more bytes come (zdbd/socket_epoll.c: EPOLLET; zdbd/redis.c:
# redis_chunk_read).
NUDGE_SECONDS: Final = 0.15
# One is not always enough: the read that it causes may end on a request boundary again.
_MOST_NUDGES: Final = 64
# A reply that trickles in slower than this, after the time-out, never ends.
SLOWEST_BYTES_PER_SECOND: Final = 16 << 10
# NAT and firewalls forget a connection that is idle: what is sent on it then is swallowed, without
# a word. So one that rested is replaced if its first answer does not come soon; a server that is
# merely slow answers on either.
RESTED_SECONDS: Final = 1.0
FORGOTTEN_SECONDS: Final = 1.0
_PING: Final = encode(b"PING")
_TOGETHER_BYTES: Final = 4 << 10
# Requests on the wire: less than the server's receive buffer, so that a PING always gets through to
# a server that left requests there; a larger request goes alone. It also bounds what zdbd has to
# queue for us: its list of replies has no limit (zdbd/redis.c, redis_response_push).
WINDOW_BYTES: Final = 32 << 10
_RECEIVE_BYTES: Final = 256 << 10
# What the replies of one exchange may cost beside payloads: so much, and so much for each request,
# of which the longest are NSINFO's lines and errors (zdbd/commands_namespace.c, zdbd/redis.c).
_EXCHANGE_BYTES: Final = 64 << 10
_REQUEST_BYTES: Final = 4 << 10
_Answer = TypeVar("_Answer")


def acknowledge(connected: socket.socket) -> None:
    """Acknowledge received bytes at once; to be called after each read.

    zdbd sends its small replies without TCP_NODELAY: each waits until the one before it is
    acknowledged, which a system delays by 40 ms while it has nothing to send itself.
    """
    # A socket pair is no TCP, and has nothing to acknowledge.
    with contextlib.suppress(OSError):
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)


def _joined(requests: Iterable[Sequence[bytes]]) -> Iterator[tuple[bytes, int]]:
    """Join small requests: a system call for each would cost more than the rest."""
    waiting: list[bytes] = []
    waiting_bytes = 0
    for data in starmap(encode, requests):
        if waiting and waiting_bytes + len(data) > _TOGETHER_BYTES:
            yield b"".join(waiting), len(waiting)
            waiting, waiting_bytes = [], 0
        waiting.append(data)
        waiting_bytes += len(data)
    if waiting:
        yield b"".join(waiting), len(waiting)


class ZdbTransport:
    """One connection that answers requests in their order; not to be shared between threads.

    Every method raises ZdbError; after any but ZdbReplyError the connection is closed.
    """

    def __init__(self, endpoint: ZdbEndpoint, timeout_seconds: float) -> None:
        self._where = where = f"{endpoint.host}:{endpoint.port}"
        self._at = endpoint.address
        try:
            self._socket = dial(endpoint.host, endpoint.port, timeout_seconds)
        except TimeoutError as error:
            raise ZdbTimeoutError(f"0-db {where}: {error.strerror}").by(self._at) from error
        except OSError as error:
            reason = error.strerror or str(error)
            raise ZdbConnectionError(f"0-db {where}: {reason}").by(self._at) from error
        self._timeout_seconds = timeout_seconds
        self._parser = ReplyParser(self._receive, _EXCHANGE_BYTES)
        # One element per request on the wire: False stands for a PING of ours to swallow.
        self._awaited: deque[bool] = deque()
        self._nudge = True
        # Shorter where the server is near: silence there means that it hangs.
        self.nudge_seconds = NUDGE_SECONDS
        self._deadline = 0.0
        self._received_bytes = 0
        self._heard_at = self._sent_at = time.monotonic()
        # All that was sent since it rested, while nothing was heard; None: it did not rest.
        self._unheard: list[bytes] | None = None
        self._interrupted = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the connection; more than once does no harm."""
        self._socket.close()

    def interrupt(self) -> None:
        """Break the connection from another thread: what waits for it raises ZdbConnectionError."""
        self._interrupted = True
        with contextlib.suppress(OSError):  # it is closed already
            self._socket.shutdown(socket.SHUT_RDWR)

    def hand_over(self) -> socket.socket:
        """Give the socket away, non-blocking, after the session is set up; do not use this after.

        Raises ZdbProtocolError where the server said more than it was asked.
        """
        self._deadline = time.monotonic() + self._timeout_seconds
        while self._awaited and not self._awaited[0]:
            # A slow answer was nudged: its PONG is still on the way.
            self._awaited.popleft()
            self._swallow_pong()
        if self._awaited or self._parser.buffered_bytes:
            raise self._wrong("unasked bytes after the greeting")
        self._socket.setblocking(False)
        return self._socket

    # Requests and replies

    def call(self, *arguments: bytes, payload_bytes: int = MAX_PAYLOAD_BYTES) -> Reply:
        """Send one request, return its reply; an error reply is raised as ZdbReplyError.

        payload_bytes: as of `pipeline`.
        """
        (reply,) = self.pipeline([arguments], payload_bytes)
        if isinstance(reply, ZdbReplyError):
            # Never the arguments, which may be a secret.
            raise ZdbReplyError(reply.reason, arguments[0].decode("ascii", "replace"))
        return reply

    def pipeline(self, requests: Iterable[Sequence[bytes]], payload_bytes: int = 0) -> list[Reply]:
        """Send requests and return their replies in order, error replies among them.

        About 32 KB of requests are on the wire at once. payload_bytes: how much memory all the
        replies may take beyond 4 KiB each: replies that take more are no answer.
        """
        return self._exchange(_joined(requests), payload_bytes)

    def _exchange(
        self, pieces: Iterable[tuple[bytes, int]], payload_bytes: int = 0, *, together: bool = False
    ) -> list[Reply]:
        """Send pieces of so many requests each; returns the replies.

        together: those to a piece are read as one, for which the time-out counts, too.
        """
        self._parser.allow(_EXCHANGE_BYTES + payload_bytes)
        replies: list[Reply] = []
        on_wire: deque[tuple[int, int]] = deque()
        on_wire_bytes = 0

        def take() -> int:
            size, count = on_wire.popleft()
            if together:
                replies.extend(self._answer(lambda: self._parser.replies(count), count))
            else:
                replies.extend([self._answer(self._parser.reply) for _ in range(count)])
            return size

        for data, count in pieces:
            while on_wire and on_wire_bytes + len(data) > WINDOW_BYTES:
                on_wire_bytes -= take()
            self._send(data, requests=count)
            self._parser.allow_more(count * _REQUEST_BYTES)
            on_wire.append((len(data), count))
            on_wire_bytes += len(data)
        while on_wire:
            take()
        return replies

    def _send(self, data: bytes, *, requests: int = 1, is_request: bool = True) -> None:
        now = time.monotonic()
        if is_request and not self._awaited:
            self._sent_at = now
            self._unheard = [] if now - self._heard_at > RESTED_SECONDS else None
        if self._unheard is not None:
            self._unheard.append(data)
        try:
            self._socket.settimeout(self._timeout_seconds)
            self._socket.sendall(data)
        except OSError as error:
            if isinstance(error, TimeoutError):
                fell_silent(self._socket)
            self.close()
            raise self._lost(error) from error
        self._awaited.extend([is_request] * requests)

    def _answer(self, parse: Callable[[], _Answer], requests: int = 1) -> _Answer:
        """Return what `parse` makes of the answer to so many requests."""
        self._deadline = time.monotonic() + self._timeout_seconds
        self._received_bytes = 0
        try:
            while not self._awaited.popleft():
                self._swallow_pong()
            for _ in range(requests - 1):
                self._awaited.popleft()
            return parse()
        except (ZdbProtocolError, ZdbConnectionError) as error:
            self.close()
            raise type(error)(f"0-db {self._where}: {error}").by(self._at) from error

    def _wrong(self, what: str) -> ZdbProtocolError:
        """Return the error for what no 0-db says; the connection is of no use any more."""
        self.close()
        return ZdbProtocolError(f"0-db {self._where}: {what}").by(self._at)

    @contextlib.contextmanager
    def _understanding(self) -> Iterator[None]:
        """Say who answered, where the block cannot make sense of an answer."""
        try:
            yield
        except ZdbProtocolError as error:
            if error.at:
                raise
            raise self._wrong(str(error)) from error

    def _swallow_pong(self) -> None:
        reply = self._parser.reply()
        if not isinstance(reply, Status):
            raise ZdbProtocolError("answered PING with something else")

    def _receive(self) -> bytes:
        while True:
            left = self._deadline + self._received_bytes / SLOWEST_BYTES_PER_SECOND
            left -= time.monotonic()
            if left <= 0:
                if self._nudge:
                    fell_silent(self._socket)
                raise ZdbTimeoutError(f"no complete reply in {self._timeout_seconds:g} s")
            # What WAIT asks for may be long in coming.
            if self._nudge and self._unheard and self._silent_seconds() > FORGOTTEN_SECONDS:
                self._renew(self._unheard)
                continue
            may_nudge = self._nudge and self._awaited.count(False) < _MOST_NUDGES
            self._socket.settimeout(min(left, self.nudge_seconds) if may_nudge else left)
            try:
                data = self._socket.recv(_RECEIVE_BYTES)
            except TimeoutError:
                if may_nudge:
                    self._send(_PING, is_request=False)
                continue
            except OSError as error:
                raise self._lost(error) from error
            if not data:
                raise ZdbConnectionError("closed the connection")
            acknowledge(self._socket)
            self._heard_at, self._unheard = time.monotonic(), None
            self._received_bytes += len(data)
            return data

    def _silent_seconds(self) -> float:
        return time.monotonic() - self._sent_at

    def _renew(self, unheard: list[bytes]) -> None:
        """Go on by a new connection, on which all is asked again; by the old one if none is had."""
        self._unheard = None
        fresh = self._opened_again()
        if fresh is None or self._interrupted:
            return
        self._socket.close()
        self._socket = fresh
        self._deadline = time.monotonic() + self._timeout_seconds
        try:
            self._socket.settimeout(self._timeout_seconds)
            self._socket.sendall(b"".join(unheard))
        except OSError as error:
            raise self._lost(error) from error

    def _opened_again(self) -> socket.socket | None:
        """Return the socket of a new connection with the same session, if there can be one."""
        return None

    def _lost(self, error: OSError) -> ZdbConnectionError:
        return ZdbConnectionError(f"connection lost: {error.strerror or error}").by(self._at)
