"""Room in the local 0-db: a job pauses before it fills its memory, or its disk below the floor.

0-db would be killed past its memory limit, and again at each start, as it loads its index first.
"""

import threading
import time
from collections.abc import Callable
from typing import Final

from sync.agent.job import JobPaused
from sync.contract import zdb_memory

RETRY_SECONDS: Final = 10.0
_COUNTED_SECONDS: Final = 0.5


def require_key_room(
    keys: int,
    limit_bytes: int | None,
    wanted_keys: int = 0,
    retry_seconds: float = RETRY_SECONDS,
) -> None:
    """Raise JobPaused where so many keys (of all namespaces) are more than the limit has room for.

    wanted_keys: how many there will be in the end, where that is known. retry_seconds: when the
    job tries again, should nobody have raised the limit until then.
    """
    if limit_bytes is None:
        return
    room = zdb_memory.keys_within(limit_bytes)
    if keys <= room:
        return
    wanted = zdb_memory.mib_for(max(keys, wanted_keys))
    raise JobPaused(
        f"the local 0-db has room for {room} keys in the {limit_bytes // zdb_memory.MIB} MB of "
        f"limits.zdb.memoryMb and would hold {keys}: it would be killed if it were filled further; "
        f"set limits.zdb.memoryMb to {wanted} or more and run `pulumi up`, it goes on by itself",
        retry_seconds,
    )


def require_disk_room(
    free_bytes: int | None, floor_bytes: int, retry_seconds: float = RETRY_SECONDS
) -> None:
    """Raise JobPaused where less than the floor is free on 0-db's disk; None: it does not say."""
    if free_bytes is not None and free_bytes < floor_bytes:
        raise JobPaused(
            f"the local 0-db's disk has {free_bytes} bytes free and {floor_bytes} must stay free; "
            "add space or lower freeSpaceFloorBytes, it goes on by itself",
            retry_seconds,
        )


class KeyRoom:
    """Room for many threads that each add a few keys; others may add keys at the same time.

    count: asks the local 0-db how many keys it holds in all namespaces, and raises JobPaused where
    its disk has no room.
    """

    def __init__(
        self,
        limit_bytes: int | None,
        count: Callable[[], int],
        retry_seconds: float = RETRY_SECONDS,
    ) -> None:
        self._limit_bytes = limit_bytes
        self._retry_seconds = retry_seconds
        self._count = count
        self._lock = threading.Lock()
        self._keys = 0
        self._counted_at: float | None = None

    def take(self, keys: int) -> None:
        """Note that so many keys will be added. Raises JobPaused, ZdbError."""
        with self._lock:
            now = time.monotonic()
            if self._counted_at is None or now - self._counted_at >= _COUNTED_SECONDS:
                self._keys = self._count()
                self._counted_at = now
            wanted = self._keys + keys
            require_key_room(wanted, self._limit_bytes, retry_seconds=self._retry_seconds)
            self._keys += keys
