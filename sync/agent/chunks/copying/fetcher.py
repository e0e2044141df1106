"""MGET on one connection to the master: batches in, fetched payloads out as SET requests."""

import hashlib
import sys
from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import accumulate, chain
from operator import add
from typing import Final

from typing_extensions import override

from sync.agent.budget import Budget, Share
from sync.agent.chunks.copying.batches import Batch
from sync.agent.chunks.copying.channel import (
    PONG,
    TRICKLE_BYTES_PER_SECOND,
    Connected,
    Pipeline,
)
from sync.agent.chunks.memory import SessionMemory
from sync.agent.digests import HASH_BYTES
from sync.agent.zdb.errors import ZdbReplyError
from sync.agent.zdb.protocol import MAX_PAYLOAD_BYTES
from sync.contract import job_memory

_LONGEST_LINE_BYTES: Final = 256
_LARGEST_REPLY_BYTES: Final = 128 << 20
# By how much a reply of hashes may be longer than listed: such payloads are refused anyway.
_LARGEST_SURPLUS_BYTES: Final = 16 << 20
# SET with the listed timestamp, which only an admin may give (zdbd/commands_set.c, command_set).
_HEAD: Final = b"*4\r\n$3\r\nSET\r\n$%d\r\n%b\r\n$%b\r\n"
_TAIL: Final = b"\r\n$%d\r\n%b\r\n"
# A number less to format for each of 100k chunks a second.
_HASH_HEAD: Final = _HEAD.replace(b"$%d", b"$16", 1)
_TAIL_AND_HEAD: Final = _TAIL + _HASH_HEAD
_blake2b: Final = hashlib.blake2b
_SMALLEST_BUFFER_BYTES: Final = 64 << 10
# Of each size: enough for what the mirror has not acknowledged (batches of 1 MiB). Larger ones than
# this are not kept, nor more than this of all sizes together.
_SPARE_BUFFERS: Final = 8
_LARGEST_SPARE_BYTES: Final = 4 << 20
_SPARE_BYTES: Final = _SPARE_BUFFERS * _LARGEST_SPARE_BYTES // 2
# Of an element of an MGET.
_FRAME_BYTES: Final = 64


class Buffers:
    """Receive buffers that are used again: fresh memory costs as much as copying into it.

    For one thread. Sizes are powers of two up to the largest that is kept and multiples of that
    from there, so that what one batch gave back fits the next; what is kept is bounded. memory:
    what those hold that are in use; None: nobody counts.
    """

    def __init__(self, memory: SessionMemory | None = None) -> None:
        self._spare: dict[int, list[bytearray]] = {}
        self._memory = memory

    def share(self) -> Share:
        """Return what the buffers of one reply hold of the memory."""
        return self._memory.reply() if self._memory else Share(Budget(0), sys.maxsize)

    def require(self, size_bytes: int) -> None:
        """Raise OverBudgetError where there never is a buffer of that size."""
        if self._memory:
            spare_bytes = size_bytes - job_memory.REPLY_BYTES
            self._memory.budget.require(spare_bytes, "a reply of the master's 0-db")

    @staticmethod
    def size(least_bytes: int) -> int:
        """Return the size of the buffer that is taken for so many bytes."""
        size = _SMALLEST_BUFFER_BYTES
        while size < least_bytes:
            size += min(size, _LARGEST_SPARE_BYTES)
        return size

    def take(self, least_bytes: int) -> bytearray:
        """Return a buffer of at least that size."""
        size = self.size(least_bytes)
        spare = self._spare.get(size)
        return spare.pop() if spare else bytearray(size)

    def give(self, buffer: bytearray) -> None:
        """Take back a buffer that nobody looks at any more."""
        size = len(buffer)
        spare = self._spare.setdefault(size, [])
        kept_bytes = sum(map(len, chain.from_iterable(self._spare.values())))
        # Chunks of 8 MiB (zdbd/redis.h, REDIS_MAX_PAYLOAD) are rare: their buffers are let go.
        if (
            size <= _LARGEST_SPARE_BYTES
            and len(spare) < _SPARE_BUFFERS
            and kept_bytes + size <= _SPARE_BYTES
        ):
            spare.append(buffer)


