"""What is done beside following: comparing the two sides, refetching, and applying deletes.

A task runs on a thread of its own with its own connections, only while nothing is behind, and only
when the numbers of keys say that something is wrong: equal numbers cost one NSINFO a minute.
"""

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from queue import SimpleQueue
from typing import Final

from sync.agent.chunks.checkpoint import Checkpoint
from sync.agent.chunks.pollers import Answer, InfoPoller
from sync.agent.chunks.reconcile.crash_recovery import check_plain_keys, prove
from sync.agent.chunks.reconcile.deletes import Deletes
from sync.agent.chunks.reconcile.key_comparison import compare_keys
from sync.agent.chunks.reconcile.refetch import fetch_refused
from sync.agent.chunks.reconcile.tasks import Finding, Stopped, TaskContext
from sync.agent.chunks.scan.ledger import Ledger
from sync.agent.job import Directories
from sync.contract.spec import FlistsSpec

# Numbers that differ are looked at again so often before the keys are compared: writes and
# deletes that are under way make them differ for a moment.
_LOOKS: Final = 4
_REMOVAL_SECONDS: Final = 0.5
# A killed agent's last SETs may still stand in the slave's socket and come after ours.
_PLAIN_KEYS_SECONDS: Final = 3.0
_NEVER: Final = -1.0
# Between two tries to get what was refused, at most.
_LONGEST_SECONDS: Final = 3600.0


