"""Upstream's way, reimplemented: for every entry two requests to the master, one by one."""

import time

from sync.agent.zdb import ZdbConnection
from sync.contract.spec import ZdbEndpoint


def per_second(source: ZdbEndpoint, local: ZdbEndpoint, password: str, seconds: float) -> float:
    """Copy for about `seconds` and return entries per second.

    For each entry its time, then its payload, then SET on the slave; TCP_NODELAY on both.
    """
    with (
        ZdbConnection.open(source) as master,
        ZdbConnection.open(local, password) as slave,
    ):
        page = master.scan()
        if page is None:
            raise RuntimeError("the master is empty")
        copied = 0
        started = time.monotonic()
        for entry in page.entries:
            timestamp = master.call(b"KEYTIME", entry.key)
            payload = master.get(entry.key)
            if payload is None or not isinstance(timestamp, int):
                raise RuntimeError("the master lost an entry")
            slave.set(entry.key, payload, timestamp)
            copied += 1
            if time.monotonic() - started >= seconds:
                break
        return copied / (time.monotonic() - started)
