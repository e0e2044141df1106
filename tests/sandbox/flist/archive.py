"""The archive: a tar.gz with one SQLite file, flistdb.sqlite3.

Source: 0-flist, libflist/archive.c, database_sqlite.c, metadata.c.
"""

import gzip
import io
import json
import sqlite3
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Final

from tests.sandbox.flist.capnp import EncodingError
from tests.sandbox.flist.rows import row_numbers
from tests.sandbox.flist.tree import Access, Directory, path_key

_DATABASE: Final = "flistdb.sqlite3"
_ENTRIES: Final = "CREATE TABLE entries (key VARCHAR(64) PRIMARY KEY, value BLOB)"
_METADATA: Final = "CREATE TABLE metadata (key VARCHAR(64) PRIMARY KEY, value TEXT)"


class FormatError(ValueError):
    """Bytes that are no flist."""


@dataclass(frozen=True)
class Backend:
    """Where a flist's chunks are (its metadata `backend`)."""

    host: str
    port: int = 9900
    namespace: str = "default"

    def encode(self) -> str:
        """Return the JSON that stands in the archive, as `zflist metadata backend` writes it."""
        return json.dumps({"namespace": self.namespace, "host": self.host, "port": self.port})


@dataclass(frozen=True)
class Flist:
    """The objects of a flist by key, and its metadata by name, both in the order of their rows.

    rows: the number of each object's row where they are not 1, 2, 3 and so on.
    """

    entries: dict[str, bytes]
    metadata: dict[str, str] = field(default_factory=dict)
    rows: dict[str, int] = field(default_factory=dict)

    @classmethod
    def of(cls, directories: list[Directory], access: dict[str, Access]) -> "Flist":
        """Build from all directories of a tree and the access records that they name."""
        objects: dict[str, Directory | Access] = {one.key: one for one in directories}
        objects |= access
        rows = row_numbers(directories)
        return cls({key: objects[key].encode() for key in rows}, rows=rows)

    # -- content -----------------------------------------------------------------------------

    @property
    def backend(self) -> Backend | None:
        """Where the chunks are, None where the archive does not say."""
        text = self.metadata.get("backend")
        if text is None:
            return None
        try:
            found = json.loads(text)
            return Backend(str(found["host"]), int(found["port"]), str(found["namespace"]))
        except (ValueError, KeyError, TypeError) as error:
            raise FormatError(f"metadata backend {text[:80]!r} is no 0-db") from error

    def directory(self, path: str = "") -> Directory:
        """Return a directory by its path."""
        return self._directory(path_key(path), path)

    def _directory(self, key: str, path: str) -> Directory:
        if key not in self.entries:
            raise FormatError(f"directory {path!r} is not in the archive")
        try:
            return Directory.decode(self.entries[key])
        except (EncodingError, IndexError) as error:
            raise FormatError(f"directory {path!r}: {error}") from error

    def access(self, key: str) -> Access:
        """Return an access record by its key."""
        if key not in self.entries:
            raise FormatError(f"access record {key!r} is not in the archive")
        return Access.decode(self.entries[key])

    def walk(self) -> Iterator[Directory]:
        """Yield every directory, parents first."""
        waiting = [""]
        seen = set()
        while waiting:
            path = waiting.pop()
            if path in seen:
                raise FormatError(f"directory {path!r} contains itself")
            seen.add(path)
            directory = self.directory(path)
            yield directory
            waiting += [
                f"{path}/{inode.name}".lstrip("/")
                for inode in reversed(directory.inodes)
                if inode.kind == "directory"
            ]

    def chunk_keys(self) -> set[bytes]:
        """Return the 0-db key of every chunk."""
        return {
            chunk.id
            for directory in self.walk()
            for inode in directory.inodes
            for chunk in inode.chunks
        }

    # -- bytes -------------------------------------------------------------------------------

    def encode(self) -> bytes:
        """Return the archive; equal content gives equal bytes."""
        return _archive(self._database(_ENTRIES, _METADATA))

    def encode_of_2018(self) -> bytes:
        """Return the archive as zflist made it before June 2019: it has no table for metadata."""
        return _archive(replace(self, metadata={})._database(_ENTRIES))

    def _database(self, *tables: str) -> bytes:
        with sqlite3.connect(":memory:") as database:
            for table in tables:
                database.execute(table)
            database.executemany(
                "INSERT INTO entries(rowid, key, value) VALUES (?, ?, ?)",
                ((self.rows.get(key), key, value) for key, value in self.entries.items()),
            )
            if self.metadata:
                database.executemany("INSERT INTO metadata VALUES (?, ?)", self.metadata.items())
            database.commit()
            return database.serialize()

    @classmethod
    def decode(cls, data: bytes) -> "Flist":
        """Read an archive; raises FormatError."""
        try:
            whole = gzip.decompress(data)
            with tarfile.open(fileobj=io.BytesIO(whole), mode="r:") as tar:
                return cls._read_database(_member(tar))
        except (
            tarfile.TarError,
            OSError,
            EOFError,
            zlib.error,
            sqlite3.Error,
            ValueError,
        ) as error:
            raise FormatError(f"no flist: {error}") from error

    @classmethod
    def _read_database(cls, image: bytes) -> "Flist":
        database = sqlite3.connect(":memory:")
        try:
            database.deserialize(image)
            found = database.execute("SELECT rowid, key, value FROM entries").fetchall()
            metadata = dict(_metadata(database))
        finally:
            database.close()
        entries = {key: value for _, key, value in found}
        return cls(entries, metadata, {key: row for row, key, _ in found})


def _metadata(database: sqlite3.Connection) -> list[tuple[str, str]]:
    """Return what stands in the table metadata; zflist made none before June 2019."""
    tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master")}
    if "metadata" not in tables:
        return []
    return database.execute("SELECT key, value FROM metadata").fetchall()


def _member(tar: tarfile.TarFile) -> bytes:
    for member in tar:
        if member.isfile() and member.name.removeprefix("./") == _DATABASE:
            content = tar.extractfile(member)
            if content is not None:
                return content.read()
    raise FormatError(f"the archive holds no {_DATABASE}")


def _archive(database: bytes) -> bytes:
    return gzip.compress(_tar(database), compresslevel=6, mtime=0)


def _tar(database: bytes) -> bytes:
    """Return a tar as libtar's tar_append_tree makes it: the directory, then the file."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.GNU_FORMAT) as tar:
        top = tarfile.TarInfo(".")
        top.type, top.mode = tarfile.DIRTYPE, 0o755
        tar.addfile(top)
        member = tarfile.TarInfo(f"./{_DATABASE}")
        member.size, member.mode = len(database), 0o644
        tar.addfile(member, io.BytesIO(database))
    return out.getvalue()
