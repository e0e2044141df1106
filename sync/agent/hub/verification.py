"""Compare what is published with rows, master and local 0-db; repair what is wrong."""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from typing import Final

from sync.agent.budget import Budget
from sync.agent.digests import file_digest, proves_itself
from sync.agent.hub.chunk_store import ChunkStore, groups
from sync.agent.hub.links import judge
from sync.agent.hub.listing import Link, Name, light_path
from sync.agent.hub.source import Source
from sync.agent.hub.state_db import DATABASE, GENERATION, FlistRow, HubStateDb
from sync.agent.hub.tree import Tree
from sync.agent.job import (
    Control,
    Directories,
    Problem,
    VerifyOptions,
    VerifyReport,
    one_at_a_time,
)
from sync.agent.master.client import HttpMissingError, Master
from sync.agent.master.endpoints import by_any_name
from sync.agent.name_room import NameRoom
from sync.agent.supervisor import repair_pass
from sync.agent.zdb.connection import ZdbConnection
from sync.contract.pinned_chunks import PinnedChunks
from sync.contract.spec import UsersSpec

# Payloads of up to 512 KiB each (0-flist: libflist/zero_chunk.c) come in one answer.
_READ_BATCH: Final = 32
_EXISTS_BATCH: Final = 1000
_DESCRIPTION_BYTES: Final = 1 << 16


@dataclass(frozen=True)
class _Finding:
    """A problem and what to repair: a published name, or a chunk in a local namespace."""

    problem: Problem
    name: Name
    chunk: bytes | None = None
    namespace: str = ""


