"""Non-blocking connections of the copy loop: one socket, what waits to be sent, and its clock."""

import array
import fcntl
import socket
import struct
import termios
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from typing import Final, Generic, TypeVar

from typing_extensions import override

from sync.agent.zdb.connection import ZdbConnection
from sync.agent.zdb.errors import ZdbConnectionError, ZdbProtocolError, ZdbTimeoutError
from sync.agent.zdb.transport import (
    FORGOTTEN_SECONDS,
    NUDGE_SECONDS,
    RESTED_SECONDS,
    acknowledge,
)
from sync.contract.dialing import fell_silent
from sync.contract.spec import ZdbEndpoint

PING: Final = b"*1\r\n$4\r\nPING\r\n"
PONG: Final = b"+PONG\r\n"
# Offset of tcpi_snd_wnd in struct tcp_info (linux/tcp.h, since 5.4).
_SEND_WINDOW_OFFSET: Final = 228
_TCP_INFO_BYTES: Final = 240
# Without that field: less than any system's smallest receive buffer.
_SAFE_WINDOW_BYTES: Final = 32 << 10
_RESERVE_BYTES: Final = 16 << 10
_PUSHED_BYTES: Final = 64
# Beyond the round trips that opening took, silence of this length calls for a nudge.
_NEAR_NUDGE_SECONDS: Final = 0.02
# Pieces given to one sendmsg: well below IOV_MAX (1024), and more than any window takes.
_SENT_PIECES: Final = 256
# A few bytes at a time into a window that is nearly full cost more than they carry (RFC 813).
_LEAST_SENT_BYTES: Final = 32 << 10
_RECEIVED_BYTES: Final = 1 << 18
# A single reply that comes slower than this never ends, or might as well.
TRICKLE_BYTES_PER_SECOND: Final = 1 << 10


@dataclass(frozen=True)
class Opening:
    """How a connection to a 0-db is made; role: master or slave."""

    role: str
    endpoint: ZdbEndpoint
    password: str | None = field(repr=False)
    timeout_seconds: float

    def connect(self, boot: str = "") -> "Connected":
        """Connect and set up the session. Raises ZdbError.

        boot: which start of which server it has to be (see boot_of); empty: any.
        """
        started = time.monotonic()
        connection = ZdbConnection.open(self.endpoint, self.password, self.timeout_seconds)
        # The greeting took some round trips: a server this near needs no longer silence.
        near_seconds = time.monotonic() - started + _NEAR_NUDGE_SECONDS
        where = f"{self.role} {self.endpoint.host}:{self.endpoint.port}"
        if boot and connection.nsinfo_and_boot()[1] != boot:
            connection.close()
            raise ZdbConnectionError(f"{where} was started anew, or is another one")
        nudge_seconds = min(NUDGE_SECONDS, near_seconds)
        connected = connection.hand_over()
        return Connected(connected, where, self.timeout_seconds, nudge_seconds, self)


@dataclass(frozen=True)
class Connected:
    """A connected, non-blocking socket. where: role, host and port, for errors.

    nudge_seconds: silence while replies are awaited that calls for a nudge. opening: how to get
    another one.
    """

    socket: socket.socket
    where: str
    timeout_seconds: float
    nudge_seconds: float = NUDGE_SECONDS
    opening: Opening | None = None


def connect(
    role: str, endpoint: ZdbEndpoint, password: str | None, timeout_seconds: float
) -> Connected:
    """Connect to a 0-db as `role` (master, slave) and set up its session. Raises ZdbError."""
    return Opening(role, endpoint, password, timeout_seconds).connect()


_AnyChannel = TypeVar("_AnyChannel", bound="Channel")


def open_all(make: Callable[[], _AnyChannel], count: int) -> list[_AnyChannel]:
    """Open `count` channels at once, so that they cost the round trips of one. Raises ZdbError."""
    with ThreadPoolExecutor(max(1, count)) as pool:
        opening = [pool.submit(make) for _ in range(count)]
    failed = [future for future in opening if future.exception()]
    if failed:
        for future in opening:
            if future not in failed:
                future.result().close()
        failed[0].result()
    return [future.result() for future in opening]


