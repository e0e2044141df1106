"""Flists on their way into staging, many at once: fetched, verified, read, chunks here, rewritten.

Two kinds of threads: those that fetch are as many as connections to the master, and those that
prepare wait for chunks, for readers and for the disk.
"""

import queue
import time
from collections.abc import Callable, Container, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Final, Self, TypeAlias, TypeVar

from sync.agent import durable
from sync.agent.disk_room import ScratchError
from sync.agent.flist.database import Backend
from sync.agent.flist.errors import FlistError, NeedsMoreError
from sync.agent.flist.keys import KeyGroup
from sync.agent.flist.reader_pool import Granted, Read, ReaderPool, Rewriting
from sync.agent.hub.chunk_store import ChunkStore, ForeignZdbError, as_backend, route_of
from sync.agent.hub.listing import (
    Name,
    Regular,
    as_time,
    is_fresh,
    is_size,
    light_path,
    page_path,
    size_text,
)
from sync.agent.hub.state_db import FlistRow, Withheld
from sync.agent.hub.tree import Tree
from sync.agent.hub.work_room import (
    SCRATCH_COPIES,
    HeldMemory,
    WorkRoom,
    held_by_keys,
)
from sync.agent.job import Control
from sync.agent.master.client import (
    Downloaded,
    Expected,
    HttpError,
    HttpMissingError,
    HttpStoppedError,
    Master,
    Page,
)
from sync.agent.quarantine import Quarantine
from sync.contract.spec import UsersSpec

_T = TypeVar("_T")
_DESCRIPTION_BYTES: Final = 1 << 16
_PREPARERS: Final = 4
# Flists that may be in staging at once: what is fetched waits for its chunks.
_IN_STAGING: Final = 128
_BATCH: Final = 64
# One transaction and one fsync of a directory serve all that is ready within this time.
_TOGETHER_SECONDS: Final = 0.03


class TooLargeError(HttpError):
    """A flist has more bytes than the operator allows."""


@dataclass(frozen=True)
class Description:
    """What the master says of a flist (/light, or .md5 alone); updated: unix seconds."""

    expected: Expected
    updated: int
    fresh: bool


@dataclass(frozen=True)
class Ready:
    """A flist in staging that may be published, its row to be, its chunk keys and their memory."""

    path: Path
    row: FlistRow
    groups: tuple[KeyGroup, ...]
    held: HeldMemory = field(default_factory=HeldMemory, compare=False)


@dataclass(frozen=True)
class Failure:
    """A flist that could not be had in this pass."""

    name: Name
    error: HttpError


Outcome: TypeAlias = Ready | Withheld | Failure


@dataclass(frozen=True)
class Fetched:
    """A whole, verified flist in staging, not read yet."""

    entry: Regular
    path: Path
    description: Description
    download: Downloaded


def describe(page: Page, entry: Regular) -> Description:
    """Read /light. Raises HttpError where it is not about a regular flist."""
    data = page.json()
    if not isinstance(data, dict) or data.get("type") != "regular":
        # Since the listing it became a link: api_flist_info says so, and lstat's size of that.
        raise HttpError(f"{entry.name}: is no regular flist any more", retry=False)
    size, md5, updated = data.get("size"), data.get("md5"), as_time(data.get("updated"))
    if not is_size(size) or not isinstance(md5, str) or updated is None:
        raise HttpError(f"{entry.name}: /light lacks size, md5 or updated", retry=False)
    return Description(Expected(size, md5.lower()), updated, is_fresh(page, updated))


def rewriting(spec: UsersSpec) -> Rewriting:
    """Return what published flists shall name: this mirror, and its foreign namespace."""
    if spec.publish_backend is None:
        return []
    # A flist names the 0-db of its chunks in its metadata (0-flist: libflist/flist_tools.c), and a
    # node goes there: unchanged it would go to the master.
    host, port = spec.publish_backend.host, spec.publish_backend.port
    foreign = Backend(host, port, spec.foreign_namespace)
    allowed = [(as_backend(endpoint), foreign) for endpoint in spec.allowed_backends]
    return [*allowed, (None, Backend(host, port, spec.publish_backend.namespace))]


