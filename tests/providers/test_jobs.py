"""A job in the stack: what is a change and what is not, and in which words it is shown."""

import base64
import itertools
import json
import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pulumi.output import UNKNOWN

from sync.contract import spec as contract
from sync.contract.status import (
    Amount,
    JobError,
    Lag,
    MasterIdentity,
    NameList,
    SourceUse,
    StatusRecord,
)
from sync.providers.jobs import provider, wait
from sync.providers.jobs import view as job_view
from sync.providers.jobs.inputs import InstalledJob, JobInputs
from sync.providers.jobs.outputs import RECORD, outputs, summary
from sync.providers.jobs.provider import JobProvider
from sync.providers.jobs.trouble import trouble
from sync.providers.jobs.view import ContainerState, JobFiles, JobsView
from sync.providers.jobs.wait import wait_until_ready, wait_until_stopped
from tests.providers.conftest import ENGINE_COMPARES, changed

NOW = datetime(2026, 11, 23, 16, 0, tzinfo=UTC)
AGENT = "0123456789abcdef"
PROVIDER = JobProvider()
ZDB = contract.ZdbEndpoint(host="203.0.113.1")
SPEC = contract.UsersSpec(
    stack="test",
    sources=["https://hub.example.org", "https://hub.example.net"],
    sources_zdb=[ZDB],
    local_zdb=ZDB,
)
CONTAINER = ContainerState(name="users", running=True, status="running", health="healthy")


def _inputs(**changes: Any) -> dict[str, Any]:
    inputs = {
        "host": {"dockerHost": "unix:///var/run/docker.sock"},
        "root": "/srv",
        "job": "users",
        "spec": SPEC.model_dump(mode="json"),
        "agentVersion": AGENT,
        "containerName": "users",
        "ready": "started",
        "readyTimeoutSeconds": 10,
        "purge": False,
    }
    return {**inputs, **changes}


def _as_the_engine_gives(value: Any) -> Any:
    """Every number a float, as property bags have it."""
    return json.loads(json.dumps(value), parse_int=float)


def _wanted(ready: str, **changes: Any) -> JobInputs:
    return JobInputs.model_validate(_inputs(ready=ready, **changes))


