"""The slave's side: ordered, pipelined SET with acknowledgements, and questions what it has."""

import socket
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from typing_extensions import override

from sync.agent.chunks.copying.channel import PING, PONG, Channel
from sync.agent.chunks.copying.fetcher import Fetched
from sync.agent.chunks.scan.pages import (
    PROVEN_KEY_BYTES,
    Batch,
    Entry,
    NeedMoreBytes,
    Page,
    parse_reply,
)
from sync.agent.zdb.errors import ZdbProtocolError, ZdbReplyError
from sync.contract.spec import ZdbEndpoint

# What zdbd says when it can not store any more (commands_set.c); it goes on serving.
FULL: Final = (
    "Cannot write data right now",
    "Cannot write index right now",
    "No space left on this namespace",
)
# Chunks of this mean size and more are sent from where they were received. Smaller ones are joined:
# that is cheaper than to look after so many pieces.
_UNCOPIED_BYTES: Final = 8 << 10
# How long replies may lie unread because they are fewer bytes than the next batch's.
LOOK_SECONDS: Final = 0.005
_NIL: Final = b"$-1\r\n"
_LENGTH: Final = b"*2\r\n$6\r\nLENGTH\r\n$%d\r\n%b\r\n"


class SlaveFullError(ZdbReplyError):
    """The slave can not store more; it may again when there is room."""


class SlaveRefusedError(ZdbReplyError):
    """The slave refuses to store: a person has to correct password or namespace."""


@dataclass(slots=True)
class Stored:
    """What became of one batch on the slave: how much of it is new there."""

    batch: Batch
    new_items: int
    new_bytes: int


class _Awaited:
    """The replies to one batch; taken_*: how far the slow path has come."""

    __slots__ = ("expected", "fetched", "known_items", "taken_bytes", "taken_items", "wire_bytes")

    def __init__(self, fetched: Fetched, wire_bytes: int) -> None:
        self.fetched = fetched
        self.wire_bytes = wire_bytes
        keys = fetched.keys
        if fetched.batch.ordered:
            self.expected = b"".join([b"$%d\r\n%b\r\n" % (len(key), key) for key in keys])
        else:
            self.expected = b"$16\r\n%b\r\n" % b"\r\n$16\r\n".join(keys)
        self.taken_items = 0
        self.taken_bytes = 0
        self.known_items = 0


