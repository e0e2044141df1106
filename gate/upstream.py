"""Where Caddy is at present, and whether it takes the clients' addresses from the gate."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable
from typing import Final, TypeVar

_Protocol = TypeVar("_Protocol", bound=asyncio.BaseProtocol)
_LOOK_SECONDS: Final = 5.0
_CONNECT_SECONDS: Final = 10.0
_RETRY_SECONDS: Final = 0.25
_RECEIVED_BYTES: Final = 64 << 10
# What Caddy's own site says at `listener_path`: components/Caddyfile.j2.
_PROXIED: Final = b"proxied"


class Caddy:
    """Caddy's address in the stack's network. proxied: whether it takes the PROXY protocol.

    It is looked up again and again, as a new container of Caddy has another address.
    """

    def __init__(self, host: str, ask_port: int) -> None:
        self.host, self._ask_port = host, ask_port
        self.proxied = False
        self._address: str | None = None
        self._looking: asyncio.Task[None] | None = None

    async def watch(self) -> None:
        """Look for it again and again."""
        while True:
            await self._look_once()
            await asyncio.sleep(_LOOK_SECONDS)

    async def connect(self, port: int, protocol: Callable[[], _Protocol]) -> _Protocol:
        """Return a new connection to it; raise OSError or TimeoutError where it stays away."""
        async with asyncio.timeout(_CONNECT_SECONDS):
            while True:
                if self._address is not None:
                    with contextlib.suppress(OSError):
                        return await _connected(self._address, port, protocol)
                await self._look_once()
                await asyncio.sleep(_RETRY_SECONDS)

    async def _look_once(self) -> None:
        """Look for it; who comes meanwhile waits for the same answer."""
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(self._look())
        await asyncio.shield(self._looking)

    async def _look(self) -> None:
        loop = asyncio.get_running_loop()
        with contextlib.suppress(OSError, TimeoutError):
            found = await loop.getaddrinfo(self.host, self._ask_port)
            address = str(found[0][4][0])
            async with asyncio.timeout(_LOOK_SECONDS):
                self.proxied = _PROXIED in await self._asked(address)
            self._address = address

    async def _asked(self, address: str) -> bytes:
        reader, writer = await asyncio.open_connection(address, self._ask_port)
        try:
            writer.write(b"GET /listener HTTP/1.0\r\nHost: gate\r\n\r\n")
            return await reader.read()
        finally:
            writer.close()


async def _connected(address: str, port: int, protocol: Callable[[], _Protocol]) -> _Protocol:
    loop = asyncio.get_running_loop()
    sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
    try:
        sock.setblocking(False)
        # The way is short: more would only fill up for clients that do not take it.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVED_BYTES)
        await loop.sock_connect(sock, (address, port))
        return (await loop.create_connection(protocol, sock=sock))[1]
    except BaseException:
        sock.close()
        raise


def proxy_header(client: tuple[str, int], server: tuple[str, int]) -> bytes:
    """Return version 1 of the PROXY protocol (HAProxy: doc/proxy-protocol.txt, 2.1).

    client, server: address and port, both of one family.
    """
    family = "TCP6" if ":" in client[0] else "TCP4"
    return f"PROXY {family} {client[0]} {server[0]} {client[1]} {server[1]}\r\n".encode()
