"""The 0-db stand-in by itself: what it promises beside answering as zdbd does."""

import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.sandbox.host.ports import free_port
from tests.sandbox.services.zdb import Settings, Store, ZdbServer
from tests.sandbox.services.zdb.__main__ import arguments
from tests.sandbox.services.zdb.resp import Command, Fetch, Parser, Sets
from tests.sandbox.services.zdb_client import ErrorReply, Wire, encoded
from tests.sandbox.tests.servers import ended, started

PROJECT = Path(__file__).parents[3]


@pytest.fixture
def server() -> Iterator[ZdbServer]:
    running = ZdbServer(Store()).start()
    yield running
    running.stop()


def _command(port: int, place: Path, *extra: str) -> list[str]:
    directories = ["--data", str(place / "data"), "--index", str(place / "index")]
    flags = [*directories, "--listen", "127.0.0.1", "--port", str(port), *extra]
    return [sys.executable, "-m", "tests.sandbox.services.zdb", *flags]


# -- reading the stream ------------------------------------------------------------------------

_KEYS = st.one_of(st.binary(min_size=16, max_size=16), st.binary(max_size=20))
_REQUESTS = st.one_of(
    st.tuples(st.just(b"SET"), _KEYS, st.binary(max_size=50)),
    st.tuples(st.just(b"SET"), _KEYS, st.binary(max_size=50), st.just(b"1700000000")),
    st.lists(_KEYS, min_size=1, max_size=5).map(lambda keys: (b"MGET", *keys)),
    st.tuples(st.just(b"GET"), _KEYS),
)


def _flattened(parser: Parser, pieces: list[bytes]) -> list[list[bytes]]:
    found: list[list[bytes]] = []
    for piece in pieces:
        for request in parser.feed(piece):
            match request:
                case Command(arguments):
                    found.append(arguments)
                case Fetch(keys):
                    found.append([b"MGET", *keys])
                case Sets(writes):
                    for key, reply, length, stamp in writes:
                        payload = reply[-length - 2 : -2]
                        assert reply == b"$%d\r\n%b\r\n" % (length, payload)
                        extra = [] if stamp is None else [b"%d" % stamp]
                        found.append([b"SET", key, payload, *extra])
    return found


@settings(max_examples=150, deadline=None)
@given(st.lists(_REQUESTS, max_size=12), st.lists(st.integers(0, 600), max_size=12))
def test_requests_are_the_same_however_the_stream_is_cut(
    requests: list[tuple[bytes, ...]], cuts: list[int]
) -> None:
    stream = b"".join(encoded(*request) for request in requests)
    places = sorted({min(cut, len(stream)) for cut in cuts} | {0, len(stream)})
    pieces = [stream[a:b] for a, b in pairwise(places)]
    assert _flattened(Parser(), pieces) == [list(request) for request in requests]


def test_a_payload_that_looks_like_a_request_is_a_payload() -> None:
    payload = encoded("SET", "k" * 16, "x", "1") * 3
    stream = encoded("SET", "a" * 16, payload, "5") + encoded("MGET", b"$16\r\n" + b"x" * 11)
    assert _flattened(Parser(), [stream]) == [
        [b"SET", b"a" * 16, payload, b"5"],
        [b"MGET", b"$16\r\n" + b"x" * 11],
    ]


# -- pipelining --------------------------------------------------------------------------------


def test_thousands_of_requests_in_one_go_are_answered_in_order(server: ZdbServer) -> None:
    keys = [b"%016d" % number for number in range(5000)]
    with Wire(server.port) as wire:
        stream = b"".join(encoded("SET", key, key * 3, "1700000000") for key in keys)
        wire.socket.sendall(stream + encoded("DBSIZE"))
        assert [wire.read() for _ in keys] == keys
        assert wire.read() == 5000
        asked = [keys[at : at + 1000] for at in range(0, 5000, 1000)]
        wire.socket.sendall(b"".join(encoded("MGET", *batch) for batch in asked))
        for batch in asked:
            assert wire.read() == [key * 3 for key in batch]
    assert server.requests["SET"] == 5000
    assert server.requests["MGET"] == 5


def test_a_client_that_reads_late_gets_everything(server: ZdbServer) -> None:
    payload = os.urandom(1 << 20)
    with Wire(server.port) as wire, Wire(server.port) as other:
        wire.ask("SET", b"k" * 16, payload)
        wire.socket.sendall(encoded("MGET", *[b"k" * 16] * 64) * 2)
        assert other.ask("PING") == "PONG"
        assert all(found == payload for _ in range(2) for found in wire.read())


