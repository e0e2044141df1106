"""After a restart of the slave: the payloads that it got last, read back and checked.

zdbd as it is run does not fsync what it writes (libzdb/data.c, data_sync_check). After a power loss
its index may name payloads that never reached the disk; the number of keys does not show it. What
was written last, by whomever, is what is at risk: it stands at the end of the slave's index.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Final

from sync.agent.chunks.reconcile.refetch import bad_keys, refetch
from sync.agent.chunks.scan.cut_points import accepts
from sync.agent.chunks.scan.full_scan import Stopped
from sync.agent.zdb import Cursor, ZdbConnection

_PLAIN_LOOKS: Final = 4
_NEWEST_KEYS: Final = 8


def newest(connection: ZdbConnection) -> str:
    """Return the cursor (hex) of a namespace's newest entry; empty where it has none."""
    page = connection.scan(backwards=True)
    if page is None:
        return ""
    # The page's own cursor stands on its oldest entry (zdbd/commands_scan.c); and the newest entry
    # may have been deleted since it was listed.
    cursors = connection.keycur([entry.key for entry in page.entries[:_NEWEST_KEYS]])
    return next((cursor.hex for cursor in cursors if cursor), page.cursor.hex)


def earlier(one: str, other: str) -> str:
    """Return the one of two cursors (hex) that comes first; an empty one is the start."""
    if not one or not other:
        return ""
    return min(one, other, key=lambda text: Cursor.from_hex(text).position)


def prove(
    master: ZdbConnection, slave: ZdbConnection, start: str, stopping: Callable[[], bool]
) -> Iterator[tuple[str, int]]:
    """Check what the slave has now after `start` (hex), page by page; fetch again what is bad.

    Yields where each page ends (hex) and how many of its keys were stored again. Raises ZdbError,
    Stopped.
    """
    last = newest(slave)
    cursor = Cursor.from_hex(start) if start else None
    # A slave that knows no such cursor lost more than the last minute: all of it is checked.
    if cursor and not accepts(slave, cursor):
        cursor = None
    while last and (cursor is None or cursor.position < Cursor.from_hex(last).position):
        if stopping():
            raise Stopped
        page = slave.scan(cursor)
        if page is None:
            return
        cursor = page.cursor
        yield cursor.hex, refetch(master, slave, bad_keys(slave, page.entries)).stored


def check_plain_keys(master: ZdbConnection, slave: ZdbConnection, keys: Sequence[bytes]) -> None:
    """Make the payloads of plain keys equal to the master's. Raises ZdbError."""
    # Looked at again after each refetch: the master may overwrite them meanwhile.
    for _ in range(_PLAIN_LOOKS):
        there, here = master.mget(keys), slave.mget(keys)
        wrong = [
            key
            for key, right, ours in zip(keys, there, here, strict=True)
            if right is not None and right != ours
        ]
        if not wrong:
            return
        refetch(master, slave, wrong)
