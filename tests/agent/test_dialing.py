"""A name with bad addresses, and a resolver that fails: what works is found, at once or soon.

Where a test must not wait, its time-out is an hour: it would hang if one address had to fail by
time before the next were tried.
"""

import contextlib
import errno
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sync.agent.job import Control
from sync.agent.master.client import Master
from sync.agent.zdb.connection import ZdbConnection
from sync.agent.zdb.errors import ZdbTimeoutError
from sync.contract import dialing
from sync.contract.spec import Backoff, HttpLimits, ZdbEndpoint
from tests.agent.scripted import Answer, ScriptedServer
from tests.sandbox.host import netns
from tests.sandbox.services.zdb import Settings, Store, ZdbServer

NAME: Final = "hub.example"
AN_HOUR: Final = 3600.0
SOON: Final = 30.0
LIVE: Final = "127.0.0.1"
LIVE_6: Final = "::1"
REFUSING: Final = "127.0.0.2"


@pytest.fixture(autouse=True)
def nothing_seen() -> Iterator[None]:
    dialing.forget()
    yield
    dialing.forget()


@pytest.fixture(scope="module")
def network() -> Iterator[None]:
    if reason := netns.missing():
        pytest.skip(reason)
    with netns.own_network():
        yield


@pytest.fixture
def port() -> Iterator[int]:
    """Listen on both loopback addresses at one port."""
    with (
        socket.create_server((LIVE, 0)) as four,
        socket.create_server((LIVE_6, four.getsockname()[1]), family=socket.AF_INET6),
    ):
        yield four.getsockname()[1]


def answers(monkeypatch: pytest.MonkeyPatch, *addresses: str, fail: int = 0) -> None:
    """Let the resolver give NAME these addresses; fail: after so many failures for a while."""
    resolve = socket.getaddrinfo
    failures = [fail]

    def answer(host: str, port: int, *rest: Any, **options: Any) -> Any:
        if host != NAME or options.get("flags"):
            return resolve(host, port, *rest, **options)
        if failures[0]:
            failures[0] -= 1
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return [found for one in addresses for found in resolve(one, port, *rest, **options)]

    monkeypatch.setattr(socket, "getaddrinfo", answer)


def soon(dial: Callable[[], socket.socket]) -> str:
    """Return who was connected to; fail if that takes long."""
    with ThreadPoolExecutor(1) as pool, contextlib.closing(pool.submit(dial).result(SOON)) as made:
        return str(made.getpeername()[0])


BAD: Final = {
    "an AAAA that leads nowhere": (netns.NOWHERE_6[0], LIVE),
    "an A that leads nowhere": (netns.NOWHERE_4[0], LIVE_6),
    "two of each family that lead nowhere": (*netns.NOWHERE_6, *netns.NOWHERE_4, LIVE),
    "refused on one": (REFUSING, LIVE),
    "no route to one": (netns.UNREACHABLE[0], LIVE),
    "no route to the other family": (netns.UNREACHABLE[1], LIVE),
    "refused, no route, nowhere": (REFUSING, *netns.UNREACHABLE, netns.NOWHERE_4[0], LIVE_6),
}


@pytest.mark.parametrize("addresses", BAD.values(), ids=BAD.keys())
@pytest.mark.usefixtures("network")
def test_one_address_that_works_is_enough(
    monkeypatch: pytest.MonkeyPatch, port: int, addresses: tuple[str, ...]
) -> None:
    answers(monkeypatch, *addresses)
    assert soon(lambda: dialing.dial(NAME, port, AN_HOUR)) == addresses[-1]
    # And is the first that is tried from then on.
    found = dialing._in_turn(dialing._addresses(NAME, port, AN_HOUR))
    assert found[0][1][0] == addresses[-1]


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    bad=st.lists(
        st.sampled_from([*netns.NOWHERE_4, *netns.NOWHERE_6, *netns.UNREACHABLE, REFUSING]),
        max_size=4,
        unique=True,
    ),
    live=st.sampled_from([LIVE, LIVE_6]),
    at=st.integers(0, 4),
)
@pytest.mark.usefixtures("network")
def test_wherever_it_stands_among_the_others(port: int, bad: list[str], live: str, at: int) -> None:
    dialing.forget()
    with pytest.MonkeyPatch.context() as patched:
        answers(patched, *bad[:at], live, *bad[at:])
        assert soon(lambda: dialing.dial(NAME, port, AN_HOUR)) == live


