"""What a plugin is as a process: it serves on loopback, prints its port, ends with its parent.

An engine starts a plugin as a child and ends it by SIGINT or SIGTERM when it is done; should the
engine be killed, the plugin notices that it has another parent and ends by itself.
"""

from __future__ import annotations

import os
import signal
import threading

import grpc

_PARENT_POLL_SECONDS = 1.0
_STOP_SECONDS = 2.0


def serve(server: grpc.Server) -> None:
    """Serve on a free port of loopback until the parent is gone or a signal comes."""
    parent = os.getppid()
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(port, flush=True)
    while not ended.wait(_PARENT_POLL_SECONDS):
        if os.getppid() != parent:
            break
    server.stop(_STOP_SECONDS)
