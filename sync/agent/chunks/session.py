"""One session with both servers: listed pages to the copy loop, done pages into the checkpoint.

The thread of `Session.run` owns the checkpoint; other threads are asked for what they found.
"""

import contextlib
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from typing import Final

from sync.agent.chunks.checkpoint import REFUSED_KEPT, Checkpoint, Saver, SpanState
from sync.agent.chunks.copying.copy_loop import CopyLoop
from sync.agent.chunks.failover import Failback
from sync.agent.chunks.handshake import Handshake, shake_hands
from sync.agent.chunks.memory import SessionMemory
from sync.agent.chunks.pollers import Answer, InfoPoller, WriteWaiter
from sync.agent.chunks.progress import Rate, progress
from sync.agent.chunks.reconcile.reconciler import Reconciler
from sync.agent.chunks.scan.cut_points import CutPointFinder
from sync.agent.chunks.scan.index_source import IndexSource
from sync.agent.chunks.scan.ledger import Ledger
from sync.agent.chunks.scan.scanner import Scanner, open_scanners
from sync.agent.job import Control, Directories, JobFailed, JobPaused
from sync.agent.master.endpoints import MasterEndpoints
from sync.agent.status_writer import StatusWriter, name_list, utc_now
from sync.agent.zdb.key_room import require_disk_room, require_key_room
from sync.agent.zdb.namespace_info import NamespaceInfo
from sync.contract.spec import FlistsSpec, ZdbEndpoint
from sync.contract.status import MasterIdentity

_SAVE_SECONDS: Final = 0.5
_STATUS_SECONDS: Final = 0.5
_LOOK_SECONDS: Final = 0.1
_PROBED_ITEMS: Final = 50_000


@contextlib.contextmanager
def open_session(
    spec: FlistsSpec,
    directories: Directories,
    status: StatusWriter,
    sources: MasterEndpoints[ZdbEndpoint],
) -> Iterator["Session"]:
    """Connect to both servers; with the block all connections end and the checkpoint is saved.

    sources: the names of the master's 0-db; the one in use is the spec's first. Raises ZdbError,
    JobFailed, JobPaused.
    """
    password, timeout = directories.zdb_admin_password(), spec.io_timeout_seconds
    checkpoint = Checkpoint.load(directories.state)
    ledger = Ledger(directories.state)
    ledger.repair(checkpoint.ledger_bytes)
    with (
        closing(ledger),
        closing(Saver(directories.state, ledger, status.error)) as saver,
        contextlib.ExitStack() as opened,
    ):
        memory = SessionMemory.of(spec)
        handshake, loop, scanners = _connect(spec, directories, checkpoint, memory, opened)
        sources.answered()
        _report_master(spec, handshake, status)
        require_disk_room(handshake.slave.free_bytes, spec.free_space_floor_bytes)
        _require_memory(spec, handshake, handshake.slave_keys)
        index = IndexSource(spec, handshake.spans, scanners, memory)
        loop.watch(index.scanners)
        loop.probing = handshake.slave.entries > handshake.checkpoint.stored_items
        keep = opened.enter_context
        keep(closing(WriteWaiter(spec, index.look_now, index.look_again)))
        session = Session(
            spec,
            status,
            handshake,
            ledger,
            saver,
            loop,
            index,
            master=keep(closing(InfoPoller(spec.source, None, timeout, slave=False))),
            slave=keep(closing(InfoPoller(spec.local_zdb, password, timeout, slave=True))),
            cut_points=keep(closing(CutPointFinder(spec, directories.users_state))),
            reconciler=keep(closing(Reconciler(spec, directories, ledger))),
            failback=keep(closing(Failback(sources, timeout))),
        )
        try:
            yield session
        finally:
            # Docker kills ten seconds after SIGTERM, and ending the threads may take as long.
            # At once what is acknowledged; and again with all that a task found until it ended.
            session.save()
            opened.close()
            session.save()


def _connect(
    spec: FlistsSpec,
    directories: Directories,
    checkpoint: Checkpoint,
    memory: SessionMemory,
    opened: contextlib.ExitStack,
) -> tuple[Handshake, CopyLoop, list[Scanner]]:
    """Connect while the servers are asked who they are: round trips count."""
    password = directories.zdb_admin_password()
    following = len(checkpoint.spans) == 1
    with ThreadPoolExecutor(2) as pool:
        loop = pool.submit(CopyLoop, spec, password, memory)
        scanners = pool.submit(open_scanners, spec, 1 if following else spec.scanners, memory)
        try:
            handshake = shake_hands(spec, directories, password, checkpoint)
        finally:
            if loop.exception() is None:
                opened.callback(loop.result().close)
            if scanners.exception() is None:
                for scanner in scanners.result():
                    opened.callback(scanner.close)
    return handshake, loop.result(), scanners.result()


