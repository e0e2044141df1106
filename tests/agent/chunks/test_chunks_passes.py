"""Dropped keys wait for a users pass that began after they were seen, whatever clocks say."""

import shutil
import tempfile
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sync.agent.chunks.checkpoint import Checkpoint
from sync.agent.chunks.key_files import KeyFile
from sync.agent.chunks.reconcile.deletes import Deletes
from sync.agent.chunks.reconcile.tasks import TaskContext
from sync.agent.chunks.scan.ledger import Ledger
from sync.contract.pinned_chunks import FILE, PinnedChunks
from sync.contract.spec import FlistsSpec, ZdbEndpoint
from tests.agent.mirrors import make_directories

YEARS = 15 * 365 * 86_400.0
TIMES = st.floats(0, 2 * YEARS)


class Waiting:
    """The deletes of a flists job beside the table of a users job; no servers are asked."""

    def __init__(self, root: Path) -> None:
        directories = make_directories(root)
        spec = FlistsSpec(
            stack="test",
            sources=[ZdbEndpoint(host="master.example")],
            local_zdb=ZdbEndpoint(host="mirror.example"),
        )
        ledger = Ledger(directories.state)
        self._state = directories.state
        self.users_state = directories.users_state
        self.deletes = Deletes(TaskContext(spec, directories, ledger, lambda _: None))

    def observe(self, at: float) -> None:
        keys = KeyFile(self._state / "found")
        keys.add([b"k" * 16])
        self.deletes.dropped.replace(keys, at, passes=self.deletes.pinned.passes())

    def may_be_judged(self) -> bool:
        observation = self.deletes.dropped.observation()
        started_at = self.deletes.pinned.pass_started_at()
        if observation is None or started_at is None:
            return False
        return self.deletes.may_be_judged(observation, started_at)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["begin", "complete", "observe"]), TIMES), max_size=12))
def test_only_a_pass_that_began_later_judges_whatever_the_clocks_say(
    events: list[tuple[str, float]],
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        waiting = Waiting(Path(folder))
        begun, observed, judged = 0, None, False
        with PinnedChunks(waiting.users_state) as table:
            table.begin()  # a table of this release
            for event, at in events:
                if event == "begin":
                    table.begin()
                    begun += 1
                elif event == "complete":
                    table.completed(at, at)
                    judged = observed is not None and begun > observed
                else:
                    waiting.observe(at)
                    observed, judged = begun, False
                assert waiting.may_be_judged() == judged, (event, at)


@pytest.mark.parametrize("ahead", [YEARS, 3600.0, 1.0])
def test_pass_of_a_time_to_come_does_not_judge_what_was_dropped_after_it(
    ahead: float, tmp_path: Path
) -> None:
    """The clock was ahead when the pass began, and is right again."""
    waiting, now = Waiting(tmp_path), time.time()
    with PinnedChunks(waiting.users_state) as table:
        table.begin()
        table.completed(now + ahead, now + ahead + 1)
        waiting.observe(now + 0.5)
        assert not waiting.may_be_judged()
        table.begin()
        table.completed(now, now + 1)
        assert waiting.may_be_judged()


def test_table_that_was_lost_meanwhile_judges_from_its_second_pass_on(tmp_path: Path) -> None:
    waiting, now = Waiting(tmp_path), time.time()
    with PinnedChunks(waiting.users_state) as table:
        table.begin()
        table.completed(now, now + 1)
        waiting.observe(now + 2)
    (waiting.users_state / FILE).unlink()
    with PinnedChunks(waiting.users_state) as table:
        for expected in (False, True):
            table.begin()
            table.completed(now + 10, now + 11)
            assert waiting.may_be_judged() == expected


@pytest.mark.parametrize("later", [0, 1, 5])
def test_table_that_came_back_from_a_backup_judges_from_its_next_pass_on(
    later: int, tmp_path: Path
) -> None:
    waiting, now = Waiting(tmp_path), time.time()
    table_file, backup = waiting.users_state / FILE, tmp_path / "backup"

    def a_pass() -> None:
        with PinnedChunks(waiting.users_state) as table:
            table.begin()
            table.completed(now, now + 1)

    for _ in range(3):
        a_pass()
    shutil.copy(table_file, backup)
    for _ in range(later + 1):
        a_pass()
    waiting.observe(now)
    shutil.copy(backup, table_file)
    assert not waiting.may_be_judged()
    a_pass()
    assert waiting.may_be_judged()


def test_table_of_the_release_before_is_judged_by_its_times(tmp_path: Path) -> None:
    waiting, now = Waiting(tmp_path), time.time()
    with PinnedChunks(waiting.users_state) as table:
        table.completed(now, now + 1)
    waiting.observe(now + 0.5)
    assert not waiting.may_be_judged()
    with PinnedChunks(waiting.users_state) as table:
        table.completed(now + 1, now + 2)
    assert waiting.may_be_judged()


def test_keys_that_a_flist_named_wait_for_a_newer_pass_than_the_one_that_judged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting, now = Waiting(tmp_path), time.time()
    monkeypatch.setattr(waiting.deletes, "_delete", lambda *_: None)  # of no key
    table_file, backup = waiting.users_state / FILE, tmp_path / "backup"
    dropped = waiting.deletes.dropped
    with PinnedChunks(waiting.users_state) as table:
        table.begin()
        table.completed(now, now + 1)
        waiting.observe(now)
        table.begin()
        table.completed(now, now + 1)
        assert waiting.may_be_judged()
        # Before the flist was published that names the key.
        shutil.copy(table_file, backup)
        table.add([b"k" * 16])
        table.begin()
        table.completed(now, now + 1)
        waiting.deletes.remove(Checkpoint())
        kept = dropped.observation()
        assert kept is not None
        assert (kept.judged, kept.items) == (True, 1)
        assert not waiting.may_be_judged()
    shutil.copy(backup, table_file)
    assert not waiting.may_be_judged()
    with PinnedChunks(waiting.users_state) as table:
        table.begin()
        table.completed(now, now + 1)
    assert waiting.may_be_judged()
