"""What a 0-db's replies cost here is bounded while they are parsed, whatever they are made of."""

import tracemalloc
from collections.abc import Callable

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from sync.agent.zdb.connection import ZdbConnection
from sync.agent.zdb.errors import ZdbProtocolError, ZdbReplyError
from sync.agent.zdb.protocol import NeedMoreBytes, Reply, ReplyParser, Status, parse_reply
from tests.agent.chunks.scripted_zdb import ScriptedZdb, bulk

MIB = 1 << 20
# 65,536 elements in an array are the most that are parsed; arrays of them lie in one another.
FULL = b"*65536\r\n"
TINY = {
    "empty arrays": b"*0\r\n",
    "empty payloads": b"$0\r\n\r\n",
    "nils": b"$-1\r\n",
    "nil arrays": b"*-1\r\n",
    "small numbers": b":1\r\n",
    "large numbers": b":9000000000000000000\r\n",
    "empty words": b"+\r\n",
    "empty errors": b"-\r\n",
    "payloads of a byte": b"$1\r\nk\r\n",
    "arrays of one": b"*1\r\n:1\r\n",
}
ASK: dict[bytes, Callable[[ZdbConnection], object]] = {
    b"SCAN": lambda connection: connection.scan(),
    b"RSCAN": lambda connection: connection.newest_cursor(),
    b"NSINFO": lambda connection: connection.nsinfo(),
    b"INFO": lambda connection: connection.info(),
    b"NSLIST": lambda connection: connection.namespaces(),
    b"LENGTH": lambda connection: connection.lengths([b"k"] * 100),
    b"EXISTS": lambda connection: connection.exists([b"k"] * 100),
    b"MGET": lambda connection: connection.mget([b"k"] * 100, 1 << 20),
    b"WAIT": lambda connection: connection.wait_for("SET", 0.1),
}