def _report_master(spec: FlistsSpec, handshake: Handshake, status: StatusWriter) -> None:
    # A master is known by a cursor that no other one accepts.
    anchors = handshake.checkpoint.anchors
    identity = anchors[0].hex if anchors else None
    master = MasterIdentity(source=str(spec.source), identity=identity, seen_at=utc_now())
    status.update(phase="snapshot", reason="", master=master)


def _require_memory(spec: FlistsSpec, handshake: Handshake, keys: int) -> None:
    others = handshake.slave_keys - handshake.slave.entries
    wanted = handshake.master.entries + others
    require_key_room(keys, spec.local_zdb_memory_bytes, wanted)


@dataclass(eq=False)
class Session:
    """Copies and follows with what `open_session` opened. progressed: it did some good."""

    spec: FlistsSpec
    status: StatusWriter
    handshake: Handshake
    ledger: Ledger
    saver: Saver
    loop: CopyLoop
    index: IndexSource
    master: InfoPoller
    slave: InfoPoller
    cut_points: CutPointFinder
    reconciler: Reconciler
    failback: Failback
    progressed: bool = False

    def __post_init__(self) -> None:
        self._checkpoint = self.handshake.checkpoint
        self._following = False
        # When nothing was missing last (monotonic).
        self._caught_up_at: float | None = None
        self._rate = Rate()
        self._saved_at = 0.0
        self._reported_at = 0.0
        self._looked_at = 0.0
        # The slave's keys that this session did not add, by its last answer.
        self._counted_by: Answer | None = None
        self._other_keys = self.handshake.slave_keys
        # Since when nothing is under way to it (monotonic).
        self._idle_since: float | None = None
        self._probed_from = (0, 0)

    def run(self, control: Control) -> None:
        """Copy and follow until stopping, or until a better name of the master is back.

        Raises ZdbError, OSError, JobFailed, JobPaused.
        """
        while not control.stopping() and not self._changes_name():
            now = time.monotonic()
            if self.loop.has_room and self.index.has_room:
                pages = self.index.pull(now)
                # Before any of it reaches the slave: a key that is not in the ledger is for ever.
                for page in pages:
                    self.ledger.write([entry[0] for entry in page.entries])
                self.loop.copy(pages)
            if self.loop.step(now + 0.25) and (done := self.index.acknowledge()):
                self._checkpoint = self._checkpoint.counting(done)
                self.progressed = True
            self._tick(time.monotonic())

    def _changes_name(self) -> bool:
        """Return whether to go on by a better name: never while something is to be copied."""
        return self.failback.due.is_set() and self._following and not self.loop.busy

    def _tick(self, now: float) -> None:
        self.loop.check_times()
        self._watch_memory()
        self.master.check()
        self.slave.check()
        if now - self._saved_at >= _SAVE_SECONDS and self.saver.idle:
            self._saved_at = now
            self.save()
        # The first moment without anything missing is reported at once, not at the next look.
        arrived = self.index.following and not self._following and not self.loop.busy
        if arrived or now - self._looked_at >= _LOOK_SECONDS:
            self._looked_at = now
            was_following = self._following
            self._look_around(now)
            if self._following != was_following:
                self._reported_at = 0.0
        if now - self._reported_at >= _STATUS_SECONDS:
            self._reported_at = now
            self._report(now)

    def _look_around(self, now: float) -> None:
        master, slave = self.master.latest, self.slave.latest
        if slave:
            require_disk_room(slave.info.free_bytes, self.spec.free_space_floor_bytes)
            self._watch_foreign_writes(slave.info.entries)
        self._following = self.index.following and not self.loop.busy
        if self._following:
            self._caught_up_at = now
            self.progressed = True
        self._checkpoint = self.reconciler.take(self._checkpoint)
        self.reconciler.check()
        for role, answer in (("master", master), ("slave", slave)):
            if answer:
                self.loop.renewals.boots[role] = answer.boot
        if master and slave:
            self._require_content(master.info)
            if self._following:
                # Overwritten and deleted entries were counted too; nothing is missing now.
                self._checkpoint = self._checkpoint.changed(
                    done_items=master.info.entries, done_bytes=master.info.data_size_bytes
                )
            self.reconciler.consider(
                self._checkpoint, self.master, self.slave, following=self._following
            )
        self.index.divide(self.cut_points.poll(wanted=self.index.divisible))

    def _require_content(self, master: NamespaceInfo) -> None:
        if master.entries == 0 and self._checkpoint.done_items > self.spec.removal_floor_items:
            raise JobFailed(
                f"the master {self.spec.source.host} suddenly lists nothing; what is mirrored "
                "is kept. If that is meant, raise removalConfirmation by one"
            )

    def _watch_foreign_writes(self, slave_entries: int) -> None:
        """Ask the slave before fetching only while others fill it too: it costs a third."""
        loop, counters = self.loop, self.loop.counters
        # SET of a payload that is there answers nil, so copying it again is right, only wasteful:
        # what matters is how much of the last so many entries the slave had.
        if loop.probing:
            listed, new = self._probed_from
            if counters.listed_items - listed > _PROBED_ITEMS:
                known = (counters.listed_items - listed) - (counters.new_items - new)
                self._probed_from = (counters.listed_items, counters.new_items)
                loop.probing = known > _PROBED_ITEMS // 100
        else:
            loop.probing = slave_entries > self.handshake.slave.entries + loop.added_items

    def _watch_memory(self) -> None:
        """Count what is under way to the slave as there: 0-db must not be filled."""
        answer, added = self.slave.latest, self.loop.added_items
        if self.loop.in_flight:
            self._idle_since = None
        elif self._idle_since is None:
            self._idle_since = time.monotonic()
        if answer and answer is not self._counted_by:
            self._counted_by = answer
            others = answer.keys - added
            # An answer may know nothing of what was under way when it was asked for: then it says
            # only how many other keys there are at least.
            exact = self._idle_since is not None and answer.asked_at > self._idle_since
            self._other_keys = others if exact else max(others, self._other_keys)
        try:
            _require_memory(self.spec, self.handshake, self._other_keys + added)
        except JobPaused:
            # Never with anything under way: it would be given up, and may be no new key at all.
            if not self.loop.in_flight:
                raise
            self.loop.held = True
        else:
            self.loop.held = False

    def save(self) -> None:
        """Save what is acknowledged and found, soon."""
        checkpoint = self._note_lacking(self.reconciler.take(self._checkpoint))
        spans = tuple(SpanState.of(span) for span in self.index.spans)
        if not checkpoint.anchors and spans and spans[-1].low.cursor:
            checkpoint = checkpoint.changed(anchors=(spans[-1].low.cursor,))
        slave = self.slave.latest
        if slave and slave.end:
            checkpoint = checkpoint.with_slave_end(slave.end)
        size_bytes = self.ledger.size_bytes
        self._checkpoint = checkpoint.changed(spans=spans, ledger_bytes=size_bytes)
        self.saver.save(self._checkpoint)

    def _note_lacking(self, checkpoint: Checkpoint) -> Checkpoint:
        """Note the keys that the slave cannot have: refused, or unreadable on the master."""
        counters = self.loop.counters
        known = {*checkpoint.refused, *(key.hex() for key in counters.refused)}
        lacking_items = checkpoint.lacking_items + len(known) - len(checkpoint.refused)
        counters.refused.clear()
        refused = tuple(sorted(known)[:REFUSED_KEPT])
        return checkpoint.changed(refused=refused, lacking_items=lacking_items)

    def _report(self, now: float) -> None:
        checkpoint, counters = self._checkpoint, self.loop.counters
        tail = checkpoint.spans[-1].low.cursor if checkpoint.spans else None
        master = self.master.latest.info if self.master.latest else self.handshake.master
        self._rate.add(now, counters.done_items, counters.new_bytes)
        changes = progress(
            checkpoint, master, self._rate, self._caught_up_at, following=self._following
        )
        details = {
            "copied_bytes": counters.new_bytes,
            "copied_items": counters.new_items,
            "gone_items": counters.missing_items,
            "listed_items": counters.listed_items,
            "spans": len(self.index.spans),
            "unreadable_items": counters.unreadable_items,
            **self.reconciler.details(checkpoint),
        }
        if self._following:
            record = self.status.record
            changes["last_success_at"] = reached_at = utc_now()
            changes["bootable_at"] = record.bootable_at or reached_at
            changes["first_pass_at"] = record.first_pass_at or reached_at
        self.status.update(
            # Once in this session nothing was missing: later writes are lag, no new snapshot.
            phase="snapshot" if self._caught_up_at is None else "following",
            reason=self.reconciler.remark,
            cursor=tail.hex if tail else None,
            refused=name_list(checkpoint.refused),
            details=details,
            **changes,
        )
