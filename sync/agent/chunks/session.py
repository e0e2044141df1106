"""One session with both servers: check who they are, copy, follow, remember, report."""

import contextlib
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from sync.agent.chunks.checkpoint import FlistsState, Saver, SpanState
from sync.agent.chunks.copying.copy_loop import CopyLoop
from sync.agent.chunks.failover import Returning
from sync.agent.chunks.handshake import Meeting, meet
from sync.agent.chunks.pollers import InfoWatcher, WriteWatcher, watch_master, watch_slave
from sync.agent.chunks.progress import Rate, Sample, eta_seconds, lag
from sync.agent.chunks.reconcile.reconcile import Housekeeper
from sync.agent.chunks.scan.cut_points import CutPointFinder
from sync.agent.chunks.scan.index_source import IndexSource
from sync.agent.chunks.scan.ledger import Ledger, encode_keys
from sync.agent.chunks.scan.pages import Page
from sync.agent.chunks.scan.scanner import open_scanners
from sync.agent.job import Control, Directories, JobFailed, JobPaused
from sync.agent.master.endpoints import MasterEndpoints
from sync.agent.status_writer import StatusWriter, name_list, utc_now
from sync.agent.zdb import NamespaceInfo
from sync.agent.zdb.key_room import require_key_room
from sync.contract.spec import FlistsSpec, ZdbEndpoint
from sync.contract.status import Amount

_SAVE_SECONDS: Final = 0.5
_STATUS_SECONDS: Final = 0.5
_LOOK_SECONDS: Final = 0.1
_FULL_RETRY_SECONDS: Final = 10.0
_PROBED_ITEMS: Final = 50_000
_REFUSED_KEPT: Final = 10_000


