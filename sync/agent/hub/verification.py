"""Walk what is published against the record, the master and the local 0-db; mend what is wrong."""

import zlib
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Self

from sync.agent.file_digest import file_digest
from sync.agent.hub import plan
from sync.agent.hub.chunk_store import ChunkStore, groups, proves_itself
from sync.agent.hub.listing import Link, Listing, Name, Source
from sync.agent.hub.prepare import light_path
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
from sync.agent.supervisor import by_any_name, repair_pass
from sync.agent.zdb import ZdbConnection
from sync.contract.pinned_chunks import PinnedChunks
from sync.contract.spec import UsersSpec

_CHUNK_BATCH: Final = 32
_DESCRIPTION_BYTES: Final = 1 << 16


@dataclass(frozen=True)
class _Wrong:
    """A problem and what to mend: a published name, or a chunk in a local namespace."""

    problem: Problem
    name: Name | None = None
    chunk: bytes | None = None
    namespace: str = ""


class Verifier:
    """One walk; it changes nothing."""

    def __init__(
        self, spec: UsersSpec, directories: Directories, options: VerifyOptions, control: Control
    ) -> None:
        self._spec = spec
        self._options = options
        self._stack = ExitStack()
        self._tree = Tree(directories.public, empty_staging=False)
        self._password = directories.zdb_admin_password()
        self._db = self._stack.enter_context(HubStateDb(directories.state / DATABASE))
        self._published = self._stack.enter_context(PinnedChunks(directories.state))
        self._master = Master(spec.sources, spec.http, control, backoff=spec.backoff)
        self._stack.callback(self._master.close)
        self.checked = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def wrong(self) -> Iterator[_Wrong]:
        """Yield what is wrong in this part. Raises HttpError, ZdbError."""
        flists = {name: one for name, one in self._db.flists().items() if self._mine(name)}
        links = {name: one for name, one in self._db.links().items() if self._mine(name)}
        yield from self._files(flists.values())
        yield from self._links(links.values())
        yield from self._strays(flists.keys() | links.keys())
        yield from self._chunks(flists.values())
        if not self._options.offline:
            checked = self.checked

            def compared() -> list[_Wrong]:
                self.checked = checked
                return [*self._against_master(flists, links)]

            yield from by_any_name(compared)

    def _mine(self, name: Name) -> bool:
        return (
            zlib.crc32(str(name).encode(errors="surrogatepass")) % self._options.parts
            == self._options.part - 1
        )

    def _files(self, flists: Iterable[FlistRow]) -> Iterator[_Wrong]:
        for flist in flists:
            self.checked += 1
            if not self._tree.is_file(flist.name):
                yield _named(flist.name, "is not there")
            elif file_digest(self._tree.path(flist.name)) != (
                flist.published_bytes,
                flist.published_md5,
            ):
                yield _named(flist.name, "is not the file that was published")

    def _links(self, links: Iterable[Link]) -> Iterator[_Wrong]:
        for link in links:
            self.checked += 1
            if self._tree.target(link.name) != link.target:
                yield _named(link.name, f"does not lead to {link.target}")
            elif not self._tree.exists(link.name):
                yield _named(link.name, f"dangles: {link.target} is not there")

    def _strays(self, known: set[Name]) -> Iterator[_Wrong]:
        for name, path in self._tree.scan():
            if self._mine(name) and name not in known and _is_served(path):
                self.checked += 1
                yield _named(name, "is served and was not published by this job")

    def _chunks(self, flists: Iterable[FlistRow]) -> Iterator[_Wrong]:
        by_namespace: dict[str, dict[bytes, Name]] = {}
        for flist in flists:
            if flist.broken:
                continue
            namespace = flist.namespace or self._spec.local_zdb.namespace
            keys = by_namespace.setdefault(namespace, {})
            for key in self._db.keys(flist.name):
                keys.setdefault(key, flist.name)
        for namespace, keys in by_namespace.items():
            unguarded = self._published.lacks(keys)
            for key in unguarded:
                yield _chunk(namespace, key, keys[key], "could be deleted: not in published.sqlite")
            yield from self._stored(namespace, keys)

    def _stored(self, namespace: str, keys: dict[bytes, Name]) -> Iterator[_Wrong]:
        endpoint = self._spec.local_zdb.model_copy(update={"namespace": namespace})
        with ZdbConnection.open(endpoint, self._password) as line:
            for group in groups(sorted(keys), _CHUNK_BATCH if self._options.chunks else 1000):
                self.checked += len(group)
                for key, fault in _faults(line, group, read=self._options.chunks):
                    yield _chunk(namespace, key, keys[key], fault)

    def _against_master(
        self, flists: dict[Name, FlistRow], links: dict[Name, Link]
    ) -> Iterator[_Wrong]:
        self._master.begin_pass()
        listing = self._listing()
        wanted = plan.judge(listing, self._db.tag_links().values()).wanted
        withheld = self._db.withheld()
        for name in sorted(listing.regulars.keys() - flists.keys()):
            if self._mine(name):
                held = withheld.get(name)
                reason = f" (withheld: {held.reason})" if held else ""
                yield _named(name, f"is on the master and not here{reason}")
        for name in sorted(wanted.keys() - links.keys()):
            if self._mine(name):
                yield _named(name, "is a link on the master and not here")
        for name, link in links.items():
            listed = listing.links.get(name)
            if not name.tag and (listed is None or listed.target != link.target):
                yield _named(name, "leads elsewhere on the master, or is gone there")
        present = [flist for name, flist in flists.items() if name in listing.regulars]
        with ThreadPoolExecutor(self._spec.http.connections) as pool:
            for flist, fault in zip(present, pool.map(self._differs, present), strict=True):
                self.checked += 1
                if fault:
                    yield _named(flist.name, fault)

    def _listing(self) -> Listing:
        return Source(self._master, self._spec).fetch({})[1] or Listing()

    def _differs(self, flist: FlistRow) -> str:
        """Return how the master's flist differs from what was fetched, or nothing."""
        try:
            data = self._master.get(light_path(flist.name), _DESCRIPTION_BYTES).json()
        except HttpMissingError:
            return "is gone from the master"
        md5 = data.get("md5") if isinstance(data, dict) else None
        return "" if md5 == flist.md5 else f"has MD5 {md5} on the master, here {flist.md5}"


