"""The hub's lists of all there is: one at a time, never older than its question, whole for each."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest

from gate.listings import PATHS, Hub, Listings

SECONDS = 20
MOST_SENT = 1 << 20
ASKED = "GET {} HTTP/1.1\r\nHost: hub.test\r\n\r\n"


@dataclass
class Place:
    """The gate's lists, before a hub that counts. most: how many it made of one kind at a time."""

    listings: Listings
    body: bytes = b"{}"
    heard: list[str] = field(default_factory=list)
    now: dict[str, int] = field(default_factory=dict)
    most: int = 0
    port: int = 0
    finish: asyncio.Event = field(default_factory=asyncio.Event)
    status: bytes = b"200 OK"

    async def hub(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        path = (await reader.readuntil(b"\r\n\r\n")).split()[1].decode()
        self.heard.append(path)
        number = len(self.heard)
        self.now[path] = self.now.get(path, 0) + 1
        self.most = max(self.most, self.now[path])
        await self.finish.wait()
        self.now[path] -= 1
        body = self.body.replace(b"NUMBER", b"%06d" % number)
        writer.write(b"HTTP/1.0 %s\r\nContent-Type: application/json\r\n" % self.status)
        writer.write(b"Access-Control-Allow-Origin: *\r\nContent-Length: %d\r\n\r\n" % len(body))
        writer.write(body)
        writer.close()

    async def asks(self, text: str) -> tuple[bytes, bytes]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(text.encode())
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        writer.close()
        return head, body

    async def until_heard(self, number: int) -> None:
        while len(self.heard) < number:  # noqa: ASYNC110 - the hub is the test's
            await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def lists() -> AsyncIterator[Place]:
    hub = Hub("127.0.0.1", 0)
    place = Place(Listings(hub, MOST_SENT))
    place.finish.set()
    server = await asyncio.start_server(place.hub, "127.0.0.1", 0)
    hub.port = server.sockets[0].getsockname()[1]
    gate = await asyncio.start_server(place.listings.serve, "127.0.0.1", 0)
    place.port = gate.sockets[0].getsockname()[1]
    try:
        async with asyncio.timeout(SECONDS):
            yield place
    finally:
        gate.close()
        server.close()


@pytest.mark.parametrize("path", [*PATHS, "//api/flist/", "/api//fileslist?x=1"])
def test_a_list_comes_as_the_hub_made_it(path: str) -> None:
    async def run() -> None:
        async with lists() as place:
            place.body = b'{"repo": [%s]}' % (b'{"name": "some.flist"}, ' * 40_000)
            head, body = await place.asks(ASKED.format(path))
            assert body == place.body
            assert head.startswith(b"HTTP/1.1 200 OK\r\n")
            assert b"content-type: application/json" in head
            assert b"access-control-allow-origin: *" in head
            assert b"content-length: %d\r\n" % len(body) in head
            head, body = await place.asks(ASKED.format(path).replace("GET", "HEAD"))
            assert (b"content-length: %d\r\n" % len(place.body) in head, body) == (True, b"")

    asyncio.run(run())


@pytest.mark.parametrize("asked", ["GET /api/flist/tf-zos", "GET /", "POST /api/flist", "GET x"])
def test_nothing_else_is_asked_of_the_hub(asked: str) -> None:
    async def run() -> None:
        async with lists() as place:
            head, _ = await place.asks(f"{asked} HTTP/1.1\r\nHost: hub.test\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 404 ")
            assert place.heard == []

    asyncio.run(run())


def test_the_hub_makes_one_at_a_time_for_all_who_wait_and_none_is_older_than_its_question() -> None:
    async def run() -> None:
        async with lists() as place:
            place.body = b"NUMBER"
            place.finish.clear()
            first = [asyncio.create_task(place.asks(ASKED.format(PATHS[1]))) for _ in range(1)]
            await place.until_heard(1)
            later = [asyncio.create_task(place.asks(ASKED.format(PATHS[1]))) for _ in range(200)]
            other = asyncio.create_task(place.asks(ASKED.format(PATHS[0])))
            await place.until_heard(2)  # the other list waits for nobody
            await asyncio.sleep(0.2)
            place.finish.set()
            assert {body for _, body in await asyncio.gather(*first)} == {b"000001"}
            assert {body for _, body in await asyncio.gather(*later)} == {b"000003"}
            assert (await other)[1] == b"000002"
            assert (len(place.heard), place.most) == (3, 1)
            assert (await place.asks(ASKED.format(PATHS[1])))[1] == b"000004", "none is kept"

    asyncio.run(run())


def test_lists_that_are_taken_slowly_are_held_packed_and_bounded() -> None:
    async def run() -> None:
        async with lists() as place:
            place.body = b"NUMBER" + b"".join(b"%09x" % (n * 7919) for n in range(600_000))
            slow, most = [], 0
            for number in range(12):
                client = socket.socket()
                client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                client.connect(("127.0.0.1", place.port))
                client.send(ASKED.format(PATHS[1]).encode())
                slow.append(client)
                await place.until_heard(number + 1)
                await asyncio.sleep(0.05)
                most = max(most, place.listings.sent_bytes)
            assert 0 < most <= max(MOST_SENT, len(place.body) // 2)
            _, body = await place.asks(ASKED.format(PATHS[1]))
            assert body[6:] == place.body[6:]
            for client in slow:
                client.close()
            while place.listings.sent_bytes:  # noqa: ASYNC110 - it has no events for tests
                await asyncio.sleep(0.01)

    asyncio.run(run())


def test_a_hub_that_is_away_or_fails_is_told_and_asked_again() -> None:
    async def run() -> None:
        async with lists() as place:
            place.status = b"500 Internal Server Error"
            for _ in range(2):
                assert (await place.asks(ASKED.format(PATHS[0])))[0].startswith(b"HTTP/1.1 500 ")
            assert len(place.heard) == 2
        listings = Listings(Hub("127.0.0.1", 1))
        gate = await asyncio.start_server(listings.serve, "127.0.0.1", 0)
        place.port = gate.sockets[0].getsockname()[1]
        assert (await place.asks(ASKED.format(PATHS[0])))[0].startswith(b"HTTP/1.1 502 ")
        gate.close()

    asyncio.run(run())
