"""The base of the jobs' SQLite databases: how one is opened, and its table of single values.

It stands beside the contract, as one of the databases is an interface between two jobs (see
pinned_chunks). A schema only grows: a release takes over the databases of the one before.
"""

import contextlib
import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Self

from sync.contract import plain_files
from sync.contract.fsync import fsync

# SQLite opens these by itself (sqlite.org/tempfiles.html), whatever they are.
_FILES: Final = ("", "-journal", "-wal", "-shm")
WAL: Final = ("journal_mode=WAL", "busy_timeout=30000")
_META: Final = "CREATE TABLE IF NOT EXISTS meta(name TEXT PRIMARY KEY, value) WITHOUT ROWID;"


def require_plain(path: Path) -> None:
    """Raise NotPlainError where a database, or a file that SQLite keeps beside it, is none."""
    for end in _FILES:
        plain_files.require(f"{path}{end}")


class HalfWrittenError(sqlite3.OperationalError):
    """A write was cut off, and cannot be taken back."""


class StateDb:
    """An open database; only the thread that opened it may use it (sqlite3.ProgrammingError).

    schema: statements that leave tables as they are where these exist. pragmas: NAME=VALUE each.
    """

    def __init__(self, path: Path, schema: str, pragmas: tuple[str, ...] = WAL) -> None:
        require_plain(path)
        self._db = sqlite3.connect(path, isolation_level=None)
        # SQLite takes a refused fsync for a broken disk (os_unix.c, unixSync). Said first so that a
        # WAL can be begun at all, and last, as a pragma may say otherwise.
        unsynced = () if _syncs(path.parent) else ("synchronous=OFF",)
        try:
            for pragma in (*unsynced, *pragmas, *unsynced):
                self._db.execute(f"PRAGMA {pragma}")
            self._db.executescript(_META + schema)
        except sqlite3.OperationalError as error:
            if unsynced and error.sqlite_errorname == "SQLITE_IOERR_FSYNC":
                raise HalfWrittenError(
                    f"{path}: a kill cut off a write, and its file system has no fsync to take it "
                    f"back; remove it and {path.name}-journal, and the job begins anew (better: "
                    "put the data root on ext4, XFS or Btrfs)"
                ) from error
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._db.close()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[None]:
        """Make the changes of the block one."""
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            if self._db.in_transaction:  # a full disk ends it by itself
                self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    def _put(self, table: str, *values: object) -> None:
        marks = ",".join("?" * len(values))
        self._db.execute(f"INSERT OR REPLACE INTO {table} VALUES({marks})", values)

    def _delete(self, table: str, **key: str) -> None:
        where = " AND ".join(f"{column}=?" for column in key)
        query = f"DELETE FROM {table} WHERE {where}"  # noqa: S608 - constants
        self._db.execute(query, [*key.values()])

    def text(self, name: str) -> str:
        """Return a text kept under `name`, empty where there is none."""
        row = self._db.execute("SELECT value FROM meta WHERE name=?", (name,)).fetchone()
        return str(row[0]) if row else ""

    def set_text(self, name: str, value: str) -> None:
        """Keep a text under `name`."""
        self._put("meta", name, value)

    def number(self, name: str) -> float:
        """Return a number kept under `name`, 0 where there is none."""
        return float(self.text(name) or 0)

    def set_number(self, name: str, value: float) -> None:
        """Keep a number under `name`."""
        self._put("meta", name, value)


def _syncs(folder: Path) -> bool:
    """Return whether the file system of a folder has fsync."""
    # Not of the database itself: closing a second descriptor of it would drop the locks that this
    # process has on it (fcntl(2), advisory record locking).
    with tempfile.TemporaryFile(dir=folder) as probe:
        return fsync(probe.fileno(), folder)