class Preparer:
    """Makes a listed flist ready; its methods run in many threads."""

    def __init__(
        self,
        spec: UsersSpec,
        master: Master,
        tree: Tree,
        chunks: ChunkStore,
        readers: ReaderPool,
        room: WorkRoom,
        quarantine: Quarantine,
    ) -> None:
        self._spec = spec
        self._master = master
        self._tree = tree
        self._chunks = chunks
        self._readers = readers
        self._quarantine = quarantine
        self._rewriting = rewriting(spec)
        self._room = room

    def describe(self, entry: Regular) -> Description:
        """Ask the master for a flist's exact size, MD5 and time. Raises HttpError."""
        with self._quarantine.trying(str(entry.name)):
            return describe(self._master.get(light_path(entry.name), _DESCRIPTION_BYTES), entry)

    def fetch(self, entry: Regular) -> Fetched | Withheld | Failure:
        """Fetch a flist to staging, verified. Raises HttpStoppedError, NoSpaceError, OSError."""
        try:
            with self._quarantine.trying(str(entry.name)):
                return self._fetched(entry)
        except TooLargeError as error:
            # Withheld until the limit is raised: no pass asks for it again before.
            return Withheld(entry.name, entry.updated, entry.size_text, "", str(error))
        except HttpError as error:
            return Failure(entry.name, error)

    def _fetched(self, entry: Regular) -> Fetched:
        durable.require_free_space(self._tree.users, self._spec.free_space_floor_bytes)
        target = durable.temporary_in(self._tree.staging)
        # /light and the file are asked for in one round trip.
        found: list[Description] = []
        disk = ExitStack()

        def read(page: Page) -> Expected:
            found.append(describe(page, entry))
            size = found[-1].expected.size_bytes or 0
            if size > self._spec.max_flist_bytes:
                raise TooLargeError(f"its {size} bytes are more than maxFlistBytes", retry=False)
            self._hold_disk(disk, size)
            return found[-1].expected

        try:
            with disk:
                download = self._master.download_described(
                    light_path(entry.name),
                    page_path(entry.name),
                    target,
                    self._spec.max_flist_bytes,
                    read,
                )
        except HttpMissingError:
            # Hubs before /light (api_inspect_light) have the MD5 alone.
            return self._fetch_by_md5(entry, target)
        return Fetched(entry, target, found[-1], download)

    def _fetch_by_md5(self, entry: Regular, target: Path) -> Fetched:
        path = page_path(entry.name)
        page = self._master.get(f"{path}.md5", _DESCRIPTION_BYTES)
        md5 = page.body.decode("ascii", "replace").strip().lower()
        fresh = is_fresh(page, entry.updated)
        description = Description(Expected(None, md5), entry.updated, fresh)
        with ExitStack() as disk:
            download = self._master.download(
                path,
                target,
                self._spec.max_flist_bytes,
                description.expected,
                lambda size: self._hold_disk(disk, size),
            )
        return Fetched(entry, target, description, download)

    def _hold_disk(self, disk: ExitStack, size_bytes: int) -> None:
        """Hold what a flist takes of the disk, in place of what is held. Raises HttpError."""
        disk.close()
        try:
            disk.enter_context(self._room.on_disk(size_bytes, "it"))
        except ScratchError as error:
            raise HttpError(str(error), retry=False) from error

    def prepare(self, fetched: Fetched) -> Ready | Withheld | Failure:
        """Read a fetched flist, fetch its chunks, rewrite its backend, make it durable.

        Raises ZdbError, OSError, HttpStoppedError; what is wrong with the flist itself makes it
        Withheld, and it fails alone where there is no scratch disk for it, or its own 0-db is dead.
        """
        entry = fetched.entry
        try:
            outcome = self._prepared(fetched, *self._read(fetched.path, self._rewriting))
        except (ScratchError, ForeignZdbError) as error:
            fetched.path.unlink(missing_ok=True)
            return Failure(entry.name, HttpError(str(error), retry=False))
        except FlistError as error:
            # A hub copies a flist in place (shutil.copyfile, hub/flist.py): what is fresh may
            # have been half there, so the next pass fetches it again.
            updated = -1 if fetched.description.fresh else entry.updated
            outcome = Withheld(entry.name, updated, entry.size_text, "", str(error))
        if isinstance(outcome, Withheld):
            fetched.path.unlink(missing_ok=True)
        return outcome

    def read_keys(self, path: Path) -> tuple[Read, HeldMemory]:
        """Read the chunk keys of a served flist. Raises FlistError, ScratchError, OSError."""
        return self._read(path, [])

    def _read(self, path: Path, rewriting: Rewriting) -> tuple[Read, HeldMemory]:
        """Read a flist with what nearly all need, else with all that there is.

        Raises FlistError, ScratchError, OSError.
        """
        room, memory = self._room, self._room.usual
        scratch_bytes = room.usual_scratch_bytes()
        while True:
            try:
                grant = memory._replace(scratch_bytes=scratch_bytes)
                return self._read_within(path, rewriting, grant)
            except NeedsMoreError as error:
                if error.scratch_bytes:
                    scratch_bytes = error.scratch_bytes
                elif memory == room.most:
                    raise FlistError(room.refusal()) from error
                else:
                    memory = room.most

    def _read_within(
        self, path: Path, rewriting: Rewriting, grant: Granted
    ) -> tuple[Read, HeldMemory]:
        held = self._room.hold(grant)
        try:
            with self._room.on_disk(SCRATCH_COPIES * grant.scratch_bytes, "its database"):
                scratch = durable.temporary_in(self._tree.staging)
                read = self._readers.read(path, scratch, rewriting, grant)
        except BaseException:
            held.release()
            raise
        held.shrink(held_by_keys(sum(group.cost_bytes for group in read.groups)))
        return read, held

    def _prepared(self, fetched: Fetched, contents: Read, held: HeldMemory) -> Ready | Withheld:
        """Fetch the chunks of a flist that was read; what it holds it holds until published."""
        with ExitStack() as undo:
            undo.callback(held.release)
            outcome = self._with_chunks(fetched, contents)
            if isinstance(outcome, Ready):
                undo.pop_all()
                return replace(outcome, held=held)
        return outcome

    def _with_chunks(self, fetched: Fetched, contents: Read) -> Ready | Withheld:
        entry, description, download = fetched.entry, fetched.description, fetched.download
        route = route_of(self._spec, contents.backend)
        missing = self._chunks.fetch_groups(route, contents.groups)
        if missing.count and self._spec.broken_flists == "withhold":
            reason = f"{missing.count} of its chunks are on no 0-db that may be asked"
            as_listed = (entry.name, entry.updated, entry.size_text)
            return Withheld(*as_listed, route.namespace, reason, missing.keys)
        durable.finish(fetched.path, description.updated)
        # What is served differs from the master's file where the backend was rewritten.
        size, md5 = contents.rewritten or (download.size_bytes, download.md5)
        row = FlistRow(
            name=entry.name,
            # As /light says, which is younger than the listing: where the two differ, the next pass
            # finds the flist changed and fetches it again.
            updated=description.updated,
            size_text=size_text(download.size_bytes),
            size_bytes=download.size_bytes,
            md5=bytes.fromhex(download.md5),
            published_bytes=size,
            published_md5=bytes.fromhex(md5),
            namespace=route.namespace,
            recheck=description.fresh,
            broken=bool(missing.count),
        )
        return Ready(fetched.path, row, contents.groups)


