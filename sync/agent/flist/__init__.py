"""Flists: read which chunks one needs, and make it name this mirror's 0-db.

A flist is a tar.gz with an SQLite database of capnp messages. All of it is untrusted: any fault
raises FlistError, and no input costs more than its size and the limits allow. Nothing here
imports more than the standard library, so that a reader process starts quickly.
"""

from pathlib import Path

from sync.agent.flist.archive import pack, unpack
from sync.agent.flist.database import Backend, Contents, DirectoryCache, read, rewrite_backend


def read_flist(
    flist: Path, scratch: Path, cache: DirectoryCache | None = None, *, keep: bool = True
) -> Contents:
    """Read a flist; scratch: a file name for its database.

    keep: leave the database there for `rewrite_flist`; else it need not become a file at all.
    Raises FlistError, OSError.
    """
    data = unpack(flist, scratch, keep=keep)
    return read(scratch if data is None else data, cache)


def rewrite_flist(scratch: Path, target: Path, backend: Backend) -> None:
    """Write `target`: the flist whose database is `scratch`, naming `backend`.

    Equal input gives equal bytes. Raises FlistError, OSError.
    """
    rewrite_backend(scratch, backend)
    pack(scratch, target)
