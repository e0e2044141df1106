"""Copying, following, adopting and deleting: what a flists mirror promises on a good day."""

import os
import shutil
import threading
import time

import pytest

from sync.agent.chunks.copying.copy_loop import CopyLoop
from sync.agent.chunks.scan import cut_points
from sync.agent.job import JobPaused
from tests.agent.chunks.chunks_mirror import (
    FlistsMirror,
    chunks,
    content,
    following,
    key_of,
)


def test_everything_is_copied_with_the_masters_timestamps(mirror: FlistsMirror) -> None:
    mirror.fill()
    with mirror.master.connect() as master:
        master.set_many([(b"a key of another size", b"proves nothing", 1_500_000_000)])
    with mirror.job() as job:
        record = job.wait(following)
    assert mirror.same()
    assert record.done == record.total
    assert record.first_pass_at is not None
    assert record.lag.items == 0
    endpoint = mirror.master.endpoint
    assert record.master.source == f"{endpoint.host}:{endpoint.port}/default"


def test_an_empty_master_is_followed_from_its_first_write(mirror: FlistsMirror) -> None:
    with mirror.job() as job:
        job.wait(following)
        mirror.fill(50)
        mirror.await_same(job)


def test_a_write_on_the_master_arrives_within_a_second(mirror: FlistsMirror) -> None:
    mirror.fill()
    with mirror.job(poll_seconds=20) as job, mirror.slave.connect() as slave:
        job.wait(following)
        for number in range(5):
            payload = os.urandom(100)
            with mirror.master.connect() as master:
                master.set_many([(key_of(payload), payload, number)])
            written_at = time.monotonic()
            while not slave.exists([key_of(payload)])[0]:
                assert time.monotonic() - written_at < 10, "not followed"
                time.sleep(0.005)


def test_overwritten_keys_that_prove_nothing_end_with_the_last_payload(
    mirror: FlistsMirror,
) -> None:
    with mirror.job() as job, mirror.master.connect() as master:
        for number in range(200):
            master.set_many([(b"name %d" % (number % 7), b"payload %d" % number, number)])
        job.wait(following)
        mirror.await_same(job)


def test_a_restart_copies_nothing_again(mirror: FlistsMirror) -> None:
    mirror.fill()
    with mirror.job() as job:
        job.wait(following)
    with mirror.job() as job:
        record = job.wait(following)
        assert record.details["listed_items"] == 0
        assert record.done == record.total


def test_a_slave_filled_by_other_means_is_completed_not_copied_again(
    mirror: FlistsMirror,
) -> None:
    made = chunks(3000, 1)
    with mirror.master.connect() as master, mirror.slave.connect() as slave:
        master.set_many(made)
        slave.set_many(made[:2000])
    with mirror.job() as job:
        record = job.wait(following)
        assert record.details["copied_items"] == 1000
    assert mirror.same()


def test_a_slave_with_copied_data_files_is_recognised(mirror: FlistsMirror) -> None:
    mirror.fill()
    mirror.slave.stop()
    mirror.master.stop()
    mirror.slave.wipe()
    for name in ("data", "index"):
        shutil.copytree(mirror.master.directory / name, mirror.slave.directory / name)
    mirror.slave.start()
    mirror.master.start()
    with mirror.job() as job:
        record = job.wait(following)
        assert record.details["copied_items"] == 0
    assert mirror.same()


def test_published_flists_name_the_places_where_scanners_start(mirror: FlistsMirror) -> None:
    keys = mirror.fill(25_000)
    mirror.published(keys[::50])
    with mirror.job(scanners=8) as job:
        job.wait(lambda record: int(record.details.get("spans", 0)) > 2, "several spans")
        record = job.wait(following)
    assert record.details["listed_items"] == 25_000
    assert mirror.same()


