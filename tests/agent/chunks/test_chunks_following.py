"""Following: no sign of a write is lost, however the threads and the answers come."""

import os
import signal
import time
from collections.abc import Callable

from sync.agent.chunks.copying.copy_loop import CopyLoop
from sync.agent.chunks.scan.index_source import IndexSource
from sync.agent.chunks.scan.spans import Edge, Span
from tests.agent.chunks.chunks_mirror import FlistsMirror, chunks, following
from tests.agent.chunks.scripted_zdb import ScriptedZdb

STAND_IN = True


def looks(mirror: FlistsMirror, on_scan: Callable[[IndexSource, int], None]) -> int:
    """Follow an empty master that is polled once a minute; returns how often it was asked.

    on_scan: called while the master answers a SCAN, with the count of those before it.
    """
    sources: list[IndexSource] = []
    asked: list[float] = []

    def script(request: list[bytes]) -> None:
        if request[0] == b"SCAN":
            on_scan(sources[0], len(asked))
            asked.append(time.monotonic())

    with ScriptedZdb(script) as master:
        spec = mirror.spec(sources=[master.endpoint], poll_seconds=60)
        loop = CopyLoop(spec, "mirror-admin")
        try:
            sources.append(IndexSource(spec, [Span(Edge(None))]))
            loop.watch(sources[0].scanners)
            until = time.monotonic() + 1
            while time.monotonic() < until:
                loop.copy(sources[0].pull(time.monotonic()))
                loop.step(until)
        finally:
            loop.close()
    return len(asked)


def test_a_sign_that_comes_while_the_end_is_under_way_leads_to_another_look(
    mirror: FlistsMirror,
) -> None:
    def written(source: IndexSource, before: int) -> None:
        if before == 0:
            source.look_now()

    assert looks(mirror, written) == 2


def test_the_second_look_after_a_sign_is_taken_too(mirror: FlistsMirror) -> None:
    """A write between a WAIT's answer and the next WAIT gives no sign of its own."""

    def armed(source: IndexSource, before: int) -> None:
        if before == 0:
            source.look_now()
            source.look_again()

    assert looks(mirror, armed) == 3


def test_a_quiet_day_starts_the_waits_after_failures_from_the_first(mirror: FlistsMirror) -> None:
    """A session that followed was a success, also where there was nothing to copy."""
    with mirror.master.connect() as master:
        master.set_many(chunks(50, 1))
    backoff = {"first_seconds": 0.2, "longest_seconds": 60}
    with mirror.job(backoff=backoff) as job:
        for _ in range(6):
            job.wait(lambda record: following(record) and not record.reason, "following")
            mirror.master.kill()
            job.wait(lambda record: bool(record.reason), "noticed")
            mirror.master.start()
        began = time.monotonic()
        job.wait(lambda record: following(record) and not record.reason, "following")
        assert time.monotonic() - began < 2


def test_the_lag_grows_while_the_master_is_away(mirror: FlistsMirror) -> None:
    with mirror.master.connect() as master:
        master.set_many(chunks(50, 1))
    with mirror.job(backoff={"first_seconds": 30, "longest_seconds": 30}) as job:
        job.wait(following)
        mirror.master.kill()
        job.wait(lambda record: (record.lag.seconds or 0) > 1.5, "behind")


def test_the_lag_grows_while_the_master_is_silent(mirror: FlistsMirror) -> None:
    with mirror.master.connect() as master:
        master.set_many(chunks(50, 1))
    with mirror.job(io_timeout_seconds=30) as job:
        job.wait(following)
        os.kill(mirror.master.pid, signal.SIGSTOP)
        try:
            job.wait(lambda record: (record.lag.seconds or 0) > 2.5, "behind")
            assert job.record.retries == 0
        finally:
            os.kill(mirror.master.pid, signal.SIGCONT)
        job.wait(lambda record: (record.lag.seconds or 0) < 1, "there again")
