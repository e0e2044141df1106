"""What Caddy asks of the gate for boot media, and what bootstrap hears of it."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest

from gate.builds import Builds, Order, Shelf
from gate.media import Bootstrap, Media, RefusedError, ordered
from gate.service import Request

MODES = ("dev", "prod")
SECONDS = 20
MOST_SENT = 12 << 20


def request(target: str, method: str = "GET", **headers: str) -> Request:
    return Request(method, target, {"host": "bootstrap.test", **headers})


@pytest.mark.parametrize(
    ("target", "path", "version"),
    [
        ("/iso/prod", "/iso/prod", None),
        ("/iso/prod/", "/iso/prod", None),
        ("//iso///prod/12", "/iso/prod/12", None),
        ("/%69so/prod/12?version=v4&x=1&version=v5", "/iso/prod/12", "v4"),
        (
            "/usb/prod/12/console=ttyS0___x/zos.efi",
            "/usb/prod/12/console%3DttyS0___x/zos.efi",
            None,
        ),
        ("/iso/prod/12%2Fextra", "/iso/prod/12/extra", None),
        ("/krn/dev/1/a?other=1", "/krn/dev/1/a", None),
        ("/snponly/prod/1/caf%C3%A9?version=", "/snponly/prod/1/caf%C3%A9", ""),
    ],
)
def test_what_a_medium_depends_on_is_all_that_tells_one_from_another(
    target: str, path: str, version: str | None
) -> None:
    assert ordered(request(target), MODES) == Order("bootstrap.test", path, version)


@pytest.mark.parametrize(
    ("target", "status"),
    [
        ("/iso/none/1", 401),
        ("/ISO/prod/1", 404),
        ("/iso", 404),
        ("/iso/prod/1/2/3/4", 404),
        ("/krn/prod/1/2/3", 404),
        ("/snponly/prod", 404),
        ("/x/../iso/prod", 404),
        ("/uefimg/prod/1", 404),
        (f"/iso/prod/1/{'x' * 2048}", 414),
        (f"/iso/prod/{'!' * 700}", 414),
        (f"/iso/prod/1?version={'v' * 2048}", 414),
    ],
)
def test_what_is_no_medium_is_refused_before_any_work(target: str, status: int) -> None:
    with pytest.raises(RefusedError) as refused:
        ordered(request(target), MODES)
    assert refused.value.medium.status == status


@pytest.mark.parametrize("host", ["", "a b", "a\x00b", "x" * 300, "ä"])
def test_a_name_of_no_host_is_refused(host: str) -> None:
    with pytest.raises(RefusedError) as refused:
        ordered(request("/iso/prod", host=host), MODES)
    assert refused.value.medium.status == 400


@dataclass
class Place:
    """The gate's media, before a bootstrap that says `answer`. heard: heads that it got."""

    answer: bytes
    heard: list[bytes] = field(default_factory=list)
    port: int = 0
    media: Media | None = None
    finish: asyncio.Event = field(default_factory=asyncio.Event)

    async def asks(self, text: str) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(text.encode())
        answer = await reader.read()
        writer.close()
        return answer


