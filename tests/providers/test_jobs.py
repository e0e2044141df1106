"""A job in the stack: what is a change and what is not, and in which words it is shown."""

import base64
import re
from datetime import timedelta
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
from sync.providers.jobs import provider
from sync.providers.jobs import view as job_view
from sync.providers.jobs.outputs import RECORD, summary
from sync.providers.jobs.trouble import trouble
from sync.providers.jobs.view import JobFiles, JobsView
from tests.providers.conftest import ENGINE_COMPARES, changed
from tests.providers.job_views import (
    CONTAINER,
    NOW,
    PROVIDER,
    SPEC,
    ZDB,
    a_record,
    a_view,
    as_the_engine_gives,
    given_inputs,
    outs_of,
    recorded_of,
)

HEALTHY = outs_of(a_view(a_record()))


def test_an_unchanged_job_is_no_change() -> None:
    diff = PROVIDER.diff("id", HEALTHY, as_the_engine_gives(given_inputs()))
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
    refreshed = outs_of(a_view(a_record(**moved)))
    assert PROVIDER.diff("id", refreshed, given_inputs()).changes is False


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
    before = recorded_of(a_view(a_record()))
    after = recorded_of(a_view(a_record(**moved)))
    differing = {key for key in after if after[key] != before[key]}
    assert differing == {RECORD}
    assert RECORD.startswith("__")


def test_every_field_of_a_status_record_is_in_the_state() -> None:
    fields = {name.replace("_", "") for name in StatusRecord.model_fields}
    outs = recorded_of(a_view(a_record()))[RECORD]
    assert {key.lower() for key in outs} == (fields - {"agentversion"}) | {
        "runningagent",
        "container",
    }


def _of_a_state_before(**changes: Any) -> dict[str, Any]:
    """Return the outputs of a job as they were stored while each fact was an output."""
    outs = {**given_inputs(), **recorded_of(a_view(a_record())), "specDrift": ""}
    outs |= {**outs.pop(RECORD), "readyState": "started: reached", **changes}
    return {k: v for k, v in as_the_engine_gives(outs).items() if v is not None}


def test_a_state_of_the_form_before_is_judged_as_ever() -> None:
    assert PROVIDER.diff("id", _of_a_state_before(), given_inputs()).changes is False
    longer = {**SPEC.model_dump(mode="json"), "retention_days": 7}
    diff = PROVIDER.diff("id", _of_a_state_before(), given_inputs(spec=longer))
    assert (diff.changes, diff.replaces) == (ENGINE_COMPARES, [])
    for broken in (
        {"healthy": False, "reason": "it stalled", "phase": "stalled"},
        {"specDrift": "the spec on the host was changed"},
    ):
        # Such a state's inputs do not say it: left to the engine the repair would be lost.
        assert PROVIDER.diff("id", _of_a_state_before(**broken), given_inputs()).changes is True


def test_a_refreshed_job_has_its_trouble_among_its_inputs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stopped = changed(CONTAINER, running=False, status="exited", exit_code=137)
    seen = [a_view(a_record(), stopped), a_view(a_record())]
    monkeypatch.setattr(provider, "view", lambda *_, **__: seen[0])
    read = PROVIDER.read("id", HEALTHY)
    words = ["its container is exited (exit code 137); pulumi up repairs it"]
    assert read.inputs == {**as_the_engine_gives(given_inputs()), "repair": words}
    assert read.outs is not None
    assert read.outs["repair"] == words
    assert PROVIDER.diff("id", read.outs, given_inputs()).changes is ENGINE_COMPARES
    assert "repair" not in PROVIDER.check({}, read.inputs).inputs
    seen.pop(0)
    repaired = PROVIDER.read("id", read.outs)
    assert repaired.inputs == as_the_engine_gives(given_inputs())
    assert repaired.outs is not None
    assert PROVIDER.diff("id", repaired.outs, given_inputs()).changes is False


