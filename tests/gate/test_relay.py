"""Clients of every rude kind end in their time; polite ones get theirs whole."""

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gate.__main__ import Config, Gate
from gate.relay import Patience
from tests.sandbox.host.ports import free_port

_SECONDS = 20
HEAD = b"GET / HTTP/1.1\r\nHost: hub.test\r\n\r\n"
QUICK = Patience(opening=0.3, silent=30.0, window=0.3, least_bytes=1000, lingering=0.3)
Answering = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@dataclass
class Place:
    """A gate before a server that stands for Caddy. came: what reached the server first."""

    gate: Gate
    port: int
    came: list[bytes]

    async def client(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port)


async def until(it_is_so: Callable[[], bool]) -> None:
    """Wait; the time limit is that of `gate_before`."""
    while not it_is_so():  # noqa: ASYNC110 - the gate has no events for tests
        await asyncio.sleep(0.01)


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()


@contextlib.asynccontextmanager
async def gate_before(
    answering: Answering,
    *,
    patience: Patience = QUICK,
    connections: int = 100,
    listener: bytes = b"plain",
) -> AsyncIterator[Place]:
    came: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first = await reader.read(65536)
        came.append(first)
        with contextlib.suppress(ConnectionError):
            await answering(reader, writer)

    async def told(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.0 200 OK\r\n\r\n" + listener)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    ask = await asyncio.start_server(told, "127.0.0.1", 0)
    port, health = free_port(), free_port()
    lines = {port: server.sockets[0].getsockname()[1]}
    ask_port = ask.sockets[0].getsockname()[1]
    config = Config("127.0.0.1", ask_port, lines, connections, connections, health)
    gate, stop = Gate(config, [], patience), asyncio.Event()
    serving = asyncio.create_task(gate.serve(stop))
    try:
        async with asyncio.timeout(_SECONDS):
            await until(lambda: gate.listening)
            yield Place(gate, port, came)
    finally:
        stop.set()
        await serving
        server.close()
        ask.close()


async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b"well")
    await echo(reader, writer)


