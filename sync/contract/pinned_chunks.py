"""The chunks that the flists job may not delete: published.sqlite in the users job's state.

The users job writes it, and the flists job reads it, meanwhile, through a read-only mount. It is
the most dangerous interface between the two: a key that is missing here may be deleted.

Table `chunk`: every chunk key that a published or retained flist names. Keys are added before the
flist is published and taken out after it is gone, so the table errs on the side of keeping. Table
`meta`: pass_started_at and pass_completed_at, unix seconds of the last pass that completed;
passes_begun, how many there were, and pass_completed, which of them completed last: clocks jump.
unread: how many served flists there are whose keys are not in the table. If that is not 0, or the
table cannot be read, treat every chunk as pinned and try again later.
"""

import contextlib
import math
import os
import sqlite3
import time
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Final, Protocol
from weakref import WeakSet

from sync.contract import plain_files
from sync.contract.state_db import HalfWrittenError, StateDb, require_plain

FILE: Final = "published.sqlite"
_STARTED_AT: Final = "pass_started_at"
_COMPLETED_AT: Final = "pass_completed_at"
_BEGUN: Final = "passes_begun"
_COMPLETED: Final = "pass_completed"
_UNREAD: Final = "unread"
_IDENTITY: Final = "identity"
_WRITES: Final = "writes"
_RELEASES: Final = "releases"
# SQLite's limit for a value is 1 GB; this keeps the string small.
_KEYS_PER_STATEMENT: Final = 100_000
_INSERT: Final = """
WITH RECURSIVE start(at) AS (
  VALUES(1) UNION ALL SELECT at + :size FROM start WHERE at + :size <= length(:keys))
INSERT OR IGNORE INTO chunk SELECT substr(:keys, at, :size) FROM start
"""
_SCHEMA: Final = "CREATE TABLE IF NOT EXISTS chunk(key BLOB PRIMARY KEY) WITHOUT ROWID;"
# No WAL: a reader of one needs to write into the directory, and the flists job cannot.
_PRAGMAS: Final = ("journal_mode=DELETE", "busy_timeout=60000")
_READ_SECONDS: Final = 5.0
# The table is another job's, who may put into its place whatever SQLite reads.
# No query of ours takes so many steps, however slow the disk: that takes a view without end.
_STEPS: Final = 1_000_000
_LONGEST_QUERY_SECONDS: Final = 1.0
_LONGEST_VALUE_BYTES: Final = 1 << 20
_NUMBERS: Final = (_STARTED_AT, _COMPLETED_AT, _BEGUN, _COMPLETED, _UNREAD)


class KeyGroup(Protocol):
    """Keys that flists share; equal only to itself, and weakly referable."""

    def slices(self) -> Iterator[Collection[bytes]]:
        """Yield the keys, some at a time; one may be there several times."""
        ...


@dataclass(frozen=True)
class Passes:
    """How many passes of the users job began, which completed last, and in which table they are."""

    table: str
    begun: int
    completed: int


class PinnedChunks(StateDb):
    """The table, as the users job writes it; state: the job's state directory."""

    def __init__(self, state: Path) -> None:
        try:
            super().__init__(state / FILE, _SCHEMA, _PRAGMAS)
        except HalfWrittenError:
            # It is written anew from the rows.
            for end in ("", "-journal"):
                (state / f"{FILE}{end}").unlink(missing_ok=True)
            super().__init__(state / FILE, _SCHEMA, _PRAGMAS)
        # What is in the table for sure: flists that share directories write their keys once.
        self._known: WeakSet[KeyGroup] = WeakSet()
        if not self.identity:
            self.set_text(_IDENTITY, os.urandom(16).hex())

    @property
    def identity(self) -> str:
        """What tells this table from one that was lost."""
        return self.text(_IDENTITY)

    @property
    def writes(self) -> int:
        """How often keys were added; one that a backup brought back has fewer."""
        return int(self.number(_WRITES))

    @property
    def releases(self) -> int:
        """How often keys were taken out."""
        return int(self.number(_RELEASES))

    @property
    def is_empty(self) -> bool:
        """Whether no key is in it."""
        return self._db.execute("SELECT 1 FROM chunk LIMIT 1").fetchone() is None

    def set_unread(self, flists: int) -> None:
        """Say, durably, of how many served flists the keys are not in the table."""
        if self.number(_UNREAD) != flists:
            self.set_number(_UNREAD, flists)

    def invalidate(self) -> None:
        """Trust nothing that was seen earlier (another process changed the table)."""
        self._known.clear()

    def add(self, keys: Collection[bytes]) -> None:
        """Add keys, durably, before what names them is published."""
        if not keys:
            return
        with self.transaction():
            self._insert(keys)
            self.set_number(_WRITES, self.writes + 1)

    def add_groups(self, groups: Collection[KeyGroup]) -> None:
        """Add the keys of all groups, durably, before what names them is published."""
        new = [group for group in groups if group not in self._known]
        if not new:
            return
        with self.transaction():
            some: set[bytes] = set()
            for keys in chain.from_iterable(group.slices() for group in new):
                some.update(keys)
                if len(some) >= _KEYS_PER_STATEMENT:
                    self._insert(some)
                    some.clear()
            self._insert(some)
            self.set_number(_WRITES, self.writes + 1)
        self._known.update(new)

    def release(self, candidates: set[bytes], named: Iterable[list[bytes]]) -> int:
        """Take out those candidates that none of the key lists in `named` holds; how many."""
        for keys in named:
            candidates.difference_update(keys)
            if not candidates:
                return 0
        self._known.clear()
        with self.transaction():
            rows = [(key,) for key in sorted(candidates)]
            self._db.executemany("DELETE FROM chunk WHERE key=?", rows)
            self.set_number(_RELEASES, self.releases + 1)
        return len(candidates)

    def rebuild(self, named: Iterable[list[bytes]]) -> int:
        """Write the table anew from all key lists, whatever a kill left; by how many it shrank."""
        self._known.clear()
        with self.transaction():
            before = self._count()
            self._db.execute("DELETE FROM chunk")
            for keys in named:
                self._insert(keys)
            self.set_number(_RELEASES, self.releases + 1)
            return max(0, before - self._count())

    def _count(self) -> int:
        return int(self._db.execute("SELECT COUNT(*) FROM chunk").fetchone()[0])

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

    def begin(self) -> None:
        """Record, durably, that a pass begins: before it asks the master for anything."""
        self.set_number(_BEGUN, self.number(_BEGUN) + 1)

    def completed(self, started_at: float, completed_at: float) -> None:
        """Record that the pass is complete that began last."""
        with self.transaction():
            self.set_number(_STARTED_AT, started_at)
            self.set_number(_COMPLETED_AT, completed_at)
            self.set_number(_COMPLETED, self.number(_BEGUN))