@pytest.mark.usefixtures("network")
def test_where_none_works_each_is_named_within_one_time_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    addresses = (REFUSING, netns.UNREACHABLE[0], netns.NOWHERE_6[0], netns.NOWHERE_4[0])
    answers(monkeypatch, *addresses)
    with pytest.raises(OSError, match="no connection in 1 s") as caught:
        dialing.dial(NAME, 9, 1)
    assert all(address in str(caught.value) for address in addresses)
    assert "refused" in str(caught.value)


@pytest.mark.parametrize(
    ("address", "kind"),
    [
        (REFUSING, ConnectionRefusedError),
        (netns.NOWHERE_4[0], TimeoutError),
        (netns.UNREACHABLE[1], OSError),
    ],
)
@pytest.mark.usefixtures("network")
def test_a_single_address_keeps_its_own_error(address: str, kind: type[OSError]) -> None:
    with pytest.raises(kind):
        dialing.dial(address, 9, 0.3)


# The resolver


def test_a_resolver_that_has_no_answer_for_now_is_asked_again(
    monkeypatch: pytest.MonkeyPatch, port: int
) -> None:
    answers(monkeypatch, LIVE, fail=2)
    assert soon(lambda: dialing.dial(NAME, port, AN_HOUR)) == LIVE


@pytest.mark.parametrize("number", [socket.EAI_AGAIN, None], ids=["says so", "is silent"])
def test_a_name_that_was_known_outlives_its_resolver(
    monkeypatch: pytest.MonkeyPatch, port: int, number: int | None
) -> None:
    answers(monkeypatch, LIVE)
    dialing.dial(NAME, port, AN_HOUR).close()
    _dead_resolver(monkeypatch, number)
    assert soon(lambda: dialing.dial(NAME, port, AN_HOUR if number else 2)) == LIVE
    # From then on it is not waited for.
    assert soon(lambda: dialing.dial(NAME, port, AN_HOUR)) == LIVE


def _dead_resolver(monkeypatch: pytest.MonkeyPatch, number: int | None) -> None:
    resolve = socket.getaddrinfo

    def answer(host: str, *rest: Any, **options: Any) -> Any:
        if options.get("flags"):
            return resolve(host, *rest, **options)
        if number is None:
            threading.Event().wait(SOON)
        raise socket.gaierror(number or socket.EAI_AGAIN, "no answer")

    monkeypatch.setattr(socket, "getaddrinfo", answer)


@pytest.mark.parametrize(
    ("host", "number", "words"),
    [
        (NAME, None, "the resolver does not answer"),
        (NAME, socket.EAI_NONAME, "no answer"),
        (NAME, socket.EAI_FAIL, "no answer"),
        (f"{'x' * 64}.example", socket.EAI_NONAME, "no (name that DNS could have|answer)"),
    ],
)
def test_a_name_without_an_address_is_an_error_of_one_kind_in_time(
    monkeypatch: pytest.MonkeyPatch, host: str, number: int | None, words: str
) -> None:
    _dead_resolver(monkeypatch, number)
    with pytest.raises(socket.gaierror, match=words):
        dialing.dial(host, 9, 0.3)


# Addresses that accept, and then do not answer


class Silent:
    """A listener that accepts and says nothing; counts whom it kept waiting."""

    def __init__(self, address: str, port: int) -> None:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self._listener = socket.create_server((address, port), family=family)
        self._kept: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                self._kept.append(self._listener.accept()[0])

    @property
    def accepted(self) -> int:
        return len(self._kept)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        for one in (self._listener, *self._kept):
            one.close()


@pytest.fixture
def web() -> Iterator[ScriptedServer]:
    with ScriptedServer() as server:
        server.pages["/page"] = Answer(b"here")
        yield server


