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
from typing import Final, TypeVar

from sync.agent.zdb import ZdbConnection, ZdbConnectionError, ZdbTimeoutError
from sync.agent.zdb.connection import NUDGE_SECONDS
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
# A few bytes at a time into a window that is nearly full cost more than they carry (RFC 813).
_LEAST_SENT_BYTES: Final = 32 << 10
# A single reply that comes slower than this never ends, or might as well.
TRICKLE_BYTES_PER_SECOND: Final = 1 << 10


_AnyChannel = TypeVar("_AnyChannel", bound="Channel")


def open_all(make: Callable[[], _AnyChannel], count: int) -> list[_AnyChannel]:
    """Open `count` channels at once, so that they cost the round trips of one. Raises ZdbError."""
    with ThreadPoolExecutor(count) as pool:
        opening = [pool.submit(make) for _ in range(count)]
    failed = next((future.exception() for future in opening if future.exception()), None)
    if failed is not None:
        for future in opening:
            if future.exception() is None:
                future.result().close()
        raise failed
    return [future.result() for future in opening]


class Channel:
    """One connection to a 0-db, driven by the copy loop.

    A subclass says what it awaits (`awaiting`), takes bytes (`on_readable`), and how to ask for a
    sign of life (`nudge`), which wakes a server that left pipelined requests in its socket
    (see sync.agent.zdb.connection.NUDGE_SECONDS). least_bytes_per_second: below it, over a whole
    time-out and within one reply, the connection is given up.
    """

    least_bytes_per_second = 0

    def __init__(
        self, role: str, endpoint: ZdbEndpoint, password: str | None, timeout_seconds: float
    ) -> None:
        connection = ZdbConnection.open(endpoint, password, timeout_seconds)
        where = f"{role} {endpoint.host}:{endpoint.port}"
        self._adopt(connection.hand_over(), where, timeout_seconds)

    def _adopt(self, connected: socket.socket, where: str, timeout_seconds: float) -> None:
        """Take over a connected, non-blocking socket."""
        self.socket = connected
        self.where = where
        self.timeout_seconds = timeout_seconds
        self.outgoing: deque[memoryview] = deque()
        self.outgoing_bytes = 0
        self.heard_at = time.monotonic()
        self.nudged = False
        # Since when (monotonic) so many bytes came without a reply being complete.
        self._reply_since = self.heard_at
        self._partial_bytes = 0
        # Set while we ourselves do not read (back-pressure): silence is then our own doing.
        self.held = False
        # The socket would take no more; as opposed to the window, which is looked at again soon.
        self.blocked = False
        self._widest_window_bytes = 0

    def awaiting(self) -> bool:
        """Tell whether replies are outstanding."""
        raise NotImplementedError

    def on_readable(self) -> None:
        """Take what the socket has."""
        raise NotImplementedError

    def nudge(self) -> None:
        """Send something that makes the server look at its socket."""
        raise NotImplementedError

    def send(self, data: bytes) -> None:
        """Queue bytes and send what the socket takes."""
        if not self.awaiting():
            self.heard_at = time.monotonic()
            self.nudged = False
            self.progressed()
        self.outgoing.append(memoryview(data))
        self.outgoing_bytes += len(data)
        if len(self.outgoing) == 1:
            self.on_writable()

    def on_writable(self) -> None:
        """Send as much as the other side has room for, less a reserve.

        A server that left requests in its socket and has no room for another byte would never
        wake: so its receive buffer is never filled, and a PING always gets through.
        """
        self.blocked = False
        try:
            while self.outgoing and (room := self._room()) > 0:
                data = self.outgoing[0]
                sent = self.socket.send(data[:room])
                self.outgoing_bytes -= sent
                if sent < len(data):
                    self.outgoing[0] = data[sent:]
                else:
                    self.outgoing.popleft()
        except BlockingIOError:
            self.blocked = True
        except OSError as error:
            raise self.lost(error) from error

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

    def _push(self) -> None:
        """Send a few bytes of what waits into the reserve: as good a nudge as a PING."""
        data = self.outgoing[0]
        try:
            sent = self.socket.send(data[:_PUSHED_BYTES])
        except BlockingIOError:
            return
        except OSError as error:
            raise self.lost(error) from error
        self.outgoing_bytes -= sent
        self.outgoing[0] = data[sent:]
        if sent == len(data):
            self.outgoing.popleft()

    def receive_into(self, view: memoryview) -> int:
        """Fill the view from the socket; 0 when there is nothing now. Raises when it is closed."""
        try:
            count = self.socket.recv_into(view)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise self.lost(error) from error
        if count == 0:
            raise ZdbConnectionError(f"{self.where} closed the connection")
        self.heard()
        self._partial_bytes += count
        return count

    def receive(self, limit_bytes: int = 1 << 18) -> bytes:
        """Return what the socket has; empty when there is nothing now. Raises when it is closed."""
        try:
            data = self.socket.recv(limit_bytes)
        except BlockingIOError:
            return b""
        except OSError as error:
            raise self.lost(error) from error
        if not data:
            raise ZdbConnectionError(f"{self.where} closed the connection")
        self.heard()
        self._partial_bytes += len(data)
        return data

    def heard(self) -> None:
        """Note a sign of life."""
        self.heard_at = time.monotonic()
        self.nudged = False

    def progressed(self) -> None:
        """Note that a reply is complete, or that none is awaited."""
        self._reply_since = time.monotonic()
        self._partial_bytes = 0

    def check_time(self, now: float) -> None:
        """Nudge after a short silence, raise ZdbTimeoutError after a long one or a trickle."""
        if self.held or not self.awaiting():
            self.progressed()
            return
        silent_seconds = now - self.heard_at
        if silent_seconds > self.timeout_seconds:
            raise ZdbTimeoutError(f"{self.where}: no reply in {self.timeout_seconds:g} s")
        self._check_trickle(now)
        if silent_seconds <= NUDGE_SECONDS:
            return
        if self.outgoing:
            self._push()
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
            )
        self.progressed()

    def lost(self, error: OSError) -> ZdbConnectionError:
        """Make the error for a lost connection."""
        return ZdbConnectionError(f"{self.where}: connection lost: {error.strerror or error}")

    def close(self) -> None:
        """End the connection."""
        self.socket.close()