def flood(element: bytes, wire_bytes: int = 29 * MIB) -> bytes:
    """Return an array of arrays of such elements, so long in all."""
    rows = max(1, wire_bytes // (len(FULL) + 65_536 * len(element)))
    return b"*%d\r\n" % rows + rows * (FULL + 65_536 * element)


@pytest.mark.parametrize("element", TINY.values(), ids=TINY)
def test_many_tiny_objects_are_refused_before_they_fill_the_memory(element: bytes) -> None:
    wire = flood(element)
    pieces = iter([wire[at : at + 256 * 1024] for at in range(0, len(wire), 256 * 1024)])
    parser = ReplyParser(pieces.__next__, 2 * MIB)
    tracemalloc.start()
    try:
        with pytest.raises(ZdbProtocolError, match="passes the limit of 2097152 bytes"):
            parser.reply()
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4 * MIB


@pytest.mark.parametrize("command", ASK, ids=bytes.decode)
def test_no_command_takes_more_than_its_answer_may_cost(command: bytes) -> None:
    wire = flood(TINY["empty errors"], 6 * MIB)
    with (
        ScriptedZdb(lambda request: wire if request[0] == command else None) as server,
        ZdbConnection.open(server.endpoint) as connection,
    ):
        with pytest.raises(ZdbProtocolError) as refused:
            ASK[command](connection)
        assert refused.value.at == server.endpoint.address


def test_lines_of_a_namespace_that_are_too_many_are_no_answer() -> None:
    wire = bulk(b"a: b\n" * 100_000)
    with (
        ScriptedZdb(lambda request: wire if request[0] == b"NSINFO" else None) as server,
        ZdbConnection.open(server.endpoint) as connection,
        pytest.raises(ZdbProtocolError, match="passes the limit"),
    ):
        connection.nsinfo()


@pytest.mark.parametrize("length", [b":-1\r\n", b":8388609\r\n", b":9223372036854775807\r\n"])
def test_a_key_of_a_length_that_no_0_db_has_cannot_be_had(length: bytes) -> None:
    with (
        ScriptedZdb(lambda request: length if request[0] == b"LENGTH" else None) as server,
        ZdbConnection.open(server.endpoint) as connection,
    ):
        assert connection.lengths([b"key"]) == [None]


@pytest.mark.parametrize("length", [b"+OK\r\n", bulk(b"5"), b"*0\r\n"])
def test_a_length_that_is_no_number_is_no_answer(length: bytes) -> None:
    with (
        ScriptedZdb(lambda request: length if request[0] == b"LENGTH" else None) as server,
        ZdbConnection.open(server.endpoint) as connection,
        pytest.raises(ZdbProtocolError, match="LENGTH"),
    ):
        connection.lengths([b"key"])


def test_payloads_that_are_longer_than_asked_for_are_refused() -> None:
    wire = b"*2\r\n" + bulk(bytes(MIB)) * 2
    with ScriptedZdb(lambda request: wire if request[0] == b"MGET" else None) as server:
        with ZdbConnection.open(server.endpoint) as connection:
            assert connection.mget([b"a", b"b"], 2 * MIB) == [bytes(MIB)] * 2
        with (
            ZdbConnection.open(server.endpoint) as connection,
            pytest.raises(ZdbProtocolError, match="fewer keys"),
        ):
            connection.mget([b"a", b"b"], MIB)


def encoded(reply: object) -> bytes:
    """Encode a reply as a server does."""
    match reply:
        case None:
            return b"$-1\r\n"
        case bool() | int():
            return b":%d\r\n" % reply
        case str():
            return b"+%b\r\n" % reply.encode()
        case bytes():
            return bulk(reply)
        case ("error", str(text)):
            return b"-%b\r\n" % text.encode()
        case list():
            return b"*%d\r\n" % len(reply) + b"".join(map(encoded, reply))
    raise TypeError(reply)


def shown(reply: Reply) -> object:
    """Return a parsed reply as `encoded` takes it."""
    match reply:
        case Status():
            return str(reply)
        case ZdbReplyError():
            return ("error", reply.reason)
        case list():
            return [shown(item) for item in reply]
    return reply


TEXT = st.text("abc XYZ-+$", max_size=80)
SCALAR = (
    st.none()
    | st.integers(-(1 << 62), 1 << 62)
    | TEXT
    | st.binary(max_size=300)
    | TEXT.map(lambda text: ("error", text))
)
ARRAY = st.lists(SCALAR, max_size=20)
REPLY = SCALAR | st.lists(SCALAR | ARRAY | st.lists(ARRAY, max_size=4), max_size=8)


@settings(deadline=None)
@given(REPLY, st.integers(1, 40))
@example([[[1]], [], [[]]], 1)
def test_a_reply_is_the_same_however_it_comes(reply: object, piece: int) -> None:
    wire = encoded(reply)
    arrived: list[bytes] = []

    def receive() -> bytes:
        if not arrived:
            raise NeedMoreBytes
        return arrived.pop()

    parser = ReplyParser(receive)
    found: list[Reply] = []
    for at in range(0, len(wire), piece):
        assert not found, "a reply ended before its end"
        arrived.append(wire[at : at + piece])
        try:
            found.append(parser.reply())
        except NeedMoreBytes:
            continue
    assert [shown(one) for one in found] == [reply]
    assert parser.buffered_bytes == 0


@settings(deadline=None, max_examples=200)
@given(st.lists(REPLY, min_size=1, max_size=30))
def test_what_a_reply_is_said_to_cost_is_what_it_costs_at_least(replies: list[object]) -> None:
    wire = encoded([encoded(reply) and reply for reply in replies if not _deep(reply)])
    # Other threads of this process may allocate meanwhile, but not each time.
    costs, said = zip(*(_parsed(wire) for _ in range(3)), strict=True)
    assert min(costs) <= said[0] + 1024


def _parsed(wire: bytes) -> tuple[int, int]:
    """Return what a reply costs in memory, and what it is said to cost, in bytes."""
    parser = ReplyParser(iter([wire]).__next__)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        kept = parser.reply()
        cost = tracemalloc.get_traced_memory()[0] - before - len(wire)
    finally:
        tracemalloc.stop()
    assert kept is not None
    return cost, parser.held_bytes


def _deep(reply: object) -> bool:
    """Return whether a reply is as deep as one may be."""
    return isinstance(reply, list) and any(
        isinstance(row, list) and any(isinstance(item, list) for item in row) for row in reply
    )


def test_a_reply_of_the_largest_payload_and_one_byte_more() -> None:
    largest = bulk(bytes(8 * MIB))
    assert parse_reply(largest)[0] == bytes(8 * MIB)
    with pytest.raises(ZdbProtocolError, match="limit"):
        parse_reply(b"$8388609\r\n")
