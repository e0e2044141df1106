"""A client's connection and the one to Caddy that it is passed on to, byte for byte."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import struct
import termios
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Final, cast

from gate.ledger import Ledger, holder
from gate.opening import LONGEST_BYTES, is_whole
from gate.upstream import Caddy, proxy_header

_BLOCK_BYTES: Final = 64 << 10


@dataclass(frozen=True)
class Patience:
    """How long a client may take, in seconds; least_bytes: what it must take in `window`.

    opening: to its first whole record of TLS or head of HTTP (Caddy has time-outs of its own for
    what follows). silent: with nothing passing in either direction: Caddy ends what idles in two
    minutes, but the hub is silent while it unpacks and packs an upload, and then it answers.
    lingering: to close, after Caddy has.
    """

    opening: float = 10.0
    silent: float = 3600.0
    window: float = 30.0
    least_bytes: int = 15_000
    lingering: float = 5.0


class _Peer(asyncio.BufferedProtocol, ABC):
    """One end: what comes is read into the one buffer that all share, and passed on at once.

    So a peer that does not take its bytes holds one block of memory, and no more.
    """

    _buffer: Final = memoryview(bytearray(_BLOCK_BYTES))
    transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        self.transport = cast("asyncio.Transport", transport)
        self.transport.set_write_buffer_limits(high=0)

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - asyncio's signature
        """Return where to read to."""
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        """Take what was read."""
        self.received(bytes(self._buffer[:nbytes]))

    @abstractmethod
    def received(self, data: bytes) -> None:
        """Take bytes."""

    def say(self, data: bytes) -> None:
        """Send bytes to the peer, unless it is gone."""
        if not self.transport.is_closing():
            self.transport.write(data)

    def say_end(self) -> None:
        """Send the end to the peer, after all that was said."""
        # It may be gone already, without our having been told.
        with contextlib.suppress(OSError):
            self.transport.write_eof()


class Client(_Peer):
    """A client, from its first byte to its last."""

    def __init__(self, ledger: Ledger, caddy: Caddy, port: int, patience: Patience) -> None:
        self._ledger, self._caddy, self._port = ledger, caddy, port
        self._patience = patience
        self._loop = asyncio.get_running_loop()
        self._opening: bytearray | None = bytearray()
        self._connecting: asyncio.Task[None] | None = None
        self._server: _Server | None = None
        self._since = self._marked = self._loop.time()
        self._sent = self._taken = 0
        self._said_all = False
        self._left: float | None = None
        self.holder, self.seen = "", self._since

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Enter the client into the ledger."""
        super().connection_made(transport)
        peer = transport.get_extra_info("peername")
        # A client may be gone before it is accepted.
        self.holder = holder(peer[0]) if peer else ""
        if not self._ledger.admit(self, self._loop.time()):
            self.transport.abort()

    def connection_lost(self, _: Exception | None) -> None:
        """Let the connection to Caddy end with this one."""
        self._ledger.forget(self)
        if self._connecting is not None:
            self._connecting.cancel()
        if self._server is not None:
            self._server.transport.close()

    def end(self) -> None:
        """Close both connections at once."""
        self.transport.abort()
        if self._server is not None:
            self._server.transport.abort()

    # -- what the client says --------------------------------------------------------------------

    def received(self, data: bytes) -> None:
        """Pass on what the client says; its beginning, when it is whole."""
        self._ledger.touch(self, self._loop.time())
        if self._server is not None:
            self._server.say(data)
        elif self._opening is not None:
            self._begin(self._opening, data)

    def _begin(self, opening: bytearray, data: bytes) -> None:
        opening += data
        if is_whole(opening):
            self.transport.pause_reading()
            self._connecting = asyncio.create_task(self._connect(bytes(opening)))
            self._opening = None
            self._ledger.serve(self)
        elif len(opening) > LONGEST_BYTES:
            self.end()

    def eof_received(self) -> bool:
        """Tell Caddy that the client has said all; the answer may yet come."""
        if self._server is None or self._left is not None:
            return False
        self._said_all = True
        self._server.say_end()
        return True

    async def _connect(self, opening: bytes) -> None:
        try:
            server = await self._caddy.connect(self._port, lambda: _Server(self))
        except (OSError, TimeoutError):
            self.transport.abort()
            return
        if self.transport.is_closing():
            server.transport.abort()
            return
        header = proxy_header(*self._names()) if self._caddy.proxied else b""
        server.say(header + opening)
        self._server, self._connecting = server, None
        # Else when Caddy has taken the opening: what came before would only pile up here.
        if server.transport.get_write_buffer_size() == 0:
            self.transport.resume_reading()

    def _names(self) -> tuple[tuple[str, int], tuple[str, int]]:
        """Return the client's address and port, and those that it came to."""
        ends = (self.transport.get_extra_info(key) for key in ("peername", "sockname"))
        client, server = ((end[0].removeprefix("::ffff:"), end[1]) for end in ends)
        return client, server

    # -- what Caddy says -------------------------------------------------------------------------

    def answered(self, data: bytes) -> None:
        """Pass on what Caddy says."""
        self._ledger.touch(self, self._loop.time())
        self._sent += len(data)
        self.say(data)

    def left(self) -> None:
        """Take note that Caddy has said all: the client has what was sent, and then an end.

        Closed at once, a connection on which the client still sends would take the answer with it
        (RFC 9112, 9.6).
        """
        if self._left is None and not self.transport.is_closing():
            self._left = self._loop.time()
            if self._said_all:
                self.transport.close()
            else:
                self.say_end()

    def pause_writing(self) -> None:
        """Let Caddy wait: the client does not take what it has."""
        if self._server is not None:
            self._server.transport.pause_reading()

    def resume_writing(self) -> None:
        """Let Caddy go on."""
        if self._server is not None:
            self._server.transport.resume_reading()

    # -- time ------------------------------------------------------------------------------------

    def look_at(self, now: float) -> None:
        """End the connection if the client has had its time."""
        if self._is_late(now):
            self._ledger.forget(self)
            self.end()

    def _is_late(self, now: float) -> bool:
        patience = self._patience
        if self._server is None:
            return self._connecting is None and now - self._since > patience.opening
        waiting = self._waiting_bytes()
        if waiting == 0:
            self._marked, self._taken = now, self._sent
            left = self._left is not None and now - self._left > patience.lingering
            return left or now - self.seen > patience.silent
        if now - self._marked < patience.window:
            return False
        taken = self._sent - waiting
        slow = taken - self._taken < patience.least_bytes
        self._marked, self._taken = now, taken
        return slow

    def _waiting_bytes(self) -> int:
        """Return what the client has not acknowledged of what was sent to it."""
        here = self.transport.get_write_buffer_size()
        sock: Any = self.transport.get_extra_info("socket")
        try:
            answer = fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, b"\0" * 4)
        except (OSError, ValueError):
            return here
        return here + int(struct.unpack("i", answer)[0])


class _Server(_Peer):
    """The connection to Caddy for one client."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def received(self, data: bytes) -> None:
        """Pass on what Caddy says."""
        self._client.answered(data)

    def eof_received(self) -> bool:
        """Take note of the end of what Caddy says."""
        self._client.left()
        return True

    def connection_lost(self, _: Exception | None) -> None:
        """Take note of the end of the connection."""
        self._client.left()

    def pause_writing(self) -> None:
        """Let the client wait: Caddy does not take what it says."""
        self._client.transport.pause_reading()

    def resume_writing(self) -> None:
        """Let the client go on."""
        self._client.transport.resume_reading()