def test_pages_are_complete_and_have_no_gaps(server: ZdbServer) -> None:
    default = server.store.default
    keys = [b"%016d" % number for number in range(3500)]
    default.set_many([(key, b"x", 1) for key in keys])
    for key in keys[900:2100]:
        default.delete(key, 2)
    found: list[bytes] = []
    with Wire(server.port) as wire:
        page = wire.ask("SCAN")
        while not isinstance(page, ErrorReply):
            found += [key for key, _, _ in page[1]]
            page = wire.ask("SCAN", page[0])
    assert found == keys[:900] + keys[2100:]


def test_the_last_cursor_serves_as_tail(server: ZdbServer) -> None:
    with Wire(server.port) as wire:
        wire.ask("SET", "a", "1")
        cursor = wire.ask("SCAN")[0]
        wire.ask("DEL", "a")
        assert wire.ask("SCAN", cursor) == ErrorReply("No more data")
        wire.ask("SET", "b", "2")
        assert [key for key, _, _ in wire.ask("SCAN", cursor)[1]] == [b"b"]


# -- faults ------------------------------------------------------------------------------------


def test_replies_can_be_damaged_and_connections_reset(server: ZdbServer) -> None:
    with Wire(server.port) as wire:
        wire.ask("SET", "a", "payload")
        server.disturb = lambda data: data.replace(b"payload", b"PAYLOAD")
        assert wire.ask("GET", "a") == b"PAYLOAD"
        server.disturb = lambda _: None
        with pytest.raises((EOFError, ConnectionError)):
            wire.ask("GET", "a")
    server.disturb = None
    with Wire(server.port) as wire:
        assert wire.ask("GET", "a") == b"payload"


def test_a_hanging_server_goes_on_where_it_stopped(server: ZdbServer) -> None:
    with Wire(server.port) as wire:
        server.hang.set()
        wire.socket.sendall(encoded("PING"))
        wire.socket.settimeout(0.2)
        with pytest.raises(TimeoutError):
            wire.socket.recv(1)
        server.hang.clear()
        wire.socket.settimeout(10)
        assert wire.socket.recv(7) == b"+PONG\r\n"


def test_a_stalling_server_needs_more_bytes_to_go_on() -> None:
    server = ZdbServer(Store())
    server.stalls = True
    server.start()
    try:
        with Wire(server.port) as wire:
            exact = encoded("GET", "k" * (8192 - len(encoded("GET", "")) - 3))
            assert len(exact) == 8192
            wire.socket.sendall(exact + encoded("PING"))
            assert wire.read() == ErrorReply("Invalid key")
            wire.socket.settimeout(0.3)
            with pytest.raises(TimeoutError):
                wire.socket.recv(1)
            wire.socket.settimeout(10)
            wire.socket.sendall(encoded("TIME"))
            assert wire.socket.recv(7) == b"+PONG\r\n"
            with Wire(server.port) as other:
                assert other.ask("PING") == "PONG"
    finally:
        server.stop()


def test_all_connections_can_be_dropped(server: ZdbServer) -> None:
    with Wire(server.port) as wire:
        wire.ask("PING")
        server.drop_connections()
        with pytest.raises((EOFError, ConnectionError)):
            wire.ask("PING")


# -- on disk -----------------------------------------------------------------------------------


def test_everything_survives_kill_9(tmp_path: Path) -> None:
    chance = random.Random(7)
    expected: dict[bytes, bytes] = {}
    port = free_port()
    for _ in range(3):
        process = started(_command(port, tmp_path, "--datasize", "512K"), port, PROJECT)
        try:
            with Wire(port) as wire:
                assert wire.ask("DBSIZE") == len(expected)
                for number in range(300):
                    key = b"%016d" % chance.randint(0, 200)
                    if expected and number % 5 == 4:
                        key = chance.choice(sorted(expected))
                        assert wire.ask("DEL", key) == "OK"
                        del expected[key]
                    else:
                        expected[key] = chance.randbytes(chance.randint(0, 8000))
                        wire.ask("SET", key, expected[key])
        finally:
            ended(process)
    store = Store(Settings(data=tmp_path / "data", index=tmp_path / "index"))
    assert {key: store.default.payload(key) for key in store.default.keys()} == expected  # noqa: SIM118
    assert len(list((tmp_path / "data" / "default").glob("d*"))) > 1