def in_order(
    entries: Iterable[Regular], spec: UsersSpec, late: Container[str] = ()
) -> list[Regular]:
    """Sort into the order of work: official repositories, then most recently updated.

    late: names that come after all others.
    """
    # Nodes boot and upgrade from the official ones.
    rank = {repository: number for number, repository in enumerate(spec.official)}

    def key(entry: Regular) -> tuple[bool, int, int, Name]:
        is_late = str(entry.name) in late
        return is_late, rank.get(entry.name.repository, len(rank)), -entry.updated, entry.name

    return sorted(entries, key=key)


class Pipeline:
    """Fetches and prepares `entries` in their order, while it is entered.

    `next_batch` is called by one thread, to which all results come by one queue.
    """

    def __init__(
        self, preparer: Preparer, connections: int, control: Control, entries: Sequence[Regular]
    ) -> None:
        self._preparer = preparer
        self._control = control
        self._listed = iter(entries)
        self._awaited = len(entries)
        self._outcomes: queue.SimpleQueue[Outcome | BaseException] = queue.SimpleQueue()
        self._fetchers = ThreadPoolExecutor(connections, "fetch")
        self._preparers = ThreadPoolExecutor(_PREPARERS, "prepare")

    def __enter__(self) -> Self:
        self._start(_IN_STAGING)
        return self

    def __exit__(self, *_: object) -> None:
        """End the threads; what they have in staging stays there."""
        for pool in (self._fetchers, self._preparers):
            pool.shutdown(cancel_futures=True)

    def next_batch(self) -> list[Outcome]:
        """Wait for an outcome, and a little longer for others: they are published together.

        Returns nothing once every entry had its outcome. Raises ZdbError and OSError of any entry
        at once, HttpStoppedError when stopping.
        """
        batch: list[Outcome] = []
        wait, until = None, 0.0
        with suppress(queue.Empty):
            while self._awaited and len(batch) < _BATCH:
                outcome = self._outcomes.get(timeout=wait)
                if isinstance(outcome, BaseException):
                    # The batch so far is left in staging, and discarded with the rest.
                    raise outcome
                self._start(1)
                self._awaited -= 1
                until = until if batch else time.monotonic() + _TOGETHER_SECONDS
                wait = max(0.0, until - time.monotonic())
                batch.append(outcome)
        return batch

    def _start(self, count: int) -> None:
        """Let so many more flists into staging."""
        for entry in islice(self._listed, count):
            self._fetchers.submit(self._do, self._preparer.fetch, entry)

    def _do(self, step: Callable[[_T], Fetched | Outcome], flist: _T) -> None:
        """Do one step; whatever it raises reaches the thread that takes the outcomes."""
        try:
            if self._control.stopping():
                raise HttpStoppedError  # noqa: TRY301 - as the step would
            done = step(flist)
        except BaseException as error:  # noqa: BLE001 - handed over, not swallowed
            self._outcomes.put(error)
            return
        if isinstance(done, Fetched):
            self._preparers.submit(self._do, self._preparer.prepare, done)
        else:
            self._outcomes.put(done)
