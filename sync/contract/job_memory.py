"""How the jobs share out the memory of their containers, and which limits hold what they must.

A limit that is too small would not be told by anything but a killed process, so the settings refuse
it. The numbers are measured (docs/containers.md has the table of what each job takes).
"""

from typing import Final

from sync.contract.spec import FlistsOptions

MIB: Final = 1 << 20
# What a job takes before anything has come: interpreter, libraries, threads, sockets.
OWN_BYTES: Final = 64 * MIB
# Of the rest: an allocator keeps pages that are only partly used.
_USED_TENTHS: Final = 8

# The flists job. A page of the listing that takes no more needs no leave, nor does the reply to a
# batch of the usual size; both are several times what 0-dbs send.
PAGE_BYTES: Final = 2 * MIB
REPLY_BYTES: Final = 2 * MIB
# Replies that the mirror has not acknowledged, keys that are listed and not fetched, pages that the
# mirror is asked about.
_QUEUES_BYTES: Final = 24 * MIB
# Beside the pages of its own listing: key sets compared part by part, chunks refetched.
_COMPARING_BYTES: Final = 32 * MIB
# The largest payload with its frame (0-db: zdbd/redis.h, REDIS_MAX_PAYLOAD), in a receive buffer.
_LARGEST_BYTES: Final = 12 * MIB
# So much of a page is never needed, whatever the limit is.
_LARGEST_PAGE_BYTES: Final = 64 * MIB

# The users job: chunks on their way, and the least that one flist after the other is read in.
PAYLOADS_BYTES: Final = 36 * MIB
LEAST_READING_BYTES: Final = 24 * MIB
# Names of flists or kernels, some ten thousand of them.
_LEAST_NAMES_BYTES: Final = 16 * MIB


def room_bytes(memory_limit_mb: int) -> int:
    """Return what a job may keep of what comes to it, with so many MiB for its container."""
    return max(0, memory_limit_mb * MIB - OWN_BYTES) * _USED_TENTHS // 10


def largest_page_bytes(memory_limit_mb: int) -> int:
    """Return what one page of a listing may take in the flists job."""
    return min(_LARGEST_PAGE_BYTES, room_bytes(memory_limit_mb) // 8)


def flists_standing_bytes(options: FlistsOptions, memory_limit_mb: int) -> int:
    """Return what the flists job sets aside for what needs no leave of its budget."""
    # Each scanner has a page that is being copied and one that is being received.
    return (
        2 * options.scanners * PAGE_BYTES
        + options.connections * REPLY_BYTES
        + _QUEUES_BYTES
        + _COMPARING_BYTES
        + largest_page_bytes(memory_limit_mb)
    )


def flists_fits(options: FlistsOptions, memory_limit_mb: int) -> bool:
    """Return whether the flists job can take each chunk that a 0-db can have."""
    largest = max(_LARGEST_BYTES, 2 * options.batch_bytes)
    standing = flists_standing_bytes(options, memory_limit_mb)
    return standing + largest <= room_bytes(memory_limit_mb)


def users_fits(memory_limit_mb: int) -> bool:
    """Return whether the users job can take the largest chunks, and read one usual flist."""
    standing = PAYLOADS_BYTES + LEAST_READING_BYTES + _LEAST_NAMES_BYTES
    return standing <= room_bytes(memory_limit_mb)


def kernels_fits(memory_limit_mb: int) -> bool:
    """Return whether the kernels job can read a list of some ten thousand kernels."""
    return room_bytes(memory_limit_mb) >= _LEAST_NAMES_BYTES