class Writer(Channel):
    """Stores batches in the order they are given; `deliver` is called as each is acknowledged."""

    def __init__(
        self,
        endpoint: ZdbEndpoint,
        password: str | None,
        timeout_seconds: float,
        deliver: Callable[[Stored], None],
    ) -> None:
        super().__init__("slave", endpoint, password, timeout_seconds)
        self._deliver = deliver
        self._awaited: deque[_Awaited | None] = deque()
        self._received = bytearray()
        # Bytes given and not acknowledged: what bounds the slave's queue and ours.
        self.unacknowledged_bytes = 0
        self._woken_at_bytes = 1

    @override
    def awaiting(self) -> bool:
        return bool(self._awaited)

    @override
    def nudge(self) -> None:
        self._awaited.append(None)
        self.send(PING)

    def store(self, fetched: Fetched) -> None:
        """Send the SET requests of a fetched batch."""
        if fetched.payload_bytes >= _UNCOPIED_BYTES * len(fetched.keys):
            fetched.keep()
            size = sum(map(len, fetched.pieces))
            self.send_pieces(fetched.pieces)
        else:
            data = b"".join(fetched.pieces)
            fetched.pieces = []
            size = len(data)
            self.send(data)
        self._awaited.append(_Awaited(fetched, size))
        self.unacknowledged_bytes += size
        self._sleep_until_answered()

    def look(self) -> None:
        """Take replies that are fewer bytes than expected: of keys that were there, or errors."""
        if self._awaited and time.monotonic() - self.heard_at > LOOK_SECONDS:
            self.on_readable()

    @override
    def on_readable(self) -> None:
        data = self.receive()
        if not data:
            return
        self._received += data
        taken = 0
        while self._awaited:
            end = self._take(self._awaited[0], taken)
            if end is None:
                break
            taken = end
            self._awaited.popleft()
        if taken:
            del self._received[:taken]
        if self._received and not self._awaited:
            raise ZdbProtocolError(f"{self.where}: bytes that nobody asked for")
        self._sleep_until_answered()

    def _sleep_until_answered(self) -> None:
        """Be readable once the next batch is answered: zdbd sends each reply by itself."""
        head = self._awaited[0] if self._awaited else None
        least = max(1, len(head.expected) - len(self._received)) if head else 1
        if least != self._woken_at_bytes:
            self._woken_at_bytes = least
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, least)

    def _take(self, head: _Awaited | None, at: int) -> int | None:
        """Take the replies to one batch (or PING); returns where they end, None if incomplete."""
        received = self._received
        if head is None:
            if len(received) - at < len(PONG):
                return None
            if not received.startswith(PONG, at):
                raise ZdbProtocolError(f"{self.where}: answered PING with something else")
            return at + len(PONG)
        if head.taken_items == 0 and received.startswith(head.expected, at):
            self._done(head)
            return at + len(head.expected)
        if head.taken_items == 0 and head.expected.startswith(received[at:]):
            return None
        return self._take_mixed(head, at)

    def _take_mixed(self, head: _Awaited, at: int) -> int | None:
        """As _take, where not every reply is the key: it was there already, or an error."""
        received = self._received
        position = at + head.taken_bytes
        keys = head.fetched.keys
        while head.taken_items < len(keys):
            size = self._reply_bytes(keys[head.taken_items], position)
            if size == 0:
                head.taken_bytes = position - at
                return None
            head.known_items += size == len(_NIL) and received.startswith(_NIL, position)
            head.taken_items += 1
            position += size
        self._done(head)
        return position

    def _reply_bytes(self, key: bytes, position: int) -> int:
        """Measure the reply to one SET: 0 while it is incomplete; raises what it refuses."""
        received = self._received
        echo = b"$%d\r\n%b\r\n" % (len(key), key)
        for reply in (echo, _NIL):
            if received.startswith(reply, position):
                return len(reply)
            if reply.startswith(received[position : position + len(reply)]):
                return 0
        try:
            answer, _ = parse_reply(received[position:])
        except NeedMoreBytes:
            return 0
        if not isinstance(answer, ZdbReplyError):
            raise ZdbProtocolError(f"{self.where}: SET answered something else than the key")
        if answer.reason in FULL:
            raise SlaveFullError(answer.reason, f"{self.where}: SET")
        raise SlaveRefusedError(answer.reason, f"{self.where}: SET")

    def _done(self, head: _Awaited) -> None:
        self.unacknowledged_bytes -= head.wire_bytes
        items = len(head.fetched.keys)
        new_items = items - head.known_items
        new_bytes = head.fetched.payload_bytes * new_items // max(1, items)
        head.fetched.release()
        self._deliver(Stored(head.fetched.batch, new_items, new_bytes))


class Prober(Channel):
    """Asks the slave which listed entries it has, by LENGTH; one page after the other.

    `deliver` is called with each page and the entries of it that the slave lacks.
    """

    def __init__(
        self,
        endpoint: ZdbEndpoint,
        password: str | None,
        timeout_seconds: float,
        deliver: Callable[[Page, list[Entry]], None],
    ) -> None:
        super().__init__("slave", endpoint, password, timeout_seconds)
        self._deliver = deliver
        self._awaited: deque[Page | None] = deque()
        self._received = bytearray()
        self._lines = 0

    @override
    def awaiting(self) -> bool:
        return bool(self._awaited)

    @override
    def nudge(self) -> None:
        self._awaited.append(None)
        self.send(PING)

    def ask(self, page: Page) -> None:
        """Ask for every entry of a page."""
        keys = [entry[0] for entry in page.entries]
        self.send(b"".join([_LENGTH % (len(key), key) for key in keys]))
        self._awaited.append(page)

    @override
    def on_readable(self) -> None:
        data = self.receive()
        self._lines += data.count(b"\n")
        self._received += data
        while self._awaited:
            head = self._awaited[0]
            wanted = len(head.entries) if head else 1
            if self._lines < wanted:
                return
            lines = self._received.split(b"\r\n", wanted)
            self._received = lines.pop()
            self._lines -= wanted
            self._awaited.popleft()
            if head:
                self._deliver(head, self._lacking(head, lines))

    def _lacking(self, page: Page, lines: list[bytearray]) -> list[Entry]:
        lacking: list[Entry] = []
        for entry, line in zip(page.entries, lines, strict=True):
            # A key that proves nothing may have got another payload of the same length.
            if line[1:] == entry[1] and len(entry[0]) == PROVEN_KEY_BYTES:
                continue
            if not line.startswith((b":", b"$")):
                shown = bytes(line[:80]).decode("ascii", "replace")
                raise ZdbProtocolError(f"{self.where}: LENGTH answered {shown}")
            lacking.append(entry)
        return lacking
