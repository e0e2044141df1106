"""The database inside a flist (0-flist: database_sqlite.c): read, and its backend rewritten.

The file comes from a stranger: it is opened read-only and immutable, its schema must be the two
plain tables and nothing else (no view, trigger, index or virtual table that SQLite would run),
functions are refused, sizes and steps are limited. The table metadata may be missing: zflist
writes it since June 2019, and nodes mount older flists.
"""

import contextlib
import errno
import hashlib
import json
import re
import sqlite3
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import quote

from sync.agent.flist.capnp import chunk_keys
from sync.agent.flist.errors import FlistError, NeedsMoreError, NoMessageError
from sync.agent.flist.keys import GROUP_BYTES, pack_keys, unpack_keys

# Counted up when flists are accepted that were refused before: mirrors then read those again.
ACCEPTED: Final = 4
MAX_VALUE_BYTES: Final = 64 << 20
MAX_KEYS: Final = 16 << 20
_MAX_BACKEND_BYTES: Final = 4096
# What an entry of the cache costs in memory beside its keys, about.
_ENTRY_BYTES: Final = 256
_STEPS_PER_CALL: Final = 100_000
_HEADER_BYTES: Final = 100
_MAX_CALLS: Final = 20_000
# What a write fails with when the disk does: no fault of the flist.
_DISK_ERRORS: Final = {
    sqlite3.SQLITE_FULL: errno.ENOSPC,
    sqlite3.SQLITE_IOERR_WRITE: errno.EIO,
    sqlite3.SQLITE_IOERR_TRUNCATE: errno.EIO,
}
_ALLOWED: Final = frozenset({sqlite3.SQLITE_READ, sqlite3.SQLITE_SELECT, sqlite3.SQLITE_PRAGMA})
_COLUMN: Final = r'"?(?:key|value)"?\s+(?:VARCHAR\s*\(\s*\d+\s*\)|TEXT|BLOB)(?:\s+PRIMARY KEY)?'
# BLAKE2b of the empty path (flist_tools.c, libflist_path_key; rfs: src/meta/mod.rs, ROOT_HASH).
_ROOT: Final = "cae66941d9efbd404e4d88758ea67670"
# A node takes a text for bytes as well (Rust crate sqlx, sqlite: Vec<u8> is compatible with TEXT).
_ENTRIES: Final = "SELECT CAST(value AS BLOB), key IS ? FROM entries"
# As zflist makes it (database_sqlite.c).
_METADATA: Final = "CREATE TABLE IF NOT EXISTS metadata (key VARCHAR(64) PRIMARY KEY, value TEXT)"
_HAS_METADATA: Final = (
    "SELECT 1 FROM sqlite_schema WHERE type='table' AND name='metadata' COLLATE NOCASE"
)
_TABLE: Final = re.compile(
    rf'\s*CREATE TABLE "?(entries|metadata)"?\s*\(\s*{_COLUMN}\s*,\s*{_COLUMN}\s*\)\s*',
    re.IGNORECASE | re.ASCII,
)


class Backend(NamedTuple):
    """Where a flist says that its chunks are."""

    host: str
    port: int
    namespace: str


class Directory:
    """The chunk keys of one directory, packed; number: the cache's, which no other directory has.

    cached: it stays in the cache, until that begins anew. sent: the process that asked for keys
    already has these (set by reader_process).
    """

    __slots__ = ("cached", "count", "number", "packed", "sent")

    def __init__(self, number: int, keys: list[bytes]) -> None:
        self.number = number
        self.count = len(keys)
        self.packed = pack_keys(keys)
        self.cached = False
        self.sent = False

    @property
    def keys(self) -> list[bytes]:
        """The keys."""
        return unpack_keys(self.packed)


class Contents(NamedTuple):
    """What the mirror needs to know of a flist: where its chunks are, and their keys.

    directories: those that name chunks, each once.
    """

    backend: Backend | None
    directories: tuple[Directory, ...]


