"""One pass of the users job: list, judge, ask, fetch, publish, link, remove."""

import logging
import sqlite3
import time
from collections.abc import Collection
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from random import SystemRandom
from typing import Final

from sync.agent.budget import Budget
from sync.agent.flist.reader_pool import Read, ReaderPool
from sync.agent.hub import confirming, tags, waiting
from sync.agent.hub.chunk_store import ChunkStore
from sync.agent.hub.links import judge
from sync.agent.hub.listing import (
    Listing,
    Name,
    Regular,
    TagName,
    deselected,
    page_path,
    target_of,
)
from sync.agent.hub.pipeline import Failure, Outcome, Pipeline, Preparer, Ready, in_order
from sync.agent.hub.progress import Pass, Progress
from sync.agent.hub.publisher import Publisher
from sync.agent.hub.removal import Removals
from sync.agent.hub.source import Source
from sync.agent.hub.state_db import (
    DATABASE,
    GENERATION,
    FlistRow,
    HubStateDb,
    Withheld,
    as_listed,
)
from sync.agent.hub.tree import Tree
from sync.agent.hub.work_room import HeldMemory, WorkRoom
from sync.agent.job import Control, Directories, Engine, one_at_a_time
from sync.agent.master.client import HttpError, HttpStoppedError, Master
from sync.agent.master.identity import follow
from sync.agent.name_room import NameRoom
from sync.agent.quarantine import Quarantine
from sync.agent.rate_limit import bandwidth
from sync.agent.status_writer import StatusWriter
from sync.contract.pinned_chunks import PinnedChunks
from sync.contract.spec import UsersSpec

_LOG = logging.getLogger(__name__)
_UNKNOWN_GENERATION: Final = -1.0
# Flists asked for to see whether the master itself is well.
_SAMPLE: Final = 3


