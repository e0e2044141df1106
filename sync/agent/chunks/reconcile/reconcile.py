"""What is done beside following: comparing the two sides, mending, and applying deletes.

It works on a thread of its own with its own connections, only while nothing is behind, and only
when the numbers of keys say that something is wrong: equal numbers cost one NSINFO a minute.
"""

import sqlite3
import threading
import time
from collections.abc import Callable
from typing import Final

from sync.agent.chunks.checkpoint import FlistsState
from sync.agent.chunks.pollers import InfoWatcher
from sync.agent.chunks.reconcile.crash_recovery import check_named, prove
from sync.agent.chunks.reconcile.deletes import Dropped, delete, judge
from sync.agent.chunks.reconcile.diff import WORK_DIRECTORY, Comparison, compare
from sync.agent.chunks.reconcile.partitions import KeyFile
from sync.agent.chunks.reconcile.refetch import Mended, mend
from sync.agent.chunks.scan.full_scan import Stopped
from sync.agent.chunks.scan.ledger import Ledger, encode_keys
from sync.agent.deletion_guard import Vanished, guard
from sync.agent.job import Directories, JobPaused
from sync.agent.zdb import ZdbConnection
from sync.contract.pinned_chunks import PinnedChunksReader
from sync.contract.spec import FlistsSpec

# Numbers that differ are looked at again so often before the keys are compared: writes and
# deletes that are under way make them differ for a moment.
_LOOKS: Final = 4
_REMOVAL_SECONDS: Final = 0.5
_NAMED_SECONDS: Final = 3.0
_PAUSE_RETRY_SECONDS: Final = 15.0
_COMPARE_SHARE: Final = 10
_TABLE_SECONDS: Final = 15.0