@pytest.mark.parametrize(
    ("view", "words"),
    [
        (a_view(a_record(phase="failed", reason="the master went backwards")), "went backwards"),
        (a_view(a_record(updated_at=NOW - timedelta(seconds=200))), "stalled: its record is 200 s"),
        (a_view(a_record(), None), "its container is missing"),
        (
            a_view(a_record(), changed(CONTAINER, running=False, status="exited", exit_code=137)),
            r"exited \(exit code 137\)",
        ),
        (
            a_view(a_record(), changed(CONTAINER, running=False, status="exited", oom_killed=True)),
            "killed for memory",
        ),
        (a_view(None), "has written no status record"),
        (a_view(a_record(), changed(CONTAINER, health="unhealthy")), "unhealthy"),
        (a_view(a_record(agent_version="older")), "agent older runs, 0123456789abcdef is wanted"),
    ],
)
def test_a_job_in_trouble_is_a_change_explained_in_words(
    view: JobsView, words: str, capfd: pytest.CaptureFixture[str]
) -> None:
    diff = PROVIDER.diff("id", outs_of(view), given_inputs())
    assert (diff.changes, diff.replaces) == (True, [])
    logged = capfd.readouterr().err
    assert re.search(words, logged), logged


def test_an_agent_that_hangs_before_its_first_record_is_restarted_not_taken_for_missing() -> None:
    hangs = a_view(None, changed(CONTAINER, health="unhealthy"))
    wrong = trouble(hangs.files["users"], hangs.containers["users"], NOW)
    assert wrong is not None
    assert (wrong.phase, wrong.words) == ("failed", "it is unhealthy and has written no record")
    begins = a_view(None, changed(CONTAINER, health="starting"))
    wrong = trouble(begins.files["users"], begins.containers["users"], NOW)
    assert wrong is not None
    assert wrong.phase == "missing"


def test_a_spec_edited_on_the_host_is_a_change() -> None:
    drifted = outs_of(a_view(a_record()), specDrift="the spec on the host was changed")
    assert PROVIDER.diff("id", drifted, given_inputs()).changes is True


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
    diff = PROVIDER.diff("id", HEALTHY, given_inputs(**change))
    assert (diff.changes, diff.replaces) == (ENGINE_COMPARES, [])


def test_how_long_to_wait_is_no_change() -> None:
    assert PROVIDER.diff("id", HEALTHY, given_inputs(readyTimeoutSeconds=99)).changes is False


def test_another_master_is_a_replacement_that_says_what_happens_to_the_data(
    capfd: pytest.CaptureFixture[str],
) -> None:
    spec = {**SPEC.model_dump(mode="json"), "sources": ["https://other.example.org"]}
    diff = PROVIDER.diff("id", HEALTHY, given_inputs(spec=spec))
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
    diff = PROVIDER.diff(
        "id", {**HEALTHY, **in_the_state}, given_inputs(spec=spec, **in_the_program)
    )
    assert (diff.changes, diff.replaces) == (ENGINE_COMPARES, [] if same else ["spec"])


def test_another_0_db_is_a_replacement_whichever_release_named_the_one_before() -> None:
    one, two = ({"host": host, "port": 9900.0} for host in ("203.0.113.1", "203.0.113.2"))
    for before in ({"sources": [one]}, {"source": one}):
        olds = {**HEALTHY, "job": "flists", "spec": {"job": "flists", "a_key_of_then": 1} | before}
        spec = contract.FlistsSpec(stack="test", sources=[ZDB], local_zdb=ZDB).model_dump()
        news = given_inputs(job="flists", spec=spec)
        assert PROVIDER.diff("id", olds, news).replaces == []
        other = given_inputs(job="flists", spec={**spec, "sources": [two]})
        assert PROVIDER.diff("id", olds, other).replaces == ["spec"]


