"""What came of a batch, and the receive buffers that its payloads stand in."""

from dataclasses import dataclass, field
from itertools import chain
from typing import Final

from sync.agent.chunks.copying.batches import Batch

SMALLEST_BUFFER_BYTES: Final = 64 << 10
# Of each size: enough for what the mirror has not acknowledged (batches of 1 MiB). Larger ones than
# this are not kept, nor more than this of all sizes together.
_SPARE_BUFFERS: Final = 8
_LARGEST_SPARE_BYTES: Final = 4 << 20
_SPARE_BYTES: Final = _SPARE_BUFFERS * _LARGEST_SPARE_BYTES


class Buffers:
    """Receive buffers that are used again: fresh memory costs as much as copying into it.

    For one thread. Sizes are powers of two up to the largest that is kept and multiples of that
    from there, so that what one batch gave back fits the next; what is kept is bounded.
    """

    def __init__(self) -> None:
        self._spare: dict[int, list[bytearray]] = {}

    def take(self, least_bytes: int) -> bytearray:
        """Return a buffer of at least that size."""
        size = SMALLEST_BUFFER_BYTES
        while size < least_bytes:
            size += min(size, _LARGEST_SPARE_BYTES)
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
    or after `keep` until `release`. missing: keys that the master has no more. refused: keys whose
    payload has another hash. unreadable: keys that the master could not read.
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
    _buffer: bytearray | None = None

    def keep(self) -> None:
        """Keep the pieces valid beyond their delivery, until `release`."""
        self.kept = True

    def own(self, buffer: bytearray) -> None:
        """Take over the buffer that the pieces show; nobody else writes to it from now on."""
        self._buffer = buffer

    def release(self) -> None:
        """Give up the pieces."""
        self.pieces = []
        if self._buffer is not None:
            self.buffers.give(self._buffer)
        self._buffer = None
