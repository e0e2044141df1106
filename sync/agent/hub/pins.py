"""Pinned chunks: every one that a served flist names, also where no row knows its keys.

A flist may be served whose keys are in no row: an upstream mirror or the mode `detached` left it, a
state database was lost, or a kill came between its rename and its row. Until its keys are read from
the file itself the table says that it does not know all, and then the flists job deletes nothing.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeAlias

from sync.agent.disk_room import ScratchError
from sync.agent.flist.errors import FlistError
from sync.agent.flist.keys import KeyGroup, slices_of
from sync.agent.flist.reader_pool import Read
from sync.agent.hub.listing import Name
from sync.agent.hub.state_db import HubStateDb
from sync.agent.hub.work_room import HeldMemory
from sync.contract.pinned_chunks import PinnedChunks

_DIRTY: Final = "published_dirty"
_TABLE: Final = "pinned_table"
_GZIP: Final = b"\x1f\x8b"
# Reads a flist's keys, and holds the memory for them.
ReadKeys: TypeAlias = Callable[[Path], tuple[Read, HeldMemory]]
# So many keys as objects take some 40 MB.
_MOST_RELEASED: Final = 250_000
# As many as are counted only once it is known how many.
_SOME: Final = 1


@dataclass(frozen=True)
class Keys:
    """The chunk keys of a served file, with its size in bytes and its mtime (unix seconds)."""

    name: Name
    groups: tuple[KeyGroup, ...]
    size_bytes: int
    modified_seconds: int


@dataclass(frozen=True)
class _Unreadable:
    name: Name
    file: tuple[int, int]
    reason: str


class Pins:
    """Keeps the table in step with the keys of served flists; used by the thread that publishes.

    unread: served flists whose keys are not known.
    """

    def __init__(self, state_db: HubStateDb, table: PinnedChunks) -> None:
        self._db = state_db
        self._table = table
        self._released: set[bytes] = set()
        # There are too many to be kept.
        self._all_released = False
        self._noted = ""
        self._unreadable: dict[Name, _Unreadable] = {}
        self.unread: set[Name] = set()

    @property
    def faults(self) -> Mapping[Name, str]:
        """Why the keys of unread flists could not be read."""
        return {name: one.reason for name, one in self._unreadable.items() if name in self.unread}

    def distrust(self) -> None:
        """Let nothing be deleted until `adopt`: what is served is not known any more."""
        self._table.invalidate()
        self._table.set_unread(_SOME)

    def adopt(self, strays: Collection[Name]) -> None:
        """Find the served flists whose keys are in no row, and mend the table.

        strays: those that no row can be of; each is read anew.
        """
        for name in self._db.strays().difference(strays):
            self.drop(name)
        self.unread = self._db.unread().union(strays)
        if self._db.number(_DIRTY) or not self._is_of_rows():
            self._table.rebuild(self._db.all_keys())
            self._db.set_number(_DIRTY, 0)
        self._released, self._all_released, self._noted = set(), False, ""
        self._note_table()
        self._table.set_unread(len(self.unread))

    def _is_of_rows(self) -> bool:
        """Return whether the table has all that these rows had pinned: neither lost nor older.

        Nor may it have let go since of what these rows, of a backup, name.
        """
        identity, *counts = self._db.text(_TABLE).split(" ")
        if not identity and self._db.has_keys():
            return not self._table.is_empty  # of the release before
        writes, releases = (int(count) for count in [*counts, "0", "0"][:2])
        # One that a kill left with more is as good.
        return (identity, releases) == (self._table.identity, self._table.releases) and (
            writes <= self._table.writes
        )

    def _note_table(self) -> None:
        """Note in the rows how far the table has come."""
        table = f"{self._table.identity} {self._table.writes} {self._table.releases}"
        if table != self._noted:
            self._db.set_text(_TABLE, table)
            self._noted = table

    def pin(self, groups: Collection[KeyGroup]) -> None:
        """Pin keys, durably, before what names them is served."""
        self._table.add_groups(groups)

    def put(self, name: Name, groups: Collection[KeyGroup]) -> None:
        """Note the keys of a flist that is served now; those that only the old one named may go."""
        self._let_go(name, groups)
        self._db.put_keys(name, groups)
        self._note_table()
        self._read(name)

    def drop(self, name: Name) -> None:
        """Forget the keys of a flist that is gone."""
        self._let_go(name, ())
        self._db.delete_keys(name)
        self._read(name)

    def _let_go(self, name: Name, kept: Collection[KeyGroup]) -> None:
        if self._db.count_keys(name) + len(self._released) > _MOST_RELEASED:
            # As objects they would cost more than writing the table anew does.
            self._released, self._all_released = set(), True
            self._db.set_number(_DIRTY, 1)
            return
        released = set(self._db.keys(name))
        for keys in slices_of(kept) if released else ():
            released.difference_update(keys)
        if released:
            self._released |= released
            self._db.set_number(_DIRTY, 1)

    def _read(self, name: Name) -> None:
        self.unread.discard(name)
        self._unreadable.pop(name, None)

    def settle(self) -> int:
        """Release what only removed or replaced flists named, and say what is not known yet.

        Returns how many keys were released.
        """
        count = 0
        if self._db.number(_DIRTY):
            if self._all_released:
                count = self._table.rebuild(self._db.all_keys())
            else:
                count = self._table.release(self._released, self._db.all_keys())
            self._note_table()
            self._db.set_number(_DIRTY, 0)
            self._released, self._all_released = set(), False
        self._table.set_unread(len(self.unread))
        return count

    def read(self, path_of: Callable[[Name], Path], read: ReadKeys) -> Iterator[Keys]:
        """Read the keys of unread flists from the served files, and pin them; yield each.

        What could not be read stays unread, and is read again when the file is another one. One
        after the other: each holds memory for its keys until the next is asked for.
        """
        for name in sorted(self.unread):
            before = self._unreadable.get(name)
            with ExitStack() as held:
                outcome = _keys_of(name, path_of(name), before, read, held)
                if isinstance(outcome, Keys):
                    self.pin(outcome.groups)
                    yield outcome
                else:
                    self._unreadable[name] = outcome


def _keys_of(
    name: Name, path: Path, before: _Unreadable | None, read: ReadKeys, held: ExitStack
) -> Keys | _Unreadable:
    file = (-1, -1)
    try:
        status = path.stat()
        file = (status.st_size, status.st_mtime_ns)
        if before is not None and before.file == file:
            return before
        groups: tuple[KeyGroup, ...] = ()
        # A page that an upstream mirror saved, say: no node reads chunk keys from what is no gzip
        # (rfs: src/meta/mod.rs, GzDecoder).
        if _is_gzip(path):
            contents, memory = read(path)
            held.callback(memory.release)
            groups = contents.groups
    except (FlistError, ScratchError, OSError) as error:
        return _Unreadable(name, file, str(error))
    return Keys(name, groups, status.st_size, int(status.st_mtime))


def _is_gzip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(_GZIP)) == _GZIP
