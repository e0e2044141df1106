"""The relay that stands for a wide-area network does what it says, on both families."""

import contextlib
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from tests.sandbox.wan import Address, Fault, Link, Relay, relay_process

SENT = bytes(range(256)) * 4096


@contextlib.contextmanager
def echoing(host: str) -> Iterator[Address]:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family) as listener:
        threading.Thread(target=_serve, args=(listener,), daemon=True).start()
        yield listener.getsockname()[:2]
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)


def _serve(listener: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while True:
            client, _ = listener.accept()
            threading.Thread(target=_echo, args=(client,), daemon=True).start()


def _echo(client: socket.socket) -> None:
    with client, contextlib.suppress(OSError):
        while data := client.recv(1 << 16):
            client.sendall(data)


def read_until_end(client: socket.socket, most: int) -> bytes:
    received = bytearray()
    while len(received) < most and (data := client.recv(1 << 16)):
        received += data
    return bytes(received)


def round_trip(client: socket.socket, data: bytes) -> bytes:
    sender = threading.Thread(target=client.sendall, args=(data,), daemon=True)
    sender.start()
    received = read_until_end(client, len(data))
    sender.join(10)
    return received


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_bytes_pass_unchanged_and_late_by_the_round_trip(host: str) -> None:
    with (
        echoing(host) as target,
        Relay(target, Link(rtt_seconds=0.05), (host, 0)) as relay,
        socket.create_connection(relay.address, 5) as client,
    ):
        started = time.monotonic()
        assert round_trip(client, b"x") == b"x"
        assert time.monotonic() - started >= 0.05
        assert round_trip(client, SENT) == SENT


def test_bandwidth_and_window_hold_bytes_back() -> None:
    size = 200_000
    for link in (
        Link(bandwidth_bytes_per_second=400_000),
        Link(rtt_seconds=0.05, window_bytes=20_000),
    ):
        with (
            echoing("127.0.0.1") as target,
            Relay(target, link) as relay,
            socket.create_connection(relay.address, 5) as client,
        ):
            started = time.monotonic()
            assert round_trip(client, SENT[:size]) == SENT[:size]
            assert time.monotonic() - started > 0.4


def test_connections_share_the_bandwidth_evenly() -> None:
    size, received = 600_000, [0] * 4
    seen_at_first_end: list[list[int]] = []

    def fetch(which: int, client: socket.socket) -> None:
        while received[which] < size:
            received[which] += len(client.recv(1 << 14))
        seen_at_first_end.append(list(received))

    with (
        echoing("127.0.0.1") as target,
        Relay(target, Link(rtt_seconds=0.01, bandwidth_bytes_per_second=4_000_000)) as relay,
        contextlib.ExitStack() as ends,
    ):
        threads = []
        for which in range(len(received)):
            client = ends.enter_context(socket.create_connection(relay.address, 20))
            threads.append(threading.Thread(target=client.sendall, args=(SENT[:size],)))
            threads.append(threading.Thread(target=fetch, args=(which, client)))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
    assert received == [size] * len(received)
    assert min(seen_at_first_end[0]) > size / 2


def test_a_truncated_connection_ends_in_order_after_so_many_bytes() -> None:
    with echoing("127.0.0.1") as target, Relay(target) as relay:
        relay.fault = Fault("truncate", after_bytes=1000)
        with socket.create_connection(relay.address, 5) as client:
            client.sendall(SENT[:3000])
            with contextlib.suppress(ConnectionResetError):
                assert read_until_end(client, 3000) == SENT[:1000]
        with socket.create_connection(relay.address, 5) as client:
            assert round_trip(client, b"whole again") == b"whole again"


def test_a_reset_is_a_reset() -> None:
    with (
        echoing("127.0.0.1") as target,
        Relay(target) as relay,
        socket.create_connection(relay.address, 5) as client,
    ):
        assert round_trip(client, b"x") == b"x"
        relay.reset_all()
        with pytest.raises(ConnectionResetError):
            client.recv(1)


def test_a_hung_connection_stays_open_and_passes_nothing() -> None:
    with (
        echoing("127.0.0.1") as target,
        Relay(target) as relay,
        socket.create_connection(relay.address, 5) as client,
    ):
        relay.fault = Fault("hang", after_bytes=0)
        client.sendall(b"x")
        client.settimeout(0.2)
        with pytest.raises(TimeoutError):
            client.recv(1)


def test_as_a_process_it_tells_its_address_and_relays() -> None:
    with (
        echoing("127.0.0.1") as target,
        relay_process(target, Link(rtt_seconds=0.01)) as address,
        socket.create_connection(address, 5) as client,
    ):
        assert round_trip(client, SENT[:5000]) == SENT[:5000]
