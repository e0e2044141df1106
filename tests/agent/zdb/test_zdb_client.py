"""The 0-db client: what a server may do to it, and that it works against one."""

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sync.agent.zdb import protocol
from sync.agent.zdb.connection import ZdbConnection
from sync.agent.zdb.errors import (
    ZdbAuthError,
    ZdbConnectionError,
    ZdbError,
    ZdbProtocolError,
    ZdbReplyError,
    ZdbTimeoutError,
)
from sync.agent.zdb.protocol import NeedMoreBytes, ReplyParser, encode, parse_reply
from sync.agent.zdb.scan_pages import Cursor, parse_page
from sync.contract.spec import ZdbEndpoint
from tests.agent.chunks.chunks_mirror import chunks
from tests.agent.chunks.scripted_zdb import ScriptedZdb, bulk, page
from tests.bench.servers import ZdbProcess
from tests.sandbox.host.ports import free_port

CURSOR = bytes(range(17))


@pytest.mark.parametrize(
    ("reply", "says"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "not a 0-db"),
        (b"\x16\x03\x01\x02\x00\x01\r\n", "not a 0-db"),
        (b"$-7\r\n", "negative"),
        (b"$8388609\r\n", "limit"),
        (b"$99999999999999999999\r\n", "limit"),
        (b"$12x\r\n", "no number"),
        (b"*-2\r\n", "negative"),
        (b"*65537\r\n", "limit"),
        (b"*1\r\n*1\r\n*1\r\n*1\r\n*1\r\n", "nested"),
        (b"$3\r\nabcdef\r\n", "does not end"),
        (b"+" + b"x" * 5000, "line of more than"),
        (b":12a\r\n", "no number"),
    ],
)
def test_replies_that_are_no_0_dbs_are_named_and_end_the_connection(
    reply: bytes, says: str
) -> None:
    with (
        ScriptedZdb(lambda request: reply if request[0] == b"GET" else None) as server,
        ZdbConnection.open(server.endpoint) as connection,
    ):
        with pytest.raises(ZdbProtocolError, match=says):
            connection.call(b"GET", b"key")
        with pytest.raises(ZdbConnectionError):
            connection.call(b"PING")


def test_a_reply_larger_than_its_limit_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    many = b"*3\r\n" + bulk(b"x" * 400) * 3
    monkeypatch.setattr(protocol, "_REPLY_BYTES", 1000)
    with (
        ScriptedZdb(lambda request: many if request[0] == b"MGET" else None) as server,
        ZdbConnection.open(server.endpoint) as connection,
        pytest.raises(ZdbProtocolError, match="fewer keys"),
    ):
        connection.mget([b"a", b"b", b"c"])


def test_a_reply_that_never_ends_is_given_up() -> None:
    """Bytes that trickle in are no reason to wait for ever."""

    def trickle(request: list[bytes]) -> bytes | None:
        if request[0] == b"PING":
            return b"x"
        return b"$100000\r\n" if request[0] == b"GET" else None

    with (
        ScriptedZdb(trickle) as server,
        ZdbConnection.open(server.endpoint, None, 0.5) as connection,
        pytest.raises(ZdbTimeoutError),
    ):
        connection.call(b"GET", b"key")


def test_a_silent_server_is_nudged_once_and_its_pong_swallowed() -> None:
    asked: list[bytes] = []

    def stall(request: list[bytes]) -> bytes | None:
        if request[0] == b"GET":
            asked.append(request[1])
            return b""
        if request[0] == b"PING":
            answers = b"".join(bulk(key) for key in asked)
            asked.clear()
            return answers + b"+PONG\r\n"
        return None

    with ScriptedZdb(stall) as server, ZdbConnection.open(server.endpoint) as connection:
        assert connection.call(b"GET", b"one") == b"one"
        assert connection.call(b"GET", b"two") == b"two"


