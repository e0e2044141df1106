"""The flists job while a name of its master dies, is back, or turns out to be another master's."""

from pathlib import Path

import pytest

from sync.agent.chunks.reconcile.verification import repair
from sync.agent.job import VerifyOptions
from sync.contract.spec import ZdbEndpoint
from tests.agent.chunks.chunks_mirror import FlistsMirror, chunks, following, running
from tests.agent.dead_names import OF_ANY, no_such_name
from tests.agent.master.sources_of import die, in_use, skipped
from tests.sandbox.wan import Link, Relay

STAND_IN = True


def name_of(mirror: FlistsMirror, link: Link | None = None) -> Relay:
    """Make another name of the master: an address that leads to it, and can be taken away."""
    return Relay((mirror.master.endpoint.host, mirror.master.port), link)


def led_by(mirror: FlistsMirror, name: Relay) -> list[ZdbEndpoint]:
    """Return that name and the master's own."""
    own = mirror.master.endpoint
    return [own.model_copy(update={"port": name.address[1]}), own]


@pytest.mark.parametrize("death", OF_ANY)
def test_chunks_are_copied_and_followed_by_the_second_name(
    death: str, mirror: FlistsMirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_such_name(monkeypatch)
    mirror.fill(400)
    own = mirror.master.endpoint
    with OF_ANY[death]() as dead:
        bad = own.model_copy(update={"host": dead.host, "port": dead.port})
        mirror.sources = [bad, own]
        with mirror.job(io_timeout_seconds=0.5) as job:
            record = job.wait(following, "following")
            mirror.fill(50, seed=2)
            mirror.await_same(job)
    assert dead.says in skipped(record)[str(bad)]
    assert in_use(record) == [str(own)]
    assert record.master.source == str(own)


@pytest.mark.parametrize("how", ["reset", "hang"])
def test_a_name_that_dies_in_mid_copy_is_left_and_the_copy_goes_on_where_it_was(
    how: str, mirror: FlistsMirror
) -> None:
    mirror.fill(3000, size=2000)
    with name_of(mirror, Link(rtt_seconds=0.01)) as first:
        mirror.sources = led_by(mirror, first)
        slowly = {"bandwidth_bytes_per_second": 3_000_000, "io_timeout_seconds": 0.5}
        with mirror.job(scanners=1, **slowly) as job:
            so_far = job.wait(lambda record: (record.done.items or 0) > 500, "copying")
            assert in_use(so_far) == [str(mirror.sources[0])]
            die(first, hang=how == "hang")
            record = job.wait(following, "following")
    assert mirror.same()
    assert str(mirror.sources[0]) in skipped(record)
    assert in_use(record) == [str(mirror.sources[1])]
    assert record.master.identity == so_far.master.identity is not None
    # What was copied by the first name was not copied again: the cursor is of the same master.
    copied = record.details["copied_items"]
    assert isinstance(copied, int)
    assert copied <= 3000 - (so_far.done.items or 0)


def test_the_preferred_name_is_gone_back_to_once_everything_is_copied(
    mirror: FlistsMirror,
) -> None:
    mirror.fill(400)
    with name_of(mirror) as first:
        mirror.sources = preferred, second = led_by(mirror, first)
        first.refusing = True
        with mirror.job() as job:
            record = job.wait(following, "following")
            assert record.master.source == str(second)
            first.refusing = False
            record = job.wait(
                lambda record: record.master.source == str(preferred) and following(record),
                "back",
            )
            assert skipped(record) == {}
            assert record.errors[-1].message.startswith(f"zdb {preferred} is skipped")
            mirror.fill(50, seed=2)
            mirror.await_same(job)


def test_a_name_that_turns_out_to_be_another_masters_stops_the_job(
    mirror: FlistsMirror, tmp_path: Path
) -> None:
    mirror.fill(400)
    with running(tmp_path / "other", stand_in=True) as other, name_of(mirror) as first:
        other.fill(300, seed=9)
        elsewhere = other.master.endpoint
        mirror.sources = [led_by(mirror, first)[0], elsewhere]
        with mirror.job() as job:
            job.wait(following, "following")
            die(first)
            failure = str(job.failure())
        assert f"the master {elsewhere} is another one than was followed" in failure
        assert "removalConfirmation" in failure
    assert mirror.same()


def test_names_and_their_order_are_no_new_master(mirror: FlistsMirror) -> None:
    mirror.fill(400)
    seen: list[tuple[str | None, object]] = []
    with name_of(mirror) as name:
        other, own = led_by(mirror, name)
        for sources in ([own], [other, own], [own, other], [other], [own]):
            mirror.sources = sources
            with mirror.job() as job:
                record = job.wait(following, "following")
                assert record.master.source == str(sources[0])
                seen.append((record.master.identity, record.details["copied_items"]))
    (first, *rest) = seen
    assert first[0] is not None
    assert (first[1], rest) == (400, [(first[0], 0)] * 4)
    assert mirror.same()


def test_when_all_names_are_dead_the_error_has_each_and_copying_goes_on_later(
    mirror: FlistsMirror,
) -> None:
    mirror.fill(400)
    with name_of(mirror) as first:
        mirror.sources = led_by(mirror, first)
        first.refusing = True
        mirror.master.kill()
        with mirror.job() as job:
            record = job.wait(lambda record: record.retries >= 2, "tried again")
            for endpoint in mirror.sources:
                assert f"{endpoint} (" in record.reason
            mirror.master.start()
            job.wait(following, "following")
            mirror.await_same(job)


def test_a_slave_that_is_away_is_no_reason_to_leave_the_master(mirror: FlistsMirror) -> None:
    mirror.fill(400)
    with name_of(mirror) as first:
        mirror.sources = led_by(mirror, first)
        mirror.slave.kill()
        with mirror.job() as job:
            record = job.wait(lambda record: record.retries >= 2, "tried again")
            assert skipped(record) == {}
            mirror.slave.start()
            record = job.wait(following, "following")
        assert in_use(record) == [str(mirror.sources[0])]
    assert mirror.same()


def test_repair_fetches_from_the_name_that_answers(mirror: FlistsMirror) -> None:
    mirror.fill(400)
    with mirror.job() as job:
        job.wait(following, "following")
    key = chunks(1, 1)[0][0]
    with mirror.slave.connect() as slave:
        slave.delete_many([key])
    dead = mirror.master.endpoint.model_copy(update={"port": 1})
    spec = mirror.spec(sources=[dead, mirror.master.endpoint])
    report = repair(spec, mirror.directories, VerifyOptions())
    assert [problem.name for problem in report.problems] == [key.hex()]
    assert report.repaired == 1
    assert mirror.same()
