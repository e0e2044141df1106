"""How the copy loop's connections send, wait and take turns, each against a real socket."""

import contextlib
import select
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from typing_extensions import override

from sync.agent.chunks.copying.batches import Batch, cut
from sync.agent.chunks.copying.channel import Channel, Connected, connect
from sync.agent.chunks.copying.fetcher import Buffers, Fetched, Fetcher
from sync.agent.chunks.copying.writer import LOOK_SECONDS, Writer
from sync.agent.chunks.scan.spans import Edge, Page
from sync.agent.zdb.transport import NUDGE_SECONDS
from sync.contract.spec import ZdbEndpoint
from tests.agent.chunks.chunks_mirror import chunks, following, key_of, running
from tests.agent.chunks.scripted_zdb import ScriptedZdb, bulk
from tests.sandbox.wan import Link, Relay


class Sender(Channel):
    """A channel over a connected socket that only sends."""

    @override
    def awaiting(self) -> bool:
        return True


def tcp_pair(receive_buffer_bytes: int) -> tuple[socket.socket, socket.socket]:
    """Return both ends of a TCP connection; the second's receive buffer is of that size."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
        ours = socket.create_connection(listener.getsockname(), 5)
        theirs, _ = listener.accept()
    return ours, theirs


@contextlib.contextmanager
def connected(receive_buffer_bytes: int) -> Iterator[tuple[Sender, socket.socket]]:
    """Provide a sender and the other end of its TCP connection."""
    ours, theirs = tcp_pair(receive_buffer_bytes)
    ours.setblocking(False)
    sender = Sender(Connected(ours, "slave", 5.0))
    with theirs, contextlib.closing(sender):
        theirs.settimeout(5)
        yield sender, theirs


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(0, 5000), max_size=600), st.sampled_from([4 << 10, 64 << 10, 1 << 20]))
def test_pieces_arrive_in_order_whatever_their_sizes_and_the_window(
    sizes: list[int], receive_buffer_bytes: int
) -> None:
    pieces = [bytes([number % 251]) * size for number, size in enumerate(sizes)]
    wanted = b"".join(pieces)
    with connected(receive_buffer_bytes) as (sender, theirs):
        received = bytearray()
        sender.send(*pieces)
        deadline = time.monotonic() + 20
        while len(received) < len(wanted):
            assert time.monotonic() < deadline, f"{len(received)} of {len(wanted)} bytes"
            if select.select([theirs], [], [], 0.001)[0]:
                received += theirs.recv(1 << 16)
            sender.on_writable()
        assert received == wanted
        assert sender.outgoing_bytes == 0
        assert not sender.outgoing


def test_a_request_of_nothing_sends_nothing() -> None:
    with connected(64 << 10) as (sender, theirs):
        sender.send(b"", memoryview(b""))
        assert not sender.outgoing
        sender.send(b"x")
        assert theirs.recv(10) == b"x"


def replies(batches: list[Batch], payloads: dict[bytes, bytes]) -> bytes:
    """Encode what a master answers to these MGETs."""
    return b"".join(
        b"*%d\r\n%b"
        % (len(batch.entries), b"".join(bulk(payloads[entry[0]]) for entry in batch.entries))
        for batch in batches
    )


def test_one_batch_is_read_at_a_time() -> None:
    payloads = {key_of(bytes([number])): bytes([number]) for number in range(6)}
    entries = [(key, b"1", b"1") for key in payloads]
    batches = cut(Page(Edge(), entries), entries, 2, 1 << 20)
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    delivered: list[Fetched] = []
    fetcher = Fetcher(Connected(ours, "master", 1.0), delivered.append, Buffers())
    with ours, theirs:
        for batch in batches:
            fetcher.expect(batch)
        theirs.sendall(replies(batches, payloads))
        for turn in range(1, 4):
            fetcher.on_readable()
            assert len(delivered) == turn


def test_a_buffer_is_used_again_only_once_it_was_given_back() -> None:
    buffers = Buffers()
    first = buffers.take(1 << 20)
    second = buffers.take(1 << 20)
    assert first is not second
    buffers.give(first)
    assert buffers.take((1 << 20) - 7) is first
    assert buffers.take((1 << 20) - 7) is not second


def test_buffers_of_other_sizes_do_not_keep_one_from_being_used_again() -> None:
    buffers = Buffers()
    for size in range(1 << 16, 1 << 20, 1 << 14):
        buffers.give(buffers.take(size))
    largest = buffers.take(1 << 20)
    buffers.give(largest)
    assert buffers.take((1 << 20) - 1) is largest


def test_the_memory_of_buffers_is_bounded() -> None:
    buffers = Buffers()
    given_back = [bytearray(1 << 16) for _ in range(100)]
    for buffer in given_back:
        buffers.give(buffer)
    huge = bytearray(64 << 20)
    buffers.give(huge)
    taken = [buffers.take(1) for _ in range(100)]
    kept = [buffer for buffer in taken if any(buffer is one for one in given_back)]
    assert len(kept) < 20
    assert not any(buffer is huge for buffer in taken)


def test_the_memory_of_buffers_of_all_sizes_together_is_bounded() -> None:
    buffers = Buffers()
    sizes = [1 << power for power in range(16, 23)]
    given_back = [bytearray(size) for size in sizes for _ in range(20)]
    for buffer in reversed(given_back):
        buffers.give(buffer)
    taken = [buffers.take(size) for size in sizes for _ in range(20)]
    kept = [buffer for buffer in taken if any(buffer is one for one in given_back)]
    assert sum(map(len, kept)) <= 32 << 20


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 128 << 20))
def test_a_buffer_of_any_size_is_large_enough_and_hardly_larger(least_bytes: int) -> None:
    size = len(Buffers().take(least_bytes))
    assert least_bytes <= size < least_bytes + max(64 << 10, min(least_bytes, 4 << 20))


def test_large_chunks_are_sent_from_where_they_were_received_and_stay_whole(
    tmp_path: Path,
) -> None:
    """Hundreds of batches share a few buffers, none of which changes before it is sent."""
    with running(tmp_path, stand_in=True) as mirror:
        with mirror.master.connect() as master:
            master.set_many(chunks(1500, 3, 20_000))
        with mirror.job(batch_bytes=200_000) as job:
            job.wait(following)
        assert mirror.same()


def test_a_writer_wakes_once_a_batch_is_answered_but_takes_shorter_answers_too() -> None:
    """Each SET is answered by itself: the key, or nil where the payload was there already."""
    payloads = {key_of(bytes([number])): bytes([number]) for number in range(100)}
    entries = [(key, b"1", b"1") for key in payloads]
    (batch,) = cut(Page(Edge(), entries), entries, 100, 1 << 20)
    answer = b"".join(bulk(key) for key in payloads)
    stored: list[int] = []
    ours, theirs = tcp_pair(1 << 20)
    ours.setblocking(False)
    writer = Writer(Connected(ours, "slave", 5.0), lambda _, items, __: stored.append(items))

    def readable() -> bool:
        return bool(select.select([ours], [], [], 0.1)[0])

    with ours, theirs:
        for known, reply in ((0, answer), (100, b"$-1\r\n" * 100)):
            fetched = Fetched(batch)
            fetched.keys = list(payloads)
            writer.store(fetched)
            theirs.sendall(reply[:-1])
            assert not readable()
            theirs.sendall(reply[-1:])
            assert readable() == (known == 0)
            writer.heard_at = time.monotonic() - 2 * LOOK_SECONDS
            writer.look()
            assert stored.pop() == 100 - known
        assert not writer.awaiting()
        writer.store(fetched)
        theirs.close()
        assert readable(), "whatever it waits for, it wakes when the connection ends"


def nudge_seconds(endpoint: ZdbEndpoint) -> float:
    """Open a connection and return after what silence it would be nudged."""
    connected = connect("slave", endpoint, None, 5)
    connected.socket.close()
    return connected.nudge_seconds


def test_a_near_server_is_nudged_sooner_than_a_far_one() -> None:
    with ScriptedZdb(lambda _: None) as server:
        # The quickest of some: a busy machine makes any server look far.
        near = min(nudge_seconds(server.endpoint) for _ in range(20))
        with Relay((server.endpoint.host, server.endpoint.port), Link(0.2)) as relay:
            host, port = relay.address
            far = nudge_seconds(server.endpoint.model_copy(update={"host": host, "port": port}))
    assert near < far == NUDGE_SECONDS
