"""Every interruption: afterwards both sides are equal, and nothing was begun anew."""

import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import pytest

from sync.agent.chunks.checkpoint import Checkpoint
from sync.agent.chunks.reconcile.deletes import Deletes
from sync.agent.chunks.reconcile.key_comparison import compare_keys
from sync.agent.chunks.reconcile.tasks import Stopped, TaskContext
from sync.agent.chunks.scan.ledger import Ledger
from sync.agent.job import JobPaused
from tests.agent.chunks.chunks_mirror import (
    PASSWORD,
    AgentProcess,
    FlistsMirror,
    following,
    running,
)
from tests.agent.chunks.scripted_zdb import ScriptedZdb
from tests.agent.hub.storm_of_kills import Storm
from tests.bench.servers import ZdbProcess
from tests.sandbox.host.processes import wait_until
from tests.sandbox.wan import Fault, Link, Relay


@pytest.mark.parametrize("kind", ["reset", "truncate"])
def test_a_connection_that_breaks_in_mid_payload_is_made_again(
    mirror: FlistsMirror, kind: Literal["reset", "truncate"]
) -> None:
    mirror.fill(1000, size=5000)
    with Relay((mirror.master.endpoint.host, mirror.master.port)) as relay:
        mirror.source = mirror.master.endpoint.model_copy(update={"port": relay.address[1]})
        relay.fault = Fault(kind, after_bytes=300_000, times=3)
        with mirror.job() as job:
            job.wait(following)
            assert job.record.retries >= 1
            assert job.record.errors
    assert mirror.same()


def test_a_task_that_waits_for_a_hung_master_ends_with_the_job(mirror: FlistsMirror) -> None:
    def never(arguments: list[bytes]) -> bytes | None:
        return b"" if arguments[0] in {b"SCAN", b"PING"} else None

    with ScriptedZdb(never) as master, ThreadPoolExecutor(1) as pool:
        spec = mirror.spec(sources=[master.endpoint], io_timeout_seconds=600)
        ledger = Ledger(mirror.directories.state)
        context = TaskContext(spec, mirror.directories, ledger, lambda _: None)
        task = pool.submit(compare_keys, context, Deletes(context))
        wait_until(lambda: [b"SCAN"] in master.requests, "the master's SCAN", 30)
        context.stop()
        with pytest.raises(Stopped):
            task.result(timeout=60)


def test_a_hung_connection_is_given_up_in_time(mirror: FlistsMirror) -> None:
    mirror.fill(1000, size=5000)
    with Relay((mirror.master.endpoint.host, mirror.master.port)) as relay:
        mirror.source = mirror.master.endpoint.model_copy(update={"port": relay.address[1]})
        relay.fault = Fault("hang", after_bytes=300_000)
        with mirror.job(io_timeout_seconds=0.5) as job:
            job.wait(following)
            assert "no reply in 0.5 s" in job.record.errors[0].message
    assert mirror.same()


def test_a_master_that_is_away_for_a_while_is_followed_again(mirror: FlistsMirror) -> None:
    mirror.fill()
    with mirror.job() as job:
        job.wait(following)
        mirror.master.kill()
        job.wait(lambda record: record.retries >= 2, "noticed")
        mirror.master.start()
        mirror.fill(200, seed=2)
        mirror.await_same(job)


def test_a_slave_that_is_killed_goes_on_where_it_was(mirror: FlistsMirror) -> None:
    mirror.fill(6000)
    with mirror.job(bandwidth_bytes_per_second=4_000_000) as job:
        job.wait(lambda record: int(record.details.get("copied_items", 0)) > 1000, "half done")
        mirror.slave.kill()
        time.sleep(0.3)
        mirror.slave.start()
        job.wait(following)
        copied = int(job.record.details["copied_items"])
    assert mirror.same()
    assert copied < 6000


def test_a_killed_agent_goes_on_where_it_was(mirror: FlistsMirror) -> None:
    mirror.fill(6000)
    agent = AgentProcess(mirror, bandwidth_bytes_per_second=3_000_000)
    with agent:
        deadline = time.monotonic() + 20
        while Checkpoint.load(mirror.directories.state).done_items < 2000:
            assert time.monotonic() < deadline, agent.log()
            time.sleep(0.02)
        agent.kill()
        agent.start()
        mirror.await_same(agent)
        restarted = agent.record
    assert restarted is not None
    assert int(restarted.details["listed_items"]) < 6000


def test_a_power_loss_of_the_slave_is_noticed_and_repaired(
    mirror: FlistsMirror, tmp_path: Path
) -> None:
    """What was written last did not reach the disk, though the cursor is far ahead."""
    mirror.fill()
    with mirror.job() as job:
        job.wait(following)
    mirror.slave.stop()
    for name in ("data", "index"):
        shutil.copytree(mirror.slave.directory / name, tmp_path / "older" / name)
    mirror.slave.start()
    mirror.fill(1000, seed=2)
    with mirror.job() as job:
        job.wait(following)
    mirror.slave.stop()
    mirror.slave.wipe()
    for name in ("data", "index"):
        shutil.copytree(tmp_path / "older" / name, mirror.slave.directory / name)
    mirror.slave.start()
    with mirror.job() as job:
        mirror.await_same(job)
        job.wait(lambda record: record.details["mended_items"] == 1000, "mended")


