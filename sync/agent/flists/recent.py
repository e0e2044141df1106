"""After a restart of the slave: the payloads that it got last, read back and proven.

zdbd does not fsync. After a power loss its index may name payloads that never reached the disk;
the number of keys does not tell. What was written last is what is at risk.
"""

from collections.abc import Callable
from typing import Final

from sync.agent.flists.mending import Mended, bad_keys, mend
from sync.agent.flists.walking import Stopped
from sync.agent.zdb import Cursor, ZdbConnection

# The kernel writes dirty pages back within about half a minute; this is what fits into that.
_CHECKED_BYTES: Final = 2 << 30
_CHECKED_ITEMS: Final = 200_000


def check_recent(
    master: ZdbConnection, slave: ZdbConnection, stopping: Callable[[], bool]
) -> Mended:
    """Prove the slave's last entries, newest first, and fetch anew what is bad.

    Raises ZdbError, Stopped.
    """
    result = Mended()
    cursor: Cursor | None = None
    items = size = 0
    while items < _CHECKED_ITEMS and size < _CHECKED_BYTES:
        if stopping():
            raise Stopped
        page = slave.rscan(cursor)
        if page is None:
            break
        cursor = page.cursor
        items += len(page.entries)
        size += sum(entry.length_bytes for entry in page.entries)
        bad = bad_keys(slave, page.entries)
        if bad:
            result.stored += mend(master, slave, bad).stored
    return result
