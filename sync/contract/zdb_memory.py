"""How much memory 0-db takes for its keys, and how many keys a memory limit has room for.

zdbd loads its whole index at start and keeps it: one table of 2^24 pointers for all namespaces
(0-db: libzdb/index_branch.c, `buckets_branches`), and an entry for each key. Past its limit it is
killed, and again at each start, so no job may fill it that far.

Measured with 0-db 2.0.7 and 16-byte keys: 2,038,397 keys, 399 MB.
"""

from typing import Final

MIB: Final = 1 << 20
TABLE_BYTES: Final = 8 << 24
KEY_BYTES: Final = 130
# The tenth left free of a limit: buffers of connections (160 KB of requests make replies of many
# MB), and what is written between two looks at the number of keys. No float: the number of keys is
# what a master says.
_USED_TENTHS: Final = 9
# Left of a host's memory to everything else: hub, edge, bootstrap, the jobs, the system.
REST_OF_HOST_BYTES: Final = 1 << 30


def bytes_for(keys: int) -> int:
    """Return the memory limit, in bytes, that so many keys of all namespaces need."""
    return (TABLE_BYTES + KEY_BYTES * keys) * 10 // _USED_TENTHS + 1


def mib_for(keys: int) -> int:
    """Return the least `limits.zdb.memoryMb` (MiB) that has room for so many keys."""
    return -(-bytes_for(keys) // MIB)


def keys_within(limit_bytes: int) -> int:
    """Return how many keys of all namespaces a memory limit has room for; 0 where none."""
    return max(0, (limit_bytes * _USED_TENTHS // 10 - TABLE_BYTES) // KEY_BYTES)


# What 0-db needs without a single key: a lower limit cannot be meant.
LEAST_MIB: Final = mib_for(0)
