"""The flists job over networks that forget idle connections, or lose what is large.

The time-out is an hour where nothing may wait for it.
"""

import contextlib
import time
from collections.abc import Callable
from itertools import count

import pytest

from sync.agent.zdb.connection import ZdbConnection
from sync.agent.zdb.errors import ZdbTimeoutError
from sync.contract.spec import ZdbEndpoint
from tests.agent.chunks.chunks_mirror import PASSWORD, FlistsMirror, Job, chunks, following
from tests.agent.master.sources_of import in_use, skipped
from tests.sandbox.wan import Fault, Link, Relay

STAND_IN = True
AN_HOUR = 3600.0
FORGETS_SECONDS = 1.0
SEEDS = count(100)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take what rests for some moments as what has rested."""
    for module in ("sync.agent.zdb.transport", "sync.agent.chunks.copying.channel"):
        for name in ("RESTED_SECONDS", "FORGOTTEN_SECONDS"):
            monkeypatch.setattr(f"{module}.{name}", 0.3)


def forgetful(endpoint: ZdbEndpoint) -> Relay:
    """Stand between a client and a 0-db as NAT that forgets what is idle."""
    return Relay((endpoint.host, endpoint.port), Link(forgets_seconds=FORGETS_SECONDS))


def through(endpoint: ZdbEndpoint, relay: Relay) -> ZdbEndpoint:
    return endpoint.model_copy(update={"host": relay.address[0], "port": relay.address[1]})


def quiet() -> None:
    """Wait until connections were idle for too long."""
    time.sleep(1.4 * FORGETS_SECONDS)


def written(mirror: FlistsMirror, job: Job, many: int) -> None:
    """Write to the master, and wait until the slave has it."""
    made = chunks(many, next(SEEDS))
    with mirror.master.connect() as master:
        master.set_many(made)
    keys = [key for key, _, _ in made]
    with mirror.slave.connect() as slave:
        job.wait(lambda _: all(slave.exists(keys)), "there")


@pytest.mark.parametrize(("many", "poll_seconds"), [(1, 0.4), (1, 5.0), (3000, 2.0)])
def test_a_write_after_a_quiet_time_does_not_wait_for_a_time_out(
    mirror: FlistsMirror, many: int, poll_seconds: float
) -> None:
    mirror.fill(200)
    with forgetful(mirror.master.endpoint) as nat:
        mirror.source = through(mirror.master.endpoint, nat)
        with mirror.job(io_timeout_seconds=AN_HOUR, poll_seconds=poll_seconds) as job:
            job.wait(following, "following")
            for _ in range(2):
                quiet()
                written(mirror, job, many)
            record = job.record
    assert nat.forgotten > 0
    assert (record.retries, record.errors) == (0, [])
    assert mirror.same()


def test_nor_does_one_whose_way_to_the_slave_was_forgotten(mirror: FlistsMirror) -> None:
    mirror.fill(200)
    with forgetful(mirror.slave.endpoint) as nat:
        local = through(mirror.slave.endpoint, nat)
        with mirror.job(io_timeout_seconds=AN_HOUR, local_zdb=local) as job:
            job.wait(following, "following")
            for many in (1, 3000):
                quiet()
                written(mirror, job, many)
            record = job.record
    assert nat.forgotten > 0
    assert (record.retries, record.errors) == (0, [])
    assert mirror.same()


def test_a_master_that_was_exchanged_meanwhile_is_met_by_a_new_session(
    mirror: FlistsMirror,
) -> None:
    """A connection is not renewed to another start of a server: who it is has to be found out."""
    mirror.fill(200)
    with forgetful(mirror.master.endpoint) as nat:
        mirror.source = through(mirror.master.endpoint, nat)
        with mirror.job(io_timeout_seconds=3) as job:
            job.wait(following, "following")
            nat.hang_all()
            mirror.master.kill()
            mirror.master.start()
            written(mirror, job, 1)
            assert job.record.retries > 0
    assert mirror.same()


# A single connection


QUESTIONS: dict[str, Callable[[ZdbConnection], object]] = {
    "EXISTS": lambda line: line.exists([b"k" * 16] * 3000),
    "MGET": lambda line: line.mget([b"k" * 16] * 200),
    "NSINFO": lambda line: line.nsinfo().entries,
    "SET": lambda line: line.set_many([(b"k" * 16, b"v", 7)]),
    "DEL": lambda line: line.delete_many([b"0" * 16]),
    "SCAN": lambda line: list(line.pages()),
}


def test_a_connection_that_rested_answers_as_a_new_one_does(mirror: FlistsMirror) -> None:
    """To each kind of question, also to those that say something else the second time."""
    with mirror.slave.connect() as slave:
        slave.set_many([(b"k" * 16, b"v", 7), (b"0" * 16, b"v", 7)])
        expected = {name: ask(slave) for name, ask in QUESTIONS.items()}
        slave.set_many([(b"0" * 16, b"v", 7)])
    with forgetful(mirror.slave.endpoint) as nat, contextlib.ExitStack() as stack:
        there = through(mirror.slave.endpoint, nat)
        lines = {
            name: stack.enter_context(ZdbConnection.open(there, PASSWORD, AN_HOUR))
            for name in QUESTIONS
        }
        quiet()
        assert {name: ask(lines[name]) for name, ask in QUESTIONS.items()} == expected
        assert nat.forgotten == len(QUESTIONS)


def test_one_that_did_not_rest_still_has_its_time_out(mirror: FlistsMirror) -> None:
    with forgetful(mirror.slave.endpoint) as nat:
        there = through(mirror.slave.endpoint, nat)
        with ZdbConnection.open(there, PASSWORD, 0.5) as line:
            nat.hang_all()
            with pytest.raises(ZdbTimeoutError, match=r"no complete reply in 0\.5 s"):
                line.nsinfo()
            assert nat.accepted == 1


# Ways that lose large packets


def test_a_name_that_lets_only_small_replies_through_is_left_for_the_next(
    mirror: FlistsMirror,
) -> None:
    mirror.fill(3000)
    own = mirror.master.endpoint
    with Relay((own.host, own.port)) as narrow:
        # Greetings, NSINFO and INFO pass.
        narrow.fault = Fault("hang", after_bytes=1400, times=1_000_000)
        mirror.sources = [through(own, narrow), own]
        with mirror.job(io_timeout_seconds=1.5) as job:
            record = job.wait(following, "following")
            assert in_use(record) == [str(own)]
            assert "no complete reply" in skipped(record)[str(mirror.sources[0])]
    assert mirror.same()
