"""MGET on one connection to the master: batches in, verified SET requests out."""

import hashlib
import socket
from bisect import bisect_right
from collections import deque
from collections.abc import Callable
from itertools import accumulate, chain
from operator import add
from typing import Final, Self

from typing_extensions import override

from sync.agent.chunks.copying.channel import PING, PONG, TRICKLE_BYTES_PER_SECOND, Channel
from sync.agent.chunks.scan.pages import PROVEN_KEY_BYTES, Batch
from sync.agent.zdb.errors import ZdbProtocolError, ZdbReplyError
from sync.agent.zdb.protocol import MAX_PAYLOAD_BYTES
from sync.contract.spec import ZdbEndpoint

_LONGEST_LINE_BYTES: Final = 256
_LARGEST_REPLY_BYTES: Final = 128 << 20
# By how much a reply of keys that prove themselves may be longer than listed: those are refused.
_LARGEST_SURPLUS_BYTES: Final = 16 << 20
_SMALLEST_BUFFER_BYTES: Final = 64 << 10
# Of each size: enough for what the mirror has not acknowledged (batches of 1 MiB). Larger ones than
# this are not kept, nor more than this of all sizes together.
_SPARE_BUFFERS: Final = 8
_LARGEST_SPARE_BYTES: Final = 4 << 20
_SPARE_BYTES: Final = _SPARE_BUFFERS * _LARGEST_SPARE_BYTES
_HEAD: Final = b"*4\r\n$3\r\nSET\r\n$16\r\n%b\r\n$%b\r\n"
_TAIL: Final = b"\r\n$%d\r\n%b\r\n"
_TAIL_AND_HEAD: Final = _TAIL + _HEAD
_blake2b: Final = hashlib.blake2b


class Buffers:
    """Receive buffers that are used again: fresh memory costs as much as copying into it.

    For one thread. Sizes are powers of two up to the largest that is kept and multiples of that
    from there, so that what one batch gave back fits the next; what is kept is bounded.
    """

    def __init__(self) -> None:
        self._spare: dict[int, list[bytearray]] = {}

    def take(self, least_bytes: int) -> bytearray:
        """Return a buffer of at least that size."""
        size = _SMALLEST_BUFFER_BYTES
        while size < least_bytes:
            size += min(size, _LARGEST_SPARE_BYTES)
        spare = self._spare.get(size)
        return spare.pop() if spare else bytearray(size)

    def give(self, buffer: bytearray) -> None:
        """Take back a buffer that nobody looks at any more."""
        size = len(buffer)
        spare = self._spare.setdefault(size, [])
        kept_bytes = sum(map(len, chain.from_iterable(self._spare.values())))
        if (
            size <= _LARGEST_SPARE_BYTES
            and len(spare) < _SPARE_BUFFERS
            and kept_bytes + size <= _SPARE_BYTES
        ):
            spare.append(buffer)


class Fetched:
    """What one MGET gave: the SET requests of what proved itself, and what did not.

    pieces: valid while they are delivered; after `keep`, until `release`. missing: keys that the
    master has no more. refused: keys whose payload has another hash. failed: keys that the master
    could not read.
    """

    __slots__ = (
        "_buffer",
        "_buffers",
        "batch",
        "failed",
        "kept",
        "keys",
        "missing",
        "payload_bytes",
        "pieces",
        "refused",
    )

    def __init__(self, batch: Batch, buffers: Buffers | None = None) -> None:
        self.batch = batch
        self.kept = False
        self._buffers = buffers
        self._buffer: bytearray | None = None
        self.keys: list[bytes] = []
        self.pieces: list[bytes | memoryview] = []
        self.payload_bytes = 0
        self.missing: list[bytes] = []
        self.refused: list[bytes] = []
        self.failed: list[bytes] = []

    def keep(self) -> None:
        """Keep the pieces valid beyond their delivery, until `release`."""
        self.kept = True

    def release(self) -> None:
        """Give up the pieces."""
        self.pieces = []
        if self._buffers is not None and self._buffer is not None:
            self._buffers.give(self._buffer)
        self._buffer = None

    def hold(self, buffer: bytearray) -> None:
        """Take over what the pieces show, which nobody else writes to from now on."""
        self._buffer = buffer