class UsersEngine(Engine[UsersSpec]):
    """The users job of one spec; `one_pass` is called again and again by one thread.

    That thread owns all that is served and known of it. Others fetch and prepare (Pipeline), read
    tags and ask the master for names; each hands its results back.
    """

    def __init__(
        self, spec: UsersSpec, directories: Directories, status: StatusWriter, control: Control
    ) -> None:
        super().__init__(spec, directories, status, control)
        self._budget = Budget.of(spec)
        self._names_bytes = 0
        self._generation = _UNKNOWN_GENERATION
        self._waiting: list[str] = []
        self._refused_logged: set[str] = set()
        self._db = self._stack.enter_context(HubStateDb(directories.state / DATABASE))
        self._pinned = self._stack.enter_context(PinnedChunks(directories.state))
        with one_at_a_time(directories.state):
            # What an earlier process left in staging goes, and rows that another spec made.
            self._tree = Tree(directories.public)
            self._publisher = Publisher(self._tree, self._db, self._pinned)
            self._publisher.expect(spec)
        shared = bandwidth(spec.bandwidth_bytes_per_second)
        report = self._status.sources
        self._master = Master(
            spec.sources, spec.http, control, bandwidth=shared, backoff=spec.backoff, report=report
        )
        self._stack.callback(self._master.close)
        password = directories.zdb_admin_password()
        self._chunks = ChunkStore(spec, password, control, shared, report)
        self._stack.callback(self._chunks.close)
        self._quarantine = Quarantine(spec, self._db, self._master)
        self._readers = ReaderPool()
        self._stack.callback(self._readers.stop_idle)
        self._room = WorkRoom(self._tree.staging, spec.free_space_floor_bytes)
        self._preparer = Preparer(
            spec,
            self._master,
            self._tree,
            self._chunks,
            self._readers,
            self._room,
            self._quarantine,
        )
        self._source = Source(self._master, spec)
        self._tags = tags.TagReader(self._source, self._db, spec.http.connections, self._quarantine)
        self._removals = Removals(spec, self._master, self._db, self._publisher)
        self._progress = Progress(self._status, self._master, self._chunks, self._publisher)

    def one_pass(self) -> None:
        """Make the hub's folder what the master has.

        Raises HttpError when the master cannot be listed, ZdbError when a 0-db fails,
        PassIncompleteError when some flist could not be had, JobPaused when too much vanished.
        """
        with one_at_a_time(self._directories.state):
            try:
                self._one_pass()
            except (OSError, sqlite3.Error):
                # The database may lack what was done on the disk just before.
                self._generation = _UNKNOWN_GENERATION
                raise

    def next_try_seconds(self) -> float | None:
        """Return in how many seconds a quarantined name is to be tried again."""
        return self._quarantine.next_try_seconds()

    def _one_pass(self) -> None:
        self._pinned.begin()
        self._master.begin_pass()
        self._chunks.begin_pass()
        self._adopt()
        served = self._publisher.flists
        room = NameRoom.of(self._budget, served)
        listing = self._source.listing(room, served)
        self._follow(listing)
        self._quarantine.begin(lambda name: self._listed_as(listing, name))
        work = self._judged(listing, room)
        self._log_refused(work.refused)
        self._publisher.follow(listing, work.plan, work.states)
        for repository in sorted(listing.repositories):
            # Empty ones as well: a hub lists every folder below users/ (api_repositories).
            self._tree.make_repository(repository)
        entries = self._entries(work)
        self._ask(work, entries)
        self._fetch(work, entries)
        self._publisher.link_all()
        self._read_keys()
        self._report_waiting(work)
        self._removals.remove(work)
        self._tags.set_times(work, self._publisher, self._tree)
        # Last, so that a kill before it has the tags read once more.
        self._tags.settle(work)
        self._report_waiting(work)
        self._finish(work)

    def _adopt(self) -> None:
        """Read the rows anew where they changed behind us, and look at the disk."""
        if self._generation != self._db.number(GENERATION):
            # Strangers may have uploaded them, or an upstream mirror may have had more.
            NameRoom.of(self._budget).require_for_disk(*self._tree.count())
            self._publisher.reload()
            self._publisher.adopt()
            self._generation = self._db.number(GENERATION)
        if not self._publisher.flists:
            # While the first listing comes: they take as long to start.
            self._readers.start()

    # What the master has

    def _follow(self, listing: Listing) -> None:
        """Make sure that the name in use is the master's. Raises JobFailed."""
        source = self._master.source
        mirrored = {
            name: known.updated
            for name, known in self._publisher.flists.items()
            if known.md5 is not None
            and known.missing_since is None
            and not deselected(self._spec, name)
        }
        listed = {name: entry.updated for name, entry in listing.regulars.items()}
        identity = follow(self._spec, self._directories.state, source, mirrored, listed)
        self._status.seen_master(source, identity)

    def _listed_as(self, listing: Listing, name: str) -> str | None:
        """Return what the master lists of a name that may fail; None where it does not list it."""
        target = target_of(name)
        if isinstance(target, TagName):
            tag = listing.tags.get(target)
            return None if tag is None else str(tag.updated)
        if target in listing.regulars:
            flist = listing.regulars[target]
            return f"{flist.updated} {flist.size_text}"
        inside = target.its_tag in listing.tags
        link = self._db.tag_link(target) if inside else listing.links.get(target)
        return None if link is None else f"{link.link_time} {link.target}"

    def _judged(self, listing: Listing, room: NameRoom) -> Pass:
        """Read the tags, judge every link, and ask for what is listed no more."""
        failed = self._tags.read(listing, room)
        self._names_bytes = room.taken_bytes
        rows = self._db.tags()
        refused = [text for tag in listing.tags if tag in rows for text in rows[tag].refused]
        work = Pass(
            listing,
            judge(listing, self._db.tag_links().values()),
            [*listing.refused, *refused],
            {
                str(tag): error
                for tag, error in failed.items()
                if not self._quarantine.leaves_out(str(tag))
            },
            self._waiting,
            self._quarantine.reasons(),
            clocks=self._source.clocks,
        )
        self._removals.ask(work)
        work.states = tags.states_of(work, rows, failed, self._spec)
        return work

    def _log_refused(self, refused: list[str]) -> None:
        """Log every refusal once: the status record has room for the first hundred only."""
        # A pass that repeats every minute must not fill the log with the same lines.
        for text in sorted(set(refused) - self._refused_logged):
            _LOG.warning("%s", text)
        self._refused_logged = set(refused)

    # Content

    def _entries(self, work: Pass) -> list[Regular]:
        """Return the flists to fetch, in the order of work."""
        publisher, regulars = self._publisher, work.listing.regulars
        publisher.drop_withheld(publisher.withheld.keys() - regulars.keys())
        due = [entry for entry in regulars.values() if self._is_due(work, entry)]
        # So that those that failed before keep no other waiting.
        return in_order(due, self._spec, self._quarantine)

    def _is_due(self, work: Pass, entry: Regular) -> bool:
        """Return whether a flist changed, or what withheld it may have gone; asks in doubt."""
        if self._quarantine.leaves_out(str(entry.name)):
            return False
        withheld = self._publisher.withheld.get(entry.name)
        if withheld is not None and as_listed(withheld, entry):
            return bool(withheld.missing) and (
                self._spec.broken_flists == "publish"
                or self._chunks.is_available(withheld.namespace, self._db.missing(entry.name))
            )
        known = self._publisher.flists.get(entry.name)
        if known is None or not as_listed(known, entry):
            return True
        return known.recheck and self._changed_after_all(work, entry, known)

    def _changed_after_all(self, work: Pass, entry: Regular, known: FlistRow) -> bool:
        """Ask /light about a flist that was fetched within seconds of its last change."""
        try:
            description = self._preparer.describe(entry)
        except HttpError as error:
            work.failures[str(entry.name)] = str(error)
            return False
        same = known.md5 is not None and description.expected.md5 == known.md5.hex()
        # The same, and older than a second by now: no change can hide behind its time any more.
        if same and not description.fresh:
            self._publisher.update(replace(known, recheck=False))
        return not same

    def _ask(self, work: Pass, entries: Collection[Regular]) -> None:
        """Ask the master for the new links whose flists are here or coming, each by its name."""
        coming = {entry.name for entry in entries}
        links = confirming.new_links(work, self._publisher, coming)
        connections = self._spec.http.connections
        asked = confirming.ask(self._master, connections, self._quarantine, work, links)
        self._publisher.confirm(asked)

    def _fetch(self, work: Pass, entries: list[Regular]) -> None:
        """Fetch flists and publish them as they come, each with the links that waited for it."""
        self._refetch_broken(work.listing)
        self._progress.report(work)
        if not entries:
            self._readers.stop_idle()
            return
        try:
            self._room.begin(self._budget, self._names_bytes, self._readers)
            self._readers.start()
            connections = self._spec.http.connections
            pipeline = Pipeline(self._preparer, connections, self._control, entries)
            with pipeline, closing(self._room):
                while batch := pipeline.next_batch():
                    self._publish(work, batch)
                    self._progress.report_seldom(work)
        finally:
            self._readers.stop_idle()
            # What nobody took.
            self._tree.empty_staging()

    def _publish(self, work: Pass, batch: list[Outcome]) -> None:
        ready = [outcome for outcome in batch if isinstance(outcome, Ready)]
        if ready:
            self._publisher.publish(ready)
            for one in ready:
                one.held.release()
            if any(one.row.name.repository in self._spec.official for one in ready):
                self._progress.set_bootable()
        for outcome in batch:
            if isinstance(outcome, Withheld):
                self._publisher.withhold(outcome)
            elif isinstance(outcome, Failure):
                work.failures[str(outcome.name)] = str(outcome.error)

    def _refetch_broken(self, listing: Listing) -> None:
        """Try again for the chunks of flists that were published without all of them."""
        for known in [flist for flist in self._publisher.flists.values() if flist.broken]:
            namespace = known.namespace or self._spec.local_zdb.namespace
            if known.name in listing.regulars and self._chunks.refetch(
                namespace, self._db.keys(known.name)
            ):
                self._publisher.update(replace(known, broken=False))

    # The end of a pass

    def _read_keys(self) -> None:
        """Pin the chunks of what is served and was not fetched: taken over, retained, withheld."""
        if not self._publisher.pins.unread:
            return

        def read(path: Path) -> tuple[Read, HeldMemory]:
            if self._control.stopping():
                raise HttpStoppedError
            return self._preparer.read_keys(path)

        self._room.begin(self._budget, self._names_bytes, self._readers)
        try:
            with closing(self._room):
                self._publisher.read_keys(read)
        finally:
            self._readers.stop_idle()

    def _report_waiting(self, work: Pass) -> None:
        self._waiting = work.waiting = waiting.lines(work, self._publisher)
        self._progress.report(work)

    def _finish(self, work: Pass) -> None:
        listing = work.listing
        listed = len(listing.regulars) + len(listing.links) + len(listing.tags)
        try:
            self._quarantine.settle(self._status, work.failures, listed, self._master_is_well)
        finally:
            work.held = self._quarantine.reasons()
            self._progress.report(work)
        self._pinned.completed(work.started_at, time.time())
        if self._publisher.flists:
            self._progress.set_bootable()

    def _master_is_well(self) -> bool:
        """Return whether the master still delivers something that it delivered before."""
        served = [*filter(self._publisher.is_current, self._publisher.flists)]
        return any(map(self._delivers, SystemRandom().sample(served, min(_SAMPLE, len(served)))))

    def _delivers(self, name: Name) -> bool:
        try:
            self._master.head(page_path(name))
        except HttpError:
            return False
        return True
