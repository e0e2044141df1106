"""`python3 -m gate`: serve, as the JSON in the environment's GRIDHUB_GATE says."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any, Final

from gate.builds import Builds, Shelf
from gate.ledger import Ledger, holder
from gate.listings import Hub, Listings
from gate.media import Bootstrap, Media
from gate.relay import Client, Patience
from gate.service import Service
from gate.upstream import Caddy

CONFIG: Final = "GRIDHUB_GATE"
_BACKLOG: Final = 4096
# Taken up in one turn of the loop: those who are served must not wait for a flood of newcomers.
_TAKEN_AT_ONCE: Final = 32
_SWEEP_SECONDS: Final = 2.0


@dataclass(frozen=True)
class MediaConfig:
    """Where Caddy asks for boot media, and who builds them. modes: the run modes that there are.

    builds, waiting, waiting_per_client, shelf_bytes: gate/builds.py.
    """

    port: int
    bootstrap: str
    bootstrap_port: int
    modes: Sequence[str]
    builds: int
    waiting: int
    waiting_per_client: int
    shelf_bytes: int


@dataclass(frozen=True)
class ListingsConfig:
    """Where Caddy asks for the hub's lists, and who makes them."""

    port: int
    hub: str
    hub_port: int


@dataclass(frozen=True)
class Config:
    """What the gate serves. lines: own port to Caddy's. ask_port: of Caddy's own site.

    connections: of all clients, and of each. health_port: on the loopback, for the probe.
    """

    caddy: str
    ask_port: int
    lines: Mapping[int, int]
    connections: int
    connections_per_address: int
    health_port: int
    media: MediaConfig | None = None
    listings: ListingsConfig | None = None

    @classmethod
    def parse(cls, text: str) -> Config:
        """Return the configuration that a JSON object says."""
        fields: dict[str, Any] = json.loads(text)
        lines = {int(own): int(port) for own, port in fields.pop("lines").items()}
        media, listings = fields.pop("media", None), fields.pop("listings", None)
        return cls(
            lines=lines,
            media=MediaConfig(**media) if media else None,
            listings=ListingsConfig(**listings) if listings else None,
            **fields,
        )


class Gate:
    """The listeners, and the look at everyone's time."""

    def __init__(self, config: Config, shared: Sequence[str], patience: Patience) -> None:
        self.config, self._patience = config, patience
        self.ledger = Ledger(config.connections, config.connections_per_address, shared)
        self.caddy = Caddy(config.caddy, config.ask_port)
        self.builds = _builds(config.media) if config.media else None
        self._shared = frozenset(shared)
        self.listening = False

    async def serve(self, stop: asyncio.Event) -> None:
        """Serve until `stop`."""
        tasks = [asyncio.create_task(self.caddy.watch()), asyncio.create_task(self._sweep())]
        servers = [await self._listen(own, port) for own, port in self.config.lines.items()]
        if self.config.media and self.builds:
            media = Media(self.builds, self.config.media.modes, self._known)
            servers.append(await _serving(media, self.config.media.port))
        if (told := self.config.listings) is not None:
            listings = Listings(Hub(told.hub, told.hub_port))
            servers.append(await _serving(listings, told.port))
        health = await asyncio.start_server(self._tell, "127.0.0.1", self.config.health_port)
        self.listening = True
        await stop.wait()
        for server in [*servers, health]:
            server.close()
        for task in tasks:
            task.cancel()

    async def _listen(self, own: int, port: int) -> asyncio.Server:
        """Listen on a port of ours for what goes to one of Caddy's."""
        listener = _listener(own)
        server = await asyncio.get_running_loop().create_server(
            lambda: Client(self.ledger, self.caddy, port, self._patience),
            sock=listener,
            backlog=_TAKEN_AT_ONCE,
        )
        # asyncio has one number for its turns and for the kernel's queue.
        listener.listen(_BACKLOG)
        return server

    def _known(self, address: str) -> str:
        """Return whom the address of a client of Caddy's stands for, nothing where anybody."""
        who = holder(address)
        return who if self.caddy.proxied and who not in self._shared else ""

    async def _sweep(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(min(_SWEEP_SECONDS, self._patience.opening / 2))
            now = loop.time()
            for client in self.ledger.connections():
                client.look_at(now)

    async def _tell(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Tell the probe how it stands."""
        ledger = self.ledger
        told = {
            "connections": ledger.count,
            "addresses": ledger.holders,
            "evicted": ledger.evicted,
            "refused": ledger.refused,
            "proxied": self.caddy.proxied,
        }
        if self.builds:
            told |= {
                "building": self.builds.running,
                "built": self.builds.built,
                "waiting": len(self.builds.turns),
            }
        writer.write(json.dumps(told).encode() + b"\n")
        writer.close()


def _builds(config: MediaConfig) -> Builds:
    bootstrap = Bootstrap(config.bootstrap, config.bootstrap_port)
    return Builds(
        bootstrap.build,
        at_once=config.builds,
        most_waiting=config.waiting,
        per_client=config.waiting_per_client,
        shelf=Shelf(config.shelf_bytes),
    )


async def _serving(service: Service, port: int) -> asyncio.Server:
    return await asyncio.start_server(service.serve, sock=_listener(port))


def _listener(port: int) -> socket.socket:
    return socket.create_server(
        ("::", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=_BACKLOG
    )


def gateways(routes: Path = Path("/proc/net")) -> list[str]:
    """Return the default gateways: what an engine that hides addresses shows of every client.

    routes: folder with `route` and `ipv6_route`, as Linux writes them
    (Documentation/networking/proc_net_tcp.rst has the byte order).
    """
    found = []
    for line in _lines(routes / "route")[1:]:
        words = line.split()
        if words[1] == "00000000" and words[2] != "00000000":
            found.append(str(IPv4Address(int.from_bytes(bytes.fromhex(words[2]), "little"))))
    for line in _lines(routes / "ipv6_route"):
        words = line.split()
        if words[:2] == ["0" * 32, "00"] and words[4] != "0" * 32:
            found.append(str(IPv6Address(int(words[4], 16))))
    return found


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


async def main() -> None:
    """Serve until SIGTERM or SIGINT."""
    config = Config.parse(os.environ[CONFIG])
    shared = [holder(address) for address in gateways()]
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await Gate(config, shared, Patience()).serve(stop)


if __name__ == "__main__":
    asyncio.run(main())