def _is_served(path: Path) -> bool:
    return path.is_symlink() or path.is_file()


def _named(name: Name, what: str) -> _Wrong:
    return _Wrong(Problem(str(name), what), name)


def _chunk(namespace: str, key: bytes, flist: Name, fault: str) -> _Wrong:
    problem = Problem(f"chunk {key.hex()}", f"{fault} (namespace {namespace}, named by {flist})")
    return _Wrong(problem, flist, key, namespace)


def _faults(
    line: ZdbConnection, keys: Iterable[bytes], *, read: bool
) -> Iterator[tuple[bytes, str]]:
    asked = list(keys)
    if not read:
        for key, there in zip(asked, line.exists(asked), strict=True):
            if not there:
                yield key, "is missing"
        return
    for key, payload in zip(asked, line.mget(asked), strict=True):
        if payload is None:
            yield key, "is missing"
        elif not proves_itself(key, payload):
            yield key, "is corrupt"


def verify(spec: UsersSpec, directories: Directories, options: VerifyOptions) -> VerifyReport:
    """Compare what is published with the record, the local 0-db and the master."""
    with (
        one_at_a_time(directories.state),
        Verifier(spec, directories, options, Control()) as verifier,
    ):
        problems = tuple(wrong.problem for wrong in verifier.wrong())
        return VerifyReport(verifier.checked, problems)


def repair(spec: UsersSpec, directories: Directories, options: VerifyOptions) -> VerifyReport:
    """Verify, and mend just what is wrong: from the master, or not at all when offline.

    `repaired` counts the problems that a second walk does not find any more.
    """
    control = Control()
    with (
        one_at_a_time(directories.state),
        Verifier(spec, directories, options, control) as verifier,
    ):
        found = list(verifier.wrong())
        checked = verifier.checked
        if found and not options.offline:
            _mend_chunks(spec, directories, control, found)
            _mark(directories, found)
            _changed(directories)
    problems = tuple(wrong.problem for wrong in found)
    if not found or options.offline:
        return VerifyReport(checked, problems)
    repair_pass(spec, directories, control)
    with one_at_a_time(directories.state):
        _changed(directories)
    left = {(problem.name, problem.what) for problem in verify(spec, directories, options).problems}
    gone = sum(1 for problem in problems if (problem.name, problem.what) not in left)
    return VerifyReport(checked, problems, gone)


def _mend_chunks(
    spec: UsersSpec, directories: Directories, control: Control, found: Iterable[_Wrong]
) -> None:
    """Write missing and corrupt chunks anew from wherever their namespace's chunks come from."""
    wanted: dict[str, list[bytes]] = {}
    for wrong in found:
        if wrong.chunk is not None:
            wanted.setdefault(wrong.namespace, []).append(wrong.chunk)
    chunks = ChunkStore(spec, directories.zdb_admin_password(), control)
    try:
        for namespace, keys in wanted.items():
            for route in chunks.routes(namespace):
                chunks.overwrite(route, keys)
    finally:
        chunks.close()


def _mark(directories: Directories, found: Iterable[_Wrong]) -> None:
    """Make the next pass fetch and link anew what is wrong."""
    with HubStateDb(directories.state / DATABASE) as record:
        flists, links = record.flists(), record.links()
        with record.transaction():
            for wrong in found:
                name = wrong.name
                if name is None or wrong.chunk is not None:
                    continue
                if name in flists:
                    record.put_flist(replace(flists[name], updated=None))
                if name in links:
                    record.delete_link(name)
        with PinnedChunks(directories.state) as published:
            published.rebuild(record.all_keys())


def _changed(directories: Directories) -> None:
    """Make a running process read the record anew."""
    with HubStateDb(directories.state / DATABASE) as record, record.transaction():
        record.set_number(GENERATION, record.number(GENERATION) + 1)
