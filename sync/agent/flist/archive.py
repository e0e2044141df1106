"""The outer layers of a flist: tar.gz with one file, flistdb.sqlite3 (0-flist: archive.c)."""

import gzip
import io
import os
import tarfile
import zlib
from pathlib import Path
from typing import Any, BinaryIO, Final

from sync.agent.flist.errors import FlistError, NeedsMoreError
from sync.contract import plain_files

DATABASE_NAME: Final = "flistdb.sqlite3"
# A flist is an index, not the data: the largest known are tens of MB.
MAX_DATABASE_BYTES: Final = 512 << 20
# A database of this size at most need not become a file to be read.
MAX_IN_MEMORY_BYTES: Final = 4 << 20
# Members other than the database that are skipped (directories, pax headers).
_MAX_MEMBERS: Final = 64
_READ: Final = 1 << 18
_GZIP: Final = b"\x1f\x8b"
# As many as a packer makes that cuts the largest database into blocks of 64 KiB, and more.
_MAX_GZIP_MEMBERS: Final = 1 << 14


class _Inflated(io.RawIOBase):
    """The plain bytes of a gzip file's members, one after the other, as they are asked for.

    goes_on: whether the next member is read where one ends. zflist reads all of them (archive.c,
    gzread), and a node the first one only (rfs: src/meta/mod.rs, GzDecoder).
    """

    def __init__(self, source: BinaryIO) -> None:
        self._source = source
        self._packed = b""
        self._members = 0
        self.goes_on = True
        self._begin_member()

    def _begin_member(self) -> None:
        # By its own header and trailer: the checksum is verified (RFC 1952, CRC32 and ISIZE).
        self._inflate = zlib.decompressobj(wbits=31)
        self._members += 1
        if self._members > _MAX_GZIP_MEMBERS:
            raise FlistError(f"gzip: more than {_MAX_GZIP_MEMBERS} members")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._inflate.eof or self._finds_another():
            packed = self._packed or self._source.read(_READ)
            try:
                plain = self._inflate.decompress(packed, len(buffer))
            except zlib.error as error:
                raise FlistError(f"gzip: {error}") from error
            self._packed = self._inflate.unconsumed_tail or self._inflate.unused_data
            if plain:
                buffer[: len(plain)] = plain
                return len(plain)
            if not packed:
                raise FlistError("gzip: truncated")
        return 0

    def _finds_another(self) -> bool:
        """Begin the member that follows, if one does and is wanted; anything else is ignored."""
        if not self.goes_on:
            return False
        while len(self._packed) < len(_GZIP) and (more := self._source.read(_READ)):
            self._packed += more
        if not self._packed.startswith(_GZIP):
            return False
        self._begin_member()
        return True


def _copy(plain: BinaryIO, amount: int, target: BinaryIO | None) -> None:
    """Copy `amount` bytes to `target`, or skip them. Raises FlistError at an early end."""
    while amount:
        part = plain.read(min(amount, _READ))
        if not part:
            raise FlistError("tar: truncated")
        if target is not None:
            target.write(part)
        amount -= len(part)


def _drain(plain: BinaryIO) -> None:
    """Read to the end, so that the gzip checksum is verified."""
    size = 0
    while part := plain.read(_READ):
        size += len(part)
        if size > MAX_DATABASE_BYTES:
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


def unpack(
    flist: Path, database: Path, *, keep: bool = True, most_bytes: int = MAX_DATABASE_BYTES
) -> bytes | None:
    """Write the database of `flist` to the file `database`; None is returned.

    keep: False where the file is not wanted for itself; a small database is then returned
    instead. most_bytes: of the file. Raises FlistError (NeedsMoreError), OSError.
    """
    with os.fdopen(plain_files.opened(flist), "rb") as source:
        inflated = _Inflated(source)
        plain = io.BufferedReader(inflated, _READ)
        for _ in range(_MAX_MEMBERS):
            header = plain.read(tarfile.BLOCKSIZE)
            # A block of zeros ends the archive.
            if len(header) < tarfile.BLOCKSIZE or not header.strip(b"\0"):
                break
            member = _member(header)
            if not _is_database(member):
                # Directories, and pax headers, which libtar writes none of and others may.
                _copy(plain, member.size + -member.size % tarfile.BLOCKSIZE, None)
                continue
            data = None
            if not keep and member.size <= MAX_IN_MEMORY_BYTES:
                data = plain.read(member.size)
                if len(data) < member.size:
                    raise FlistError("tar: truncated")
            elif member.size > most_bytes:
                # 400 KB of gzip may be 400 MB.
                raise NeedsMoreError(member.size)
            else:
                with database.open("wb") as target:
                    _copy(plain, member.size, target)
            # What follows the member in which the database ends is read by no node.
            inflated.goes_on = False
            _drain(plain)
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
