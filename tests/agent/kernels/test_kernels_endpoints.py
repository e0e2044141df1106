"""The kernels job while a name of its master dies, or turns out to be another master's."""

from collections.abc import Iterator
from datetime import timedelta

import pytest

from sync.agent.job import Directories, JobFailed, VerifyOptions
from sync.agent.kernels.verification import verify
from sync.agent.master.endpoints import by_any_name
from sync.agent.status_writer import utc_now
from sync.contract.spec import KernelsSpec
from sync.contract.status import StatusRecord
from tests.agent.dead_names import OF_HTTP, no_such_name
from tests.agent.kernels.kernels_mirror import OLD, engine_of, kernels, links, served
from tests.agent.master.sources_of import (
    IMPATIENT,
    OFTEN,
    die,
    name_of,
    running_job,
    skipped,
    stranger,
    url_of,
)
from tests.agent.mirrors import kernels_spec
from tests.agent.scripted import Answer, Asked, ScriptedServer
from tests.sandbox.services.http import Connection, Request, Response
from tests.sandbox.upstream import Upstream


@pytest.fixture
def other() -> Iterator[Upstream]:
    with Upstream(stranger()) as master:
        yield master


def named(upstream: Upstream, *sources: str) -> KernelsSpec:
    return kernels_spec(upstream, sources=list(sources), schedule=OFTEN, http=IMPATIENT)


def one_pass(spec: KernelsSpec, directories: Directories) -> StatusRecord:
    """Run one pass in a fresh engine by any of the spec's names."""
    with engine_of(spec, directories) as engine:
        by_any_name(engine.one_pass)
        return engine._status.record


@pytest.mark.parametrize("death", OF_HTTP)
def test_a_pass_completes_by_the_second_name(
    death: str, upstream: Upstream, directories: Directories, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_such_name(monkeypatch)
    second = url_of(upstream.bootstrap)
    with (
        OF_HTTP[death]() as dead,
        running_job(named(upstream, dead.url, second), directories) as job,
    ):
        record = job.complete(second)
    assert served(directories) == kernels(upstream)
    assert len(links(directories)) == 4
    assert dead.says in skipped(record)[dead.url]
    assert {use.service for use in record.sources} == {"bootstrap"}


@pytest.mark.parametrize("how", ["reset", "hang"])
def test_a_bootstrap_that_dies_in_mid_copy_is_left_and_nothing_is_lost(
    how: str, upstream: Upstream, directories: Directories
) -> None:
    second = url_of(upstream.bootstrap)
    with name_of(upstream.bootstrap) as first:
        inner = upstream.bootstrap.deliver
        asked: list[str] = []

        def deliver(connection: Connection, request: Request, response: Response) -> bool:
            """Let some pass; in place of one kernel's bytes, the name is taken away."""
            if (request.method, request.path) == ("GET", "/kernel/zos-3.efi"):
                asked.append(request.path)
                if len(asked) == 1:
                    die(first, hang=how == "hang")
                    return False
            return bool(inner(connection, request, response))

        upstream.bootstrap.deliver = deliver
        spec = named(upstream, url_of(first), second)
        with running_job(spec, directories) as job:
            record = job.complete(second)
        assert url_of(first) in skipped(record)
        assert len(asked) >= 2
        assert served(directories) == kernels(upstream)
        assert verify(spec, directories, VerifyOptions()).problems == ()


def test_when_all_bootstraps_are_dead_the_job_says_so_and_goes_on_trying(
    upstream: Upstream, directories: Directories
) -> None:
    dead = ["http://127.0.0.1:1", "http://127.0.0.1:2"]
    with running_job(named(upstream, *dead), directories) as job:
        record = job.until(lambda record: record.retries >= 3)
    for name in dead:
        assert f"{name} (127.0.0.1:{name[-1]}: cannot connect" in record.reason
    assert record.next_at is not None


def test_names_behind_one_limiter_are_asked_once_each_before_the_job_waits(
    upstream: Upstream, directories: Directories
) -> None:
    def script(asked: Asked) -> Answer | None:
        listing = asked.path == "/api/images"
        return None if listing else Answer(status=503, headers={"Retry-After": "3600"})

    with ScriptedServer(script) as first, ScriptedServer(script) as second:
        for server in (first, second):
            server.put_json("/api/images", [{"name": "zos.efi", "timestamp": OLD}])
        with running_job(named(upstream, first.url, second.url), directories) as job:
            record = job.until(lambda record: record.next_at is not None)
    assert [asked.path for asked in [*first.asked, *second.asked]].count("/api/images") == 2
    assert record.retries == 1
    assert "none of the master's 2 names answers" in record.reason
    assert record.next_at is not None
    assert record.next_at > utc_now() + timedelta(seconds=3000)


def test_a_name_that_turns_out_to_be_another_masters_stops_the_job(
    upstream: Upstream, other: Upstream, directories: Directories
) -> None:
    own, elsewhere = url_of(upstream.bootstrap), url_of(other.bootstrap)
    one_pass(named(upstream, own), directories)
    upstream.bootstrap.stop()
    spec = named(upstream, own, elsewhere)
    with running_job(spec, directories) as job:
        failure = job.failure()
    assert isinstance(failure, JobFailed)
    assert f"{elsewhere} is another one than was followed until now as {own}" in str(failure)
    assert served(directories) == kernels(upstream)
    one_pass(spec.model_copy(update={"removal_confirmation": 1}), directories)
    assert set(served(directories)) >= set(kernels(other))


def test_names_and_their_order_are_no_new_master(
    upstream: Upstream, directories: Directories
) -> None:
    with name_of(upstream.bootstrap) as second:
        one, two = url_of(upstream.bootstrap), url_of(second)
        seen = [
            one_pass(named(upstream, *sources), directories).master
            for sources in ([one], [two, one], [one, two], [two])
        ]
    assert [master.source for master in seen] == [one, two, one, two]
    assert {master.identity for master in seen} == {one}
