"""Free TCP ports for servers that are started later: none is handed out to two processes.

A port is claimed by locking its byte of one file that all test processes of this user share. A
claim ends with the process that made it, however it ends.
"""

import fcntl
import os
import random
import socket
from functools import cache
from pathlib import Path
from typing import BinaryIO, Final

# Below the ports that connections are given, so that none of them takes one meanwhile.
_RANGE: Final = range(20_000, 32_000)
_handed_out: set[int] = set()


def free_port() -> int:
    """Return a port that nobody listens on and that this call alone returns."""
    for port in random.sample(_RANGE, len(_RANGE)):
        if port not in _handed_out and _claimed(port) and _nobody_listens(port):
            _handed_out.add(port)
            return port
    raise RuntimeError(f"no port of {_RANGE.start}-{_RANGE.stop - 1} is free")


def _claimed(port: int) -> bool:
    try:
        # A record lock: a process that was forked off does not share it.
        fcntl.lockf(_claims(os.getpid()), fcntl.LOCK_EX | fcntl.LOCK_NB, 1, port)
    except OSError:
        return False
    return True


@cache
def _claims(_process: int) -> BinaryIO:
    """Return the file of claims; it must stay open, for closing it would give up all of them."""
    # Not where TMPDIR leads: each run has a folder of its own there.
    return Path(f"/tmp/gridhub-ports-{os.getuid()}").open("ab")


def _nobody_listens(port: int) -> bool:
    family = socket.AF_INET6 if socket.has_dualstack_ipv6() else socket.AF_INET
    with socket.socket(family) as probe:
        if family == socket.AF_INET6:
            probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        try:
            probe.bind(("", port))
        except OSError:
            return False
    return True