def master_at(host: str, port: int, scheme: str = "http") -> Master:
    limits = HttpLimits(connections=1, connect_timeout_seconds=5, read_timeout_seconds=0.5)
    quick = Backoff(first_seconds=0.01, longest_seconds=0.02)
    return Master([f"{scheme}://{host}:{port}"], limits, Control(), backoff=quick)


@pytest.mark.parametrize("address", [LIVE_6, "127.0.0.3"], ids=["IPv6", "IPv4"])
def test_an_address_that_accepts_in_silence_costs_a_web_client_one_time_out(
    monkeypatch: pytest.MonkeyPatch, web: ScriptedServer, address: str
) -> None:
    answers(monkeypatch, address, LIVE)
    port = web.server_address[1]
    with contextlib.closing(Silent(address, port)) as silent:
        for _ in range(5):
            master = master_at(NAME, port)
            assert master.get("/page", 100).body == b"here"
            master.close()
        assert silent.accepted == 1


def test_so_does_one_that_is_silent_in_the_tls_handshake(monkeypatch: pytest.MonkeyPatch) -> None:
    answers(monkeypatch, LIVE_6)
    with contextlib.closing(Silent(LIVE_6, 0)) as silent:
        port = silent._listener.getsockname()[1]
        limits = HttpLimits(connections=1, connect_timeout_seconds=0.3)
        quick = Backoff(first_seconds=0.01, longest_seconds=0.02)
        master = Master([f"https://{NAME}:{port}"], limits, Control(), backoff=quick)
        with pytest.raises(Exception, match="no TLS"):
            master.get("/page", 100)
        assert (LIVE_6, port) in dialing._silent_at


def test_an_address_that_accepts_in_silence_costs_a_0_db_client_one_time_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    server = ZdbServer(Store(Settings()))
    server.start()
    endpoint = ZdbEndpoint(host=NAME, port=server.port)
    answers(monkeypatch, LIVE_6, server.address)
    try:
        with contextlib.closing(Silent(LIVE_6, server.port)) as silent:
            with pytest.raises(ZdbTimeoutError):
                ZdbConnection.open(endpoint, None, 0.5)
            for _ in range(4):
                ZdbConnection.open(endpoint, None, 0.5).close()
            assert silent.accepted == 1
    finally:
        server.stop()


# Ways that lose large packets


@pytest.fixture
def narrow_network() -> Iterator[None]:
    if reason := netns.missing():
        pytest.skip(reason)
    with netns.own_network():
        netns.lose_large_packets(1400)
        # Loopback itself is never taken for narrow.
        netns.run("ip", "address", "add", "10.0.0.1/32", "dev", "lo")
        netns.run("ip", "address", "add", "fd00::1/128", "dev", "lo", "nodad")
        yield


@pytest.mark.parametrize("address", ["10.0.0.1", "fd00::1"])
@pytest.mark.usefixtures("narrow_network")
def test_a_way_that_loses_large_packets_costs_one_time_out(address: str) -> None:
    """Only connecting and small replies get through it."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.create_server((address, 0), family=family) as listener:
        threading.Thread(target=_serve_large, args=[listener], daemon=True).start()
        port = listener.getsockname()[1]
        master = master_at(f"[{address}]" if ":" in address else address, port)
        for _ in range(3):
            assert len(master.get("/large", 1 << 20).body) == 1 << 19
        assert master.requests_sent == 4
        master.close()


def _serve_large(listener: socket.socket) -> None:
    body = bytes(1 << 19)

    def answer(client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            while client.recv(4096):
                client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)

    while True:
        client, _ = listener.accept()
        threading.Thread(target=answer, args=[client], daemon=True).start()


def test_a_connection_keeps_itself_known_to_nat(port: int) -> None:
    with dialing.dial(LIVE, port, 5) as made:
        assert made.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        assert made.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) < 60
        assert made.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1


def test_what_is_wrong_with_several_addresses_is_an_oserror_with_a_number(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    answers(monkeypatch, REFUSING, "127.0.0.4")
    with pytest.raises(ConnectionRefusedError) as caught:
        dialing.dial(NAME, 9, 5)
    assert caught.value.errno == errno.ECONNREFUSED
