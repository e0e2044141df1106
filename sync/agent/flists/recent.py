"""After a restart of the slave: the payloads that it got last, read back and proven.

zdbd does not fsync. After a power loss its index may name payloads that never reached the disk;
the number of keys does not tell. What was written last is what is at risk.
"""

from collections.abc import Callable
from typing import Final

from sync.agent.flists.mending import Mended, bad_keys, mend
from sync.agent.flists.walking import Stopped
from sync.agent.zdb import Cursor, ZdbConnection

# Stored and not counted yet when the slave went away.
_UNCOUNTED_ITEMS: Final = 4_000
_NAMED_LOOKS: Final = 4


def check_recent(
    master: ZdbConnection,
    slave: ZdbConnection,
    unsafe_items: int,
    stopping: Callable[[], bool],
) -> Mended:
    """Prove the slave's last entries, newest first, and fetch anew what is bad.

    unsafe_items: how many may not have reached the disk. Raises ZdbError, Stopped.
    """
    result = Mended()
    cursor: Cursor | None = None
    items = 0
    while items < unsafe_items + _UNCOUNTED_ITEMS:
        if stopping():
            raise Stopped
        page = slave.rscan(cursor)
        if page is None:
            break
        cursor = page.cursor
        items += len(page.entries)
        bad = bad_keys(slave, page.entries)
        if bad:
            result.stored += mend(master, slave, bad).stored
    return result


def check_named(master: ZdbConnection, slave: ZdbConnection, keys: list[bytes]) -> None:
    """Make the payloads of keys that prove nothing equal to the master's. Raises ZdbError.

    Looked at again after each mending: the master may overwrite them meanwhile.
    """
    for _ in range(_NAMED_LOOKS):
        there, here = master.mget(keys), slave.mget(keys)
        wrong = [
            key
            for key, right, ours in zip(keys, there, here, strict=True)
            if right is not None and right != ours
        ]
        if not wrong:
            return
        mend(master, slave, wrong)
