"""One flist's way into staging: fetched, verified, read, its chunks here, its backend rewritten."""

import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import quote

from sync.agent import durable
from sync.agent.flist import Backend, FlistError
from sync.agent.flist.keys import KeyGroup
from sync.agent.flist.reader_pool import ReaderPool, Rewriting
from sync.agent.hub.chunk_store import ChunkStore, as_backend, place_of
from sync.agent.hub.listing import Name, Regular
from sync.agent.hub.state_db import FlistRecord, Withheld
from sync.agent.hub.tree import Tree
from sync.agent.master.client import (
    Downloaded,
    Expected,
    HttpError,
    HttpMissingError,
    Master,
    Page,
)
from sync.contract.spec import UsersSpec

_DESCRIPTION_BYTES: Final = 1 << 16
# mtimes have whole seconds: a file that is younger than this may change again unseen.
FRESH_SECONDS: Final = 2.0


class TooLargeError(HttpError):
    """A flist has more bytes than the operator allows."""

    def __init__(self, size_bytes: int) -> None:
        text = f"its {size_bytes} bytes are more than maxFlistBytes"
        super().__init__(text, retry=False)


@dataclass(frozen=True)
class Description:
    """What the master says of a flist (/light, or .md5 alone); updated: unix seconds."""

    expected: Expected
    updated: int | None
    fresh: bool


@dataclass(frozen=True)
class Ready:
    """A flist in staging that may be published, its record to be, and its chunk keys."""

    path: Path
    record: FlistRecord
    groups: tuple[KeyGroup, ...]


@dataclass(frozen=True)
class Fetched:
    """A whole, verified flist in staging, not read yet."""

    entry: Regular
    path: Path
    description: Description
    download: Downloaded


def size_text(size_bytes: int) -> str:
    """Print a size as the hub does in its listings."""
    return f"{size_bytes / 1024:.2f} KB"


def describe(page: Page, entry: Regular) -> Description:
    """Read /light. Raises HttpError where it is not about a regular flist."""
    data = page.json()
    if not isinstance(data, dict) or data.get("type") != "regular":
        raise HttpError(f"{entry.name}: is no regular flist any more", retry=False)
    size, md5, updated = data.get("size"), data.get("md5"), data.get("updated")
    if not isinstance(size, int) or not isinstance(md5, str) or not isinstance(updated, int):
        raise HttpError(f"{entry.name}: /light lacks size, md5 or updated", retry=False)
    return Description(Expected(size, md5.lower()), updated, _fresh(page, updated))


def _fresh(page: Page, updated: int) -> bool:
    return page.date_seconds is None or page.date_seconds - updated < FRESH_SECONDS


def file_path(name: Name) -> str:
    """Return the path of a flist's file on a hub."""
    return f"/{quote(name.repository)}/{quote(name.name)}"


def light_path(name: Name) -> str:
    """Return the path of a flist's description on a hub."""
    return f"/api/flist{file_path(name)}/light"


def rewriting(spec: UsersSpec) -> Rewriting:
    """Return what published flists shall name: this mirror, and its foreign namespace."""
    if spec.publish_backend is None:
        return Rewriting()
    host, port = spec.publish_backend.host, spec.publish_backend.port
    foreign = Backend(host, port, spec.foreign_namespace)
    return Rewriting(
        Backend(host, port, spec.publish_backend.namespace),
        tuple((as_backend(endpoint), foreign) for endpoint in spec.allowed_backends),
    )


