"""The master's deletes: applied by the rule that references never precede content.

A chunk is deleted here only if the master listed it once, lists it no more, and no flist that is
published or retained here names it, judged by a users pass that began after the observation.
"""

import os
import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict, ValidationError

from sync.agent import durable
from sync.agent.chunks.checkpoint import Checkpoint
from sync.agent.chunks.key_files import KeyFile, read_keys
from sync.agent.chunks.reconcile.refetch import grouped, refetch
from sync.agent.chunks.reconcile.tasks import Finding, TaskContext
from sync.agent.deletion_guard import Vanished, guard
from sync.agent.job import JobPaused
from sync.agent.zdb.connection import ZdbConnection
from sync.contract import plain_files
from sync.contract.pinned_chunks import Passes, PinnedChunksReader

# Below the job's state directory: for files that the next task of their kind begins anew.
WORK_DIRECTORY: Final = "compare"
_KEY_FILES: Final = "dropped*.keys"
OBSERVATION_FILE: Final = "dropped.json"
_LONGEST_BYTES: Final = 1 << 16
_GROUP: Final = 500
_PAUSE_RETRY_SECONDS: Final = 15.0
_TABLE_SECONDS: Final = 15.0


class Observation(BaseModel):
    """When the dropped keys were seen to be dropped (unix seconds), and how many they were.

    file: which of the files beside it names them. confirmation: the removalConfirmation by which
    the operator let them go, also if that is interrupted. judged: what is left is what a flist
    named. outdated: the master has dropped more since. table, passes_begun: how many passes of the
    users job had begun by then, and in which table they are counted; None: not known.
    """

    model_config = ConfigDict(extra="forbid")
    observed_at: float
    items: int
    file: str = "dropped.keys"
    confirmation: int = 0
    judged: bool = False
    outdated: bool = False
    table: str = ""
    passes_begun: int | None = None

    @property
    def passes(self) -> Passes | None:
        """The passes of the users job by then; which was complete is not asked of these."""
        begun = self.passes_begun
        return None if begun is None else Passes(self.table, begun, completed=0)


