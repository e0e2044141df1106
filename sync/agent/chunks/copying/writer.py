"""The slave's side: ordered, pipelined SET, and their acknowledgements."""

import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from typing_extensions import override

from sync.agent.chunks.copying.batches import Batch
from sync.agent.chunks.copying.channel import PONG, Connected, Pipeline
from sync.agent.chunks.copying.fetcher import Fetched
from sync.agent.zdb.errors import ZdbReplyError
from sync.agent.zdb.protocol import NeedMoreBytes, parse_reply

# What zdbd says when it cannot store any more (zdbd/commands_set.c); it goes on serving.
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


class SlaveRefusedError(ZdbReplyError):
    """The slave refuses to store: a person has to correct password or namespace."""


@dataclass(slots=True, eq=False)
class _Awaited:
    """The replies to one batch; taken_items: how far the slow path has come."""

    fetched: Fetched
    wire_bytes: int
    expected: bytes
    taken_items: int = 0
    known_items: int = 0


class Writer(Pipeline[_Awaited]):
    """Stores batches in the order they are given.

    stored: called as each is acknowledged, with how many items and bytes of it are new there.
    """

    def __init__(self, connected: Connected, stored: Callable[[Batch, int, int], None]) -> None:
        super().__init__(connected)
        self._stored = stored
        self._received = bytearray()
        # Bytes given and not acknowledged: what bounds the slave's queue and ours.
        self.unacknowledged_bytes = 0
        # Acknowledged and not new: the slave had them.
        self.known_items = 0
        self._woken_at_bytes = 1

    def store(self, fetched: Fetched) -> None:
        """Send the SET requests of a fetched batch."""
        if fetched.payload_bytes >= _UNCOPIED_BYTES * len(fetched.keys):
            fetched.kept, pieces = True, fetched.pieces
        else:
            pieces, fetched.pieces = [b"".join(fetched.pieces)], []
        size = sum(map(len, pieces))
        self.send(*pieces)
        if fetched.batch.ordered:
            expected = b"".join([b"$%d\r\n%b\r\n" % (len(key), key) for key in fetched.keys])
        else:
            expected = b"$16\r\n%b\r\n" % b"\r\n$16\r\n".join(fetched.keys)
        self._awaited.append(_Awaited(fetched, size, expected))
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
        while self._awaited and self._take(self._awaited[0]):
            self._awaited.popleft()
        if self._received and not self._awaited:
            raise self._wrong("bytes that nobody asked for")
        self._sleep_until_answered()

    def _sleep_until_answered(self) -> None:
        """Be readable once the next batch is answered."""
        # zdbd sends each reply by itself (zdbd/redis.c, redis_send_response): some hundreds of
        # small reads, each a turn of the loop, would cost more than the SETs.
        head = self._awaited[0] if self._awaited else None
        least = max(1, len(head.expected) - len(self._received)) if head else 1
        if least != self._woken_at_bytes:
            self._woken_at_bytes = least
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, least)

    def _take(self, head: _Awaited | None) -> bool:
        """Take the replies to one batch (or PING); False while they are incomplete."""
        received = self._received
        if head is None:
            if len(received) < len(PONG):
                return False
            self._require_pong(received[: len(PONG)])
            del received[: len(PONG)]
            return True
        if head.taken_items == 0 and received.startswith(head.expected):
            del received[: len(head.expected)]
            self._done(head)
            return True
        if head.taken_items == 0 and head.expected.startswith(received):
            return False
        return self._take_mixed(head)

    def _take_mixed(self, head: _Awaited) -> bool:
        """As _take, where not every reply is the key: it was there already, or an error."""
        for key in head.fetched.keys[head.taken_items :]:
            size = self._reply_bytes(key)
            if size == 0:
                return False
            head.known_items += self._received.startswith(_NIL)
            head.taken_items += 1
            del self._received[:size]
        self._done(head)
        return True

    def _reply_bytes(self, key: bytes) -> int:
        """Measure the reply to one SET: 0 while it is incomplete; raises what it refuses."""
        received = self._received
        # SET answers the key itself, and nil where the same payload is there already: that is
        # success too, and keeps the old timestamp (commands_set.c, redis_set_handler_userkey).
        echo = b"$%d\r\n%b\r\n" % (len(key), key)
        for reply in (echo, _NIL):
            if received.startswith(reply):
                return len(reply)
            if reply.startswith(received[: len(reply)]):
                return 0
        try:
            answer, _ = parse_reply(received)
        except NeedMoreBytes:
            return 0
        if not isinstance(answer, ZdbReplyError):
            raise self._wrong("SET answered something else than the key")
        # Anything else is for a person, as "Permission denied" for a timestamp from who is no admin
        # (zdbd/commands.c, command_admin_authorized).
        kind = ZdbReplyError if answer.reason in FULL else SlaveRefusedError
        raise kind(answer.reason, f"{self.where}: SET")

    def _done(self, head: _Awaited) -> None:
        self.unacknowledged_bytes -= head.wire_bytes
        self.known_items += head.known_items
        items = len(head.fetched.keys)
        new_items = items - head.known_items
        new_bytes = head.fetched.payload_bytes * new_items // max(1, items)
        head.fetched.release()
        self._stored(head.fetched.batch, new_items, new_bytes)