def _look_at(views: Sequence[JobsView], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let what waits see one view after another, and the last one for ever."""
    left = itertools.chain(views, itertools.repeat(views[-1]))
    monkeypatch.setattr(InstalledJob, "look", lambda _self: next(left))


def _wait(
    wanted: JobInputs,
    *views: JobsView,
    limit_seconds: float = 5,
    restarted_at: datetime | None = None,
) -> str:
    with pytest.MonkeyPatch.context() as patched:
        _look_at(views, patched)
        limited = changed(wanted, ready_timeout_seconds=limit_seconds)
        return wait_until_ready(limited, restarted_at)


def _record(**changes: Any) -> StatusRecord:
    record = StatusRecord(
        job="users",
        spec_digest=contract.digest(SPEC),
        agent_version=AGENT,
        phase="idle",
        started_at=NOW - timedelta(hours=1),
        updated_at=NOW - timedelta(seconds=2),
        bootable_at=NOW - timedelta(minutes=50),
        first_pass_at=NOW - timedelta(minutes=40),
        done=Amount(items=12, bytes=1_234_567),
        total=Amount(items=12, bytes=1_234_567),
        lag=Lag(items=0, bytes=0, seconds=0),
        master=MasterIdentity(source=SPEC.source, identity="master-1", seen_at=NOW),
    )
    return record.model_copy(update=changes)


def _view(record: StatusRecord | None, container: ContainerState | None = CONTAINER) -> JobsView:
    nothing = JobFiles(None, False, None)
    users = JobFiles(SPEC, True, record)
    containers = {container.name: container} if container else {}
    return JobsView(NOW, {"users": users, "kernels": nothing, "flists": nothing}, containers)


def _outs(view: JobsView, **changes: Any) -> dict[str, Any]:
    outs = {**_inputs(), **_recorded(view), "specDrift": "", **changes}
    return {k: v for k, v in _as_the_engine_gives(outs).items() if v is not None}


def _recorded(view: JobsView) -> dict[str, Any]:
    return outputs(_wanted("started"), view, None).model_dump(by_alias=True, exclude_none=True)


HEALTHY = _outs(_view(_record()))


def test_an_unchanged_job_is_no_change() -> None:
    diff = PROVIDER.diff("id", HEALTHY, _as_the_engine_gives(_inputs()))
    assert (diff.changes, diff.replaces) == (False, [])


@pytest.mark.parametrize(
    "moved",
    [
        {"phase": "snapshot", "done": Amount(items=1, bytes=5), "lag": Lag(items=11)},
        {"phase": "paused", "reason": "no space left", "retries": 7},
        {"cursor": "abcd", "updated_at": NOW, "next_at": NOW + timedelta(minutes=5)},
        {"refused": NameList(count=1, names=["../x"]), "broken": NameList(count=2)},
        {"master": MasterIdentity(source=SPEC.source, identity="master-1", seen_at=NOW)},
    ],
)
def test_a_mirror_that_merely_moved_is_no_change(moved: dict[str, Any]) -> None:
    refreshed = _outs(_view(_record(**moved)))
    assert PROVIDER.diff("id", refreshed, _inputs()).changes is False


@pytest.mark.parametrize(
    "moved",
    [
        {"updated_at": NOW, "next_at": NOW + timedelta(minutes=5), "last_success_at": NOW},
        {"cursor": "abcd", "rate_items_per_second": 3.5, "eta_seconds": 7.0, "retries": 2},
        {"errors": [JobError(at=NOW, message="timed out")], "details": {"master_requests": 9}},
        {"sources": [SourceUse(service="hub", name="https://a.example", in_use=True, since=NOW)]},
    ],
)
def test_what_moves_by_itself_is_recorded_and_shown_in_no_diff(moved: dict[str, Any]) -> None:
    """The engine compares no output whose key begins with two underscores."""
    before = _recorded(_view(_record()))
    after = _recorded(_view(_record(**moved)))
    differing = {key for key in after if after[key] != before[key]}
    assert differing == {RECORD}
    assert RECORD.startswith("__")


def test_every_field_of_a_status_record_is_in_the_state() -> None:
    fields = {name.replace("_", "") for name in StatusRecord.model_fields}
    outs = _recorded(_view(_record()))[RECORD]
    assert {key.lower() for key in outs} == (fields - {"agentversion"}) | {
        "runningagent",
        "container",
    }


def _of_a_state_before(**changes: Any) -> dict[str, Any]:
    """Return the outputs of a job as they were stored while each fact was an output."""
    outs = {**_inputs(), **_recorded(_view(_record())), "specDrift": ""}
    outs |= {**outs.pop(RECORD), "readyState": "started: reached", **changes}
    return {k: v for k, v in _as_the_engine_gives(outs).items() if v is not None}


def test_a_state_of_the_form_before_is_judged_as_ever() -> None:
    assert PROVIDER.diff("id", _of_a_state_before(), _inputs()).changes is False
    longer = {**SPEC.model_dump(mode="json"), "retention_days": 7}
    diff = PROVIDER.diff("id", _of_a_state_before(), _inputs(spec=longer))
    assert (diff.changes, diff.replaces) == (ENGINE_COMPARES, [])
    for broken in (
        {"healthy": False, "reason": "it stalled", "phase": "stalled"},
        {"specDrift": "the spec on the host was changed"},
    ):
        # Such a state's inputs do not say it: left to the engine the repair would be lost.
        assert PROVIDER.diff("id", _of_a_state_before(**broken), _inputs()).changes is True


def test_a_refreshed_job_has_its_trouble_among_its_inputs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stopped = changed(CONTAINER, running=False, status="exited", exit_code=137)
    seen = [_view(_record(), stopped), _view(_record())]
    monkeypatch.setattr(provider, "view", lambda *_, **__: seen[0])
    read = PROVIDER.read("id", HEALTHY)
    words = ["its container is exited (exit code 137); pulumi up repairs it"]
    assert read.inputs == {**_as_the_engine_gives(_inputs()), "repair": words}
    assert read.outs is not None
    assert read.outs["repair"] == words
    assert PROVIDER.diff("id", read.outs, _inputs()).changes is ENGINE_COMPARES
    assert "repair" not in PROVIDER.check({}, read.inputs).inputs
    seen.pop(0)
    repaired = PROVIDER.read("id", read.outs)
    assert repaired.inputs == _as_the_engine_gives(_inputs())
    assert repaired.outs is not None
    assert PROVIDER.diff("id", repaired.outs, _inputs()).changes is False


@pytest.mark.parametrize(
    ("view", "words"),
    [
        (_view(_record(phase="failed", reason="the master went backwards")), "went backwards"),
        (_view(_record(updated_at=NOW - timedelta(seconds=200))), "stalled: its record is 200 s"),
        (_view(_record(), None), "its container is missing"),
        (
            _view(_record(), changed(CONTAINER, running=False, status="exited", exit_code=137)),
            r"exited \(exit code 137\)",
        ),
        (
            _view(_record(), changed(CONTAINER, running=False, status="exited", oom_killed=True)),
            "killed for memory",
        ),
        (_view(None), "has written no status record"),
        (_view(_record(), changed(CONTAINER, health="unhealthy")), "unhealthy"),
        (_view(_record(agent_version="older")), "agent older runs, 0123456789abcdef is wanted"),
    ],
)
def test_a_job_in_trouble_is_a_change_explained_in_words(
    view: JobsView, words: str, capfd: pytest.CaptureFixture[str]
) -> None:
    diff = PROVIDER.diff("id", _outs(view), _inputs())
    assert (diff.changes, diff.replaces) == (True, [])
    logged = capfd.readouterr().err
    assert re.search(words, logged), logged


def test_an_agent_that_hangs_before_its_first_record_is_restarted_not_taken_for_missing() -> None:
    hangs = _view(None, changed(CONTAINER, health="unhealthy"))
    wrong = trouble(hangs.files["users"], hangs.containers["users"], NOW)
    assert wrong is not None
    assert (wrong.phase, wrong.words) == ("failed", "it is unhealthy and has written no record")
    begins = _view(None, changed(CONTAINER, health="starting"))
    wrong = trouble(begins.files["users"], begins.containers["users"], NOW)
    assert wrong is not None
    assert wrong.phase == "missing"


def test_a_spec_edited_on_the_host_is_a_change() -> None:
    drifted = _outs(_view(_record()), specDrift="the spec on the host was changed")
    assert PROVIDER.diff("id", drifted, _inputs()).changes is True


@pytest.mark.parametrize(
    "change",
    [
        {"agentVersion": "newer"},
        {"containerName": "other"},
        {"host": {"dockerHost": "ssh://root@203.0.113.10"}},
        {"ready": "in-sync"},
        {"purge": True},
        {"spec": {**SPEC.model_dump(mode="json"), "retention_days": 7}},
        {"spec": {**SPEC.model_dump(mode="json"), "sources": UNKNOWN}},
        {"spec": {**SPEC.model_dump(mode="json"), "sources": [UNKNOWN]}},
        # The same master by another name, or in another order, is followed as it was.
        {
            "spec": {
                **SPEC.model_dump(mode="json"),
                "sources": ["https://new.example", *SPEC.sources],
            }
        },
        {"spec": {**SPEC.model_dump(mode="json"), "sources": SPEC.sources[:1]}},
    ],
)
def test_a_changed_input_is_an_update_in_place(change: dict[str, Any]) -> None:
    diff = PROVIDER.diff("id", HEALTHY, _inputs(**change))
    assert (diff.changes, diff.replaces) == (ENGINE_COMPARES, [])


def test_how_long_to_wait_is_no_change() -> None:
    assert PROVIDER.diff("id", HEALTHY, _inputs(readyTimeoutSeconds=99)).changes is False


def test_another_master_is_a_replacement_that_says_what_happens_to_the_data(
    capfd: pytest.CaptureFixture[str],
) -> None:
    spec = {**SPEC.model_dump(mode="json"), "sources": ["https://other.example.org"]}
    diff = PROVIDER.diff("id", HEALTHY, _inputs(spec=spec))
    assert (diff.changes, diff.replaces) == (ENGINE_COMPARES, ["spec"])
    assert diff.delete_before_replace is True
    logged = capfd.readouterr().err
    assert "https://hub.example.org becomes https://other.example.org" in logged
    assert "what was mirrored stays and is served" in logged


@pytest.mark.parametrize(
    ("in_the_state", "in_the_program"),
    [
        ({"spec": {**SPEC.model_dump(mode="json"), "a_key_of_then": 1}}, {}),
        ({"spec": {**SPEC.model_dump(mode="json"), "retention_days": -1}, "ready": "then"}, {}),
        ({}, {"agentVersion": UNKNOWN}),
        ({}, {"host": {"dockerHost": UNKNOWN}}),
    ],
)
@pytest.mark.parametrize("same", [True, False])
def test_another_master_is_a_replacement_beside_inputs_that_are_unknown_or_of_another_release(
    in_the_state: dict[str, Any], in_the_program: dict[str, Any], *, same: bool
) -> None:
    sources = SPEC.sources if same else ["https://other.example.org"]
    spec = {**SPEC.model_dump(mode="json"), "sources": sources}
    diff = PROVIDER.diff("id", {**HEALTHY, **in_the_state}, _inputs(spec=spec, **in_the_program))
    assert (diff.changes, diff.replaces) == (ENGINE_COMPARES, [] if same else ["spec"])


def test_another_0_db_is_a_replacement_whichever_release_named_the_one_before() -> None:
    one, two = ({"host": host, "port": 9900.0} for host in ("203.0.113.1", "203.0.113.2"))
    for before in ({"sources": [one]}, {"source": one}):
        olds = {**HEALTHY, "job": "flists", "spec": {"job": "flists", "a_key_of_then": 1} | before}
        spec = contract.FlistsSpec(stack="test", sources=[ZDB], local_zdb=ZDB).model_dump()
        news = _inputs(job="flists", spec=spec)
        assert PROVIDER.diff("id", olds, news).replaces == []
        other = _inputs(job="flists", spec={**spec, "sources": [two]})
        assert PROVIDER.diff("id", olds, other).replaces == ["spec"]


def test_the_spec_of_the_release_before_is_updated_in_place() -> None:
    old = SPEC.model_dump(mode="json")
    old |= {"source": old.pop("sources")[1], "source_zdb": old.pop("sources_zdb")[0]}
    diff = PROVIDER.diff("id", {**HEALTHY, "spec": old}, _inputs())
    assert (diff.changes, diff.replaces) == (ENGINE_COMPARES, [])
    single = {**old, "source": SPEC.source}
    one = {**SPEC.model_dump(mode="json"), "sources": [SPEC.source]}
    assert PROVIDER.diff("id", {**HEALTHY, "spec": single}, _inputs(spec=one)).changes is False


def test_a_spec_with_wrong_keys_is_refused_by_name() -> None:
    spec = {**SPEC.model_dump(mode="json"), "unheard": 1, "retention_days": -1}
    failures = PROVIDER.check({}, _inputs(spec=spec)).failures
    assert sorted(failure.property for failure in failures) == [
        "spec.users.retention_days",
        "spec.users.unheard",
    ]
    other = _inputs(job="kernels")
    assert [f.property for f in PROVIDER.check({}, other).failures] == ["spec.job"]
    assert PROVIDER.check({}, _inputs(spec={"source": UNKNOWN})).failures == []


def test_outputs_say_in_one_line_where_the_mirror_stands() -> None:
    assert summary("users", _record()) == "idle, 12 of 12 flists, 1.2 MB, in sync"
    behind = _record(
        phase="snapshot",
        reason="waiting for the master",
        done=Amount(items=3),
        lag=Lag(items=9),
        refused=NameList(count=2, names=["a"]),
    )
    assert summary("users", behind) == (
        "snapshot (waiting for the master), 3 of 12 flists, 9 flists behind, 2 refused"
    )
    names = [
        SourceUse(service="hub", name="https://a.example", reason="refused", since=NOW),
        SourceUse(service="hub", name="https://b.example", in_use=True, since=NOW),
    ]
    assert summary("users", _record(sources=names)).endswith(
        "in sync, hub https://a.example skipped"
    )
    assert summary("flists", _record(done=Amount(), lag=Lag())) == "idle, no chunks yet"


def test_the_summary_of_a_job_in_trouble_says_it_once() -> None:
    failed = _record(phase="failed", reason="the master went backwards")
    outs = _recorded(_view(failed))
    assert outs["summary"] == (
        "failed (the master went backwards), 12 of 12 flists, 1.2 MB, in sync"
    )
    stopped = changed(CONTAINER, running=False, status="exited")
    outs = _recorded(_view(failed, stopped))
    assert outs["summary"].startswith("its container is exited (exit code 0); before that: failed")
    outs = _recorded(_view(_record(), None))
    assert outs["summary"] == (
        "its container is missing; before that: idle, 12 of 12 flists, 1.2 MB, in sync"
    )


def test_outputs_have_no_more_digits_than_anybody_reads() -> None:
    record = _record(
        lag=Lag(items=0, bytes=0, seconds=0.0019204309996894153),
        rate_items_per_second=1234.56789,
        rate_bytes_per_second=1234.56789,
        eta_seconds=12.34567,
        details={"pass_seconds": 0.30000000000000004, "wanted": 3, "words": "none"},
    )
    outs = _recorded(_view(record))[RECORD]
    assert outs["lag"] == {"items": 0, "bytes": 0, "seconds": 0.002}
    rates = (outs["rateItemsPerSecond"], outs["rateBytesPerSecond"], outs["etaSeconds"])
    assert rates == (1234.568, 1234.568, 12.346)
    assert outs["details"] == {"pass_seconds": 0.3, "wanted": 3, "words": "none"}


def test_the_script_prints_what_is_parsed() -> None:
    spec = base64.b64encode(contract.canonical(SPEC)).decode()
    record = base64.b64encode(_record().model_dump_json().encode()).decode()
    container = (
        '{"name":"/users","running":true,"status":"running","exitCode":3,'
        '"oomKilled":false,"health":null}'
    )
    torn = base64.b64encode(b'{"version"').decode()
    printed = "\n".join([str(int(NOW.timestamp())), spec, record, "", "", torn, torn, container])
    view = job_view.parse(printed)
    assert view.now == NOW
    assert view.files["users"] == JobFiles(SPEC, True, _record())
    assert view.files["kernels"] == JobFiles(None, False, None)
    assert view.files["flists"] == JobFiles(None, True, None)
    assert view.containers["users"].exit_code == 3


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wait, "_POLL_SECONDS", 0.001)
    monkeypatch.setattr(wait, "_PROGRESS_SECONDS", 0.0)
    monkeypatch.setattr(wait, "_HOPELESS_SECONDS", 0.02)


STARTING = _record(phase="starting", bootable_at=None, first_pass_at=None, lag=Lag())
BOOTABLE = _record(phase="snapshot", first_pass_at=None, lag=Lag(items=5))
PASSED = _record(phase="snapshot", lag=Lag(items=5))


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("ready", "record"),
    [("started", STARTING), ("bootable", BOOTABLE), ("first-pass", PASSED), ("in-sync", _record())],
)
def test_each_level_is_waited_for(ready: str, record: StatusRecord) -> None:
    before = [_view(None), _view(_record(spec_digest="older")), _view(STARTING)]
    if ready == "started":
        before = before[:2]
    assert _wait(_wanted(ready), *before, _view(record)) == f"{ready}: reached"


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("ready", "record"),
    [("bootable", STARTING), ("first-pass", BOOTABLE), ("in-sync", PASSED)],
)
def test_running_out_of_time_is_recorded_and_logged_not_raised(
    ready: str, record: StatusRecord, capfd: pytest.CaptureFixture[str]
) -> None:
    state = _wait(_wanted(ready), _view(record), limit_seconds=0.05)
    assert state.startswith(f"{ready}: not reached within 0.05 s")
    assert "pulumi refresh records where it stands" in state
    assert "warning: users:" in capfd.readouterr().err


@pytest.mark.usefixtures("quick")
def test_a_stale_record_of_a_job_that_is_gone_is_not_ready() -> None:
    gone = _view(_record(), None)
    assert "its container is missing" in _wait(_wanted("in-sync"), gone, limit_seconds=600)
    wanted, at = _wanted("started"), NOW - timedelta(minutes=1)
    former, anew = _view(_record()), _view(_record(started_at=NOW))
    assert "not reached" in _wait(wanted, former, limit_seconds=0.02, restarted_at=at)
    assert _wait(wanted, former, anew, restarted_at=at) == "started: reached"


@pytest.mark.usefixtures("quick")
def test_the_lag_of_a_former_life_is_not_in_sync() -> None:
    """A restarted agent's record begins with what the one before it wrote."""
    before = _record(phase="starting")
    said = _wait(_wanted("in-sync"), _view(before), limit_seconds=0.05)
    assert said.startswith("in-sync: not reached")
    assert "in sync," not in said
    assert _wait(_wanted("in-sync"), _view(before), _view(_record())) == "in-sync: reached"
    assert "in sync" not in summary("users", before)


@pytest.mark.usefixtures("quick")
def test_a_job_that_fails_is_not_waited_for_to_the_end() -> None:
    failed = _view(_record(phase="failed", reason="the master went backwards"))
    state = _wait(_wanted("in-sync"), failed, limit_seconds=600)
    assert state == "in-sync: not reached, it failed: the master went backwards"


@pytest.mark.usefixtures("quick")
def test_a_paused_job_is_waited_for_only_to_start() -> None:
    spec = SPEC.model_copy(update={"paused": True})
    record = _record(spec_digest=contract.digest(spec), phase="paused", first_pass_at=None)
    state = _wait(changed(_wanted("in-sync"), spec=spec), _view(record))
    assert state == "in-sync: not waited for, the job is paused"


@pytest.mark.usefixtures("quick")
def test_progress_is_logged_while_waiting(capfd: pytest.CaptureFixture[str]) -> None:
    half = _view(_record(first_pass_at=None, done=Amount(items=6), lag=Lag(items=6)))
    _wait(_wanted("in-sync"), _view(STARTING), half, half, _view(_record()))
    assert "info: users: idle, 6 of 12 flists, 6 flists behind" in capfd.readouterr().err


@pytest.mark.usefixtures("quick")
def test_a_job_is_stopped_when_its_agent_says_so_or_its_container_is_gone(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    waiting = _view(_record(phase="starting", waiting_for="spec"))
    for views in ([_view(_record()), waiting], [_view(_record(), None)]):
        _look_at(views, monkeypatch)
        wait_until_stopped(_wanted("started"))
    assert "did not stop" not in capfd.readouterr().err
