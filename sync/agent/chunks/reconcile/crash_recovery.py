"""After a restart of the slave: the payloads that it got last, read back and checked.

zdbd as it is run does not fsync what it writes (libzdb/data.c, data_sync_check). After a power loss
its index may name payloads that never reached the disk; the number of keys does not show it. What
was written last, by whomever, is what is at risk: it stands at the end of the slave's index.
"""

import time
from typing import Final

from sync.agent.chunks.checkpoint import Checkpoint
from sync.agent.chunks.reconcile.refetch import bad_keys, digests_of, refetch
from sync.agent.chunks.reconcile.tasks import Finding, TaskContext
from sync.agent.zdb.connection import ZdbConnection
from sync.agent.zdb.namespace_info import boot_of
from sync.agent.zdb.scan_pages import Cursor

_PLAIN_LOOKS: Final = 4


def slave_end(slave: ZdbConnection) -> tuple[float, str]:
    """Return how far the slave's index goes: (unix time, cursor in hex, empty: it has no entry)."""
    newest = slave.newest_cursor()
    return time.time(), newest.hex if newest else ""


def after_restart(slave: ZdbConnection, checkpoint: Checkpoint) -> Checkpoint:
    """Distrust what the slave got last if it was started anew: it may not be on its disk."""
    # The kind of stop is not said: a start at another time is all that shows a power loss
    # (zdbd/commands_system.c, command_info).
    boot = boot_of(slave.info())
    if checkpoint.slave_boot not in ("", boot):
        safe, unproven = checkpoint.safe_cursor(), checkpoint.unproven
        if safe is not None:
            unproven = safe if unproven is None else _earlier(safe, unproven)
        checkpoint = checkpoint.changed(unproven=unproven, slave_ends=())
    if not checkpoint.slave_ends:
        checkpoint = checkpoint.changed(slave_ends=(slave_end(slave),))
    return checkpoint.changed(slave_boot=boot)


def _earlier(one: str, other: str) -> str:
    """Return the one of two cursors (hex) that comes first; an empty one is the start."""
    if not one or not other:
        return ""
    return min(one, other, key=lambda text: Cursor.from_hex(text).position)


def prove(context: TaskContext, checkpoint: Checkpoint) -> None:
    """Check what the slave got last before it was started anew, page by page; refetch what is bad.

    A kill goes on from the last page. Raises ZdbError, Stopped.
    """
    with context.connections() as (master, slave):
        last = slave.newest_cursor()
        cursor = Cursor.from_hex(checkpoint.unproven) if checkpoint.unproven else None
        # A slave that knows no such cursor lost more than the last minute: all of it is checked.
        if cursor and not slave.accepts(cursor):
            cursor = None
        while last and (cursor is None or cursor.position < last.position):
            context.check_stop()
            page = slave.scan(cursor)
            if page is None:
                break
            cursor = page.cursor
            stored = refetch(master, slave, bad_keys(slave, page.entries)).stored
            context.report(Finding({"unproven": cursor.hex}, {"mended_items": stored}))
    context.report(Finding({"unproven": None}, look_in_seconds=0))


def check_plain_keys(context: TaskContext, checkpoint: Checkpoint) -> None:
    """Make the last payloads of plain keys equal to the master's. Raises ZdbError."""
    keys = [bytes.fromhex(key) for key in checkpoint.named]
    with context.connections() as (master, slave):
        # Looked at again after each refetch: the master may overwrite them meanwhile.
        for _ in range(_PLAIN_LOOKS):
            there, here = digests_of(master, keys), digests_of(slave, keys)
            wrong = [key for key, right in there.items() if right != here.get(key)]
            if not wrong:
                return
            refetch(master, slave, wrong)
