"""What the kernels job knows about each kernel on disk: /state/kernels.sqlite."""

from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Final

from sync.agent.quarantine import QuarantineDb

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
"""
# What the first release had in the place of `link`.
_HAS_NET: Final = "SELECT 1 FROM sqlite_master WHERE type='table' AND name='net'"
_TAKE_NET: Final = """
INSERT OR IGNORE INTO link
  SELECT 'net/'||mode||'.efi', size_bytes, modified_seconds, target, md5 FROM net
"""
# Earlier releases did not compare what came with what HEAD says: once, each is asked for again.
_LENGTHS_CHECKED: Final = "lengths_checked"


@dataclass(frozen=True)
class KernelRow:
    """A kernel as published: the master's times and the file's size and MD5 (hex)."""

    name: str
    updated_seconds: float | None
    modified_seconds: float | None
    size_bytes: int | None
    md5: str | None
    recheck: bool = False
    missing_since: float | None = None


@dataclass(frozen=True)
class LinkRow:
    """A link of the kernel folder: what HEAD said of the master's, and the kernel that it names.

    path: see sync.agent.kernels.links. target: None where what the master serves there is none
    of the kernels that it lists, and has the MD5 md5.
    """

    path: str
    size_bytes: int | None
    modified_seconds: float | None
    target: str | None
    md5: str | None = None


class KernelStateDb(QuarantineDb):
    """The database in a job's state directory."""

    def __init__(self, state: Path) -> None:
        super().__init__(state / DATABASE, _SCHEMA)
        # The net links of the first release are taken over: an unknown link is never removed.
        with self.transaction():
            if self._db.execute(_HAS_NET).fetchone():
                self._db.execute(_TAKE_NET)
                self._db.execute("DROP TABLE net")
            if not self.number(_LENGTHS_CHECKED):
                self._db.execute("UPDATE kernel SET recheck=1")
                self.set_number(_LENGTHS_CHECKED, 1)

    def kernels(self) -> dict[str, KernelRow]:
        """Return every kernel by name."""
        rows = self._db.execute("SELECT * FROM kernel")
        return {row[0]: KernelRow(*row) for row in rows}

    def put(self, row: KernelRow | LinkRow) -> None:
        """Insert or replace one kernel or link."""
        self._put("kernel" if isinstance(row, KernelRow) else "link", *astuple(row))

    def delete(self, name: str) -> None:
        """Delete one kernel."""
        self._delete("kernel", name=name)

    def links(self) -> dict[str, LinkRow]:
        """Return every link by its path."""
        rows = self._db.execute("SELECT * FROM link")
        return {row[0]: LinkRow(*row) for row in rows}

    def delete_link(self, path: str) -> None:
        """Delete one link."""
        self._delete("link", path=path)