def test_keys_that_become_known_meanwhile_divide_what_is_left(
    mirror: FlistsMirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A first sync begins before the users job has published anything."""
    divided = threading.Event()
    has_room = CopyLoop.__dict__["has_room"].fget

    def only_first_pages(loop: CopyLoop) -> bool:
        return has_room(loop) and (divided.is_set() or loop.counters.listed_items == 0)

    monkeypatch.setattr(cut_points, "_DIVIDE_SECONDS", 0.1)
    monkeypatch.setattr(CopyLoop, "has_room", property(only_first_pages))
    keys = mirror.fill(20_000)
    with mirror.job(scanners=8) as job:
        job.wait(lambda record: int(record.details.get("copied_items", 0)) > 100, "under way")
        assert job.record.details["spans"] == 2
        mirror.published(keys[::100])
        job.wait(lambda record: int(record.details.get("spans", 0)) == 5, "divided")
        divided.set()
        record = job.wait(following)
    assert record.details["listed_items"] == 20_000
    assert mirror.same()


def test_a_delete_on_the_master_is_applied_after_a_newer_users_pass(mirror: FlistsMirror) -> None:
    keys = mirror.fill()
    mirror.published([], started_at=1000)
    with mirror.job() as job:
        job.wait(following)
        with mirror.master.connect() as master:
            master.delete_many(keys[:50])
        job.wait(lambda record: record.details.get("dropped_items") == 50, "noticed")
        with mirror.slave.connect() as slave:
            assert all(slave.exists(keys[:50]))
        mirror.published([])
        mirror.await_same(job)


def test_a_chunk_that_a_published_flist_names_is_kept_until_it_does_not(
    mirror: FlistsMirror,
) -> None:
    keys = mirror.fill()
    with mirror.job() as job:
        job.wait(following)
        with mirror.master.connect() as master:
            master.delete_many(keys[:20])
        job.wait(lambda record: record.details.get("dropped_items") == 20, "noticed")
        mirror.published(keys[:5])
        job.wait(lambda record: record.details.get("deleted_items") == 15, "deleted")
        with mirror.slave.connect() as slave:
            assert slave.exists(keys[:20]) == [True] * 5 + [False] * 15
        job.wait(lambda record: record.details.get("dropped_items") == 5, "kept")
        mirror.published([])
        mirror.await_same(job)


def test_local_uploads_are_never_deleted(mirror: FlistsMirror) -> None:
    keys = mirror.fill()
    upload = chunks(1, seed=99)[0]
    with mirror.slave.connect() as slave:
        slave.set_many([upload])
    mirror.published([])
    with mirror.job(deletes_without_users=True) as job:
        job.wait(following)
        with mirror.master.connect() as master:
            master.delete_many(keys[:30])
        mirror.published([], time.time() + 60)
        job.wait(lambda record: record.details.get("deleted_items") == 30, "deleted")
    with mirror.slave.connect() as slave:
        assert slave.call(b"GET", upload[0]) == upload[1]
        assert slave.nsinfo().entries == len(keys) - 30 + 1


def test_without_a_users_job_nothing_is_deleted(mirror: FlistsMirror) -> None:
    keys = mirror.fill()
    with mirror.job() as job:
        job.wait(following)
        with mirror.master.connect() as master:
            master.delete_many(keys[:30])
        job.wait(lambda record: "wait for the users job" in record.reason, "said")
    with mirror.slave.connect() as slave:
        assert slave.nsinfo().entries == len(keys)


def test_a_delete_that_the_master_takes_back_deletes_nothing(mirror: FlistsMirror) -> None:
    made = chunks(500, 3)
    with mirror.master.connect() as master:
        master.set_many(made)
    with mirror.job() as job:
        job.wait(following)
        with mirror.master.connect() as master:
            master.delete_many([key for key, _, _ in made[:20]])
            job.wait(lambda record: record.details.get("dropped_items") == 20, "noticed")
            master.set_many(made[:20])
        mirror.published([])
        mirror.await_same(job)
        assert job.record.details["deleted_items"] == 0


def test_too_many_deletes_pause_until_the_operator_confirms(mirror: FlistsMirror) -> None:
    keys = mirror.fill(1000)
    mirror.overrides["deletes_without_users"] = True
    with mirror.job() as job:
        job.wait(following)
        with mirror.master.connect() as master:
            master.delete_many(keys[:400])
        job.wait(lambda record: record.phase == "paused", "paused")
        assert isinstance(job.ended, JobPaused)
        assert "400 of 1000 keys" in job.record.reason
        assert "removalConfirmation" in job.record.reason
    with mirror.slave.connect() as slave:
        assert slave.nsinfo().entries == 1000
    with mirror.job(removal_confirmation=1) as job:
        mirror.await_same(job)


def test_the_bandwidth_limit_is_kept(mirror: FlistsMirror) -> None:
    mirror.fill(1500)
    started = time.monotonic()
    with mirror.job(bandwidth_bytes_per_second=500_000, batch_bytes=50_000) as job:
        job.wait(following)
    with mirror.slave.connect() as slave:
        payload_bytes = sum(len(payload or b"") for payload, _ in content(slave).values())
    assert payload_bytes / (time.monotonic() - started) < 600_000


def test_the_bandwidth_limit_is_kept_for_keys_of_other_sizes(mirror: FlistsMirror) -> None:
    with mirror.master.connect() as master:
        master.set_many([(b"name %d" % number, bytes(10_000), 1) for number in range(100)])
    started = time.monotonic()
    with mirror.job(bandwidth_bytes_per_second=500_000, batch_bytes=50_000) as job:
        job.wait(following)
    assert 1_000_000 / (time.monotonic() - started) < 600_000
