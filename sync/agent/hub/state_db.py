"""What the users job knows of each published name: /state/users.sqlite."""

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sync.agent.flist.keys import KeyGroup, pack_groups, pack_keys, unpack_keys
from sync.agent.hub.listing import Link, Name, TagKey
from sync.contract.state_db import WAL, StateDb

DATABASE: Final = "users.sqlite"
# Raised by `repair`, so that a running job reads the record anew.
GENERATION: Final = "generation"
_PRAGMAS: Final = (*WAL, "synchronous=NORMAL")
_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS flist(
  repository TEXT, name TEXT,
  updated INTEGER, size_text TEXT,   -- as the master lists it; null: not known, fetch again
  size_bytes INTEGER, md5 TEXT,      -- the master's file
  published_bytes INTEGER, published_md5 TEXT,
  namespace TEXT,                    -- local 0-db namespace of its chunks
  recheck INTEGER NOT NULL,          -- fetched within seconds of its change: ask again
  missing_since REAL,                -- dropped by the master, kept by retention
  broken INTEGER NOT NULL,           -- published although chunks are missing (policy)
  PRIMARY KEY(repository, name)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS flist_keys(
  repository TEXT, name TEXT, keys BLOB, PRIMARY KEY(repository, name));
CREATE TABLE IF NOT EXISTS withheld(
  repository TEXT, name TEXT, updated INTEGER, size_text TEXT,
  namespace TEXT, reason TEXT, missing BLOB,
  PRIMARY KEY(repository, name)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS link(
  repository TEXT, tag TEXT, name TEXT,
  target_repository TEXT, target_name TEXT, target_tag TEXT, link_time INTEGER,
  PRIMARY KEY(repository, tag, name)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS tag(
  repository TEXT, tag TEXT, updated INTEGER,
  recheck INTEGER NOT NULL,          -- how many more times it is to be read
  refused TEXT NOT NULL,             -- what of it was refused, a line each
  PRIMARY KEY(repository, tag)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS tag_entry(      -- what the master's tag holds, published or not
  repository TEXT, tag TEXT, name TEXT,
  target_repository TEXT, target_name TEXT, link_time INTEGER,
  PRIMARY KEY(repository, tag, name)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS tag_answer(     -- of entries that lead to nothing that is listed
  repository TEXT, tag TEXT, name TEXT,
  missing INTEGER NOT NULL,          -- the master, asked for the entry, answered 404
  PRIMARY KEY(repository, tag, name)) WITHOUT ROWID;
"""


@dataclass(frozen=True)
class FlistRecord:
    """A published flist: the master's file as it was, and the file that is served."""

    name: Name
    updated: int | None
    size_text: str | None
    size_bytes: int | None
    md5: str | None
    published_bytes: int | None
    published_md5: str | None
    namespace: str | None
    recheck: bool = False
    missing_since: float | None = None
    broken: bool = False


@dataclass(frozen=True)
class Withheld:
    """A flist that is not published as the master lists it, the reason, and the missing chunks."""

    name: Name
    updated: int
    size_text: str
    namespace: str
    reason: str
    missing: frozenset[bytes] = frozenset()


@dataclass(frozen=True)
class TagRecord:
    """A tag whose contents were read when it had this mtime; refused: what of it was refused.

    reads_due: how many more times it is to be read although its mtime stays.
    """

    repository: str
    tag: str
    updated: int
    reads_due: int
    refused: tuple[str, ...] = ()


class Record(StateDb):
    """The database. Opened by one thread at a time; `transaction` groups changes."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, _SCHEMA, _PRAGMAS)

    # Flists

    def flists(self) -> dict[Name, FlistRecord]:
        """Return every published flist."""
        rows = self._db.execute("SELECT * FROM flist")
        return {name: FlistRecord(name, *row[2:]) for row in rows if (name := Name(row[0], row[1]))}

    def put_flist(self, flist: FlistRecord) -> None:
        """Insert or replace one flist's record."""
        values = (
            *(flist.name.repository, flist.name.name, flist.updated, flist.size_text),
            *(flist.size_bytes, flist.md5, flist.published_bytes, flist.published_md5),
            *(flist.namespace, flist.recheck, flist.missing_since, flist.broken),
        )
        self._db.execute(f"INSERT OR REPLACE INTO flist VALUES({_marks(12)})", values)

    def put_keys(self, name: Name, groups: Collection[KeyGroup]) -> None:
        """Keep the chunk keys of a published flist."""
        values = (name.repository, name.name, pack_groups(groups))
        self._db.execute("INSERT OR REPLACE INTO flist_keys VALUES(?,?,?)", values)

    def keys(self, name: Name) -> list[bytes]:
        """Return the chunk keys of a published flist; one may be there several times."""
        row = self._db.execute(
            "SELECT keys FROM flist_keys WHERE repository=? AND name=?",
            (name.repository, name.name),
        ).fetchone()
        return unpack_keys(row[0]) if row else []

    def all_keys(self) -> Iterator[list[bytes]]:
        """Yield the chunk keys of each published flist."""
        for (packed,) in self._db.execute("SELECT keys FROM flist_keys"):
            yield unpack_keys(packed)

    def forget_flist(self, name: Name) -> None:
        """Drop a flist's record and keys."""
        for table in ("flist", "flist_keys"):
            self._db.execute(
                f"DELETE FROM {table} WHERE repository=? AND name=?",  # noqa: S608 - a constant
                (name.repository, name.name),
            )

    # Withheld

    def withheld(self) -> dict[Name, Withheld]:
        """Return every flist that is not published as listed."""
        rows = self._db.execute("SELECT * FROM withheld")
        return {
            name: Withheld(name, row[2], row[3], row[4], row[5], frozenset(unpack_keys(row[6])))
            for row in rows
            if (name := Name(row[0], row[1]))
        }

    def put_withheld(self, withheld: Withheld) -> None:
        """Insert or replace one."""
        name = withheld.name
        values = (
            *(name.repository, name.name, withheld.updated, withheld.size_text),
            *(withheld.namespace, withheld.reason, pack_keys(withheld.missing)),
        )
        self._db.execute(f"INSERT OR REPLACE INTO withheld VALUES({_marks(7)})", values)

    def forget_withheld(self, name: Name) -> None:
        """Drop one."""
        self._db.execute(
            "DELETE FROM withheld WHERE repository=? AND name=?", (name.repository, name.name)
        )

    # Links

    def links(self) -> dict[Name, Link]:
        """Return every published link."""
        links = {}
        for repository, tag, name, *target, time in self._db.execute("SELECT * FROM link"):
            link = Link(Name(repository, name, tag), Name(*target), time)
            links[link.name] = link
        return links

    def put_link(self, link: Link) -> None:
        """Insert or replace one published link."""
        values = (
            *(link.name.repository, link.name.tag, link.name.name),
            *(link.target.repository, link.target.name, link.target.tag, link.link_time),
        )
        self._db.execute(f"INSERT OR REPLACE INTO link VALUES({_marks(7)})", values)

    def forget_link(self, name: Name) -> None:
        """Drop one published link."""
        self._db.execute(
            "DELETE FROM link WHERE repository=? AND tag=? AND name=?",
            (name.repository, name.tag, name.name),
        )

    def put_tag_links(self, key: TagKey, links: Iterable[Link]) -> None:
        """Replace the published links of a tag by others, or by none."""
        self._db.execute("DELETE FROM link WHERE repository=? AND tag=?", key)
        for link in links:
            self.put_link(link)

    # Tags

    def tags(self) -> dict[TagKey, TagRecord]:
        """Return every tag whose contents were read."""
        rows = self._db.execute("SELECT * FROM tag")
        return {
            (repository, tag): TagRecord(
                repository, tag, updated, due, tuple(text.split("\n")) if text else ()
            )
            for repository, tag, updated, due, text in rows
        }

    def put_tag(self, tag: TagRecord, links: Iterable[Link]) -> None:
        """Keep a tag and what the master's tag holds."""
        self.forget_tag(tag.repository, tag.tag)
        refused = "\n".join(tag.refused)
        values = (tag.repository, tag.tag, tag.updated, tag.reads_due, refused)
        self._db.execute("INSERT INTO tag VALUES(?,?,?,?,?)", values)
        for link in links:
            target = link.target
            row = (tag.repository, tag.tag, link.name.name, target.repository, target.name)
            self._db.execute(
                f"INSERT OR REPLACE INTO tag_entry VALUES({_marks(6)})", (*row, link.link_time)
            )

    def tag_links(self) -> dict[Name, Link]:
        """Return what the master's tags hold, as last read."""
        links = {}
        for repository, tag, name, *target, time in self._db.execute("SELECT * FROM tag_entry"):
            link = Link(Name(repository, name, tag), Name(*target), time)
            links[link.name] = link
        return links

    def count_tag_read(self, repository: str, tag: str) -> None:
        """Note that a tag was read, so that it is to be read once less."""
        self._db.execute(
            "UPDATE tag SET recheck=recheck-1 WHERE repository=? AND tag=? AND recheck>0",
            (repository, tag),
        )

    def read_tag_again(self, repository: str, tag: str) -> None:
        """Have a tag read at least once more."""
        self._db.execute(
            "UPDATE tag SET recheck=max(recheck,1) WHERE repository=? AND tag=?", (repository, tag)
        )

    def tag_answers(self) -> dict[Name, bool]:
        """Return the entries of tags that the master was asked for, with whether it has none."""
        rows = self._db.execute("SELECT repository, name, tag, missing FROM tag_answer")
        return {
            Name(repository, name, tag): bool(missing) for repository, name, tag, missing in rows
        }

    def put_tag_answer(self, name: Name, *, missing: bool) -> None:
        """Keep what the master answered for an entry of a tag, until the tag is read again."""
        values = (name.repository, name.tag, name.name, missing)
        self._db.execute(f"INSERT OR REPLACE INTO tag_answer VALUES({_marks(4)})", values)

    def forget_tag_answer(self, name: Name) -> None:
        """Drop what the master answered for an entry."""
        self._db.execute(
            "DELETE FROM tag_answer WHERE repository=? AND tag=? AND name=?",
            (name.repository, name.tag, name.name),
        )

    def forget_tag(self, repository: str, tag: str) -> None:
        """Drop a tag and its contents."""
        for table in ("tag", "tag_entry", "tag_answer"):
            self._db.execute(
                f"DELETE FROM {table} WHERE repository=? AND tag=?",  # noqa: S608 - a constant
                (repository, tag),
            )

    def refetch_all(self) -> None:
        """Make every flist count as changed; what is published stays until it is replaced."""
        self._db.execute("UPDATE flist SET updated=NULL")

    def refetch_broken(self) -> None:
        """Make every flist that lacks chunks, published or withheld, count as changed."""
        self._db.execute("DELETE FROM withheld")
        self._db.execute("UPDATE flist SET updated=NULL WHERE broken")


def _marks(count: int) -> str:
    return ",".join("?" * count)
