"""Deletes under interruption: what waits, what was confirmed and what is named outlives a kill."""

import errno
import sqlite3
import time
from pathlib import Path

import pytest

from sync.agent import durable
from sync.agent.chunks.checkpoint import Checkpoint
from sync.agent.chunks.key_files import KeyFile
from sync.agent.chunks.reconcile import reconciler
from sync.agent.chunks.reconcile.deletes import Deletes, Dropped
from sync.agent.chunks.reconcile.reconciler import Reconciler
from sync.agent.chunks.scan.ledger import Ledger
from sync.agent.job import JobPaused
from sync.contract.pinned_chunks import PinnedChunksReader
from tests.agent.chunks.chunks_mirror import FlistsMirror, following

STAND_IN = True


class Killed(Exception):  # noqa: N818 - stands for kill -9
    """The process was killed here."""


def test_a_users_table_that_can_not_be_read_lets_nothing_be_deleted(
    mirror: FlistsMirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is read to see whether a delete is due, and again for the delete: locked by then."""
    keys = mirror.fill(200)
    mirror.published(keys, time.time() + 60)
    due = Reconciler._removal_is_due

    def then_locked(self: Reconciler) -> bool:
        is_due = due(self)
        if is_due:
            monkeypatch.setattr(PinnedChunksReader, "_open", locked)
        return is_due

    def locked(_: PinnedChunksReader) -> sqlite3.Connection:
        raise sqlite3.OperationalError("database is locked")

    monkeypatch.setattr(Reconciler, "_removal_is_due", then_locked)
    with mirror.job() as job:
        job.wait(following)
        with mirror.master.connect() as master:
            master.delete_many(keys[:10])
        job.wait(lambda record: record.details.get("dropped_items") == 10, "noticed")
        time.sleep(1)
        assert job.record.details["deleted_items"] == 0
    with mirror.slave.connect() as slave:
        assert all(slave.exists(keys))


def test_an_old_users_table_does_not_stop_an_operator_who_runs_no_users_job(
    mirror: FlistsMirror,
) -> None:
    """What it names is kept all the same: those flists are still served."""
    keys = mirror.fill(200)
    mirror.published(keys[:5], started_at=1000)
    with mirror.job(deletes_without_users=True) as job:
        job.wait(following)
        with mirror.master.connect() as master:
            master.delete_many(keys[:10])
        job.wait(lambda record: record.details.get("deleted_items") == 5, "deleted")
    with mirror.slave.connect() as slave:
        assert slave.exists(keys[:10]) == [True] * 5 + [False] * 5


def keyfile(directory: Path, name: str, keys: list[bytes]) -> KeyFile:
    made = KeyFile(directory / name)
    made.add(keys)
    return made


def test_a_kill_while_an_observation_is_replaced_leaves_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting = Dropped(tmp_path)
    waiting.replace(keyfile(tmp_path, "first", [b"a" * 16, b"b" * 16]), 1.0)
    publish = durable.publish_bytes

    def killed(*_: object) -> None:
        raise Killed

    monkeypatch.setattr(durable, "publish_bytes", killed)
    with pytest.raises(Killed):
        waiting.replace(keyfile(tmp_path, "second", [b"b" * 16]), 2.0)
    again = Dropped(tmp_path)
    observation = again.observation()
    assert observation is not None
    assert observation.observed_at == 1.0
    assert list(again.keys()) == [b"a" * 16, b"b" * 16]
    monkeypatch.setattr(durable, "publish_bytes", publish)
    again.replace(keyfile(tmp_path, "third", [b"b" * 16]), 3.0)
    assert list(again.keys()) == [b"b" * 16]
    again.replace(keyfile(tmp_path, "none", []), 4.0)
    assert again.observation() is None
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("dropped")]


def test_extra_keys_are_counted_only_once_they_wait_for_judgement(
    mirror: FlistsMirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counted and not waiting, they would never be looked at again."""
    job = Reconciler(mirror.spec(), mirror.directories, Ledger(mirror.directories.state))

    def killed(*_: object, **__: object) -> None:
        raise Killed

    monkeypatch.setattr(Dropped, "replace", killed)
    with pytest.raises(Killed):
        job.deletes.observe(keyfile(tmp_path, "dropped", [b"a" * 16]), 1, 1.0)
    assert job.take(Checkpoint()).extra_items == 0


def test_a_confirmed_delete_that_was_interrupted_needs_no_second_confirmation(
    mirror: FlistsMirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = mirror.fill(1200)
    mirror.overrides |= {"deletes_without_users": True, "delete_check_seconds": 3}
    with mirror.job() as job:
        job.wait(following)
        with mirror.master.connect() as master:
            master.delete_many(keys[:1000])
        job.wait(lambda record: record.phase == "paused", "paused")
    groups: list[object] = []
    whole = Deletes._delete_group

    def cut_off(*arguments: object) -> int:
        groups.append(arguments)
        if len(groups) == 1:
            return whole(*arguments)  # type: ignore[arg-type]
        time.sleep(1.2)
        raise JobPaused("cut off", 1)

    monkeypatch.setattr(Deletes, "_delete_group", cut_off)
    with mirror.job(removal_confirmation=1) as job:
        job.wait(lambda record: record.phase == "paused", "cut off")
        assert "cut off" in job.record.reason
    monkeypatch.setattr(Deletes, "_delete_group", whole)
    with mirror.job(removal_confirmation=1) as job:
        job.wait(following)
        mirror.await_same(job)
        assert "removalConfirmation" not in str(job.ended)


def test_a_full_disk_under_the_jobs_own_files_pauses_it(
    mirror: FlistsMirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = mirror.fill(200)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "/state/compare")

    monkeypatch.setattr(reconciler, "compare_keys", full)
    with mirror.job() as job:
        job.wait(following)
        with mirror.master.connect() as master:
            master.delete_many(keys[:10])
        job.wait(lambda record: record.phase == "paused", "paused")
        assert "/state/compare" in job.record.reason
        assert "add space" in job.record.reason


def test_deletes_that_never_end_do_not_put_off_the_first_of_them(mirror: FlistsMirror) -> None:
    """A users pass may take longer than the master needs to drop more."""
    keys = mirror.fill(300)
    mirror.published([], started_at=1000)
    with mirror.job() as job, mirror.master.connect() as master:
        job.wait(following)
        master.delete_many(keys[:10])
        job.wait(lambda record: record.details.get("dropped_items") == 10, "noticed")
        pass_begun = time.time()
        master.delete_many(keys[10:20])
        job.wait(lambda record: record.details.get("compared") == 2, "noticed again")
        mirror.published([], started_at=pass_begun)
        job.wait(lambda record: record.details.get("deleted_items") == 10, "deleted")
        job.wait(lambda record: record.details.get("compared") == 3, "the others wait")
        with mirror.slave.connect() as slave:
            assert slave.exists(keys[:20]) == [False] * 10 + [True] * 10
        mirror.published([])
        mirror.await_same(job)