def test_order_and_cursors_survive_a_restart(tmp_path: Path) -> None:
    setting = Settings(data=tmp_path / "data", index=tmp_path / "index", datasize_bytes=1 << 19)
    store = Store(setting)
    for number in range(400):
        store.put(b"%016d" % (number % 150), b"%d" % number * 500)
    store.delete(b"%016d" % 20)
    cursor = store.default.cursor_of(b"%016d" % 60)
    assert cursor is not None
    again = Store(setting)
    assert again.default.keys() == store.default.keys()
    assert again.default.page(again.default.position(cursor)) == store.default.page(
        store.default.position(cursor)
    )
    assert again.default.end == store.default.end


@pytest.mark.parametrize("cut", [1, 20, 700])
def test_a_record_that_was_cut_off_is_dropped(tmp_path: Path, cut: int) -> None:
    setting = Settings(data=tmp_path / "data", index=tmp_path / "index")
    store = Store(setting)
    store.put(b"first", b"1" * 1000)
    store.put(b"second", b"2" * 1000)
    file = tmp_path / "data" / "default" / "d0"
    os.truncate(file, file.stat().st_size - cut)
    again = Store(setting)
    assert again.default.keys() == [b"first"]
    again.put(b"third", b"3" * 1000)
    assert Store(setting).default.keys() == [b"first", b"third"]


def test_namespaces_and_their_passwords_survive(tmp_path: Path) -> None:
    port = free_port()
    process = started(_command(port, tmp_path, "--admin", "pw", "--protect"), port, PROJECT)
    try:
        with Wire(port) as wire:
            wire.ask("AUTH", "pw")
            wire.ask("NSNEW", "foreign")
            wire.ask("NSSET", "foreign", "password", "secret")
            wire.ask("SELECT", "foreign", "secret")
            wire.ask("SET", "a", "b")
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
        process = started(_command(port, tmp_path, "--admin", "pw", "--protect"), port, PROJECT)
        with Wire(port) as wire:
            assert wire.ask("NSLIST") == [b"default", b"foreign"]
            assert wire.ask("SELECT", "foreign") == "OK"
            assert wire.ask("GET", "a") == b"b"
            assert wire.ask("SET", "a", "c") == ErrorReply("Namespace is in read-only mode")
    finally:
        ended(process)


def test_bit_rot_is_found_by_check(tmp_path: Path) -> None:
    store = Store(Settings(data=tmp_path / "data", index=tmp_path / "index"))
    store.put(b"key", b"payload")
    assert store.default.intact(b"key")
    store.default.replace_payload(b"key", b"PAYLOAD")
    assert not store.default.intact(b"key")
    assert store.default.payload(b"key") == b"PAYLOAD"


def test_a_full_disk_refuses_writes_and_keeps_the_rest(tmp_path: Path) -> None:
    limit = "import resource as r, signal as s, runpy, sys; s.signal(s.SIGXFSZ, s.SIG_IGN); "
    limit += "r.setrlimit(r.RLIMIT_FSIZE, (300000, 300000)); sys.argv = sys.argv[:1] + sys.argv[2:]"
    limit += "; runpy.run_module('tests.sandbox.services.zdb', run_name='__main__')"
    port = free_port()
    flags = _command(port, tmp_path)[3:]
    process = started([sys.executable, "-c", limit, "zdb", *flags], port, PROJECT)
    try:
        with Wire(port) as wire:
            stream = b"".join(encoded("SET", b"%016d" % n, b"x" * 1000) for n in range(400))
            wire.socket.sendall(stream)
            replies = [wire.read() for _ in range(400)]
            stored = [reply for reply in replies if isinstance(reply, bytes)]
            assert set(replies) - set(stored) == {ErrorReply("Cannot write data right now")}
            assert 200 < len(stored) < 300
            assert wire.ask("DBSIZE") == len(stored)
            assert wire.ask("MGET", *stored) == [b"x" * 1000] * len(stored)
    finally:
        ended(process)


# -- command line ------------------------------------------------------------------------------


def test_a_password_may_begin_with_a_dash_or_be_an_options_name() -> None:
    for password in ("-Wf3k_", "--protect", "--admin", "-"):
        told = arguments(["--protect", "--admin", password, "--port", "1"])
        assert (told.admin, told.protect, told.port) == (password, True, 1)


@pytest.mark.parametrize(
    "flags",
    [
        ["--nonsense"],
        ["--protect"],
        ["--datasize", "1"],
        ["--datasize", "5G"],
        ["--mode", "seq"],
        ["--data", "/tmp"],
        ["--port", "x"],
    ],
)
def test_flags_that_zdbd_or_the_standin_does_not_take_are_refused(flags: list[str]) -> None:
    command = [sys.executable, "-m", "tests.sandbox.services.zdb", *flags]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, timeout=20, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith(b"[-] ")