class Housekeeper:
    """Decides when to compare and to delete, and does it; check() raises what went wrong."""

    def __init__(
        self,
        spec: FlistsSpec,
        directories: Directories,
        password: str | None,
        state: FlistsState,
        ledger: Ledger,
    ) -> None:
        self.spec = spec
        self.remark = ""
        self._directories = directories
        self._password = password
        self._state = state
        self._ledger = ledger
        self._dropped = Dropped(directories.state)
        self._pinned = PinnedChunksReader(directories.users_state)
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None
        self._look_at = 0.0
        self._looks = 0
        self._removal_at = 0.0
        self._asked: tuple[int, int] | None = None
        self._judged_stamp: float | None = -1.0
        self._named_at: float | None = time.monotonic() + _NAMED_SECONDS
        self._counts = {"compared": 0, "deleted_items": 0, "kept_items": 0, "mended_items": 0}
        self._look_for_more()

    def close(self) -> None:
        """Stop what is under way and wait for it."""
        self._stop.set()
        if self._thread:
            self._thread.join()

    def details(self) -> dict[str, int | float | str]:
        """Return counters for the status record."""
        waiting = self._dropped.observation()
        return {
            **self._counts,
            "dropped_items": waiting.items if waiting else 0,
            "extra_items": self._state.extra_items,
        }

    def check(self) -> None:
        """Raise what stopped the work, if anything did."""
        error, self._error = self._error, None
        if error:
            raise error

    @property
    def busy(self) -> bool:
        """Tell whether work is under way."""
        return self._thread is not None and self._thread.is_alive()

    def consider(self, following: bool, master: InfoWatcher, slave: InfoWatcher) -> None:
        """Start what is due; called ten times a second with the latest numbers of both sides."""
        if self.busy:
            self._asked = None
        elif self._state.unproven is not None:
            self._start(self._prove)
        elif following:
            self._consider_following(master, slave)
        else:
            self._asked = None

    def _consider_following(self, master: InfoWatcher, slave: InfoWatcher) -> None:
        if self._named_at is not None and time.monotonic() >= self._named_at:
            self._named_at = None
            self._start(self._check_named)
        elif self._removal_is_due():
            self._start(self._remove)
        elif time.monotonic() >= self._look_at:
            self._look(master, slave)

    def _look(self, master: InfoWatcher, slave: InfoWatcher) -> None:
        """Compare the numbers of keys, asked for anew on both sides."""
        if self._asked is None:
            self._asked = (master.answers, slave.answers)
            master.ask_now()
            slave.ask_now()
            return
        if master.answers == self._asked[0] or slave.answers == self._asked[1]:
            return
        self._asked = None
        if master.info is None or slave.info is None:
            return
        state = self._state
        wanted = master.info.entries - state.lacking_items + state.extra_items
        if slave.info.entries == wanted:
            self._settle(self.spec.delete_check_seconds)
            return
        self._looks += 1
        if self._looks >= _LOOKS:
            expected = max(master.info.entries, slave.info.entries)
            self._start(lambda: self._compare(expected))

    def _settle(self, seconds: float) -> None:
        self._looks = 0
        self._look_at = time.monotonic() + seconds

    def _start(self, work: Callable[[], None]) -> None:
        def guarded() -> None:
            try:
                work()
            except Stopped:
                return
            except BaseException as error:  # noqa: BLE001 - raised again by check()
                self._error = error

        self._thread = threading.Thread(target=guarded, name="housekeeping", daemon=True)
        self._thread.start()

    def _connections(self) -> tuple[ZdbConnection, ZdbConnection]:
        timeout = self.spec.io_timeout_seconds
        master = ZdbConnection.open(self.spec.source, None, timeout)
        return master, ZdbConnection.open(self.spec.local_zdb, self._password, timeout)

    def _compare(self, expected: int) -> None:
        started = time.monotonic()
        result = compare(
            self.spec,
            self._password,
            self._directories.state,
            self._ledger,
            expected,
            self._stop.is_set,
        )
        self._counts["compared"] += 1
        self._mend(result.missing)
        self._observe(result)
        took = time.monotonic() - started
        self._settle(max(self.spec.delete_check_seconds, took * _COMPARE_SHARE))

    def _observe(self, result: Comparison) -> None:
        waiting = self._dropped.observation()
        if waiting is None or waiting.judged or self._pinned.pass_started_at() is None:
            self._dropped.replace(result.dropped, result.observed_at)
        else:
            # A newer one would wait for a newer pass: for ever, where deletes never end.
            self._dropped.outdate()
        # Counted only once they wait: what is counted is not looked for again.
        self._state.extra_items = result.extra_items
        self._state.compared_at = result.observed_at
        self._judged_stamp = -1.0

    def _mend(self, missing: KeyFile) -> None:
        stored = gone = 0
        refused: list[str] = []
        master, slave = self._connections()
        with master, slave:
            for keys in missing.read():
                lacking = [
                    key
                    for key, is_there in zip(keys, slave.exists(keys), strict=True)
                    if not is_there
                ]
                self._ledger.write(encode_keys(lacking))
                mended = mend(master, slave, lacking)
                self._count_mended(mended)
                stored += mended.stored + len(keys) - len(lacking)
                gone += mended.gone
                refused += [key.hex() for key in mended.refused]
                if self._stop.is_set():
                    raise Stopped
        self._state.refused = sorted(refused)
        self._state.lacking_items = missing.count - stored - gone

    def _count_mended(self, mended: Mended) -> None:
        self._counts["mended_items"] += mended.stored

    def _prove(self) -> None:
        """Prove what the slave got last before it was started anew; a kill goes on from there."""
        state = self._state
        master, slave = self._connections()
        with master, slave:
            for proven in prove(master, slave, state.unproven or "", self._stop.is_set):
                self._count_mended(proven.mended)
                state.unproven = proven.cursor
        state.unproven = None
        self._settle(0)

    def _check_named(self) -> None:
        """Compare the payloads of keys that are no hashes.

        A killed agent's last SETs may still stand in the slave's socket and come after ours.
        """
        master, slave = self._connections()
        with master, slave:
            check_named(master, slave, [bytes.fromhex(key) for key in self._state.named])

    def _removal_is_due(self) -> bool:
        """Tell whether dropped keys wait for which a newer users pass can speak, or the operator.

        What a users job that ran once left behind still says which chunks are named.
        """
        if time.monotonic() < self._removal_at:
            return False
        self._removal_at = time.monotonic() + _REMOVAL_SECONDS
        observation = self._dropped.observation()
        if observation is None:
            return False
        stamp = self._pinned.pass_started_at()
        if not self.spec.deletes_without_users:
            if stamp is None:
                self.remark = f"{observation.items} dropped keys wait for the users job"
                return False
            if stamp <= observation.observed_at:
                return False
        self.remark = ""
        if stamp == self._judged_stamp:
            return False
        self._judged_stamp = stamp
        return True

    def _remove(self) -> None:
        work = self._directories.state / WORK_DIRECTORY
        work.mkdir(exist_ok=True)
        judged, kept = KeyFile(work / "judged"), KeyFile(work / "kept")
        for file in (judged, kept):
            file.path.unlink(missing_ok=True)
        nobody_judges = self.spec.deletes_without_users and not self._pinned.exists
        pinned = None if nobody_judges else self._pinned
        try:
            judge(self._dropped, pinned, judged, kept)
            self._guard(judged.count)
            self._delete(pinned, judged)
        except sqlite3.Error:
            # If the table cannot be read, treat every chunk as pinned and try again later.
            self._judged_stamp = -1.0
            self._removal_at = time.monotonic() + _TABLE_SECONDS
            return
        self._counts["kept_items"] = kept.count
        observation = self._dropped.observation()
        if observation and observation.outdated:
            self._dropped.note_judged()
            self._look_for_more()
        elif observation:
            self._dropped.replace(kept, observation.observed_at, judged=True)

    def _look_for_more(self) -> None:
        """Let the numbers of keys differ where the master has dropped more than was judged."""
        observation = self._dropped.observation()
        if observation and observation.judged and observation.outdated:
            self._state.extra_items = 0

    def _guard(self, doomed: int) -> None:
        """Raise JobPaused where more would vanish than the operator allows."""
        spec, state = self.spec, self._state
        mirrored = state.done_items + state.extra_items
        observation = self._dropped.observation()
        confirmed = observation.confirmation if observation else 0
        vanished = Vanished(doomed, mirrored, kind="keys")
        try:
            if guard(spec, vanished, state.confirmation, _PAUSE_RETRY_SECONDS):
                confirmed = spec.removal_confirmation
                self._dropped.confirm(confirmed)
        except JobPaused:
            if not confirmed:
                raise
        state.confirmation = max(state.confirmation, confirmed)

    def _delete(self, pinned: PinnedChunksReader | None, judged: KeyFile) -> None:
        master, slave = self._connections()
        with master, slave:
            for removed in delete(master, slave, pinned, judged):
                self._counts["deleted_items"] += removed.deleted
                self._state.extra_items = max(0, self._state.extra_items - removed.deleted)
                if self._stop.is_set():
                    raise Stopped
