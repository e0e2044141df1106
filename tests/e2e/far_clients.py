"""Clients from elsewhere, of any number of addresses: a network namespace and a way to the host.

`python -m tests.e2e.far_clients KIND ...` is what runs there: rude clients, a process for some
thousands. Addresses are routed whole, so whichever of them is asked for is there.
"""

import argparse
import asyncio
import contextlib
import itertools
import os
import secrets
import signal
import ssl
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from ipaddress import ip_network
from typing import Final, cast

from tests.sandbox.host import run
from tests.sandbox.host.dockerd import PROJECT

_AGAIN_SECONDS: Final = 10.0


@dataclass
class Elsewhere:
    """A namespace behind a pair of interfaces. host: this machine's address there, per family."""

    name: str
    number: int
    running: list["subprocess.Popen[bytes]"] = field(default_factory=list)

    @property
    def hosts(self) -> tuple[str, str]:
        """Addresses of this machine there, of both families."""
        return f"10.77.{self.number}.1", f"fd77:{self.number:x}::1"

    def sources(self, family: int, first: int, count: int) -> list[str]:
        """Return addresses there; IPv6 ones of a /64 each."""
        numbers = range(first, first + count)
        if family == 4:
            start = int(ip_network(f"10.{128 + self.number // 2}.0.0/16").network_address)
            return [str(ip_network((start + 256 + n, 32)).network_address) for n in numbers]
        return [f"fd78:{self.number:x}:0:{n:x}::1" for n in numbers]

    def starts(self, *words: str) -> "subprocess.Popen[bytes]":
        """Start rude clients there."""
        command = ["ip", "netns", "exec", self.name, sys.executable, "-m", "tests.e2e.far_clients"]
        process = subprocess.Popen([*command, *words], cwd=PROJECT, stdout=subprocess.PIPE)
        self.running.append(process)
        return process

    def stop(self) -> None:
        """End all clients."""
        for process in self.running:
            process.terminate()
        for process in self.running:
            process.communicate(timeout=30)
        self.running.clear()


@contextlib.contextmanager
def elsewhere() -> Iterator[Elsewhere]:
    """Provide the namespace, and remove it; needs root, as everything with an engine here does."""
    number = secrets.randbelow(200) + 20
    place = Elsewhere(f"gridhub-{os.environ.get(run.MARK, '')}{number}", number)
    near, far = f"gh{number}n", f"gh{number}f"
    there = ("ip", "netns", "exec", place.name)
    v4, v6 = place.hosts
    block4, block6 = f"10.{128 + number // 2}.0.0/16", f"fd78:{number:x}::/48"
    steps = [
        ("ip", "netns", "add", place.name),
        ("ip", "link", "add", near, "type", "veth", "peer", "name", far, "netns", place.name),
        ("ip", "addr", "add", f"{v4}/30", "dev", near),
        ("ip", "-6", "addr", "add", f"{v6}/126", "dev", near, "nodad"),
        ("ip", "link", "set", near, "up"),
        (*there, "ip", "link", "set", "lo", "up"),
        (*there, "ip", "addr", "add", f"10.77.{number}.2/30", "dev", far),
        (*there, "ip", "-6", "addr", "add", f"fd77:{number:x}::2/126", "dev", far, "nodad"),
        (*there, "ip", "link", "set", far, "up"),
        (*there, "ip", "route", "add", "default", "via", v4),
        (*there, "ip", "-6", "route", "add", "default", "via", v6),
        (*there, "sysctl", "-qw", "net.ipv6.ip_nonlocal_bind=1"),
        (*there, "ip", "route", "add", "local", block4, "dev", "lo"),
        (*there, "ip", "-6", "route", "add", "local", block6, "dev", "lo"),
        ("ip", "route", "add", block4, "via", f"10.77.{number}.2"),
        ("ip", "-6", "route", "add", block6, "via", f"fd77:{number:x}::2"),
    ]
    try:
        for step in steps:
            subprocess.run(step, check=True, capture_output=True, timeout=30)
        yield place
    finally:
        place.stop()
        # The pair goes with its end in the namespace, the routes with the pair.
        subprocess.run(["ip", "netns", "del", place.name], check=False, timeout=30)


