"""What the replies of a master hold of the memory: never more than their share of it."""

import contextlib
import socket
import threading
import tracemalloc
from collections.abc import Callable

import pytest

from sync.agent.budget import Budget, OverBudgetError
from sync.agent.chunks.copying.batches import cut
from sync.agent.chunks.copying.channel import Connected
from sync.agent.chunks.copying.fetcher import Buffers, Fetched, Fetcher
from sync.agent.chunks.memory import SessionMemory
from sync.agent.chunks.scan.spans import Edge, Page
from sync.agent.zdb.errors import ZdbProtocolError
from sync.agent.zdb.scan_pages import Entry
from tests.agent.chunks.chunks_mirror import key_of
from tests.agent.chunks.scripted_zdb import bulk

MIB = 1 << 20
LARGEST = 8 * MIB


def memory(size_bytes: int) -> SessionMemory:
    return SessionMemory(Budget(size_bytes, "limits.flists.memoryMb"), MIB)


def fetch(
    listed: list[Entry],
    payloads: list[bytes],
    room: SessionMemory,
    deliver: Callable[[Fetched], None],
) -> Fetcher:
    """Fetch one batch of what is listed, where these payloads come."""
    ours, theirs = socket.socketpair()
    fetcher = Fetcher(Connected(ours, "master", 5.0), deliver, Buffers(room))
    (batch,) = cut(Page(Edge(), listed), listed, len(listed), 1 << 30)
    fetcher.expect(batch)

    def send() -> None:
        with contextlib.suppress(OSError):
            send_all()

    def send_all() -> None:
        theirs.sendall(b"*%d\r\n" % len(payloads))
        for payload in payloads:
            theirs.sendall(bulk(payload))

    sender = threading.Thread(target=send, daemon=True)
    with ours, theirs:
        sender.start()
        while fetcher.outstanding and not fetcher.starved:
            fetcher.on_readable()
    return fetcher


def keep(fetched: Fetched) -> None:
    fetched.kept = True


@pytest.mark.parametrize("count", [1, 2, 4, 6, 8])
def test_overwritten_keys_take_their_payloads_once(count: int) -> None:
    listed = [(b"name-%d" % number, b"1", b"1") for number in range(count)]
    delivered: list[Fetched] = []

    def deliver(fetched: Fetched) -> None:
        keep(fetched)
        delivered.append(fetched)

    tracemalloc.start()
    try:
        fetch(listed, [bytes(LARGEST)] * count, memory(128 * MIB), deliver)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(delivered[0].keys) == count
    # As large as each may be, a byte over, the one that sends, and what the next reply begins with.
    assert peak < (count + 3) * LARGEST + 4 * MIB


def grown(count: int) -> tuple[list[Entry], list[bytes]]:
    """Return hashes of which every other one is listed with a byte and comes with a MiB."""
    listed: list[Entry] = []
    payloads: list[bytes] = []
    for number in range(count):
        payload = number.to_bytes(4, "big") * (MIB // 4)
        said = b"%d" % len(payload) if number % 2 else b"1"
        listed.append((key_of(payload) if number % 2 else bytes([number]) * 16, said, b"1"))
        payloads.append(payload)
    return listed, payloads


@pytest.mark.parametrize("count", [4, 8, 12, 20, 24])
def test_payloads_that_grow_hold_every_buffer_that_they_keep(count: int) -> None:
    room = memory(200 * MIB)
    delivered: list[Fetched] = []

    def deliver(fetched: Fetched) -> None:
        keep(fetched)
        delivered.append(fetched)

    listed, payloads = grown(count)
    fetch(listed, payloads, room, deliver)
    (fetched,) = delivered
    assert len(fetched.refused) == len(fetched.keys) == count // 2
    views = [piece for piece in fetched.pieces if isinstance(piece, memoryview)]
    buffers = {id(view.obj): view.obj for view in views}
    whole = sum(len(one) for one in buffers.values() if isinstance(one, bytearray))
    taken = room.budget.total_bytes - room.budget.left_bytes
    assert taken >= whole - 2 * MIB
    fetched.release()
    assert room.budget.left_bytes == room.budget.total_bytes


def test_payloads_that_grow_past_the_memory_are_no_answer() -> None:
    listed, payloads = grown(24)
    with pytest.raises(ZdbProtocolError, match="listed shorter has no room"):
        fetch(listed, payloads, memory(16 * MIB), keep)


def test_a_reply_waits_until_another_one_gave_its_memory_back() -> None:
    payload = bytes(LARGEST)
    listed = [(key_of(payload), b"%d" % len(payload), b"1")]
    room = memory(12 * MIB)
    other = room.reply()
    assert other.grow(10 * MIB)
    delivered: list[Fetched] = []
    fetcher = fetch(listed, [payload], room, delivered.append)
    assert fetcher.starved
    assert not delivered
    fetcher.look_for_memory()
    assert fetcher.starved
    other.close()
    fetcher.look_for_memory()
    assert not fetcher.starved


def test_a_reply_that_fits_nowhere_names_the_setting() -> None:
    payload = bytes(LARGEST)
    listed = [(key_of(payload), b"%d" % len(payload), b"1")]
    with pytest.raises(OverBudgetError, match=r"limits\.flists\.memoryMb"):
        fetch(listed, [payload], memory(4 * MIB), keep)
