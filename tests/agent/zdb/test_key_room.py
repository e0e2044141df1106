"""No job fills the local 0-db past its memory: it pauses before, says why, and goes on itself."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sync.agent.chunks import pollers
from sync.agent.job import JobPaused
from sync.agent.zdb.connection import ZdbConnection
from sync.contract.spec import Schedule
from sync.contract.zdb_memory import bytes_for
from tests.agent.chunks.chunks_mirror import PASSWORD, FlistsMirror, chunks, following, running
from tests.agent.hub.small_hub import small_model
from tests.agent.mirrors import model_tree, users_mirror
from tests.sandbox.upstream import Upstream


@pytest.fixture
def mirror(tmp_path: Path) -> Iterator[FlistsMirror]:
    with running(tmp_path, stand_in=True) as pair:
        yield pair


def keys_here(mirror: FlistsMirror) -> int:
    with mirror.slave.connect() as slave:
        return slave.count_keys()


def test_chunks_that_do_not_fit_pause_the_job_and_a_raised_limit_resumes_it(
    mirror: FlistsMirror,
) -> None:
    with mirror.master.connect() as master:
        master.set_many(chunks(3000, 1))
    for _ in range(4):
        with mirror.job(local_zdb_memory_bytes=bytes_for(1000), batch_keys=50, batches=2) as job:
            job.wait_for_end()
            assert isinstance(job.ended, JobPaused)
            assert job.wait(lambda record: record.phase == "paused").reason == str(job.ended)
            assert "limits.zdb.memoryMb" in str(job.ended)
        assert 1000 - 50 < keys_here(mirror) <= 1000 + 3 * 2 * 50, "what was in flight, and no more"
    with mirror.job(local_zdb_memory_bytes=bytes_for(3000)) as raised:
        raised.wait(following, "following")
        mirror.await_same(raised)


@pytest.mark.parametrize("late_seconds", [0.03, 0.3])
def test_an_answer_that_comes_late_lets_no_more_in(
    mirror: FlistsMirror, late_seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = pollers.InfoPoller._answer

    def late(poller: pollers.InfoPoller, connection: ZdbConnection) -> pollers.Answer:
        found = answer(poller, connection)
        time.sleep(late_seconds)  # the fault itself: an answer that is long under way
        return found

    monkeypatch.setattr(pollers.InfoPoller, "_answer", late)
    monkeypatch.setattr(pollers, "_SLAVE_SECONDS", 0.01)
    with mirror.master.connect() as master:
        master.set_many(chunks(20_000, 6))
    with mirror.job(local_zdb_memory_bytes=bytes_for(8000), batch_keys=50, batches=2) as job:
        job.wait_for_end()
        assert isinstance(job.ended, JobPaused)
    assert 8000 - 50 < keys_here(mirror) <= 8000 + 3 * 2 * 50


def test_keys_of_all_namespaces_count(mirror: FlistsMirror) -> None:
    with mirror.slave.connect() as slave:
        slave.namespace_create("foreign")
        slave.namespace_protect("foreign", PASSWORD)
        slave.select("foreign", PASSWORD)
        slave.set_many(chunks(800, 2))
    with mirror.master.connect() as master:
        master.set_many(chunks(300, 3))
    with mirror.job(local_zdb_memory_bytes=bytes_for(700)) as job:
        job.wait_for_end()
        assert isinstance(job.ended, JobPaused)
    with mirror.job(local_zdb_memory_bytes=bytes_for(1100)) as raised:
        raised.wait(following, "following")


def test_a_mirror_that_is_full_follows_until_one_chunk_more_comes(mirror: FlistsMirror) -> None:
    with mirror.master.connect() as master:
        master.set_many(chunks(500, 4))
        with mirror.job(local_zdb_memory_bytes=bytes_for(501)) as job:
            job.wait(following, "following")
            master.set_many(chunks(50, 5))
            job.wait_for_end()
            assert isinstance(job.ended, JobPaused)


def test_users_job_fetches_no_chunk_ahead_that_has_no_room(tmp_path: Path) -> None:
    with (
        Upstream(small_model()) as upstream,
        users_mirror(tmp_path, upstream, local_zdb_memory_bytes=bytes_for(5)) as mirror,
    ):
        with pytest.raises(JobPaused, match=r"limits\.zdb\.memoryMb"):
            mirror.one_pass()
        assert len(mirror.local_keys()) <= 5
        mirror.settings["local_zdb_memory_bytes"] = bytes_for(10_000)
        mirror.one_pass()
        assert mirror.served() == model_tree(upstream.model)


@pytest.mark.parametrize(("interval_seconds", "retry_seconds"), [(600, 600), (5, 30)])
def test_users_job_tries_a_whole_pass_again_no_sooner_than_by_its_schedule(
    interval_seconds: float, retry_seconds: float, tmp_path: Path
) -> None:
    with (
        Upstream(small_model()) as upstream,
        users_mirror(
            tmp_path,
            upstream,
            local_zdb_memory_bytes=bytes_for(5),
            schedule=Schedule(interval_seconds=interval_seconds),
        ) as mirror,
    ):
        with pytest.raises(JobPaused) as paused:
            mirror.one_pass()
        assert paused.value.retry_seconds == retry_seconds