class Fetcher(Channel):
    """One connection that fetches; `depth` batches are asked for ahead of what came.

    deliver: called with every batch that came, in the order they were asked for. buffers: shared
    with the other connections of the same thread.
    """

    least_bytes_per_second = TRICKLE_BYTES_PER_SECOND

    def __init__(
        self,
        endpoint: ZdbEndpoint,
        timeout_seconds: float,
        depth: int,
        deliver: Callable[[Fetched], None],
        buffers: Buffers | None = None,
    ) -> None:
        super().__init__("master", endpoint, None, timeout_seconds)
        self._begin_anew(depth, deliver, buffers or Buffers())

    @classmethod
    def over(cls, connected: socket.socket, depth: int, deliver: Callable[[Fetched], None]) -> Self:
        """Make one over a connected, non-blocking socket (tests)."""
        fetcher = cls.__new__(cls)
        fetcher._adopt(connected, "master", 1.0)  # noqa: SLF001 - of this class
        fetcher._begin_anew(depth, deliver, Buffers())  # noqa: SLF001 - of this class
        return fetcher

    def _begin_anew(self, depth: int, deliver: Callable[[Fetched], None], buffers: Buffers) -> None:
        self.depth = depth
        self._deliver = deliver
        self._buffers = buffers
        # What is on the wire, in order: batches, and None for a PING of ours.
        self._awaited: deque[Batch | None] = deque()
        self._batches = 0
        self._buffer = buffers.take(_SMALLEST_BUFFER_BYTES)
        self._view = memoryview(self._buffer)
        self._filled = 0
        self._total = 0
        self._most = 0
        self._at = 0
        self._index = -1
        self._result: Fetched | None = None
        # Where the elements of the current reply end if all are as listed; empty: look at each.
        self._ends: list[int] = []

    @property
    def has_room(self) -> bool:
        """Tell whether another batch may be asked for."""
        return self._batches < self.depth

    @property
    def outstanding(self) -> int:
        """Count the batches asked for and not complete."""
        return self._batches

    @override
    def awaiting(self) -> bool:
        return bool(self._awaited)

    @override
    def nudge(self) -> None:
        self._awaited.append(None)
        self.send(PING)

    def ask(self, batch: Batch) -> None:
        """Send the MGET of a batch."""
        self.send(batch.request())
        self.awaits(batch)

    def awaits(self, batch: Batch) -> None:
        """Expect the reply to a batch that was asked for."""
        self._awaited.append(batch)
        self._batches += 1

    @override
    def on_readable(self) -> None:
        """Take what the socket has of one batch: others are to be looked after before the next."""
        if not self._awaited and self.receive(1):
            raise ZdbProtocolError(f"{self.where}: bytes that nobody asked for")
        while self._awaited:
            # What was read beyond the last reply may be all there is of this one.
            carried = self._index < 0 and self._filled > 0
            if self._index < 0:
                self._begin(self._awaited[0])
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
                self._expect(self._filled + 1)

    def _begin(self, head: Batch | None) -> None:
        self._index = 0
        self._at = 0
        self._ends = []
        self._most = _LARGEST_REPLY_BYTES
        if head is None:
            self._expect(len(PONG))
            return
        start = len(b"*%d\r\n" % len(head.entries))
        sizes = [len(entry[1]) + 5 for entry in head.entries]
        ends = list(accumulate(map(add, sizes, head.lengths), initial=start))
        self._expect(ends[-1])
        if not head.ordered:
            self._ends = ends[1:]
            self._most = min(self._most, ends[-1] + _LARGEST_SURPLUS_BYTES)
        self._result = Fetched(head, self._buffers)

    def _expect(self, total: int) -> None:
        """Make room for `total` bytes of the current reply; what was read stays."""
        if total > self._most:
            raise ZdbProtocolError(f"{self.where}: a reply of {total} bytes passes the limit")
        self._total = total
        if total > len(self._buffer):
            self._change_buffer(total, self._filled)

    def _change_buffer(self, least_bytes: int, filled: int, start: int = 0) -> None:
        """Go on in another buffer with what was read from `start` on."""
        other = self._buffers.take(least_bytes)
        other[:filled] = self._view[start : start + filled]
        self._buffer = other
        self._view = memoryview(other)

    def _parse(self) -> bool:
        """Take what has arrived of the current reply; True when it is complete."""
        if self._result is None:
            return self._parse_pong()
        if self._at == 0 and not self._parse_head(self._result.batch):
            return False
        return self._parse_entries(self._result)

    def _parse_pong(self) -> bool:
        if self._filled < len(PONG):
            return False
        if self._buffer[: len(PONG)] != PONG:
            raise ZdbProtocolError(f"{self.where}: answered PING with something else")
        self._at = len(PONG)
        return True

    def _parse_head(self, batch: Batch) -> bool:
        expected = b"*%d\r\n" % len(batch.entries)
        if self._filled < len(expected):
            # An error line may be shorter than what is awaited, and is all that comes.
            if self._buffer[:1] == b"-" and self._line(0) is not None:
                raise self._refusal(0)
            return False
        if self._buffer[: len(expected)] != expected:
            if self._buffer[:1] == b"-":
                if self._line(0) is None:
                    return False
                raise self._refusal(0)
            shown = bytes(self._buffer[:16])
            raise ZdbProtocolError(f"{self.where}: MGET answered {shown!r}")
        self._at = len(expected)
        return True

    def _refusal(self, at: int) -> ZdbReplyError:
        line = self._line(at) or b""
        return ZdbReplyError(line[1:].decode("ascii", "replace"), f"{self.where}: MGET")

    def _line(self, at: int) -> bytes | None:
        end = self._buffer.find(b"\r\n", at, self._filled)
        if end < 0:
            if self._filled - at > _LONGEST_LINE_BYTES:
                raise ZdbProtocolError(f"{self.where}: a header that does not end")
            return None
        return bytes(self._buffer[at:end])

    def _parse_entries(self, result: Fetched) -> bool:
        if self._ends:
            if self._filled < self._total:
                if self._is_as_listed(result.batch):
                    return False
            elif self._take_whole(result):
                return True
            self._ends = []
        while self._parse_as_listed(result):
            if self._index == len(result.batch.entries):
                return True
            if not self._parse_unexpected(result):
                return False
        return False

    def _is_as_listed(self, batch: Batch) -> bool:
        """Tell whether what came last begins where it has to: nothing before it was shorter."""
        index = bisect_right(self._ends, self._filled)
        start = self._ends[index - 1] if index else self._at
        header = b"$%b\r\n" % batch.entries[min(index, len(batch.entries) - 1)][1]
        return header.startswith(self._buffer[start : min(self._filled, start + len(header))])

    def _take_whole(self, result: Fetched) -> bool:
        """Take a complete reply of which every payload proves its key; else change nothing.

        The quick way of what _parse_as_listed does: a payload that proves its key is where it has
        to be, so that the headers before it need no look, and the last one ends where it has to.
        """
        view, batch = self._view, result.batch
        if bytes(view[self._ends[-1] - 2 : self._ends[-1]]) != b"\r\n":
            return False
        payloads = [
            view[end - length - 2 : end - 2]
            for end, length in zip(self._ends, batch.lengths, strict=True)
        ]
        keys = [entry[0] for entry in batch.entries]
        if [_blake2b(data, digest_size=PROVEN_KEY_BYTES).digest() for data in payloads] != keys:
            return False
        first_key, first_digits, last = batch.entries[0]
        heads = [_HEAD % (first_key, first_digits)]
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

    def _parse_as_listed(self, result: Fetched) -> bool:
        """Take elements that are as listed; False when more has to come for the next one."""
        buffer, view, filled = self._buffer, self._view, self._filled
        entries, lengths = result.batch.entries, result.batch.lengths
        pieces, keys = result.pieces, result.keys
        at, index = self._at, self._index
        while index < len(entries):
            key, digits, timestamp = entries[index]
            start = at + len(digits) + 3
            length = lengths[index]
            end = start + length
            if filled < end + 2 or buffer[at:start] != b"$%b\r\n" % digits:
                break
            payload = view[start:end]
            if (
                len(key) == PROVEN_KEY_BYTES
                and _blake2b(payload, digest_size=PROVEN_KEY_BYTES).digest() != key
            ):
                result.refused.append(key)
            else:
                keys.append(key)
                pieces.append(b"*4\r\n$3\r\nSET\r\n$%d\r\n%b\r\n$%b\r\n" % (len(key), key, digits))
                pieces.append(payload)
                pieces.append(b"\r\n$%d\r\n%b\r\n" % (len(timestamp), timestamp))
                result.payload_bytes += length
            at = end + 2
            index += 1
        self._at, self._index = at, index
        # Fewer bytes than listed may also be a shorter element: its header tells.
        return index == len(entries) or not buffer.startswith(
            b"$%b\r\n" % entries[index][1], at, filled
        )

    def _parse_unexpected(self, result: Fetched) -> bool:
        """Take one element that is not as listed: gone, overwritten, unreadable, or garbage.

        True when it was taken or its expected length corrected; False when more has to come.
        """
        line = self._line(self._at)
        if line is None:
            return False
        entry = result.batch.entries[self._index]
        expected = len(entry[1]) + 5 + result.batch.lengths[self._index]
        kind, digits = line[:1], line[1:]
        if line == b"$-1" or kind == b"-":
            (result.missing if kind == b"$" else result.failed).append(entry[0])
            self._skip(len(line) + 2, expected)
            return True
        if kind != b"$" or not digits.isdigit() or int(digits) > MAX_PAYLOAD_BYTES:
            raise ZdbProtocolError(f"{self.where}: MGET element {line[:32]!r}")
        length = int(digits)
        plain = b"%d" % length
        result.batch.entries[self._index] = (entry[0], plain, entry[2])
        result.batch.lengths[self._index] = length
        if plain != digits:
            raise ZdbProtocolError(f"{self.where}: MGET length {digits[:32]!r}")
        self._expect(self._total + len(plain) + 5 + length - expected)
        return True

    def _skip(self, taken: int, expected: int) -> None:
        self._at += taken
        self._index += 1
        self._expect(self._total + taken - expected)

    def _end(self) -> None:
        result = self._result
        self.progressed()
        self._awaited.popleft()
        if result is not None:
            self._batches -= 1
            self._deliver(result)
        # What was read beyond this reply, because it became shorter, begins the next one.
        rest = self._filled - self._at
        if result is not None and result.kept:
            result.hold(self._buffer)
            self._change_buffer(len(self._buffer), rest, self._at)
        elif rest:
            self._buffer[:rest] = bytes(self._view[self._at : self._filled])
        if rest and not self._awaited:
            raise ZdbProtocolError(f"{self.where}: bytes that nobody asked for")
        self._filled = rest
        self._index = -1
        self._result = None