def test_a_page_is_read_whole_though_the_pong_of_a_nudge_comes_with_it() -> None:
    listed = page(CURSOR, (bytes(16), 5, 1), (b"name", 0, -1))

    def stall(request: list[bytes]) -> bytes | None:
        if request[0] == b"PING":
            return listed + b"+PONG\r\n"
        return b"" if request == [b"SCAN"] else None

    with ScriptedZdb(stall) as server, ZdbConnection.open(server.endpoint) as connection:
        entries = [(bytes(16), b"5", b"1"), (b"name", b"0", b"-1")]
        assert connection.scan() == (Cursor(CURSOR), entries)
        assert connection.scan(Cursor(CURSOR)) is None


def test_a_namespace_whose_cursor_does_not_advance_is_given_up() -> None:
    listed = page(CURSOR, (bytes(16), 5, 1))
    with (
        ScriptedZdb(lambda request: listed if request[0] == b"SCAN" else None) as server,
        ZdbConnection.open(server.endpoint) as connection,
        pytest.raises(ZdbProtocolError, match="does not advance"),
    ):
        list(connection.pages())


def test_a_closed_connection_and_a_refused_one_say_where() -> None:
    endpoint = ZdbEndpoint(host="127.0.0.1", port=free_port())
    with pytest.raises(ZdbConnectionError, match=str(endpoint.port)):
        ZdbConnection.open(endpoint)


def test_password_and_namespace_are_named_when_refused(tmp_path: Path) -> None:
    with ZdbProcess(tmp_path, admin="right") as server:
        with pytest.raises(ZdbAuthError, match="password"):
            ZdbConnection.open(server.endpoint, "wrong")
        missing = server.endpoint.model_copy(update={"namespace": "nowhere"})
        with pytest.raises(ZdbAuthError, match="nowhere"):
            ZdbConnection.open(missing, "right")
        with ZdbConnection.open(server.endpoint) as reader, pytest.raises(ZdbReplyError):
            reader.set_many([(b"key", b"payload", None)])


def test_a_namespace_is_written_listed_and_read_in_both_directions(tmp_path: Path) -> None:
    made = chunks(4000, 1)
    with ZdbProcess(tmp_path, admin="right") as server, server.connect() as connection:
        assert all(connection.set_many(made))
        assert not any(connection.set_many(made[:10]))
        keys = [key for key, _, _ in made]
        assert connection.mget([*keys, b"missing"]) == [*(p for _, p, _ in made), None]
        assert connection.exists([keys[0], b"missing"]) == [True, False]
        asked = [key for pair in zip(keys, chunks_missing(len(keys)), strict=True) for key in pair]
        assert connection.exists([b"k" * 255, *asked]) == [False, *([True, False] * len(keys))]
        assert connection.exists([]) == []
        up, down = _listed(connection, backwards=False), _listed(connection, backwards=True)
        assert up == [(key, len(payload), at) for key, payload, at in made]
        assert down == up[::-1]
        assert connection.delete_many([keys[3], b"missing"]) == [True, False]
        assert connection.nsinfo().entries == len(made) - 1


def chunks_missing(count: int) -> list[bytes]:
    return [b"missing %d" % number for number in range(count)]


@pytest.mark.parametrize("piece", [1, 3, 4, 100])
def test_flags_are_parsed_together_and_anything_else_one_by_one(piece: int) -> None:
    flags = b":1\r\n:0\r\n:1\r\n"
    for wire, expected in (
        (flags, [1, 0, 1]),
        (b":1\r\n-Invalid key\r\n:0\r\n", [1, "Invalid key", 0]),
        (b":1\r\n:12\r\n$2\r\n:0\r\n", [1, 12, b":0"]),
    ):
        pieces = iter([wire[at : at + piece] for at in range(0, len(wire), piece)])
        parser = ReplyParser(pieces.__next__)
        found = parser.replies(3)
        shown = [reply.reason if isinstance(reply, ZdbReplyError) else reply for reply in found]
        assert shown == expected
        assert parser.buffered_bytes == 0


def _listed(connection: ZdbConnection, *, backwards: bool) -> list[tuple[bytes, int, int]]:
    found: list[tuple[bytes, int, int]] = []
    cursor: Cursor | None = None
    while listed := connection.scan(cursor, backwards=backwards):
        found += [(key, int(length), int(at)) for key, length, at in listed.entries]
        cursor = listed.cursor
    return found