def test_the_spec_of_the_release_before_is_updated_in_place() -> None:
    old = SPEC.model_dump(mode="json")
    old |= {"source": old.pop("sources")[1], "source_zdb": old.pop("sources_zdb")[0]}
    diff = PROVIDER.diff("id", {**HEALTHY, "spec": old}, given_inputs())
    assert (diff.changes, diff.replaces) == (ENGINE_COMPARES, [])
    single = {**old, "source": SPEC.source}
    one = {**SPEC.model_dump(mode="json"), "sources": [SPEC.source]}
    assert PROVIDER.diff("id", {**HEALTHY, "spec": single}, given_inputs(spec=one)).changes is False


def test_a_spec_with_wrong_keys_is_refused_by_name() -> None:
    spec = {**SPEC.model_dump(mode="json"), "unheard": 1, "retention_days": -1}
    failures = PROVIDER.check({}, given_inputs(spec=spec)).failures
    assert sorted(failure.property for failure in failures) == [
        "spec.users.retention_days",
        "spec.users.unheard",
    ]
    other = given_inputs(job="kernels")
    assert [f.property for f in PROVIDER.check({}, other).failures] == ["spec.job"]
    assert PROVIDER.check({}, given_inputs(spec={"source": UNKNOWN})).failures == []


def test_outputs_say_in_one_line_where_the_mirror_stands() -> None:
    assert summary("users", a_record()) == "idle, 12 of 12 flists, 1.2 MB, in sync"
    behind = a_record(
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
    assert summary("users", a_record(sources=names)).endswith(
        "in sync, hub https://a.example skipped"
    )
    assert summary("flists", a_record(done=Amount(), lag=Lag())) == "idle, no chunks yet"


def test_the_summary_of_a_job_in_trouble_says_it_once() -> None:
    failed = a_record(phase="failed", reason="the master went backwards")
    outs = recorded_of(a_view(failed))
    assert outs["summary"] == (
        "failed (the master went backwards), 12 of 12 flists, 1.2 MB, in sync"
    )
    stopped = changed(CONTAINER, running=False, status="exited")
    outs = recorded_of(a_view(failed, stopped))
    assert outs["summary"].startswith("its container is exited (exit code 0); before that: failed")
    outs = recorded_of(a_view(a_record(), None))
    assert outs["summary"] == (
        "its container is missing; before that: idle, 12 of 12 flists, 1.2 MB, in sync"
    )


def test_outputs_have_no_more_digits_than_anybody_reads() -> None:
    record = a_record(
        lag=Lag(items=0, bytes=0, seconds=0.0019204309996894153),
        rate_items_per_second=1234.56789,
        rate_bytes_per_second=1234.56789,
        eta_seconds=12.34567,
        details={"pass_seconds": 0.30000000000000004, "wanted": 3, "words": "none"},
    )
    outs = recorded_of(a_view(record))[RECORD]
    assert outs["lag"] == {"items": 0, "bytes": 0, "seconds": 0.002}
    rates = (outs["rateItemsPerSecond"], outs["rateBytesPerSecond"], outs["etaSeconds"])
    assert rates == (1234.568, 1234.568, 12.346)
    assert outs["details"] == {"pass_seconds": 0.3, "wanted": 3, "words": "none"}


def test_the_script_prints_what_is_parsed() -> None:
    spec = base64.b64encode(contract.canonical(SPEC)).decode()
    record = base64.b64encode(a_record().model_dump_json().encode()).decode()
    container = (
        '{"name":"/users","running":true,"status":"running","exitCode":3,'
        '"oomKilled":false,"health":null}'
    )
    torn = base64.b64encode(b'{"version"').decode()
    printed = "\n".join([str(int(NOW.timestamp())), spec, record, "", "", torn, torn, container])
    view = job_view.parse(printed)
    assert view.now == NOW
    assert view.files["users"] == JobFiles(SPEC, True, a_record())
    assert view.files["kernels"] == JobFiles(None, False, None)
    assert view.files["flists"] == JobFiles(None, True, None)
    assert view.containers["users"].exit_code == 3