class Reconciler:
    """Decides when to compare and to delete. Used by the one thread that owns the checkpoint.

    What a running task finds comes by a queue; `take` applies it.
    """

    def __init__(self, spec: FlistsSpec, directories: Directories, ledger: Ledger) -> None:
        self._spec = spec
        self.remark = ""
        self._findings: SimpleQueue[Finding] = SimpleQueue()
        self._context = TaskContext(spec, directories, ledger, self._findings.put)
        self.deletes = Deletes(self._context)
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="reconcile")
        self._task: Future[None] | None = None
        self._error: BaseException | None = None
        self._look_at = 0.0
        self._looks = 0
        self._asked: tuple[Answer, Answer] | None = None
        self._removal_at = 0.0
        # When the users pass began by which dropped keys were judged last.
        self._judged_by: float | None = _NEVER
        self._check_plain_at: float | None = time.monotonic() + _PLAIN_KEYS_SECONDS
        # When to ask again for what was refused, and how long after that once more.
        self._refused_at: float | None = None
        self._refused_seconds = 0.0
        self._kept_items = 0
        self._counts = {"compared": 0, "deleted_items": 0, "mended_items": 0}
        observation = self.deletes.dropped.observation()
        if observation and observation.judged and observation.outdated:
            self._findings.put(Finding({"extra_items": 0}))

    def close(self) -> None:
        """Stop what is under way and wait for it; `take` has what it found."""
        self._context.stop()
        self._pool.shutdown()

    def take(self, checkpoint: Checkpoint) -> Checkpoint:
        """Return the checkpoint with everything that was found since the last call."""
        # Asked before the queue is read: then all that an ended task found is in it.
        ended = self._task is not None and self._task.done()
        while not self._findings.empty():
            finding = self._findings.get()
            checkpoint = checkpoint.changed(**finding.changes)
            self._note(finding)
        if ended and self._task is not None:
            error, self._task = self._task.exception(), None
            self._error = None if isinstance(error, Stopped) else error
        return checkpoint

    def _note(self, finding: Finding) -> None:
        for name, number in finding.counts.items():
            self._counts[name] += number
        if finding.kept_items is not None:
            self._kept_items = finding.kept_items
        if finding.look_in_seconds is not None:
            self._settle(finding.look_in_seconds)
        if finding.judge_in_seconds is not None:
            self._judged_by = _NEVER
            self._removal_at = time.monotonic() + finding.judge_in_seconds

    def check(self) -> None:
        """Raise what stopped the last task, if anything did."""
        error, self._error = self._error, None
        if error:
            raise error

    def details(self, checkpoint: Checkpoint) -> dict[str, int | float | str]:
        """Return counters for the status record."""
        waiting = self.deletes.dropped.observation()
        return {
            **self._counts,
            "kept_items": self._kept_items,
            "dropped_items": waiting.items if waiting else 0,
            "extra_items": checkpoint.extra_items,
        }

    def consider(
        self, checkpoint: Checkpoint, master: InfoPoller, slave: InfoPoller, *, following: bool
    ) -> None:
        """Start what is due; called ten times a second with the latest numbers of both sides."""
        if self._task is not None:
            self._asked = None
        elif checkpoint.unproven is not None:
            self._start(lambda: prove(self._context, checkpoint))
        elif not following:
            self._asked = None
        elif self._check_plain_at is not None and time.monotonic() >= self._check_plain_at:
            self._check_plain_at = None
            self._start(lambda: check_plain_keys(self._context, checkpoint))
        elif self._removal_is_due():
            self._start(lambda: self.deletes.remove(checkpoint))
        elif self._refused_is_due(checkpoint):
            self._start(lambda: fetch_refused(self._context, checkpoint))
        elif time.monotonic() >= self._look_at:
            self._look(checkpoint, master, slave)

    def _start(self, task: Callable[[], None]) -> None:
        self._task = self._pool.submit(task)

    def _look(self, checkpoint: Checkpoint, master: InfoPoller, slave: InfoPoller) -> None:
        """Compare the numbers of keys, asked for anew on both sides."""
        there, here = master.latest, slave.latest
        if there is None or here is None:
            return
        if self._asked is None:
            self._asked = (there, here)
            master.ask_now()
            slave.ask_now()
            return
        if there is self._asked[0] or here is self._asked[1]:
            return
        self._asked = None
        # A delete leaves no trace in what SCAN lists (libzdb/index_scan.c): only counts show it.
        wanted = there.info.entries - checkpoint.lacking_items + checkpoint.extra_items
        if here.info.entries == wanted:
            self._settle(self._spec.delete_check_seconds)
            return
        self._looks += 1
        if self._looks >= _LOOKS:
            self._start(lambda: compare_keys(self._context, self.deletes))

    def _refused_is_due(self, checkpoint: Checkpoint) -> bool:
        """Return whether to ask once more for what was refused, at intervals that grow."""
        # No numbers would tell: neither side changes where the master mends what it has.
        now = time.monotonic()
        if not checkpoint.refused:
            self._refused_at = None
            return False
        if self._refused_at is None:
            self._refused_seconds = self._spec.delete_check_seconds
        elif now < self._refused_at:
            return False
        else:
            self._refused_seconds = min(2 * self._refused_seconds, _LONGEST_SECONDS)
        is_due = self._refused_at is not None
        self._refused_at = now + self._refused_seconds
        return is_due

    def _settle(self, seconds: float) -> None:
        self._looks = 0
        self._look_at = time.monotonic() + seconds

    def _removal_is_due(self) -> bool:
        """Return whether dropped keys wait that a newer users pass, or the operator, decides on.

        What a users job that ran once left behind still says which chunks are named.
        """
        if time.monotonic() < self._removal_at:
            return False
        self._removal_at = time.monotonic() + _REMOVAL_SECONDS
        observation = self.deletes.dropped.observation()
        if observation is None:
            return False
        started_at = self.deletes.pinned.pass_started_at()
        if not self._spec.deletes_without_users:
            if started_at is None:
                self.remark = f"{observation.items} dropped keys wait for the users job"
                if unread := self.deletes.pinned.unread():
                    self.remark += f", which does not know the chunks of {unread} served flists"
                return False
            if not self.deletes.may_be_judged(observation, started_at):
                return False
        self.remark = ""
        if started_at == self._judged_by:
            return False
        self._judged_by = started_at
        return True