class PinnedChunksReader:
    """The table, as the flists job reads it; users_state: the users job's state directory."""

    def __init__(self, users_state: Path) -> None:
        self._path = users_state / FILE

    @property
    def exists(self) -> bool:
        """Whether a users job ever wrote one here; anything else in its place may hide one."""
        return os.path.lexists(self._path)

    def pass_started_at(self) -> float | None:
        """Return when the last complete pass began (unix seconds); None where nobody knows.

        Nor does anybody while a flist is served whose keys are not in the table.
        """
        try:
            with self._open() as database:
                rows = _meta(database)
        except sqlite3.Error:
            return None
        started, completed = rows.get(_STARTED_AT), rows.get(_COMPLETED_AT)
        if _unread(rows) or started is None or completed is None:
            return None
        return None if float(completed) < float(started) else float(started)

    def passes(self) -> Passes | None:
        """Return which passes there were; None where the table is none of this release."""
        with contextlib.suppress(sqlite3.Error), self._open() as database:
            rows = _meta(database)
            if rows.get(_BEGUN):
                completed = int(rows.get(_COMPLETED, 0))
                return Passes(str(rows.get(_IDENTITY, "")), int(rows[_BEGUN]), completed)
        return None

    def pinned(self, keys: list[bytes]) -> set[bytes]:
        """Return those of `keys` that a flist names. Raises sqlite3.Error: then all are pinned."""
        marks = ",".join("?" * len(keys))
        with self._open() as database:
            if unread := _unread(_meta(database)):
                raise sqlite3.OperationalError(f"the chunks of {unread} served flists: not known")
            rows = database.execute(f"SELECT key FROM chunk WHERE key IN ({marks})", keys)  # noqa: S608 - only question marks
            return {bytes(row[0]) for row in rows}

    def unread(self) -> int:
        """Return of how many served flists the chunks are not known; 0 also without a table."""
        with contextlib.suppress(sqlite3.Error), self._open() as database:
            return _unread(_meta(database))
        return 0

    def sample(self, count: int) -> list[bytes]:
        """Return up to `count` keys, sorted, at random places of the table; may be none."""
        keys: set[bytes] = set()
        with contextlib.suppress(sqlite3.Error), self._open(2) as database:
            for _ in range(count):
                row = database.execute(
                    "SELECT key FROM chunk WHERE key >= ? ORDER BY key LIMIT 1", (os.urandom(16),)
                ).fetchone()
                if row:
                    keys.add(bytes(row[0]))
        return sorted(keys)

    def _open(
        self, patience_seconds: float = _READ_SECONDS
    ) -> contextlib.closing[sqlite3.Connection]:
        if not self.exists:
            raise sqlite3.OperationalError(f"{self._path}: is not there")
        try:
            require_plain(self._path)
        except plain_files.NotPlainError as error:
            raise sqlite3.OperationalError(str(error)) from error
        uri = f"file:{self._path}?mode=ro"
        database = sqlite3.connect(uri, uri=True, timeout=patience_seconds)
        database.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, _LONGEST_VALUE_BYTES)
        until = time.monotonic() + _LONGEST_QUERY_SECONDS
        database.set_progress_handler(lambda: time.monotonic() > until, _STEPS)
        return contextlib.closing(database)


def _meta(database: sqlite3.Connection) -> dict[str, str | float]:
    """Return the values. Raises sqlite3.Error where one is none that a users job writes."""
    names = (_IDENTITY, *_NUMBERS)
    query = f"SELECT name, value FROM meta WHERE name IN ({','.join('?' * len(names))})"  # noqa: S608 - only question marks
    rows: dict[str, str | float] = dict(database.execute(query, names).fetchall())
    for name in rows.keys() & _NUMBERS:
        value = rows[name]
        if not isinstance(value, int | float) or not math.isfinite(value):
            raise sqlite3.DatabaseError(f"{name}: no number")
    return rows


def _unread(meta: dict[str, str | float]) -> int:
    return int(meta.get(_UNREAD, 0))
