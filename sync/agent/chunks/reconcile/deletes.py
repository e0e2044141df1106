"""The master's deletes: applied by the rule that references never precede content.

A chunk is deleted here only if the master listed it once, lists it no more, and no flist that is
published or retained here names it, judged by a users pass that began after the observation.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from pydantic import BaseModel, ConfigDict, ValidationError

from sync.agent import durable
from sync.agent.chunks.reconcile.diff import KeyFile
from sync.agent.chunks.reconcile.refetch import grouped, refetch
from sync.agent.zdb import ZdbConnection
from sync.contract.pinned_chunks import PinnedChunksReader

_KEY_FILES: Final = "dropped*.keys"
OBSERVATION_FILE: Final = "dropped.json"
_GROUP: Final = 500


class Observation(BaseModel):
    """When the dropped keys were seen to be dropped (unix seconds), and how many they were.

    file: which of the files beside it names them. confirmation: the removalConfirmation by which
    the operator let them go, also if that is interrupted. judged: what is left is what a flist
    named. outdated: the master has dropped more since.
    """

    model_config = ConfigDict(extra="forbid")
    observed_at: float
    items: int
    file: str = "dropped.keys"
    confirmation: int = 0
    judged: bool = False
    outdated: bool = False


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
            return Observation.model_validate_json(self._observation.read_bytes())
        except (OSError, ValidationError):
            return None

    def replace(self, keys: KeyFile, observed_at: float, *, judged: bool = False) -> None:
        """Put a new observation in place of the last one. Raises OSError."""
        if keys.count == 0:
            self.clear()
            return
        # The keys under a new name first, then the observation that names them.
        name = f"dropped-{os.urandom(6).hex()}.keys"
        durable.publish(keys.path, self._directory / name)
        self._write(
            Observation(observed_at=observed_at, items=keys.count, file=name, judged=judged)
        )
        self._discard(but=name)

    def update(self, **changes: object) -> None:
        """Change fields of the observation, if one waits. Raises OSError."""
        observation = self.observation()
        if observation:
            self._write(observation.model_copy(update=changes))

    def keys(self) -> Iterator[bytes]:
        """Return the keys that wait."""
        observation = self.observation()
        if observation:
            for keys in KeyFile(self._directory / observation.file).read():
                yield from keys

    def clear(self) -> None:
        """Let nothing wait any more. Raises OSError."""
        durable.remove(self._observation)
        self._discard(but="")

    def _write(self, observation: Observation) -> None:
        durable.publish_bytes(observation.model_dump_json().encode(), self._observation)

    def _discard(self, but: str) -> None:
        for path in self._directory.glob(_KEY_FILES):
            if path.name != but:
                path.unlink(missing_ok=True)


def judge(
    dropped: Dropped, pinned: PinnedChunksReader | None, judged: KeyFile, kept: KeyFile
) -> None:
    """Divide dropped keys: `judged` may be deleted, `kept` are named by a flist.

    pinned: None where no users job ever ran and the operator said to delete all the same.
    Raises sqlite3.Error, OSError.
    """
    for keys in grouped(dropped.keys(), _GROUP):
        named = pinned.pinned(keys) if pinned else set()
        judged.add([key for key in keys if key not in named])
        kept.add([key for key in keys if key in named])


def delete(
    master: ZdbConnection, slave: ZdbConnection, pinned: PinnedChunksReader | None, judged: KeyFile
) -> Iterator[int]:
    """Delete judged keys on the slave, group by group; a key that came back is left or restored.

    Yields how many of each group are deleted. Raises ZdbError, sqlite3.Error.
    """
    for keys in judged.read():
        for group in grouped(keys, _GROUP):
            there = master.exists(group)
            gone = [key for key, back in zip(group, there, strict=True) if not back]
            # Once more, as close to the delete as can be: a flist may have been published.
            named = pinned.pinned(gone) if pinned else set()
            doomed = [key for key in gone if key not in named]
            # False for a key that is deleted already ("Key not found", commands_dataset.c).
            deleted = sum(slave.delete_many(doomed))
            # Written on the master between the question and the delete: fetch it again.
            again = master.exists(doomed)
            back = [key for key, is_back in zip(doomed, again, strict=True) if is_back]
            if back:
                refetch(master, slave, back)
            yield deleted - len(back)