class Verifier(ExitStack):
    """One scan, of what it opens; all but `repair` change nothing."""

    def __init__(
        self, spec: UsersSpec, directories: Directories, options: VerifyOptions, control: Control
    ) -> None:
        self._spec = spec
        self._options = options
        self._control = control
        super().__init__()
        self._tree = Tree(directories.public, empty_staging=False)
        self._password = directories.zdb_admin_password()
        self._db = self.enter_context(HubStateDb(directories.state / DATABASE))
        self._pinned = self.enter_context(PinnedChunks(directories.state))
        self._master = Master(spec.sources, spec.http, control, backoff=spec.backoff)
        self.callback(self._master.close)
        self.checked = 0

    def findings(self) -> Iterator[_Finding]:
        """Yield what is wrong in this part. Raises HttpError, ZdbError."""
        flists = {name: one for name, one in self._db.flists().items() if self._covers(name)}
        links = {name: one for name, one in self._db.links().items() if self._covers(name)}
        yield from self._files(flists.values())
        yield from self._links(links.values())
        yield from self._orphans(flists.keys() | links.keys())
        yield from self._chunks(flists.values())
        if not self._options.offline:
            # Each of the master's names that dies has the comparison begun anew.
            yield from by_any_name(lambda: [*self._against_master(flists, links)])

    def _covers(self, name: Name) -> bool:
        return self._options.covers(str(name))

    def _files(self, flists: Iterable[FlistRow]) -> Iterator[_Finding]:
        for flist in flists:
            self.checked += 1
            md5 = flist.published_md5
            published = (flist.published_bytes, None if md5 is None else md5.hex())
            if not self._tree.is_file(flist.name):
                yield _named(flist.name, "is not there")
            elif file_digest(self._tree.path(flist.name)) != published:
                yield _named(flist.name, "is not the file that was published")

    def _links(self, links: Iterable[Link]) -> Iterator[_Finding]:
        for link in links:
            self.checked += 1
            if self._tree.target(link.name) != link.target:
                yield _named(link.name, f"does not lead to {link.target}")
            elif not self._tree.path(link.name).exists():
                yield _named(link.name, f"dangles: {link.target} is not there")

    def _orphans(self, known: set[Name]) -> Iterator[_Finding]:
        for name, path in self._tree.scan():
            served = path.is_symlink() or path.is_file()
            if self._covers(name) and name not in known and served:
                self.checked += 1
                yield _named(name, "is served and was not published by this job")

    def _chunks(self, flists: Iterable[FlistRow]) -> Iterator[_Finding]:
        by_namespace: dict[str, dict[bytes, Name]] = {}
        for flist in flists:
            # Published without some by the operator's policy: that is no finding.
            if flist.broken:
                continue
            namespace = flist.namespace or self._spec.local_zdb.namespace
            keys = by_namespace.setdefault(namespace, {})
            for key in self._db.keys(flist.name):
                keys.setdefault(key, flist.name)
        for namespace, keys in by_namespace.items():
            unpinned = "could be deleted: not in published.sqlite"
            faults = [(key, unpinned) for key in self._pinned.lacks(keys)]
            for key, fault in [*faults, *self._stored(namespace, sorted(keys))]:
                what = f"{fault} (namespace {namespace}, named by {keys[key]})"
                yield _Finding(Problem(f"chunk {key.hex()}", what), keys[key], key, namespace)

    def _stored(self, namespace: str, keys: list[bytes]) -> Iterator[tuple[bytes, str]]:
        """Yield the chunks that are missing or (where they are read) corrupt."""
        endpoint = self._spec.local_zdb.model_copy(update={"namespace": namespace})
        with ZdbConnection.open(endpoint, self._password) as line:
            for group in groups(keys, _READ_BATCH if self._options.chunks else _EXISTS_BATCH):
                self.checked += len(group)
                if not self._options.chunks:
                    there = zip(group, line.exists(group), strict=True)
                    yield from ((key, "is missing") for key, exists in there if not exists)
                    continue
                for key, payload in zip(group, line.mget(group), strict=True):
                    if payload is None:
                        yield key, "is missing"
                    elif not proves_itself(key, payload):
                        yield key, "is corrupt"

    def _against_master(
        self, flists: dict[Name, FlistRow], links: dict[Name, Link]
    ) -> Iterator[_Finding]:
        self._master.begin_pass()
        room = NameRoom.of(Budget.of(self._spec), flists)
        listing = Source(self._master, self._spec).listing(room, flists)
        wanted = judge(listing, self._db.tag_links().values()).wanted
        withheld = self._db.withheld()
        for name in sorted(filter(self._covers, listing.regulars.keys() - flists.keys())):
            reason = f" (withheld: {withheld[name].reason})" if name in withheld else ""
            yield _named(name, f"is on the master and not here{reason}")
        for name in sorted(filter(self._covers, wanted.keys() - links.keys())):
            yield _named(name, "is a link on the master and not here")
        for name, link in links.items():
            listed = listing.links.get(name)
            if not name.tag and (listed is None or listed.target != link.target):
                yield _named(name, "leads elsewhere on the master, or is gone there")
        present = [flist for name, flist in flists.items() if name in listing.regulars]
        with ThreadPoolExecutor(self._spec.http.connections) as pool:
            for flist, fault in zip(present, pool.map(self._differs, present), strict=True):
                if fault:
                    yield _named(flist.name, fault)
        self.checked += len(present)

    def _differs(self, flist: FlistRow) -> str:
        """Return how the master's flist differs from what was fetched, or nothing."""
        try:
            data = self._master.get(light_path(flist.name), _DESCRIPTION_BYTES).json()
        except HttpMissingError:
            return "is gone from the master"
        md5 = data.get("md5") if isinstance(data, dict) else None
        here = None if flist.md5 is None else flist.md5.hex()
        return "" if md5 == here else f"has MD5 {md5} on the master, here {here}"

    def repair(self, found: Iterable[_Finding]) -> None:
        """Write chunks anew, and make the next pass fetch and link anew what is wrong."""
        corrupt: dict[str, list[bytes]] = {}
        names: set[Name] = set()
        for finding in found:
            if finding.chunk is None:
                names.add(finding.name)
            else:
                corrupt.setdefault(finding.namespace, []).append(finding.chunk)
        with closing(ChunkStore(self._spec, self._password, self._control)) as chunks:
            for namespace, keys in corrupt.items():
                chunks.overwrite(namespace, keys)
        flists, links = self._db.flists(), self._db.links()
        with self._db.transaction():
            for name in names & flists.keys():
                self._db.put_flist(replace(flists[name], updated=None))
            for name in names & links.keys():
                self._db.delete_link(name)
            self._db.try_all_again()
        # Flists may be served that have no row: the next pass looks before chunks may be deleted.
        self._pinned.set_unread(1)
        # Unpinned chunks are found as well, and there is no telling which others were lost.
        self._pinned.rebuild(self._db.all_keys())
        self.invalidate()

    def invalidate(self) -> None:
        """Make a running process read the rows anew."""
        with self._db.transaction():
            self._db.set_number(GENERATION, self._db.number(GENERATION) + 1)


def _named(name: Name, what: str) -> _Finding:
    return _Finding(Problem(str(name), what), name)


def verify(spec: UsersSpec, directories: Directories, options: VerifyOptions) -> VerifyReport:
    """Compare what is published with the rows, the local 0-db and the master."""
    with (
        one_at_a_time(directories.state),
        Verifier(spec, directories, options, Control()) as verifier,
    ):
        problems = tuple(finding.problem for finding in verifier.findings())
        return VerifyReport(verifier.checked, problems)


def repair(spec: UsersSpec, directories: Directories, options: VerifyOptions) -> VerifyReport:
    """Verify, and repair just what is wrong: from the master, or not at all when offline.

    `repaired` counts the problems that a second scan does not find any more.
    """
    control = Control()
    with Verifier(spec, directories, options, control) as verifier:
        with one_at_a_time(directories.state):
            found = [*verifier.findings()]
            problems = tuple(finding.problem for finding in found)
            report = VerifyReport(verifier.checked, problems)
            if not found or options.offline:
                return report
            verifier.repair(found)
        repair_pass(spec, directories, control)
        with one_at_a_time(directories.state):
            verifier.invalidate()
    return report.after_repair(verify(spec, directories, options))
