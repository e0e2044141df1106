"""A chunk keeps the master's time, whichever job brings it and in whatever order they run."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sync.agent.hub import repair
from sync.agent.job import VerifyOptions
from sync.agent.zdb.connection import ZdbConnection
from sync.agent.zdb.errors import ZdbProtocolError, ZdbReplyError
from sync.contract.spec import ZdbEndpoint
from tests.agent.chunks.chunks_mirror import following
from tests.agent.chunks.scripted_zdb import ScriptedZdb
from tests.agent.hub.chunks_job import chunks_job
from tests.agent.hub.flists_of import small
from tests.agent.hub.small_hub import DAY, OLD, small_model
from tests.agent.mirrors import UsersMirror, model_tree, users_mirror
from tests.sandbox.flist import Backend
from tests.sandbox.services.zdb import Namespace, Settings, Store, ZdbServer, commands
from tests.sandbox.upstream import Upstream

Times = dict[bytes, int]


@pytest.fixture
def mirror(tmp_path: Path) -> Iterator[UsersMirror]:
    model = small_model()
    # Every chunk of the master has a time of its own.
    for number, key in enumerate(sorted(model.store.default.keys())):
        payload = model.store.default.payload(key)
        assert payload is not None
        model.store.default.delete(key, int(OLD))
        model.store.default.set_many([(key, payload, int(OLD) + number)])
    with Upstream(model) as upstream, users_mirror(tmp_path, upstream) as made:
        yield made


def times_of(namespace: Namespace) -> Times:
    found: Times = {}
    for key in [*namespace.keys()]:
        entry = namespace.entry(key)
        assert entry is not None
        found[key] = entry.timestamp
    return found


def masters_times(mirror: UsersMirror) -> Times:
    return times_of(mirror.upstream.model.store.default)


def local_times(mirror: UsersMirror) -> Times:
    return times_of(mirror.zdb.store.default)


def test_users_job_alone_stores_the_masters_times(mirror: UsersMirror) -> None:
    mirror.one_pass()
    assert local_times(mirror) == masters_times(mirror)
    with ZdbConnection.open(mirror.spec().local_zdb) as line:
        keys = sorted(mirror.local_keys())
        assert [*line.pipeline([(b"KEYTIME", key) for key in keys])] == [
            masters_times(mirror)[key] for key in keys
        ]


@pytest.mark.parametrize("first", ["users", "flists", "both at once"])
def test_whichever_job_comes_first_the_times_are_the_masters(
    first: str, mirror: UsersMirror, tmp_path: Path
) -> None:
    if first == "users":
        mirror.one_pass()
    with chunks_job(mirror, tmp_path / "chunks", poll_seconds=0.5) as job:
        if first != "both at once":
            job.wait(following, "following")
        mirror.one_pass()
        job.wait(following, "following")
        mirror.upstream.model.add_flist("alice", "new.flist", small(60), OLD + 60 * DAY)
        mirror.one_pass()
        job.wait(lambda record: record.done.items == len(masters_times(mirror)), "whole")
    assert local_times(mirror) == masters_times(mirror)


def test_chunks_that_repair_brings_back_have_the_masters_times(mirror: UsersMirror) -> None:
    mirror.one_pass()
    local = mirror.zdb.store.default
    lost, damaged = sorted(small(20).chunks)[:2]
    local.delete(lost, int(OLD))
    local.replace_payload(damaged, b"x" * len(local.payload(damaged) or b""))
    report = repair(mirror.spec(), mirror.directories, VerifyOptions(chunks=True))
    assert report.repaired == len(report.problems) == 2
    assert local_times(mirror) == masters_times(mirror)


def test_chunks_of_another_0_db_have_its_times(mirror: UsersMirror) -> None:
    other = ZdbServer(Store(Settings()))
    other.start()
    try:
        chunks = sorted(small(80).chunks.items())
        other.store.default.set_many(
            [(key, payload, 1_600_000_000 + n) for n, (key, payload) in enumerate(chunks)]
        )
        flist = small(80).archive(Backend(other.address, other.port))
        mirror.upstream.model.add_flist("alice", "foreign.flist", flist, OLD)
        mirror.settings["allowed_backends"] = [ZdbEndpoint(host=other.address, port=other.port)]
        mirror.one_pass()
        assert times_of(mirror.zdb.store.namespaces["foreign"]) == times_of(other.store.default)
    finally:
        other.stop()


def test_a_0_db_that_knows_no_keytime_still_gives_its_chunks(
    mirror: UsersMirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(commands._HANDLERS, "KEYTIME")
    before = int(time.time())
    mirror.one_pass()
    assert mirror.served() == model_tree(mirror.upstream.model)
    assert min(local_times(mirror).values()) >= before, "the local 0-db's own time"


@pytest.mark.parametrize(
    ("time_told", "payloads", "error"),
    [
        (b":1\r\n", b"-Permission denied\r\n", ZdbReplyError),
        (b"-Permission denied\r\n", b"-Permission denied\r\n", ZdbReplyError),
        (b"+1\r\n", b"*1\r\n$1\r\nx\r\n", ZdbProtocolError),
    ],
)
def test_only_the_time_may_be_refused_and_a_time_has_to_be_a_number(
    time_told: bytes, payloads: bytes, error: type[Exception]
) -> None:
    answers = {b"KEYTIME": time_told, b"MGET": payloads}
    with (
        ScriptedZdb(lambda request: answers.get(request[0])) as server,
        ZdbConnection.open(server.endpoint) as line,
        pytest.raises(error),
    ):
        line.mget_timed([b"key"])


def test_times_cost_no_round_trip_and_a_key_that_is_gone_has_neither(
    mirror: UsersMirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = mirror.spec().source_zdb
    sent: list[bytes] = []
    real = ZdbConnection._send

    def noted(line: ZdbConnection, data: bytes, **options: Any) -> None:
        sent.append(data)
        real(line, data, **options)

    monkeypatch.setattr(ZdbConnection, "_send", noted)
    keys = [*sorted(small(20).chunks), b"not there"]
    with ZdbConnection.open(source) as line:
        before = len(sent)
        answers = line.mget_timed(keys)
        assert len(sent) == before + 1, "times and payloads are asked for in one piece"
    assert answers[-1] is None
    assert [answer[0] for answer in answers[:-1] if answer] == [
        small(20).chunks[key] for key in keys[:-1]
    ]