async def silent(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
    await reader.read()


@pytest.mark.parametrize("said", [b"", b"GET / HTTP/1.1\r\nHost: x\r\n", b"\x16\x03\x01\x02\0abc"])
def test_half_an_opening_is_ended_and_reaches_nobody(said: bytes) -> None:
    async def run() -> None:
        async with gate_before(silent) as place:
            reader, writer = await place.client()
            writer.write(said)
            with contextlib.suppress(ConnectionError):
                assert await reader.read() == b""
            assert place.came == []
            assert place.gate.ledger.count == 0

    asyncio.run(run())


def test_an_opening_without_an_end_is_ended_by_its_size() -> None:
    async def run() -> None:
        async with gate_before(silent, patience=replace(QUICK, opening=3600)) as place:
            reader, writer = await place.client()
            with contextlib.suppress(ConnectionError):
                writer.write(b"x" * 200_000)
                assert await reader.read() == b""
            assert place.came == []

    asyncio.run(run())


def test_a_client_that_takes_nothing_is_ended_and_its_server_freed() -> None:
    async def run() -> None:
        freed = asyncio.Event()

        async def pour(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                while True:
                    writer.write(b"x" * 65536)
                    await writer.drain()
            finally:
                freed.set()

        async with gate_before(pour) as place:
            _, writer = await place.client()
            cast("asyncio.Transport", writer.transport).pause_reading()
            writer.write(HEAD)
            await freed.wait()
            assert place.gate.ledger.count == 0

    asyncio.run(run())


def test_a_slow_client_that_takes_enough_gets_all() -> None:
    async def run() -> None:
        size = 4 << 20

        async def pour(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"x" * size)
            await writer.drain()
            writer.close()

        async with gate_before(pour) as place:
            reader, writer = await place.client()
            writer.write(HEAD)
            got = 0
            while data := await reader.read(1 << 20):
                got += len(data)
                await asyncio.sleep(0.05)
            assert got == size

    asyncio.run(run())


def test_a_connection_on_which_nothing_passes_is_ended() -> None:
    async def run() -> None:
        async with gate_before(silent, patience=replace(QUICK, silent=0.3)) as place:
            reader, writer = await place.client()
            writer.write(HEAD)
            with contextlib.suppress(ConnectionError):
                assert await reader.read() == b""
            assert place.came == [HEAD]

    asyncio.run(run())


@pytest.mark.parametrize("opening", [0, 60_000, 130_000])
def test_what_caddy_does_not_read_does_not_pile_up_in_the_gate(
    opening: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request and then junk without end, while Caddy is at its answer and reads no further."""

    async def run() -> None:
        servers, deaf_ends = [], []

        async def deaf(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            cast("asyncio.Transport", writer.transport).pause_reading()
            deaf_ends.append(writer)

        async with gate_before(deaf, patience=Patience()) as place:
            connect = place.gate.caddy.connect

            async def narrow(*arguments: Any) -> Any:
                server = await connect(*arguments)
                servers.append(server.transport)
                sock = server.transport.get_extra_info("socket")
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
                return server

            monkeypatch.setattr(place.gate.caddy, "connect", narrow)
            _, writer = await place.client()
            # The first of it: a head that is not whole until the last block.
            writer.write(HEAD[:-2] + b"X: " + b"x" * (opening // 2))
            await asyncio.sleep(0.1)
            writer.write(b"\r\n\r\n" + b"y" * (opening // 2))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(1):
                    for _ in range(1000):
                        writer.write(b"z" * 65536)
                        await writer.drain()
            (server,) = servers
            assert server.get_write_buffer_size() < 300_000
            assert cast("Any", writer.transport).get_write_buffer_size() > 0, "the client waits"
            writer.transport.abort()

    asyncio.run(run())


def test_an_uploader_is_not_cut_off_while_the_hub_packs() -> None:
    """Five minutes were less than a large upload takes to be unpacked and packed."""
    assert Patience().silent >= 3600


def test_an_answer_is_whole_although_caddy_ends_and_the_client_goes_on_sending() -> None:
    async def run() -> None:
        async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            """Close as Go does: its own direction first (net/http: closeWriteAndWait)."""
            writer.write(b"HTTP/1.1 413 Too Large\r\n\r\n" + b"y" * 300_000)
            writer.write_eof()
            await reader.read()
            writer.close()

        async with gate_before(refuse, patience=replace(QUICK, lingering=5)) as place:
            reader, writer = await place.client()
            writer.write(HEAD + b"x" * 100_000)
            answer = await reader.read()
            assert len(answer) == 26 + 300_000
            writer.close()

    asyncio.run(run())


def test_a_client_that_has_said_all_gets_its_answer() -> None:
    async def run() -> None:
        async with gate_before(echo) as place:
            reader, writer = await place.client()
            writer.write(HEAD + b"body")
            writer.write_eof()
            assert await reader.read() == b""
            assert place.came == [HEAD + b"body"]

    asyncio.run(run())


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(1, 200_000), min_size=1, max_size=8))
def test_bytes_pass_as_they_are_in_both_directions(sizes: list[int]) -> None:
    async def run() -> None:
        async with gate_before(echo, patience=Patience()) as place:
            reader, writer = await place.client()
            writer.write(HEAD)
            await until(lambda: place.came == [HEAD])
            for size in sizes:
                block = os.urandom(size)
                writer.write(block)
                assert await reader.readexactly(size) == block
            writer.close()

    asyncio.run(run())


def test_idle_connections_of_any_number_leave_room_for_who_comes() -> None:
    async def run() -> None:
        patience = replace(QUICK, opening=3600)
        async with gate_before(greet, patience=patience, connections=50) as place:
            idle = [socket.create_connection(("127.0.0.1", place.port)) for _ in range(50)]
            await until(lambda: place.gate.ledger.count == 50)
            answer = b""
            while not answer:  # until the idle ones have been silent for long enough
                reader, writer = await place.client()
                with contextlib.suppress(ConnectionError):
                    writer.write(HEAD)
                    answer = await reader.read(4)
            assert place.gate.ledger.evicted >= 1
            for one in idle:
                one.close()

    asyncio.run(run())


@pytest.mark.parametrize(("listener", "named"), [(b"proxied", True), (b"plain", False)])
def test_caddy_hears_the_clients_address_where_it_can(listener: bytes, named: bool) -> None:
    async def run() -> None:
        async with gate_before(silent, listener=listener) as place:
            _, writer = await place.client()
            port = writer.get_extra_info("sockname")[1]
            writer.write(HEAD)
            await until(lambda: bool(place.came))
            header = f"PROXY TCP4 127.0.0.1 127.0.0.1 {port} {place.port}\r\n".encode()
            assert place.came == [(header if named else b"") + HEAD]
            writer.close()

    asyncio.run(run())


def test_a_client_waits_for_a_caddy_that_starts() -> None:
    async def run() -> None:
        async with gate_before(echo) as place:
            place.gate.caddy._address = "127.0.0.2"
            place.gate.caddy.host = "127.0.0.1"
            reader, writer = await place.client()
            writer.write(HEAD)
            await until(lambda: bool(place.came))
            writer.write(b"ping")
            assert await reader.readexactly(4) == b"ping"

    asyncio.run(run())
