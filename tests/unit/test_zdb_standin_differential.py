"""The stand-in answers what a real zdbd answers. Needs one: ZDBD=/path/to/zdbd, or on PATH."""

import os
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.sandbox.host.ports import free_port
from tests.unit.zdb_wire import ErrorReply, Wire, ended, real_zdbd, started

# One in 64 of the generated ones begins so.
ADMIN = "-admin-password"
ZDBD = real_zdbd(os.environ.get("ZDBD"))
pytestmark = pytest.mark.skipif(
    ZDBD is None, reason="no real zdbd to compare with: name one with ZDBD or put it on PATH"
)
Pair = tuple[Wire, Wire]


def _flags(port: int, place: Path, *extra: str) -> list[str]:
    directories = ["--data", str(place / "data"), "--index", str(place / "index")]
    return [*directories, "--listen", "127.0.0.1", "--port", str(port), "--mode", "user", *extra]


@pytest.fixture(params=["protected", "open"])
def ports(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[int, int]]:
    extra = ["--admin", ADMIN, "--protect"] if request.param == "protected" else []
    real, ours = free_port(), free_port()
    for name in ("real", "ours"):
        (tmp_path / name).mkdir()
    standin = [sys.executable, "-m", "tests.sandbox.services.zdb"]
    processes = []
    try:
        command = [str(ZDBD), *_flags(real, tmp_path / "real", *extra)]
        processes.append(started(command, real, tmp_path))
        command = [*standin, *_flags(ours, tmp_path / "ours", *extra)]
        processes.append(started(command, ours, Path(__file__).parents[2]))
        yield real, ours
    finally:
        for process in processes:
            ended(process)


def _both(pair: Pair, *words: bytes | str | int) -> Any:
    """Ask both, compare, return the answer."""
    real, ours = (wire.ask(*words) for wire in pair)
    assert ours == real, words
    return real


def _connected(ports: tuple[int, int]) -> Pair:
    return Wire(ports[0]), Wire(ports[1])


def _enter_as_admin(pair: Pair) -> None:
    for wire in pair:
        wire.ask("AUTH", ADMIN)
        wire.ask("SELECT", "default", ADMIN)


def _listing(wire: Wire, command: str = "SCAN") -> list[tuple[bytes, int, int]]:
    found: list[tuple[bytes, int, int]] = []
    cursor: list[bytes] = []
    for _ in range(100):
        page = wire.ask(command, *cursor)
        if page == ErrorReply("No more data"):
            return found
        found += [(key, length, stamp) for key, length, stamp in page[1]]
        cursor = [page[0]]
        assert len(page[0]) == 17
        assert page[0][0] == len(found[-1][0])
    raise AssertionError("the listing does not end")


def test_same_words_for_every_wrong_request(ports: tuple[int, int]) -> None:
    pair = _connected(ports)
    wrong: list[tuple[bytes | str | int, ...]] = [
        ("PING",),
        ("NONSENSE",),
        ("GET",),
        ("GET", ""),
        ("GET", "a", "b"),
        ("GET", b"k" * 256),
        ("MGET",),
        ("MGET", "a", b"k" * 256),
        ("MGET", "a", "", "b"),
        ("EXISTS", "a"),
        ("CHECK", "a"),
        ("LENGTH", "a"),
        ("KEYTIME", "a"),
        ("KEYCUR", "a"),
        ("KEYCUR",),
        ("SCAN",),
        ("RSCAN",),
        ("SCAN", "bad"),
        ("SCAN", b"\xff" * 17),
        ("SCAN", bytes(17)),
        ("SET", "a"),
        ("SET", "a", "b", "c", "d"),
        ("SET", b"k" * 256, "v"),
        ("SET", "a", "v", "1"),
        ("DEL", "a"),
        ("DEL", "a", "1"),
        ("DEL",),
        ("DBSIZE",),
        ("NSLIST",),
        ("NSINFO", "none"),
        ("NSINFO",),
        ("NSNEW", "x"),
        ("NSNEW", "default"),
        ("NSNEW", "a/b"),
        ("NSDEL", "default"),
        ("NSDEL", "none"),
        ("NSSET", "default", "maxsize", "1"),
        ("NSSET", "none", "maxsize", "1"),
        ("NSSET", "x", "nonsense", "1"),
        ("NSSET", "x", "public", "0" * 64),
        ("SELECT",),
        ("SELECT", "none"),
        ("SELECT", "default"),
        ("SELECT", "default", "wrong"),
        ("SELECT", "default", "SECURE", "wrong"),
        ("SELECT", b"n" * 129),
        ("AUTH",),
        ("AUTH", "wrong"),
        ("AUTH", "WRONG", "x"),
        ("AUTH", "SECURE", "x"),
        ("AUTH", "a", "b", "c"),
        ("WAIT",),
        ("WAIT", "NONSENSE"),
        ("WAIT", "SET", "99"),
        ("WAIT", "SET", "9999999999999999999"),
        ("WAIT", "SET", "1800001"),
        ("DATA", "RAW", "0", "28"),
        ("DATA", "NONSENSE"),
        ("FLUSH",),
        ("STOP",),
        ("*",),
    ]
    for request in wrong:
        _both(pair, *request)