def test_payloads_that_a_power_loss_spoilt_are_proven_and_fetched_again(
    mirror: FlistsMirror,
) -> None:
    """The index reached the disk, the payloads did not: the number of keys says nothing."""
    keys = mirror.fill()
    with mirror.job() as job:
        job.wait(following)
    with mirror.slave.connect() as slave:
        for key in keys[-20:]:
            slave.set_many([(key, b"zeros, as after a power loss", 1)])
    mirror.slave.kill()
    mirror.slave.start()
    with mirror.job() as job:
        mirror.await_same(job)


def test_a_slave_that_lost_everything_is_filled_again(mirror: FlistsMirror) -> None:
    mirror.fill()
    with mirror.job() as job:
        job.wait(following)
    mirror.slave.stop()
    mirror.slave.wipe()
    mirror.slave.start()
    with mirror.job() as job:
        job.wait(following)
    assert mirror.same()


def test_a_state_that_is_lost_copies_nothing_again(mirror: FlistsMirror) -> None:
    mirror.fill()
    with mirror.job() as job:
        job.wait(following)
    for name in ("flists.json", "listed.keys"):
        (mirror.directories.state / name).unlink()
    with mirror.job() as job:
        record = job.wait(following)
        assert record.details["copied_items"] == 0
    assert mirror.same()


def test_a_torn_state_or_ledger_is_no_obstacle(mirror: FlistsMirror) -> None:
    mirror.fill()
    with mirror.job() as job:
        job.wait(following)
    ledger = mirror.directories.state / "listed.keys"
    with ledger.open("ab") as file:
        file.write(b"\x10half a k")
    (mirror.directories.state / "flists.json").write_text("{")
    with mirror.job() as job:
        job.wait(following)
    assert mirror.same()
    assert ledger.stat().st_size % 17 == 0


def test_a_state_with_a_forged_cursor_is_a_lost_one(mirror: FlistsMirror) -> None:
    mirror.fill()
    with mirror.job() as job:
        job.wait(following)
    path = mirror.directories.state / "flists.json"
    state = json.loads(path.read_text())
    state["spans"][-1]["low"]["cursor"] = "00ff"
    path.write_text(json.dumps(state))
    with mirror.job() as job:
        record = job.wait(following)
        assert record.details["copied_items"] == 0
    assert mirror.same()


def test_below_the_floor_of_free_space_the_job_pauses(mirror: FlistsMirror) -> None:
    mirror.fill()
    with mirror.job(free_space_floor_bytes=1 << 60) as job:
        job.wait_for_end()
        assert isinstance(job.ended, JobPaused)
        assert "freeSpaceFloorBytes" in str(job.ended)
    with mirror.slave.connect() as slave:
        assert slave.nsinfo().entries == 0


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "small"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(place)]
    mounted = os.geteuid() == 0 and subprocess.run(mount, check=False).returncode == 0
    if not mounted:
        pytest.skip("a small disk needs root and the right to mount")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_full_disk_pauses_the_job_until_there_is_room(tmp_path: Path, small_disk: Path) -> None:
    mirror = FlistsMirror(tmp_path)
    mirror.slave = ZdbProcess(tmp_path / "slave", admin=PASSWORD, data=small_disk / "data")
    with mirror.master, mirror.slave:
        mirror.fill(4000, size=2000)
        with mirror.job() as job:
            job.wait(lambda record: record.phase == "paused", "paused")
            assert "cannot store more" in job.record.reason
            subprocess.run(["mount", "-o", "remount,size=64m", str(small_disk)], check=True)
            mirror.await_same(job)


def test_the_status_is_right_across_restarts(mirror: FlistsMirror) -> None:
    mirror.fill(6000)
    seen: list[int] = []
    with Relay((mirror.master.endpoint.host, mirror.master.port), Link(rtt_seconds=0.005)) as relay:
        mirror.source = mirror.master.endpoint.model_copy(update={"port": relay.address[1]})
        for goal in (1500, 3500, 6000):
            with mirror.job(bandwidth_bytes_per_second=3_000_000) as job:
                job.wait(lambda record, goal=goal: (record.done.items or 0) >= goal, "so far")  # type: ignore[misc]
                assert job.record.total.items == 6000
                seen.append(job.record.done.items or 0)
    assert seen == sorted(seen)
    assert seen[-1] == 6000


def test_a_dozen_random_kills_lose_nothing(tmp_path: Path) -> None:
    with running(tmp_path) as mirror:
        Storm(mirror, seed=7).rage(kills=12)


@pytest.mark.soak
def test_three_hundred_random_kills_lose_nothing(tmp_path: Path) -> None:
    with running(tmp_path) as mirror:
        Storm(mirror, seed=11).rage(kills=300)


def test_what_a_power_loss_spoilt_is_found_after_further_interruptions(
    mirror: FlistsMirror,
) -> None:
    """The proof outlives a restart of the agent, and is of what was written before the loss."""
    keys = mirror.fill()
    with mirror.job() as job:
        job.wait(following)
    with mirror.slave.connect() as slave:
        for key in keys[-20:]:
            slave.set_many([(key, b"zeros, as after a power loss", 1)])
    mirror.slave.kill()
    mirror.slave.start()
    mirror.fill(8000, seed=2, size=300)
    agent = AgentProcess(mirror, bandwidth_bytes_per_second=1)
    with agent:
        deadline = time.monotonic() + 20
        while not (record := agent.record) or not record.details.get("listed_items"):
            assert time.monotonic() < deadline, agent.log()
            time.sleep(0.02)
        agent.kill()
    with mirror.job() as job:
        job.wait(following)
        mirror.await_same(job)
