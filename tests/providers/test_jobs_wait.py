"""`up` waits for a job, as far as `ready` says, and for its end."""

import itertools
from collections.abc import Sequence
from datetime import datetime, timedelta

import pytest

from sync.contract import spec as contract
from sync.contract.status import (
    Amount,
    Lag,
    StatusRecord,
)
from sync.providers.jobs import wait
from sync.providers.jobs.inputs import InstalledJob, JobInputs
from sync.providers.jobs.outputs import summary
from sync.providers.jobs.view import JobsView
from sync.providers.jobs.wait import wait_until_ready, wait_until_stopped
from tests.providers.conftest import changed
from tests.providers.job_views import NOW, SPEC, a_record, a_view, wanted_job


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


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wait, "_POLL_SECONDS", 0.001)
    monkeypatch.setattr(wait, "_PROGRESS_SECONDS", 0.0)
    monkeypatch.setattr(wait, "_HOPELESS_SECONDS", 0.02)


STARTING = a_record(phase="starting", bootable_at=None, first_pass_at=None, lag=Lag())
BOOTABLE = a_record(phase="snapshot", first_pass_at=None, lag=Lag(items=5))
PASSED = a_record(phase="snapshot", lag=Lag(items=5))


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("ready", "record"),
    [
        ("started", STARTING),
        ("bootable", BOOTABLE),
        ("first-pass", PASSED),
        ("in-sync", a_record()),
    ],
)
def test_each_level_is_waited_for(ready: str, record: StatusRecord) -> None:
    before = [a_view(None), a_view(a_record(spec_digest="older")), a_view(STARTING)]
    if ready == "started":
        before = before[:2]
    assert _wait(wanted_job(ready), *before, a_view(record)) == f"{ready}: reached"


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    ("ready", "record"),
    [("bootable", STARTING), ("first-pass", BOOTABLE), ("in-sync", PASSED)],
)
def test_running_out_of_time_is_recorded_and_logged_not_raised(
    ready: str, record: StatusRecord, capfd: pytest.CaptureFixture[str]
) -> None:
    state = _wait(wanted_job(ready), a_view(record), limit_seconds=0.05)
    assert state.startswith(f"{ready}: not reached within 0.05 s")
    assert "pulumi refresh records where it stands" in state
    assert "warning: users:" in capfd.readouterr().err


@pytest.mark.usefixtures("quick")
def test_a_stale_record_of_a_job_that_is_gone_is_not_ready() -> None:
    gone = a_view(a_record(), None)
    assert "its container is missing" in _wait(wanted_job("in-sync"), gone, limit_seconds=600)
    wanted, at = wanted_job("started"), NOW - timedelta(minutes=1)
    former, anew = a_view(a_record()), a_view(a_record(started_at=NOW))
    assert "not reached" in _wait(wanted, former, limit_seconds=0.02, restarted_at=at)
    assert _wait(wanted, former, anew, restarted_at=at) == "started: reached"


@pytest.mark.usefixtures("quick")
def test_the_lag_of_a_former_life_is_not_in_sync() -> None:
    """A restarted agent's record begins with what the one before it wrote."""
    before = a_record(phase="starting")
    said = _wait(wanted_job("in-sync"), a_view(before), limit_seconds=0.05)
    assert said.startswith("in-sync: not reached")
    assert "in sync," not in said
    assert _wait(wanted_job("in-sync"), a_view(before), a_view(a_record())) == "in-sync: reached"
    assert "in sync" not in summary("users", before)


@pytest.mark.usefixtures("quick")
def test_a_job_that_fails_is_not_waited_for_to_the_end() -> None:
    failed = a_view(a_record(phase="failed", reason="the master went backwards"))
    state = _wait(wanted_job("in-sync"), failed, limit_seconds=600)
    assert state == "in-sync: not reached, it failed: the master went backwards"


@pytest.mark.usefixtures("quick")
def test_a_paused_job_is_waited_for_only_to_start() -> None:
    spec = SPEC.model_copy(update={"paused": True})
    record = a_record(spec_digest=contract.digest(spec), phase="paused", first_pass_at=None)
    state = _wait(changed(wanted_job("in-sync"), spec=spec), a_view(record))
    assert state == "in-sync: not waited for, the job is paused"


@pytest.mark.usefixtures("quick")
def test_progress_is_logged_while_waiting(capfd: pytest.CaptureFixture[str]) -> None:
    half = a_view(a_record(first_pass_at=None, done=Amount(items=6), lag=Lag(items=6)))
    _wait(wanted_job("in-sync"), a_view(STARTING), half, half, a_view(a_record()))
    assert "info: users: idle, 6 of 12 flists, 6 flists behind" in capfd.readouterr().err


@pytest.mark.usefixtures("quick")
def test_a_job_is_stopped_when_its_agent_says_so_or_its_container_is_gone(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    waiting = a_view(a_record(phase="starting", waiting_for="spec"))
    for views in ([a_view(a_record()), waiting], [a_view(a_record(), None)]):
        _look_at(views, monkeypatch)
        wait_until_stopped(wanted_job("started"))
    assert "did not stop" not in capfd.readouterr().err
