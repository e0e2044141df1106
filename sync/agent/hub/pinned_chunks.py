"""What the flists job may not delete: /state/published.sqlite, read there while it is written.

Table `chunk`: every chunk key that a published or retained flist names. Keys are added before the
flist is published and taken out after it is gone, so the table errs on the side of keeping. Table
`meta`: pass_started_at and pass_completed_at, unix seconds of the last pass that completed.
"""

import contextlib
import sqlite3
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Final, Self
from weakref import WeakSet

from sync.agent.flist.keys import KeyGroup, keys_of

DATABASE: Final = "published.sqlite"
# SQLite's limit for a value is 1 GB; this keeps the string small.
_KEYS_PER_STATEMENT: Final = 100_000
_INSERT: Final = """
WITH RECURSIVE start(at) AS (
  VALUES(1) UNION ALL SELECT at + :size FROM start WHERE at + :size <= length(:keys))
INSERT OR IGNORE INTO chunk SELECT substr(:keys, at, :size) FROM start
"""
_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS chunk(key BLOB PRIMARY KEY) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS meta(name TEXT PRIMARY KEY, value);
"""


class Published:
    """The database; used by one thread."""

    def __init__(self, state: Path) -> None:
        self._db = sqlite3.connect(state / DATABASE, isolation_level=None)
        # What is in the table for sure: flists that share directories write their keys once.
        self._known: WeakSet[KeyGroup] = WeakSet()
        # No WAL: its reader mounts the directory read-only.
        self._db.execute("PRAGMA journal_mode=DELETE")
        self._db.execute("PRAGMA busy_timeout=60000")
        self._db.executescript(_SCHEMA)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._db.close()

    def forget(self) -> None:
        """Trust nothing that was seen earlier (another process changed the table)."""
        self._known.clear()

    def add(self, keys: Collection[bytes]) -> None:
        """Add keys, durably, before what names them is published."""
        if not keys:
            return
        with self._transaction():
            self._insert(keys)

    def add_groups(self, groups: Collection[KeyGroup]) -> None:
        """Add the keys of all groups, durably, before what names them is published."""
        new = [group for group in groups if group not in self._known]
        self.add(keys_of(new))
        self._known.update(new)

    def release(self, candidates: set[bytes], named: Iterable[list[bytes]]) -> int:
        """Take out those candidates that none of the key lists in `named` holds; how many."""
        for keys in named:
            candidates.difference_update(keys)
            if not candidates:
                return 0
        self._known.clear()
        with self._transaction():
            rows = [(key,) for key in sorted(candidates)]
            self._db.executemany("DELETE FROM chunk WHERE key=?", rows)
        return len(candidates)

    def rebuild(self, named: Iterable[list[bytes]]) -> None:
        """Write the table anew from all key lists: mends whatever a kill left."""
        self._known.clear()
        with self._transaction():
            self._db.execute("DELETE FROM chunk")
            for keys in named:
                self._insert(keys)

    def _insert(self, keys: Iterable[bytes]) -> None:
        """Insert keys, those of one size by one statement: each step of many lets other threads in.

        That costs a loaded job more than the steps themselves.
        """
        sizes: dict[int, list[bytes]] = {}
        for key in keys:
            sizes.setdefault(len(key), []).append(key)
        for size, same in sizes.items():
            same.sort()
            for at in range(0, len(same), _KEYS_PER_STATEMENT):
                packed = b"".join(same[at : at + _KEYS_PER_STATEMENT])
                self._db.execute(_INSERT, {"keys": packed, "size": size})

    def lacks(self, keys: Iterable[bytes]) -> list[bytes]:
        """Return those keys that are not in the table."""
        query = "SELECT 1 FROM chunk WHERE key=?"
        return [key for key in keys if self._db.execute(query, (key,)).fetchone() is None]

    def completed(self, started_at: float, completed_at: float) -> None:
        """Record a complete pass."""
        with self._transaction():
            rows = [("pass_started_at", started_at), ("pass_completed_at", completed_at)]
            self._db.executemany("INSERT OR REPLACE INTO meta VALUES(?,?)", rows)

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            if self._db.in_transaction:  # a full disk ends it by itself
                self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")
