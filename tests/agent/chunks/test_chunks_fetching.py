"""MGET replies that are not as listed: gone, overwritten, unreadable, refused, in any pieces."""

import select
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sync.agent.chunks.copying.batches import Batch, cut
from sync.agent.chunks.copying.channel import Connected
from sync.agent.chunks.copying.fetcher import Buffers, Fetched, Fetcher
from sync.agent.chunks.scan.spans import Edge, Page
from sync.agent.zdb.errors import ZdbProtocolError, ZdbTimeoutError
from sync.agent.zdb.protocol import parse_reply
from tests.agent.chunks.chunks_mirror import key_of
from tests.agent.chunks.scripted_zdb import bulk


@dataclass(frozen=True)
class Stored:
    """One listed key and what the master answers for it."""

    listed: bytes
    answer: str  # same, gone, unreadable, spoilt, longer
    named: bool = False

    @property
    def key(self) -> bytes:
        return b"a name, no hash: " + self.listed[:20] if self.named else key_of(self.listed)

    def reply(self) -> bytes:
        replies = {
            "same": bulk(self.listed),
            "gone": b"$-1\r\n",
            "unreadable": b"-Internal Error\r\n",
            "spoilt": bulk(bytes(len(self.listed))),
            "longer": bulk(self.listed + b"more"),
        }
        return replies[self.answer]

    def payload(self) -> bytes | None:
        """Return what has to be stored, None for nothing."""
        if self.answer in ("gone", "unreadable"):
            return None
        given_bytes = {"spoilt": bytes(len(self.listed)), "longer": self.listed + b"more"}
        payload = given_bytes.get(self.answer, self.listed)
        return payload if self.named or key_of(payload) == self.key else None


def fetcher_over(ours: socket.socket, deliver: Callable[[Fetched], None]) -> Fetcher:
    ours.setblocking(False)
    return Fetcher(Connected(ours, "master", 1.0), deliver, Buffers())


def fetch(
    batches: list[Batch], stream: bytes, pieces: list[int], *, keep: bool = False
) -> list[Fetched]:
    """Give a fetcher its replies in pieces; returns what it delivered.

    keep: look at the SET requests of a batch only once all have come.
    """
    ours, theirs = socket.socketpair()
    delivered: list[Fetched] = []

    def deliver(fetched: Fetched) -> None:
        if keep:
            fetched.kept = True
            delivered.append(fetched)
            return
        fetched.pieces = [b"".join(fetched.pieces)]
        kept = Fetched(fetched.batch)
        for name in ("keys", "pieces", "missing", "refused", "unreadable", "payload_bytes"):
            value = getattr(fetched, name)
            setattr(kept, name, value if isinstance(value, int) else list(value))
        delivered.append(kept)

    fetcher = fetcher_over(ours, deliver)
    with ours, theirs:
        for batch in batches:
            fetcher.expect(batch)
        at = 0
        for size in [*pieces, len(stream)]:
            theirs.sendall(stream[at : at + size])
            at += size
            read_all(fetcher)
    return delivered


def read_all(fetcher: Fetcher) -> None:
    """Give the fetcher turns as long as its socket has something."""
    while select.select([fetcher.socket], [], [], 0)[0]:
        fetcher.on_readable()


def sets_in(fetched: Fetched) -> list[tuple[bytes, bytes, bytes]]:
    """Decode the SET requests of a batch: key, payload, timestamp."""
    data = b"".join(fetched.pieces)
    found: list[tuple[bytes, bytes, bytes]] = []
    while data:
        request, taken = parse_reply(data)
        data = data[taken:]
        assert isinstance(request, list)
        command, key, payload, timestamp = request
        assert command == b"SET"
        assert isinstance(key, bytes)
        assert isinstance(payload, bytes)
        assert isinstance(timestamp, bytes)
        found.append((key, payload, timestamp))
    return found


STORED = st.builds(
    Stored,
    st.binary(min_size=1, max_size=300),
    st.sampled_from(["same", "same", "same", "gone", "unreadable", "spoilt", "longer"]),
    st.booleans(),
)


@settings(deadline=None)
@given(
    st.lists(STORED, min_size=1, max_size=25, unique_by=lambda stored: stored.key),
    st.integers(1, 6),
    st.lists(st.integers(1, 400), max_size=40),
    st.booleans(),
)
def test_what_came_is_stored_and_what_did_not_is_told(
    stored: list[Stored],
    batch_keys: int,
    pieces: list[int],
    keep: bool,
) -> None:
    by_key = {one.key: one for one in stored}
    entries = [
        (one.key, b"%d" % len(one.listed), b"%d" % number) for number, one in enumerate(stored)
    ]
    timestamps = {key: timestamp for key, _, timestamp in entries}
    batches = cut(Page(Edge(), entries), entries, batch_keys, 10_000)
    stream = b"".join(
        b"*%d\r\n%b"
        % (len(batch.entries), b"".join(by_key[entry[0]].reply() for entry in batch.entries))
        for batch in batches
    )
    delivered = fetch(batches, stream, pieces, keep=keep)
    assert [fetched.batch for fetched in delivered] == batches
    requests = {key: (payload, at) for one in delivered for key, payload, at in sets_in(one)}
    expected = {
        one.key: (one.payload(), timestamps[one.key]) for one in stored if one.payload() is not None
    }
    assert requests == expected
    reported = {
        "gone": {key for one in delivered for key in one.missing},
        "unreadable": {key for one in delivered for key in one.unreadable},
    }
    for answer, keys in reported.items():
        assert keys == {one.key for one in stored if one.answer == answer}
    refused = {key for one in delivered for key in one.refused}
    assert refused == {
        one.key
        for one in stored
        if one.answer in ("same", "spoilt", "longer") and one.payload() is None
    }


def test_a_reply_that_trickles_without_end_is_given_up() -> None:
    ours, theirs = socket.socketpair()
    fetcher = fetcher_over(ours, lambda _: None)
    payload = bytes(100_000)
    entries = [(key_of(payload), b"100000", b"1")]
    page = Page(Edge(), entries)
    with ours, theirs:
        (batch,) = cut(page, entries, 10, 1 << 20)
        fetcher.expect(batch)
        theirs.sendall(b"*1\r\n$100000\r\n")
        with pytest.raises(ZdbTimeoutError, match="bytes in 1 s"):
            trickle(theirs, fetcher)


def trickle(theirs: socket.socket, fetcher: Fetcher) -> None:
    """Send a byte now and then, for a few seconds."""
    for _ in range(100):
        theirs.sendall(b"x")
        fetcher.on_readable()
        fetcher.check_time(time.monotonic())
        time.sleep(0.05)


def test_payloads_far_longer_than_listed_are_not_kept_in_memory() -> None:
    payloads = [bytes([number]) for number in range(5)]
    entries = [(key_of(payload), b"1", b"1") for payload in payloads]
    page = Page(Edge(), entries)
    (batch,) = cut(page, entries, 10, 1 << 20)
    huge = bulk(bytes(8 << 20))
    with pytest.raises(ZdbProtocolError, match="passes the limit"):
        fetch_slowly([batch], b"*5\r\n" + huge * 5)


def fetch_slowly(batches: list[Batch], stream: bytes) -> None:
    """Give a fetcher its replies in pieces that a socket buffer takes."""
    ours, theirs = socket.socketpair()
    fetcher = fetcher_over(ours, lambda _: None)
    with ours, theirs:
        for batch in batches:
            fetcher.expect(batch)
        for at in range(0, len(stream), 1 << 16):
            theirs.sendall(stream[at : at + (1 << 16)])
            read_all(fetcher)