def test_a_foreign_namespace_is_public_to_read_and_protected_to_write(tmp_path: Path) -> None:
    with ZdbProcess(tmp_path, admin="right") as server:
        foreign = server.endpoint.model_copy(update={"namespace": "foreign"})
        with server.connect() as connection:
            assert connection.namespace_create("foreign")
            assert not connection.namespace_create("foreign")
            connection.namespace_protect("foreign", "right")
            with pytest.raises(ZdbError, match="63"):
                connection.namespace_protect("foreign", "x" * 64)
        with ZdbConnection.open(foreign, "right") as writer:
            writer.set_many([(b"key", b"payload", None)])
        with ZdbConnection.open(foreign) as reader:
            assert reader.call(b"GET", b"key") == b"payload"
            with pytest.raises(ZdbReplyError):
                reader.delete_many([b"key"])


def test_wait_wakes_on_a_write_and_returns_false_at_a_time_out(tmp_path: Path) -> None:
    with ZdbProcess(tmp_path, admin="right") as server, server.connect() as connection:
        assert not connection.wait_for("SET", 0.1)


def test_what_0_db_can_not_store_is_refused_before_it_is_sent(tmp_path: Path) -> None:
    with ZdbProcess(tmp_path, admin="right") as server, server.connect() as connection:
        with pytest.raises(ZdbError, match="255"):
            connection.set_many([(b"k" * 256, b"", None)])
        with pytest.raises(ZdbError, match="8388608"):
            connection.set_many([(b"k", bytes((8 << 20) + 1), None)])
        assert connection.set_many([(b"k" * 255, bytes(8 << 20), None)]) == [True]


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(
            st.binary(min_size=16, max_size=16) | st.binary(min_size=1, max_size=40),
            st.integers(0, 1 << 22),
            st.integers(0, 1 << 31),
        ),
        min_size=1,
        max_size=30,
    ),
    st.data(),
)
def test_pages_are_parsed_alike_whole_and_in_pieces(
    entries: list[tuple[bytes, int, int]], data: st.DataObject
) -> None:
    encoded = page(CURSOR, *entries)
    expected = [(key, b"%d" % size, b"%d" % at) for key, size, at in entries]
    assert parse_page(bytearray(encoded)) == (Cursor(CURSOR), expected)
    cut = data.draw(st.integers(0, len(encoded) - 1))
    with pytest.raises(NeedMoreBytes):
        parse_page(bytearray(encoded[:cut]))


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_garbage_never_does_anything_but_wait_or_refuse(noise: bytes) -> None:
    for parse in (lambda: parse_page(bytearray(noise)), lambda: parse_reply(noise)):
        try:
            parse()
        except (NeedMoreBytes, ZdbError):
            continue


@settings(deadline=None)
@given(st.lists(st.binary(max_size=50), min_size=1, max_size=20))
def test_requests_are_read_back_as_they_were_encoded(arguments: list[bytes]) -> None:
    assert parse_reply(encode(*arguments)) == (arguments, len(encode(*arguments)))


def test_a_cursor_has_its_position_and_survives_hex() -> None:
    file_id, offset = (3).to_bytes(4, "little"), (29).to_bytes(4, "little")
    cursor = Cursor(b"\x10" + file_id + os.urandom(4) + offset + os.urandom(4))
    assert cursor.position == (3, 29)
    assert Cursor.from_hex(cursor.hex) == cursor
    with pytest.raises(ZdbProtocolError):
        Cursor(b"short")


def test_a_page_of_one_chunk_and_many_short_names_is_whole() -> None:
    entries = [(bytes(16), 5, 1), *[(b"%d" % number, 0, 0) for number in range(9)]]
    answer = parse_page(bytearray(page(CURSOR, *entries)))
    assert answer is not None
    assert [entry[0] for entry in answer[1]] == [entry[0] for entry in entries]


def test_a_page_with_more_entries_than_it_says_is_refused() -> None:
    encoded = page(CURSOR, (bytes(16), 5, 1), (bytes(16), 5, 1)).replace(b"*2\r\n*3", b"*1\r\n*3")
    with pytest.raises(ZdbProtocolError):
        parse_page(bytearray(encoded))