class Session:
    """Connections to both servers and what is done with them; close() ends all.

    sources: the names of the master's 0-db; the one in use is the spec's first.
    """

    def __init__(
        self,
        spec: FlistsSpec,
        directories: Directories,
        status: StatusWriter,
        control: Control,
        sources: MasterEndpoints[ZdbEndpoint],
    ) -> None:
        self.spec = spec
        # Whether the master answered as itself; whether this session did any good; and when
        # nothing was missing last (monotonic).
        self.met = False
        self.progressed = False
        self.caught_up_at: float | None = None
        self._directories = directories
        self._status = status
        self._control = control
        self._sources = sources
        self._password = directories.zdb_admin_password()
        self._stack = contextlib.ExitStack()
        self._state = FlistsState.load(directories.state)
        self._ledger = Ledger(directories.state)
        self._ledger.mend(self._state.ledger_bytes)
        self._saver = Saver(directories.state, self._ledger, status.error)
        self._stack.callback(self._ledger.close)
        self._stack.callback(self._saver.close)
        self._rate = Rate()
        self._saved_at = 0.0
        self._reported_at = 0.0
        self._looked_at = 0.0
        self._following = False
        self._probe_mark = (0, 0)
        self._unreadable_noted = 0

    def close(self) -> None:
        """Save what is acknowledged and end everything."""
        with contextlib.suppress(AttributeError):
            self._remember()
        self._stack.close()

    def run(self) -> None:
        """Copy and follow until told to stop, or until a better name of the master is back.

        Raises ZdbError, JobFailed, JobPaused.
        """
        # Connections are made while the servers are asked who they are: round trips count.
        following = len(self._state.spans) == 1
        with ThreadPoolExecutor(2) as pool:
            loop = pool.submit(CopyLoop, self.spec, self._password)
            scanners = pool.submit(open_scanners, self.spec, 1 if following else self.spec.scanners)
            try:
                self._meeting = meet(self.spec, self._directories, self._password, self._state)
            finally:
                if loop.exception() is None:
                    self._stack.callback(loop.result().close)
                if scanners.exception() is None:
                    for scanner in scanners.result():
                        self._stack.callback(scanner.close)
        self._loop = loop.result()
        self._scanners = scanners.result()
        self.met = True
        self._sources.answered()
        self._report_master(self._meeting)
        self._require_room(self._meeting.slave.free_bytes)
        self._require_memory(self._meeting.slave_keys)
        self._start()
        while not self._control.stopping() and not self._changes_name():
            now = time.monotonic()
            if self._loop.has_room:
                self._copy(self._source.pull(now))
            if self._loop.step(now + 0.25):
                self._count(self._source.acknowledge())
            self._tick(time.monotonic())

    def _changes_name(self) -> bool:
        """Tell whether to go on by a better name: never while something is still to be copied."""
        return self._returning.back.is_set() and self._following and not self._loop.busy

    def _start(self) -> None:
        self._source = IndexSource(self.spec, self._meeting.spans, self._scanners)
        self._loop.watch(self._source.scanners)
        # (answers of the slave's watcher, its keys less what was sent to it by then)
        self._counted = (0, self._meeting.slave_keys)
        self._loop.probing = self._meeting.slave.entries > self._state.stored_items
        self._master: InfoWatcher = watch_master(self.spec)
        self._stack.callback(self._master.close)
        self._slave: InfoWatcher = watch_slave(self.spec, self._password)
        self._stack.callback(self._slave.close)
        self._finder = CutPointFinder(self.spec, self._directories.users_state)
        self._stack.callback(self._finder.close)
        writes = WriteWatcher(self.spec, self._source.look_now, self._source.look_again)
        self._stack.callback(writes.close)
        self._housekeeper = Housekeeper(
            self.spec, self._directories, self._password, self._state, self._ledger
        )
        self._stack.callback(self._housekeeper.close)
        self._returning = Returning(self._sources, self.spec.io_timeout_seconds)
        self._stack.callback(self._returning.close)

    def _tick(self, now: float) -> None:
        self._loop.check_times()
        self._watch_memory()
        for watcher in (self._master, self._slave):
            if watcher.error:
                raise watcher.error
        if now - self._saved_at >= _SAVE_SECONDS and self._saver.idle:
            self._saved_at = now
            self._remember()
        arrived = self._source.following and not self._following and not self._loop.busy
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
        slave, master = self._slave.info, self._master.info
        if slave:
            self._require_room(slave.free_bytes)
            self._watch_strangers(slave.entries)
        self._following = self._source.following and not self._loop.busy
        if self._following:
            self.caught_up_at = now
            self.progressed = True
            self._state.snapshot_done = True
        if master and slave:
            self._require_content(master)
            if self._following:
                # Overwritten and deleted entries were counted too; nothing is missing now.
                self._state.done_items = master.entries
                self._state.done_bytes = master.data_size_bytes
            self._housekeeper.consider(self._following, self._master, self._slave)
        self._housekeeper.check()
        self._source.divide(self._finder.poll(wanted=self._source.divisible))

    def _require_content(self, master: NamespaceInfo) -> None:
        if master.entries == 0 and self._state.done_items > self.spec.removal_floor_items:
            raise JobFailed(
                f"the master {self.spec.source.host} suddenly lists nothing; what is mirrored "
                "is kept. If that is meant, raise removalConfirmation by one"
            )

    def _watch_strangers(self, slave_entries: int) -> None:
        """Ask the slave before fetching only while others fill it too: it costs a third."""
        counters = self._loop.counters
        if self._loop.probing:
            listed, new = self._probe_mark
            if counters.listed_items - listed > _PROBED_ITEMS:
                known = (counters.listed_items - listed) - (counters.new_items - new)
                self._probe_mark = (counters.listed_items, counters.new_items)
                self._loop.probing = known > _PROBED_ITEMS // 100
        else:
            ours = self._meeting.slave.entries + self._loop.sent_items
            self._loop.probing = slave_entries > ours

    def _require_room(self, free_bytes: int | None) -> None:
        floor = self.spec.free_space_floor_bytes
        if free_bytes is not None and free_bytes < floor:
            raise JobPaused(
                f"the local 0-db's disk has {free_bytes} bytes free and {floor} must stay free; "
                "add space or lower freeSpaceFloorBytes, it goes on by itself",
                _FULL_RETRY_SECONDS,
            )

    def _watch_memory(self) -> None:
        """Count what was sent since the slave was asked as new there: 0-db must not be filled."""
        answers, sent = self._slave.answers, self._loop.sent_items
        if answers != self._counted[0] and self._slave.keys is not None:
            self._counted = (answers, self._slave.keys - sent)
        self._require_memory(self._counted[1] + sent)

    def _require_memory(self, keys: int) -> None:
        meeting = self._meeting
        others = meeting.slave_keys - meeting.slave.entries
        wanted = meeting.master.entries + others
        require_key_room(keys, self.spec.local_zdb_memory_bytes, wanted)

    def _copy(self, pages: list[Page]) -> None:
        """Write listed keys to the ledger before anything of them reaches the slave."""
        try:
            for page in pages:
                self._ledger.write(encode_keys([entry[0] for entry in page.entries]))
        except OSError as error:
            raise JobPaused(
                f"{self._ledger.path}: {error.strerror}; add space, it goes on by itself",
                _FULL_RETRY_SECONDS,
            ) from error
        self._loop.copy(pages)

    def _count(self, pages: list[Page]) -> None:
        """Count what the slave has acknowledged."""
        if not pages:
            return
        state = self._state
        for page in pages:
            state.note_named(page.plain_keys)
            state.done_items += len(page.entries)
            state.done_bytes += sum(page.lengths)
            state.stored_items += page.stored_items
        self.progressed = True

    def _remember(self) -> None:
        """Save the acknowledged edges."""
        state = self._state
        state.spans = [SpanState.of(span) for span in self._source.spans]
        if not state.anchors and state.spans and state.spans[-1].low.cursor:
            state.anchors = [state.spans[-1].low.cursor]
        self._note_lacking()
        if self._slave.mark:
            state.mark(self._slave.mark)
        state.ledger_bytes = self._ledger.size_bytes
        self._saver.save(state.model_copy(deep=True))

    def _note_lacking(self) -> None:
        """Remember the keys that the slave can not have: refused, or unreadable on the master."""
        state, counters = self._state, self._loop.counters
        known = {*state.refused, *(key.hex() for key in counters.refused)}
        state.lacking_items += len(known) - len(state.refused)
        state.lacking_items += len(counters.unreadable) - self._unreadable_noted
        self._unreadable_noted = len(counters.unreadable)
        state.refused = sorted(known)[:_REFUSED_KEPT]
        counters.refused.clear()

    def _report_master(self, meeting: Meeting) -> None:
        self._status.seen_master(
            str(self.spec.source), meeting.identity, phase="snapshot", reason=""
        )

    def _report(self, now: float) -> None:
        state = self._state
        counters = self._loop.counters
        master = self._master.info or self._meeting.master
        total = Amount(items=master.entries, bytes=master.data_size_bytes)
        done = Amount(items=state.done_items, bytes=state.done_bytes)
        if self._following:
            copied = max(0, master.entries - state.lacking_items)
            done = Amount(items=copied, bytes=master.data_size_bytes)
        done = Amount(
            items=min(done.items or 0, master.entries),
            bytes=min(done.bytes or 0, master.data_size_bytes),
        )
        self._rate.add(Sample(now, counters.done_items, counters.new_bytes))
        rate = self._rate.per_second()
        behind = lag(done, total, self.caught_up_at)
        changes: dict[str, object] = {
            # Once in this session nothing was missing: later writes are lag, no new snapshot.
            "phase": "following" if self.caught_up_at is not None else "snapshot",
            "reason": self._housekeeper.remark,
            "done": done,
            "total": total,
            "lag": behind,
            "cursor": state.spans[-1].low.cursor if state.spans else None,
            "rate_items_per_second": rate[0] if rate else None,
            "rate_bytes_per_second": rate[1] if rate else None,
            "eta_seconds": eta_seconds(behind, rate),
            "refused": name_list(state.refused),
            "details": self._details(),
        }
        if self._following:
            changes |= self._landmarks()
        self._status.update(**changes)

    def _landmarks(self) -> dict[str, object]:
        now = utc_now()
        record = self._status.record
        return {
            "last_success_at": now,
            "bootable_at": record.bootable_at or now,
            "first_pass_at": record.first_pass_at or now,
        }

    def _details(self) -> dict[str, int | float | str]:
        counters = self._loop.counters
        return {
            "copied_bytes": counters.new_bytes,
            "copied_items": counters.new_items,
            "gone_items": counters.missing_items,
            "listed_items": counters.listed_items,
            "spans": len(self._source.spans),
            "unreadable_items": len(counters.unreadable),
            **self._housekeeper.details(),
        }