def test_same_rights_before_and_after_authentication(ports: tuple[int, int]) -> None:
    pair = _connected(ports)
    for password in ("", ADMIN):
        if password:
            _both(pair, "AUTH", password)
        _both(pair, "SET", "key", "value")
        _both(pair, "SET", "key", "value", "1700000000")
        _both(pair, "DEL", "key")
        _both(pair, "NSNEW", f"space{len(password)}")
        _both(pair, "SELECT", "default")
        _both(pair, "SET", "other", "value")
        _both(pair, "SELECT", "default", ADMIN)
        _both(pair, "SET", "third", "value")


def test_same_namespaces(ports: tuple[int, int]) -> None:
    pair = _connected(ports)
    _enter_as_admin(pair)
    for request in (
        ("NSNEW", "space"),
        ("NSNEW", "space"),
        ("NSLIST",),
        ("NSSET", "space", "password", "secret"),
        ("NSSET", "space", "maxsize", "20"),
        ("SELECT", "space"),
        ("SET", "a", "b"),
        ("SELECT", "space", "wrong"),
        ("SELECT", "space", "secret"),
        ("SET", "a", "0123456789"),
        ("SET", "b", "01234567890123456789"),
        ("SET", "a", "01234567890123456789"),
        ("DBSIZE",),
        ("NSSET", "space", "worm", "1"),
        ("SET", "a", "x"),
        ("DEL", "a"),
        ("NSSET", "space", "worm", "0"),
        ("NSSET", "space", "public", "0"),
        ("NSDEL", "space"),
        ("DBSIZE",),
        ("GET", "a"),
        ("SELECT", "default"),
        ("SELECT", "space"),
        ("NSSET", "space", "lock", "1"),
        ("SELECT", "space", "secret"),
        ("SET", "a", "x"),
        ("DEL", "a"),
        ("GET", "a"),
        ("NSSET", "space", "freeze", "1"),
        ("GET", "a"),
        ("MGET", "a"),
        ("SCAN",),
        ("SET", "a", "x"),
        ("NSSET", "space", "freeze", "0"),
        ("SELECT", "default"),
        ("NSDEL", "space"),
        ("SELECT", "space"),
        ("NSLIST",),
    ):
        _both(pair, *request)


def test_a_removed_namespace_ends_its_clients(ports: tuple[int, int]) -> None:
    admins, users = _connected(ports), _connected(ports)
    _enter_as_admin(admins)
    _both(admins, "NSNEW", "space")
    _both(users, "SELECT", "space")
    _both(admins, "NSDEL", "space")
    _both(users, "DBSIZE")
    for wire in users:
        with pytest.raises((EOFError, ConnectionError)):
            wire.ask("PING")


def _random_writes(pair: Pair, chance: random.Random, count: int) -> None:
    keys = [bytes([n]) * chance.choice((1, 16, 255)) for n in range(1, 41)]
    for _ in range(count):
        key = chance.choice(keys)
        if chance.random() < 0.25:
            _both(pair, "DEL", key, chance.randint(1, 2**31))
            continue
        payload = chance.randbytes(chance.choice((0, 1, 7, 5000))) * chance.choice((0, 1))
        _both(pair, "SET", key, payload, chance.randint(1, 2**31))


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_same_order_whatever_is_written(ports: tuple[int, int], seed: int) -> None:
    pair = _connected(ports)
    _enter_as_admin(pair)
    chance = random.Random(seed)
    for _ in range(5):
        _random_writes(pair, chance, 60)
        real, ours = (_listing(wire) for wire in pair)
        assert ours == real
        assert [_listing(wire, "RSCAN") for wire in pair] == [real[::-1]] * 2
        _both(pair, "DBSIZE")
        keys = [key for key, _, _ in real] + [b"absent"]
        _both(pair, "MGET", *keys)
        for key in keys:
            for command in ("GET", "EXISTS", "CHECK", "LENGTH", "KEYTIME"):
                _both(pair, command, key)


