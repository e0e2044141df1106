"""Flist archives, their databases, and the messages in them."""

import gzip
import io
import sqlite3
import tarfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Final

from sync.agent.flist import read_flist, rewrite_flist
from sync.agent.flist.database import Backend
from sync.agent.flist.errors import FlistError
from tests.fuzz.target import RECORDINGS, Target, promise

_BACKEND: Final = Backend("mirror.test", 9900, "default")
_SMALL: Final = ("names", "system")
_MOST_KEY_BYTES: Final = 255


def _archive(database: bytes) -> bytes:
    packed = io.BytesIO()
    with gzip.GzipFile("", "wb", 1, packed, mtime=0) as stream:
        member = tarfile.TarInfo("flistdb.sqlite3")
        member.size = len(database)
        with tarfile.open(fileobj=stream, mode="w", format=tarfile.USTAR_FORMAT) as archive:
            archive.addfile(member, io.BytesIO(database))
    return packed.getvalue()


def _database(message: bytes) -> bytes:
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.execute("CREATE TABLE entries (key VARCHAR(64) PRIMARY KEY, value BLOB)")
        connection.execute("INSERT INTO entries VALUES ('k', ?)", (message,))
        connection.commit()
        return connection.serialize()


def _messages() -> Iterator[bytes]:
    for name in _SMALL:
        with closing(sqlite3.connect(":memory:")) as connection:
            connection.deserialize(_plain(name))
            for (value,) in connection.execute("SELECT value FROM entries LIMIT 40"):
                yield value


def _plain(name: str) -> bytes:
    with tarfile.open(RECORDINGS / "flists" / f"{name}.flist") as archive:
        member = next(one for one in archive if one.name.endswith("flistdb.sqlite3"))
        file = archive.extractfile(member)
        return file.read() if file else b""


def run(data: bytes, scratch: Path) -> None:
    """Read as an archive, as an archive's plain bytes, as a database or as one of its messages."""
    how, data = data[:1], data[1:]
    if how == b"t":
        data = gzip.compress(data, 1, mtime=0)
    elif how == b"d":
        data = _archive(data)
    elif how != b"a":
        data = _archive(_database(data))
    flist, database = scratch / "flist", scratch / "database"
    flist.write_bytes(data)
    try:
        contents = read_flist(flist, database)
    except FlistError as error:
        str(error).encode()
        return
    keys = [key for directory in contents.directories for key in directory.keys]
    promise(all(0 < len(key) <= _MOST_KEY_BYTES for key in keys), "a key that 0-db cannot have")
    try:
        rewrite_flist(database, flist, _BACKEND)
    except FlistError:
        return
    again = read_flist(flist, database)
    promise(again.backend == _BACKEND, "another backend than was written")
    kept = [key for directory in again.directories for key in directory.keys]
    promise(kept == keys, "other keys than before it was rewritten")


def seeds() -> Iterator[bytes]:
    """Return the flists that zflist packed, layer by layer."""
    for name in _SMALL:
        yield b"a" + (RECORDINGS / "flists" / f"{name}.flist").read_bytes()
        database = _plain(name)
        yield b"t" + gzip.decompress(_archive(database))
        yield b"d" + database
    yield b"d" + _database(b"")
    for message in _messages():
        yield b"m" + message


TARGET: Final = Target(
    "flists",
    run,
    seeds,
    (
        b"CREATE TABLE entries",
        b"CREATE VIEW",
        b"metadata",
        b"backend",
        b"ustar",
        b"SQLite format 3\0",
    ),
)