@dataclass(slots=True, eq=False)
class Fetched:
    """What one MGET gave: SET requests of the payloads that are right, and keys without any.

    keys, pieces: what to store, and its requests; the pieces are valid while they are delivered,
    or, if `kept` is set meanwhile, until `release`. buffer: in which they stand then, share: what
    it holds of the memory. missing: keys that the master has no more. refused: keys whose payload
    has another hash. unreadable: keys that the master could not read.
    """

    batch: Batch
    buffers: Buffers = field(default_factory=Buffers)
    keys: list[bytes] = field(default_factory=list)
    pieces: list[bytes | memoryview] = field(default_factory=list)
    payload_bytes: int = 0
    missing: list[bytes] = field(default_factory=list)
    refused: list[bytes] = field(default_factory=list)
    unreadable: list[bytes] = field(default_factory=list)
    kept: bool = False
    buffer: bytearray | None = None
    share: Share | None = None

    def release(self) -> None:
        """Give up the pieces."""
        self.pieces = []
        if self.buffer is not None:
            self.buffers.give(self.buffer)
        self.buffer = None
        if self.share is not None:
            self.share.close()


class Fetcher(Pipeline[Batch]):
    """One connection that fetches; outstanding: how many batches are asked for and did not come.

    deliver: called with every batch that came, in the order they were asked for. buffers: shared
    with the other connections of the same thread.
    """

    least_bytes_per_second = TRICKLE_BYTES_PER_SECOND

    def __init__(
        self, connected: Connected, deliver: Callable[[Fetched], None], buffers: Buffers
    ) -> None:
        super().__init__(connected)
        self.outstanding = 0
        self._deliver = deliver
        self._buffers = buffers
        self._buffer = buffers.take(_SMALLEST_BUFFER_BYTES)
        self._view = memoryview(self._buffer)
        self._share = buffers.share()
        # Of buffers that the current reply has outgrown.
        self._left_bytes = 0
        # Of the current reply: bytes read, bytes expected and allowed, how far it is parsed.
        self._filled = 0
        self._total = 0
        self._most = 0
        self._at = 0
        self._index = -1
        self._result: Fetched | None = None
        # Where its elements end if all are as listed; empty: look at each.
        self._ends: list[int] = []

    def ask(self, batch: Batch) -> None:
        """Send the MGET of a batch."""
        self.send(batch.request())
        self.expect(batch)

    def expect(self, batch: Batch) -> None:
        """Expect the reply to a batch that was asked for."""
        self._awaited.append(batch)
        self.outstanding += 1

    @override
    def on_readable(self) -> None:
        """Take what the socket has of one batch: other channels have their turn before the next."""
        if not self._awaited and self.receive():
            raise self._wrong("bytes that nobody asked for")
        while self._awaited:
            # What was read beyond the last reply may be all there is of this one.
            carried = self._index < 0 and self._filled > 0
            if self._index < 0 and not self._begin(self._awaited[0]):
                return
            if self._filled < self._total and not carried:
                count = self.receive_into(self._view[self._filled : self._total])
                if count == 0:
                    return
                self._filled += count
            if self._parse():
                self._end()
                if self._filled == 0:
                    return
            elif self._filled >= self._total:
                self._expect_bytes(self._filled + 1)

    def look_for_memory(self) -> None:
        """Go on reading if there is memory again for what comes next."""
        if self.starved:
            self.heard()
            self._begin(self._awaited[0])

    def _begin(self, head: Batch | None) -> bool:
        """Begin with the next reply; False where there is no memory for it now."""
        if head is None:
            self._index = self._at = 0
            self._ends = []
            self._most = _LARGEST_REPLY_BYTES
            self._expect_bytes(len(PONG))
            return True
        # SCAN listed each length, so all headers and ends are known before a byte has come.
        start = len(b"*%d\r\n" % len(head.entries))
        sizes = [len(entry[1]) + 5 for entry in head.entries]
        ends = list(accumulate(map(add, sizes, head.lengths), initial=start))
        most, wanted = _LARGEST_REPLY_BYTES, ends[-1]
        if head.ordered:
            # Overwritten keys may have got any payload since they were listed.
            wanted = max(wanted, len(head.entries) * (MAX_PAYLOAD_BYTES + _FRAME_BYTES))
        else:
            most = min(most, ends[-1] + _LARGEST_SURPLUS_BYTES)
        if not self._has_memory(wanted):
            return False
        if head.ordered and wanted > len(self._buffer):
            # Memory that nobody writes to costs nothing.
            self._change_buffer(wanted, self._filled)
        self._index = self._at = self._left_bytes = 0
        self._most = most
        self._ends = [] if head.ordered else ends[1:]
        self._result = Fetched(head, self._buffers)
        self._expect_bytes(ends[-1])
        return True

    def _has_memory(self, wanted: int) -> bool:
        """Hold what the next reply may take; where there is too little now it is not read."""
        size = self._buffers.size(wanted)
        self.starved = not self._share.grow(size)
        if self.starved:
            self._buffers.require(size)
        return not self.starved

    def _expect_bytes(self, total: int) -> None:
        """Make room for `total` bytes of the current reply; what was read stays."""
        if total > self._most:
            raise self._wrong(f"a reply of {total} bytes passes the limit")
        self._total = total
        if total > len(self._buffer):
            if self._index > 0:
                # Payloads that were taken stand in the buffer that is left.
                self._left_bytes += len(self._buffer)
            if not self._share.grow(self._left_bytes + self._buffers.size(total)):
                raise self._wrong(f"a reply of {total} bytes that was listed shorter has no room")
            self._change_buffer(total, self._filled)

    def _next_bytes(self, rest: int) -> int:
        """Return what the next reply begins with: the same again, but nothing uncommonly large."""
        return max(rest, min(len(self._buffer), job_memory.REPLY_BYTES))

    def _change_buffer(self, least_bytes: int, filled: int, start: int = 0) -> None:
        """Go on in another buffer with what was read from `start` on."""
        other = self._buffers.take(least_bytes)
        other[:filled] = self._view[start : start + filled]
        self._buffer = other
        self._view = memoryview(other)

    def _parse(self) -> bool:
        """Take what has arrived of the current reply; True when it is complete."""
        if self._result is None:
            if self._filled < len(PONG):
                return False
            self._require_pong(self._buffer[: len(PONG)])
            self._at = len(PONG)
            return True
        if self._at == 0 and not self._parse_head(self._result.batch):
            return False
        return self._parse_elements(self._result)

    def _parse_head(self, batch: Batch) -> bool:
        expected = b"*%d\r\n" % len(batch.entries)
        # zdbd answers MGET with one element a key, or refuses all of it with an error line, which
        # may be shorter than what is awaited (zdbd/commands_get.c, command_mget).
        if self._buffer[:1] == b"-":
            line = self._line(0)
            if line is None:
                return False
            raise ZdbReplyError(line[1:].decode("ascii", "replace"), f"{self.where}: MGET")
        if self._filled < len(expected):
            return False
        if self._buffer[: len(expected)] != expected:
            raise self._wrong(f"MGET answered {bytes(self._buffer[:16])!r}")
        self._at = len(expected)
        return True

    def _line(self, at: int) -> bytes | None:
        end = self._buffer.find(b"\r\n", at, self._filled)
        if end < 0:
            if self._filled - at > _LONGEST_LINE_BYTES:
                raise self._wrong("a header that does not end")
            return None
        return bytes(self._buffer[at:end])

    def _parse_elements(self, result: Fetched) -> bool:
        if self._ends:
            if self._filled < self._total:
                if self._is_as_listed(result.batch):
                    return False
            elif self._take_whole(result):
                return True
            self._ends = []
        while self._index < len(result.batch.entries):
            if not self._take_element(result):
                return False
        return True

    def _is_as_listed(self, batch: Batch) -> bool:
        """Return whether what came last begins where it has to: nothing before it was shorter."""
        index = bisect_right(self._ends, self._filled)
        start = self._ends[index - 1] if index else self._at
        header = b"$%b\r\n" % batch.entries[min(index, len(batch.entries) - 1)][1]
        return header.startswith(self._buffer[start : min(self._filled, start + len(header))])

    def _take_whole(self, result: Fetched) -> bool:
        """Take a complete reply of which every payload has its key as hash; else change nothing.

        The quick way of what _take_element does: a payload with the right hash stands where it has
        to, so that the headers before it need no look, and the last one ends where it has to.
        """
        view, batch = self._view, result.batch
        if bytes(view[self._ends[-1] - 2 : self._ends[-1]]) != b"\r\n":
            return False
        payloads = [
            view[end - length - 2 : end - 2]
            for end, length in zip(self._ends, batch.lengths, strict=True)
        ]
        keys = [entry[0] for entry in batch.entries]
        if [_blake2b(data, digest_size=HASH_BYTES).digest() for data in payloads] != keys:
            return False
        first_key, first_digits, last = batch.entries[0]
        heads = [_HASH_HEAD % (first_key, first_digits)]
        for key, digits, timestamp in batch.entries[1:]:
            heads.append(_TAIL_AND_HEAD % (len(last), last, key, digits))
            last = timestamp
        pieces: list[bytes | memoryview] = [b""] * (2 * len(keys))
        pieces[0::2] = heads
        pieces[1::2] = payloads
        pieces.append(_TAIL % (len(last), last))
        result.pieces = pieces
        result.keys = keys
        result.payload_bytes = sum(batch.lengths)
        self._at = self._ends[-1]
        self._index = len(keys)
        return True

    def _take_element(self, result: Fetched) -> bool:
        """Take one element, listed so or not: gone, overwritten, unreadable, or no 0-db's.

        False when more of it has to come.
        """
        header = self._line(self._at)
        if header is None:
            return False
        batch, index = result.batch, self._index
        key, digits, timestamp = batch.entries[index]
        listed_bytes = len(digits) + 5 + batch.lengths[index]
        kind, said = header[:1], header[1:]
        # nil for a key that is deleted by now, an error line for a payload that the master cannot
        # read; the other elements come all the same (commands_get.c, command_get_single).
        if header == b"$-1" or kind == b"-":
            (result.missing if kind == b"$" else result.unreadable).append(key)
            self._expect_bytes(self._total + len(header) + 2 - listed_bytes)
            self._at += len(header) + 2
            self._index += 1
            return True
        # Nothing is allocated for a length that no 0-db can have (zdbd/redis.h, REDIS_MAX_PAYLOAD).
        length = int(said) if said.isdigit() else -1
        if kind != b"$" or length > MAX_PAYLOAD_BYTES or b"%d" % length != said:
            raise self._wrong(f"MGET element {header[:32]!r}")
        element_bytes = len(header) + 4 + length
        if said != digits:
            # Overwritten since it was listed: the rest of the reply moves by the difference.
            batch.entries[index] = (key, said, timestamp)
            batch.lengths[index] = length
            self._expect_bytes(self._total + element_bytes - listed_bytes)
        if self._filled < self._at + element_bytes:
            return False
        start = self._at + len(header) + 2
        payload = self._view[start : start + length]
        if len(key) == HASH_BYTES and _blake2b(payload, digest_size=HASH_BYTES).digest() != key:
            result.refused.append(key)
        else:
            result.keys.append(key)
            result.pieces.append(_HEAD % (len(key), key, said))
            result.pieces.append(payload)
            result.pieces.append(_TAIL % (len(timestamp), timestamp))
            result.payload_bytes += length
        self._at += element_bytes
        self._index += 1
        return True

    def _end(self) -> None:
        result = self._result
        self.progressed()
        self._awaited.popleft()
        if result is not None:
            self.outstanding -= 1
            self._deliver(result)
        # What was read beyond this reply, because it became shorter, begins the next one.
        rest = self._filled - self._at
        if result is not None and result.kept:
            result.buffer, result.share = self._buffer, self._share
            self._change_buffer(self._next_bytes(rest), rest, self._at)
        else:
            self._share.close()
            used = self._buffer
            if len(used) > self._next_bytes(rest):
                self._change_buffer(self._next_bytes(rest), rest, self._at)
                self._buffers.give(used)
            elif rest:
                self._buffer[:rest] = bytes(self._view[self._at : self._filled])
        self._share = self._buffers.share()
        if rest and not self._awaited:
            raise self._wrong("bytes that nobody asked for")
        self._filled = rest
        self._index = -1
        self._result = None
