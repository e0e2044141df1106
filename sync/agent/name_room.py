"""The memory that names take: of kernels, or of flists that are served or listed, links and tags.

They stay from pass to pass, so they come first of the job's budget, and the rest is for what is
under way. A master with more of them is refused by a reason before its listing is read to its end.
"""

import contextlib
import threading
from collections.abc import Iterable, Iterator
from typing import Final, Protocol

from sync.agent.budget import Budget
from sync.agent.job import JobPaused
from sync.agent.master.http1 import HttpError

# What a flist costs through a pass, beside its text: entry, row, places in tables.
FLIST_BYTES: Final = 600
# A link or a tag: read, planned, served.
LINK_BYTES: Final = 1200
# A kernel: listed, its row, its link, its place in plans.
KERNEL_BYTES: Final = 2000
# A repository, or why something is refused: beside its text.
TEXT_BYTES: Final = 200
# Of the budget, at most: the rest is for work.
_PART: Final = 0.65
_RETRY_SECONDS: Final = 60.0


class NoNameRoomError(HttpError):
    """A master lists more names than the job has memory for."""


class Named(Protocol):
    """A name of a hub."""

    @property
    def name(self) -> str:
        """Its last part."""
        ...


class NameRoom:
    """What names take in one pass, and how much they may take; threads may share it.

    taken_bytes: by now. limit_bytes: at most. setting: what gives more.
    """

    def __init__(self, limit_bytes: int, setting: str) -> None:
        self.limit_bytes = limit_bytes
        self._setting = setting
        self._lock = threading.Lock()
        self.taken_bytes = 0

    @classmethod
    def of(cls, budget: Budget, served: Iterable[Named] = ()) -> "NameRoom":
        """Return the room that a job's budget has; served: names that are here already."""
        room = cls(int(budget.total_bytes * _PART), budget.setting)
        room.add(sum(size_of(FLIST_BYTES, [name.name]) for name in served))
        return room

    def add(self, size_bytes: int) -> None:
        """Count what is here already or (below 0) no more, whether there is room for it or not."""
        with self._lock:
            self.taken_bytes += size_bytes

    def require_for_disk(self, flists: int, links: int) -> None:
        """Raise JobPaused where there is no room for what is served already."""
        if flists * FLIST_BYTES + links * LINK_BYTES > self.limit_bytes:
            raise JobPaused(
                f"the hub's folder holds {flists} flists and {links} links, for which the "
                f"{self.limit_bytes} bytes of memory that this job has for names are too few; a "
                f"higher {self._setting} gives it more, or remove what nobody needs",
                _RETRY_SECONDS,
            )

    def require(self, size_bytes: int) -> None:
        """Raise NoNameRoomError where there is no room for what the master lists."""
        if self.taken_bytes + size_bytes > self.limit_bytes:
            raise NoNameRoomError(
                f"lists more names than the {self.limit_bytes} bytes of memory that this job has "
                f"for them; a higher {self._setting} gives it more",
                retry=False,
            )

    @contextlib.contextmanager
    def page(self) -> Iterator["PageRoom"]:
        """Yield the room for one page: what it took is given back where it cannot be read."""
        part = PageRoom(self)
        try:
            yield part
        except BaseException:
            self.add(-part.taken_bytes)
            raise


class PageRoom:
    """What the names of one page take; used by one thread."""

    def __init__(self, room: NameRoom) -> None:
        self._room = room
        self.taken_bytes = 0

    @property
    def limit_bytes(self) -> int:
        """What all pages together may take."""
        return self._room.limit_bytes

    def give(self, size_bytes: int) -> None:
        """Give back what names took that are left out after all."""
        self._room.add(-size_bytes)
        self.taken_bytes -= size_bytes

    def take(self, base_bytes: int, texts: Iterable[str]) -> None:
        """Take room for a name or a text. Raises NoNameRoomError where there is no more."""
        size = size_of(base_bytes, texts)
        self._room.require(size)
        self._room.add(size)
        self.taken_bytes += size


def size_of(base_bytes: int, texts: Iterable[str]) -> int:
    """Return what a name costs, given what all of its kind do and its texts."""
    # A character outside Latin-1 has all of its text take two or four bytes each.
    return base_bytes + sum(len(text) if text.isascii() else 4 * len(text) for text in texts)