def _limited(database: sqlite3.Connection) -> None:
    limits = {
        sqlite3.SQLITE_LIMIT_LENGTH: MAX_VALUE_BYTES,
        sqlite3.SQLITE_LIMIT_SQL_LENGTH: 4096,
        sqlite3.SQLITE_LIMIT_COLUMN: 16,
        sqlite3.SQLITE_LIMIT_EXPR_DEPTH: 16,
        sqlite3.SQLITE_LIMIT_ATTACHED: 0,
        sqlite3.SQLITE_LIMIT_TRIGGER_DEPTH: 0,
        sqlite3.SQLITE_LIMIT_WORKER_THREADS: 0,
    }
    for limit, value in limits.items():
        database.setlimit(limit, value)
    calls = iter(range(_MAX_CALLS))
    database.set_progress_handler(lambda: next(calls, None) is None, _STEPS_PER_CALL)
    for pragma in ("trusted_schema=OFF", "cell_size_check=ON", "mmap_size=0"):
        database.execute(f"PRAGMA {pragma}")


@contextlib.contextmanager
def _opened(source: Path | bytes, mode: str) -> Iterator[sqlite3.Connection]:
    """Open a file in a mode of SQLite's URIs, or a copy of bytes in memory."""
    is_file = isinstance(source, Path)
    target = f"file:{quote(str(source))}?mode={mode}" if is_file else ":memory:"
    try:
        database = sqlite3.connect(target, uri=True, isolation_level=None)
    except sqlite3.Error as error:
        raise FlistError(f"sqlite: {error}") from error
    try:
        if isinstance(source, bytes):
            database.deserialize(_without_wal(source))
        _limited(database)
        _check_schema(database)
        yield database
    except (sqlite3.Error, OverflowError, UnicodeError) as error:
        code = getattr(error, "sqlite_errorcode", None)
        if code in _DISK_ERRORS:
            raise OSError(_DISK_ERRORS[code], f"sqlite: {error}") from error
        raise FlistError(f"sqlite: {error}") from error
    finally:
        database.close()


def _without_wal(data: bytes) -> bytes:
    """Return a database that may be opened in memory: one in WAL mode may not."""
    if len(data) < _HEADER_BYTES:
        raise FlistError(f"sqlite: {len(data)} bytes are no database")
    # Write and read version: 2 is WAL, 1 the rollback journal (sqlite.org/fileformat2.html, 1.3.3).
    return data[:18] + b"\1\1" + data[20:] if data[18:20] == b"\2\2" else data


def _check_schema(database: sqlite3.Connection) -> None:
    tables: set[str] = set()
    for kind, name, sql in database.execute("SELECT type, name, sql FROM sqlite_schema"):
        # What PRIMARY KEY makes has no SQL of its own (sqlite.org/fileformat2.html, 2.6.2).
        if kind == "index" and sql is None and str(name).startswith("sqlite_autoindex_"):
            continue
        found = _TABLE.fullmatch(str(sql)) if kind == "table" else None
        if found is None:
            raise FlistError(f"sqlite: unexpected {kind} {str(name)[:80]!r} in the schema")
        tables.add(found.group(1).lower())
    if "entries" not in tables:
        raise FlistError("sqlite: needs the table entries")


class DirectoryCache:
    """Chunk keys of directories that were decoded before: versions of a flist share most of them.

    Bounded by the bytes of the keys. An entry depends on a directory's bytes alone. first: the
    lowest number that a directory in it may have.
    """

    def __init__(self, max_bytes: int = 8 << 20) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._directories: dict[bytes, Directory] = {}
        self._count = 0
        self.first = 0

    def directory(self, message: bytes) -> Directory:
        """Return a directory by its message. Raises FlistError."""
        digest = hashlib.sha256(message).digest()
        directory = self._directories.get(digest)
        if directory is None:
            directory = Directory(self._count, chunk_keys(message))
            self._keep(digest, directory)
            self._count += 1
        return directory

    def _keep(self, digest: bytes, directory: Directory) -> None:
        size = _ENTRY_BYTES + len(directory.packed)
        # One that is as large would have all others go.
        if size > self._max_bytes // 4:
            return
        if self._bytes + size > self._max_bytes:
            self.clear()
        self._bytes += size
        self._directories[digest] = directory
        directory.cached = True

    def clear(self) -> None:
        """Begin anew; no directory of before comes again."""
        self._directories.clear()
        self._bytes = 0
        self.first = self._count


