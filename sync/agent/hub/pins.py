"""Pinned chunks: every one that a served flist names, also where no row knows its keys.

A flist may be served whose keys are in no row: an upstream mirror or the mode `detached` left it, a
state database was lost, or a kill came between its rename and its row. Until its keys are read from
the file itself the table says that it does not know all, and then the flists job deletes nothing.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sync.agent import durable
from sync.agent.flist.errors import FlistError
from sync.agent.flist.keys import KeyGroup
from sync.agent.flist.reader_pool import ReaderPool
from sync.agent.hub.listing import Name
from sync.agent.hub.state_db import HubStateDb
from sync.contract.pinned_chunks import PinnedChunks

_DIRTY: Final = "published_dirty"
_TABLE: Final = "pinned_table"
_GZIP: Final = b"\x1f\x8b"
_READERS: Final = 4
_TOGETHER: Final = 64
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

    def adopt(self) -> None:
        """Find the served flists whose keys are in no row, and mend the table."""
        self.unread = self._db.unread()
        if self._db.number(_DIRTY) or not self._is_of_rows():
            self._table.rebuild(self._db.all_keys())
            self._db.set_number(_DIRTY, 0)
        self._released, self._noted = set(), ""
        self._note_table()
        self._table.set_unread(len(self.unread))

    def _is_of_rows(self) -> bool:
        """Return whether the table has all that these rows had pinned: neither lost nor older."""
        identity, _, writes = self._db.text(_TABLE).partition(" ")
        if not identity and self._db.has_keys():
            return not self._table.is_empty  # of the release before
        # One that a kill left with more is as good.
        return identity == self._table.identity and int(writes) <= self._table.writes

    def _note_table(self) -> None:
        """Note in the rows how far the table has come."""
        table = f"{self._table.identity} {self._table.writes}"
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
        released = set(self._db.keys(name)).difference(*(group.keys for group in kept))
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
            count = self._table.release(self._released, self._db.all_keys())
            self._db.set_number(_DIRTY, 0)
            self._released = set()
        self._table.set_unread(len(self.unread))
        return count

    def read(
        self, path_of: Callable[[Name], Path], staging: Path, readers: ReaderPool
    ) -> Iterator[list[Keys]]:
        """Read the keys of unread flists from the served files and pin them; yield them in groups.

        What could not be read stays unread, and is read again when the file is another one.
        """
        names = sorted(self.unread)

        def read(name: Name) -> Keys | _Unreadable:
            return _keys_of(name, path_of(name), self._unreadable.get(name), staging, readers)

        with ThreadPoolExecutor(_READERS, "keys") as pool:
            for at in range(0, len(names), _TOGETHER):
                outcomes = [*pool.map(read, names[at : at + _TOGETHER])]
                found = [one for one in outcomes if isinstance(one, Keys)]
                self._unreadable |= {one.name: one for one in outcomes if not isinstance(one, Keys)}
                self.pin({group for one in found for group in one.groups})
                yield found


def _keys_of(
    name: Name, path: Path, before: _Unreadable | None, staging: Path, readers: ReaderPool
) -> Keys | _Unreadable:
    file = (-1, -1)
    try:
        status = path.stat()
        file = (status.st_size, status.st_mtime_ns)
        if before is not None and before.file == file:
            return before
        with path.open("rb") as opened:
            packed = opened.read(len(_GZIP)) == _GZIP
        # A page that an upstream mirror saved, say: no node reads chunk keys from what is no gzip
        # (rfs: src/meta/mod.rs, GzDecoder).
        groups = readers.read(path, durable.temporary_in(staging), []).groups if packed else ()
    except (FlistError, OSError) as error:
        return _Unreadable(name, file, str(error))
    return Keys(name, groups, status.st_size, int(status.st_mtime))
