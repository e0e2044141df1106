"""Client of the 0-db protocol (RESP over TCP, 0-db: zdbd/redis.c): bounded, pipelined, stdlib only.

Everything that a server may answer is treated as hostile: lengths are limited before anything is
allocated, and all that can go wrong is one family of exceptions, ZdbError.
"""

from sync.agent.zdb.connection import ZdbConnection
from sync.agent.zdb.errors import (
    ZdbAuthError,
    ZdbConnectionError,
    ZdbError,
    ZdbProtocolError,
    ZdbReplyError,
    ZdbTimeoutError,
)
from sync.agent.zdb.namespace_info import NamespaceInfo
from sync.agent.zdb.scan_pages import Cursor, Entry

__all__ = [
    "Cursor",
    "Entry",
    "NamespaceInfo",
    "ZdbAuthError",
    "ZdbConnection",
    "ZdbConnectionError",
    "ZdbError",
    "ZdbProtocolError",
    "ZdbReplyError",
    "ZdbTimeoutError",
]
