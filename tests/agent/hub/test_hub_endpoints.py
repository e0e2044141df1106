"""The users job while a name of its master dies, is back, or turns out to be another master's."""

import functools
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from sync.agent.hub.chunk_store import ChunkStore
from sync.agent.hub.verification import verify
from sync.agent.job import JobFailed, VerifyOptions
from sync.agent.master.endpoints import by_any_name
from sync.agent.master.identity import agrees
from sync.agent.zdb.connection import ZdbConnection
from sync.agent.zdb.errors import ZdbConnectionError
from sync.contract.spec import ZdbEndpoint
from sync.contract.status import StatusRecord
from tests.agent.dead_names import OF_ANY, OF_HTTP, no_such_name
from tests.agent.hub.flists_of import small
from tests.agent.hub.small_hub import OLD, small_model
from tests.agent.master.sources_of import (
    IMPATIENT,
    OFTEN,
    die,
    in_use,
    name_of,
    running_job,
    skipped,
    stranger,
    url_of,
)
from tests.agent.mirrors import PASSWORD, UsersMirror, model_tree, users_mirror
from tests.sandbox.services.http import Connection, Request, Response
from tests.sandbox.upstream import Upstream

DEAD = "http://127.0.0.1:1"


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    with Upstream(small_model()) as master:
        yield master


@pytest.fixture
def other() -> Iterator[Upstream]:
    with Upstream(stranger()) as master:
        yield master


@pytest.fixture
def mirror(upstream: Upstream, tmp_path: Path) -> Iterator[UsersMirror]:
    with users_mirror(tmp_path, upstream, schedule=OFTEN, http=IMPATIENT) as made:
        yield made


def one_pass(mirror: UsersMirror, *sources: str) -> StatusRecord:
    """Run one pass in a fresh engine, by any of these names of the hub."""
    mirror.settings["sources"] = list(sources)
    with mirror.engine() as (engine, status):
        by_any_name(engine.one_pass)
        return status.record


def is_whole(mirror: UsersMirror) -> bool:
    model = mirror.upstream.model
    here = mirror.served() == model_tree(model)
    return here and mirror.local_keys() >= set(model.store.default.keys())