@dataclass(frozen=True)
class Target:
    """Where rude clients go, from where, and what they ask for."""

    host: str
    port: int
    name: str
    path: str
    sources: tuple[str, ...]

    async def connect(
        self, source: str, *, tls: bool
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Return a connection from an address."""
        context = ssl._create_unverified_context() if tls else None
        return await asyncio.open_connection(
            self.host,
            self.port,
            local_addr=(source, 0),
            ssl=context,
            server_hostname=self.name if tls else None,
            limit=1024,
        )


async def _idle(target: Target, source: str) -> None:
    reader, _ = await target.connect(source, tls=False)
    await reader.read()


async def _half_hello(target: Target, source: str) -> None:
    reader, writer = await target.connect(source, tls=False)
    writer.write(b"\x16\x03\x01\x02\x00\x01")
    await reader.read()


async def _half_head(target: Target, source: str) -> None:
    reader, writer = await target.connect(source, tls=True)
    writer.write(f"GET {target.path} HTTP/1.1\r\nHost: {target.name}\r\nX-Slow: ".encode())
    await reader.read()


async def _half_body(target: Target, source: str) -> None:
    reader, writer = await target.connect(source, tls=True)
    head = f"POST {target.path} HTTP/1.1\r\nHost: {target.name}\r\nContent-Length: 1000\r\n\r\nabc"
    writer.write(head.encode())
    await reader.read()


async def _deaf(target: Target, source: str) -> None:
    _, writer = await target.connect(source, tls=True)
    cast("asyncio.Transport", writer.transport).pause_reading()
    writer.write(f"GET {target.path} HTTP/1.1\r\nHost: {target.name}\r\n\r\n".encode())
    await asyncio.sleep(3600)


async def _media(target: Target, source: str) -> None:
    reader, writer = await target.connect(source, tls=True)
    path = target.path.replace("FARM", str(secrets.randbelow(10**9)))
    writer.write(
        f"GET {path} HTTP/1.1\r\nHost: {target.name}\r\nConnection: close\r\n\r\n".encode()
    )
    while await reader.read(65536):
        pass
    await asyncio.sleep(1)


_KINDS: Final[dict[str, Callable[[Target, str], Awaitable[None]]]] = {
    "idle": _idle,
    "half-hello": _half_hello,
    "half-head": _half_head,
    "half-body": _half_body,
    "deaf": _deaf,
    "media": _media,
}


async def _rude(kind: str, target: Target, count: int) -> None:
    """Hold that many connections; one that is ended begins anew, some time later."""
    began = asyncio.Semaphore(50)

    async def one(source: str) -> None:
        while True:
            async with began:
                held = asyncio.create_task(_held(kind, target, source))
                await asyncio.sleep(0.01)
            await held
            await asyncio.sleep(_AGAIN_SECONDS)

    sources = itertools.islice(itertools.cycle(target.sources), count)
    await asyncio.gather(*(one(source) for source in sources))


async def _held(kind: str, target: Target, source: str) -> None:
    with contextlib.suppress(OSError, EOFError, IndexError, TimeoutError):
        await _KINDS[kind](target, source)


def main() -> None:
    """Be rude until SIGTERM."""
    parser = argparse.ArgumentParser()
    parser.add_argument("kind", choices=_KINDS)
    parser.add_argument("host")
    parser.add_argument("port", type=int)
    parser.add_argument("name")
    parser.add_argument("path")
    parser.add_argument("count", type=int)
    parser.add_argument("sources", nargs="+")
    asked = parser.parse_args()
    target = Target(asked.host, asked.port, asked.name, asked.path, tuple(asked.sources))
    # At once: thousands of tasks to cancel would take longer than anybody waits.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    asyncio.run(_rude(asked.kind, target, asked.count))


if __name__ == "__main__":
    main()
