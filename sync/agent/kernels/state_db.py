"""What the kernels job knows about each kernel on disk: /state/kernels.sqlite."""

import contextlib
import sqlite3
from collections.abc import Iterator
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Final, Self

DATABASE: Final = "kernels.sqlite"
_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS kernel(
  name TEXT PRIMARY KEY,
  updated_seconds REAL,        -- the master's, as listed
  modified_seconds REAL,       -- Last-Modified of the file
  size_bytes INTEGER,
  md5 TEXT,
  recheck INTEGER NOT NULL,    -- changed within seconds of the listing: ask again
  missing_since REAL           -- dropped by the master, kept by retention
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS link(
  path TEXT PRIMARY KEY,       -- below the kernel folder: net/MODE.efi, or NAME at the top
  size_bytes INTEGER,
  modified_seconds REAL,
  target TEXT,
  md5 TEXT
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS meta(name TEXT PRIMARY KEY, value) WITHOUT ROWID;
"""
# What the first release had in the place of `link`.
_HAS_NET: Final = "SELECT 1 FROM sqlite_master WHERE type='table' AND name='net'"
_TAKE_NET: Final = """
INSERT OR IGNORE INTO link
  SELECT 'net/'||mode||'.efi', size_bytes, modified_seconds, target, md5 FROM net
"""


@dataclass(frozen=True)
class KernelRecord:
    """A kernel as published: the master's times and the file's size and MD5 (hex)."""

    name: str
    updated_seconds: float | None
    modified_seconds: float | None
    size_bytes: int | None
    md5: str | None
    recheck: bool = False
    missing_since: float | None = None


@dataclass(frozen=True)
class LinkRecord:
    """A link of the kernel folder: what HEAD said of the master's, and the kernel that it names.

    path: see sync.agent.kernels.plan. target: None where what the master serves there is none
    of the kernels that it lists, and has the MD5 md5.
    """

    path: str
    size_bytes: int | None
    modified_seconds: float | None
    target: str | None
    md5: str | None = None


class Record:
    """The database. One thread at a time."""

    def __init__(self, path: Path) -> None:
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA busy_timeout=30000")
        self._db.executescript(_SCHEMA)
        self._take_net_links()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._db.close()

    def _take_net_links(self) -> None:
        """Carry over a record of the release before: a link that is not known is never removed."""
        with self._db:
            self._db.execute("BEGIN IMMEDIATE")
            if self._db.execute(_HAS_NET).fetchone():
                self._db.execute(_TAKE_NET)
                self._db.execute("DROP TABLE net")

    def kernels(self) -> dict[str, KernelRecord]:
        """Return every record by name."""
        rows = self._db.execute("SELECT * FROM kernel")
        return {row[0]: KernelRecord(*row) for row in rows}

    def put(self, kernel: KernelRecord) -> None:
        """Insert or replace one record."""
        values = astuple(kernel)
        self._db.execute("INSERT OR REPLACE INTO kernel VALUES(?,?,?,?,?,?,?)", values)

    def forget(self, name: str) -> None:
        """Drop one record."""
        self._db.execute("DELETE FROM kernel WHERE name=?", (name,))

    def links(self) -> dict[str, LinkRecord]:
        """Return every link by its path."""
        rows = self._db.execute("SELECT * FROM link")
        return {row[0]: LinkRecord(*row) for row in rows}

    def put_link(self, link: LinkRecord) -> None:
        """Insert or replace one link."""
        self._db.execute("INSERT OR REPLACE INTO link VALUES(?,?,?,?,?)", astuple(link))

    def forget_link(self, path: str) -> None:
        """Drop one link."""
        self._db.execute("DELETE FROM link WHERE path=?", (path,))

    def number(self, name: str) -> float:
        """Return a number kept under `name`, 0 where there is none."""
        row = self._db.execute("SELECT value FROM meta WHERE name=?", (name,)).fetchone()
        return float(row[0]) if row else 0.0

    def set_number(self, name: str, value: float) -> None:
        """Keep a number under `name`."""
        self._db.execute("INSERT OR REPLACE INTO meta VALUES(?,?)", (name, value))


@contextlib.contextmanager
def opened(state: Path) -> Iterator[Record]:
    """Open the record in the job's state directory."""
    with Record(state / DATABASE) as record:
        yield record