class Dropped:
    """The keys that the master dropped and that wait for judgement, durable in `directory`.

    A kill at any moment leaves the old observation or the new one, never none.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._observation = directory / OBSERVATION_FILE

    def observation(self) -> Observation | None:
        """Return when they were observed; None where nothing waits."""
        try:
            return Observation.model_validate_json(
                plain_files.read(self._observation, _LONGEST_BYTES)
            )
        except (OSError, ValidationError):
            return None

    def replace(
        self,
        keys: KeyFile,
        observed_at: float,
        *,
        judged: bool = False,
        passes: Passes | None = None,
    ) -> None:
        """Put a new observation in place of the last one; of no keys: none. Raises OSError.

        passes: which the users job had begun, now or later than the keys were observed.
        """
        # The keys under a new name first, then the observation that names them.
        name = f"dropped-{os.urandom(6).hex()}.keys"
        if keys.count:
            durable.publish(keys.path, self._directory / name)
            made = Observation(observed_at=observed_at, items=keys.count, file=name, judged=judged)
            counted = {"table": passes.table, "passes_begun": passes.begun} if passes else {}
            self._write(made.model_copy(update=counted))
        else:
            durable.remove(self._observation)
        for path in self._directory.glob(_KEY_FILES):
            if path.name != name:
                path.unlink(missing_ok=True)

    def update(self, **changes: object) -> None:
        """Change fields of the observation, if one waits. Raises OSError."""
        observation = self.observation()
        if observation:
            self._write(observation.model_copy(update=changes))

    def keys(self) -> Iterator[bytes]:
        """Return the keys that wait."""
        observation = self.observation()
        return read_keys(self._directory / observation.file) if observation else iter(())

    def _write(self, observation: Observation) -> None:
        durable.publish_bytes(observation.model_dump_json().encode(), self._observation)


class Deletes:
    """The tasks that judge what the master dropped. Each raises ZdbError, OSError, Stopped."""

    def __init__(self, context: TaskContext) -> None:
        self._context = context
        self._state = context.directories.state
        self.dropped = Dropped(self._state)
        self.pinned = PinnedChunksReader(context.directories.users_state)

    def observe(self, keys: KeyFile, extra_items: int, observed_at: float) -> None:
        """Let dropped keys wait for a users pass that began after they were seen to be dropped.

        extra_items: how many keys only the slave has, wherever from. observed_at: unix seconds.
        """
        waiting = self.dropped.observation()
        if waiting is None or waiting.judged or self.pinned.pass_started_at() is None:
            self.dropped.replace(keys, observed_at, passes=self.pinned.passes())
        else:
            # A newer one would wait for a newer pass: for ever, where deletes never end.
            self.dropped.update(outdated=True)
        # Counted only once they wait: what is counted is not looked for again.
        self._context.report(Finding({"extra_items": extra_items}, judge_in_seconds=0))

    def may_be_judged(self, observation: Observation, started_at: float) -> bool:
        """Return whether the last complete users pass began after the keys were observed.

        started_at: when it began (unix seconds), for where passes were not counted: clocks jump.
        """
        passes = self.pinned.passes()
        if passes is None or observation.passes_begun is None:
            return started_at > observation.observed_at
        if passes.table != observation.table or passes.begun < observation.passes_begun:
            # Another table, or an older one: as if the keys were seen to be dropped just now.
            self.dropped.update(table=passes.table, passes_begun=passes.begun)
            return False
        return passes.completed > observation.passes_begun

    def remove(self, checkpoint: Checkpoint) -> None:
        """Judge the dropped keys and delete those that no flist names. Raises JobPaused."""
        context, work = self._context, self._state / WORK_DIRECTORY
        durable.own_directory(work)
        judged, kept = KeyFile(work / "judged"), KeyFile(work / "kept")
        # Where no users job ever ran the operator may say to delete all the same.
        nobody_judges = context.spec.deletes_without_users and not self.pinned.exists
        pinned = None if nobody_judges else self.pinned
        passes = self.pinned.passes()
        try:
            for keys in grouped(self.dropped.keys(), _GROUP):
                named = pinned.pinned(keys) if pinned else set()
                judged.add([key for key in keys if key not in named])
                kept.add([key for key in keys if key in named])
            self._guard(judged.count, checkpoint)
            self._delete(pinned, judged, checkpoint.extra_items)
        except sqlite3.Error:
            # If the table cannot be read, treat every chunk as pinned and try again later.
            context.report(Finding(judge_in_seconds=_TABLE_SECONDS))
            return
        context.report(Finding(kept_items=kept.count))
        observation = self.dropped.observation()
        if observation and observation.outdated:
            self.dropped.update(judged=True)
            # The master has dropped more than was judged: the numbers of keys are to differ.
            context.report(Finding({"extra_items": 0}))
        elif observation:
            # Only a newer pass than the one that judged: an older table may come from a backup.
            by = replace(passes, begun=passes.completed) if passes else observation.passes
            self.dropped.replace(kept, observation.observed_at, judged=True, passes=by)

    def _guard(self, doomed: int, checkpoint: Checkpoint) -> None:
        """Raise JobPaused where more would vanish than the operator allows."""
        spec, observation = self._context.spec, self.dropped.observation()
        confirmed = observation.confirmation if observation else 0
        mirrored = checkpoint.done_items + checkpoint.extra_items
        vanished = Vanished(doomed, mirrored, kind="keys")
        try:
            if guard(spec, vanished, checkpoint.confirmation, _PAUSE_RETRY_SECONDS):
                confirmed = spec.removal_confirmation
                self.dropped.update(confirmation=confirmed)
        except JobPaused:
            # What was confirmed and then interrupted needs no second word.
            if not confirmed:
                raise
        self._context.report(Finding({"confirmation": max(checkpoint.confirmation, confirmed)}))

    def _delete(self, pinned: PinnedChunksReader | None, judged: KeyFile, extra_items: int) -> None:
        with self._context.connections() as servers:
            for keys in grouped(judged.read(), _GROUP):
                deleted = self._delete_group(servers, pinned, keys)
                extra_items = max(0, extra_items - deleted)
                changes = {"extra_items": extra_items}
                self._context.report(Finding(changes, {"deleted_items": deleted}))
                self._context.check_stop()

    def _delete_group(
        self,
        servers: tuple[ZdbConnection, ZdbConnection],
        pinned: PinnedChunksReader | None,
        keys: list[bytes],
    ) -> int:
        """Delete judged keys; one that came back is left or restored. Returns how many are gone."""
        master, slave = servers
        gone = [key for key, back in zip(keys, master.exists(keys), strict=True) if not back]
        # Once more, as close to the delete as can be: a flist may have been published.
        named = pinned.pinned(gone) if pinned else set()
        doomed = [key for key in gone if key not in named]
        # False for a key that is deleted already ("Key not found", commands_dataset.c).
        deleted = sum(slave.delete_many(doomed))
        # Written on the master between the question and the delete: fetch it again.
        again = zip(doomed, master.exists(doomed), strict=True)
        back = [key for key, is_back in again if is_back]
        if back:
            refetch(master, slave, back)
        return deleted - len(back)