@pytest.mark.parametrize("death", OF_HTTP)
def test_a_pass_completes_by_the_second_name(
    death: str, mirror: UsersMirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_such_name(monkeypatch)
    second = url_of(mirror.upstream.hub)
    with OF_HTTP[death]() as dead:
        record = one_pass(mirror, dead.url, second)
    assert is_whole(mirror)
    assert dead.says in skipped(record)[dead.url]
    assert (record.master.source, record.lag.items) == (second, 0)
    assert second in in_use(record)
    (told,) = [error.message for error in record.errors]
    assert told.startswith(f"hub {dead.url} is skipped: ")


@pytest.mark.parametrize("how", ["reset", "hang"])
def test_a_hub_that_dies_in_mid_pass_is_left_and_nothing_is_lost(
    how: str, upstream: Upstream, mirror: UsersMirror
) -> None:
    for number in range(60):
        upstream.model.add_flist("bob", f"f{number}.flist", small(100 + number), OLD)
    second = url_of(upstream.hub)
    with name_of(upstream.hub) as first:
        mirror.settings["sources"] = [url_of(first), second]
        passed = [0]
        inner = upstream.hub.deliver

        def deliver(connection: Connection, request: Request, response: Response) -> bool:
            """Let the listing and some flists pass; from then on this name leads nowhere."""
            passed[0] += 1
            if passed[0] == 40:
                die(first, hang=how == "hang")
            return bool(inner(connection, request, response))

        upstream.hub.deliver = deliver
        with running_job(mirror.spec(), mirror.directories) as job:
            record = job.complete(second)
        assert url_of(first) in skipped(record)
        assert is_whole(mirror)
        options = VerifyOptions(chunks=True)
        assert verify(mirror.spec(), mirror.directories, options).problems == ()


def test_the_preferred_hub_is_gone_back_to_once_it_answers(
    upstream: Upstream, mirror: UsersMirror
) -> None:
    second = url_of(upstream.hub)
    with name_of(upstream.hub) as first:
        first.refusing = True
        mirror.settings["sources"] = [url_of(first), second]
        with running_job(mirror.spec(), mirror.directories) as job:
            before = job.complete(second)
            assert url_of(first) in skipped(before)
            first.refusing = False
            record = job.complete(url_of(first))
            assert skipped(record) == {}
            assert record.master.identity == before.master.identity
            assert record.first_pass_at == before.first_pass_at
            upstream.model.add_flist("alice", "new.flist", small(77), OLD)
            job.until(lambda _: is_whole(mirror))


def test_when_all_hubs_are_dead_the_job_says_so_and_goes_on_when_one_is_back(
    upstream: Upstream, mirror: UsersMirror
) -> None:
    with name_of(upstream.hub) as first, name_of(upstream.hub) as second:
        first.refusing = second.refusing = True
        mirror.settings["sources"] = [url_of(first), url_of(second)]
        with running_job(mirror.spec(), mirror.directories) as job:
            record = job.until(lambda record: record.retries >= 2)
            assert record.reason.startswith("none of the master's 2 names answers: ")
            assert url_of(first) in record.reason
            assert url_of(second) in record.reason
            second.refusing = False
            job.complete(url_of(second))
    assert is_whole(mirror)


def test_verify_compares_with_the_name_that_answers(
    upstream: Upstream, mirror: UsersMirror
) -> None:
    one_pass(mirror, DEAD, url_of(upstream.hub))
    assert verify(mirror.spec(), mirror.directories, VerifyOptions()).problems == ()
    upstream.model.add_flist("alice", "new.flist", small(77), OLD)
    report = verify(mirror.spec(), mirror.directories, VerifyOptions())
    assert [problem.name for problem in report.problems] == ["alice/new.flist"]


# The 0-db


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nobody wait half a minute for a 0-db."""
    soon = functools.partial(ZdbConnection.open, timeout_seconds=0.5)
    monkeypatch.setattr(ZdbConnection, "open", soon)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("death", OF_ANY)
def test_chunks_come_by_the_second_name_of_the_0_db(
    death: str, mirror: UsersMirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    no_such_name(monkeypatch)
    zdb = mirror.upstream.zdb
    good = ZdbEndpoint(host=zdb.address, port=zdb.port)
    with OF_ANY[death]() as dead:
        bad = ZdbEndpoint(host=dead.host, port=dead.port)
        mirror.settings["sources_zdb"] = [bad, good]
        record = mirror.one_pass()
    assert is_whole(mirror)
    assert dead.says in skipped(record)[str(bad)]
    assert str(good) in in_use(record)
    assert (record.broken.count, record.refused.count) == (0, 0)


def test_a_question_that_no_0_db_survives_is_asked_of_each_name_and_no_more(
    mirror: UsersMirror,
) -> None:
    zdb = mirror.upstream.zdb
    names = [ZdbEndpoint(host=host, port=zdb.port) for host in ("127.0.0.1", "localhost")]
    mirror.settings["sources_zdb"] = names
    asked: list[str] = []
    with closing(ChunkStore(mirror.spec(), PASSWORD, mirror.control)) as store:

        def question(_: ZdbConnection) -> None:
            asked.append(store._masters.current.host)
            # As the questions of other threads are.
            store._masters.answered()
            raise ZdbConnectionError("closed")

        (route,) = store.routes(mirror.spec().local_zdb.namespace)
        with pytest.raises(ZdbConnectionError, match="closed"):
            store._ask(route, question)
    assert asked == ["127.0.0.1"] * 2 + ["localhost"] * 2


def test_when_all_names_of_the_0_db_are_dead_the_error_has_each(mirror: UsersMirror) -> None:
    dead = [ZdbEndpoint(host="127.0.0.1", port=port) for port in (1, 2)]
    mirror.settings["sources_zdb"] = dead
    with pytest.raises(ZdbConnectionError, match="none of the master's 2 names") as failed:
        mirror.one_pass()
    for endpoint in dead:
        assert f"{endpoint} (0-db 127.0.0.1:{endpoint.port}: Connection" in str(failed.value)


# Another master


def test_a_name_that_turns_out_to_be_another_masters_stops_the_job(
    other: Upstream, mirror: UsersMirror
) -> None:
    mirror.one_pass()
    before = mirror.served()
    own, elsewhere = url_of(mirror.upstream.hub), url_of(other.hub)
    mirror.settings["sources"] = [own, elsewhere]
    mirror.upstream.hub.stop()
    with running_job(mirror.spec(), mirror.directories) as job:
        failure = job.failure()
    assert isinstance(failure, JobFailed)
    told = f"the master {elsewhere} is another one than was followed until now as {own}"
    assert str(failure).startswith(told)
    assert "removalConfirmation" in str(failure)
    assert mirror.served() == before


def test_both_names_of_one_master_and_any_order_of_them_are_one_master(
    upstream: Upstream, mirror: UsersMirror
) -> None:
    seen: list[tuple[str, str | None]] = []
    with name_of(upstream.hub) as second, name_of(upstream.hub) as third:
        one, two, three = url_of(upstream.hub), url_of(second), url_of(third)
        for sources in ([one], [two, one], [one, two], [two], [three, two], [three], [one]):
            record = one_pass(mirror, *sources)
            seen.append((record.master.source, record.master.identity))
            assert is_whole(mirror)
    assert [source for source, _ in seen] == [one, two, one, two, three, three, one]
    assert {identity for _, identity in seen} == {one}


def test_a_master_that_the_operator_names_in_place_of_the_old_one_is_followed(
    other: Upstream, mirror: UsersMirror
) -> None:
    """As ever: what the new one lacks goes as far as the guard of removals lets it."""
    mirror.one_pass()
    mirror.settings["removal_floor_items"] = 100
    zdb = other.zdb
    mirror.settings["sources_zdb"] = [ZdbEndpoint(host=zdb.address, port=zdb.port)]
    record = one_pass(mirror, url_of(other.hub))
    assert mirror.served() == model_tree(other.model)
    assert record.master.identity == url_of(other.hub)


def test_another_master_is_followed_once_it_is_confirmed(
    other: Upstream, mirror: UsersMirror
) -> None:
    mirror.one_pass()
    zdb = other.zdb
    mirror.settings["sources_zdb"] = [ZdbEndpoint(host=zdb.address, port=zdb.port)]
    names = [url_of(other.hub), url_of(mirror.upstream.hub)]
    with pytest.raises(JobFailed, match="another one"):
        one_pass(mirror, *names)
    mirror.settings["removal_confirmation"] = 1
    record = one_pass(mirror, *names)
    assert mirror.served() == model_tree(other.model)
    assert record.master.identity == url_of(other.hub)
    # That was used up: the way back has to be confirmed as well.
    with pytest.raises(JobFailed, match="another one"):
        one_pass(mirror, *reversed(names))


def test_a_master_that_merely_went_on_is_not_taken_for_another_one(
    upstream: Upstream, mirror: UsersMirror
) -> None:
    mirror.one_pass()
    with name_of(upstream.hub) as second:
        for number in range(3):
            name = f"zos-{number}.flist"
            upstream.model.change_flist("tf-zos", name, small(200 + number))
        one_pass(mirror, url_of(second), url_of(upstream.hub))
    assert is_whole(mirror)


@pytest.mark.parametrize(
    ("mirrored", "listed", "same"),
    [
        ({}, {}, True),
        ({}, {"a": 1.0}, True),
        ({"a": 5.0}, {"a": 5.0}, True),
        ({"a": 5.0}, {"a": 6.0, "b": 1.0}, True),
        ({"a": 5.7}, {"a": 5.0}, True),
        ({"a": 5.0}, {"a": 3.0}, False),
        ({"a": 5.0}, {"b": 5.0}, False),
        ({"a": None}, {"a": 3.0}, True),
        ({"a": 5.0}, {"a": None}, True),
        ({"a": 5.0, "b": 5.0}, {"a": 5.0}, True),
        ({"a": 5.0, "b": 5.0, "c": 5.0}, {"a": 5.0}, False),
    ],
)
def test_half_of_what_is_mirrored_tells_a_master(
    mirrored: dict[str, float | None], listed: dict[str, float | None], *, same: bool
) -> None:
    assert agrees(mirrored, listed) is same
