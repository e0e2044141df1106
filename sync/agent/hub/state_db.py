"""What the users job knows of each published name: /state/users.sqlite.

Rows of the release before are taken over.
"""

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, fields
from itertools import starmap
from pathlib import Path
from typing import Any, Final

from sync.agent.digests import HASH_BYTES
from sync.agent.flist.keys import KeyGroup, key_slices, pack_groups, pack_keys, unpack_keys
from sync.agent.hub.listing import Link, Name, Regular, TagName
from sync.agent.quarantine import QuarantineDb
from sync.contract.state_db import WAL

DATABASE: Final = "users.sqlite"
# Raised by `repair`, so that a running job reads the rows anew.
GENERATION: Final = "generation"
_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS flist(          -- columns in the order of FlistRow's fields
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
  recheck INTEGER NOT NULL,          -- not 0: to be read although its mtime stays
  refused TEXT NOT NULL,             -- what of it was refused, a line each
  PRIMARY KEY(repository, tag)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS tag_entry(      -- what the master's tag holds, published or not
  repository TEXT, tag TEXT, name TEXT,
  target_repository TEXT, target_name TEXT, link_time INTEGER,
  PRIMARY KEY(repository, tag, name)) WITHOUT ROWID;
-- Earlier releases kept answers about entries there, which would be stale if one came back.
DROP TABLE IF EXISTS tag_answer;
"""
_TAG_LINKS: Final = (
    "SELECT repository, tag, name, target_repository, target_name, '', link_time FROM tag_entry"
)
# A commit that a power loss takes is found by `adopt`: a sync for each would cost more.
_PRAGMAS: Final = (*WAL, "synchronous=NORMAL")


@dataclass(frozen=True, slots=True)
class FlistRow:
    """A published flist: the master's file as it was, and the file that is served.

    None: not known, as of a file that an earlier mirror left. An MD5 is its 16 bytes, which take
    half of the memory of its text.
    """

    name: Name
    updated: int | None = None
    size_text: str | None = None
    size_bytes: int | None = None
    md5: bytes | None = None
    published_bytes: int | None = None
    published_md5: bytes | None = None
    namespace: str | None = None
    recheck: bool = False
    missing_since: float | None = None
    broken: bool = False


@dataclass(frozen=True)
class Withheld:
    """A flist that is not published as the master lists it, the reason, and the missing chunks.

    One that is kept has the first of them alone: all stand in its row (HubStateDb.missing).
    """

    name: Name
    updated: int
    size_text: str
    namespace: str
    reason: str
    missing: frozenset[bytes] = frozenset()


@dataclass(frozen=True)
class TagRow:
    """A tag whose contents were read when it had this mtime; refused: what of it was refused.

    due: to be read again although its mtime stays.
    """

    name: TagName
    updated: int
    due: bool
    refused: tuple[str, ...] = ()


def as_listed(known: FlistRow | Withheld | None, entry: Regular | None) -> bool:
    """Return whether what is known of a flist is of the file that is listed."""
    # Equal, not newer as upstream's hub-clone.py has it: a rename keeps the file's time
    # (flist-uploader.py, api_my_rename), so an older file may take a newer one's name.
    return (
        known is not None
        and entry is not None
        and (known.updated, known.size_text) == (entry.updated, entry.size_text)
    )


def _first(packed: bytes) -> list[bytes]:
    """Return the first of packed keys, if there is one."""
    return next((keys[:1] for keys in key_slices(packed)), [])


class HubStateDb(QuarantineDb):
    """The database; `transaction` groups changes."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, _SCHEMA, _PRAGMAS)

    # Flists

    def flists(self) -> dict[Name, FlistRow]:
        """Return every published flist."""
        # A large hub has hundreds of thousands: what many rows have alike is there once.
        alike: dict[object, Any] = {}

        def flist(repository: str, last: str, *row: Any) -> FlistRow:
            updated, text, size, md5, published_size, published_md5, namespace, *flags = row
            return FlistRow(
                Name(alike.setdefault(repository, repository), last),
                updated,
                text,
                size,
                None if md5 is None else bytes.fromhex(md5),
                published_size,
                None if published_md5 is None else bytes.fromhex(published_md5),
                alike.setdefault(namespace, namespace),
                *flags,
            )

        rows = starmap(flist, self._db.execute("SELECT * FROM flist"))
        return {row.name: row for row in rows}

    def put_flist(self, flist: FlistRow) -> None:
        """Insert or replace one flist's row."""
        values = [getattr(flist, one.name) for one in fields(FlistRow)[1:]]
        texts = [value.hex() if isinstance(value, bytes) else value for value in values]
        self._put("flist", *flist.name[:2], *texts)

    def put_keys(self, name: Name, groups: Collection[KeyGroup]) -> None:
        """Keep the chunk keys of a published flist."""
        self._put("flist_keys", *name[:2], pack_groups(groups))

    def keys(self, name: Name) -> list[bytes]:
        """Return the chunk keys of a published flist; one may be there several times."""
        query = "SELECT keys FROM flist_keys WHERE repository=? AND name=?"
        row = self._db.execute(query, name[:2]).fetchone()
        return unpack_keys(row[0]) if row else []

    def all_keys(self) -> Iterator[list[bytes]]:
        """Yield the chunk keys of all published flists, some at a time."""
        for (packed,) in self._db.execute("SELECT keys FROM flist_keys"):
            yield from key_slices(packed)

    def count_keys(self, name: Name) -> int:
        """Count the chunk keys of a published flist, about."""
        query = "SELECT length(keys) FROM flist_keys WHERE repository=? AND name=?"
        row = self._db.execute(query, name[:2]).fetchone()
        return int(row[0]) // HASH_BYTES if row else 0

    def has_keys(self) -> bool:
        """Return whether the chunk keys of any published flist are known."""
        return self._db.execute("SELECT 1 FROM flist_keys LIMIT 1").fetchone() is not None

    def unread(self) -> set[Name]:
        """Return the published flists whose chunk keys are not known."""
        query = (
            "SELECT repository, name FROM flist WHERE NOT EXISTS (SELECT 1 FROM flist_keys"
            " WHERE repository=flist.repository AND name=flist.name)"
        )
        return {Name(*row) for row in self._db.execute(query)}

    def strays(self) -> set[Name]:
        """Return what has keys and can have no row: it is of no repository."""
        query = "SELECT repository, name FROM flist_keys WHERE repository=''"
        return {Name(*row) for row in self._db.execute(query)}

    def delete_keys(self, name: Name) -> None:
        """Forget the chunk keys of a flist."""
        self._delete("flist_keys", repository=name.repository, name=name.name)

    def delete_flist(self, name: Name) -> None:
        """Delete a flist's row."""
        self._delete("flist", repository=name.repository, name=name.name)

    def refetch_all(self) -> None:
        """Make every flist count as changed; what is published stays until it is replaced."""
        self._db.execute("UPDATE flist SET updated=NULL")

    def refetch_broken(self) -> None:
        """Make every flist that lacks chunks, published or withheld, count as changed."""
        self._db.execute("DELETE FROM withheld")
        self._db.execute("UPDATE flist SET updated=NULL WHERE broken")

    def withheld(self) -> dict[Name, Withheld]:
        """Return every flist that is not published as listed."""
        rows = self._db.execute("SELECT * FROM withheld")
        return {
            name: Withheld(name, updated, size, namespace, reason, frozenset(_first(packed)))
            for repository, last, updated, size, namespace, reason, packed in rows
            if (name := Name(repository, last))
        }

    def missing(self, name: Name) -> list[bytes]:
        """Return the chunks that a withheld flist waits for."""
        query = "SELECT missing FROM withheld WHERE repository=? AND name=?"
        row = self._db.execute(query, name[:2]).fetchone()
        return unpack_keys(row[0]) if row else []

    def put_withheld(self, withheld: Withheld) -> None:
        """Insert or replace one."""
        _, *values, missing = vars(withheld).values()
        self._put("withheld", *withheld.name[:2], *values, pack_keys(missing))

    def delete_withheld(self, name: Name) -> None:
        """Delete one."""
        self._delete("withheld", repository=name.repository, name=name.name)

    # Links and tags

    def links(self) -> dict[Name, Link]:
        """Return every published link."""
        return self._links("SELECT * FROM link")

    def tag_links(self) -> dict[Name, Link]:
        """Return what the master's tags hold, as last read."""
        return self._links(_TAG_LINKS)

    def tag_link(self, name: Name) -> Link | None:
        """Return one of them; None where the tag, as last read, has none of that name."""
        query = f"{_TAG_LINKS} WHERE repository=? AND tag=? AND name=?"
        return self._links(query, (name.repository, name.tag, name.name)).get(name)

    def count_tag_links(self) -> int:
        """Count what the master's tags hold, as last read."""
        return int(self._db.execute("SELECT COUNT(*) FROM tag_entry").fetchone()[0])

    def _links(self, query: str, values: tuple[str, ...] = ()) -> dict[Name, Link]:
        links: dict[Name, Link] = {}
        rows = self._db.execute(query, values)
        for repository, tag, name, to_repository, to_name, to_tag, time in rows:
            # A taglink's row has no target name.
            target = Name(to_repository, to_name) if to_name else TagName(to_repository, to_tag)
            link = Link(Name(repository, name, tag), target, time)
            links[link.name] = link
        return links

    def put_link(self, link: Link) -> None:
        """Insert or replace one published link."""
        name, target = link.name, link.target
        to_name = "" if isinstance(target, TagName) else target.name
        values = (name.repository, name.tag, name.name, target.repository, to_name, target.tag)
        self._put("link", *values, link.link_time)

    def delete_link(self, name: Name) -> None:
        """Delete one published link."""
        self._delete("link", repository=name.repository, tag=name.tag, name=name.name)

    def put_tag_links(self, tag: TagName, links: Iterable[Link]) -> None:
        """Replace the published links of a tag by others, or by none."""
        self._delete("link", repository=tag.repository, tag=tag.tag)
        for link in links:
            self.put_link(link)

    def tags(self) -> dict[TagName, TagRow]:
        """Return every tag whose contents were read."""
        rows = self._db.execute("SELECT * FROM tag")
        return {
            name: TagRow(name, updated, bool(due), tuple(text.split("\n")) if text else ())
            for repository, tag, updated, due, text in rows
            if (name := TagName(repository, tag))
        }

    def put_tag(self, tag: TagRow, links: Iterable[Link]) -> None:
        """Keep a tag and what the master's tag holds."""
        self.delete_tag(tag.name)
        self._put("tag", *tag.name, tag.updated, tag.due, "\n".join(tag.refused))
        for link in links:
            values = (*tag.name, link.name.name, *link.target[:2], link.link_time)
            self._put("tag_entry", *values)

    def set_due_tags(self, tags: Iterable[TagName]) -> None:
        """Note which tags, and no others, are to be read although their times stay."""
        self._db.execute("UPDATE tag SET recheck=0 WHERE recheck")
        self._db.executemany("UPDATE tag SET recheck=1 WHERE repository=? AND tag=?", tags)

    def delete_tag(self, tag: TagName) -> None:
        """Delete a tag and its contents."""
        for table in ("tag", "tag_entry"):
            self._delete(table, repository=tag.repository, tag=tag.tag)
