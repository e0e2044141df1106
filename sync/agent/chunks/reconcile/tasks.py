"""The tasks of the reconcile thread: refetch after a crash, compare, delete.

Each begins with the checkpoint as it was then and changes nothing that other threads see: what it
finds is reported, and applied by the one who owns the checkpoint.
"""

import contextlib
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from sync.agent.chunks.checkpoint import Checkpoint
from sync.agent.chunks.reconcile.crash_recovery import check_plain_keys, prove
from sync.agent.chunks.reconcile.deletes import Dropped, delete, judge
from sync.agent.chunks.reconcile.diff import WORK_DIRECTORY, Comparison, KeyFile, compare
from sync.agent.chunks.reconcile.refetch import refetch
from sync.agent.chunks.scan.full_scan import Stopped
from sync.agent.chunks.scan.ledger import Ledger
from sync.agent.deletion_guard import Vanished, guard
from sync.agent.job import Directories, JobPaused
from sync.agent.zdb import ZdbConnection
from sync.contract.pinned_chunks import PinnedChunksReader
from sync.contract.spec import FlistsSpec

_PAUSE_RETRY_SECONDS: Final = 15.0
# A comparison takes no more than a tenth of the time.
_COMPARE_SHARE: Final = 10
_TABLE_SECONDS: Final = 15.0


@dataclass(frozen=True)
class Finding:
    """Something that a task found.

    changes: fields of the checkpoint. counts: to be added to the counters of the status record.
    kept_items: dropped keys that a flist names. look_in_seconds: when to compare the numbers of
    keys again. judge_in_seconds: when to judge dropped keys, whether or not the table is newer.
    """

    changes: Mapping[str, object] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)
    kept_items: int | None = None
    look_in_seconds: float | None = None
    judge_in_seconds: float | None = None


