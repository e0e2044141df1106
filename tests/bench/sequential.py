"""Upstream's way, reimplemented: for every entry two requests to the master, one by one."""

import time
from collections.abc import Iterator
from typing import Final

from sync.agent.zdb.connection import ZdbConnection
from sync.agent.zdb.scan_pages import Entry
from sync.contract.spec import ZdbEndpoint

# More than are copied in any sample: listed before the clock starts.
_LISTED: Final = 20_000


def per_second(source: ZdbEndpoint, local: ZdbEndpoint, password: str, seconds: float) -> float:
    """Copy for about `seconds` and return entries per second.

    For each entry its time, then its payload, then SET on the slave; TCP_NODELAY on both.
    """
    with (
        ZdbConnection.open(source) as master,
        ZdbConnection.open(local, password) as slave,
    ):
        entries = list(_listed(master))
        if not entries:
            raise RuntimeError("the master is empty")
        copied = 0
        started = time.monotonic()
        for entry in entries:
            timestamp = master.call(b"KEYTIME", entry[0])
            (payload,) = master.mget([entry[0]])
            if payload is None or not isinstance(timestamp, int):
                raise RuntimeError("the master lost an entry")
            slave.set_many([(entry[0], payload, timestamp)])
            copied += 1
            if time.monotonic() - started >= seconds:
                break
        return copied / (time.monotonic() - started)


def _listed(master: ZdbConnection) -> Iterator[Entry]:
    """List the first entries: a page may be of a few dozen only."""
    cursor = None
    count = 0
    while count < _LISTED and (page := master.scan(cursor)):
        cursor = page.cursor
        count += len(page.entries)
        yield from page.entries
