"""The outer layers of a flist: tar.gz with one file, flistdb.sqlite3 (0-flist: archive.c)."""

import gzip
import tarfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

from sync.agent.flist.errors import FlistError

DATABASE_NAME: Final = "flistdb.sqlite3"
# A flist is an index, not the data: the largest known are tens of MB.
MAX_DATABASE_BYTES: Final = 512 << 20
# A database of this size at most need not become a file to be read.
MAX_IN_MEMORY_BYTES: Final = 16 << 20
# Members other than the database that are skipped (directories, pax headers).
_MAX_MEMBERS: Final = 64
_BLOCK: Final = 512
_READ: Final = 1 << 18
_GZIP: Final = 31


def _inflated(source: BinaryIO) -> Iterator[bytes]:
    """Yield the plain bytes of a gzip file, at most _READ at a time."""
    inflate = zlib.decompressobj(wbits=_GZIP)
    pending = b""
    while True:
        pending = pending or source.read(_READ)
        try:
            plain = inflate.decompress(pending, _READ)
        except zlib.error as error:
            raise FlistError(f"gzip: {error}") from error
        if plain:
            yield plain
        if inflate.eof:
            return
        if not pending and not plain:
            raise FlistError("gzip: truncated")
        pending = inflate.unconsumed_tail


class _Plain:
    """Exact reads from the plain bytes."""

    def __init__(self, source: BinaryIO) -> None:
        self._parts = _inflated(source)
        self._buffer = b""
        self._at = 0

    def take(self, amount: int) -> bytes:
        """Return up to `amount` bytes, nothing at the end."""
        if self._at == len(self._buffer):
            self._buffer, self._at = next(self._parts, b""), 0
        taken = self._buffer[self._at : self._at + amount]
        self._at += len(taken)
        return taken

    def exactly(self, amount: int) -> bytes:
        """Return `amount` bytes, fewer only at the end."""
        parts: list[bytes] = []
        while amount and (part := self.take(amount)):
            parts.append(part)
            amount -= len(part)
        return b"".join(parts)

    def copy(self, amount: int, target: BinaryIO | None) -> None:
        """Copy `amount` bytes to `target`, or skip them. Raises FlistError at an early end."""
        while amount:
            part = self.take(amount)
            if not part:
                raise FlistError("tar: truncated")
            if target is not None:
                target.write(part)
            amount -= len(part)

    def drain(self, limit: int) -> None:
        """Read to the end, so that the gzip checksum is checked; at most `limit` bytes."""
        while part := self.take(_READ):
            limit -= len(part)
            if limit < 0:
                raise FlistError(f"tar: longer than {MAX_DATABASE_BYTES} bytes")


def _member(header: bytes) -> tarfile.TarInfo:
    try:
        member = tarfile.TarInfo.frombuf(header, "ascii", "replace")
    except tarfile.HeaderError as error:
        raise FlistError(f"tar: {error}") from error
    if not 0 <= member.size <= MAX_DATABASE_BYTES:
        raise FlistError(f"tar: a member of {member.size} bytes")
    return member


def _is_database(member: tarfile.TarInfo) -> bool:
    # zflist appends the tree ".", so that its names may start with "./" (archive.c).
    name = member.name.removeprefix("./")
    return name == DATABASE_NAME and member.type in {tarfile.REGTYPE, tarfile.AREGTYPE}


def unpack(flist: Path, database: Path, *, keep: bool = True) -> bytes | None:
    """Write the database of `flist` to the file `database`; None is returned.

    keep: False where the file is not wanted for itself; a small database is then returned
    instead. Raises FlistError, OSError.
    """
    with flist.open("rb") as source:
        plain = _Plain(source)
        for _ in range(_MAX_MEMBERS):
            header = plain.exactly(_BLOCK)
            if len(header) < _BLOCK or not header.strip(b"\0"):
                break
            member = _member(header)
            size = member.size
            if not _is_database(member):
                plain.copy(size + -size % _BLOCK, None)
                continue
            data = None
            if not keep and size <= MAX_IN_MEMORY_BYTES:
                data = plain.exactly(size)
                if len(data) < size:
                    raise FlistError("tar: truncated")
            else:
                with database.open("wb") as target:
                    plain.copy(size, target)
            plain.drain(MAX_DATABASE_BYTES)
            return data
    raise FlistError(f"tar: holds no {DATABASE_NAME}")


def pack(database: Path, flist: Path) -> None:
    """Write a flist that holds `database`: equal databases give equal bytes.

    Raises OSError.
    """
    member = tarfile.TarInfo(DATABASE_NAME)
    member.size = database.stat().st_size
    with (
        database.open("rb") as source,
        flist.open("wb") as target,
        # No name and no time in the header (RFC 1952, FNAME and MTIME), so that bytes are equal.
        # Level 1: a node reads this once, the mirror writes it for every flist.
        gzip.GzipFile("", "wb", fileobj=target, compresslevel=1, mtime=0) as stream,
        # libtar, which zflist extracts by (archive.c), knows no pax headers.
        tarfile.TarFile(
            mode="w", fileobj=stream, format=tarfile.USTAR_FORMAT, copybufsize=_READ
        ) as archive,
    ):
        archive.addfile(member, source)