class Channel:
    """One connection to a 0-db, driven by the copy loop.

    A subclass says what it awaits (`awaiting`), takes bytes (`on_readable`), and how to ask for a
    sign of life (`nudge`), which wakes a server that left pipelined requests in its socket
    (see sync.agent.zdb.transport.NUDGE_SECONDS). least_bytes_per_second: below it, over a whole
    time-out and within one reply, the connection is given up.
    """

    least_bytes_per_second = 0

    def __init__(self, connected: Connected) -> None:
        self.socket = connected.socket
        self.where = connected.where
        self._address = connected.opening.endpoint.address if connected.opening else ""
        self.timeout_seconds = connected.timeout_seconds
        self.nudge_seconds = connected.nudge_seconds
        self.opening = connected.opening
        self.outgoing: deque[memoryview] = deque()
        self.outgoing_bytes = 0
        self.heard_at = time.monotonic()
        self.nudged = False
        # All that was sent since it rested, while nothing was heard; None: it did not rest.
        self.unheard: list[memoryview] | None = None
        # Since when (monotonic) so many bytes came without a reply being complete.
        self._reply_since = self.heard_at
        self._partial_bytes = 0
        # Set while we ourselves do not read (back-pressure): silence is then our own doing.
        self.paused = False
        # The same for lack of memory: what it is to receive next takes more than there is now.
        self.starved = False
        # The socket would take no more; as opposed to the window, which is looked at again soon.
        self.blocked = False
        self._widest_window_bytes = 0

    def awaiting(self) -> bool:
        """Return whether replies are outstanding."""
        raise NotImplementedError

    def on_readable(self) -> None:
        """Take what the socket has."""
        raise NotImplementedError

    def nudge(self) -> None:
        """Send something that makes the server look at its socket."""
        raise NotImplementedError

    def send(self, *pieces: bytes | memoryview) -> None:
        """Queue pieces of a request, uncopied, and send as much as the socket takes.

        What a view shows has to stay as it is until the request is answered.
        """
        if not self.awaiting():
            rested = time.monotonic() - self.heard_at > RESTED_SECONDS
            self.heard()
            self.progressed()
            self.unheard = [] if rested else None
        was_empty = not self.outgoing
        waiting = [memoryview(piece) for piece in pieces if piece]
        if self.unheard is not None:
            self.unheard += waiting
        self.outgoing.extend(waiting)
        self.outgoing_bytes += sum(map(len, waiting))
        if was_empty:
            self.on_writable()

    def on_writable(self) -> None:
        """Send as much as the other side has room for, less a reserve."""
        # A read of zdbd that ends on a request boundary does not drain the socket (zdbd/redis.c,
        # redis_chunk_read), and edge-triggered epoll reports it again only for new bytes
        # (zdbd/socket_epoll.c, EPOLLET). None could come into a receive buffer that is full: so it
        # is never filled, and a PING always gets through.
        self.blocked = False
        while not self.blocked and self.outgoing and (room := self._room()) > 0:
            self._transmit(room)

    def _transmit(self, limit_bytes: int) -> None:
        """Give the socket up to so many bytes of what waits, in order."""
        pieces: list[memoryview] = []
        for piece in islice(self.outgoing, _SENT_PIECES):
            pieces.append(piece[:limit_bytes])
            limit_bytes -= len(piece)
            if limit_bytes <= 0:
                break
        try:
            sent_bytes = self.socket.sendmsg(pieces)
        except BlockingIOError:
            self.blocked = True
        except OSError as error:
            raise self._lost(error) from error
        else:
            self._drop_sent(sent_bytes)

    def _drop_sent(self, count: int) -> None:
        self.outgoing_bytes -= count
        while count:
            piece = self.outgoing[0]
            if count < len(piece):
                self.outgoing[0] = piece[count:]
                return
            count -= len(piece)
            self.outgoing.popleft()

    def _room(self) -> int:
        unsent = array.array("i", [0])
        fcntl.ioctl(self.socket, termios.TIOCOUTQ, unsent)
        info = self.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
        if len(info) < _TCP_INFO_BYTES:
            return _SAFE_WINDOW_BYTES - unsent[0]
        (window,) = struct.unpack_from("=I", info, _SEND_WINDOW_OFFSET)
        self._widest_window_bytes = max(self._widest_window_bytes, window)
        room = int(window - min(_RESERVE_BYTES, window // 4) - unsent[0])
        worthwhile = min(_LEAST_SENT_BYTES, self._widest_window_bytes // 4, self.outgoing_bytes)
        return room if room >= worthwhile else 0

    def receive_into(self, view: memoryview) -> int:
        """Fill the view from the socket; 0 when there is nothing now. Raises when it is closed."""
        try:
            count = self.socket.recv_into(view)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise self._lost(error) from error
        if count == 0:
            raise ZdbConnectionError(f"{self.where} closed the connection").by(self._address)
        acknowledge(self.socket)
        self.heard()
        self._partial_bytes += count
        return count

    def receive(self) -> bytes:
        """Return what the socket has; empty when there is nothing now. Raises when it is closed."""
        return bytes(self._scratch[: self.receive_into(self._scratch)])

    @cached_property
    def _scratch(self) -> memoryview:
        return memoryview(bytearray(_RECEIVED_BYTES))

    def heard(self) -> None:
        """Note a sign of life."""
        self.heard_at = time.monotonic()
        self.nudged = False
        self.unheard = None

    def is_forgotten(self, now: float) -> bool:
        """Return whether it rested, and since then is asked in vain: perhaps NAT forgot it."""
        if not self.unheard or self.opening is None:
            return False
        return now - self.heard_at > FORGOTTEN_SECONDS

    def renew(self, connected: Connected) -> None:
        """Go on by another connection, on which all is asked again. For a forgotten one only."""
        unheard = self.unheard or []
        # How many bytes are worth a wake-up is set on the socket.
        least = self.socket.getsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT)
        self.socket.close()
        self.socket = connected.socket
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, least)
        self._widest_window_bytes = 0
        self.heard()
        self.progressed()
        self.outgoing = deque(unheard)
        self.outgoing_bytes = sum(map(len, unheard))
        self.on_writable()

    def progressed(self) -> None:
        """Note that a reply is complete, or that none is awaited."""
        self._reply_since = time.monotonic()
        self._partial_bytes = 0

    def check_time(self, now: float) -> None:
        """Nudge after a short silence, raise ZdbTimeoutError after a long one or a trickle."""
        if self.paused or self.starved or not self.awaiting():
            self.progressed()
            return
        silent_seconds = now - self.heard_at
        if silent_seconds > self.timeout_seconds:
            fell_silent(self.socket)
            reason = f"no reply in {self.timeout_seconds:g} s"
            raise ZdbTimeoutError(f"{self.where}: {reason}").by(self._address)
        self._check_trickle(now)
        if silent_seconds <= self.nudge_seconds:
            return
        if self.outgoing:
            # A few bytes of what waits, into the reserve, are as good a nudge as a PING.
            self._transmit(_PUSHED_BYTES)
        elif not self.nudged:
            self.nudged = True
            self.nudge()

    def _check_trickle(self, now: float) -> None:
        if now - self._reply_since <= self.timeout_seconds:
            return
        if self._partial_bytes < self.least_bytes_per_second * self.timeout_seconds:
            raise ZdbTimeoutError(
                f"{self.where}: no reply, only {self._partial_bytes} bytes "
                f"in {self.timeout_seconds:g} s"
            ).by(self._address)
        self.progressed()

    def _wrong(self, message: str) -> ZdbProtocolError:
        return ZdbProtocolError(f"{self.where}: {message}").by(self._address)

    def _lost(self, error: OSError) -> ZdbConnectionError:
        reason = f"connection lost: {error.strerror or error}"
        return ZdbConnectionError(f"{self.where}: {reason}").by(self._address)

    def close(self) -> None:
        """End the connection."""
        self.socket.close()


_Request = TypeVar("_Request")


class Pipeline(Channel, Generic[_Request]):
    """A channel that sends requests ahead of their replies, which come in the same order.

    `_awaited`: what is on the wire; None stands for a PING of ours.
    """

    def __init__(self, connected: Connected) -> None:
        super().__init__(connected)
        self._awaited: deque[_Request | None] = deque()

    @override
    def awaiting(self) -> bool:
        return bool(self._awaited)

    @override
    def nudge(self) -> None:
        self._awaited.append(None)
        self.send(PING)

    def _require_pong(self, received: bytes | bytearray) -> None:
        if received != PONG:
            raise self._wrong("answered PING with something else")