@contextlib.asynccontextmanager
async def media_before(answer: bytes) -> AsyncIterator[Place]:
    place = Place(answer)
    place.finish.set()

    async def bootstrap(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        place.heard.append(await reader.readuntil(b"\r\n\r\n"))
        await place.finish.wait()
        writer.write(place.answer)
        writer.close()

    server = await asyncio.start_server(bootstrap, "127.0.0.1", 0)
    builder = Bootstrap("127.0.0.1", server.sockets[0].getsockname()[1])
    builds = Builds(builder.build, at_once=1, most_waiting=1, per_client=1, shelf=Shelf(1 << 20))
    place.media = Media(builds, MODES, str, MOST_SENT)
    media = await asyncio.start_server(place.media.serve, "127.0.0.1", 0)
    place.port = media.sockets[0].getsockname()[1]
    try:
        async with asyncio.timeout(SECONDS):
            yield place
    finally:
        media.close()
        server.close()


GOOD = (
    b"HTTP/1.1 200 OK\r\nServer: Werkzeug\r\nContent-Type: application/octet-stream\r\n"
    b"Content-Disposition: inline; filename=ipxe-prod.iso\r\nContent-Length: 5\r\n\r\nmedia"
)
ASKED = "{} /iso/prod/12?version=v4 HTTP/1.1\r\nHost: Bootstrap.test:8443\r\n\r\n"


def test_a_medium_comes_as_bootstrap_made_it_for_the_name_that_was_asked() -> None:
    async def run() -> None:
        async with media_before(GOOD) as place:
            head, _, body = (await place.asks(ASKED.format("GET"))).partition(b"\r\n\r\n")
            assert body == b"media"
            assert head.startswith(b"HTTP/1.1 200 OK\r\n")
            assert b"content-disposition: inline; filename=ipxe-prod.iso" in head
            asked = b"GET /iso/prod/12?version=v4 HTTP/1.0\r\nHost: bootstrap.test:8443\r\n\r\n"
            assert place.heard == [asked]
            head, _, body = (await place.asks(ASKED.format("HEAD"))).partition(b"\r\n\r\n")
            assert (b"content-length: 5" in head, body) == (True, b"")
            assert len(place.heard) == 1

    asyncio.run(run())


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"nonsense\r\n\r\n",
        b"HTTP/1.1 abc OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 70_000 + b"\r\n\r\n",
    ],
)
def test_what_comes_broken_is_a_502_and_is_asked_for_again(answer: bytes) -> None:
    async def run() -> None:
        async with media_before(answer) as place:
            for _ in range(2):
                assert (await place.asks(ASKED.format("GET"))).startswith(b"HTTP/1.1 502 ")
            assert len(place.heard) == 2

    asyncio.run(run())


def test_one_too_many_is_told_to_come_again_and_one_that_leaves_makes_room() -> None:
    async def run() -> None:
        async with media_before(GOOD) as place:
            place.finish.clear()
            target = "GET /iso/prod/{} HTTP/1.1\r\nHost: b.test\r\nX-Forwarded-For: ::1\r\n\r\n"
            first = asyncio.create_task(place.asks(target.format(1)))
            while not place.heard:  # noqa: ASYNC110 - the server here is the test's
                await asyncio.sleep(0.01)
            _, leaver = await asyncio.open_connection("127.0.0.1", place.port)
            leaver.write(target.format(2).encode())
            busy = b""
            while not busy.startswith(b"HTTP/1.1 503 "):
                third = asyncio.create_task(place.asks(target.format(3)))
                await asyncio.wait((third,), timeout=0.2)
                busy = await third if third.done() else b""
                third.cancel()
            assert b"retry-after: 60" in busy
            leaver.close()
            place.finish.set()
            assert (await first).endswith(b"media")
            assert (await place.asks(target.format(4))).endswith(b"media")

    asyncio.run(run())


def test_media_that_many_take_slowly_are_bounded_and_who_takes_them_gets_them_whole() -> None:
    """Each takes another medium and reads none of it: the shelf has let go of all of them."""

    async def run() -> None:
        body = bytes(3 << 20)  # more than the kernel holds on the way
        good = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body)
        async with media_before(good + body) as place:
            assert place.media
            slow, most = [], 0
            for farm in range(20):
                client = socket.socket()
                client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                client.connect(("127.0.0.1", place.port))
                client.send(f"GET /iso/prod/{farm} HTTP/1.1\r\nHost: b.test\r\n\r\n".encode())
                slow.append(client)
                while place.media.builds.built <= farm:  # noqa: ASYNC110 - it has no events for tests
                    await asyncio.sleep(0.01)
                most = max(most, place.media.sent_bytes)
            assert 2 * len(body) <= most <= MOST_SENT
            assert (await place.asks(ASKED.format("GET"))).endswith(body)
            for client in slow:
                client.close()
            while place.media.sent_bytes:  # noqa: ASYNC110
                await asyncio.sleep(0.01)

    asyncio.run(run())


@pytest.mark.parametrize("said", ["", "GET\r\n\r\n", "x" * 70_000, "GET / HTTP/1.1\r\n\r\n"])
def test_nonsense_harms_nobody(said: str) -> None:
    async def run() -> None:
        async with media_before(GOOD) as place:
            _, writer = await asyncio.open_connection("127.0.0.1", place.port)
            writer.write(said.encode())
            writer.write_eof()
            assert (await place.asks(ASKED.format("GET"))).endswith(b"media")
            writer.close()

    asyncio.run(run())