class Tasks:
    """What the reconcile thread does, one at a time. Every task raises ZdbError, OSError, Stopped.

    report: takes what is found, from the task's thread.
    """

    def __init__(
        self,
        spec: FlistsSpec,
        directories: Directories,
        ledger: Ledger,
        report: Callable[[Finding], None],
        stopping: Callable[[], bool],
    ) -> None:
        self._spec = spec
        self._state = directories.state
        self._password = directories.zdb_admin_password()
        self._ledger = ledger
        self._report = report
        self._stopping = stopping
        self._dropped = Dropped(directories.state)
        self._pinned = PinnedChunksReader(directories.users_state)

    @contextlib.contextmanager
    def _connections(self) -> Iterator[tuple[ZdbConnection, ZdbConnection]]:
        spec, timeout = self._spec, self._spec.io_timeout_seconds
        with (
            ZdbConnection.open(spec.source, None, timeout) as master,
            ZdbConnection.open(spec.local_zdb, self._password, timeout) as slave,
        ):
            yield master, slave

    def prove(self, checkpoint: Checkpoint) -> None:
        """Check what the slave got last before it was started anew; a kill goes on from there."""
        with self._connections() as (master, slave):
            for end, stored in prove(master, slave, checkpoint.unproven or "", self._stopping):
                self._report(Finding({"unproven": end}, {"mended_items": stored}))
        self._report(Finding({"unproven": None}, look_in_seconds=0))

    def check_plain_keys(self, checkpoint: Checkpoint) -> None:
        """Compare the payloads of keys that are no hashes."""
        with self._connections() as (master, slave):
            check_plain_keys(master, slave, [bytes.fromhex(key) for key in checkpoint.named])

    def compare(self, expected: int) -> None:
        """Compare all keys of both sides; fetch what is missing, let wait what was dropped."""
        started = time.monotonic()
        result = compare(
            self._spec, self._password, self._state, self._ledger, expected, self._stopping
        )
        self._report(Finding(counts={"compared": 1}))
        self._refetch(result.missing)
        self.observe(result)
        took_seconds = time.monotonic() - started
        wait_seconds = max(self._spec.delete_check_seconds, took_seconds * _COMPARE_SHARE)
        self._report(Finding(look_in_seconds=wait_seconds))

    def _refetch(self, missing: KeyFile) -> None:
        # The slave was listed first: some of these were copied meanwhile.
        lacking_items = missing.count
        refused: list[str] = []
        with self._connections() as (master, slave):
            for keys in missing.read():
                there = slave.exists(keys)
                lacking = [key for key, known in zip(keys, there, strict=True) if not known]
                self._ledger.write(lacking)
                refetched = refetch(master, slave, lacking)
                self._report(Finding(counts={"mended_items": refetched.stored}))
                lacking_items -= refetched.stored + refetched.gone + len(keys) - len(lacking)
                refused += [key.hex() for key in refetched.refused]
                if self._stopping():
                    raise Stopped
        self._report(Finding({"refused": tuple(sorted(refused)), "lacking_items": lacking_items}))

    def observe(self, result: Comparison) -> None:
        """Let dropped keys wait for a users pass that began after they were seen to be dropped."""
        waiting = self._dropped.observation()
        if waiting is None or waiting.judged or self._pinned.pass_started_at() is None:
            self._dropped.replace(result.dropped, result.observed_at)
        else:
            # A newer one would wait for a newer pass: for ever, where deletes never end.
            self._dropped.update(outdated=True)
        # Counted only once they wait: what is counted is not looked for again.
        self._report(Finding({"extra_items": result.extra_items}, judge_in_seconds=0))

    def remove(self, checkpoint: Checkpoint) -> None:
        """Judge the dropped keys and delete those that no flist names. Raises JobPaused."""
        work = self._state / WORK_DIRECTORY
        work.mkdir(exist_ok=True)
        judged, kept = KeyFile(work / "judged"), KeyFile(work / "kept")
        for file in (judged, kept):
            file.path.unlink(missing_ok=True)
        nobody_judges = self._spec.deletes_without_users and not self._pinned.exists
        pinned = None if nobody_judges else self._pinned
        try:
            judge(self._dropped, pinned, judged, kept)
            self._guard(judged.count, checkpoint)
            self._delete(pinned, judged, checkpoint.extra_items)
        except sqlite3.Error:
            # If the table cannot be read, treat every chunk as pinned and try again later.
            self._report(Finding(judge_in_seconds=_TABLE_SECONDS))
            return
        self._report(Finding(kept_items=kept.count))
        observation = self._dropped.observation()
        if observation and observation.outdated:
            self._dropped.update(judged=True)
            # The master has dropped more than was judged: the numbers of keys are to differ.
            self._report(Finding({"extra_items": 0}))
        elif observation:
            self._dropped.replace(kept, observation.observed_at, judged=True)

    def _guard(self, doomed: int, checkpoint: Checkpoint) -> None:
        """Raise JobPaused where more would vanish than the operator allows."""
        observation = self._dropped.observation()
        confirmed = observation.confirmation if observation else 0
        mirrored = checkpoint.done_items + checkpoint.extra_items
        vanished = Vanished(doomed, mirrored, kind="keys")
        try:
            if guard(self._spec, vanished, checkpoint.confirmation, _PAUSE_RETRY_SECONDS):
                confirmed = self._spec.removal_confirmation
                self._dropped.update(confirmation=confirmed)
        except JobPaused:
            # What was confirmed and then interrupted needs no second word.
            if not confirmed:
                raise
        self._report(Finding({"confirmation": max(checkpoint.confirmation, confirmed)}))

    def _delete(self, pinned: PinnedChunksReader | None, judged: KeyFile, extra_items: int) -> None:
        with self._connections() as (master, slave):
            for deleted in delete(master, slave, pinned, judged):
                extra_items = max(0, extra_items - deleted)
                self._report(Finding({"extra_items": extra_items}, {"deleted_items": deleted}))
                if self._stopping():
                    raise Stopped