class Preparer:
    """Makes a listed flist ready; its methods run in many threads."""

    def __init__(
        self, spec: UsersSpec, master: Master, tree: Tree, chunks: ChunkStore, readers: ReaderPool
    ) -> None:
        self._spec = spec
        self._master = master
        self._tree = tree
        self._chunks = chunks
        self._readers = readers
        self._rewriting = rewriting(spec)
        self.fetched_chunks = 0
        self.fetched_bytes = 0
        self._lock = threading.Lock()

    def describe(self, entry: Regular) -> Description:
        """Ask the master for a flist's exact size, MD5 and time. Raises HttpError."""
        return describe(self._master.get(light_path(entry.name), _DESCRIPTION_BYTES), entry)

    def fetch(self, entry: Regular) -> Fetched:
        """Bring a flist to staging, verified.

        Raises TooLargeError, HttpError, NoSpaceError, OSError.
        """
        durable.require_free_space(self._tree.users, self._spec.free_space_floor_bytes)
        target = durable.temporary_in(self._tree.staging)
        found: list[Description] = []

        def read(page: Page) -> Expected:
            found.append(describe(page, entry))
            expected = found[-1].expected
            if (expected.size_bytes or 0) > self._spec.max_flist_bytes:
                raise TooLargeError(expected.size_bytes or 0)
            return expected

        try:
            _, download = self._master.download_described(
                light_path(entry.name),
                file_path(entry.name),
                target,
                self._spec.max_flist_bytes,
                read,
            )
        except HttpMissingError:
            return self._fetch_by_md5(entry, target)
        return Fetched(entry, target, found[-1], download)

    def _fetch_by_md5(self, entry: Regular, target: Path) -> Fetched:
        """Fetch from a hub without /light, which says its MD5 alone."""
        path = file_path(entry.name)
        page = self._master.get(f"{path}.md5", _DESCRIPTION_BYTES)
        md5 = page.body.decode("ascii", "replace").strip().lower()
        fresh = _fresh(page, entry.updated)
        description = Description(Expected(None, md5), entry.updated, fresh)
        download = self._master.download(
            path, target, self._spec.max_flist_bytes, description.expected
        )
        return Fetched(entry, target, description, download)

    def prepare(self, fetched: Fetched) -> Ready | Withheld:
        """Read a fetched flist, bring its chunks, rewrite its backend, make it durable.

        Raises ZdbError, OSError, HttpStoppedError; what is wrong with the flist itself makes it
        Withheld.
        """
        try:
            return self._prepared(fetched)
        except FlistError as error:
            fetched.path.unlink(missing_ok=True)
            entry = fetched.entry
            # A hub copies a flist in place: what is fresh may have been half there.
            updated = -1 if fetched.description.fresh else entry.updated
            return Withheld(entry.name, updated, entry.size_text, "", str(error))
        except BaseException:
            fetched.path.unlink(missing_ok=True)
            raise

    def _prepared(self, fetched: Fetched) -> Ready | Withheld:
        scratch = durable.temporary_in(self._tree.staging)
        contents = self._readers.read(fetched.path, scratch, self._rewriting)
        place = place_of(self._spec, contents.backend)
        brought = self._chunks.bring_groups(place, contents.groups)
        with self._lock:
            self.fetched_chunks += brought.fetched_chunks
            self.fetched_bytes += brought.fetched_bytes
        if brought.missing and self._spec.broken_flists == "withhold":
            fetched.path.unlink(missing_ok=True)
            return self._withheld(fetched.entry, place.namespace, brought.missing)
        updated = fetched.description.updated
        durable.finish(fetched.path, fetched.entry.updated if updated is None else updated)
        size, md5 = contents.size_bytes, contents.md5
        if size is None or md5 is None:
            size, md5 = fetched.download.size_bytes, fetched.download.md5
        record = self._record(fetched, place.namespace, size, md5, bool(brought.missing))
        return Ready(fetched.path, record, contents.groups)

    def _withheld(self, entry: Regular, namespace: str, missing: frozenset[bytes]) -> Withheld:
        reason = f"{len(missing)} of its chunks are on no 0-db that may be asked"
        return Withheld(entry.name, entry.updated, entry.size_text, namespace, reason, missing)

    def _record(
        self, fetched: Fetched, namespace: str, size: int, md5: str, broken: bool
    ) -> FlistRecord:
        entry, description, download = fetched.entry, fetched.description, fetched.download
        return FlistRecord(
            name=entry.name,
            updated=entry.updated if description.updated is None else description.updated,
            size_text=size_text(download.size_bytes),
            size_bytes=download.size_bytes,
            md5=download.md5,
            published_bytes=size,
            published_md5=md5,
            namespace=namespace,
            recheck=description.fresh,
            broken=broken,
        )
