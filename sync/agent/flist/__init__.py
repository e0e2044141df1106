"""Flists: read which chunks one needs, and make it name this mirror's 0-db.

A flist is a tar.gz with an SQLite database of capnp messages. All of it is untrusted: any fault
raises FlistError, and no input costs more than its size and the limits allow. Nothing here
imports more than the standard library, so that a reader process starts quickly.
"""

from pathlib import Path
from typing import NamedTuple

from sync.agent.flist.archive import MAX_DATABASE_BYTES, pack, unpack
from sync.agent.flist.capnp import MAX_KEY_BYTES
from sync.agent.flist.database import (
    MAX_KEYS,
    Backend,
    Contents,
    DirectoryCache,
    read,
    rewrite_backend,
)


class Grant(NamedTuple):
    """What reading a flist may take: of the disk, and of memory for all of its chunk keys."""

    scratch_bytes: int = MAX_DATABASE_BYTES
    key_bytes: int = MAX_KEYS * MAX_KEY_BYTES


def read_flist(
    flist: Path,
    scratch: Path,
    cache: DirectoryCache | None = None,
    *,
    keep: bool = True,
    grant: Grant = Grant(),  # noqa: B008 - frozen
) -> Contents:
    """Read a flist; scratch: a file name for its database.

    keep: leave the database there for `rewrite_flist`; else it need not become a file at all.
    Raises FlistError, NeedsMoreError where the grant is too small, OSError.
    """
    data = unpack(flist, scratch, keep=keep, most_bytes=grant.scratch_bytes)
    return read(scratch if data is None else data, cache, grant.key_bytes)


def rewrite_flist(scratch: Path, target: Path, backend: Backend) -> None:
    """Write `target`: the flist whose database is `scratch`, naming `backend`.

    Equal input gives equal bytes. Raises FlistError, OSError.
    """
    rewrite_backend(scratch, backend)
    pack(scratch, target)