def test_same_cursors_after_their_keys_are_gone(ports: tuple[int, int]) -> None:
    pair = _connected(ports)
    _enter_as_admin(pair)
    for number in range(30):
        _both(pair, "SET", f"{number:016}", "payload", 1700000000 + number)
    cursors = [wire.ask("KEYCUR", f"{12:016}") for wire in pair]
    for real, ours in [cursors]:
        assert ours[:13] == real[:13]  # key length, file, payload length, offset: zdbd's own
    for number in (12, 13, 14, 29):
        _both(pair, "DEL", f"{number:016}", 1)
    _both(pair, "SET", f"{15:016}", "other", 2)
    pages = [w.ask("SCAN", c)[1] for w, c in zip(pair, cursors, strict=True)]
    assert pages[1] == pages[0]
    assert pages[0][0][0] == b"%016d" % 16
    assert pages[0][-1][0] == b"%016d" % 15
    backward = [w.ask("RSCAN", c)[1] for w, c in zip(pair, cursors, strict=True)]
    assert backward[1] == backward[0]


def test_same_raw_data(ports: tuple[int, int]) -> None:
    pair = _connected(ports)
    _enter_as_admin(pair)
    for number in range(3):
        _both(pair, "SET", f"key{number}", f"payload {number}", 1700000000)
    _both(pair, "SET", "void", "", 1700000000)
    _both(pair, "DEL", "key1", 1700000001)
    for file, offset in ((0, 28), (0, 59), (0, 90), (0, 121), (0, 143), (0, 165), (0, 9999)):
        _both(pair, "DATA", "RAW", file, offset)
    _both(pair, "DATA", "RAW", 7, 28)


def test_same_namespace_description(ports: tuple[int, int]) -> None:
    pair = _connected(ports)
    _enter_as_admin(pair)
    for number in range(5):
        _both(pair, "SET", f"{number}", "payload", 1)
    real, ours = (
        dict(
            line.split(": ", 1) for line in wire.ask("NSINFO", "default").decode().split("\n")[1:-1]
        )
        for wire in pair
    )
    assert set(real) - set(ours) <= {"data_active", "index_active"}
    same = {"name", "entries", "public", "worm", "locked", "password", "mode", "data_limits_bytes"}
    same |= {"data_size_bytes", "data_size_mb", "data_current_id", "data_current_offset"}
    assert {name: ours[name] for name in same} == {name: real[name] for name in same}


def test_same_wait(ports: tuple[int, int]) -> None:
    waiting, writing = _connected(ports), _connected(ports)
    _enter_as_admin(writing)
    for watched, request, woken in (
        ("SET", ("SET", "a", "b"), "SET"),
        ("*", ("GET", "a"), "GET"),
        ("DEL", ("DEL", "a"), "DEL"),
    ):
        for waiter, writer in zip(waiting, writing, strict=True):
            waiter.socket.sendall(
                b"*3\r\n$4\r\nWAIT\r\n$%d\r\n%b\r\n$4\r\n9000\r\n"
                % (len(watched), watched.encode())
            )
            waiter_is_registered = waiter.ask("PING")
            assert waiter_is_registered == "PONG"
            writer.ask(*request)
            assert waiter.read() == woken
    for waiter in waiting:
        assert waiter.ask("WAIT", "SET", "100") == ErrorReply("Timeout")


def test_same_answers_to_broken_frames(ports: tuple[int, int]) -> None:
    for frame, stays in (
        (b"PING\r\n", False),
        (b"*0\r\n", True),
        (b"*1025\r\n", True),
        (b"*1\r\n:4\r\n", True),
        (b"*2\r\n$3\r\nGET\r\n$8388609\r\n", False),
    ):
        pair = _connected(ports)
        answers = [wire.raw(frame) for wire in pair]
        assert answers[1] == answers[0], frame
        if not stays:
            for wire in pair:
                with pytest.raises((EOFError, ConnectionError)):
                    wire.ask("PING")
