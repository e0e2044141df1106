"""What the probe sees of a host and of a master's 0-db."""

import contextlib
import socket
import threading
import time
from typing import Any, cast

import pytest

from sync.providers.preflight import probe
from tests.providers.conftest import zdb_asked
from tests.sandbox.services.zdb import ZdbServer


def test_the_probe_sees_listening_sockets_of_both_families_and_own_addresses() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as four,
        socket.create_server(("::1", 0), family=socket.AF_INET6) as six,
    ):
        wanted = [("127.0.0.1", four.getsockname()[1]), ("::1", six.getsockname()[1])]
        seen = [*probe._listening("tcp"), *probe._listening("tcp6")]
    assert [place for place in wanted if place not in seen] == []
    ours = ["127.0.0.1", "::1", "0.0.0.0", "::"]
    addresses = [*ours, "203.0.113.10", "2001:db8::10"]
    assert [a for a in addresses if probe._is_local(a)] == ours


def test_the_probe_asks_a_master_how_many_keys_it_holds(zdb: ZdbServer) -> None:
    assert probe._reach(zdb_asked(zdb)) == ("", 1234)
    assert probe._reach(zdb_asked(zdb, "no-such")) == ("", None)


@pytest.mark.parametrize(
    "answer", [b"", b"+no 0-db\r\n", b"$5\r\nhello\r\n", b"entries: many\n" * 9000]
)
def test_the_probe_takes_any_other_answer_for_none(answer: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            taken, _ = server.accept()
            with taken, contextlib.suppress(OSError):
                taken.recv(1000)
                taken.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        host, port = server.getsockname()
        master = probe.Upstream(name="zdb", host=host, port=port, namespace="default")
        assert probe._reach(master) == ("", None)
        thread.join()


class TricklingZdb:
    """A connection that brings a few bytes a second, by a clock of its own."""

    def __init__(self, piece: bytes) -> None:
        self.seconds, self.taken_bytes = 1000.0, 0
        self._piece = piece
        self._timeout_seconds = 0.0

    def monotonic(self) -> float:
        return self.seconds

    def settimeout(self, seconds: float) -> None:
        self._timeout_seconds = seconds

    def sendall(self, _request: bytes) -> None:
        pass

    def recv(self, most_bytes: int) -> bytes:
        waited = min(1.0, self._timeout_seconds)
        self.seconds += waited
        if waited < 1:
            raise TimeoutError
        self.taken_bytes += len(self._piece[:most_bytes])
        return self._piece[:most_bytes]


@pytest.mark.parametrize("piece", [b".", b"." * 50_000])
def test_the_probe_has_one_deadline_and_a_bound_for_an_answer_that_trickles(
    piece: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    trickling = TricklingZdb(piece)
    monkeypatch.setattr(probe, "time", trickling)
    assert probe._keys(cast(socket.socket, trickling), "default") is None
    assert trickling.seconds <= 1005
    assert trickling.taken_bytes <= 64 << 10


def test_an_address_that_leads_nowhere_costs_the_probe_no_time_out(
    zdb: ZdbServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = zdb_asked(zdb)
    resolve = socket.getaddrinfo

    def answer(host: str, port: int, *rest: Any, **options: Any) -> Any:
        if host != "master.example":
            return resolve(host, port, *rest, **options)
        if options.get("flags"):
            raise socket.gaierror(socket.EAI_NONAME, "no address")
        both = ("127.0.0.2", asked["host"])
        return [found for one in both for found in resolve(one, port, *rest, **options)]

    monkeypatch.setattr(socket, "getaddrinfo", answer)
    with contextlib.ExitStack() as stack:
        # The queue of a listener that accepts nobody is full: each SYN is dropped.
        place = ("127.0.0.2", asked["port"])
        stack.enter_context(socket.create_server(place, backlog=0))
        for _ in range(8):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(place)
        began = time.monotonic()
        found = probe._reach(probe.Upstream(**{**asked, "host": "master.example"}))
    assert found == ("", 1234)
    assert time.monotonic() - began < probe._CONNECT_SECONDS / 2
