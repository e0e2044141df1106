"""What Caddy asks the gate for: answers that take memory, made by a server one at a time.

They are held until clients have taken them, and no more of them than there is room for.
"""

from __future__ import annotations

import asyncio
import contextlib
import zlib
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final
from urllib.parse import quote

from gate.builds import Medium, Order

PLAIN: Final = (("content-type", "text/plain"),)
_LONGEST_HEAD: Final = 64 << 10
_BLOCK_BYTES: Final = 64 << 10
_HEAD_SECONDS: Final = 10.0
# What a build takes, many times over; then its server is taken to be lost.
_BUILD_SECONDS: Final = 300.0
_DESCRIBING: Final = ("content-type", "content-disposition", "access-control-allow-origin")


@dataclass(frozen=True)
class Request:
    """The head of a request; header names in lower case."""

    method: str
    target: str
    headers: Mapping[str, str]

    @classmethod
    def parse(cls, head: bytes) -> Request:
        """Return what a head says; raise ValueError for nonsense."""
        first, *lines = head.decode("latin-1").split("\r\n")
        method, target, _ = first.split(" ")
        return cls(method, target, _fields_of(lines))

    @property
    def client(self) -> str:
        """The client, as Caddy knows it."""
        return self.headers.get("x-forwarded-for", "").rpartition(",")[2].strip()


@dataclass
class _Sending:
    medium: Medium
    began: float
    sent_bytes: int = 0

    def rate(self, now: float) -> float:
        """Return the bytes a second that the client takes."""
        return self.sent_bytes / (now - self.began + 1)


class Service(ABC):
    """Answers Caddy's requests with what takes memory for as long as a client takes it.

    most_bytes: of what is on its way; where there is more, the client that takes its own slowest
    loses it.
    """

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._sending: dict[asyncio.StreamWriter, _Sending] = {}

    @abstractmethod
    async def answer(self, request: Request) -> Medium:
        """Return the answer to a request."""

    @property
    def sent_bytes(self) -> int:
        """What is on its way; what several take counts once."""
        media = (one.medium for one in self._sending.values())
        return sum({id(one): len(one.body) for one in media}.values())

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the one request of a connection."""
        try:
            async with asyncio.timeout(_HEAD_SECONDS):
                request = Request.parse(await reader.readuntil(b"\r\n\r\n"))
            answer = asyncio.ensure_future(self.answer(request))
            gone = asyncio.ensure_future(reader.read(1))
            await asyncio.wait((answer, gone), return_when=asyncio.FIRST_COMPLETED)
            gone.cancel()
            if answer.done():
                await self._send(writer, await answer, head_only=request.method == "HEAD")
            else:
                answer.cancel()
        except (OSError, ValueError, TimeoutError, asyncio.IncompleteReadError):
            pass  # Caddy, or its client, is gone
        except asyncio.LimitOverrunError:
            pass  # no head of Caddy's
        finally:
            writer.close()

    async def _send(self, writer: asyncio.StreamWriter, medium: Medium, *, head_only: bool) -> None:
        length = len(medium.body) if medium.plain_bytes is None else medium.plain_bytes
        lines = [
            f"HTTP/1.1 {medium.status} {HTTPStatus(medium.status).phrase}",
            *(f"{name}: {value}" for name, value in medium.headers),
            f"content-length: {length}",
            "connection: close",
        ]
        writer.write(("\r\n".join(lines) + "\r\n\r\n").encode("latin-1"))
        if head_only:
            return
        now = asyncio.get_running_loop().time()
        sending = self._sending[writer] = _Sending(medium, now)
        self._make_room(writer, now)
        try:
            for block in _blocks_of(medium):
                writer.write(block)
                await writer.drain()
                sending.sent_bytes += len(block)
        finally:
            self._sending.pop(writer, None)

    def _make_room(self, newcomer: asyncio.StreamWriter, now: float) -> None:
        while self.sent_bytes > self._most_bytes:
            others = [writer for writer in self._sending if writer is not newcomer]
            if not others:
                return
            slowest = min(others, key=lambda writer: self._sending[writer].rate(now))
            del self._sending[slowest]
            slowest.transport.abort()


def _blocks_of(medium: Medium) -> Iterator[bytes]:
    body = memoryview(medium.body)
    unpack = zlib.decompressobj()
    for start in range(0, len(body), _BLOCK_BYTES):
        block = bytes(body[start : start + _BLOCK_BYTES])
        if medium.plain_bytes is None:
            yield block
        while medium.plain_bytes is not None and block:
            yield unpack.decompress(block, _BLOCK_BYTES)
            block = unpack.unconsumed_tail
    yield unpack.flush()


def _fields_of(lines: Iterable[str]) -> dict[str, str]:
    """Return the fields of a head by their names in lower case."""
    pairs = (line.partition(":") for line in lines if line)
    return {name.lower(): value.strip() for name, _, value in pairs}


class Origin:
    """A server that makes what is asked for.

    most_bytes: of an answer. packs: whether answers are kept packed.
    """

    most_bytes: int
    packs = False

    def __init__(self, host: str, port: int) -> None:
        self.host, self.port = host, port

    async def build(self, order: Order) -> Medium:
        """Return what it makes, or says in its place; 502 where no answer comes whole."""
        try:
            async with asyncio.timeout(_BUILD_SECONDS):
                return await self._asked(order)
        except (OSError, ValueError, TimeoutError, asyncio.IncompleteReadError):
            return Medium(502, PLAIN, b"This could not be made: please ask again later.\n")

    async def _asked(self, order: Order) -> Medium:
        reader, writer = await asyncio.open_connection(self.host, self.port, limit=_LONGEST_HEAD)
        try:
            query = f"?version={quote(order.version, safe='')}" if order.version is not None else ""
            head = f"GET {order.path}{query} HTTP/1.0\r\nHost: {order.host}\r\n\r\n"
            writer.write(head.encode())
            return await self._medium(reader)
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    async def _medium(self, reader: asyncio.StreamReader) -> Medium:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.LimitOverrunError as error:
            raise ValueError("a head without an end") from error
        first, *lines = head.decode("latin-1").split("\r\n")
        status = HTTPStatus(int(first.partition(" ")[2][:3]))
        headers = _fields_of(lines)
        length = int(headers["content-length"]) if "content-length" in headers else None
        if (length or 0) > self.most_bytes:
            raise ValueError("larger than any answer")
        body, plain, pack = bytearray(), 0, zlib.compressobj(1)
        async for block in _blocks_from(reader, length):
            body += pack.compress(block) if self.packs else block
            plain += len(block)
            if plain > self.most_bytes:
                raise ValueError("larger than any answer")
        if length is not None and plain != length:
            raise ValueError("less than was promised")
        if self.packs:
            body += pack.flush()
        described = tuple((key, headers[key]) for key in _DESCRIBING if key in headers)
        return Medium(status, described, bytes(body), plain if self.packs else None)


async def _blocks_from(reader: asyncio.StreamReader, length: int | None) -> AsyncIterator[bytes]:
    """Yield what comes, until `length` or the end."""
    left = _BLOCK_BYTES if length is None else length
    while left and (block := await reader.read(min(_BLOCK_BYTES, left))):
        left -= 0 if length is None else len(block)
        yield block