def read(
    database: Path | bytes, cache: DirectoryCache | None = None, most_key_bytes: int = sys.maxsize
) -> Contents:
    """Read a flist's database, a file or its bytes. Raises FlistError (NeedsMoreError)."""
    with _opened(database, "ro&immutable=1") as connection:
        connection.set_authorizer(
            lambda action, *_: sqlite3.SQLITE_OK if action in _ALLOWED else sqlite3.SQLITE_DENY
        )
        directories = _directories(connection, cache or DirectoryCache(), most_key_bytes)
        return Contents(_backend(connection), directories)


def _directories(
    database: sqlite3.Connection, cache: DirectoryCache, most_key_bytes: int
) -> tuple[Directory, ...]:
    """Return the directories that name chunks.

    An entry that nobody can read counts for nothing, as long as the root directory can be read.
    Of a directory that takes more than 4 MiB zflist leaves some bytes (flist_serial.c takes -1 for
    the size of what it wrote, and SQLite makes a text of it): a node has an I/O error there alone.
    """
    directories: dict[Directory, None] = {}
    count = size = 0
    broken: NoMessageError | None = None
    has_root = False
    # A row's key is a hash of a path or an ACI (flist_tools.c, flist_acl.c); the value says which.
    for value, is_root in database.execute(_ENTRIES, (_ROOT,)):
        try:
            directory = cache.directory(value or b"")
        except NoMessageError as error:
            broken = error
            continue
        has_root = has_root or is_root
        if directory.count and directory not in directories:
            directories[directory] = None
            count += directory.count
            size += GROUP_BYTES + len(directory.packed)
        if count > MAX_KEYS:
            raise FlistError(f"names more than {MAX_KEYS} chunks")
        if size > most_key_bytes:
            raise NeedsMoreError
    if broken is not None and not has_root:
        raise FlistError(f"no readable root directory; an entry is broken, {broken}")
    return tuple(directories)


def _backend(database: sqlite3.Connection) -> Backend | None:
    if database.execute(_HAS_METADATA).fetchone() is None:
        return None
    row = database.execute("SELECT value FROM metadata WHERE key='backend'").fetchone()
    if row is None:
        return None
    text = row[0].decode("utf-8", "replace") if isinstance(row[0], bytes) else str(row[0])
    if len(text) > _MAX_BACKEND_BYTES:
        raise FlistError("metadata.backend is too long")
    try:
        data = json.loads(text)
        # rfs takes no namespace for the default one (src/meta/backend.rs).
        host, port = str(data["host"]), int(data.get("port", 9900))
        return Backend(host, port, str(data.get("namespace") or "default"))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise FlistError(f"metadata.backend is not understood: {error!r}") from error


def rewrite_backend(path: Path, backend: Backend) -> None:
    """Make a flist's database name `backend`: equal input and backend give equal bytes.

    The rows of `entries` keep their numbers: nodes make inodes of them (rfs 1.1.1, src/meta/mod.rs:
    number 1 is the root's). So never VACUUM or copy that table. Raises FlistError, OSError.
    """
    text = json.dumps(
        {"host": backend.host, "namespace": backend.namespace, "port": backend.port},
        sort_keys=True,
    )
    with _opened(path, "rw") as database:
        # A scratch copy that a crash may leave half written; no journal beside it, and no fsync.
        database.execute("PRAGMA journal_mode=OFF")
        database.execute("PRAGMA synchronous=OFF")
        database.execute(_METADATA)
        database.execute("REPLACE INTO metadata(key, value) VALUES('backend', ?)", (text,))
        # Where the key is not unique, a node would take the first row, which is the old one.
        database.execute("DELETE FROM metadata WHERE key='backend' AND rowid<>last_insert_rowid()")
